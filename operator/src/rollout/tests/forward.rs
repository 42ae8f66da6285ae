use super::*;

#[test]
fn up_to_ten_nodes_take_a_change_at_once() {
    let mut cluster = completed(10, None);
    cluster.edit(31);
    cluster.assign();
    assert_eq!(cluster.ordered(31).len(), 10);
    cluster.agents_apply();
    cluster.statuses();
    assert_eq!(cluster.phase(), "Completed");
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn of_more_nodes_one_goes_first_is_watched_for_a_minute_and_a_tenth_follow_at_a_time() {
    let mut cluster = completed(30, None);
    cluster.edit(31);
    cluster.assign();
    assert_eq!(cluster.ordered(31).len(), 1);
    cluster.statuses();
    assert_eq!(cluster.verdict("web"), "False Canary Reconciling");
    cluster.agents_apply();
    assert_eq!(cluster.verdict("web"), "False Soaking Reconciling");
    cluster.pass(59);
    cluster.turns(3);
    assert_eq!(cluster.ordered(31).len(), 1);
    cluster.pass(1);
    cluster.statuses();
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
    for ordered in [4, 7, 10] {
        cluster.assign();
        assert_eq!(cluster.ordered(31).len(), ordered);
        cluster.assign();
        assert_eq!(cluster.ordered(31).len(), ordered, "three are in flight");
        cluster.agents_apply();
    }
    cluster.turns(7);
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.rollout().stable.unwrap().sysctls.tcp_fin_timeout_seconds, Some(31));
}

#[test]
fn messages_say_how_far_it_is_and_until_when() {
    let mut cluster = completed(3, Some(Rollout { soak_seconds: Some(40), ..at_most(1) }));
    cluster.edit(31);
    cluster.assign();
    let canary = cluster.ordered(31).remove(0);
    let in_flight =
        format!("canary {canary} goes first; rolled out to 0 of 3 nodes, 1 in flight, at most 1 at a time");
    assert_eq!(cluster.message("web"), in_flight);
    cluster.agents_apply();
    let soaking = cluster.message("web");
    assert!(soaking.starts_with(&format!("canary {canary} settled; soaking until 1970-")), "{soaking}");
    cluster.pass(20);
    assert_eq!(cluster.message("web"), soaking, "it does not change with every second");
    cluster.pass(20);
    cluster.statuses();
    assert_eq!(cluster.message("web"), "rolled out to 1 of 3 nodes, 0 in flight, at most 1 at a time");
}

#[test]
fn canaries_are_the_same_at_every_edit() {
    let mut cluster = completed(30, None);
    cluster.edit(31);
    cluster.assign();
    let first = cluster.ordered(31);
    cluster.edit(32);
    cluster.turns(2);
    assert_eq!(cluster.ordered(32), first);
}

#[test]
fn each_release_of_a_kernel_has_a_canary_before_one_has_two() {
    let canary = Canary { nodes: Some(2), ..Canary::default() };
    let mut cluster = completed(12, Some(Rollout { canary: Some(canary), ..at_most(5) }));
    for name in names(12) {
        let kernel = if name == "n07" { "6.12.1" } else { "5.10.0" };
        cluster.agent_reports(&name, |status| {
            status.node = Some(crds::node::NodeFacts { kernel_release: kernel.into(), ..Default::default() });
        });
    }
    cluster.edit(31);
    cluster.assign();
    let ordered = cluster.ordered(31);
    assert_eq!(ordered.len(), 2);
    assert!(ordered.contains(&"n07".to_string()), "{ordered:?}");
}

#[test]
fn canaries_are_taken_among_the_nodes_that_their_selector_matches() {
    let canary = Canary { nodes: Some(3), node_selector: Some(selector("pool", "canary")) };
    let mut cluster = completed(12, Some(Rollout { canary: Some(canary), ..Rollout::default() }));
    cluster.edit(31);
    cluster.turn();
    assert!(cluster.ordered(31).is_empty());
    assert_eq!(cluster.verdict("web"), "False Canary Reconciling");
    assert!(cluster.message("web").contains("no node can go first"), "{}", cluster.message("web"));
    cluster.label("n05", "pool", "canary");
    cluster.assign();
    assert_eq!(cluster.ordered(31), ["n05"]);
}

#[test]
fn a_canary_that_cannot_be_reached_before_its_turn_is_none() {
    let mut cluster = completed(12, None);
    cluster.edit(31);
    let first = {
        let mut other = completed(12, None);
        other.edit(31);
        other.assign();
        other.ordered(31).remove(0)
    };
    cluster.node_is_down(&first);
    cluster.assign();
    assert_eq!(cluster.ordered(31).len(), 1);
    assert_ne!(cluster.ordered(31), [first]);
}

