//! The nodes that a tuning is for, as its rollout sees them. All of it comes from what is stored, and from who is heard.

use crds::TcpCloseNode;
use crds::node::{SysctlEntry, SysctlStatus};
use crds::state::State;
use crds::tuning::RolloutStatus;
use sha2::{Digest, Sha256};

use super::begin::has_given_up;
use crate::resolve::{Claim, Matched, Standing, is_acknowledged, is_order, orders_of};
use crate::snapshot::{Node, Tuning};

/// A node that a tuning is for.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// The Node.
    pub node: &'a Node,
    /// Its order and report, where there is one that can be read.
    pub order: Option<&'a TcpCloseNode>,
    /// The uid of the tuning.
    tuning: &'a str,
    /// The revision of the tuning that keeps values in force there.
    pub holds: Option<&'a str>,
    /// Whether the spec orders something there that no other tuning does.
    wins: bool,
    /// The tuning that ordered last what this one is to order, and orders it no longer.
    pub heir_to: Option<&'a str>,
    /// Whether its kubelet and its agent are heard.
    pub reachable: bool,
    /// Whether its agent has carried out the order as it stands, with every sysctl of the tuning read back.
    pub settled: bool,
    /// What has failed there, in the agent's words.
    pub failure: Option<&'a str>,
}

/// Whether a Node, which has this order, can be ordered something.
pub type IsReachable<'a> = &'a dyn Fn(&Node, Option<&TcpCloseNode>) -> bool;

/// The nodes that a tuning is for, as its rollout sees them.
pub fn members<'a>(
    tuning: &'a Tuning,
    matched: &[Matched<'a>],
    is_reachable: IsReachable<'_>,
) -> Vec<Member<'a>> {
    let members = matched.iter().map(|matched| {
        let (node, order) = (matched.node, matched.order());
        let claims = matched.wanted.map_or(&[][..], |order| &order.claims);
        let wins = claims.iter().any(|claim| claim.tuning == tuning.uid && claim.standing == Standing::Wins);
        let heir_to = order.and_then(|order| heir_to(order, &tuning.uid, claims));
        let reachable = is_reachable(node, order);
        Member { wins, heir_to, ..Member::new(matched.name, node, order, &tuning.uid, reachable) }
    });
    members.collect()
}

impl<'a> Member<'a> {
    pub(super) fn new(
        name: &'a str,
        node: &'a Node,
        order: Option<&'a TcpCloseNode>,
        tuning: &'a str,
        reachable: bool,
    ) -> Self {
        let entries = || own_entries(order, tuning);
        let mut rows = entries().filter_map(|entry| row(order?, &entry.name));
        let holds = order.and_then(|order| orders_of(order, tuning).next());
        let read_back =
            entries().all(|entry| is_read_back(entry, order.and_then(|order| row(order, &entry.name))));
        let failed =
            rows.find(|row| matches!(State::parse(&row.state), Some(State::Failed | State::Contended)));
        Self {
            name,
            node,
            order,
            tuning,
            holds: holds.map(|entry| entry.tuning.revision.as_str()),
            wins: false,
            heir_to: None,
            reachable,
            settled: order.is_some_and(is_acknowledged) && read_back,
            failure: failed.map(|row| row.message.as_deref().unwrap_or(&row.state)),
        }
    }

    /// Whether the tuning has anything to do there.
    pub fn is_concerned(&self) -> bool {
        self.wins || own_entries(self.order, self.tuning).next().is_some()
    }

    /// Whether something of the tuning's was taken back, or is on its way.
    pub fn is_returning(&self) -> bool {
        own_entries(self.order, self.tuning).any(|entry| !is_order(entry) || entry.rollback == Some(true))
    }

    /// Whether it has been ordered this revision. A revision that orders nothing there may take something away.
    pub fn has(&self, revision: &str) -> bool {
        match self.holds {
            Some(holds) => holds == revision,
            None => !self.wins && self.is_concerned(),
        }
    }

