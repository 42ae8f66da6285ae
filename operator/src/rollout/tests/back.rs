use super::*;

/// A canary of `web` that fails under a gate.
fn failed(rollout: Rollout) -> (Cluster, String) {
    let mut cluster = completed(4, Some(rollout));
    cluster.edit(31);
    cluster.assign();
    let canary = cluster.ordered(31).remove(0);
    cluster.agents_apply();
    cluster.agent_reports(&canary, in_state("Failed", "no space left"));
    (cluster, canary)
}

/// The same, and taken back.
fn taken_back() -> (Cluster, String) {
    let (mut cluster, canary) = failed(gated());
    cluster.statuses();
    cluster.turns(3);
    assert_eq!((cluster.phase().as_str(), cluster.ordered(31).len()), ("RolledBack", 0));
    (cluster, canary)
}

#[test]
fn a_failure_is_stored_before_anything_is_taken_back_and_says_what_failed() {
    let (mut cluster, canary) = failed(gated());
    cluster.assign();
    assert_eq!(cluster.ordered(31), std::slice::from_ref(&canary), "nothing is stored yet");
    assert_eq!(cluster.verdict("web"), "False RollingBack Reconciling");
    let reason = cluster.rollout().failed_reason.unwrap();
    assert!(reason.contains(&canary) && reason.contains("no space left"), "{reason}");
    cluster.assign();
    assert_eq!(cluster.stored(&canary), ["tcp_fin_timeout Set 30 by web (rollback)"]);
}

#[test]
fn what_failed_is_taken_back_the_others_are_not_touched_and_it_is_not_tried_again() {
    let (mut cluster, canary) = failed(gated());
    cluster.statuses();
    let others = cluster.snapshot.orders.clone();
    cluster.turns(5);
    assert_eq!(cluster.verdict("web"), "False RolledBack Stalled");
    assert!(cluster.ordered(31).is_empty());
    for (name, order) in others.iter().filter(|(name, _)| **name != canary) {
        let (before, after) = (order.0.as_ref().unwrap(), cluster.snapshot.orders[name].0.as_ref().unwrap());
        assert_eq!(before.metadata.generation, after.metadata.generation, "{name}");
    }
    let status = cluster.status("web");
    let nodes = status.nodes.unwrap();
    assert_eq!((nodes.failed, nodes.pending, nodes.updated), (1, 3, 0));
}

#[test]
fn a_failed_revision_is_tried_again_when_a_person_says_so() {
    let (mut cluster, canary) = taken_back();
    cluster.snapshot.tunings[0].retry_at = Some("2026-11-23".into());
    cluster.turn();
    assert_eq!(cluster.ordered(31), [canary]);
    assert_eq!(cluster.phase(), "Soaking");
    assert_eq!(cluster.rollout().failed_revision, None);
}

#[test]
fn a_wish_to_try_again_that_is_older_than_the_failure_is_none() {
    let (mut cluster, _) = failed(gated());
    cluster.snapshot.tunings[0].retry_at = Some("2026-11-22".into());
    cluster.statuses();
    cluster.turns(4);
    assert_eq!(cluster.verdict("web"), "False RolledBack Stalled");
}

#[test]
fn another_revision_is_tried_after_a_failed_one() {
    let (mut cluster, canary) = taken_back();
    cluster.edit(32);
    cluster.turn();
    assert_eq!(cluster.ordered(32), [canary]);
    cluster.edit(31);
    cluster.turns(2);
    assert_eq!(cluster.ordered(31).len(), 1, "the spec has differed since");
}

#[test]
fn an_edit_in_the_middle_of_the_way_back_leaves_nobody_on_what_failed() {
    let (mut cluster, canary) = failed(gated());
    cluster.statuses();
    assert_eq!(cluster.phase(), "RollingBack");
    cluster.edit(32);
    cluster.assign();
    assert_eq!(cluster.stored(&canary), ["tcp_fin_timeout Set 30 by web (rollback)"]);
}

#[test]
fn a_node_that_is_down_when_it_is_taken_back_finds_its_order_later() {
    let (mut cluster, canary) = failed(gated());
    cluster.statuses();
    cluster.node_is_down(&canary);
    cluster.assign();
    cluster.statuses();
    assert_eq!(cluster.verdict("web"), "False RolledBack Stalled");
    assert_eq!(cluster.stored(&canary), ["tcp_fin_timeout Set 30 by web (rollback)"]);
}

