//! The one place that decides what the conditions say: the table of situations, from the first that holds.

use std::collections::BTreeSet;

use crds::condition::ConditionStatus;
use crds::state::State;
use crds::tuning::Mode;
use crds::{TcpCloseTuningSpec, node::SysctlStatus};
use tcp_close::Sysctl;

use super::class::{Class, Finding, said};
use super::condition::{Reason, Verdict, Work};
use super::{nodes, some};
use crate::limit::Why;
use crate::resolve::{Claim, Resolution, Standing};
use crate::rollout::Progress;
use crate::snapshot::{HOLD_LABEL, Snapshot, Tuning};

/// Everything that a verdict looks at.
pub(super) struct Scene<'a> {
    /// The tuning's spec.
    pub(super) spec: &'a TcpCloseTuningSpec,
    /// For the names of other tunings.
    pub(super) snapshot: &'a Snapshot,
    /// What was found on every matched node, by name.
    pub(super) findings: Vec<Finding<'a>>,
    /// Nodes that no longer match.
    pub(super) restoring: Vec<Restoring<'a>>,
    /// Who has lost a tie against this tuning, where and for which key.
    pub(super) contested: Vec<Contested<'a>>,
    /// Whether this generation was in force everywhere once.
    pub(super) was_ready: bool,
    /// Whether this revision was, whatever else of the spec has changed since; in mode Observe, whether one was.
    pub(super) has_completed: bool,
    /// Whether a lost tie has lasted long enough to be meant.
    pub(super) waited_for_peace: bool,
    /// How many nodes have been pending for long.
    pub(super) long_pending: usize,
    /// How far its rollout is; `None`: it only observes.
    pub(super) progress: Option<Progress>,
}

/// A node that no longer matches and has not been put back.
pub(super) struct Restoring<'a> {
    /// The node.
    pub(super) node: &'a str,
    /// Whether its agent can do it now. A node that is down does not hold anybody up.
    pub(super) reachable: bool,
    /// Why it has not been told to yet.
    pub(super) why: Option<&'a Why>,
    /// Whether it has not been told to and may yet match again: a label that flaps is no news.
    pub(super) in_grace: bool,
}

/// A tie that this tuning has won.
pub(super) struct Contested<'a> {
    /// The node.
    pub(super) node: &'a str,
    /// The key.
    pub(super) sysctl: Sysctl,
    /// The uid of the one that lost.
    pub(super) loser: &'a str,
}

/// Ties that a tuning has won.
pub(super) fn contested<'a>(tuning: &Tuning, resolution: &'a Resolution) -> Vec<Contested<'a>> {
    let claims = resolution
        .orders
        .iter()
        .flat_map(|(node, order)| order.claims.iter().map(move |claim| (node, claim)));
    claims
        .filter_map(|(node, claim)| match &claim.standing {
            Standing::Conflict { with } if *with == tuning.uid => {
                Some(Contested { node, sysctl: claim.sysctl, loser: &claim.tuning })
            }
            Standing::Conflict { .. } | Standing::Wins | Standing::Agrees | Standing::Overridden { .. } => {
                None
            }
        })
        .collect()
}

/// The verdict on a tuning that cannot be decoded.
pub(super) fn undecodable(error: &str) -> Verdict {
    unknown(format!(
        "this tuning cannot be read ({error}); what it ordered last stays in force. Correct it, or run an operator that \
         knows these fields"
    ))
}

/// The verdict on every tuning while a watch fails.
pub(super) fn blind(watch: &str) -> Verdict {
    unknown(format!(
        "the operator cannot watch {watch}; nothing new is ordered until it can, and what is in force stays. Look at the \
         rights of its ServiceAccount, and at the API server"
    ))
}

fn unknown(message: String) -> Verdict {
    Verdict {
        ready: ConditionStatus::Unknown,
        reason: Reason::OperatorError,
        message,
        work: Work::UnderWay,
        conflicted: None,
        drifted: None,
    }
}

