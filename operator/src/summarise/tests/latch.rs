//! A tuning that was in force everywhere stays Ready while nodes come and go.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::settled;
use crate::fixtures::{Cluster, in_state, node, tuning};
use crate::limit::Limiter;
use crate::switch::Switch;

#[test]
fn a_node_that_joins_moves_counts_only() {
    let mut cluster = settled(&["n1", "n2"]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    join(&mut cluster, "n3");
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.status("web").nodes.unwrap().summary, "2/3");
    assert_eq!(cluster.message("web"), "in force on 2 of 3 nodes; 1 node joining or restarting (n3)");
}

#[test]
fn ready_falls_when_many_nodes_are_pending_for_five_minutes() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.status("web");
    let pending = |cluster: &mut Cluster| {
        cluster.agent_reports("n1", |_| {});
        cluster.agent_reports("n2", in_state("Pending", "later"));
    };
    for _ in 0..10 {
        pending(&mut cluster);
        assert_eq!(cluster.verdict("web"), "True Applied");
        cluster.pass(30);
    }
    pending(&mut cluster);
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
}

#[test]
fn ready_stays_while_few_nodes_are_pending_for_long() {
    let names: Vec<_> = (0..10).map(|n| format!("n{n}")).collect();
    let mut cluster = settled(&names.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.status("web");
    for _ in 0..20 {
        cluster.agents_apply();
        cluster.agent_reports("n3", in_state("Pending", "later"));
        assert_eq!(cluster.verdict("web"), "True Applied");
        cluster.pass(30);
    }
}

#[test]
fn a_new_generation_has_to_earn_ready_anew() {
    let mut cluster = settled(&["n1"]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    cluster.assign();
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
}

#[test]
fn another_tunings_order_does_not_make_a_node_pending() {
    let mut cluster = settled(&["n1"]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    let mut other = tuning("other", 9).observing();
    other.uid = "other".into();
    cluster.snapshot.tunings.push(other);
    cluster.assign();
    assert_eq!(cluster.status("web").nodes.unwrap().summary, "1/1");
}

#[test]
fn no_matching_nodes_is_not_having_been_in_force() {
    let mut cluster = settled(&[]);
    assert_eq!(cluster.verdict("web"), "True NoMatchingNodes");
    join(&mut cluster, "n1");
    assert_eq!(cluster.verdict("web"), "Unknown NoReports Reconciling");
}

fn join(cluster: &mut Cluster, name: &str) {
    cluster.snapshot.nodes.insert(name.into(), Arc::new(node(name)));
}

#[test]
fn an_edit_of_anything_but_the_revision_does_not_wait_for_a_node_that_joins() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster
        .edit_tuning("web", |tuning| tuning.with(|spec| spec.max_failed_nodes = Some(IntOrString::Int(1))));
    join(&mut cluster, "n4");
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.message("web"), "in force on 3 of 4 nodes; 1 node joining or restarting (n4)");
}

#[test]
fn an_edit_of_a_tuning_that_observes_waits_for_those_that_report_and_for_none_that_joins() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30).observing()]);
    assert_eq!(cluster.verdict("web"), "True Observed");
    join(&mut cluster, "n3");
    cluster
        .edit_tuning("web", |tuning| tuning.with(|spec| spec.max_failed_nodes = Some(IntOrString::Int(1))));
    assert_eq!(cluster.verdict("web"), "True Observed");
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    cluster.assign();
    cluster.agent_reports("n1", |_| {});
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling", "n2 has said nothing of it");
}

#[test]
fn an_edit_of_the_selector_waits_for_the_nodes_that_it_adds() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30).on("n1")]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    let everywhere = crate::fixtures::selector("kubernetes.io/os", "linux");
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.node_selector = everywhere));
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
    cluster.assign();
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
    cluster.agents_apply();
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn what_was_suspended_or_has_healed_does_not_wait_for_a_node_that_joins() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.snapshot.switch = Switch::Hold;
    assert_eq!(cluster.verdict("web"), "False Suspended");
    join(&mut cluster, "n3");
    cluster.snapshot.switch = Switch::Run;
    assert_eq!(cluster.verdict("web"), "True Applied");
    cluster.agent_reports("n2", in_state("Contended", "left alone"));
    assert_eq!(cluster.verdict("web"), "False Contended Stalled");
    cluster.agent_reports("n2", |_| {});
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn a_return_to_the_stable_revision_is_waited_for() {
    let mut cluster = settled(&["n1", "n2"]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    for fin_timeout in [31, 30] {
        cluster.edit_tuning("web", |tuning| {
            tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(fin_timeout))
        });
        cluster.assign();
        cluster.agent_reports("n1", |_| {});
        assert_eq!(cluster.verdict("web"), "False Progressing Reconciling", "{fin_timeout}");
    }
    cluster.agents_apply();
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn a_node_that_leaves_is_waited_for_once_it_is_put_back() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.edit_tuning("web", |tuning| tuning.on("n2"));
    cluster.assign();
    cluster.agents_apply();
    cluster.assign();
    cluster.agents_apply();
    assert_eq!(cluster.verdict("web"), "True Applied");
    // Nobody matches, and a value stays until it is put back.
    cluster.edit_node("n2", |node| node.set_label("name", None));
    cluster.assign();
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
    assert_eq!(
        cluster.message("web"),
        "in force on 0 of 0 nodes; 1 node no longer matched, being put back (n2)"
    );
    cluster.agents_apply();
    cluster.assign();
    assert_eq!(cluster.verdict("web"), "True NoMatchingNodes");
}

#[test]
fn a_label_that_flaps_makes_no_news() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30).on("n1")]);
    assert_eq!(cluster.verdict("web"), "True Applied");
    let before = cluster.status("web").conditions;
    let mut limiter = Limiter::default();
    for label in [None, Some("n1"), None, Some("n1")] {
        cluster.edit_node("n1", |node| node.set_label("name", label));
        assert_eq!(cluster.verdict("web"), "True Applied", "before the other loop has decided");
        let allowed = limiter.limit(&cluster.snapshot, cluster.resolve_now(), cluster.now);
        cluster.write(&allowed.resolution);
        cluster.history.note_held_back(allowed.held);
        assert_eq!(cluster.verdict("web"), "True Applied");
        cluster.now.clock += std::time::Duration::from_millis(100);
    }
    assert_eq!(cluster.status("web").conditions, before);
}
