//! Who does not move for long needs a person, unless nobody let it move.

use super::*;
use crate::history::History;
use crate::switch::Switch;

/// The second of three nodes has been ordered a change and does not answer.
fn stuck() -> Cluster {
    let mut cluster = completed(3, Some(Rollout { soak_seconds: Some(0), ..at_most(1) }));
    cluster.edit(31);
    cluster.turn();
    cluster.assign();
    cluster.statuses();
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    cluster
}

/// Time passes, and every node reports without having done anything.
fn pass(cluster: &mut Cluster, seconds: u64) {
    cluster.pass(seconds);
    for name in names(3) {
        let before = cluster.snapshot.orders[&name].0.as_ref().unwrap().status.clone().unwrap();
        cluster.agent_reports(&name, |status| {
            *status = crds::TcpCloseNodeStatus { reported_at: status.reported_at.clone(), ..before };
        });
    }
}

#[test]
fn a_rollout_that_does_not_move_is_stalled_after_its_deadline() {
    let mut cluster = stuck();
    pass(&mut cluster, 599);
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    pass(&mut cluster, 1);
    assert_eq!(cluster.verdict("web"), "False RollingOut Stalled");
}

#[test]
fn a_rollout_that_was_paused_for_long_goes_on_without_being_stalled() {
    let mut cluster = stuck();
    cluster.change(|spec| spec.rollout.as_mut().unwrap().paused = Some(true));
    assert_eq!(cluster.verdict("web"), "False Paused");
    pass(&mut cluster, 5000);
    assert_eq!(cluster.verdict("web"), "False Paused");
    cluster.change(|spec| spec.rollout.as_mut().unwrap().paused = None);
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    pass(&mut cluster, 599);
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    pass(&mut cluster, 1);
    assert_eq!(cluster.verdict("web"), "False RollingOut Stalled");
}

#[test]
fn a_rollout_that_the_switch_held_for_long_goes_on_without_being_stalled() {
    let mut cluster = stuck();
    cluster.snapshot.switch = Switch::Hold;
    assert_eq!(cluster.verdict("web"), "False Suspended");
    pass(&mut cluster, 5000);
    let held = cluster.status("web");
    cluster.snapshot.switch = Switch::Run;
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    assert!(held.rollout.unwrap().progressed_at < cluster.rollout().progressed_at);
}

#[test]
fn a_rollout_that_no_operator_saw_for_long_goes_on_without_being_stalled() {
    let mut cluster = stuck();
    pass(&mut cluster, 5000);
    cluster.history = History::default();
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    pass(&mut cluster, 600);
    assert_eq!(cluster.verdict("web"), "False RollingOut Stalled");
    cluster.history = History::default();
    assert_eq!(cluster.verdict("web"), "False RollingOut Stalled", "what needed a person needs one still");
}

#[test]
fn a_rollout_whose_last_node_is_another_ones_canary_waits_for_it() {
    let other = tuning("other", 0).priority(1).with(|spec| {
        spec.sysctls.tcp_fin_timeout_seconds = None;
        spec.sysctls.tcp_orphan_retries = Some(4);
        spec.rollout = Some(Rollout { soak_seconds: Some(3600), ..at_most(1) });
    });
    let web = tuning("web", 30).with(|spec| spec.rollout = Some(at_most(1)));
    let mut cluster = Cluster::new(&["n01", "n02", "n03"], vec![other, web]);
    cluster.turns(10);
    assert_eq!(cluster.verdict("other"), "False Soaking Reconciling");
    cluster.pass(61);
    cluster.turns(5);
    assert_eq!(cluster.ordered(30).len(), 2);
    for _ in 0..5 {
        cluster.pass(601);
        cluster.turn();
        assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    }
    cluster.pass(1000);
    cluster.agents_apply();
    cluster.statuses();
    assert_eq!(cluster.verdict("other"), "False RollingOut Reconciling");
    cluster.assign();
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    cluster.turns(5);
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn an_order_like_any_other_that_labels_hold_writes_nothing_while_they_do() {
    let mut cluster = completed(2, None);
    for name in ["n01", "n02"] {
        cluster.label(name, HOLD_LABEL, "true");
    }
    cluster.edit(31);
    cluster.node_is_down("n02");
    cluster.statuses();
    assert_eq!(cluster.verdict("web"), "False Suspended");
    let before = cluster.status("web");
    cluster.pass(5);
    assert_eq!(cluster.status("web"), before);
}
