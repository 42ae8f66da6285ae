//! One turn on this node: observe, judge, plan, apply, read back.
//!
//! Everything here is synchronous and takes microseconds, but for the journal's fsync. A turn that finds all in order
//! writes nothing, neither to the kernel nor to the journal.

mod finding;
mod foresee;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crds::node::TuningReference;
use crds::state::State;
use jiff::Timestamp;
use tcp_close::Sysctl;
use tcp_close::contention::Contention;
use tcp_close::kernel::NodeFacts;
use tcp_close::order::{Entries, Entry, Reading, Readings, Record, Records};
use tcp_close::plan::{Cause, Outcome, Plan, Write, plan};

use crate::apply::{Failure, apply};
use crate::facts::{self, Watcher};
use crate::journal::{self, Journal, OrderMark};
use crate::life::life;
use crate::order::Order;
use crate::procfs::{self, Held, Procfs};
use crate::sentinel::{Doubt, Sentinel};

pub use finding::Finding;

/// A failed transaction is tried again after this long, and then after twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A file of this name in the journal's folder means: observe only.
pub const HOLD_FILE: &str = "hold";

/// When something happens: on the clock that spans of time are measured with, and on the one that people read.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Never goes back.
    pub clock: Instant,
    /// May be set.
    pub wall: Timestamp,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self { clock: Instant::now(), wall: Timestamp::now() }
    }
}

/// Why nothing is written, whatever is ordered.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// A person wants that.
    #[error("{0} is there, so the agent only observes: remove the file to let it write")]
    Hold(PathBuf),
    /// It is not proven that writes would reach the node.
    #[error(transparent)]
    Doubt(#[from] Doubt),
    /// Which life of the namespace this is cannot be told.
    #[error("{0}")]
    Life(String),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// A newer order was carried out already.
    #[error("this order is older than one that was carried out already")]
    OldOrder,
}

impl Obstacle {
    /// Whether the agent is in another network namespace than its node.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Doubt(Doubt::OtherNamespace(_)))
    }

    /// Whether another agent looks after this node.
    pub fn is_rival(&self) -> bool {
        matches!(self, Self::Journal(journal::Error::Locked(_)))
    }
}

/// What another program did to a key since the agent started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// How often, and whether it is a fight.
    pub contention: Contention,
    /// When it was put right first.
    pub since: Timestamp,
}

/// What one turn found.
#[derive(Debug, Default)]
pub struct Turn {
    /// Every sysctl that has an entry.
    pub findings: Vec<Finding>,
    /// What tunings that only observe would do.
    pub observed: Vec<(TuningReference, Vec<Finding>)>,
    /// The life of the namespace, where it is known.
    pub life: Option<String>,
    /// Why nothing was written, where nothing may be.
    pub obstacle: Option<Obstacle>,
}

impl Turn {
    /// Whether there is nothing to say of it that was not said of the other.
    pub fn found_the_same_as(&self, other: &Self) -> bool {
        let told = |turn: &Self| turn.obstacle.as_ref().map(ToString::to_string);
        (&self.findings, &self.observed, &self.life) == (&other.findings, &other.observed, &other.life)
            && told(self) == told(other)
    }

    /// Whether it gave a sysctl another value.
    pub fn has_changed_something(&self) -> bool {
        self.findings.iter().any(Finding::is_changed)
    }
}

/// This node, and what is remembered of it between turns.
pub struct Node {
    procfs: Procfs,
    state_dir: PathBuf,
    sentinel: Sentinel,
    obeys_hold: bool,
    started: Instant,
    proven: bool,
    /// The namespace's, once it is known: a process does not outlive it.
    life: Option<String>,
    journal: Option<Journal>,
    /// Baselines that a status of this life or a journal held, for one that is lost, cannot be read, or is not ours now.
    reported: BTreeMap<Sysctl, Record>,
    watcher: Watcher,
    facts: NodeFacts,
    /// The files of what was ordered so far.
    sysctls: BTreeMap<Sysctl, Held>,
    /// What the kernel held when it was last read in this turn.
    live: Readings,
    drifts: BTreeMap<Sysctl, Drift>,
    failures: BTreeMap<Sysctl, Retry>,
}

struct Retry {
    failure: Failure,
    delay: Duration,
    at: Instant,
}

