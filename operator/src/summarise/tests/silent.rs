//! Agents that are not heard, and nodes that are down.

use super::settled;
use crate::fixtures::Cluster;

#[test]
fn an_agent_that_is_missing_for_five_minutes_on_a_ready_node_has_failed() {
    let mut cluster = settled(&["n1"]);
    cluster.status("web");
    cluster.pass(299);
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale");
    cluster.pass(1);
    assert_eq!(cluster.verdict("web"), "False AgentMissing Stalled");
}

#[test]
fn a_node_that_has_just_become_ready_gives_its_agent_time() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.node_is_down("n2");
    cluster.status("web");
    cluster.pass(1000);
    cluster.agent_reports("n1", |_| {});
    cluster.status("web");
    cluster.edit_node("n2", |node| node.status.conditions[0].status = "True".into());
    cluster.status("web");
    cluster.pass(30);
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale");
}

#[test]
fn a_node_that_is_down_is_stale_at_once() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.node_is_down("n2");
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale");
    assert_eq!(cluster.message("web"), "in force on 1 of 2 nodes; 1 node silent (n2)");
}

#[test]
fn an_agent_that_misses_three_reports_is_stale() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.status("web");
    cluster.pass(59);
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.agent_reports("n1", |_| {});
    cluster.pass(1);
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale");
    assert_eq!(cluster.status("web").nodes.unwrap().stale, 1);
}

/// Every node's order says that its agent is to report this often; nobody has acknowledged that.
fn order_interval(cluster: &mut Cluster, seconds: u32) {
    let names: Vec<_> = cluster.snapshot.orders.keys().cloned().collect();
    for name in names {
        cluster.edit_order(&name, |order| {
            order.spec.report_interval_seconds = seconds;
            *order.metadata.generation.as_mut().unwrap() += 1;
        });
    }
}

#[test]
fn an_agent_that_reports_every_five_minutes_is_missing_after_five_reports_and_the_message_says_so() {
    let mut cluster = settled(&["n1"]);
    order_interval(&mut cluster, 300);
    cluster.agents_apply();
    cluster.status("web");
    cluster.pass(1499);
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale");
    cluster.pass(1);
    assert_eq!(cluster.verdict("web"), "False AgentMissing Stalled");
    assert!(
        cluster
            .message("web")
            .starts_with("the node is Ready, and its agent has not reported for 25 minutes or more"),
        "{}",
        cluster.message("web")
    );
}

#[test]
fn an_agent_that_is_to_report_more_often_is_not_silent_before_it_has_heard_of_it() {
    let mut cluster = settled(&["n1"]);
    order_interval(&mut cluster, 300);
    cluster.agents_apply();
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.pass(200);
    order_interval(&mut cluster, 20);
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.agents_apply();
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.pass(60);
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale", "and from then on it is");
}

#[test]
fn an_agent_that_is_to_report_more_seldom_may_at_once() {
    let mut cluster = settled(&["n1"]);
    cluster.status("web");
    order_interval(&mut cluster, 300);
    cluster.pass(200);
    assert_eq!(cluster.verdict("web"), "True Applied");
}
