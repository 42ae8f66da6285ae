//! Overdue: a rollout that does not move for long needs a person, unless nobody let it move.

use crds::TcpCloseTuningSpec;
use crds::tuning::{Mode, Phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::condition::{Reason, Stored};
use crate::resolve::orders_of;
use crate::rollout::begin;
use crate::rollout::{Member, Progress};
use crate::snapshot::{Snapshot, Tuning};
use crate::switch::Switch;

/// What tells whether a rollout could move.
pub(super) struct Scene<'a> {
    pub(super) tuning: &'a Tuning,
    pub(super) spec: &'a TcpCloseTuningSpec,
    pub(super) members: &'a [Member<'a>],
    pub(super) snapshot: &'a Snapshot,
    /// What is stored of it.
    pub(super) past: Stored<'a>,
    /// Whether this operator looks at it for the first time: there may have been none for long.
    pub(super) first: bool,
}

impl Scene<'_> {
    /// A rollout that could not move until now is waited for anew.
    pub(super) fn excuse(&self, progress: &mut Progress, now: Timestamp) {
        let waits = !begin::is_over(&progress.status) && !is_order_like_any_other(self.spec, progress);
        if waits && (self.is_let_go_on() || (progress.overdue && self.waits_for_others(progress))) {
            progress.overdue = false;
            progress.status.progressed_at = Some(Time(now));
        }
    }

    fn is_let_go_on(&self) -> bool {
        let is_paused = self.spec.rollout.as_ref().and_then(|rollout| rollout.paused).unwrap_or_default();
        let could_not = self.past.is_ready_for([Reason::Paused, Reason::Suspended, Reason::OperatorError]);
        let can = !is_paused && self.snapshot.switch == Switch::Run;
        can && (could_not || (self.first && !self.past.is_stalled()))
    }

    /// Whether every node that it could go on with takes part in another.
    fn waits_for_others(&self, progress: &Progress) -> bool {
        let mut next =
            self.members.iter().filter(|member| member.is_able(&progress.status.revision)).peekable();
        progress.in_flight == 0
            && next.peek().is_some()
            && next.all(|member| self.is_watched_by_another(member))
    }

    /// Whether it is one of the first nodes of another tuning's change, which has not passed yet.
    fn is_watched_by_another(&self, member: &Member<'_>) -> bool {
        let others = self.snapshot.tunings.iter().filter(|other| other.uid != self.tuning.uid);
        others.filter(|other| other.in_mode(Mode::Enforce).is_some()).any(|other| {
            let watching = other
                .rollout()
                .filter(|rollout| matches!(begin::phase(rollout), Phase::Canary | Phase::Soaking));
            let holds = member.order.and_then(|order| orders_of(order, &other.uid).next());
            watching.zip(holds).is_some_and(|(rollout, entry)| entry.tuning.revision == rollout.revision)
        })
    }
}

/// Whether all of a few nodes take it at once, and nobody has asked for more care.
pub(super) fn is_order_like_any_other(spec: &TcpCloseTuningSpec, progress: &Progress) -> bool {
    let at_once = progress.concerned <= progress.max_concurrent;
    progress.phase == Phase::RollingOut && spec.rollout.is_none() && at_once
}
