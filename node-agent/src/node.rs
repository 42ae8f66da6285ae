//! One turn on this node: observe, judge, plan, apply, read back.
//!
//! Everything here is synchronous and takes microseconds, but for the journal's fsync. A turn that finds all in order
//! writes nothing, neither to the kernel nor to the journal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crds::node::TuningReference;
use crds::state::State;
use tcp_close::Sysctl;
use tcp_close::kernel::{Nat, NodeFacts};
use tcp_close::order::{Action, Entries, Reading, Readings, Record, Records};
use tcp_close::plan::{Cause, Outcome, Plan, Write, plan};
use tcp_close::rule::Refusal;

use crate::apply::{Failure, apply};
use crate::journal::Journal;
use crate::life::life;
use crate::nat;
use crate::order::{Order, hypothetical};
use crate::procfs::Procfs;

/// A failed transaction is tried again after this long, and then after twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What was found out about one sysctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub name: String,
    /// How far its order is.
    pub state: State,
    /// What the kernel held when it was last read.
    pub live: Option<i64>,
    /// What was ordered.
    pub desired: Option<i64>,
    /// What the kernel held before the first write.
    pub baseline: Option<i64>,
    /// The tuning that ordered it.
    pub tuning: String,
    /// The rule that forbids it.
    pub rule: Option<&'static str>,
    /// What a person should know.
    pub message: Option<String>,
    /// How often another program changed it since the agent started.
    pub drifts: u32,
    /// Whether this turn wrote it.
    pub written: bool,
}

/// What one turn found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Every sysctl that has an entry.
    pub findings: Vec<Finding>,
    /// What tunings that only observe would do.
    pub observed: Vec<(TuningReference, Vec<Finding>)>,
    /// The life of the namespace, where it is known.
    pub life: Option<String>,
}

/// This node, and what is remembered of it between turns.
pub struct Node {
    procfs: Procfs,
    state_dir: PathBuf,
    journal: Option<Journal>,
    /// Baselines that a status of this life holds, for a journal that is lost or cannot be read.
    reported: BTreeMap<Sysctl, Record>,
    drifts: BTreeMap<Sysctl, (u32, i64)>,
    failures: BTreeMap<Sysctl, Retry>,
}

struct Retry {
    failure: Failure,
    delay: Duration,
    at: Instant,
}

