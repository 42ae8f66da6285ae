//! Where each matched node stands: in exactly one class, with what overlays it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crds::node::{EntryAction, SysctlEntry, SysctlStatus};
use crds::state::State;
use crds::tuning::{Mode, Phase};
use crds::{TcpCloseNode, TcpCloseNodeStatus, TcpCloseTuningSpec};
use tcp_close::Sysctl;

use crate::history::{self, History};
use crate::limit::Why;
use crate::resolve::{Claim, Matched, NodeOrder, Standing, is_acknowledged};
use crate::rollout::advance::{LOST, Progress};
use crate::rollout::member::Member;
use crate::snapshot::{HOLD_LABEL, Node, Snapshot, Tuning, report_in, unreadable};

/// How often an agent reports before it has an order.
const INTERVAL: Duration = Duration::from_secs(20);
/// An agent that misses this many reports is silent.
const SILENT_AFTER: u32 = 3;
/// On a Ready node it is missing after this, and after no fewer reports than that: a large fleet reports every 300 s.
const MISSING_AFTER: Duration = Duration::from_secs(300);
const MISSING_AFTER_REPORTS: u32 = 5;

/// How far a node is. Every matched node is in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everything that the tuning orders there is in force; in mode Observe, has been reported on.
    Updated,
    /// Ordered, and not yet acknowledged.
    Pending,
    /// Not ordered yet: a rollout takes some nodes before others.
    Waiting,
    /// A rule forbids something.
    Refused,
    /// Another program has changed something, and the tuning wants that reported, not put right.
    Drifted,
    /// Another program keeps changing something, and its agent leaves it alone for a while.
    Contended,
    /// A write failed.
    WriteFailed,
    /// It was reachable when it was ordered the change that is rolled out, and is not since.
    Lost,
    /// It was ordered a change that failed, and is taken back, or has been.
    RolledBack,
    /// It is Ready, and its agent has said nothing for minutes.
    AgentMissing,
    /// It is not Ready, or its agent is silent.
    Stale,
    /// A person has labelled it to keep its order, which is not what the tuning wants there now.
    Held,
}

impl Class {
    /// Whether it counts as failed.
    pub fn is_failed(self) -> bool {
        match self {
            Self::Drifted
            | Self::Contended
            | Self::WriteFailed
            | Self::Lost
            | Self::RolledBack
            | Self::AgentMissing => true,
            Self::Updated | Self::Pending | Self::Waiting | Self::Refused | Self::Stale | Self::Held => false,
        }
    }
}

/// What was found on one matched node.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    /// The node.
    pub node: &'a str,
    /// How far it is.
    pub class: Class,
    /// Why it is not further.
    pub message: String,
    /// Whether its agent has yet to report for the first time.
    pub joining: bool,
    /// Whether a person has labelled it to keep its order.
    pub held: bool,
    /// Why its order is held back, where it is.
    pub held_back: Option<Why>,
    /// Sysctls of the tuning that the node lacks, and why.
    pub unsupported: Vec<&'a SysctlStatus>,
    /// Sysctls that another tuning orders.
    pub lost: Vec<&'a Claim>,
    /// Sysctls that another tuning is to order, whose rollout has not come here: this one's value is in force.
    pub losing: Vec<&'a Claim>,
    /// Sysctls that the tuning does order.
    pub won: Vec<Sysctl>,
    /// Sysctls that another program changed, whatever became of that.
    pub drifted: Vec<&'a SysctlStatus>,
    /// Sysctls that are in force, and that a rule would refuse now.
    pub at_risk: Vec<&'a SysctlStatus>,
    /// Sysctls that a rule forbids, and those that are held back with them.
    pub refused: Vec<&'a SysctlStatus>,
    /// In mode Observe: whether Enforce would write something.
    pub would_change: bool,
    /// What its agent reports, where it has been heard lately.
    pub report: Option<&'a TcpCloseNodeStatus>,
}

