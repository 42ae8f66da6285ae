//! A tuning that is to lose a sysctl to another one, whose rollout has not come to its nodes: what is in force is its own value.

use crds::condition::ConditionStatus;
use crds::tuning::Rollout;

use crate::fixtures::{Cluster, tuning};
use crate::snapshot::Tuning;

/// `base` is in force on two nodes, and `web` is to win the key and is paused.
fn losing(base: Tuning, web: Tuning) -> Cluster {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![base]);
    cluster.status("base");
    cluster.snapshot.tunings.push(web);
    cluster.edit_tuning("web", |web| {
        web.with(|spec| spec.rollout = Some(Rollout { paused: Some(true), ..Rollout::default() }))
    });
    turn(&mut cluster);
    cluster
}

fn turn(cluster: &mut Cluster) {
    cluster.assign();
    cluster.agents_apply();
    cluster.statuses();
}

fn edit(cluster: &mut Cluster, fin_timeout: i64) {
    cluster.edit_tuning("base", |base| {
        base.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(fin_timeout))
    });
}

#[test]
fn a_tuning_is_not_overridden_before_the_rollout_of_the_other_comes_to_its_nodes() {
    let mut cluster = losing(tuning("base", 20), tuning("web", 30).priority(1));
    assert_eq!(cluster.verdict("base"), "True Applied");
    assert_eq!(cluster.status("base").nodes.unwrap().overridden, 0);
    edit(&mut cluster, 21);
    assert_eq!(cluster.verdict("base"), "False Progressing Reconciling");
    cluster.assign();
    assert_eq!(cluster.verdict("base"), "False Progressing Reconciling", "nothing is acknowledged");
    cluster.agents_apply();
    assert_eq!(cluster.verdict("base"), "True Applied");
    cluster.edit_tuning("web", |web| web.with(|spec| spec.rollout = None));
    turn(&mut cluster);
    assert_eq!(cluster.verdict("base"), "True Overridden");
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn what_fails_while_it_is_in_force_is_said_though_another_tuning_is_to_win() {
    let mut cluster = losing(tuning("base", 20), tuning("web", 30).priority(1));
    cluster.agent_reports("n1", crate::fixtures::in_state("Failed", "permission denied"));
    assert_eq!(cluster.verdict("base"), "False WriteFailed Stalled");
}

#[test]
fn a_tie_is_not_lost_before_the_winner_orders_anything_and_is_shown_all_the_same() {
    let mut cluster = losing(tuning("base", 20).created(2), tuning("web", 30).created(1));
    edit(&mut cluster, 21);
    turn(&mut cluster);
    assert_eq!(cluster.verdict("base"), "True Applied");
    let conflicted = cluster.status("base").conditions[3].clone();
    assert_eq!(conflicted.status, ConditionStatus::True);
    assert!(conflicted.message.contains("tuning web is older"), "{}", conflicted.message);
}
