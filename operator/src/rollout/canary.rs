//! Which nodes go first.

use std::collections::BTreeSet;

use crds::TcpCloseTuningSpec;

use super::Member;

/// The nodes that go first: those that have been ordered already, then the first of those that are able to by their place, one for each
/// release of a kernel before a second one of any.
pub(super) fn canaries<'m, 'a>(
    spec: &TcpCloseTuningSpec,
    ordered: Vec<&'m Member<'a>>,
    able: impl Iterator<Item = &'m Member<'a>>,
) -> Vec<&'m Member<'a>> {
    let canary = spec.rollout.as_ref().and_then(|rollout| rollout.canary.as_ref());
    let selector = canary.and_then(|canary| canary.node_selector.as_ref());
    let wanted = canary.and_then(|canary| canary.nodes).unwrap_or(1);
    let more = usize::try_from(wanted).unwrap_or(usize::MAX).saturating_sub(ordered.len());
    if more == 0 {
        return ordered;
    }
    let mut able: Vec<_> = able
        .filter(|member| selector.is_none_or(|selector| selector.matches(member.node.labels())))
        .collect();
    able.sort_by_cached_key(|member| member.rank());
    let mut kernels: BTreeSet<_> = ordered.iter().map(|member| member.kernel()).collect();
    let (first, rest): (Vec<_>, Vec<_>) =
        able.into_iter().partition(|member| kernels.insert(member.kernel()));
    ordered.into_iter().chain(first.into_iter().chain(rest).take(more)).collect()
}
