//! Nodes that keep a slot of a rollout although its tuning is no longer for them: their label went, the selector was edited, or
//! the tuning was deleted and made anew. What was ordered there is on its way all the same.

use crds::tuning::RolloutStatus;

use super::Member;
use super::begin::is_everywhere;
use super::member::{IsReachable, own_entries};
use crate::snapshot::{Snapshot, Tuning};

/// A node that holds an order of a tuning which is no longer for it.
#[derive(Clone, Debug)]
pub struct Stray<'a> {
    /// The node, as the tuning of its order saw it.
    member: Member<'a>,
    /// The uid of that tuning.
    ordered_by: &'a str,
    /// Whether that was an earlier object of this name.
    is_of_another: bool,
}

/// The nodes that hold an order of this tuning, or of an earlier object of its name, and that it is no longer for; none
/// where its rollout is over.
pub fn strays<'a>(tuning: &Tuning, snapshot: &'a Snapshot, is_reachable: IsReachable<'_>) -> Vec<Stray<'a>> {
    if is_everywhere(tuning) {
        return Vec::new();
    }
    let strays = snapshot.nodes_with_orders().filter_map(|(name, node, order)| {
        let order = order?;
        let mut of_name =
            order.spec.sysctls.iter().map(|entry| &entry.tuning).filter(|by| by.name == tuning.name);
        let by = of_name.find(|by| by.uid != tuning.uid || !tuning.matches(node))?;
        Some(Stray {
            member: Member::new(name, node, Some(order), &by.uid, is_reachable(node, Some(order))),
            ordered_by: &by.uid,
            is_of_another: by.uid != tuning.uid,
        })
    });
    strays.collect()
}

impl Stray<'_> {
    pub(super) fn name(&self) -> &str {
        self.member.name
    }

    /// Whether it keeps a slot of this rollout.
    pub(super) fn is_in_flight(&self, rollout: &RolloutStatus) -> bool {
        let Member { order, settled, reachable, .. } = self.member;
        // Which of the nodes that are down now were so before their order, only the earlier object knew.
        if self.is_of_another {
            return reachable && !settled;
        }
        // A restore is still of the revision that it ends.
        let mut revisions = own_entries(order, self.ordered_by).map(|entry| entry.tuning.revision.as_str());
        let stable = rollout.stable.as_ref().map(|stable| stable.revision.as_str());
        revisions.any(|revision| {
            let is_lost = !reachable && revision == rollout.revision;
            is_lost || (!settled && Some(revision) != stable)
        })
    }
}