#[test]
fn percentages_are_of_the_reachable_nodes_at_the_start_and_at_least_one() {
    let percent =
        |text: &str| Rollout { max_concurrent: Some(IntOrString::String(text.into())), ..Rollout::default() };
    for (text, reachable, ordered) in [("50%", 8, 4), ("50%", 5, 2), ("1%", 8, 1)] {
        let mut cluster = completed(8, Some(percent(text)));
        for name in names(8).iter().skip(reachable) {
            cluster.node_is_down(name);
        }
        cluster.edit(31);
        cluster.assign();
        assert_eq!(cluster.ordered(31).len(), ordered, "{text} of {reachable}");
    }
}

#[test]
fn a_rollout_that_begins_before_its_agents_are_heard_takes_its_share_of_all_who_come() {
    let names = names(30);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut cluster = Cluster::new(&names, vec![tuning("web", 30)]);
    let rollout = Rollout { soak_seconds: Some(0), ..Rollout::default() };
    cluster.change(|spec| spec.rollout = Some(rollout));
    cluster.statuses();
    assert_eq!((cluster.phase(), cluster.rollout().reachable), ("Canary".into(), 0));
    // Each has an object by now, and has reported.
    cluster.turns(3);
    assert_eq!((cluster.phase(), cluster.rollout().reachable), ("RollingOut".into(), 30));
    let before = cluster.ordered(30).len();
    cluster.assign();
    assert_eq!(cluster.ordered(30).len() - before, 3);
}

#[test]
fn a_node_that_joins_meanwhile_gets_the_stable_revision() {
    let mut cluster = completed(3, Some(Rollout { soak_seconds: Some(60), ..at_most(1) }));
    cluster.edit(31);
    cluster.turn();
    cluster.join("n99");
    cluster.turns(2);
    assert_eq!(cluster.phase(), "Soaking");
    assert_eq!(cluster.stored("n99"), ["tcp_fin_timeout Set 30 by web"]);
    cluster.pass(60);
    cluster.turns(10);
    assert_eq!(cluster.phase(), "Completed");
    assert_eq!(cluster.stored("n99"), ["tcp_fin_timeout Set 31 by web"]);
}

#[test]
fn a_node_that_joins_later_is_tuned_at_once() {
    let mut cluster = completed(3, Some(at_most(1)));
    cluster.join("n98");
    cluster.join("n99");
    cluster.assign();
    assert_eq!(cluster.ordered(30).len(), 5);
}

#[test]
fn while_nothing_is_stable_a_node_that_waits_gets_nothing() {
    let mut cluster = Cluster::new(
        &["n1", "n2"],
        vec![tuning("web", 30).with(|spec| {
            spec.rollout = Some(Rollout { soak_seconds: Some(60), ..at_most(1) });
        })],
    );
    cluster.turns(4);
    assert_eq!(cluster.phase(), "Soaking");
    assert_eq!(cluster.ordered(30).len(), 1);
    assert_eq!(cluster.status("web").nodes.unwrap().pending, 1);
}