impl Node {
    /// The node whose kernel files are in `procfs`, and whose journal is in `state_dir`.
    pub fn new(procfs: Procfs, state_dir: PathBuf, sentinel: Sentinel) -> Self {
        Self {
            watcher: Watcher::new(&procfs),
            procfs,
            state_dir,
            sentinel,
            obeys_hold: true,
            started: Instant::now(),
            proven: false,
            life: None,
            journal: None,
            reported: BTreeMap::new(),
            facts: NodeFacts::unknown(),
            sysctls: BTreeMap::new(),
            live: Readings::new(),
            drifts: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// The same for a person who acts there: the file that makes agents observe only does not stop them.
    #[must_use]
    pub fn for_person(self) -> Self {
        Self { obeys_hold: false, ..self }
    }

    /// Where the kernel's files are.
    pub fn procfs(&self) -> &Procfs {
        &self.procfs
    }

    /// What was written in this life of the namespace, as far as it is known.
    pub fn records(&self) -> &Records {
        self.journal.as_ref().map_or(&self.reported, Journal::records)
    }

    fn life(&mut self) -> Result<String, procfs::Error> {
        if let Some(life) = &self.life {
            return Ok(life.clone());
        }
        Ok(self.life.insert(life(&self.procfs)?).clone())
    }

    fn elapsed(&self, now: Moment) -> Duration {
        now.clock.saturating_duration_since(self.started)
    }

    /// Opens the journal, or says why nothing can be written. It is tried again in each turn, so that a disk that is repaired
    /// or an agent that ends is enough.
    fn journal(&mut self) -> Result<&mut Journal, Obstacle> {
        let journal = if let Some(journal) = self.journal.take() {
            journal
        } else {
            let life = self.life().map_err(|error| Obstacle::Life(error.to_string()))?;
            let mut journal = Journal::open(&self.state_dir, &life)?;
            rebuild(&mut journal, &self.reported)?;
            journal
        };
        Ok(self.journal.insert(journal))
    }

    /// Takes note of the baselines of a status, if it is of this life. They count where the journal is lost in the same
    /// life, now or once a damaged one has been moved away, and are reported until then.
    ///
    /// # Errors
    /// Where the journal cannot be used.
    pub fn adopt(&mut self, status_life: &str, baselines: &BTreeMap<Sysctl, Record>) -> Result<(), Obstacle> {
        if self.life().is_ok_and(|life| life == status_life) {
            self.reported.clone_from(baselines);
        }
        self.journal()?;
        let reported = &self.reported;
        self.journal.as_mut().map_or(Ok(()), |journal| rebuild(journal, reported))?;
        Ok(())
    }

    /// Whether the last order that was accepted, now or before a restart, was of another object. Which of two objects is the
    /// older one cannot be told from their generations.
    pub fn knows_another_object(&mut self, mark: &OrderMark) -> bool {
        // Without a journal nothing is written at all.
        self.journal().is_ok_and(|journal| journal.is_of_another_object(mark))
    }

    /// A new order gets its first try at once.
    pub fn forget_failures(&mut self) {
        self.failures.clear();
    }

    /// Brings the kernel to what is ordered, as far as rules and the node allow. Removals are carried out only where the
    /// caller has just read the order again.
    pub fn turn(&mut self, order: &Order, removals_confirmed: bool, now: Moment) -> Turn {
        let life = self.life().ok();
        self.observe(order, now);
        let entries = if removals_confirmed { order.entries.clone() } else { order.without_removals() };
        let obstacle = self.accept(order).err();
        let entries = self.believed(entries);
        let mut findings = match &obstacle {
            None => self.carry_out(&entries, order, now),
            Some(obstacle) => self.only_observe(&entries, &obstacle.to_string(), now),
        };
        let waiting = order.entries.iter().filter(|(sysctl, _)| !entries.contains_key(sysctl));
        findings.extend(waiting.map(|(&sysctl, entry)| {
            let message = "waits until the order has been read again from the API server";
            self.finding(sysctl, State::Restoring, &entry.tuning, Some(message.into()))
        }));
        findings.extend(order.set_aside.iter().map(|aside| Finding {
            name: aside.name.clone(),
            message: Some(aside.message.clone()),
            ..Finding::new(aside.state, &aside.tuning)
        }));
        Turn { findings, observed: self.would(order, now), life, obstacle }
    }

    fn held(&self) -> Result<(), Obstacle> {
        let hold = self.state_dir.join(HOLD_FILE);
        if self.obeys_hold && hold.exists() { Err(Obstacle::Hold(hold)) } else { Ok(()) }
    }

    /// So that a person can restore with it meanwhile. What it held is still known.
    fn let_go_of_journal(&mut self) {
        if let Some(journal) = self.journal.take() {
            self.reported.clone_from(journal.records());
        }
    }

    fn accept(&mut self, order: &Order) -> Result<(), Obstacle> {
        self.held().inspect_err(|_| self.let_go_of_journal())?;
        if !self.proven {
            self.sentinel.check(&self.procfs)?;
            self.proven = true;
        }
        let journal = self.journal()?;
        if !journal.accepts(&order.mark) {
            return Err(Obstacle::OldOrder);
        }
        journal.note_order(&order.mark);
        Ok(())
    }

    /// An order may call a return what this node has never held: it joined later, has refused it, or begun another life. Only
    /// what it knows to have been in force here is spared what rules say of a new value.
    fn believed(&self, mut entries: Entries) -> Entries {
        let was_in_force = |sysctl, entry: &Entry| {
            let journal = self.journal.as_ref();
            journal.zip(entry.value()).is_some_and(|(journal, value)| journal.was_in_force(sysctl, value))
        };
        for (&sysctl, entry) in &mut entries {
            entry.rollback = entry.rollback && was_in_force(sysctl, entry);
        }
        entries
    }

    /// Reads what is ordered, and what a rule may look at beside it.
    fn observe(&mut self, order: &Order, now: Moment) {
        let elapsed = self.elapsed(now);
        if order.entries.is_empty() && order.observe.is_empty() {
            // Its peak may decide over a later order.
            self.watcher.count(elapsed);
            return;
        }
        self.facts = self.watcher.look_briefly(elapsed);
        self.read(order);
    }

    fn read(&mut self, order: &Order) {
        let observed = order.observe.iter().flat_map(|observed| observed.sysctls.values());
        let observed = observed.into_iter().map(|(sysctl, _)| sysctl);
        let keys = order.entries.keys().copied().chain(observed).chain([Sysctl::Timestamps]);
        self.live.clear();
        for sysctl in keys {
            let held = self.sysctls.entry(sysctl).or_insert_with(|| self.procfs.hold_sysctl(sysctl));
            self.live.entry(sysctl).or_insert_with(|| held.reading());
        }
    }

    fn carry_out(&mut self, entries: &Entries, order: &Order, now: Moment) -> Vec<Finding> {
        let mut plan = self.plan(entries, self.records(), &self.resting(now));
        if !plan.writes().is_empty() {
            // What was true a moment ago says nothing.
            self.facts = self.watcher.look(self.elapsed(now));
            self.read(order);
            plan = self.plan(entries, self.records(), &self.resting(now));
            for transaction in plan.transactions(entries) {
                self.try_transaction(&transaction, entries, order, now);
            }
            self.read(order);
        }
        self.tidy_journal(&plan, &order.entries);
        self.findings(&plan, entries, now)
    }

    fn plan(&self, entries: &Entries, records: &Records, resting: &BTreeSet<Sysctl>) -> Plan {
        let facts = facts::with_nat(&self.facts, &self.procfs, entries, &self.live);
        plan(entries, &self.live, records, &facts, resting)
    }

    /// Keys that another program fights for, and that are left alone for a while.
    fn resting(&self, now: Moment) -> BTreeSet<Sysctl> {
        let now = self.elapsed(now);
        let drifts = self.drifts.iter().filter(|(_, drift)| drift.contention.rests_until(now).is_some());
        drifts.map(|(&sysctl, _)| sysctl).collect()
    }

    fn try_transaction(&mut self, writes: &[Write], entries: &Entries, order: &Order, now: Moment) {
        let waits =
            |write: &Write| self.failures.get(&write.sysctl).is_some_and(|retry| now.clock < retry.at);
        if writes.iter().any(waits) {
            return;
        }
        let tuning = |sysctl| entries.get(&sysctl).map_or("", |entry| entry.tuning.as_str());
        let generation = order.mark.generation;
        let tell = |write: &Write| {
            let Write { sysctl, from, to, cause } = write;
            let tuning = tuning(*sysctl);
            tracing::info!(key = %sysctl, old = from, new = to, tuning, generation, ?cause, "wrote");
        };
        let Some(journal) = self.journal.as_mut() else { return };
        match apply(&self.procfs, journal, writes, &tell) {
            Ok(()) => writes.iter().for_each(|write| self.note_success(write, now)),
            Err(failure) => {
                for write in writes {
                    let delay = self.note_failure(write.sysctl, &failure, now);
                    let (key, tuning) = (write.sysctl, tuning(write.sysctl));
                    tracing::warn!(%key, tuning, error = failure.message, retry = ?delay, "not written");
                }
            }
        }
    }

    fn note_success(&mut self, write: &Write, now: Moment) {
        self.failures.remove(&write.sysctl);
        let elapsed = self.elapsed(now);
        match write.cause {
            Cause::Drifted => {
                let known = self.drifts.get_mut(&write.sysctl);
                if let Some(drift) = known {
                    drift.contention.corrected(write.from, elapsed);
                } else {
                    let contention = Contention::new(write.from, elapsed);
                    self.drifts.insert(write.sysctl, Drift { contention, since: now.wall });
                }
            }
            Cause::Ordered | Cause::Restored | Cause::PutBack => {}
        }
    }

    fn note_failure(&mut self, sysctl: Sysctl, failure: &Failure, now: Moment) -> Duration {
        let last = self.failures.get(&sysctl).map(|retry| retry.delay * 2);
        let delay = last.unwrap_or(RETRY_FIRST).min(RETRY_MAX);
        self.failures.insert(sysctl, Retry { failure: failure.clone(), delay, at: now.clock + delay });
        delay
    }

    /// What needs no write to the kernel, but one to the journal: values that a crash left unconfirmed, values that were in
    /// force before we came, and records that nothing needs any longer.
    fn tidy_journal(&mut self, plan: &Plan, ordered: &Entries) {
        let Some(journal) = self.journal.as_mut() else { return };
        let live = &self.live;
        let save = journal.update(|records| {
            for (sysctl, outcome) in &plan.outcomes {
                match outcome {
                    Outcome::InForce | Outcome::AtRisk(_) => confirm(records, *sysctl, ordered, live),
                    Outcome::Restored | Outcome::Released => drop(records.remove(sysctl)),
                    Outcome::RestoreSkipped { baseline, .. } => {
                        records.insert(*sysctl, Record::abandoned(*baseline));
                    }
                    Outcome::Write(_)
                    | Outcome::Refused(_)
                    | Outcome::HeldBack(_)
                    | Outcome::Unsupported(_)
                    | Outcome::Unreadable(_)
                    | Outcome::Drifted { .. }
                    | Outcome::Contended { .. }
                    | Outcome::Held => {}
                }
            }
            records.retain(|sysctl, record| ordered.contains_key(sysctl) || !record.is_abandoned());
        });
        if let Err(error) = save {
            tracing::warn!(%error, "the journal is not tidied yet");
        }
    }

    /// Nothing may be written: every key that would be is said to have failed.
    fn only_observe(&self, entries: &Entries, why: &str, now: Moment) -> Vec<Finding> {
        let mut plan = self.plan(entries, self.records(), &self.resting(now));
        for outcome in plan.outcomes.values_mut() {
            if let Outcome::Write(_)
            | Outcome::Restored
            | Outcome::Released
            | Outcome::RestoreSkipped { .. } = outcome
            {
                *outcome = Outcome::Unreadable(why.into());
            }
        }
        let findings = self.findings(&plan, entries, now).into_iter();
        // What is in force stays so; that nobody looks after it is worth a word all the same.
        findings
            .map(|finding| Finding { message: finding.message.or_else(|| Some(why.into())), ..finding })
            .collect()
    }
}

/// Gives a journal that was not there what a status of the same life knows. One that is there knows better: the status may
/// be from before the last restore.
fn rebuild(journal: &mut Journal, reported: &BTreeMap<Sysctl, Record>) -> Result<(), journal::Error> {
    if journal.is_on_disk() || reported.is_empty() {
        return Ok(());
    }
    let keys = reported.len();
    tracing::warn!(keys, "the journal was lost; its baselines are taken from the node's status");
    journal.update(|records| records.extend(reported))
}

/// A value that is in force by our order is ours, whoever wrote it last: a crash after the write, or another program with
/// the same wish. One that was in force before we came is its own baseline, so that a foreign change can be told.
fn confirm(records: &mut Records, sysctl: Sysctl, ordered: &Entries, live: &Readings) {
    let Some(value) = ordered.get(&sysctl).and_then(Entry::value) else { return };
    // tcp_tw_recycle 0 is in force where there is no such file.
    if live.get(&sysctl).and_then(Reading::value) != Some(value) {
        return;
    }
    let baseline = records.get(&sysctl).filter(|record| !record.is_abandoned()).map(|record| record.baseline);
    let baseline = baseline.unwrap_or(value);
    records.insert(sysctl, Record { baseline, confirmed: Some(value), intended: None });
}

#[cfg(test)]
mod tests;