/// The verdict: the first situation that holds.
pub(super) fn conclude(scene: &Scene<'_>) -> Verdict {
    let (ready, reason, work, message) = scene
        .suspended()
        .or_else(|| scene.nobody_matches())
        .or_else(|| scene.tie_lost())
        .or_else(|| scene.overridden_everywhere())
        .or_else(|| scene.nobody_reports())
        .or_else(|| scene.rolling())
        .or_else(|| scene.outstanding())
        .or_else(|| scene.problems())
        .or_else(|| scene.unsupported_everywhere())
        .or_else(|| scene.held_everywhere())
        .unwrap_or_else(|| scene.in_force());
    Verdict { ready, reason, message, work, conflicted: scene.conflicted(), drifted: scene.drifted() }
}

pub(super) type Situation = (ConditionStatus, Reason, Work, String);

impl<'a> Scene<'a> {
    pub(super) fn of(&self, class: Class) -> Vec<&Finding<'a>> {
        self.findings.iter().filter(|finding| finding.class == class).collect()
    }

    pub(super) fn all(&self) -> String {
        nodes(self.findings.len())
    }

    fn suspended(&self) -> Option<Situation> {
        let why = self.snapshot.switch.reason()?;
        Some((ConditionStatus::False, Reason::Suspended, Work::Settled, why))
    }

    fn failed(&self) -> Vec<&Finding<'a>> {
        self.findings.iter().filter(|finding| finding.class.is_failed()).collect()
    }

    /// How many nodes maxFailedNodes is about.
    fn excepted(&self) -> usize {
        self.of(Class::Refused).len() + self.failed().len()
    }

    fn nobody_matches(&self) -> Option<Situation> {
        let restored = !self.restoring.iter().any(|restoring| restoring.reachable);
        (self.findings.is_empty() && restored).then(|| {
            let message = "no Linux node has the labels that nodeSelector asks for, so nothing is ordered: compare it \
                           with `kubectl get nodes --show-labels`";
            (ConditionStatus::True, Reason::NoMatchingNodes, Work::Settled, message.into())
        })
    }

    fn tie_lost(&self) -> Option<Situation> {
        let message = self.tie(|finding| &finding.lost)?;
        let work = if self.waited_for_peace { Work::Stuck } else { Work::UnderWay };
        Some((ConditionStatus::False, Reason::Conflict, work, message))
    }

    /// The first tie among these claims.
    fn tie(&self, claims: impl for<'f> Fn(&'f Finding<'a>) -> &'f [&'a Claim]) -> Option<String> {
        let lost = self
            .findings
            .iter()
            .flat_map(|finding| claims(finding).iter().map(|claim| (finding.node, *claim)));
        let ties: Vec<_> = lost
            .filter_map(|(node, claim)| match &claim.standing {
                Standing::Conflict { with } => Some((node, claim.sysctl, with.as_str())),
                Standing::Overridden { .. } | Standing::Wins | Standing::Agrees => None,
            })
            .collect();
        let &(_, sysctl, winner) = ties.first()?;
        let on: BTreeSet<_> =
            ties.iter().filter(|tie| (tie.1, tie.2) == (sysctl, winner)).map(|tie| tie.0).collect();
        Some(format!(
            "tuning {} is older, has the same priority, and orders {sysctl} = {} where this one orders {}, on {} ({}): \
             give one of them another priority, the same value, or other nodes",
            self.name_of(winner),
            shown(self.value_of(winner, sysctl)),
            shown(self.spec.sysctls.get(sysctl)),
            nodes(on.len()),
            some(on),
        ))
    }

    fn overridden_everywhere(&self) -> Option<Situation> {
        let overridden = |f: &Finding<'_>| f.won.is_empty() && f.losing.is_empty() && !f.lost.is_empty();
        let everywhere = !self.findings.is_empty() && self.findings.iter().all(overridden);
        everywhere.then(|| {
            let winners: BTreeSet<_> = self.overriders().collect();
            let message = format!(
                "tunings of higher priority ({}) order every sysctl of this one on all {}",
                some(winners),
                self.all()
            );
            (ConditionStatus::True, Reason::Overridden, Work::Settled, message)
        })
    }

    fn overriders(&self) -> impl Iterator<Item = &str> {
        self.findings.iter().flat_map(|finding| &finding.lost).filter_map(|claim| match &claim.standing {
            Standing::Overridden { by } => Some(self.name_of(by)),
            Standing::Conflict { .. } | Standing::Wins | Standing::Agrees => None,
        })
    }

    /// A tuning that was in force everywhere lets a few nodes join or reboot without taking its word back.
    fn is_latched(&self) -> bool {
        self.was_ready && self.few_pend_for_long()
    }

    fn few_pend_for_long(&self) -> bool {
        self.long_pending * 10 <= self.findings.len()
    }

    /// Nodes that have to carry something out before the tuning is in force everywhere. Where its revision has completed, those
    /// that join are none: an edit of anything else does not wait for the next node that comes.
    fn awaited(&self) -> Vec<&Finding<'a>> {
        if self.is_latched() {
            return Vec::new();
        }
        let lets_join = self.has_completed && self.few_pend_for_long();
        let pending = [self.of(Class::Pending), self.of(Class::Waiting)].concat();
        pending.into_iter().filter(|finding| !(lets_join && finding.joining)).collect()
    }

    /// Nodes that have to be put back before the tuning is in force nowhere else.
    fn leaving(&self) -> Vec<&Restoring<'a>> {
        let counts =
            |restoring: &&Restoring<'_>| restoring.reachable && !(self.was_ready && restoring.in_grace);
        self.restoring.iter().filter(counts).collect()
    }

    fn nobody_reports(&self) -> Option<Situation> {
        let silent =
            self.findings.iter().all(|finding| finding.report.is_none() && !finding.class.is_failed());
        (silent && !self.findings.is_empty() && !self.is_latched()).then(|| {
            let message = format!(
                "no agent reports on the {} that match ({}): look at the agent's DaemonSet and its pods there",
                self.all(),
                some(self.findings.iter().map(|finding| finding.node)),
            );
            (ConditionStatus::Unknown, Reason::NoReports, Work::UnderWay, message)
        })
    }

    /// Orders, acknowledgements or restores that somebody still works on.
    fn outstanding(&self) -> Option<Situation> {
        let (pending, restoring) = (self.awaited(), self.leaving());
        if pending.is_empty() && restoring.is_empty() {
            return None;
        }
        let mut parts = vec![format!("in force on {} of {}", self.of(Class::Updated).len(), self.all())];
        if let Some(first) = pending.first() {
            let names = some(pending.iter().map(|finding| finding.node));
            parts.push(format!("waiting for {} ({names}): {}", nodes(pending.len()), first.message));
        }
        if !restoring.is_empty() {
            let names = some(restoring.iter().map(|restoring| restoring.node));
            parts.push(format!("{} no longer matched, being put back ({names})", nodes(restoring.len())));
            let waiting: Vec<_> = restoring.iter().filter_map(|restoring| restoring.why).collect();
            let verb = if waiting.len() == 1 { "waits" } else { "wait" };
            parts.extend(waiting.first().map(|why| format!("{} of them {verb} {why}", waiting.len())));
        }
        let message = parts.join("; ");
        Some((ConditionStatus::False, Reason::Progressing, Work::UnderWay, message))
    }

    /// Refusals and failures on more nodes than may have them: the largest group gives the reason, and its first node the
    /// words.
    pub(super) fn problems(&self) -> Option<Situation> {
        let excepted = self.excepted();
        if excepted <= self.spec.max_failed_nodes(self.findings.len()) {
            return None;
        }
        let groups = [
            (Class::Refused, Reason::Refused, "refused"),
            (Class::WriteFailed, Reason::WriteFailed, "failed"),
            (Class::Contended, Reason::Contended, "contended"),
            (Class::Drifted, Reason::Drifted, "drifted"),
            (Class::AgentMissing, Reason::AgentMissing, "missing"),
            (Class::Lost, Reason::NodesLost, "lost"),
        ];
        let groups = groups.map(|(class, reason, word)| (self.of(class), reason, word));
        // The first of equally large ones: max_by_key returns the last.
        let (group, reason, word) = groups.into_iter().rev().max_by_key(|(group, ..)| group.len())?;
        let first = group.first()?;
        let names = some(group.iter().map(|finding| finding.node));
        let what_to_do = match reason {
            Reason::WriteFailed => "; look at the log of the agent there",
            Reason::Contended | Reason::Drifted => FIND_THE_PROGRAM,
            Reason::AgentMissing => "; look at the agent's pod there",
            Reason::NodesLost => "; it counts until it is back or its Node is deleted",
            _ => "",
        };
        let message =
            format!("{} ({word} on {} of {}: {names}){what_to_do}", first.message, group.len(), self.all());
        Some((ConditionStatus::False, reason, Work::Stuck, message))
    }

    fn unsupported_everywhere(&self) -> Option<Situation> {
        if self.spec.mode == Mode::Observe {
            return None;
        }
        let updated = self.of(Class::Updated);
        let row = self.unsupported_rows().find(|row| {
            let lacks =
                |finding: &&&Finding<'_>| finding.unsupported.iter().any(|other| other.name == row.name);
            !updated.is_empty() && updated.iter().all(|finding| lacks(&finding))
        })?;
        let why = row.message.clone().unwrap_or_else(|| format!("{} does not exist", row.name));
        let field = Sysctl::from_name(&row.name).map_or("it", Sysctl::field);
        let message = format!("{why}. No node that reports has it: remove {field} from sysctls");
        Some((ConditionStatus::False, Reason::Unsupported, Work::Stuck, message))
    }

    fn held_everywhere(&self) -> Option<Situation> {
        let (held, updated) = (self.of(Class::Held), self.of(Class::Updated));
        let names = some(held.iter().map(|finding| finding.node));
        (!held.is_empty() && updated.is_empty()).then(|| {
            let message = format!(
                "in force nowhere: the label {HOLD_LABEL} keeps the orders of {} as they are ({names})",
                nodes(held.len())
            );
            (ConditionStatus::False, Reason::Suspended, Work::Settled, message)
        })
    }

    fn unsupported_rows(&self) -> impl Iterator<Item = &'a SysctlStatus> {
        self.findings.iter().flat_map(|finding| finding.unsupported.iter().copied())
    }

    fn in_force(&self) -> Situation {
        let (settled, yes) = (Work::Settled, ConditionStatus::True);
        match self.spec.mode {
            Mode::Observe => (yes, Reason::Observed, settled, self.observed()),
            Mode::Enforce => {
                let (stale, pending) = (self.of(Class::Stale), self.of(Class::Pending));
                let in_force = match self.of(Class::Updated).len() {
                    updated if updated == self.findings.len() => format!("in force on {}", self.all()),
                    updated => format!("in force on {updated} of {}", self.all()),
                };
                let (refused, failed) = (self.of(Class::Refused), self.failed());
                let groups = [
                    (&stale, "silent"),
                    (&pending, "joining or restarting"),
                    (&refused, "refused, within maxFailedNodes"),
                    (&failed, "failed, within maxFailedNodes"),
                ];
                let groups =
                    groups.into_iter().filter(|(group, _)| !group.is_empty()).map(|(group, words)| {
                        let names = some(group.iter().map(|finding| finding.node));
                        format!("{} {words} ({names})", nodes(group.len()))
                    });
                let parts = std::iter::once(in_force).chain(groups).chain(self.exceptions());
                let message = parts.collect::<Vec<_>>().join("; ");
                let everywhere = stale.is_empty() && self.of(Class::Held).is_empty();
                let reason = match (self.excepted(), everywhere) {
                    (0, true) => Reason::Applied,
                    (0, false) => Reason::AppliedExceptStale,
                    _ => Reason::AppliedWithExceptions,
                };
                (yes, reason, settled, message)
            }
        }
    }

    /// What is no failure, and yet worth a word.
    fn exceptions(&self) -> impl Iterator<Item = String> {
        let winners: BTreeSet<_> = self.overriders().collect();
        let overridden = (!winners.is_empty()).then(|| {
            let lost = self.findings.iter().filter(|finding| !finding.lost.is_empty()).count();
            format!("tunings of higher priority ({}) order a sysctl on {}", some(winners), nodes(lost))
        });
        let parts = self.held().into_iter().chain(self.lacking()).chain(overridden);
        parts.chain(self.at_risk()).chain(self.in_grace())
    }

    /// Which nodes no longer match, and may yet match again.
    fn in_grace(&self) -> Option<String> {
        let waiting = |restoring: &&Restoring<'_>| restoring.reachable && restoring.in_grace;
        let waiting: Vec<_> = self.restoring.iter().filter(waiting).collect();
        let names = some(waiting.iter().map(|restoring| restoring.node));
        (!waiting.is_empty()).then(|| format!("{} no longer matched ({names})", nodes(waiting.len())))
    }

    /// Which nodes a person holds, up to date or not.
    fn held(&self) -> Option<String> {
        let held: Vec<_> = self.findings.iter().filter(|finding| finding.held).collect();
        let names = some(held.iter().map(|finding| finding.node));
        (!held.is_empty()).then(|| format!("{} held ({names})", nodes(held.len())))
    }

    /// Where a value stays that a rule would refuse now, and in the words of the first node why.
    fn at_risk(&self) -> Option<String> {
        let at_risk: Vec<_> = self.findings.iter().filter(|finding| !finding.at_risk.is_empty()).collect();
        let row = at_risk.first()?.at_risk.first()?;
        let names = some(at_risk.iter().map(|finding| finding.node));
        Some(format!("at risk on {} ({names}): {}", nodes(at_risk.len()), said(row)))
    }

    /// Which nodes lack a sysctl, if any do.
    fn lacking(&self) -> Option<String> {
        let lacking: Vec<_> =
            self.findings.iter().filter(|finding| !finding.unsupported.is_empty()).collect();
        let row = self.unsupported_rows().next()?;
        let names = some(lacking.iter().map(|finding| finding.node));
        Some(format!("not on {} that lack it: {} ({names})", nodes(lacking.len()), row.name))
    }

    fn observed(&self) -> String {
        let reporting = self.of(Class::Updated).len();
        let change = self.findings.iter().filter(|finding| finding.would_change).count();
        let refuse = self.findings.iter().filter(|finding| !finding.refused.is_empty()).count();
        let observed = format!(
            "{reporting} of {} report: Enforce would change something on {change}, and be refused on {refuse}; nothing is \
             written",
            self.all()
        );
        std::iter::once(observed).chain(self.lacking()).collect::<Vec<_>>().join("; ")
    }

    fn conflicted(&self) -> Option<String> {
        let tie = self.tie(|finding| &finding.lost).or_else(|| self.tie(|finding| &finding.losing));
        tie.or_else(|| {
            let first = self.contested.first()?;
            let on: BTreeSet<_> = self.contested.iter().map(|contested| contested.node).collect();
            Some(format!(
                "tuning {} has the same priority and orders another value for {} on {} ({}); this one is older and stands",
                self.name_of(first.loser),
                first.sysctl,
                nodes(on.len()),
                some(on),
            ))
        })
    }

    fn drifted(&self) -> Option<String> {
        let drifted: Vec<_> = self.findings.iter().filter(|finding| !finding.drifted.is_empty()).collect();
        let rows = || drifted.iter().flat_map(|finding| finding.drifted.iter().copied());
        // What is left alone comes before what needs nobody today.
        let row = rows().find(|row| is_left_alone(row)).or_else(|| rows().next())?;
        let found = if is_left_alone(row) { said(row) } else { "the agent puts it right".into() };
        let names = some(drifted.iter().map(|finding| finding.node));
        let on = nodes(drifted.len());
        Some(format!("another program changes {} on {on} ({names}): {found}{FIND_THE_PROGRAM}", row.name))
    }

    fn name_of(&self, uid: &'a str) -> &str {
        self.snapshot.tuning(uid).map_or(uid, |tuning| &tuning.name)
    }

    fn value_of(&self, uid: &str, sysctl: Sysctl) -> Option<i64> {
        self.snapshot.tuning(uid)?.spec.as_ref().ok()?.sysctls.get(sysctl)
    }
}

/// What to do about another program.
const FIND_THE_PROGRAM: &str = "; find the program: often a sysctl.d file, or another node tuner";

/// Whether what another program has changed is not put right.
fn is_left_alone(row: &SysctlStatus) -> bool {
    matches!(State::parse(&row.state), Some(State::Drifted | State::Contended))
}

fn shown(value: Option<i64>) -> String {
    value.map_or_else(|| "?".into(), |value| value.to_string())
}