#[test]
fn paused_no_further_node_takes_the_change() {
    let mut cluster = completed(3, Some(at_most(1)));
    cluster.edit(31);
    cluster.turn();
    cluster.change(|spec| spec.rollout.as_mut().unwrap().paused = Some(true));
    let ordered = cluster.ordered(31);
    cluster.turns(5);
    assert_eq!(cluster.ordered(31), ordered);
    assert_eq!(cluster.verdict("web"), "False Paused");
    cluster.change(|spec| spec.rollout.as_mut().unwrap().paused = None);
    cluster.turns(5);
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn paused_before_it_begins_no_canary_takes_it() {
    let mut cluster = completed(12, Some(Rollout { paused: Some(true), ..Rollout::default() }));
    cluster.edit(31);
    cluster.turns(3);
    assert!(cluster.ordered(31).is_empty());
    assert_eq!(cluster.verdict("web"), "False Paused");
}

#[test]
fn paused_a_node_that_leaves_is_restored_all_the_same() {
    let mut cluster = completed(3, Some(Rollout { paused: Some(true), ..at_most(1) }));
    cluster.edit(31);
    cluster.change(|spec| spec.node_selector = selector("name", "n01"));
    cluster.assign();
    assert_eq!(cluster.stored("n02"), ["tcp_fin_timeout Restore by web"]);
}

#[test]
fn a_lost_node_keeps_its_slot_and_stops_the_rollout() {
    let mut cluster = completed(4, Some(at_most(1)));
    cluster.edit(31);
    cluster.assign();
    let lost = cluster.ordered(31).remove(0);
    cluster.node_is_down(&lost);
    for other in names(4).iter().filter(|name| **name != lost) {
        cluster.agent_reports(other, |_| {});
    }
    cluster.statuses();
    for _ in 0..5 {
        cluster.assign();
        assert_eq!(cluster.ordered(31), std::slice::from_ref(&lost));
        cluster.statuses();
    }
    assert_eq!(cluster.verdict("web"), "False NodesLost Stalled");
    let status = cluster.status("web");
    assert_eq!((status.nodes.as_ref().unwrap().failed, status.nodes.unwrap().pending), (1, 3));
    assert_eq!((status.worst[0].name.as_str(), status.worst[0].reason.as_str()), (lost.as_str(), "Lost"));
    cluster.ready(&lost);
    cluster.turns(6);
    assert_eq!(cluster.verdict("web"), "True Applied", "it is back, and the rollout goes on");
}

#[test]
fn deleting_its_node_frees_the_slot_of_a_lost_one() {
    let mut cluster = completed(4, Some(at_most(1)));
    cluster.edit(31);
    cluster.assign();
    let lost = cluster.ordered(31).remove(0);
    cluster.node_is_down(&lost);
    cluster.statuses();
    cluster.snapshot.nodes.remove(&lost);
    cluster.turns(5);
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn a_canary_that_dies_after_it_settled_is_lost_too() {
    let mut cluster = completed(4, Some(Rollout { soak_seconds: Some(60), ..at_most(1) }));
    cluster.edit(31);
    cluster.turn();
    let canary = cluster.ordered(31).remove(0);
    cluster.node_is_down(&canary);
    cluster.pass(60);
    cluster.statuses();
    assert_eq!(cluster.phase(), "Soaking");
    assert_eq!(cluster.verdict("web"), "False NodesLost Stalled");
}

#[test]
fn an_agent_that_falls_silent_is_lost_and_before_its_order_it_is_none() {
    let mut cluster = completed(4, Some(at_most(1)));
    cluster.edit(31);
    cluster.assign();
    let silent = cluster.ordered(31).remove(0);
    for _ in 0..3 {
        cluster.statuses();
        cluster.pass(20);
        for other in names(4).iter().filter(|name| **name != silent) {
            cluster.agent_reports(other, |_| {});
        }
    }
    assert_eq!(cluster.verdict("web"), "False NodesLost Stalled");
    assert_eq!(cluster.ordered(31), [silent]);
}

#[test]
fn nodes_that_are_down_before_their_order_block_nobody() {
    let mut cluster = completed(4, Some(at_most(1)));
    cluster.node_is_down("n01");
    cluster.edit(31);
    for _ in 0..5 {
        cluster.assign();
        for name in ["n02", "n03", "n04"] {
            cluster.agent_reports(name, |_| {});
        }
        cluster.statuses();
    }
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale");
    cluster.assign();
    assert_eq!(cluster.ordered(31).len(), 4, "it finds its order when it is back");
}

#[test]
fn more_failures_than_allowed_stop_it_and_refusals_do_not() {
    for (state, phase, verdict) in [
        ("Failed", "RollingOut", "False WriteFailed Stalled"),
        ("Contended", "RollingOut", "False Contended Stalled"),
        ("Refused", "Completed", "False Refused Stalled"),
    ] {
        let mut cluster = completed(3, Some(at_most(1)));
        cluster.edit(31);
        for _ in 0..5 {
            cluster.assign();
            for name in names(3) {
                cluster.agent_reports(&name, |status| {
                    if status.sysctls[0].desired == Some(31) {
                        in_state(state, "no")(status);
                    }
                });
            }
            cluster.statuses();
        }
        assert_eq!((cluster.phase().as_str(), cluster.verdict("web").as_str()), (phase, verdict), "{state}");
    }
}

#[test]
fn failures_within_max_failed_nodes_are_exceptions() {
    for (max, verdict) in [
        (IntOrString::Int(1), "True AppliedWithExceptions"),
        (IntOrString::String("34%".into()), "True AppliedWithExceptions"),
        (IntOrString::String("33%".into()), "False WriteFailed Stalled"),
    ] {
        let mut cluster = completed(3, None);
        cluster.change(|spec| spec.max_failed_nodes = Some(max.clone()));
        cluster.agent_reports("n02", in_state("Failed", "io"));
        assert_eq!(cluster.verdict("web"), verdict, "{max:?}");
    }
    let mut cluster = completed(3, None);
    cluster.change(|spec| spec.max_failed_nodes = Some(IntOrString::Int(1)));
    cluster.agent_reports("n02", in_state("Refused", "no"));
    assert_eq!(
        cluster.message("web"),
        "in force on 2 of 3 nodes; 1 node refused, within maxFailedNodes (n02)"
    );
}

#[test]
fn a_held_node_keeps_its_revision_and_holds_nobody_up() {
    let mut cluster = completed(3, Some(at_most(1)));
    cluster.label("n02", HOLD_LABEL, "true");
    cluster.edit(31);
    cluster.turns(5);
    assert_eq!(cluster.phase(), "Completed");
}

#[test]
fn a_node_takes_part_in_one_rollout_at_a_time() {
    let rollout = Rollout { soak_seconds: Some(30), ..at_most(3) };
    let both = |name: &str, retries| {
        let with = |spec: &mut TcpCloseTuningSpec| {
            spec.rollout = Some(rollout.clone());
            spec.sysctls.tcp_fin_timeout_seconds = None;
            spec.sysctls.tcp_orphan_retries = Some(retries);
        };
        tuning(name, 0).with(with)
    };
    let web = tuning("web", 30).with(|spec| spec.rollout = Some(rollout.clone())).priority(1);
    let mut cluster = Cluster::settled(&["n1", "n2", "n3"], vec![both("other", 4), web]);
    cluster.edit(31);
    cluster.edit_tuning("other", |tuning| tuning.with(|spec| spec.sysctls.tcp_orphan_retries = Some(5)));
    cluster.assign();
    let (first, second) = (cluster.ordered(31), cluster.ordered(5));
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    cluster.turns(2);
    cluster.pass(30);
    cluster.statuses();
    cluster.assign();
    let (first, second) = (cluster.ordered(31), cluster.ordered(5));
    assert_eq!(first.len(), 3, "the higher priority goes first: {second:?}");
    for _ in 0..3 {
        cluster.turn();
    }
    assert_eq!(cluster.verdict("other"), "True Applied");
}

#[test]
fn nodes_that_come_to_a_rollout_of_few_are_led_by_a_canary() {
    for before in [0, 5] {
        let names = names(30);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let web = tuning("web", 30).with(|spec| spec.node_selector = selector("role", "web"));
        let mut cluster = Cluster::new(&names, vec![web]);
        for name in &names[..before] {
            cluster.label(name, "role", "web");
        }
        cluster.turn();
        assert_eq!(cluster.phase(), "RollingOut");
        cluster.assign();
        for name in &names {
            cluster.label(name, "role", "web");
        }
        cluster.assign();
        assert_eq!(cluster.ordered(30).len(), before.max(1));
        cluster.agents_apply();
        assert_eq!(cluster.verdict("web"), "False Soaking Reconciling");
        cluster.assign();
        assert_eq!(cluster.ordered(30).len(), before.max(1));
        cluster.pass(60);
        cluster.turns(30);
        assert_eq!(cluster.verdict("web"), "True Applied");
    }
}

#[test]
fn tunings_of_an_operator_that_knew_no_rollouts_move_nothing() {
    let mut cluster = completed(30, None);
    for tuning in &mut cluster.snapshot.tunings {
        let status = tuning.status.as_mut().unwrap();
        (status.rollout, status.observed_generation) = (None, tuning.generation);
    }
    let before = cluster.snapshot.orders.clone();
    cluster.turns(2);
    assert_eq!(cluster.phase(), "Completed");
    assert_eq!(cluster.rollout().stable.unwrap().revision, cluster.rollout().revision);
    let specs =
        |orders: &std::collections::BTreeMap<String, std::sync::Arc<crate::snapshot::OrderObject>>| {
            orders.values().map(|order| order.0.as_ref().unwrap().spec.clone()).collect::<Vec<_>>()
        };
    assert_eq!(specs(&before), specs(&cluster.snapshot.orders));
}

#[test]
fn a_tuning_that_observes_for_a_while_remembers_what_it_had_completed() {
    let mut cluster = completed(12, None);
    cluster.edit_tuning("web", Tuning::observing);
    cluster.turns(2);
    assert_eq!(cluster.phase(), "Completed");
    cluster.change(|spec| spec.mode = crds::tuning::Mode::Enforce);
    cluster.assign();
    assert_eq!(cluster.ordered(30).len(), 12, "it is what they held");
}
