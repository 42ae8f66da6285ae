//! An operator that is ended at any write comes to the same end, and whoever is ended at random: never are more nodes in
//! flight than may be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crds::TcpCloseTuningStatus;

use super::*;
use crate::assign::{self, Sent, Write};
use crate::history::History;
use crate::run::resolve_now;
use crate::snapshot::OrderObject;

/// An operator that ends after so many writes, and the one that follows it.
struct Operator {
    cluster: Cluster,
    sent: Sent,
    /// The generation at which a node was ordered another revision than the first.
    changed: BTreeMap<String, i64>,
    /// What the cache still shows of some nodes.
    stale: BTreeMap<String, Arc<OrderObject>>,
    writes: usize,
    ends_after: Option<usize>,
}

impl Operator {
    fn new(cluster: Cluster, ends_after: Option<usize>) -> Self {
        let (sent, changed, stale) = (Sent::default(), BTreeMap::new(), BTreeMap::new());
        Self { cluster, sent, changed, stale, writes: 0, ends_after }
    }

    /// Whether the write that was just made was its last.
    fn ends(&mut self) -> bool {
        self.writes += 1;
        let ends = self.ends_after == Some(self.writes);
        if ends {
            self.restart();
        }
        ends
    }

    /// Nothing is left but what is stored; the next one lists everything first.
    fn restart(&mut self) {
        self.cluster.history = History::default();
        self.sent = Sent::default();
        self.stale.clear();
    }

    fn turn(&mut self) {
        self.order();
        self.report();
    }

    fn order(&mut self) {
        let mut view = self.cluster.snapshot.clone();
        view.orders.extend(self.stale.clone());
        let now = self.cluster.now.clock;
        let unseen = self.sent.unseen(&view, now);
        let silent = crate::summarise::class::silent(&view, &self.cluster.history, now);
        let resolution = resolve_now(&view, &silent, &unseen);
        let writes = self.sent.without_sent(assign::plan(&view, &resolution), now);
        self.sent.note_tried(&writes, now);
        for write in writes {
            // The API server takes no patch of a version that has gone.
            let stored = self.cluster.snapshot.orders.get(write.node());
            let version =
                stored.and_then(|order| order.0.as_ref().unwrap().metadata.resource_version.clone());
            if let Write::Patch { version: planned, .. } = &write
                && *planned != version
            {
                continue;
            }
            self.cluster.take(&write, &resolution);
            self.note_change(write.node());
            self.sent.note(write, now);
            if self.ends() {
                return;
            }
        }
    }

    fn note_change(&mut self, node: &str) {
        let first = tuning("web", 30).revision;
        let order = self.cluster.snapshot.orders[node].0.as_ref().unwrap();
        match order.spec.sysctls.iter().find(|entry| entry.value.is_some()) {
            Some(entry) if entry.tuning.revision == first => self.changed.remove(node),
            Some(_) => self.changed.insert(node.into(), order.metadata.generation.unwrap()),
            // It puts back what it was ordered.
            None => None,
        };
    }

    fn report(&mut self) {
        let names: Vec<_> = self.cluster.snapshot.tunings.iter().map(|tuning| tuning.name.clone()).collect();
        for name in names {
            let next = self.cluster.next_status(&name);
            let tuning = self.cluster.snapshot.tunings.iter_mut().find(|tuning| tuning.name == name).unwrap();
            if tuning.status.as_ref() == Some(&next) {
                continue;
            }
            tuning.status = Some(next);
            if self.ends() {
                return;
            }
        }
    }

    /// Nodes that were ordered another revision than the first, not that one again, and have acknowledged nothing since.
    fn in_flight(&self) -> usize {
        let heard = |name: &String| {
            let order = self.cluster.snapshot.orders[name].0.as_ref().unwrap();
            order.status.as_ref().map(|status| status.observed_generation)
        };
        self.changed.iter().filter(|(name, generation)| heard(name) < Some(**generation)).count()
    }

