//! What the conditions say while a change is on its way to its nodes, or back. Messages say until when, never how long still:
//! they must not change with every second.

use crds::condition::ConditionStatus;
use crds::tuning::Phase;
use jiff::Timestamp;

use super::class::Class;
use super::condition::{Reason, Work};
use super::overdue::is_order_like_any_other;
use super::verdict::{Scene, Situation};
use super::{nodes, some};
use crate::rollout::advance::{Halt, Progress};
use crate::snapshot::RETRY_AT;

impl Scene<'_> {
    /// A rollout that has not reached every node, and what stays meanwhile of tunings that have gone.
    pub(super) fn rolling(&self) -> Option<Situation> {
        let progress = self.progress.as_ref()?;
        let (ready, reason, work, message) = self.in_phase(progress)?;
        let parts: Vec<_> = [message].into_iter().chain(progress.inherits.clone()).collect();
        Some((ready, reason, work, parts.join("; ")))
    }

    /// What its phase says. One that takes all of a few nodes at once is an order like any other.
    fn in_phase(&self, progress: &Progress) -> Option<Situation> {
        let (reason, work, message) = match progress.phase {
            Phase::Completed => return None,
            Phase::RollingBack => (Reason::RollingBack, Work::UnderWay, self.rolling_back(progress)),
            Phase::RolledBack => (Reason::RolledBack, Work::Stuck, rolled_back(progress)),
            // Other tunings have every node: they say what is in force there.
            _ if progress.concerned == 0 => return None,
            _ if progress.halt == Some(Halt::Paused) => {
                (Reason::Paused, Work::Settled, format!("rollout.paused: {}", reached(progress)))
            }
            _ if self.is_stopped(progress) => return self.problems(),
            _ if is_order_like_any_other(self.spec, progress) => return None,
            phase => {
                let (reason, message) = under_way(phase, progress);
                if progress.overdue {
                    let message =
                        format!("{message}; nothing has moved for longer than progressDeadlineSeconds");
                    (reason, Work::Stuck, message)
                } else {
                    (reason, Work::UnderWay, message)
                }
            }
        };
        Some((ConditionStatus::False, reason, work, message))
    }

    /// Whether too many have failed, and nothing is under way any longer that could change that.
    fn is_stopped(&self, progress: &Progress) -> bool {
        progress.halt == Some(Halt::Failures) && self.of(Class::Pending).is_empty()
    }

    fn rolling_back(&self, progress: &Progress) -> String {
        let back = self.of(Class::RolledBack);
        let names = some(back.iter().map(|finding| finding.node));
        format!("{}; {} taken back ({names})", failure(progress), nodes(back.len()))
    }
}

fn under_way(phase: Phase, progress: &Progress) -> (Reason, String) {
    let canaries = some(progress.status.canaries.iter().map(String::as_str));
    match (phase, progress.soaks_until) {
        (Phase::Canary, _) if canaries.is_empty() => {
            (Reason::Canary, "no node can go first now: none is reachable that rollout.canary allows".into())
        }
        (Phase::Canary, _) => {
            (Reason::Canary, format!("canary {canaries} goes first; {}", reached(progress)))
        }
        (_, Some(_)) if progress.halt == Some(Halt::Inconclusive) => {
            let found = progress.status.gate.as_deref().unwrap_or("nothing is known");
            (
                Reason::GateInconclusive,
                format!("canary {canaries} settled, and the gate cannot tell: {found}"),
            )
        }
        (_, Some(until)) => {
            (Reason::Soaking, format!("canary {canaries} settled; soaking until {}", at(until)))
        }
        (_, None) => (Reason::RollingOut, reached(progress)),
    }
}

fn reached(progress: &Progress) -> String {
    format!(
        "rolled out to {} of {}, {} in flight, at most {} at a time",
        progress.status.settled,
        nodes(progress.concerned),
        progress.in_flight,
        progress.max_concurrent
    )
}

fn rolled_back(progress: &Progress) -> String {
    let revision = &progress.status.revision;
    format!(
        "{}; taken back. Revision {revision} is not tried again until the spec or annotation {RETRY_AT} changes",
        failure(progress)
    )
}

fn failure(progress: &Progress) -> &str {
    progress.status.failed_reason.as_deref().unwrap_or("it failed")
}

fn at(time: Timestamp) -> String {
    time.strftime("%FT%TZ").to_string()
}
