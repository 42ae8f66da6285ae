//! Overdue: a rollout that does not move for long needs a person, unless nobody let it move.

use crds::tuning::{Mode, Phase};
use crds::{TcpCloseTuningSpec, TcpCloseTuningStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::condition::{Reason, Stored};
use crate::resolve::orders_of;
use crate::rollout::begin;
use crate::rollout::{Member, Progress};
use crate::snapshot::{Snapshot, Tuning};
use crate::switch::Switch;

/// What is stored of a tuning whose rollout could not move and now can: from here on it is waited for anew. `None`: it could
/// move before, or cannot now. That an operator looks at it for the `first` time counts too: there may have been none.
pub(super) fn resumed(
    spec: &TcpCloseTuningSpec,
    past: Stored<'_>,
    switch: &Switch,
    first: bool,
) -> Option<TcpCloseTuningStatus> {
    let stored = past.status?;
    let rollout = stored.rollout.as_ref().filter(|rollout| !begin::is_over(rollout))?;
    let stops = spec.rollout.as_ref().and_then(|rollout| rollout.paused).unwrap_or_default();
    let could_not = past.is_ready_for([Reason::Paused, Reason::Suspended, Reason::OperatorError]);
    let resumes = could_not || (first && !past.is_stalled());
    (resumes && !stops && *switch == Switch::Run).then(|| TcpCloseTuningStatus {
        rollout: Some(crds::tuning::RolloutStatus { progressed_at: None, ..rollout.clone() }),
        ..stored.clone()
    })
}

/// Has a rollout wait for as long as every node that it could go on with takes part in another.
pub(super) fn wait_for_others(
    progress: &mut Progress,
    tuning: &Tuning,
    members: &[Member<'_>],
    snapshot: &Snapshot,
    now: Timestamp,
) {
    let mut next = members.iter().filter(|member| member.is_able(&progress.status.revision)).peekable();
    if progress.overdue
        && progress.in_flight == 0
        && next.peek().is_some()
        && next.all(|member| is_watched_by_another(member, tuning, snapshot))
    {
        progress.overdue = false;
        progress.status.progressed_at = Some(Time(now));
    }
}

/// Whether it is one of the first nodes of another tuning's change, which has not passed yet.
fn is_watched_by_another(member: &Member<'_>, tuning: &Tuning, snapshot: &Snapshot) -> bool {
    let others = snapshot.tunings.iter().filter(|other| other.uid != tuning.uid);
    others.filter(|other| other.in_mode(Mode::Enforce).is_some()).any(|other| {
        let watching =
            other.rollout().filter(|rollout| matches!(begin::phase(rollout), Phase::Canary | Phase::Soaking));
        let holds = member.order.and_then(|order| orders_of(order, &other.uid).next());
        watching.zip(holds).is_some_and(|(rollout, entry)| entry.tuning.revision == rollout.revision)
    })
}
