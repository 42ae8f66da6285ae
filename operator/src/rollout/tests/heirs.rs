//! What becomes of a value whose tuning has gone, where another one is to order the key.

use super::*;

/// `web` at 30, with a second sysctl; and `base`, which takes the first one on `n01`.
fn beside_base(rollout: Rollout) -> Cluster {
    let web = tuning("web", 30).with(|spec| spec.sysctls.tcp_orphan_retries = Some(4));
    let base = tuning("base", 20).priority(1).on("n01");
    let mut cluster = Cluster::settled(&["n01", "n02", "n03", "n04"], vec![web, base]);
    cluster.change(|spec| spec.rollout = Some(rollout));
    assert_eq!(cluster.stored("n01"), ["tcp_orphan_retries Set 4 by web", "tcp_fin_timeout Set 20 by base"]);
    cluster
}

const STABLE: [&str; 2] = ["tcp_orphan_retries Set 4 by web", "tcp_fin_timeout Set 30 by web"];

/// `old` at 30 on four nodes is gone, and `web` is there in its place, with a later value.
fn renamed(rollout: Rollout) -> Cluster {
    let mut cluster = Cluster::settled(&["n1", "n2", "n3", "n4"], vec![tuning("old", 30)]);
    cluster.delete_tuning("old");
    cluster.snapshot.tunings.push(tuning("web", 31).with(|spec| spec.rollout = Some(rollout)));
    cluster
}

/// A canary of `web` fails, and is taken back.
fn canary_fails(cluster: &mut Cluster) -> String {
    cluster.turn();
    let canary = cluster.ordered(31).remove(0);
    cluster.agent_reports(&canary, in_state("Failed", "no space left"));
    cluster.statuses();
    cluster.turns(4);
    assert_eq!(cluster.phase(), "RolledBack");
    canary
}

#[test]
fn after_a_failure_what_is_stable_takes_the_place_of_a_winner_that_goes() {
    let mut cluster = beside_base(gated());
    cluster.edit(31);
    assert_ne!(canary_fails(&mut cluster), "n01");
    cluster.delete_tuning("base");
    cluster.assign();
    assert_eq!(cluster.stored("n01"), STABLE);
}

#[test]
fn while_a_change_is_paused_what_is_stable_takes_the_place_of_a_winner_that_goes() {
    let mut cluster = beside_base(Rollout { paused: Some(true), ..gated() });
    cluster.edit(31);
    cluster.turn();
    cluster.delete_tuning("base");
    cluster.assign();
    assert_eq!(cluster.stored("n01"), STABLE);
}

#[test]
fn a_node_that_was_held_through_a_change_comes_to_what_is_stable_after_the_next_one_failed() {
    let mut cluster = completed(4, None);
    cluster.label("n02", HOLD_LABEL, "true");
    let held = cluster.snapshot.orders["n02"].clone();
    cluster.edit(32);
    for _ in 0..3 {
        cluster.turn();
        // What a limiter does to a node that is held.
        cluster.snapshot.orders.insert("n02".into(), held.clone());
    }
    assert_eq!((cluster.phase().as_str(), cluster.ordered(32).len()), ("Completed", 3));
    cluster.change(|spec| spec.rollout = Some(gated()));
    cluster.edit(31);
    canary_fails(&mut cluster);
    cluster.label("n02", HOLD_LABEL, "false");
    cluster.assign();
    assert_eq!(cluster.stored("n02"), ["tcp_fin_timeout Set 32 by web"]);
}

#[test]
fn a_canary_that_fails_after_a_rename_leaves_the_others_what_the_earlier_tuning_ordered() {
    let mut cluster = renamed(gated());
    let canary = canary_fails(&mut cluster);
    cluster.assign();
    assert!(cluster.stored(&canary).is_empty(), "nothing is stable");
    assert_eq!(cluster.ordered(30).len(), 3);
    assert_eq!(cluster.verdict("web"), "False RolledBack Stalled");
    let message = cluster.message("web");
    assert!(message.contains("; what old ordered last stays on 3 nodes ("), "{message}");
}

#[test]
fn a_value_that_waits_for_a_paused_tuning_is_told_and_goes_with_it() {
    let mut cluster = renamed(Rollout { paused: Some(true), ..Rollout::default() });
    cluster.turns(3);
    assert_eq!((cluster.ordered(30).len(), cluster.verdict("web").as_str()), (4, "False Paused"));
    let message = cluster.message("web");
    let stays =
        "; what old ordered last stays on 4 nodes (n1, n2, n3 and 1 more) until this one comes to them";
    assert!(message.ends_with(stays), "{message}");
    cluster.delete_tuning("web");
    cluster.assign();
    assert_eq!(cluster.stored("n1"), ["tcp_fin_timeout Restore by old"]);
}

#[test]
fn a_key_that_a_failed_change_would_have_added_is_put_back_when_its_own_tuning_goes() {
    let mut cluster = completed(4, Some(gated()));
    let other = tuning("other", 0).with(|spec| {
        spec.sysctls = crds::tuning::Sysctls { tcp_orphan_retries: Some(3), ..Default::default() };
    });
    cluster.snapshot.tunings.push(other.priority(-1));
    cluster.turns(2);
    cluster.change(|spec| {
        spec.sysctls.tcp_fin_timeout_seconds = Some(31);
        spec.sysctls.tcp_orphan_retries = Some(4);
    });
    let canary = canary_fails(&mut cluster);
    cluster.delete_tuning("other");
    cluster.assign();
    for node in names(4).iter().filter(|name| **name != canary) {
        let back = ["tcp_orphan_retries Restore by other", "tcp_fin_timeout Set 30 by web"];
        assert_eq!(cluster.stored(node), back);
    }
}