#[test]
fn a_node_that_refuses_what_it_is_taken_back_to_has_answered() {
    let (mut cluster, canary) = failed(gated());
    cluster.statuses();
    cluster.assign();
    let generation = |cluster: &Cluster| {
        cluster.snapshot.orders[&canary].0.as_ref().unwrap().metadata.generation.unwrap_or_default()
    };
    let ordered = generation(&cluster);
    for _ in 0..3 {
        cluster.agent_reports(&canary, in_state("Refused", "it was never in force here"));
        cluster.statuses();
        cluster.assign();
    }
    assert_eq!((cluster.phase().as_str(), generation(&cluster)), ("RolledBack", ordered));
    assert_eq!(cluster.verdict("web"), "False RolledBack Stalled");
    assert_eq!(cluster.stored(&canary), ["tcp_fin_timeout Set 30 by web (rollback)"]);
    cluster.edit(32);
    cluster.assign();
    assert_eq!(cluster.ordered(32), [canary], "it takes part in what comes next");
}

#[test]
fn without_a_gate_nothing_is_taken_back() {
    let (mut cluster, canary) = failed(Rollout { soak_seconds: Some(0), ..at_most(1) });
    cluster.statuses();
    cluster.assign();
    assert_eq!(cluster.ordered(31), [canary]);
    assert_eq!(cluster.verdict("web"), "False WriteFailed Stalled");
}

#[test]
fn a_first_revision_that_fails_is_put_back_whatever_its_removal_policy() {
    let web = tuning("web", 30).with(|spec| spec.rollout = Some(gated())).keeping();
    let mut cluster = Cluster::new(&["n1", "n2"], vec![web]);
    cluster.turns(2);
    let canary = cluster.ordered(30).remove(0);
    cluster.agent_reports(&canary, in_state("Failed", "io"));
    cluster.statuses();
    cluster.assign();
    assert_eq!(cluster.stored(&canary), ["tcp_fin_timeout Restore by web"]);
    cluster.turns(3);
    assert_eq!(cluster.verdict("web"), "False RolledBack Stalled");
    assert!(cluster.stored(&canary).is_empty());
    cluster.join("n3");
    cluster.turns(2);
    assert!(cluster.stored("n3").is_empty(), "nothing is stable");
}

#[test]
fn a_spec_equal_to_the_stable_one_is_returned_to_at_once() {
    let mut cluster = completed(4, Some(Rollout { soak_seconds: Some(0), ..at_most(1) }));
    cluster.edit(31);
    cluster.turns(3);
    let changed = cluster.ordered(31);
    assert!(changed.len() > 1, "{changed:?}");
    cluster.change(|spec| {
        spec.sysctls.tcp_fin_timeout_seconds = Some(30);
        spec.rollout.as_mut().unwrap().paused = Some(true);
    });
    cluster.assign();
    assert!(cluster.ordered(31).is_empty());
    for name in &changed {
        assert_eq!(cluster.stored(name), ["tcp_fin_timeout Set 30 by web (rollback)"]);
    }
    cluster.turns(2);
    assert_eq!(cluster.verdict("web"), "True Applied");
    let before = cluster.snapshot.orders[&changed[0]].clone();
    cluster.turns(3);
    assert_eq!(cluster.stored(&changed[0]), ["tcp_fin_timeout Set 30 by web (rollback)"], "nothing moves");
    let generation = |order: &crate::snapshot::OrderObject| order.0.as_ref().unwrap().metadata.generation;
    assert_eq!(generation(&before), generation(&cluster.snapshot.orders[&changed[0]]));
}

#[test]
fn what_was_given_up_for_another_is_taken_back_with_it() {
    let mut cluster = completed(4, Some(Rollout { soak_seconds: Some(0), ..at_most(1) }));
    cluster.edit(31);
    cluster.turn();
    cluster.edit(32);
    cluster.assign();
    assert!(!cluster.ordered(31).is_empty() || !cluster.ordered(32).is_empty());
    cluster.statuses();
    cluster.edit(30);
    cluster.assign();
    assert_eq!(cluster.ordered(30).len(), 4);
}

#[test]
fn figures_that_say_nothing_hold_the_rollout_and_stall_after_the_deadline() {
    let mut cluster = completed(4, Some(Rollout { progress_deadline_seconds: Some(100), ..gated() }));
    cluster.edit(31);
    cluster.turn();
    cluster.pass(60);
    cluster.turn();
    assert_eq!(cluster.verdict("web"), "False GateInconclusive Reconciling");
    cluster.pass(99);
    cluster.turn();
    assert_eq!(cluster.verdict("web"), "False GateInconclusive Reconciling");
    cluster.pass(1);
    cluster.turn();
    assert_eq!(cluster.verdict("web"), "False GateInconclusive Stalled");
    assert_eq!(cluster.ordered(31).len(), 1);
}

#[test]
fn figures_that_say_nothing_let_it_go_on_where_its_author_says_so() {
    let gate = Gate { when_inconclusive: Some(crds::tuning::WhenInconclusive::Proceed), ..Gate::default() };
    let mut cluster = completed(4, Some(Rollout { gate: Some(gate), ..gated() }));
    cluster.edit(31);
    cluster.turn();
    cluster.pass(60);
    cluster.turns(6);
    assert_eq!(cluster.verdict("web"), "True Applied");
}
