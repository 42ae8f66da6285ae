//! What only time tells: how long a node has been silent, which key has drifted since the last report, who has been
//! pending for how long. Measured on this process's own clock, never on an agent's; gone after a restart, which at worst makes
//! silence look shorter than it is: that a node was lost is stored in the status of a tuning, and holds until it reports.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crds::node::SysctlStatus;
use crds::{TcpCloseNode, TcpCloseNodeStatus};
use jiff::Timestamp;
use tcp_close::Sysctl;

use crate::limit::{HeldBack, Why};
use crate::resolve::is_acknowledged;
use crate::snapshot::{Node, Snapshot};
use crate::summarise;

/// What was heard of nodes, and when.
#[derive(Clone, Debug, Default)]
pub struct History {
    nodes: HashMap<String, Heard>,
    /// By the tuning's uid, then by node.
    pending: HashMap<String, HashMap<String, Instant>>,
    held: HeldBack,
}

/// For how long nothing has been heard of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    /// How long its report has not changed.
    pub of_reports: Duration,
    /// How long it has been Ready without a report; zero where it is not Ready.
    pub while_ready: Duration,
    /// Whether it is stored that it was lost, and it has not reported in this operator's life.
    pub since_before: bool,
    /// How often its agent last said that it would report; zero where nothing is known of that.
    pub interval: Duration,
}

/// When an agent says that it reported, and on which generation of its order.
type Told = (Option<Timestamp>, i64);

#[derive(Clone, Debug)]
struct Heard {
    node_uid: String,
    /// Since when the Node is Ready; `None` where it is not.
    ready_since: Option<Instant>,
    /// What tells one report from the next.
    report: Option<Told>,
    report_changed: Instant,
    /// Whether it is stored that it was lost, and it has not reported since this operator began to listen.
    lost: bool,
    /// How often it reports, by the last order that its agent has acknowledged.
    interval: Duration,
    /// What each key's row told of another program last. A key that is not ordered has no row, and its agent has not forgotten:
    /// what it says when the key is ordered again is no news.
    drifts: BTreeMap<Sysctl, Drifts>,
    drifting: BTreeSet<Sysctl>,
}

/// How often another program has changed a key since its agent started, and when it did so first. An agent that was started
/// anew counts from 1 again, with another beginning; one of 0.1.0 does not say when that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Drifts {
    count: u32,
    since: Option<Timestamp>,
}

impl History {
    /// Notes what every node has reported by now.
    pub fn note_reports(&mut self, snapshot: &Snapshot, now: Instant) {
        self.nodes
            .retain(|name, heard| snapshot.nodes.get(name).is_some_and(|node| node.uid() == heard.node_uid));
        let lost = lost(snapshot);
        for (name, node, order) in snapshot.nodes_with_orders() {
            let status = order.and_then(|order| order.status.as_ref());
            let first = || Heard::first(node, status, lost.contains(name.as_str()), now);
            let heard = match self.nodes.get_mut(name) {
                Some(heard) => heard,
                None => self.nodes.entry(name.clone()).or_insert_with(first),
            };
            heard.note(node, status, now);
            heard.note_interval(order);
        }
        self.pending.retain(|uid, _| snapshot.tuning(uid).is_some());
    }

    /// Nobody has been silent for as long as nothing could be heard: while their watch was broken, agents looked silent that
    /// were not.
    pub fn forgive(&mut self, deaf: Duration, now: Instant) {
        let later = |at: Instant| (at + deaf).min(now);
        for heard in self.nodes.values_mut() {
            heard.report_changed = later(heard.report_changed);
            heard.ready_since = heard.ready_since.map(later);
        }
    }

    /// For how long nothing has been heard of a node.
    pub fn silence(&self, node: &str, now: Instant) -> Silence {
        let Some(heard) = self.nodes.get(node) else { return Silence::default() };
        let since = |at| now.saturating_duration_since(at);
        let while_ready = heard.ready_since.map(|ready| since(ready.max(heard.report_changed)));
        Silence {
            of_reports: since(heard.report_changed),
            while_ready: while_ready.unwrap_or(Duration::ZERO),
            since_before: heard.lost,
            interval: heard.interval,
        }
    }