impl Node {
    /// The node whose kernel files are in `procfs`, and whose journal is in `state_dir`.
    pub fn new(procfs: Procfs, state_dir: PathBuf) -> Self {
        Self {
            procfs,
            state_dir,
            journal: None,
            reported: BTreeMap::new(),
            drifts: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Where the kernel's files are.
    pub fn procfs(&self) -> &Procfs {
        &self.procfs
    }

    /// Opens the journal, or says in words why nothing can be written. It is tried again in each turn, so that a disk
    /// that is repaired or an agent that ends is enough.
    fn journal(&mut self) -> Result<&mut Journal, String> {
        if self.journal.is_none() {
            let life = life(&self.procfs).map_err(|error| error.to_string())?;
            let mut journal = Journal::open(&self.state_dir, &life).map_err(|error| error.to_string())?;
            rebuild(&mut journal, &self.reported)?;
            self.journal = Some(journal);
        }
        self.journal.as_mut().ok_or_else(String::new)
    }

    /// Takes note of the baselines of a status, if it is of this life. They count where the journal is lost in the same
    /// life, now or once a damaged one has been moved away, and are reported until then.
    pub fn adopt(&mut self, status_life: &str, baselines: &BTreeMap<Sysctl, Record>) -> Result<(), String> {
        if life(&self.procfs).is_ok_and(|life| life == status_life) {
            self.reported.clone_from(baselines);
        }
        self.journal()?;
        self.journal.as_mut().map_or(Ok(()), |journal| rebuild(journal, &self.reported))
    }

    /// A new order gets its first try at once.
    pub fn forget_failures(&mut self) {
        self.failures.clear();
    }

    /// Brings the kernel to what is ordered, as far as rules and the node allow. Removals are carried out only where the
    /// caller has just read the order again.
    pub fn turn(&mut self, order: &Order, removals_confirmed: bool, now: Instant) -> Turn {
        let life = life(&self.procfs).ok();
        let entries = if removals_confirmed { order.entries.clone() } else { order.without_removals() };
        let findings = match self.accept(order) {
            Ok(()) => self.carry_out(&entries, order, now),
            Err(why) => self.only_observe(&entries, &why),
        };
        let waiting = order.entries.iter().filter(|(sysctl, _)| !entries.contains_key(sysctl));
        let mut findings: Vec<Finding> = findings
            .into_iter()
            .chain(waiting.map(|(&sysctl, entry)| {
                let message = "waits until the order has been read again from the API server";
                self.finding(sysctl, State::Restoring, &entry.tuning, Some(message.into()))
            }))
            .collect();
        findings.extend(order.set_aside.iter().map(|aside| Finding {
            name: aside.name.clone(),
            message: Some(aside.message.clone()),
            ..Finding::new(aside.state, &aside.tuning)
        }));
        Turn { findings, observed: self.would(order), life }
    }

    fn accept(&mut self, order: &Order) -> Result<(), String> {
        let journal = self.journal()?;
        if !journal.accepts(&order.mark) {
            return Err("this order is older than one that was carried out already".into());
        }
        journal.note_order(&order.mark);
        Ok(())
    }

    fn carry_out(&mut self, entries: &Entries, order: &Order, now: Instant) -> Vec<Finding> {
        let plan = self.plan(entries);
        for transaction in plan.transactions(entries) {
            self.try_transaction(&transaction, entries, order, now);
        }
        self.tidy_journal(&plan, &order.entries);
        plan.outcomes
            .iter()
            .map(|(&sysctl, outcome)| self.found(sysctl, outcome, entries))
            .map(|finding| with_desired(finding, entries))
            .collect()
    }

    fn plan(&self, entries: &Entries) -> Plan {
        let live = self.read(entries);
        let facts = self.facts(entries, &live);
        let none = Records::new();
        let records = self.journal.as_ref().map_or(&none, Journal::records);
        plan(entries, &live, records, &facts)
    }

    fn read(&self, entries: &Entries) -> Readings {
        entries.keys().map(|&sysctl| (sysctl, self.procfs.read_sysctl(sysctl))).collect()
    }

    /// Gathered anew in each turn: what was true at the last one says nothing.
    fn facts(&self, entries: &Entries, live: &Readings) -> NodeFacts {
        let ordered =
            entries.get(&Sysctl::TwRecycle).is_some_and(|entry| matches!(entry.action, Action::Set(1)));
        let exists = !matches!(live.get(&Sysctl::TwRecycle), None | Some(Reading::Absent));
        let nat = if ordered && exists {
            nat::evidence(&self.procfs)
        } else {
            Nat::Unknown("it is looked for where tcp_tw_recycle is ordered".into())
        };
        NodeFacts {
            kernel: self.procfs.kernel_version(),
            first_namespace: self.procfs.in_first_namespace(),
            nat,
        }
    }

    fn try_transaction(&mut self, writes: &[Write], entries: &Entries, order: &Order, now: Instant) {
        let waits = |write: &Write| self.failures.get(&write.sysctl).is_some_and(|retry| now < retry.at);
        if writes.iter().any(waits) {
            return;
        }
        let Some(journal) = self.journal.as_mut() else { return };
        let result = apply(&self.procfs, journal, writes);
        for write in writes {
            let tuning = entries.get(&write.sysctl).map_or("", |entry| entry.tuning.as_str());
            match &result {
                Ok(()) => {
                    self.failures.remove(&write.sysctl);
                    if write.cause == Cause::Drifted {
                        let drift = self.drifts.entry(write.sysctl).or_default();
                        *drift = (drift.0 + 1, write.from);
                    }
                    let Write { sysctl, from, to, .. } = write;
                    let generation = order.mark.generation;
                    tracing::info!(key = %sysctl, old = from, new = to, tuning, generation, cause = ?write.cause, "wrote");
                }
                Err(failure) => {
                    let last = self.failures.get(&write.sysctl).map(|retry| retry.delay * 2);
                    let delay = last.unwrap_or(RETRY_FIRST).min(RETRY_MAX);
                    tracing::warn!(key = %write.sysctl, tuning, error = failure.message, retry = ?delay, "not written");
                    let retry = Retry { failure: failure.clone(), delay, at: now + delay };
                    self.failures.insert(write.sysctl, retry);
                }
            }
        }
    }

    /// What needs no write to the kernel, but one to the journal: values that a crash left unconfirmed, and records that
    /// nothing needs any longer.
    fn tidy_journal(&mut self, plan: &Plan, ordered: &Entries) {
        let Some(journal) = self.journal.as_mut() else { return };
        let save = journal.update(|records| {
            for (sysctl, outcome) in &plan.outcomes {
                match outcome {
                    Outcome::InForce => confirm(records, *sysctl, ordered),
                    Outcome::Restored | Outcome::Released => drop(records.remove(sysctl)),
                    Outcome::RestoreSkipped { baseline, .. } => {
                        records.insert(*sysctl, Record::abandoned(*baseline));
                    }
                    Outcome::Write(_)
                    | Outcome::Refused(_)
                    | Outcome::HeldBack(_)
                    | Outcome::Unsupported(_)
                    | Outcome::Unreadable(_)
                    | Outcome::Held => {}
                }
            }
            records.retain(|sysctl, record| ordered.contains_key(sysctl) || !record.is_abandoned());
        });
        if let Err(error) = save {
            tracing::warn!(%error, "the journal is not tidied yet");
        }
    }

    /// What became of a key, from what the kernel holds now.
    fn found(&self, sysctl: Sysctl, outcome: &Outcome, entries: &Entries) -> Finding {
        let tuning = entries.get(&sysctl).map_or("", |entry| entry.tuning.as_str());
        let (state, message, rule) = match outcome {
            Outcome::Write(write) => return self.found_written(write, tuning),
            Outcome::InForce => (State::Applied, self.in_force_message(sysctl, entries), None),
            Outcome::Refused(refusal) => (State::Refused, Some(refusal.message.clone()), Some(refusal.rule)),
            Outcome::HeldBack(refusal) => {
                (State::Refused, Some(held_back(sysctl, refusal)), Some(refusal.rule))
            }
            Outcome::Unsupported(why) => (State::Unsupported, Some(why.clone()), None),
            Outcome::Unreadable(why) => (State::Failed, Some(why.clone()), None),
            Outcome::Held => (State::Held, Some("stays as it is: its tuning only observes now".into()), None),
            Outcome::Restored => (State::Restored, None, None),
            Outcome::RestoreSkipped { live, baseline } => {
                let message = format!(
                    "another program set it to {live}, so it was left alone; before us it was {baseline}"
                );
                (State::RestoreSkipped, Some(message), None)
            }
            Outcome::Released => (State::Released, None, None),
        };
        Finding { rule, ..self.finding(sysctl, state, tuning, message) }
    }

    /// A key that was in the plan to be written: the kernel says whether it was.
    fn found_written(&self, write: &Write, tuning: &str) -> Finding {
        let (applied, waiting) = match write.cause {
            Cause::Restored => (State::Restored, State::Restoring),
            Cause::Ordered | Cause::Drifted => (State::Applied, State::Pending),
        };
        let desired = Some(write.to);
        if let Some(retry) = self.failures.get(&write.sysctl) {
            let message = if retry.failure.sysctl == write.sysctl {
                retry.failure.message.clone()
            } else {
                format!(
                    "put back, because {} could not be written: {}",
                    retry.failure.sysctl, retry.failure.message
                )
            };
            return Finding { desired, ..self.finding(write.sysctl, State::Failed, tuning, Some(message)) };
        }
        let finding = self.finding(write.sysctl, applied, tuning, None);
        if finding.live == desired {
            let message = self.drift_message(write.sysctl);
            return Finding { desired, written: true, message, ..finding };
        }
        // Another program was faster than the read-back; the next turn sees it.
        Finding { desired, state: waiting, written: true, ..finding }
    }

    fn in_force_message(&self, sysctl: Sysctl, entries: &Entries) -> Option<String> {
        let absent = self.procfs.read_sysctl(sysctl) == Reading::Absent && entries.contains_key(&sysctl);
        if absent {
            let why = sysctl.why_absent(self.procfs.kernel_version(), self.procfs.in_first_namespace());
            return Some(format!("{why}: 0 is what it does"));
        }
        self.drift_message(sysctl)
    }

    fn drift_message(&self, sysctl: Sysctl) -> Option<String> {
        let (times, last) = self.drifts.get(&sysctl)?;
        Some(format!(
            "another program changed it {times} times since the agent started, last to {last}; put right"
        ))
    }

    fn finding(&self, sysctl: Sysctl, state: State, tuning: &str, message: Option<String>) -> Finding {
        let records = self.journal.as_ref().map_or(&self.reported, Journal::records);
        let record = records.get(&sysctl);
        Finding {
            name: sysctl.name().into(),
            live: self.procfs.read_sysctl(sysctl).value(),
            baseline: record.map(|record| record.baseline),
            message,
            drifts: self.drifts.get(&sysctl).map_or(0, |(times, _)| *times),
            ..Finding::new(state, tuning)
        }
    }

    /// Nothing may be written: every key that would be is said to have failed.
    fn only_observe(&self, entries: &Entries, why: &str) -> Vec<Finding> {
        let plan = self.plan(entries);
        let failed = Outcome::Unreadable(why.into());
        let writes_something = |outcome: &Outcome| {
            matches!(
                outcome,
                Outcome::Write(_) | Outcome::Restored | Outcome::Released | Outcome::RestoreSkipped { .. }
            )
        };
        plan.outcomes
            .iter()
            .map(|(&sysctl, outcome)| {
                let outcome = if writes_something(outcome) { &failed } else { outcome };
                let finding = self.found(sysctl, outcome, entries);
                // What is in force stays so; that nobody looks after it is worth a word all the same.
                Finding { message: finding.message.or_else(|| Some(why.into())), ..finding }
            })
            .map(|finding| with_desired(finding, entries))
            .collect()
    }

    /// What the tunings that only observe would do if they enforced.
    fn would(&self, order: &Order) -> Vec<(TuningReference, Vec<Finding>)> {
        let findings = |entries: &Entries| {
            let live = self.read(entries);
            let plan = plan(entries, &live, &Records::new(), &self.facts(entries, &live));
            plan.outcomes
                .iter()
                .map(|(&sysctl, outcome)| self.would_do(sysctl, outcome, entries))
                .map(|finding| with_desired(finding, entries))
                .collect()
        };
        order
            .observe
            .iter()
            .map(|observed| (observed.tuning.clone(), findings(&hypothetical(observed))))
            .collect()
    }

    fn would_do(&self, sysctl: Sysctl, outcome: &Outcome, entries: &Entries) -> Finding {
        if let Outcome::Write(write) = outcome {
            return Finding {
                name: sysctl.name().into(),
                live: Some(write.from),
                message: Some(write.to_string()),
                ..Finding::new(State::WouldChange, "")
            };
        }
        let finding = self.found(sysctl, outcome, entries);
        let state = if finding.state == State::Refused { State::WouldRefuse } else { finding.state };
        Finding { state, baseline: None, drifts: 0, tuning: String::new(), ..finding }
    }
}

/// Gives a journal that was not there what a status of the same life knows.
fn rebuild(journal: &mut Journal, reported: &BTreeMap<Sysctl, Record>) -> Result<(), String> {
    if journal.was_found() || !journal.records().is_empty() || reported.is_empty() {
        return Ok(());
    }
    let keys = reported.len();
    tracing::warn!(keys, "the journal was lost; its baselines are taken from the node's status");
    journal.update(|records| records.extend(reported)).map_err(|error| error.to_string())
}

/// A value that is in force by our order is ours, whoever wrote it last: a crash after the write, or another program
/// with the same wish.
fn confirm(records: &mut Records, sysctl: Sysctl, ordered: &Entries) {
    let value = ordered.get(&sysctl).and_then(|entry| match entry.action {
        Action::Set(value) => Some(value),
        Action::Hold(_) | Action::Restore | Action::Release => None,
    });
    if let Some(record) = records.get_mut(&sysctl).filter(|record| !record.is_abandoned()) {
        record.confirmed = value;
        record.intended = None;
    }
}

fn held_back(sysctl: Sysctl, refusal: &Refusal) -> String {
    format!("{sysctl} is held back with {}, which is refused: {}", refusal.sysctl, refusal.message)
}

fn with_desired(finding: Finding, entries: &Entries) -> Finding {
    let entry = Sysctl::from_name(&finding.name).and_then(|sysctl| entries.get(&sysctl));
    let desired = entry.and_then(|entry| match entry.action {
        Action::Set(value) | Action::Hold(value) => Some(value),
        Action::Restore | Action::Release => None,
    });
    Finding { desired: finding.desired.or(desired), ..finding }
}

impl Finding {
    fn new(state: State, tuning: &str) -> Self {
        Self {
            name: String::new(),
            state,
            live: None,
            desired: None,
            baseline: None,
            tuning: tuning.into(),
            rule: None,
            message: None,
            drifts: 0,
            written: false,
        }
    }
}

#[cfg(test)]
mod tests;
