use crds::tuning::{ClientsBehindNatWord, DriftPolicyName, Safety};

use super::*;
use crate::fixtures::{Cluster, FIN, RETRIES, selector, tuning};

fn one_node(tunings: Vec<Tuning>) -> Cluster {
    Cluster::settled(&["n1"], tunings)
}

#[test]
fn the_higher_priority_wins_and_the_other_is_overridden() {
    let cluster = one_node(vec![tuning("a", 10), tuning("b", 20).priority(1)]);
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 20 by b"]);
    let claims = cluster.order("n1").claims;
    let a = claims.iter().find(|claim| claim.tuning == "a-uid").unwrap();
    assert_eq!(a.standing, Standing::Overridden { by: "b-uid".into() });
}

#[test]
fn at_equal_priority_the_older_wins_and_the_other_is_in_conflict() {
    let cluster = one_node(vec![tuning("a", 10).created(2), tuning("b", 20).created(1)]);
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 20 by b"]);
    let claims = cluster.order("n1").claims;
    assert_eq!(claims[1].standing, Standing::Conflict { with: "b-uid".into() });
}

#[test]
fn of_one_age_the_first_by_name_wins() {
    let cluster = one_node(vec![tuning("b", 20), tuning("a", 10)]);
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 10 by a"]);
}

#[test]
fn the_order_in_which_tunings_are_listed_decides_nothing() {
    let tunings = || {
        vec![
            tuning("a", 10).created(5),
            tuning("b", 20).created(3),
            tuning("c", 30).created(3),
            tuning("d", 40).created(1).priority(-1),
            tuning("e", 50).observing(),
        ]
    };
    let first = one_node(tunings()).order("n1");
    for shift in 1..5 {
        let mut tunings = tunings();
        tunings.rotate_left(shift);
        assert_eq!(one_node(tunings).order("n1"), first);
    }
    assert_eq!(one_node(tunings()).spoken("n1"), ["tcp_fin_timeout Set 20 by b"]);
}

#[test]
fn a_conflict_is_judged_anew_when_a_priority_or_a_label_changes() {
    let mut cluster = one_node(vec![tuning("a", 10).created(1), tuning("b", 20).created(2)]);
    let b_fares = |cluster: &Cluster| {
        let claims = cluster.order("n1").claims;
        claims.iter().find(|claim| claim.tuning == "b-uid").map(|claim| claim.standing.clone())
    };
    assert_eq!(b_fares(&cluster), Some(Standing::Conflict { with: "a-uid".into() }));
    cluster.edit_tuning("b", |b| b.priority(1));
    assert_eq!(b_fares(&cluster), Some(Standing::Wins));
    cluster.edit_tuning("b", |b| b.priority(0).on("n1"));
    assert_eq!(b_fares(&cluster), Some(Standing::Conflict { with: "a-uid".into() }));
    cluster.edit_node("n1", |node| {
        node.set_label("name", Some("other"));
    });
    assert_eq!(b_fares(&cluster), None);
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 10 by a"]);
}

#[test]
fn equal_values_are_no_conflict() {
    let cluster = one_node(vec![tuning("a", 10), tuning("b", 10)]);
    assert_eq!(cluster.order("n1").claims[1].standing, Standing::Agrees);
}

#[test]
fn two_that_lose_to_a_third_do_not_contradict_each_other() {
    let cluster = one_node(vec![tuning("a", 10), tuning("b", 20), tuning("c", 30).priority(1)]);
    let claims = cluster.order("n1").claims;
    let by = Standing::Overridden { by: "c-uid".into() };
    assert!(claims[1..].iter().all(|claim| claim.standing == by), "{claims:?}");
}

#[test]
fn each_sysctl_has_its_own_winner() {
    let a = tuning("a", 10).with(|spec| spec.sysctls.tcp_orphan_retries = Some(4));
    let cluster = one_node(vec![a, tuning("b", 20).priority(1)]);
    assert_eq!(cluster.spoken("n1"), ["tcp_orphan_retries Set 4 by a", "tcp_fin_timeout Set 20 by b"]);
}

#[test]
fn a_loser_takes_over_without_passing_through_the_baseline() {
    let mut cluster = one_node(vec![tuning("a", 10), tuning("b", 20).priority(1)]);
    cluster.delete_tuning("b");
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 10 by a"]);
}

