use crds::condition::ConditionStatus;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::fixtures::{Cluster, in_state, selector, tuning};
use crate::snapshot::Tuning;

mod corpus;
mod drift;
mod held;
mod latch;
mod lists;
mod losing;
mod rules;
mod silent;

fn settled(nodes: &[&str]) -> Cluster {
    Cluster::settled(nodes, vec![tuning("web", 30)])
}

/// Changed, ordered, and not acknowledged.
fn ordered_anew(nodes: &[&str]) -> Cluster {
    let mut cluster = settled(nodes);
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    cluster.assign();
    cluster
}

fn two_at_odds() -> Cluster {
    Cluster::settled(&["n1"], vec![tuning("base", 20).created(1), tuning("web", 30).created(2)])
}

// Every situation of the table.

#[test]
fn everything_in_force_is_applied() {
    let mut cluster = settled(&["n1", "n2"]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.message("web"), "in force on 2 nodes");
}

#[test]
fn an_order_that_is_not_written_yet_is_progressing() {
    let mut cluster = settled(&["n1"]);
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
}

#[test]
fn an_order_that_is_not_acknowledged_is_progressing() {
    let mut cluster = ordered_anew(&["n1", "n2"]);
    cluster.agent_reports("n2", |_| {});
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
    assert_eq!(
        cluster.message("web"),
        "in force on 1 of 2 nodes; waiting for 1 node (n1): its agent has not acknowledged the order yet"
    );
}

#[test]
fn nodes_that_no_longer_match_are_waited_for() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.edit_tuning("web", |tuning| tuning.on("n1"));
    cluster.assign();
    cluster.agent_reports("n1", |_| {});
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
    assert_eq!(cluster.status("web").nodes.unwrap().restoring, 1);
    cluster.agents_apply();
    cluster.assign();
    cluster.agents_apply();
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn a_node_that_is_down_and_no_longer_matches_holds_nobody_up() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.edit_tuning("web", |tuning| tuning.on("n1"));
    cluster.assign();
    cluster.agent_reports("n1", |_| {});
    cluster.node_is_down("n2");
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.status("web").nodes.unwrap().restoring, 1);
}

#[test]
fn a_refusal_is_stalled_and_says_so_in_the_rules_words() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    cluster.agent_reports("n2", in_state("Refused", "fin_timeout = 65: order 5"));
    assert_eq!(cluster.verdict("web"), "False Refused Stalled");
    let status = cluster.status("web");
    let stalled = &status.conditions[2];
    assert_eq!(stalled.message, "fin_timeout = 65: order 5 (refused on 1 of 3 nodes: n2)");
    assert_eq!(status.conditions[0].message, stalled.message);
    assert_eq!(status.nodes.unwrap().summary, "2/3");
}

#[test]
fn a_refusal_waits_for_the_others_to_settle() {
    let mut cluster = ordered_anew(&["n1", "n2"]);
    cluster.agent_reports("n1", in_state("Refused", "no"));
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
}

#[test]
fn a_failed_write_is_stalled() {
    let mut cluster = settled(&["n1"]);
    cluster.agent_reports("n1", in_state("Failed", "permission denied"));
    assert_eq!(cluster.verdict("web"), "False WriteFailed Stalled");
    assert!(cluster.message("web").starts_with("permission denied (failed on 1 of 1 node: n1)"));
}

#[test]
fn the_largest_group_gives_the_reason_and_a_refusal_the_first_of_equals() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    cluster.agent_reports("n1", in_state("Failed", "io"));
    cluster.agent_reports("n2", in_state("Refused", "no"));
    assert_eq!(cluster.verdict("web"), "False Refused Stalled");
    cluster.agent_reports("n3", in_state("Failed", "io"));
    assert_eq!(cluster.verdict("web"), "False WriteFailed Stalled");
}

#[test]
fn nodes_that_match_and_none_reports_is_unknown() {
    let mut cluster = Cluster::new(&["n1", "n2"], vec![tuning("web", 30)]);
    assert_eq!(cluster.verdict("web"), "Unknown NoReports Reconciling");
    cluster.assign();
    assert_eq!(cluster.verdict("web"), "Unknown NoReports Reconciling");
    cluster.node_is_down("n1");
    cluster.node_is_down("n2");
    assert_eq!(cluster.verdict("web"), "Unknown NoReports Reconciling");
}

#[test]
fn no_node_matches_is_ready() {
    let mut cluster = settled(&["n1"]);
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.node_selector = selector("pool", "none")));
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling", "n1 is put back first");
    cluster.assign();
    cluster.agents_apply();
    cluster.assign();
    assert_eq!(cluster.verdict("web"), "True NoMatchingNodes");
}