    /// Notes which orders are held back.
    pub fn note_held_back(&mut self, held: HeldBack) {
        self.held = held;
    }

    /// Why a node's order is held back; `None` where it is not.
    pub fn held_back(&self, node: &str) -> Option<&Why> {
        self.held.why(node)
    }

    /// Keys that another program changed between the last two reports.
    pub fn has_drifted(&self, node: &str, key: &str) -> bool {
        let drifting = |key| self.nodes.get(node).is_some_and(|heard| heard.drifting.contains(&key));
        Sysctl::from_name(key).is_some_and(drifting)
    }

    /// Whether it has been noted before which nodes are pending for this tuning.
    pub fn knows(&self, tuning: &str) -> bool {
        self.pending.contains_key(tuning)
    }

    /// Notes which nodes are pending for this tuning, and returns how many have been for this long.
    pub fn note_pending<'a>(
        &mut self,
        tuning: &str,
        nodes: impl Iterator<Item = &'a str>,
        now: Instant,
        long: Duration,
    ) -> usize {
        let before = self.pending.remove(tuning).unwrap_or_default();
        let since = |node: &str| before.get(node).copied().unwrap_or(now);
        let pending: HashMap<_, _> = nodes.map(|node| (node.to_string(), since(node))).collect();
        let long = pending.values().filter(|since| now.saturating_duration_since(**since) >= long).count();
        self.pending.insert(tuning.into(), pending);
        long
    }
}

impl Heard {
    fn first(node: &Node, status: Option<&TcpCloseNodeStatus>, lost: bool, now: Instant) -> Self {
        Self {
            node_uid: node.uid().into(),
            ready_since: None,
            report: status.map(told),
            report_changed: now,
            lost,
            interval: Duration::ZERO,
            drifts: status.map(drifts).unwrap_or_default(),
            drifting: BTreeSet::new(),
        }
    }

    fn note(&mut self, node: &Node, status: Option<&TcpCloseNodeStatus>, now: Instant) {
        self.ready_since = if node.is_ready() { self.ready_since.or(Some(now)) } else { None };
        let report = status.map(told);
        if report == self.report {
            return;
        }
        self.report = report;
        self.report_changed = now;
        self.lost = false;
        let drifts = status.map(drifts).unwrap_or_default();
        let news = drifts.iter().filter(|(key, drifts)| self.drifts.get(*key) != Some(*drifts));
        self.drifting = news.map(|(key, _)| *key).collect();
        self.drifts.extend(drifts);
    }

    fn note_interval(&mut self, order: Option<&TcpCloseNode>) {
        if let Some(order) = order.filter(|order| is_acknowledged(order)) {
            self.interval = interval(order);
        }
    }
}

/// How often an agent is to report.
pub fn interval(order: &TcpCloseNode) -> Duration {
    Duration::from_secs(order.spec.report_interval_seconds.into())
}

fn told(status: &TcpCloseNodeStatus) -> Told {
    (status.reported_at.as_ref().map(|time| time.0), status.observed_generation)
}

/// The nodes that are stored as lost in a rollout. An operator that has just begun to listen does not know for how long they
/// have been silent, and must not take them for nodes that have just been heard.
fn lost(snapshot: &Snapshot) -> BTreeSet<&str> {
    let stored = snapshot.tunings.iter().filter_map(|tuning| tuning.status.as_ref());
    let worst = stored.flat_map(|status| &status.worst);
    worst.filter(|worst| worst.reason == summarise::LOST).map(|worst| worst.name.as_str()).collect()
}

/// What is reported of keys that another program has changed.
fn drifts(status: &TcpCloseNodeStatus) -> BTreeMap<Sysctl, Drifts> {
    let of_row = |row: &SysctlStatus| {
        let count = row.drifts.filter(|count| *count > 0)?;
        Some((
            Sysctl::from_name(&row.name)?,
            Drifts { count, since: row.drifts_since.as_ref().map(|time| time.0) },
        ))
    };
    status.sysctls.iter().filter_map(of_row).collect()
}

#[cfg(test)]
mod tests;