#[test]
fn a_key_that_was_never_ordered_has_no_entry() {
    assert!(Cluster::settled(&["n1"], vec![]).spoken("n1").is_empty());
    let elsewhere = tuning("a", 10).on("n2");
    assert!(one_node(vec![elsewhere]).spoken("n1").is_empty());
}

#[test]
fn a_deleted_tuning_is_restored_until_the_node_says_so() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.delete_tuning("a");
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"]);
    cluster.assign();
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"], "written, not acknowledged");
    cluster.agent_reports("n1", |status| status.sysctls[0].state = "Failed".into());
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"], "acknowledged, not done");
    cluster.agents_apply();
    assert!(cluster.spoken("n1").is_empty());
}

#[test]
fn of_nodes_with_one_order_each_loses_an_entry_by_its_own_acknowledgement() {
    let mut cluster = Cluster::settled(&["n1", "n2", "n3"], vec![tuning("a", 10)]);
    cluster.delete_tuning("a");
    cluster.assign();
    let place =
        |cluster: &Cluster, node| cluster.snapshot.orders[node].0.as_ref().unwrap().spec.sysctls.place();
    assert_eq!(place(&cluster, "n1"), place(&cluster, "n2"));
    cluster.agent_reports("n2", |status| status.sysctls[0].state = "Restored".into());
    let left = ["n1", "n2", "n3"].map(|node| cluster.spoken(node).len());
    assert_eq!(left, [1, 0, 1]);
}

#[test]
fn nodes_of_one_case_share_what_is_resolved_and_others_do_not() {
    let cluster = Cluster::settled(&["n1", "n2", "n3"], vec![tuning("a", 10), tuning("b", 20).on("n3")]);
    let orders = cluster.resolve().orders;
    let [one, other, third] = ["n1", "n2", "n3"].map(|node| &orders[node]);
    assert!(one.entries.is_one(&other.entries) && one.claims.is_one(&other.claims));
    assert_eq!((one.claims.len(), third.claims.len()), (1, 2));
}

#[test]
fn an_acknowledgement_of_an_earlier_order_drops_nothing() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.delete_tuning("a");
    cluster.assign();
    cluster.agent_reports("n1", |status| status.observed_revision = Some("earlier".into()));
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"]);
    cluster.agent_reports("n1", |status| status.observed_generation -= 1);
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"]);
}

#[test]
fn every_state_of_a_key_that_is_done_with_drops_its_entry() {
    for state in ["Restored", "RestoreSkipped", "Released", "Unsupported"] {
        let mut cluster = one_node(vec![tuning("a", 10)]);
        cluster.delete_tuning("a");
        cluster.assign();
        cluster.agent_reports("n1", |status| status.sysctls[0].state = state.into());
        assert!(cluster.spoken("n1").is_empty(), "{state}");
    }
}

#[test]
fn a_key_that_the_agent_says_nothing_of_is_done_with() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.delete_tuning("a");
    cluster.assign();
    cluster.agent_reports("n1", |status| status.sysctls.clear());
    assert!(cluster.spoken("n1").is_empty());
}

#[test]
fn keep_releases_by_the_policy_of_the_last_order() {
    let mut cluster = one_node(vec![tuning("a", 10).keeping()]);
    cluster.delete_tuning("a");
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Release by a"]);
}

#[test]
fn a_node_that_leaves_the_selector_is_restored() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.edit_tuning("a", |tuning| tuning.on("n2"));
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"]);
}

#[test]
fn a_sysctl_that_leaves_the_tuning_is_restored() {
    let mut cluster = one_node(vec![tuning("a", 10).with(|spec| spec.sysctls.tcp_orphan_retries = Some(4))]);
    cluster.edit_tuning("a", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = None));
    assert_eq!(cluster.spoken("n1"), ["tcp_orphan_retries Set 4 by a", "tcp_fin_timeout Restore by a"]);
}

#[test]
fn a_tuning_that_is_being_deleted_orders_nothing() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.snapshot.tunings[0].deleting = true;
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"]);
}

#[test]
fn a_tuning_made_anew_under_an_old_name_is_another_one() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.edit_tuning("a", Tuning::observing);
    cluster.snapshot.tunings[0].uid = "another".into();
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"], "not its to hold");
}

#[test]
fn a_restore_gives_way_to_a_new_order() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.delete_tuning("a");
    cluster.assign();
    cluster.snapshot.tunings.push(tuning("b", 20));
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 20 by b"]);
}