#[test]
fn observe_is_observed_when_every_node_has_reported() {
    let mut cluster = Cluster::new(&["n1", "n2"], vec![tuning("web", 30).observing()]);
    cluster.assign();
    cluster.agent_reports("n1", |_| {});
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
    cluster.agent_reports("n2", |status| {
        let row = &mut status.observe[0].sysctls[0];
        (row.state, row.rule, row.message) = ("WouldRefuse".into(), Some("a-rule".into()), Some("no".into()));
    });
    assert_eq!(cluster.verdict("web"), "True Observed");
    let status = cluster.status("web");
    assert_eq!(
        status.conditions[0].message,
        "2 of 2 nodes report: Enforce would change something on 1, and be refused on 1; nothing is written"
    );
    assert_eq!(status.refusals[0].names, ["n2"]);
}

#[test]
fn a_report_on_an_earlier_revision_is_no_report_on_this_one() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30).observing()]);
    assert_eq!(cluster.verdict("web"), "True Observed");
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
}

#[test]
fn a_lost_tie_is_a_conflict_that_stalls_after_15_seconds() {
    let mut cluster = two_at_odds();
    assert_eq!(cluster.verdict("web"), "False Conflict Reconciling");
    cluster.pass(14);
    assert_eq!(cluster.verdict("web"), "False Conflict Reconciling");
    cluster.pass(1);
    assert_eq!(cluster.verdict("web"), "False Conflict Stalled");
    cluster.pass(100);
    assert_eq!(cluster.verdict("web"), "False Conflict Stalled");
}

#[test]
fn a_conflict_names_the_winner_the_key_and_the_nodes() {
    let message = two_at_odds().message("web");
    for part in ["tuning base", "net.ipv4.tcp_fin_timeout = 20", "orders 30", "n1", "another priority"] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn an_edit_gives_a_conflict_another_15_seconds() {
    let mut cluster = two_at_odds();
    cluster.status("web");
    cluster.pass(20);
    assert_eq!(cluster.verdict("web"), "False Conflict Stalled");
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    assert_eq!(cluster.verdict("web"), "False Conflict Reconciling");
    cluster.pass(15);
    assert_eq!(cluster.verdict("web"), "False Conflict Stalled");
}

#[test]
fn the_winner_of_a_tie_keeps_its_state_and_shows_conflicted() {
    let mut cluster = two_at_odds();
    assert_eq!(cluster.verdict("base"), "True Applied");
    let conflicted = &cluster.status("base").conditions[3];
    assert_eq!(conflicted.status, ConditionStatus::True);
    assert!(conflicted.message.contains("tuning web"), "{}", conflicted.message);
}

#[test]
fn equal_values_leave_both_applied() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("base", 30), tuning("web", 30)]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.agent_reports("n1", in_state("Refused", "no"));
    assert_eq!(cluster.verdict("web"), "False Refused Stalled", "both have the same order");
}

#[test]
fn every_key_overridden_is_ready() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("base", 20).priority(1), tuning("web", 30)]);
    assert_eq!(cluster.verdict("web"), "True Overridden");
    assert!(cluster.message("web").contains("(base)"));
    assert_eq!(cluster.status("web").nodes.unwrap().overridden, 1);
}

#[test]
fn a_key_overridden_somewhere_is_said_and_no_fault() {
    let base = tuning("base", 20).priority(1).on("n1");
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![base, tuning("web", 30)]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert!(cluster.message("web").ends_with("tunings of higher priority (base) order a sysctl on 1 node"));
}

#[test]
fn a_key_that_some_nodes_lack_is_said_and_no_fault() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.agent_reports("n1", in_state("Unsupported", "since Linux 9"));
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.status("web").nodes.unwrap().unsupported, 1);
    assert!(
        cluster.message("web").contains("not on 1 node that lack it: net.ipv4.tcp_fin_timeout"),
        "{}",
        cluster.message("web")
    );
}

#[test]
fn a_key_that_every_node_lacks_is_stalled() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.agent_reports("n1", in_state("Unsupported", "since Linux 9"));
    cluster.agent_reports("n2", in_state("Unsupported", "since Linux 9"));
    assert_eq!(cluster.verdict("web"), "False Unsupported Stalled");
    assert!(cluster.message("web").ends_with("remove tcpFinTimeoutSeconds from sysctls"));
}