/// What was found on every node that the tuning matches, by name.
pub fn find<'a>(
    tuning: &Tuning,
    spec: &TcpCloseTuningSpec,
    matched: &[Matched<'a>],
    history: &History,
    was_ready: bool,
    now: Instant,
) -> Vec<Finding<'a>> {
    matched
        .iter()
        .map(|matched| {
            let Matched { name, node, object, wanted } = *matched;
            let mut finding = Finding {
                held: node.is_held(),
                held_back: history.held_back(name).cloned(),
                ..Finding::new(name)
            };
            let order = matched.order();
            if let Some(wanted) = wanted {
                finding.note_claims(tuning, wanted, order);
            }
            let report = order.and_then(|order| Some((order, report_in(order)?)));
            let heard = is_heard(node, order, history, now);
            if !heard && let Some(why) = silence(node, order, report.is_some(), history, now) {
                (finding.class, finding.message) = why;
                finding.joining = finding.class == Class::Pending;
            }
            let unreadable = object.and_then(unreadable);
            if let Some(error) = unreadable.filter(|_| node.is_ready()) {
                finding.joining = false;
                finding.message =
                    format!("its TcpCloseNode cannot be read ({error}): delete it, and a new one is made");
            }
            if let (Some((order, status)), Some(wanted), true) = (report, wanted, heard) {
                finding.report = Some(status);
                let view = View { tuning, order, status, wanted, was_ready, history };
                match spec.mode {
                    Mode::Enforce => finding.judge_enforced(&view),
                    Mode::Observe => finding.judge_observed(&view),
                }
            }
            finding
        })
        .collect()
}

/// Whether a node's agent has been heard lately.
pub fn is_heard(node: &Node, order: Option<&TcpCloseNode>, history: &History, now: Instant) -> bool {
    node.is_reporting(order) && silence(node, order, true, history, now).is_none()
}

/// Nodes that look as if they could be ordered something, and whose agents have fallen silent.
pub fn silent(snapshot: &Snapshot, history: &History, now: Instant) -> BTreeSet<String> {
    let silent = snapshot.nodes_with_orders().filter(|(_, node, order)| {
        node.is_reporting(*order) && silence(node, *order, true, history, now).is_some()
    });
    silent.map(|(name, ..)| name.clone()).collect()
}

/// The class of a node of which nothing can be known at the moment, and why; `None` where its agent reports.
fn silence(
    node: &Node,
    order: Option<&TcpCloseNode>,
    reported: bool,
    history: &History,
    now: Instant,
) -> Option<(Class, String)> {
    if !node.is_ready() {
        return Some((Class::Stale, "the node is not Ready".into()));
    }
    let silence = history.silence(node.name(), now);
    // An agent that is to report more often from now on does so once it has heard of it.
    let interval = order.map_or(INTERVAL, history::interval).max(silence.interval);
    let missing_after = MISSING_AFTER.max(interval * MISSING_AFTER_REPORTS);
    if silence.while_ready >= missing_after {
        let minutes = missing_after.as_secs() / 60;
        let why = format!("the node is Ready, and its agent has not reported for {minutes} minutes or more");
        return Some((Class::AgentMissing, why));
    }
    if !reported {
        return Some((Class::Pending, "its agent has not reported yet".into()));
    }
    let silent = silence.since_before || silence.of_reports >= interval * SILENT_AFTER;
    silent.then(|| (Class::Stale, format!("its agent has missed {SILENT_AFTER} reports")))
}

/// What a judgement looks at.
struct View<'a, 'b> {
    tuning: &'b Tuning,
    order: &'a TcpCloseNode,
    status: &'a TcpCloseNodeStatus,
    wanted: &'a NodeOrder,
    was_ready: bool,
    history: &'b History,
}

impl<'a> View<'a, '_> {
    /// The entries that are this tuning's business: those it wins or agrees with, and those it leaves behind.
    fn entries(&self, won: &[Sysctl]) -> Vec<&'a SysctlEntry> {
        let is_won = |name: &str| won.iter().any(|sysctl| sysctl.name() == name);
        let entries = self.wanted.entries.iter();
        entries.filter(|entry| entry.tuning.uid == self.tuning.uid || is_won(&entry.name)).collect()
    }

    /// The stored entries for keys that it has not lost yet, and whether they are of its revision.
    fn standing(&self, losing: &[&Claim]) -> Vec<(&'a SysctlEntry, bool)> {
        let entries = losing.iter().filter_map(|claim| set_by(self.order, self.tuning, claim.sysctl));
        entries.map(|entry| (entry, entry.tuning.revision == self.tuning.revision)).collect()
    }

    /// Whether the stored order says this already.
    fn is_ordered(&self, entry: &SysctlEntry) -> bool {
        self.order.spec.sysctls.is_one(&self.wanted.entries) || self.order.spec.sysctls.contains(entry)
    }

    fn row(&self, name: &str) -> Option<&'a SysctlStatus> {
        self.status.sysctls.iter().find(|row| row.name == name)
    }

    /// Whether what the node says is about the tuning as it is now. Once it was ready at this generation, another
    /// tuning's order on the same node does not make it pending again.
    fn is_current(&self) -> bool {
        self.was_ready || is_acknowledged(self.order)
    }
}

