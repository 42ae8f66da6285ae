//! Report: write statuses, and tell people of transitions. [`next_write`] decides; [`Reporter`] talks to the API server.
//!
//! Sockets count up and down all the time, and every write wakes everybody who watches tunings. So counts of sockets alone are
//! written seldom, and ride along, a little more often, when something else is written. Nodes that settle one after the other
//! are counted a little more often too. A condition, the phase of a rollout and an overflow that begins do not wait.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crds::TcpCloseTuningStatus;
use crds::condition::Condition;
use crds::tuning::{RefusalSummary, RolloutStatus, WorstNode};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use crate::event::{self, Events};
use crate::lead::Leadership;
use crate::metrics::{Fate, Kind, Metrics};
use crate::snapshot::{Snapshot, Tuning, TuningObject};
use crate::summarise::{self, SOCKETS};
use crds::OPERATOR_MANAGER;

/// Counts of sockets alone are not written more often than this.
const SOCKETS_ALONE: Duration = Duration::from_secs(30);
/// Those that ride along, and counts of nodes, do not change more often than this.
const COUNTS: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// A status that others are faster than every time waits for the next turn, which their writes bring about.
const ATTEMPTS: usize = 5;

/// How long ago what was written. `None`: not by this operator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ages {
    /// Anything.
    pub any: Option<Duration>,
    /// Other counts of sockets.
    pub sockets: Option<Duration>,
}

/// What to write, given what is stored and how long ago it was written; `None` where nothing is worth a write.
pub fn next_write(
    stored: Option<&TcpCloseTuningStatus>,
    fresh: TcpCloseTuningStatus,
    ages: Ages,
) -> Option<TcpCloseTuningStatus> {
    let is_over = |age: Option<Duration>, min| age.is_none_or(|age| age >= min);
    let Some(stored) = stored else { return Some(fresh) };
    if *stored == fresh {
        return None;
    }
    // It cannot begin anew before its end has been written.
    if overflow_begins(stored, &fresh) {
        return Some(fresh);
    }
    if outline(stored) != outline(&fresh) {
        let riding = is_over(ages.sockets, COUNTS);
        return Some(if riding { fresh } else { with_sockets_of(fresh, stored) });
    }
    if without_sockets(stored) != without_sockets(&fresh) {
        return is_over(ages.any, COUNTS).then_some(fresh);
    }
    is_over(ages.sockets, SOCKETS_ALONE).then_some(fresh)
}

/// Whether connections skip TIME_WAIT now that did not when the status was stored.
fn overflow_begins(stored: &TcpCloseTuningStatus, fresh: &TcpCloseTuningStatus) -> bool {
    let overflows = |status: &TcpCloseTuningStatus| status.sockets.as_ref()?.rates.as_ref()?.overflows;
    overflows(stored).is_none_or(|rate| rate == 0) && overflows(fresh).is_some_and(|rate| rate > 0)
}

/// The part of a status that is written as soon as it differs: no counts, and no words that repeat them.
fn outline(status: &TcpCloseTuningStatus) -> TcpCloseTuningStatus {
    let silent = |condition: &Condition| Condition { message: String::new(), ..condition.clone() };
    let refusals = status
        .refusals
        .iter()
        .map(|refusal| RefusalSummary { rule: refusal.rule.clone(), ..RefusalSummary::default() });
    let rollout = status.rollout.as_ref().map(|rollout| RolloutStatus {
        progressed_at: None,
        gate: None,
        ordered: 0,
        settled: 0,
        ..rollout.clone()
    });
    TcpCloseTuningStatus {
        observed_generation: status.observed_generation,
        conditions: status.conditions.iter().map(silent).collect(),
        refusals: refusals.collect(),
        rollout,
        ..TcpCloseTuningStatus::default()
    }
}

fn without_sockets(status: &TcpCloseTuningStatus) -> TcpCloseTuningStatus {
    let worst = status.worst.iter().filter(|worst| worst.reason != SOCKETS).cloned().collect();
    TcpCloseTuningStatus { sockets: None, worst, ..status.clone() }
}

