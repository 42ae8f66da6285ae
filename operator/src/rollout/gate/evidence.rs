//! What the nodes of a rollout report that the gate may look at.

use crds::node::{EntryAction, SysctlStatus};
use crds::state::State;
use crds::tuning::RolloutStatus;
use crds::{TcpCloseNode, TcpCloseNodeStatus};

use super::{Changed, Evidence};
use crate::resolve::{is_acknowledged, orders_of};
use crate::rollout::begin::has_given_up;

/// The evidence about a rollout of the tuning with this uid, from the orders and reports of the nodes that it matches.
///
/// A node counts as changed when it has acknowledged the revision and something of it is in force there; until then it
/// says nothing, neither for the change nor of how things are without it. Nor does one that holds a revision which was given up:
/// that may have been as bad.
pub fn evidence<'a>(
    orders: impl IntoIterator<Item = &'a TcpCloseNode>,
    tuning: &str,
    rollout: &RolloutStatus,
) -> Evidence<'a> {
    let mut evidence = Evidence::default();
    for order in orders {
        let Some(status) = &order.status else { continue };
        let ordered = ordered(order, tuning, &rollout.revision);
        if !ordered.is_empty() {
            let changed = changed(order, status, &ordered, rollout);
            evidence.changed.extend(changed.filter(|_| is_acknowledged(order)));
        } else if !orders_of(order, tuning).any(|entry| has_given_up(rollout, &entry.tuning.revision)) {
            evidence.unchanged.extend(&status.rates);
        }
    }
    evidence
}

/// The sysctls that this revision orders on a node.
fn ordered<'a>(order: &'a TcpCloseNode, tuning: &str, revision: &str) -> Vec<&'a str> {
    let of_revision = order.spec.sysctls.iter().filter(|entry| {
        entry.action == EntryAction::Set && entry.tuning.uid == tuning && entry.tuning.revision == revision
    });
    of_revision.map(|entry| entry.name.as_str()).collect()
}

/// `None` where nothing of what is ordered is in force.
fn changed<'a>(
    order: &'a TcpCloseNode,
    status: &'a TcpCloseNodeStatus,
    ordered: &[&str],
    rollout: &RolloutStatus,
) -> Option<Changed<'a>> {
    let node = order.metadata.name.as_deref().unwrap_or_default();
    let mut rows = status.sysctls.iter().filter(|row| ordered.contains(&row.name.as_str()));
    rows.any(is_in_force).then(|| Changed {
        node,
        before: status.rates_before.as_ref().filter(|_| has_own_past(node, rollout)),
        // An agent begins to count anew when it changes a value, so none of this is from before.
        since: status.rates_since.as_ref().or(status.rates.as_ref()),
    })
}

/// The same nodes go first at every edit: what went first before and was given up for this one, without being taken back, is
/// what the canaries held until they took this one. Such a past is none.
fn has_own_past(node: &str, rollout: &RolloutStatus) -> bool {
    let left = rollout.attempted.iter().any(|name| Some(name) != rollout.failed_revision.as_ref());
    !(left && rollout.canaries.iter().any(|name| name == node))
}

fn is_in_force(row: &SysctlStatus) -> bool {
    matches!(State::parse(&row.state), Some(State::Applied | State::AtRisk))
}

#[cfg(test)]
mod tests {
    use crds::node::Rates;

    use super::*;
    use crate::fixtures::{Cluster, tuning};

    fn rates(overflows: u64) -> Rates {
        Rates { seconds: 60, overflows: Some(overflows), ..Rates::default() }
    }

    /// Two nodes, of which the first holds the revision that is asked for and the second an earlier one.
    fn half_way() -> Cluster {
        let web = tuning("web", 30).with(|spec| spec.sysctls.tcp_orphan_retries = Some(3));
        let mut cluster = Cluster::settled(&["node-1", "node-2"], vec![web]);
        cluster.edit_order("node-2", |order| {
            order.spec.sysctls.iter_mut().for_each(|entry| entry.tuning.revision = "earlier".into());
        });
        for node in ["node-1", "node-2"] {
            cluster.agent_reports(node, |status| status.rates = Some(rates(1)));
        }
        cluster
    }