    /// All that is left in the end, without the times.
    fn end(&self) -> (Vec<Vec<String>>, RolloutStatus, Vec<String>) {
        let orders = self.cluster.snapshot.orders.values();
        let spoken =
            |order: &Arc<OrderObject>| order.0.as_ref().unwrap().spec.sysctls.iter().map(speak).collect();
        let orders = orders.map(spoken).collect();
        let rollout = RolloutStatus { phase_since: None, progressed_at: None, ..self.cluster.rollout() };
        let status: &TcpCloseTuningStatus = self.cluster.snapshot.tunings[0].status.as_ref().unwrap();
        let reasons = status.conditions.iter().map(|condition| condition.reason.clone()).collect();
        (orders, rollout, reasons)
    }
}

fn watched() -> Rollout {
    Rollout { soak_seconds: Some(30), ..at_most(2) }
}

/// An edit that completes.
fn completes(ends_after: Option<usize>) -> Operator {
    let mut operator = Operator::new(completed(5, Some(watched())), ends_after);
    operator.cluster.edit(31);
    for _ in 0..20 {
        operator.turn();
        operator.cluster.agents_apply();
        operator.cluster.pass(10);
        assert!(operator.in_flight() <= 2);
    }
    assert_eq!(operator.cluster.phase(), "Completed");
    operator
}

/// An edit whose canary fails, and is taken back.
fn fails(ends_after: Option<usize>) -> Operator {
    let rollout = Rollout { gate: Some(Gate::default()), ..watched() };
    let mut operator = Operator::new(completed(5, Some(rollout)), ends_after);
    operator.cluster.edit(31);
    for _ in 0..20 {
        operator.turn();
        for name in names(5) {
            operator.cluster.agent_reports(&name, |status| {
                if status.sysctls[0].desired == Some(31) {
                    in_state("Failed", "no")(status);
                }
            });
        }
        operator.cluster.pass(10);
        assert!(operator.cluster.ordered(31).len() <= 1, "only the canary ever takes it");
    }
    assert_eq!(operator.cluster.phase(), "RolledBack");
    operator
}

/// An edit that is taken back in the middle of its rollout.
fn returns(ends_after: Option<usize>) -> Operator {
    let mut operator = Operator::new(completed(5, Some(watched())), ends_after);
    operator.cluster.edit(31);
    for round in 0..20 {
        if round == 7 {
            operator.cluster.edit(30);
        }
        operator.turn();
        operator.cluster.agents_apply();
        operator.cluster.pass(10);
    }
    assert_eq!((operator.cluster.phase().as_str(), operator.cluster.ordered(30).len()), ("Completed", 5));
    operator
}

#[test]
fn an_operator_that_is_ended_at_any_write_comes_to_the_same_end() {
    for (what, script) in
        [("completes", completes as fn(Option<usize>) -> Operator), ("fails", fails), ("returns", returns)]
    {
        let undisturbed = script(None);
        assert!(undisturbed.writes > 5, "{what}: {}", undisturbed.writes);
        for ends_after in 1..=undisturbed.writes {
            assert_eq!(
                script(Some(ends_after)).end(),
                undisturbed.end(),
                "{what}, ended after {ends_after} writes"
            );
        }
    }
}

/// As random as a test needs, and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// Some of the nodes, about one in so many.
    fn some(&mut self, many: usize, one_in: u64) -> BTreeSet<String> {
        names(many).into_iter().filter(|_| self.roll(one_in) == 0).collect()
    }
}

#[test]
fn never_are_more_in_flight_than_may_be_whoever_is_ended_and_whatever_the_cache_shows() {
    never_more_in_flight(false);
}

#[test]
fn never_are_more_in_flight_than_may_be_whichever_labels_come_and_go() {
    never_more_in_flight(true);
}