fn with_sockets_of(fresh: TcpCloseTuningStatus, stored: &TcpCloseTuningStatus) -> TcpCloseTuningStatus {
    let mut status = without_sockets(&fresh);
    let busy = stored.worst.iter().filter(|worst| worst.reason == SOCKETS);
    // A node that is in trouble by now is listed for that.
    let is_listed = |list: &[WorstNode], name: &str| list.iter().any(|worst| worst.name == name);
    for worst in busy {
        if status.worst.len() < fresh.worst.len() && !is_listed(&status.worst, &worst.name) {
            status.worst.push(worst.clone());
        }
    }
    // Counts that nobody knows any longer are not kept.
    status.sockets = fresh.sockets.and(stored.sockets.clone());
    summarise::fit(status)
}

/// The status of a tuning. What it does not say is removed.
fn whole(tuning: &Tuning, version: &str, status: &TcpCloseTuningStatus) -> Value {
    json!({
        "apiVersion": TuningObject::api_version(&()),
        "kind": TuningObject::kind(&()),
        "metadata": metadata(tuning, version),
        "status": status,
    })
}

/// The status of a tuning that cannot be decoded: how far its rollout is cannot be read either, and stays.
fn without_rollout(tuning: &Tuning, version: &str, status: &TcpCloseTuningStatus) -> Value {
    let mut fields = json!(status);
    for field in ["nodes", "sockets", "worst", "refusals"] {
        // In a merge patch null removes.
        fields[field] = Value::Null;
    }
    json!({ "metadata": metadata(tuning, version), "status": fields })
}

fn metadata(tuning: &Tuning, version: &str) -> Value {
    // The uid, so that a tuning made anew does not get the answer to the old one.
    json!({ "name": tuning.name, "uid": tuning.uid, "resourceVersion": version })
}

/// Whether a status that was computed from `before` is still about what there is: somebody may have written to the tuning, but
/// not to its status, which holds how far its rollout is.
fn is_current(now: &Tuning, tuning: &Tuning, before: Option<&TcpCloseTuningStatus>) -> bool {
    // As it is stored, a time has no fractions.
    let says_the_same = || json!(now.status) == json!(before);
    let same = match (&tuning.spec, &now.spec) {
        (Ok(_), Ok(_)) => says_the_same(),
        // Nothing is known of its status, and nothing is said of its rollout.
        (Err(_), Err(_)) => true,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    };
    now.uid == tuning.uid && same
}