#[test]
fn enforce_changed_to_observe_holds_the_last_value() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.edit_tuning("a", |tuning| {
        tuning.observing().with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(9))
    });
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Hold 10 by a"]);
    cluster.assign();
    cluster.agents_apply();
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Hold 10 by a"], "and goes on holding it");
    assert_eq!(cluster.order("n1").observe[0].sysctls.get(FIN), Some(9));
}

#[test]
fn a_held_value_ends_with_another_order_or_with_its_tuning() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.edit_tuning("a", Tuning::observing);
    cluster.assign();
    cluster.agents_apply();
    cluster.snapshot.tunings.push(tuning("b", 20).priority(-5));
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 20 by b"]);
    cluster.delete_tuning("b");
    cluster.delete_tuning("a");
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Restore by a"]);
}

#[test]
fn observe_claims_no_key() {
    let cluster = one_node(vec![tuning("a", 10).observing().priority(9), tuning("b", 20)]);
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 20 by b"]);
    assert_eq!(cluster.order("n1").claims.len(), 1);
    assert_eq!(cluster.order("n1").observe.len(), 1);
}

#[test]
fn more_observers_than_the_schema_takes_are_cut_off() {
    let many = (0..70).map(|n| tuning(&format!("t{n:02}"), 10).observing()).collect();
    assert_eq!(one_node(many).order("n1").observe.len(), OBSERVE_MAX);
}

#[test]
fn a_tuning_that_cannot_be_decoded_freezes_its_entries() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.edit_tuning("a", Tuning::undecodable);
    cluster.snapshot.tunings.push(tuning("b", 20).priority(100));
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 10 by a"]);
    assert_eq!(cluster.order("n1").claims[0].standing, Standing::Overridden { by: "a-uid".into() });
}

#[test]
fn a_tuning_that_cannot_be_decoded_disturbs_nobody_else() {
    let mut cluster = one_node(vec![
        tuning("a", 10),
        tuning("b", 5).with(|spec| {
            spec.sysctls = crds::tuning::Sysctls { tcp_orphan_retries: Some(5), ..Default::default() };
        }),
    ]);
    cluster.edit_tuning("a", Tuning::undecodable);
    cluster.edit_tuning("b", |tuning| tuning.with(|spec| spec.sysctls.tcp_orphan_retries = Some(6)));
    assert_eq!(cluster.spoken("n1"), ["tcp_orphan_retries Set 6 by b", "tcp_fin_timeout Set 10 by a"]);
}

#[test]
fn an_observer_that_cannot_be_decoded_keeps_its_place() {
    let mut cluster = one_node(vec![tuning("a", 10).observing()]);
    let before = cluster.order("n1").observe;
    cluster.edit_tuning("a", Tuning::undecodable);
    assert_eq!(cluster.order("n1").observe, before);
}

#[test]
fn an_order_that_cannot_be_decoded_is_left_alone() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("a", 10)]);
    cluster.undecodable_order("n1");
    let resolution = cluster.resolve();
    assert_eq!(resolution.orders.keys().collect::<Vec<_>>(), ["n2"]);
}

#[test]
fn an_entry_of_a_newer_operator_stays() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.edit_order("n1", |object| {
        let mut entry = object.spec.sysctls[0].clone();
        entry.name = "net.ipv4.tcp_of_tomorrow".into();
        object.spec.sysctls.push(entry);
    });
    assert_eq!(cluster.spoken("n1"), ["tcp_fin_timeout Set 10 by a", "tcp_of_tomorrow Set 10 by a"]);
}

#[test]
fn orders_of_an_earlier_node_of_this_name_are_not_adopted() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.delete_tuning("a");
    cluster.edit_node("n1", |node| node.metadata.uid = Some("anew".into()));
    assert!(cluster.spoken("n1").is_empty());
}

#[test]
fn a_node_that_runs_no_linux_gets_nothing() {
    let mut cluster =
        Cluster::new(&["n1"], vec![tuning("a", 10).with(|s| s.node_selector = selector("name", "n1"))]);
    cluster.edit_node("n1", |node| node.set_label("kubernetes.io/os", Some("windows")));
    assert!(cluster.resolve().orders.is_empty());
}

