//! What an order undoes, compared with the one that is stored.

use crds::TcpCloseNodeSpec;
use crds::node::{EntryAction, SysctlEntry, TuningReference};

use super::Tuning;
use crate::resolve::{NodeOrder, is_order};

/// Something that an order undoes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undone {
    /// The sysctl, or the uid of a tuning that has only been observing.
    pub(super) what: String,
    /// The tuning that loses it.
    pub(super) tuning: Tuning,
    /// How much that is.
    pub(super) weight: Weight,
}

/// How much is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// No value changes: an equal one goes over to another tuning, or an observer leaves.
    Moves,
    /// A value goes back to the tuning's stable revision.
    Returns,
    /// A value is put back or let go of, or gives way to that of another tuning because its own has left the node.
    Takes,
}

/// What an order undoes.
pub(super) fn undone(stored: &TcpCloseNodeSpec, order: &NodeOrder) -> Vec<Undone> {
    // As on most nodes.
    if stored.sysctls.is_one(&order.entries) && stored.observe.is_one(&order.observe) {
        return Vec::new();
    }
    let entries = order.entries.iter().filter_map(|next| {
        let last = stored.sysctls.iter().find(|last| last.name == next.name);
        let weight = weight(last, next, order)?;
        Some(of(&next.name, &last.unwrap_or(next).tuning, weight))
    });
    let before = stored.observe.iter().map(|observed| &observed.tuning);
    let gone = before.filter(|tuning| {
        let observes = order.observe.iter().any(|observed| observed.tuning.uid == tuning.uid);
        !observes && !order.claims.iter().any(|claim| claim.tuning == tuning.uid)
    });
    entries.chain(gone.map(|tuning| of(&tuning.uid, tuning, Weight::Moves))).collect()
}

fn of(what: &str, tuning: &TuningReference, weight: Weight) -> Undone {
    Undone { what: what.into(), tuning: (tuning.name.clone(), tuning.uid.clone()), weight }
}

fn weight(last: Option<&SysctlEntry>, next: &SysctlEntry, order: &NodeOrder) -> Option<Weight> {
    if is_rollback(next) && !last.is_some_and(is_rollback) {
        return Some(Weight::Returns);
    }
    let last = last.filter(|last| is_order(last))?;
    if !is_order(next) {
        return Some(Weight::Takes);
    }
    // Not where it was beaten, and not where it was only held until another one orders the key.
    let left = last.action == EntryAction::Set
        && last.tuning.uid != next.tuning.uid
        && !order
            .claims
            .iter()
            .any(|claim| claim.tuning == last.tuning.uid && claim.sysctl.name() == last.name);
    left.then_some(if last.value == next.value { Weight::Moves } else { Weight::Takes })
}

/// Whether an entry takes its node back to a stable revision.
pub(super) fn is_rollback(entry: &SysctlEntry) -> bool {
    entry.rollback == Some(true)
}