#[test]
fn a_key_that_one_node_lacks_is_not_what_every_node_lacks_while_none_is_up_to_date() {
    let web = tuning("web", 30).with(|spec| {
        spec.sysctls.tcp_orphan_retries = Some(4);
        spec.max_failed_nodes = Some(IntOrString::Int(2));
    });
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![web]);
    for node in ["n1", "n2"] {
        cluster.agent_reports(node, in_state("Refused", "no"));
    }
    cluster.agent_reports("n1", |status| {
        in_state("Refused", "no")(status);
        status.sysctls[1].state = "Unsupported".into();
    });
    assert_eq!(cluster.verdict("web"), "True AppliedWithExceptions");
}

#[test]
fn a_key_that_every_node_lacks_does_not_stall_a_tuning_that_observes() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30).observing()]);
    cluster.agent_reports("n1", |status| status.observe[0].sysctls[0].state = "Unsupported".into());
    assert_eq!(cluster.verdict("web"), "True Observed");
    assert!(cluster.message("web").contains("not on 1 node that lack it"), "{}", cluster.message("web"));
}

#[test]
fn a_tuning_that_cannot_be_decoded_is_unknown() {
    let mut cluster = settled(&["n1"]);
    cluster.edit_tuning("web", Tuning::undecodable);
    assert_eq!(cluster.verdict("web"), "Unknown OperatorError Reconciling");
    assert!(cluster.message("web").contains("unknown variant"));
}

#[test]
fn a_watch_that_fails_is_unknown_and_forgets_nothing_but_counts() {
    let mut cluster = settled(&["n1"]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    let before = cluster.status("web");
    cluster.failing = Some("nodes: nodes is forbidden".into());
    assert_eq!(cluster.verdict("web"), "Unknown OperatorError Reconciling");
    let status = cluster.status("web");
    assert!(
        status.conditions[0]
            .message
            .starts_with("the operator cannot watch nodes: nodes is forbidden; nothing new is"),
        "{}",
        status.conditions[0].message
    );
    assert_eq!((status.rollout, status.nodes), (before.rollout, None));
    cluster.failing = None;
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn an_order_that_cannot_be_decoded_is_pending() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.undecodable_order("n2");
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
}

// Conditions.

#[test]
fn all_five_conditions_are_there_ready_first() {
    let status = settled(&["n1"]).status("web");
    let kinds: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(kinds, ["Ready", "Reconciling", "Stalled", "Conflicted", "Drifted"]);
    assert_eq!(status.observed_generation, 1);
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == 1));
}

#[test]
fn a_reason_change_keeps_last_transition_time() {
    let mut cluster = settled(&["n1", "n2"]);
    let before = cluster.status("web").conditions;
    cluster.pass(10);
    cluster.node_is_down("n2");
    let after = cluster.status("web").conditions;
    assert_ne!(before[0].reason, after[0].reason);
    assert_eq!(before[0].last_transition_time, after[0].last_transition_time);
}

#[test]
fn a_status_change_moves_last_transition_time() {
    let mut cluster = settled(&["n1"]);
    cluster.status("web");
    cluster.pass(10);
    cluster.agent_reports("n1", in_state("Refused", "no"));
    let after = cluster.status("web").conditions;
    assert_eq!(after[0].last_transition_time.0, cluster.now.wall);
    assert_eq!(after[2].last_transition_time.0, cluster.now.wall, "Stalled");
    assert_ne!(after[3].last_transition_time.0, cluster.now.wall, "Conflicted");
}

#[test]
fn nothing_moves_when_only_time_passes() {
    let mut cluster = settled(&["n1", "n2"]);
    let before = cluster.status("web");
    cluster.pass(30);
    assert_eq!(cluster.status("web"), before);
}

#[test]
fn a_long_message_is_cut_at_the_schemas_bound() {
    let mut cluster = settled(&["n1"]);
    cluster.agent_reports("n1", in_state("Failed", &"x".repeat(2000)));
    let status = cluster.status("web");
    assert_eq!(status.conditions[0].message.chars().count(), 1024);
    assert_eq!(status.worst[0].message.chars().count(), 256);
}

// States of a newer agent.

#[test]
fn an_unknown_state_is_judged_by_what_the_kernel_holds() {
    let mut cluster = settled(&["n1"]);
    cluster.agent_reports("n1", |status| status.sysctls[0].state = "Blessed".into());
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.agent_reports("n1", in_state("Cursed", "somebody else"));
    assert_eq!(cluster.verdict("web"), "False WriteFailed Stalled");
}
