//! Place: which content of each tuning each node is to have now. It grants no node a change before there is room for it.

use std::collections::BTreeSet;

use crds::TcpCloseTuningSpec;
use crds::tuning::{Mode, Phase, RolloutStatus};

use super::canary::canaries;
use super::member::IsReachable;
use super::stray::{Stray, strays};
use super::{Member, begin, members};
use crate::resolve::{Content, Contents, Resolution, matched, precedence};
use crate::snapshot::{Snapshot, Tuning};

/// A rollout that has not reached every node.
struct Rolling<'a> {
    tuning: &'a Tuning,
    spec: &'a TcpCloseTuningSpec,
    rollout: RolloutStatus,
    members: Vec<Member<'a>>,
    strays: Vec<Stray<'a>>,
}

/// The contents of all tunings. `unseen` are nodes whose order was written a moment ago, which the snapshot may not show.
pub fn place(
    snapshot: &Snapshot,
    wants: &Resolution,
    is_reachable: IsReachable<'_>,
    unseen: &BTreeSet<String>,
) -> Contents {
    let enforced =
        snapshot.tunings.iter().filter_map(|tuning| Some((tuning, tuning.in_mode(Mode::Enforce)?)));
    let mut all: Vec<_> = enforced
        .filter(|(tuning, _)| !begin::is_everywhere(tuning))
        .map(|(tuning, spec)| {
            let members = members(tuning, &matched(tuning, snapshot, wants), is_reachable);
            let rollout = begin::current(tuning, spec, tuning.status.as_ref(), &members);
            let strays = strays(tuning, snapshot, is_reachable);
            Rolling { tuning, spec, rollout, members, strays }
        })
        .collect();
    all.sort_by_cached_key(|rolling| precedence(rolling.tuning, rolling.spec));
    let mut taken: BTreeSet<_> = all.iter().flat_map(Rolling::watched).collect();
    let mut contents = Contents::as_specified();
    for rolling in &all {
        let granted = rolling.grants(&taken, unseen);
        let members = rolling.members.iter();
        let placed =
            members.map(|member| (member.name, rolling.content(member, granted.contains(member.name))));
        contents.set(&rolling.tuning.uid, placed);
        taken.extend(granted);
    }
    contents
}

impl<'a> Rolling<'a> {
    fn phase(&self) -> Phase {
        begin::phase(&self.rollout)
    }

    /// Nodes that nothing else may change meanwhile: what becomes of them is the answer to one question only.
    fn watched(&self) -> impl Iterator<Item = &'a str> {
        let is_watched = matches!(self.phase(), Phase::Canary | Phase::Soaking);
        let changed = self.members.iter().filter(|member| member.has(&self.rollout.revision));
        changed.filter(move |_| is_watched).map(|member| member.name)
    }

    /// The nodes that take the change in this pass.
    fn grants(&self, taken: &BTreeSet<&str>, unseen: &BTreeSet<String>) -> BTreeSet<&'a str> {
        let Self { spec, rollout, members, strays, .. } = self;
        let is_paused = spec.rollout.as_ref().and_then(|rollout| rollout.paused).unwrap_or_default();
        if is_paused || fails_too_often(spec, rollout, members) {
            return BTreeSet::new();
        }
        let is_unseen = |member: &&Member<'_>| unseen.contains(member.name);
        let in_flight =
            members.iter().filter(|member| member.is_in_flight(rollout) || is_unseen(member)).count();
        let astray =
            strays.iter().filter(|it| it.is_in_flight(rollout) || unseen.contains(it.name())).count();
        let room = begin::max_concurrent(spec, rollout, members).saturating_sub(in_flight + astray);
        let able = members
            .iter()
            .filter(|member| member.is_able(&rollout.revision) && !taken.contains(member.name))
            .filter(|member| !is_unseen(member));
        let next = match self.phase() {
            _ if room == 0 => Vec::new(),
            Phase::Canary => {
                let has = |member: &&Member<'_>| member.has(&rollout.revision) || is_unseen(member);
                let ordered: Vec<_> = members.iter().filter(has).collect();
                let known = ordered.len();
                canaries(spec, ordered, able).split_off(known)
            }
            Phase::RollingOut => {
                let mut able: Vec<_> = able.collect();
                able.sort_by_cached_key(|member| member.rank());
                able
            }
            Phase::Soaking | Phase::Completed | Phase::RollingBack | Phase::RolledBack => Vec::new(),
        };
        next.into_iter()
            .filter(|member| member.is_idle(rollout))
            .take(room)
            .map(|member| member.name)
            .collect()
    }

    fn content(&self, member: &Member<'_>, granted: bool) -> Content {
        let rollout = &self.rollout;
        let has = granted || member.has(&rollout.revision);
        let stable = rollout.stable.as_ref().map(|stable| stable.revision.as_str());
        let failed = rollout.failed_revision.is_some() && member.holds == rollout.failed_revision.as_deref();
        match self.phase() {
            Phase::Completed if member.has_abandoned(rollout) => Content::Rollback,
            Phase::Completed => Content::Spec,
            Phase::RollingBack | Phase::RolledBack if has || member.has_abandoned(rollout) => {
                Content::Rollback
            }
            _ if has => Content::Spec,
            _ if failed => Content::Rollback,
            Phase::RollingBack | Phase::RolledBack if stable.is_some() => Content::Stable,
            _ if member.holds.is_some() && member.holds != stable => Content::AsOrdered,
            // Also where it is stable there already: what another tuning has taken of it may come back.
            _ => Content::Stable,
        }
    }
}

/// Whether more of the nodes that were ordered this revision have failed than may. What a rule refuses is no failure: the
/// agent has said no, and nothing has happened.
pub(super) fn fails_too_often(
    spec: &TcpCloseTuningSpec,
    rollout: &RolloutStatus,
    members: &[Member<'_>],
) -> bool {
    failed(rollout, members).count() > spec.max_failed_nodes(members.len())
}

/// The nodes that were ordered this revision and failed, or are lost.
pub(super) fn failed<'m, 'a>(
    rollout: &'m RolloutStatus,
    members: &'m [Member<'a>],
) -> impl Iterator<Item = &'m Member<'a>> {
    members.iter().filter(move |member| {
        member.is_lost(rollout) || (member.failure.is_some() && member.has(&rollout.revision))
    })
}
