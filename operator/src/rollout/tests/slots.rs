//! Who keeps a slot, and who does not.

use std::collections::BTreeSet;

use super::*;
use crate::run::resolve_now;

/// `web` has been changed, on four nodes with a label and one at a time.
fn edited() -> Cluster {
    let names = names(4);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let web = tuning("web", 30).with(|spec| {
        spec.node_selector = selector("role", "web");
        spec.rollout = Some(at_most(1));
    });
    let mut cluster = Cluster::new(&names, vec![web]);
    for name in &names {
        cluster.label(name, "role", "web");
    }
    cluster.turns(8);
    assert_eq!((cluster.phase().as_str(), cluster.ordered(30).len()), ("Completed", 4));
    cluster.edit(31);
    cluster
}

/// And it is on its way to one of them.
fn on_its_way() -> (Cluster, String) {
    let mut cluster = edited();
    cluster.assign();
    let node = cluster.ordered(31).remove(0);
    (cluster, node)
}

impl Cluster {
    /// Whom the next pass would order this value, but for one.
    fn next(&self, fin_timeout: i64, but: &str) -> Vec<String> {
        let orders = self.resolve_now().orders.into_iter();
        let ordered = orders.filter(|(name, order)| {
            name != but && order.entries.iter().any(|entry| entry.value == Some(fin_timeout))
        });
        ordered.map(|(name, _)| name).collect()
    }

    fn all_report_but(&mut self, silent: &str) {
        for name in names(4).iter().filter(|name| *name != silent) {
            self.agent_reports(name, |_| {});
        }
    }
}

#[test]
fn a_node_whose_label_goes_keeps_its_slot_until_it_has_put_back_what_it_was_ordered() {
    let (mut cluster, node) = on_its_way();
    cluster.label(&node, "role", "idle");
    assert_eq!(cluster.next(31, &node), [""; 0], "while a limiter keeps its order");
    cluster.statuses();
    assert!(cluster.message("web").contains("1 in flight, at most 1"), "{}", cluster.message("web"));
    cluster.assign();
    assert_eq!(cluster.stored(&node), ["tcp_fin_timeout Restore by web"]);
    assert_eq!(cluster.next(31, &node), [""; 0]);
    cluster.agents_apply();
    assert_eq!(cluster.next(31, &node).len(), 1);
}

#[test]
fn a_node_whose_label_goes_before_the_cache_shows_its_order_keeps_its_slot() {
    let mut cluster = edited();
    let node = cluster.next(31, "").remove(0);
    cluster.label(&node, "role", "idle");
    let unseen = BTreeSet::from([node.clone()]);
    let orders = resolve_now(&cluster.snapshot, &BTreeSet::new(), &unseen).orders;
    assert!(orders.values().all(|order| order.entries.iter().all(|entry| entry.value != Some(31))));
}

#[test]
fn a_node_that_leaves_with_a_change_that_was_given_up_before_its_status_was_written_keeps_its_slot() {
    let (mut cluster, node) = on_its_way();
    cluster.edit(32);
    cluster.label(&node, "role", "idle");
    assert_eq!(cluster.next(32, &node), [""; 0]);
    cluster.agents_apply();
    assert_eq!(cluster.next(32, &node).len(), 1);
}

#[test]
fn a_lost_node_whose_label_goes_keeps_its_slot_until_its_node_is_deleted() {
    let (mut cluster, node) = on_its_way();
    cluster.node_is_down(&node);
    cluster.label(&node, "role", "idle");
    for _ in 0..3 {
        cluster.assign();
        cluster.all_report_but(&node);
        cluster.statuses();
        assert_eq!(cluster.next(31, &node), [""; 0]);
    }
    cluster.snapshot.nodes.remove(&node);
    assert_eq!(cluster.next(31, &node).len(), 1);
}

#[test]
fn a_node_that_was_down_before_its_order_and_leaves_keeps_no_slot() {
    let (mut cluster, node) = on_its_way();
    let down = names(4).into_iter().find(|name| *name != node).unwrap();
    cluster.node_is_down(&down);
    cluster.label(&down, "role", "idle");
    cluster.assign();
    cluster.all_report_but(&down);
    assert_eq!(cluster.stored(&down), ["tcp_fin_timeout Restore by web"]);
    assert_eq!(cluster.next(31, &node).len(), 1);
}

#[test]
fn a_tuning_made_anew_counts_what_the_earlier_one_of_its_name_has_under_way() {
    let (mut cluster, node) = on_its_way();
    cluster.snapshot.tunings[0].uid = "another".into();
    cluster.snapshot.tunings[0].status = None;
    assert_eq!(cluster.next(31, &node), [""; 0]);
    cluster.agents_apply();
    let everyone = cluster.next(31, "");
    assert_eq!(everyone.len(), 2, "the one that has it, and one more: {everyone:?}");
}

#[test]
fn a_tuning_made_anew_waits_for_no_node_that_is_down() {
    let mut cluster = completed(4, Some(at_most(1)));
    cluster.node_is_down("n02");
    cluster.snapshot.tunings[0].uid = "another".into();
    cluster.snapshot.tunings[0].status = None;
    cluster.edit(31);
    assert_eq!(cluster.next(31, "").len(), 1);
}

#[test]
fn a_node_that_is_down_while_its_tuning_only_observes_is_not_lost_by_the_next_change() {
    let mut cluster = completed(4, Some(gated()));
    cluster.node_is_down("n04");
    cluster.edit_tuning("web", Tuning::observing);
    cluster.edit(31);
    cluster.assign();
    assert_eq!(cluster.stored("n04"), ["tcp_fin_timeout Hold 30 by web"]);
    cluster.all_report_but("n04");
    cluster.statuses();
    cluster.change(|spec| spec.mode = crds::tuning::Mode::Enforce);
    cluster.statuses();
    for _ in 0..3 {
        cluster.assign();
        cluster.all_report_but("n04");
        cluster.statuses();
    }
    assert_eq!((cluster.phase().as_str(), cluster.ordered(31).len()), ("Soaking", 1));
}