impl<'a> Finding<'a> {
    fn new(node: &'a str) -> Self {
        Self {
            node,
            class: Class::Pending,
            message: "its order is being written".into(),
            joining: false,
            held: false,
            held_back: None,
            unsupported: Vec::new(),
            lost: Vec::new(),
            losing: Vec::new(),
            won: Vec::new(),
            drifted: Vec::new(),
            at_risk: Vec::new(),
            refused: Vec::new(),
            would_change: false,
            report: None,
        }
    }

    /// Where it stands in a rollout that has not reached every node.
    pub fn note_turn(&mut self, member: &Member<'_>, progress: &Progress) {
        let (phase, rollout) = (progress.phase, &progress.status);
        let back = matches!(phase, Phase::RollingBack | Phase::RolledBack);
        let found = if phase == Phase::Completed || !member.is_concerned() {
            None
        } else if member.is_lost(rollout) {
            Some((Class::Lost, LOST.to_string()))
        } else if back && (member.is_returning() || member.has(&rollout.revision)) {
            Some((Class::RolledBack, format!("taken back from revision {}", rollout.revision)))
        } else if member.has(&rollout.revision) || matches!(self.class, Class::Stale | Class::AgentMissing) {
            None
        } else if self.held || self.held_back.is_some() {
            Some(self.judge_unwritten())
        } else {
            Some((Class::Waiting, "waiting for its turn".into()))
        };
        if let Some(found) = found {
            (self.class, self.message) = found;
        }
    }

    /// Claims are what the specs want. What is stored may still be this tuning's.
    fn note_claims(&mut self, tuning: &Tuning, wanted: &'a NodeOrder, order: Option<&TcpCloseNode>) {
        let stands = |sysctl| order.is_some_and(|order| set_by(order, tuning, sysctl).is_some());
        for claim in wanted.claims.iter().filter(|claim| claim.tuning == tuning.uid) {
            match claim.standing {
                Standing::Wins | Standing::Agrees => self.won.push(claim.sysctl),
                Standing::Overridden { .. } | Standing::Conflict { .. } if stands(claim.sysctl) => {
                    self.losing.push(claim);
                }
                Standing::Overridden { .. } | Standing::Conflict { .. } => self.lost.push(claim),
            }
        }
    }

    fn judge_enforced(&mut self, view: &View<'a, '_>) {
        let mut worst = (Class::Updated, String::new());
        let current = view.is_current();
        let wanted = view.entries(&self.won).into_iter().map(|entry| (entry, view.is_ordered(entry)));
        for (entry, ordered) in wanted.chain(view.standing(&self.losing)) {
            let judged = if !ordered {
                self.judge_unwritten()
            } else if !current {
                (Class::Pending, "its agent has not acknowledged the order yet".into())
            } else {
                self.judge_row(entry, view)
            };
            if severity(judged.0) > severity(worst.0) {
                worst = judged;
            }
        }
        (self.class, self.message) = worst;
        if self.class == Class::Refused {
            // What is held back has no rule of its own: the reason is the key that has.
            let forbidden = self.refused.iter().find(|row| row.rule.is_some());
            self.message = forbidden.map_or_else(|| std::mem::take(&mut self.message), |row| said(row));
        }
    }

    /// An order that is wanted and not stored.
    fn judge_unwritten(&self) -> (Class, String) {
        match &self.held_back {
            _ if self.held => (Class::Held, held()),
            Some(why) => (Class::Pending, format!("its order waits {why}")),
            None => (Class::Pending, "its order is being written".into()),
        }
    }