fn never_more_in_flight(labels_flap: bool) {
    const NODES: usize = 8;
    let mut samples = 0;
    for seed in 0..if labels_flap { 25 } else { 70 } {
        let mut dice = Dice(seed);
        let max = 1 + dice.roll(4);
        let rollout = Rollout { soak_seconds: Some(10), ..at_most(i32::try_from(max).unwrap()) };
        let mut operator = Operator::new(completed(NODES, Some(rollout)), None);
        for name in names(NODES) {
            operator.cluster.label(&name, "role", "web");
        }
        operator.cluster.change(|spec| {
            spec.max_failed_nodes = Some(IntOrString::Int(8));
            spec.node_selector = selector("role", "web");
        });
        operator.cluster.edit(31);
        for round in 0..60 {
            // Whose agents are dead, whose machines, and what of the cluster the cache has not seen yet.
            let (dead, down) = (dice.some(NODES, 3), dice.some(NODES, 8));
            let before = operator.cluster.snapshot.orders.clone();
            operator.order();
            if dice.roll(9) == 0 {
                operator.cluster.edit(31 + i64::try_from(dice.roll(3)).unwrap());
            }
            for name in names(NODES).iter().filter(|_| labels_flap) {
                let role = if dice.roll(6) == 0 { "idle" } else { "web" };
                operator.cluster.label(name, "role", role);
            }
            let lag = dice.some(NODES, 2);
            operator.stale = before
                .iter()
                .filter(|(name, _)| lag.contains(*name))
                .map(|(name, order)| (name.clone(), order.clone()))
                .collect();
            for name in names(NODES) {
                if down.contains(&name) {
                    operator.cluster.node_is_down(&name);
                } else {
                    operator.cluster.ready(&name);
                }
            }
            operator.order();
            if dice.roll(4) == 0 {
                operator.restart();
            }
            operator.stale.clear();
            operator.report();
            if operator.cluster.phase() == "Completed" {
                break;
            }
            let in_flight = operator.in_flight();
            assert!(
                in_flight <= usize::try_from(max).unwrap(),
                "seed {seed}, round {round}: {in_flight} > {max}"
            );
            samples += 1;
            for name in names(NODES) {
                if !dead.contains(&name) && !down.contains(&name) {
                    operator.cluster.agent_reports(&name, |_| {});
                }
            }
            operator.cluster.now.clock += Duration::from_secs(1);
            operator.cluster.now.wall += Duration::from_secs(1);
        }
        for name in names(NODES) {
            operator.cluster.ready(&name);
            operator.cluster.label(&name, "role", "web");
        }
        for _ in 0..40 {
            operator.turn();
            operator.cluster.agents_apply();
            operator.cluster.pass(1);
        }
        assert_eq!(operator.cluster.phase(), "Completed", "seed {seed}");
    }
    assert!(samples >= 1000, "{samples}");
}

/// The canary of four nodes has settled and then fallen silent, its Node still Ready, until the rollout stopped.
fn silent_canary() -> (Cluster, String) {
    let mut cluster = completed(4, Some(Rollout { soak_seconds: Some(60), ..at_most(1) }));
    cluster.edit(31);
    cluster.turn();
    let canary = cluster.ordered(31).remove(0);
    for _ in 0..3 {
        cluster.pass(20);
        round(&mut cluster, &canary);
    }
    assert_eq!(cluster.verdict("web"), "False NodesLost Stalled");
    (cluster, canary)
}

/// A turn in which the agent of one node says nothing.
fn round(cluster: &mut Cluster, silent: &str) {
    cluster.assign();
    for name in names(4).iter().filter(|name| *name != silent) {
        cluster.agent_reports(name, |_| {});
    }
    cluster.statuses();
}

#[test]
fn a_lost_node_stays_lost_after_the_operator_restarts() {
    let (mut cluster, canary) = silent_canary();
    cluster.history = History::default();
    cluster.statuses();
    for _ in 0..6 {
        cluster.pass(10);
        round(&mut cluster, &canary);
        assert_eq!(cluster.ordered(31), std::slice::from_ref(&canary));
        assert_eq!(cluster.verdict("web"), "False NodesLost Stalled");
    }
}

#[test]
fn a_lost_node_that_reports_after_the_operator_restarted_is_back() {
    let (mut cluster, _) = silent_canary();
    cluster.history = History::default();
    cluster.statuses();
    cluster.pass(10);
    cluster.turns(6);
    assert_eq!(cluster.verdict("web"), "True Applied");
}

#[test]
fn a_restart_of_the_operator_costs_a_rollout_without_lost_nodes_nothing() {
    let mut cluster = completed(4, Some(Rollout { soak_seconds: Some(60), ..at_most(1) }));
    cluster.edit(31);
    cluster.turns(2);
    cluster.history = History::default();
    cluster.pass(60);
    cluster.statuses();
    cluster.assign();
    assert_eq!(cluster.ordered(31).len(), 2);
}
