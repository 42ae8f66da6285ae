//! Tunings that others keep from some nodes, or from all.

use super::*;

/// `web` at 30 on twelve nodes, and `other`, which takes one of them; both have completed.
fn beside_another() -> Cluster {
    let names = names(12);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let other = tuning("other", 60).priority(5).on("n01");
    Cluster::settled(&names, vec![tuning("web", 30), other])
}

impl Cluster {
    /// What has completed takes every node at once: a selector is no revision.
    fn other_takes_all(&mut self) {
        let everywhere = selector("kubernetes.io/os", "linux");
        self.edit_tuning("other", |other| other.with(|spec| spec.node_selector = everywhere));
        self.turns(3);
        assert_eq!(self.ordered(60).len(), 12);
    }

    fn stable(&self) -> Option<i64> {
        self.rollout().stable?.sysctls.tcp_fin_timeout_seconds
    }
}

#[test]
fn what_had_only_a_dead_canary_is_not_stable_when_another_tuning_takes_every_node() {
    let mut cluster = beside_another();
    cluster.edit(31);
    cluster.assign();
    let canary = cluster.ordered(31).remove(0);
    cluster.statuses();
    cluster.node_is_down(&canary);
    cluster.other_takes_all();
    assert_eq!(cluster.stable(), Some(30));
    assert_eq!(cluster.verdict("web"), "True Overridden");
    cluster.delete_tuning("other");
    cluster.assign();
    assert_eq!((cluster.ordered(30).len(), cluster.ordered(31).len()), (11, 1), "it begins at a canary");
    assert_ne!(cluster.ordered(31), [canary]);
}

#[test]
fn an_edit_that_nobody_has_run_is_rolled_out_when_the_other_tuning_goes() {
    let mut cluster = beside_another();
    cluster.other_takes_all();
    cluster.edit(31);
    cluster.turns(3);
    assert_eq!((cluster.stable(), cluster.verdict("web").as_str()), (Some(30), "True Overridden"));
    cluster.delete_tuning("other");
    cluster.assign();
    assert_eq!((cluster.ordered(30).len(), cluster.ordered(31).len()), (11, 1));
    cluster.turn();
    assert_eq!(cluster.phase(), "Soaking");
}

#[test]
fn a_rollout_whose_nodes_another_tuning_took_begins_at_a_canary_again() {
    let mut cluster = beside_another();
    cluster.edit(31);
    cluster.turns(2);
    cluster.pass(60);
    cluster.turns(2);
    assert_eq!(cluster.phase(), "RollingOut");
    cluster.other_takes_all();
    cluster.delete_tuning("other");
    cluster.turn();
    assert_eq!((cluster.ordered(30).len(), cluster.ordered(31).len()), (11, 1));
    assert_eq!(cluster.phase(), "Soaking");
}

#[test]
fn a_tuning_that_orders_what_another_orders_already_is_applied() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30).created(1)]);
    let same = tuning("same", 30).created(2).with(|spec| spec.rollout = Some(gated()));
    cluster.snapshot.tunings.push(same);
    cluster.turns(2);
    assert_eq!(cluster.verdict("same"), "True Applied");
}

#[test]
fn a_winner_that_goes_leaves_what_had_completed_in_force_at_once() {
    let loser = tuning("loser", 20).with(|spec| spec.rollout = Some(at_most(1)));
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![loser]);
    cluster.snapshot.tunings.push(tuning("web", 30).priority(1));
    cluster.turns(2);
    assert_eq!(cluster.ordered(30).len(), 2);
    cluster.delete_tuning("web");
    cluster.assign();
    assert_eq!(cluster.ordered(20).len(), 2);
}

#[test]
fn a_winner_that_goes_leaves_what_has_run_nowhere_to_its_rollout() {
    let loser = tuning("loser", 20).with(|spec| spec.rollout = Some(at_most(1)));
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30).priority(1)]);
    cluster.snapshot.tunings.push(loser);
    cluster.turns(2);
    assert_eq!(cluster.verdict("loser"), "True Overridden");
    cluster.delete_tuning("web");
    cluster.assign();
    assert_eq!((cluster.ordered(20).len(), cluster.ordered(30).len()), (1, 1), "not through the baseline");
    cluster.turns(3);
    assert_eq!(cluster.verdict("loser"), "True Applied");
}
