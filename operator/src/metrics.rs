//! Metrics: the fleet and this operator, as Prometheus reads them.
//!
//! The figures of the fleet are those of the statuses, and are shown by the operator that leads: what two replicas both
//! said would be added up twice.

pub mod fleet;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::switch::Switch;

/// What every name begins with.
const PREFIX: &str = "tcpclose";
/// 1 ms to 4 s.
const BUCKETS: [f64; 7] = [0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096];

/// What text in this format is called in `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was written to the API server.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A node's order.
    Order,
    /// A tuning's status.
    Status,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Status => "status",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It was taken.
    Taken,
    /// The object had moved on or gone, which leads to a new one.
    Outdated,
    /// It was refused, or there was no answer.
    Failed,
}

impl Fate {
    fn label(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Outdated => "outdated",
            Self::Failed => "failed",
        }
    }
}

type Turns = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// Everything that is shown. Clones share it.
#[derive(Clone)]
pub struct Metrics {
    writes: Family<[(&'static str, &'static str); 2], Counter>,
    turns: Turns,
    guards: Family<[(&'static str, &'static str); 1], Gauge>,
    leader: Gauge,
    switch: Family<[(&'static str, &'static str); 1], Gauge>,
    own: Arc<Registry>,
    fleet: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let (writes, guards, leader) = (Family::default(), Family::default(), Gauge::default());
        let switch = Family::default();
        let turns = Turns::new_with_constructor(|| Histogram::new(BUCKETS));
        let mut own = Registry::with_prefix(PREFIX);
        own.register(
            "operator_leader",
            "1 where this operator leads and shows the fleet, 0 where it stands by",
            leader.clone(),
        );
        own.register(
            "operator_switch",
            "1 for what ConfigMap tcpclose-control says, 0 for the rest",
            switch.clone(),
        );
        own.register(
            "operator_admission_policy",
            "1 where the policy is in place and denies, 0 where it does not exist or does not",
            guards.clone(),
        );
        own.register(
            "operator_api_writes",
            "Writes to the API server, by what became of them",
            writes.clone(),
        );
        own.register_with_unit(
            "operator_turn_duration",
            "How long a turn of a loop computed, without its writes",
            Unit::Seconds,
            turns.clone(),
        );
        Self { writes, turns, guards, leader, switch, own: Arc::new(own), fleet: Arc::default() }
    }
}

impl Metrics {
    /// Counts a write.
    pub fn note_write(&self, kind: Kind, fate: Fate) {
        self.writes.get_or_create(&[("kind", kind.label()), ("result", fate.label())]).inc();
    }

    /// Shows what the switch says.
    pub fn note_switch(&self, switch: &Switch) {
        for label in Switch::LABELS {
            self.switch.get_or_create(&[("state", label)]).set((label == switch.label()).into());
        }
    }

    /// Shows whether a policy is in place; nothing where that is not known.
    pub fn show_guard(&self, policy: &'static str, in_place: Option<bool>) {
        let labels = [("policy", policy)];
        match in_place {
            Some(in_place) => drop(self.guards.get_or_create(&labels).set(in_place.into())),
            None => drop(self.guards.remove(&labels)),
        }
    }

    /// Notes how long a turn of the loop that writes this kind computed.
    pub fn note_turn(&self, kind: Kind, took: Duration) {
        self.turns.get_or_create(&[("loop", kind.label())]).observe(took.as_secs_f64());
    }

    /// Shows this instead of what was shown of the fleet.
    pub fn show_fleet(&self, fleet: Registry) {
        *self.fleet.lock().unwrap_or_else(PoisonError::into_inner) = fleet;
    }

    /// All of it for one that leads; only this operator's own for a standby.
    pub fn text(&self, leads: bool) -> Result<String, fmt::Error> {
        self.leader.set(leads.into());
        let mut text = String::new();
        encode_registry(&mut text, &self.own)?;
        if leads {
            encode_registry(&mut text, &self.fleet.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