#[test]
fn nothing_moves_when_nothing_changed() {
    let cluster = Cluster::settled(&["n1", "n2"], vec![tuning("a", 10), tuning("b", 20).observing()]);
    assert_eq!(cluster.resolve(), cluster.resolve());
    assert_eq!(crate::assign::plan(&cluster.snapshot, &cluster.resolve()), []);
    assert_eq!(cluster.order("n1").entries.len(), 1, "{RETRIES} was never ordered");
}

// What a tuning says beside its values.

/// A tuning that says everything that it can.
fn outspoken() -> Tuning {
    tuning("a", 10).priority(7).keeping().with(|spec| {
        spec.drift_policy = Some(DriftPolicyName::Report);
        spec.safety = Some(Safety {
            clients_behind_nat: Some(ClientsBehindNatWord::Never),
            acknowledge: vec!["fin-timeout-below-5".into()],
        });
    })
}

#[test]
fn an_entry_carries_what_its_tuning_says_of_precedence_safety_drift_and_removal() {
    let tuning = outspoken();
    let safety = tuning.spec.as_ref().unwrap().safety();
    let entry = one_node(vec![tuning]).order("n1").entries.remove(0);
    assert_eq!((entry.priority, entry.safety), (Some(7), safety));
    assert_eq!(
        (entry.drift_policy, entry.removal_policy),
        (Some(DriftPolicyName::Report), RemovalPolicy::Keep)
    );
}

#[test]
fn an_entry_leaves_out_what_its_tuning_says_by_saying_nothing() {
    let explicit = tuning("a", 10).priority(0).with(|spec| {
        spec.drift_policy = Some(DriftPolicyName::Correct);
        spec.safety = Some(Safety::default());
    });
    let entry = one_node(vec![explicit]).order("n1").entries.remove(0);
    assert_eq!((entry.priority, &entry.safety, entry.drift_policy), (None, &Safety::default(), None));
    assert_eq!(entry, one_node(vec![tuning("a", 10)]).order("n1").entries[0]);
}

#[test]
fn an_observed_tuning_carries_its_word_on_safety() {
    let tuning = outspoken().observing();
    let safety = tuning.spec.as_ref().unwrap().safety();
    assert_eq!(one_node(vec![tuning]).order("n1").observe[0].safety, safety);
}

#[test]
fn an_entry_that_is_wound_down_keeps_what_it_carried() {
    let mut cluster = one_node(vec![outspoken()]);
    let before = cluster.order("n1").entries.remove(0);
    cluster.delete_tuning("a");
    let after = cluster.order("n1").entries.remove(0);
    assert_eq!(after, SysctlEntry { action: EntryAction::Release, value: None, ..before });
}

#[test]
fn a_held_entry_follows_what_its_tuning_says_now() {
    let mut cluster = one_node(vec![tuning("a", 10)]);
    cluster.edit_tuning("a", |_| outspoken().observing());
    let entry = cluster.order("n1").entries.remove(0);
    assert_eq!((entry.action, entry.priority), (EntryAction::Hold, Some(7)));
    assert_eq!(entry.safety.acknowledge, ["fin-timeout-below-5"]);
    assert_eq!(entry.removal_policy, RemovalPolicy::Keep);
}

/// The revision is the one that 0.1.0 gave to this order.
#[test]
fn an_order_of_0_1_0_keeps_its_revision() {
    let mut web = tuning("web", 30).with(|spec| {
        spec.sysctls.tcp_orphan_retries = Some(5);
        spec.sysctls.tcp_max_tw_buckets = Some(200_000);
    });
    web.uid = "17520652-d062-48f1-b462-d47810f7bc9d".into();
    let mut observe = tuning("observe", 15).observing().with(|spec| {
        spec.sysctls.tcp_orphan_retries = Some(4);
        spec.sysctls.tcp_max_orphans = Some(65_536);
        spec.sysctls.tcp_max_tw_buckets = Some(262_144);
        spec.sysctls.tcp_tw_reuse = Some(1);
        spec.sysctls.tcp_tw_reuse_delay_milliseconds = Some(1000);
        spec.sysctls.tcp_timestamps = Some(1);
    });
    observe.uid = "3b1a24d4-8f7c-4b90-9824-a9a83b337403".into();
    let order = one_node(vec![web, observe]).order("n1");
    assert_eq!(crds::revision::of_entries(&order.entries, &order.observe), "ea0b74e16f29");
}