    /// What the node says of one entry.
    fn judge_row(&mut self, entry: &SysctlEntry, view: &View<'a, '_>) -> (Class, String) {
        let updated = (Class::Updated, String::new());
        let Some(row) = view.row(&entry.name) else {
            return match entry.action {
                EntryAction::Set => (Class::Pending, format!("its agent says nothing of {}", entry.name)),
                EntryAction::Hold | EntryAction::Restore | EntryAction::Release => updated,
            };
        };
        let state = State::parse(&row.state);
        match entry.action {
            EntryAction::Set => self.judge_set(entry, row, view),
            EntryAction::Hold => updated,
            EntryAction::Restore | EntryAction::Release => match state {
                Some(State::Failed) => (Class::WriteFailed, said(row)),
                Some(state) if state.is_removed() || state == State::Unsupported => updated,
                _ => (Class::Pending, format!("{} is being put back", entry.name)),
            },
        }
    }

    fn judge_set(
        &mut self,
        entry: &SysctlEntry,
        row: &'a SysctlStatus,
        view: &View<'a, '_>,
    ) -> (Class, String) {
        let drifted = row.live.is_some_and(|live| Some(live) != entry.value);
        if row.desired.is_some() && row.desired != entry.value {
            return (Class::Pending, format!("its agent reports an older order for {}", entry.name));
        }
        match State::parse(&row.state) {
            Some(state @ (State::Applied | State::AtRisk)) => {
                if drifted || view.history.has_drifted(self.node, &row.name) {
                    self.drifted.push(row);
                }
                if state == State::AtRisk {
                    self.at_risk.push(row);
                }
                (Class::Updated, String::new())
            }
            Some(State::Unsupported) => {
                self.unsupported.push(row);
                (Class::Updated, String::new())
            }
            Some(State::Refused) => {
                self.refused.push(row);
                (Class::Refused, said(row))
            }
            Some(State::Drifted) => {
                self.drifted.push(row);
                (Class::Drifted, said(row))
            }
            Some(State::Contended) => {
                self.drifted.push(row);
                (Class::Contended, said(row))
            }
            Some(State::Failed) => (Class::WriteFailed, said(row)),
            Some(
                State::Pending
                | State::Held
                | State::Restoring
                | State::Restored
                | State::RestoreSkipped
                | State::Released
                | State::WouldChange
                | State::WouldRefuse,
            ) => (Class::Pending, said(row)),
            // A newer agent's word. What the kernel holds is plain all the same.
            None if drifted || row.live.is_none() => (Class::WriteFailed, said(row)),
            None => (Class::Updated, String::new()),
        }
    }

    fn judge_observed(&mut self, view: &View<'a, '_>) {
        let reference = (&view.tuning.uid, &view.tuning.revision);
        let rows =
            view.status.observe.iter().find(|row| (&row.tuning.uid, &row.tuning.revision) == reference);
        let frozen = view.entries(&[]).into_iter().all(|entry| view.is_ordered(entry));
        let (Some(rows), true, true) = (rows, frozen, view.is_current()) else {
            self.message = "its agent has not reported on it yet".into();
            return;
        };
        (self.class, self.message) = (Class::Updated, String::new());
        for row in &rows.sysctls {
            match State::parse(&row.state) {
                Some(State::WouldChange) => self.would_change = true,
                Some(State::WouldRefuse) => self.refused.push(row),
                Some(State::Unsupported) => self.unsupported.push(row),
                _ => {}
            }
        }
    }
}

/// The entry by which a tuning keeps a value in force on a node.
fn set_by<'a>(order: &'a TcpCloseNode, tuning: &Tuning, sysctl: Sysctl) -> Option<&'a SysctlEntry> {
    order.spec.sysctls.iter().find(|entry| {
        entry.action == EntryAction::Set && entry.tuning.uid == tuning.uid && entry.name == sysctl.name()
    })
}

/// Which of two classes says more of a node.
fn severity(class: Class) -> u8 {
    match class {
        Class::Updated => 0,
        Class::Waiting => 1,
        Class::Stale | Class::Held => 2,
        Class::Pending => 3,
        Class::Refused => 4,
        Class::Drifted => 5,
        Class::Contended => 6,
        Class::WriteFailed => 7,
        Class::RolledBack => 8,
        Class::AgentMissing => 9,
        Class::Lost => 10,
    }
}

fn held() -> String {
    format!("its label {HOLD_LABEL} keeps its order as it is")
}

/// What an agent says of a sysctl.
pub(super) fn said(row: &SysctlStatus) -> String {
    row.message.clone().unwrap_or_else(|| format!("{}: {}", row.name, row.state))
}
