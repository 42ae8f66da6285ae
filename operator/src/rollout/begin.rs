//! Begin: what a rollout is before anything of it is stored. Both loops ask here, so that an order need not wait for a
//! status to be written, and an operator that was ended before it was written begins the same.

use crds::tuning::{Phase, Rollout, RolloutStatus, StableRevision, share};
use crds::{TcpCloseTuningSpec, TcpCloseTuningStatus};

use super::Member;
use crate::snapshot::Tuning;
use crate::summarise::count;

/// Up to so many nodes take a change at once where nobody says otherwise; of more, a tenth.
const AT_ONCE: usize = 10;
/// So many revisions that were given up are remembered.
const ATTEMPTED_MAX: usize = 10;

/// How far a tuning's rollout is: as stored, unless its spec has another revision by now, or its author wants a failed one
/// tried again.
pub fn current(
    tuning: &Tuning,
    spec: &TcpCloseTuningSpec,
    stored: Option<&TcpCloseTuningStatus>,
    members: &[Member<'_>],
) -> RolloutStatus {
    match stored.and_then(|stored| stored.rollout.as_ref()) {
        Some(rollout) if rollout.revision == tuning.revision && !is_to_be_retried(tuning, rollout) => {
            let mut rollout = rollout.clone();
            if !is_over(&rollout) {
                rollout.reachable = rollout.reachable.max(reachable(members));
            }
            if is_unproven(&rollout) && needs_canary(spec, members) {
                (rollout.phase, rollout.phase_since) = (Phase::Canary.as_str().into(), None);
            }
            rollout
        }
        // An operator that knew no rollouts has ordered this everywhere.
        None if stored.is_some_and(|stored| stored.observed_generation == tuning.generation) => {
            completed(tuning, spec)
        }
        before => begin(tuning, spec, before, members),
    }
}

/// Whether every node is to have the spec, as it is stored, without a look at them.
pub fn is_everywhere(tuning: &Tuning) -> bool {
    tuning.rollout().is_some_and(|rollout| {
        phase(rollout) == Phase::Completed
            && rollout.revision == tuning.revision
            && rollout.attempted.is_empty()
            && rollout.failed_revision.is_none()
    })
}

/// The phase. One that only a newer operator knows is taken for the one in which most may happen, and nothing is undone.
pub fn phase(rollout: &RolloutStatus) -> Phase {
    Phase::parse(&rollout.phase).unwrap_or(Phase::RollingOut)
}

/// How many nodes may be in flight.
pub fn max_concurrent(spec: &TcpCloseTuningSpec, rollout: &RolloutStatus, members: &[Member<'_>]) -> usize {
    let reachable = usize::try_from(rollout.reachable).unwrap_or(usize::MAX);
    let max = spec.rollout.as_ref().and_then(|rollout| rollout.max_concurrent.as_ref());
    match max {
        Some(max) => share(max, reachable).max(1),
        None if concerned(members) <= AT_ONCE => AT_ONCE,
        None => (reachable / AT_ONCE).max(1),
    }
}

/// The revision as one that completed.
pub fn stable(tuning: &Tuning, spec: &TcpCloseTuningSpec) -> StableRevision {
    StableRevision {
        revision: tuning.revision.clone(),
        sysctls: spec.sysctls.clone(),
        safety: spec.safety.clone(),
        drift_policy: spec.drift_policy,
        removal_policy: spec.removal_policy,
    }
}

fn is_to_be_retried(tuning: &Tuning, rollout: &RolloutStatus) -> bool {
    phase(rollout) == Phase::RolledBack && rollout.retry_at != tuning.retry_at
}

fn completed(tuning: &Tuning, spec: &TcpCloseTuningSpec) -> RolloutStatus {
    RolloutStatus {
        phase: Phase::Completed.as_str().into(),
        revision: tuning.revision.clone(),
        stable: Some(stable(tuning, spec)),
        retry_at: tuning.retry_at.clone(),
        ..RolloutStatus::default()
    }
}

fn begin(
    tuning: &Tuning,
    spec: &TcpCloseTuningSpec,
    before: Option<&RolloutStatus>,
    members: &[Member<'_>],
) -> RolloutStatus {
    let stable = before.and_then(|before| before.stable.clone());
    let returns = stable.as_ref().is_some_and(|stable| stable.revision == tuning.revision);
    let phase = if returns {
        Phase::Completed
    } else if needs_canary(spec, members) {
        Phase::Canary
    } else {
        Phase::RollingOut
    };
    RolloutStatus {
        phase: phase.as_str().into(),
        revision: tuning.revision.clone(),
        stable,
        attempted: before.map(|before| attempted(before, &tuning.revision)).unwrap_or_default(),
        failed_revision: before
            .and_then(|before| before.failed_revision.clone())
            .filter(|failed| *failed != tuning.revision),
        retry_at: tuning.retry_at.clone(),
        reachable: reachable(members),
        ..RolloutStatus::default()
    }
}

/// Whether nodes move no longer.
pub fn is_over(rollout: &RolloutStatus) -> bool {
    matches!(phase(rollout), Phase::Completed | Phase::RolledBack)
}

/// Whether a rollout came after this revision, which was given up or failed: nodes may hold it still.
pub fn has_given_up(rollout: &RolloutStatus, revision: &str) -> bool {
    let mut given_up = rollout.attempted.iter().chain(&rollout.failed_revision);
    revision != rollout.revision && given_up.any(|name| name == revision)
}

/// The nodes that percentages are of.
fn reachable(members: &[Member<'_>]) -> u32 {
    let able = members.iter().filter(|member| member.is_concerned() && member.reachable);
    count(able.count())
}

/// What nodes may hold that is neither stable nor the new revision: the latest.
fn attempted(before: &RolloutStatus, revision: &str) -> Vec<String> {
    let given_up = (phase(before) != Phase::Completed).then_some(&before.revision);
    let mut names: Vec<_> =
        before.attempted.iter().filter(|name| Some(*name) != given_up).chain(given_up).collect();
    names.retain(|name| *name != revision);
    names.iter().skip(names.len().saturating_sub(ATTEMPTED_MAX)).map(ToString::to_string).collect()
}

/// Whether some nodes are watched before the others follow: its author wants that, or there are many.
fn needs_canary(spec: &TcpCloseTuningSpec, members: &[Member<'_>]) -> bool {
    let watches = |rollout: &Rollout| {
        rollout.canary.is_some() || rollout.soak_seconds.is_some() || rollout.gate.is_some()
    };
    spec.rollout.as_ref().is_some_and(watches) || concerned(members) > AT_ONCE
}

/// Whether nodes may follow although none has shown how the revision does: it began on few nodes and others came, or other
/// tunings have taken every node from it since. By what is stored, so that a node that settles meanwhile changes nothing.
fn is_unproven(rollout: &RolloutStatus) -> bool {
    let shown = if rollout.canaries.is_empty() { rollout.settled } else { rollout.ordered };
    phase(rollout) == Phase::RollingOut && shown == 0
}

fn concerned(members: &[Member<'_>]) -> usize {
    members.iter().filter(|member| member.is_concerned()).count()
}