/// A status that the API server did not take.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("write the status of TcpCloseTuning {1}")]
    Write(#[source] kube::Error, String),
    #[error("read TcpCloseTuning {1} again, to write its status")]
    Read(#[source] kube::Error, String),
    #[error("write the status of TcpCloseTuning {tuning}: no answer within {} s", TIMEOUT.as_secs())]
    Timeout { tuning: String },
}

/// Writes statuses, and remembers what it wrote.
pub struct Reporter {
    client: Client,
    events: Events,
    metrics: Metrics,
    /// By the tuning's uid.
    written: HashMap<String, Written>,
}

/// The last status that was written for a tuning.
struct Written {
    /// The version of the object that the cache showed then. As long as it does, the cache lags.
    over: String,
    status: TcpCloseTuningStatus,
    at: Instant,
    sockets_at: Option<Instant>,
}

impl Reporter {
    /// One that has written nothing.
    pub fn new(client: Client, events: Events, metrics: Metrics) -> Self {
        Self { client, events, metrics, written: HashMap::new() }
    }

    /// Forgets tunings that are gone.
    pub fn forget(&mut self, snapshot: &Snapshot) {
        self.written.retain(|uid, _| snapshot.tuning(uid).is_some());
    }

    /// What is stored: what the cache shows, or what was written since.
    pub fn stored<'a>(&'a self, tuning: &'a Tuning) -> Option<&'a TcpCloseTuningStatus> {
        let cached = tuning.status.as_ref();
        match self.written.get(&tuning.uid) {
            // What cannot be decoded does not show its status either.
            Some(written) if written.over == tuning.resource_version || tuning.spec.is_err() => {
                Some(&written.status)
            }
            Some(_) | None => cached,
        }
    }

    /// Writes a status where that is worth it, and tells of the transition.
    pub async fn report(&mut self, tuning: &Tuning, fresh: TcpCloseTuningStatus, leadership: &Leadership) {
        let now = Instant::now();
        let before = self.stored(tuning).cloned();
        let written = self.written.get(&tuning.uid);
        let sockets_at = written.and_then(|written| written.sockets_at);
        let age = |at| now.saturating_duration_since(at);
        let ages = Ages { any: written.map(|written| age(written.at)), sockets: sockets_at.map(age) };
        let Some(status) = next_write(before.as_ref(), fresh, ages) else { return };
        let Some(taken) = leadership.fence(self.write(tuning, before.as_ref(), &status)).await else {
            return;
        };
        let fate = match taken {
            Ok(true) => Fate::Taken,
            Ok(false) => Fate::Outdated,
            Err(error) => {
                tracing::warn!("{}", crate::chain(&error));
                Fate::Failed
            }
        };
        self.metrics.note_write(Kind::Status, fate);
        let Fate::Taken = fate else { return };
        for transition in event::transitions(before.as_ref(), &status) {
            self.events.tell_of_tuning(tuning, transition);
        }
        let moved = before.as_ref().is_none_or(|before| before.sockets != status.sockets);
        let sockets_at = if moved { Some(now) } else { sockets_at };
        let written = Written { over: tuning.resource_version.clone(), status, at: now, sockets_at };
        self.written.insert(tuning.uid.clone(), written);
    }

    /// Whether it was taken; not, where the tuning has gone, been made anew, or got another status.
    ///
    /// It names the version that it is about, so that one that was long on its way does not land on what a successor has
    /// written since. Where others were faster it goes out again over what they wrote: their writes must not starve it.
    async fn write(
        &self,
        tuning: &Tuning,
        before: Option<&TcpCloseTuningStatus>,
        status: &TcpCloseTuningStatus,
    ) -> Result<bool, Error> {
        let mut version = tuning.resource_version.clone();
        for _ in 0..ATTEMPTS {
            match self.apply(tuning, &version, status).await? {
                Answer::Taken => return Ok(true),
                Answer::Gone => return Ok(false),
                Answer::Conflict => {}
            }
            match self.read(tuning).await?.filter(|now| is_current(now, tuning, before)) {
                Some(now) => version = now.resource_version,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    async fn apply(
        &self,
        tuning: &Tuning,
        version: &str,
        status: &TcpCloseTuningStatus,
    ) -> Result<Answer, Error> {
        let params = PatchParams::apply(OPERATOR_MANAGER);
        let (params, patch) = match &tuning.spec {
            Ok(_) => (params.force(), Patch::Apply(whole(tuning, version, status))),
            Err(_) => (params, Patch::Merge(without_rollout(tuning, version, status))),
        };
        let api = self.api();
        match in_time(tuning, api.patch_status(&tuning.name, &params, &patch)).await? {
            Ok(_) => Ok(Answer::Taken),
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(Answer::Gone),
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(Answer::Conflict),
            Err(error) => Err(Error::Write(error, tuning.name.clone())),
        }
    }

    /// The tuning of this name as it is now.
    async fn read(&self, tuning: &Tuning) -> Result<Option<Tuning>, Error> {
        let read = in_time(tuning, self.api().get_opt(&tuning.name)).await?;
        let read = read.map_err(|error| Error::Read(error, tuning.name.clone()))?;
        Ok(read.as_ref().map(Tuning::from))
    }

    fn api(&self) -> Api<TuningObject> {
        Api::all(self.client.clone())
    }
}

async fn in_time<T>(tuning: &Tuning, request: impl Future<Output = T>) -> Result<T, Error> {
    let answer = tokio::time::timeout(TIMEOUT, request).await;
    answer.map_err(|_| Error::Timeout { tuning: tuning.name.clone() })
}

/// What the API server says to a status.
enum Answer {
    Taken,
    /// The tuning is not there.
    Gone,
    /// It is another one now, or at another version.
    Conflict,
}

#[cfg(test)]
mod tests;
