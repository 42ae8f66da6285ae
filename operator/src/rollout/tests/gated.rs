//! The gate in a rollout, with figures.

use crds::node::Rates;

use super::*;
use crate::assign::{self, Write};

fn figures(overflows: u64) -> Rates {
    Rates {
        seconds: 60,
        overflows: Some(overflows),
        aborts_on_memory: Some(0),
        aborts_on_timeout: Some(0),
        aborts_on_close: Some(0),
        aborts_on_data: Some(0),
        aborts_on_linger: Some(0),
        resets_sent: Some(0),
        established_resets: Some(0),
        paws_rejected: Some(0),
        connects: Some(1000),
        accepts: Some(1000),
        failed_connects: Some(0),
        retransmissions: Some(0),
        ..Rates::default()
    }
}

impl Cluster {
    /// Every agent reports its figures, with so many overflows where `node` was changed.
    fn figures(&mut self, node: &str, overflows: u64) {
        let names: Vec<_> = self.snapshot.orders.keys().cloned().collect();
        for name in names {
            let now = if name == node { overflows } else { 0 };
            self.agent_reports(&name, |status| {
                (status.rates, status.rates_since) = (Some(figures(now)), Some(figures(now)));
                status.rates_before = Some(figures(0));
            });
        }
    }

    /// A canary takes a change, and reports so many overflows in 2,000 connections.
    fn canary_reports(overflows: u64) -> (Self, String) {
        let mut cluster = completed(4, Some(gated()));
        cluster.edit(31);
        cluster.turn();
        let canary = cluster.ordered(31).remove(0);
        cluster.figures(&canary, overflows);
        (cluster, canary)
    }
}

#[test]
fn a_canary_that_does_worse_is_taken_back_before_the_soak_is_over_and_the_others_are_left_alone() {
    let (mut cluster, canary) = Cluster::canary_reports(400);
    cluster.pass(20);
    assert_eq!(cluster.verdict("web"), "False RollingBack Reconciling");
    let reason = cluster.rollout().failed_reason.unwrap();
    assert!(reason.starts_with("TIME_WAIT overflow went from 0 to 200 in 1,000 connections"), "{reason}");
    assert!(reason.ends_with(&format!("on {canary}")), "{reason}");
    let resolution = cluster.resolve_now();
    let written: Vec<_> =
        assign::plan(&cluster.snapshot, &resolution).iter().map(|write| write.node().to_string()).collect();
    assert_eq!(written, [canary]);
    cluster.turns(3);
    assert_eq!(cluster.verdict("web"), "False RolledBack Stalled");
    assert_eq!(cluster.ordered(30).len(), 4);
}

#[test]
fn a_canary_that_does_as_before_lets_the_others_follow_after_the_soak() {
    let (mut cluster, canary) = Cluster::canary_reports(0);
    cluster.pass(59);
    cluster.figures(&canary, 0);
    assert_eq!(cluster.verdict("web"), "False Soaking Reconciling");
    cluster.pass(1);
    cluster.figures(&canary, 0);
    assert_eq!(cluster.verdict("web"), "False RollingOut Reconciling");
}

#[test]
fn a_node_that_does_worse_after_the_soak_takes_all_of_them_back() {
    let (mut cluster, canary) = Cluster::canary_reports(0);
    cluster.pass(60);
    cluster.figures(&canary, 0);
    cluster.statuses();
    cluster.assign();
    cluster.figures(&canary, 400);
    assert_eq!(cluster.ordered(31).len(), 2);
    assert_eq!(cluster.verdict("web"), "False RollingBack Reconciling");
    cluster.turns(3);
    assert_eq!(cluster.ordered(30).len(), 4);
}

#[test]
fn a_canary_under_a_gate_reports_every_20_seconds_in_a_large_fleet() {
    let mut cluster = completed(1001, Some(gated()));
    cluster.edit(31);
    cluster.turn();
    let resolution = cluster.resolve_now();
    let slower = assign::plan(&cluster.snapshot, &resolution);
    assert_eq!(slower.len(), 1000, "all but the canary");
    for write in slower {
        let Write::Patch { name, spec, .. } = write else { panic!("{write:?}") };
        assert_eq!((spec.report_interval_seconds, cluster.ordered(31).contains(&name)), (60, false));
    }
}