    /// Whether it has been ordered this revision, and has settled.
    pub fn is_done(&self, revision: &str) -> bool {
        self.has(revision) && self.settled && self.reachable
    }

    /// Whether it holds a revision that was given up.
    pub fn has_abandoned(&self, rollout: &RolloutStatus) -> bool {
        self.holds.is_some_and(|holds| has_given_up(rollout, holds))
    }

    /// Whether it keeps a slot: it was ordered a change and has not settled, or cannot be reached since.
    pub fn is_in_flight(&self, rollout: &RolloutStatus) -> bool {
        if self.has(&rollout.revision) {
            return !(self.settled && self.reachable);
        }
        let stable = rollout.stable.as_ref().map(|stable| stable.revision.as_str());
        let is_moving = self.holds.is_some() && self.holds != stable;
        !self.settled && (is_moving || (self.is_returning() && self.reachable))
    }

    /// Whether it was reachable when it was ordered, and is not since: nodes that are not are ordered no change.
    pub fn is_lost(&self, rollout: &RolloutStatus) -> bool {
        !self.reachable && self.is_in_flight(rollout)
    }

    /// Whether it can be ordered a revision, now or when it has settled.
    pub fn is_able(&self, revision: &str) -> bool {
        self.is_concerned() && !self.has(revision) && self.reachable && !self.node.is_held()
    }

    /// Whether nothing is under way there: one whose order is unacknowledged may be taking part in another rollout, and one on
    /// a revision that failed is taken back first.
    pub fn is_idle(&self, rollout: &RolloutStatus) -> bool {
        let failed = self.holds.is_some() && self.holds == rollout.failed_revision.as_deref();
        self.order.is_some_and(is_acknowledged) && !failed
    }

    /// The release of its kernel, as its agent reports it.
    pub fn kernel(&self) -> Option<&'a str> {
        Some(self.order?.status.as_ref()?.node.as_ref()?.kernel_release.as_str())
    }

    /// Its place among the nodes of the tuning: the same in every cluster and at every edit, and no other for its name.
    pub fn rank(&self) -> [u8; 32] {
        let digest = Sha256::new().chain_update(self.tuning).chain_update([0]).chain_update(self.node.uid());
        digest.finalize().into()
    }
}

/// Whose value stays on a node until this tuning comes to it.
fn heir_to<'a>(order: &'a TcpCloseNode, tuning: &str, claims: &[Claim]) -> Option<&'a str> {
    let others = order.spec.sysctls.iter().filter(|entry| entry.tuning.uid != tuning && is_order(entry));
    let mut left = others.filter(|entry| {
        let mut of_key = claims.iter().filter(|claim| claim.sysctl.name() == entry.name);
        let is_ours = |claim: &Claim| claim.tuning == tuning && claim.standing == Standing::Wins;
        of_key.clone().any(is_ours) && of_key.all(|claim| claim.tuning != entry.tuning.uid)
    });
    left.next().map(|entry| entry.tuning.name.as_str())
}

pub(super) fn own_entries<'a>(
    order: Option<&'a TcpCloseNode>,
    tuning: &str,
) -> impl Iterator<Item = &'a SysctlEntry> {
    order.into_iter().flat_map(|order| &order.spec.sysctls).filter(move |entry| entry.tuning.uid == tuning)
}

fn row<'a>(order: &'a TcpCloseNode, name: &str) -> Option<&'a SysctlStatus> {
    order.status.as_ref()?.sysctls.iter().find(|row| row.name == name)
}

/// Whether what a node says of a sysctl is its answer to an entry, whatever it is: a rule may forbid it, a write may fail. Of a
/// sysctl that it has let go an agent says nothing.
fn is_read_back(entry: &SysctlEntry, row: Option<&SysctlStatus>) -> bool {
    let Some(row) = row else { return !is_order(entry) };
    let of_this = entry.value.is_none() || row.desired.is_none() || row.desired == entry.value;
    of_this && !matches!(State::parse(&row.state), Some(State::Pending | State::Restoring))
}
