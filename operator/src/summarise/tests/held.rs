//! What a status says of orders that are held back.

use crate::fixtures::{Cluster, tuning};
use crate::limit::Limiter;
use crate::snapshot::{HOLD_LABEL, Tuning};
use crate::switch::Switch;

fn changed(mut cluster: Cluster) -> Cluster {
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    cluster
}

fn settled(nodes: &[&str]) -> Cluster {
    Cluster::settled(nodes, vec![tuning("web", 30)])
}

fn hold(cluster: &mut Cluster, node: &str) {
    cluster.edit_node(node, |node| {
        node.set_label(HOLD_LABEL, Some(""));
    });
}

/// A turn of the order loop.
fn turn(cluster: &mut Cluster, limiter: &mut Limiter) {
    let allowed = limiter.limit(&cluster.snapshot, cluster.resolve_now(), cluster.now);
    cluster.write(&allowed.resolution);
    cluster.agents_apply();
    cluster.history.note_held_back(allowed.held);
}

#[test]
fn a_switch_that_says_hold_suspends_every_tuning() {
    let mut cluster = changed(settled(&["n1"]));
    cluster.snapshot.tunings.push(tuning("idle", 30).on("n9"));
    for (switch, words) in [
        (Switch::Hold, "ConfigMap tcpclose-control says Hold: every order stays as it is"),
        (Switch::Release, "ConfigMap tcpclose-control says Release: every value is taken back"),
    ] {
        cluster.snapshot.switch = switch;
        assert_eq!(cluster.verdict("web"), "False Suspended");
        assert_eq!(cluster.message("web"), words);
        assert_eq!(cluster.verdict("idle"), "False Suspended");
    }
    cluster.snapshot.switch = Switch::Run;
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
}

#[test]
fn a_node_that_is_held_does_not_keep_its_tuning_from_being_ready() {
    let mut cluster = changed(settled(&["n1", "n2", "n3"]));
    hold(&mut cluster, "n3");
    turn(&mut cluster, &mut Limiter::default());
    assert_eq!(cluster.verdict("web"), "True AppliedExceptStale");
    assert_eq!(cluster.message("web"), "in force on 2 of 3 nodes; 1 node held (n3)");
    let status = cluster.status("web");
    let nodes = status.nodes.unwrap();
    assert_eq!((nodes.summary.as_str(), nodes.stale, nodes.held), ("2/3", 1, 1));
    assert_eq!(status.worst[0].reason, "Held");
    assert_eq!(status.worst[0].message, "its label tcpclose.dev/hold keeps its order as it is");
}

#[test]
fn a_node_that_is_held_with_what_is_wanted_is_up_to_date() {
    let mut cluster = settled(&["n1", "n2"]);
    hold(&mut cluster, "n2");
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.message("web"), "in force on 2 nodes; 1 node held (n2)");
}

#[test]
fn a_tuning_whose_every_node_is_held_is_in_force_nowhere() {
    let mut cluster = changed(settled(&["n1"]));
    hold(&mut cluster, "n1");
    turn(&mut cluster, &mut Limiter::default());
    assert_eq!(cluster.verdict("web"), "False Suspended");
    assert_eq!(
        cluster.message("web"),
        "in force nowhere: the label tcpclose.dev/hold keeps the orders of 1 node as they are (n1)"
    );
}

#[test]
fn a_node_that_is_held_and_has_left_is_not_waited_for() {
    let mut cluster = settled(&["n1", "n2"]);
    hold(&mut cluster, "n2");
    cluster.edit_tuning("web", |tuning| tuning.on("n1"));
    turn(&mut cluster, &mut Limiter::default());
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.status("web").nodes.unwrap().restoring, 1);
}

#[test]
fn what_waits_before_it_is_put_back_is_said() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.edit_tuning("web", |tuning| tuning.on("n1"));
    turn(&mut cluster, &mut Limiter::default());
    assert_eq!(cluster.verdict("web"), "False Progressing Reconciling");
    assert_eq!(
        cluster.message("web"),
        "in force on 1 of 1 node; 1 node no longer matched, being put back (n2); 1 of them waits for 5 s, in case it is \
         taken back"
    );
}

#[test]
fn a_change_that_waits_with_what_it_undoes_is_said() {
    let mut cluster = Cluster::settled(
        &["n1"],
        vec![tuning("web", 30).with(|spec| spec.sysctls.tcp_orphan_retries = Some(4))],
    );
    cluster.edit_tuning("web", |web: Tuning| web.with(|spec| spec.sysctls.tcp_orphan_retries = None));
    turn(&mut cluster, &mut Limiter::default());
    assert_eq!(
        cluster.message("web"),
        "in force on 0 of 1 node; waiting for 1 node (n1): its order waits for 5 s, in case it is taken back"
    );
}