    /// The changed nodes, as `node-1 5 -> 7` by their overflows, and the overflows of the unchanged ones.
    fn told(cluster: &Cluster) -> (Vec<String>, Vec<u64>) {
        let tuning = &cluster.snapshot.tunings[0];
        let orders = cluster.snapshot.orders.values().filter_map(|order| order.0.as_ref().ok());
        let evidence = evidence(orders, &tuning.uid, tuning.rollout().unwrap());
        let overflows = |rates: &Rates| rates.overflows.unwrap();
        let tell = |rates: Option<&Rates>| rates.map_or("?".into(), |rates| overflows(rates).to_string());
        let changed = evidence
            .changed
            .iter()
            .map(|changed| format!("{} {} -> {}", changed.node, tell(changed.before), tell(changed.since)));
        (changed.collect(), evidence.unchanged.iter().map(|rates| overflows(rates)).collect())
    }

    #[test]
    fn a_node_that_holds_the_revision_is_changed_and_one_that_holds_another_is_not() {
        assert_eq!(told(&half_way()), (vec!["node-1 ? -> 1".into()], vec![1]));
    }

    #[test]
    fn what_happened_over_the_whole_time_since_the_change_says_more_than_the_last_minute() {
        let mut cluster = half_way();
        cluster.agent_reports("node-1", |status| {
            (status.rates, status.rates_since) = (Some(rates(1)), Some(rates(9)));
            status.rates_before = Some(rates(5));
        });
        assert_eq!(told(&cluster).0, ["node-1 5 -> 9"]);
    }

    #[test]
    fn a_node_that_has_not_acknowledged_the_revision_is_no_evidence() {
        let mut cluster = half_way();
        cluster.edit_order("node-1", |order| order.metadata.generation = Some(99));
        assert_eq!(told(&cluster), (vec![], vec![1]));
    }

    /// The rollout of what `node-1` holds, which went first there, after `earlier` was given up.
    fn after_earlier(change: impl FnOnce(&mut RolloutStatus)) -> Cluster {
        let mut cluster = half_way();
        cluster.agent_reports("node-1", |status| {
            (status.rates, status.rates_before) = (Some(rates(9)), Some(rates(5)));
        });
        let rollout = cluster.snapshot.tunings[0].status.as_mut().unwrap().rollout.as_mut().unwrap();
        (rollout.attempted, rollout.canaries) = (vec!["earlier".into()], vec!["node-1".into()]);
        change(rollout);
        cluster
    }

    #[test]
    fn a_node_on_a_revision_that_was_given_up_is_not_unchanged() {
        assert_eq!(told(&after_earlier(|_| {})).1, [0; 0]);
        let failed = after_earlier(|rollout| {
            (rollout.attempted, rollout.failed_revision) = (vec![], Some("earlier".into()));
        });
        assert_eq!(told(&failed).1, [0; 0]);
    }

    #[test]
    fn a_canary_that_held_a_revision_that_was_given_up_has_no_past() {
        assert_eq!(told(&after_earlier(|_| {})).0, ["node-1 ? -> 9"]);
        let later = after_earlier(|rollout| rollout.canaries.clear());
        assert_eq!(told(&later).0, ["node-1 5 -> 9"], "one that did not go first came from what is stable");
    }

    #[test]
    fn a_canary_that_was_taken_back_after_a_failure_has_a_past() {
        let failed = after_earlier(|rollout| rollout.failed_revision = Some("earlier".into()));
        assert_eq!(told(&failed).0, ["node-1 5 -> 9"]);
    }

    #[test]
    fn a_node_that_refuses_all_of_it_is_no_evidence() {
        let mut cluster = half_way();
        cluster.agent_reports("node-1", |status| {
            status.sysctls.iter_mut().for_each(|row| row.state = "Refused".into());
        });
        assert_eq!(told(&cluster), (vec![], vec![1]));
    }
}
