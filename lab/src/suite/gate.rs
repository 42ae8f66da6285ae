//! The gate of a rollout on real nodes, with real connections in their namespaces, and without.

use std::{thread, time::Duration};

use serde_json::Value;
use tcp_close::Sysctl;

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, ensure, everywhere,
    faults::wait_for_successor,
    orders::{all_hold, wait_until_all_hold},
    privilege::agent,
    sysctl,
    toll::{Toll, ends_as_without_fault, nodes_end_as_without_fault},
};
use crate::{
    meanwhile::{Work, meanwhile},
    node::Node,
    programs::AGENT,
    report::{Seen, poll_until},
    traffic,
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test {
        name: "under_load_a_good_change_passes_the_gate_and_a_bad_canary_is_taken_back_and_not_tried_again",
        run: under_load,
    },
    Test {
        name: "without_traffic_or_a_past_a_change_stays_on_its_canary_until_its_author_says_proceed",
        run: without_traffic,
    },
];

const TW_BUCKETS: &str = Sysctl::MaxTwBuckets.name();
/// Fewer than the load needs: 60 s of it are in TIME_WAIT.
const TOO_FEW: &str = "tcpMaxTwBuckets: 500";
const ACCEPTED: &str =
    "\n  safety:\n    acknowledge: [max-tw-buckets-below-peak, max-tw-buckets-below-quarter-of-default]";
/// Heartbeats of some minutes, counts that move, orders, and statuses.
const MOST: usize = 150;
/// A soak of 30 s, three reports, and the other nodes one by one.
const PASSED: Duration = Duration::from_secs(150);
/// Two reports of a canary.
const NOTICED: Duration = Duration::from_secs(60);

fn gated(sysctls: &[&str], soak: u32, gate: &str) -> String {
    let spec = everywhere(sysctls);
    format!("{spec}\n  rollout:\n    canary: {{nodes: 1}}\n    soakSeconds: {soak}\n    gate: {gate}")
}

/// Runs work while every node keeps connecting to the next one, and closes first: about 60 connections a second each.
fn busy<T>(suite: &Suite, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let nodes = suite.cluster.nodes();
    let loads = |work: &Work| {
        thread::scope(|scope| {
            let peers = nodes.iter().zip(nodes.iter().cycle().skip(1));
            let loads: Vec<_> =
                peers.map(|(client, server)| scope.spawn(|| load(client, server, work))).collect();
            loads
                .into_iter()
                .try_for_each(|load| load.join().unwrap_or_else(|_| Err(Failure("a load panicked".into()))))
        })
    };
    let (loaded, result) = meanwhile(loads, work);
    loaded.and(result)
}

fn load(client: &Node, server: &Node, work: &Work) -> Outcome {
    while work.goes_on() {
        traffic::time_wait(client, server, 6)?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The one node that was ordered a sysctl, and the others.
fn canary<'a>(suite: &'a Suite, key: &str) -> Result<(&'a Node, Vec<&'a Node>), Failure> {
    let orders = suite.get("tcpclosenodes", "")?;
    let orders = orders["items"].as_array().cloned().unwrap_or_default();
    let is_ordered = |node: &&Node| {
        let mut of_node = orders.iter().filter(|order| order["metadata"]["name"] == node.name.as_str());
        of_node.any(|order| entry(order, key).is_some())
    };
    let (canaries, others): (Vec<_>, Vec<_>) = suite.cluster.nodes().iter().partition(is_ordered);
    match canaries[..] {
        [canary] => Ok((canary, others)),
        _ => Err(Failure(format!("{} nodes are ordered {key}, not one", canaries.len()))),
    }
}

fn entry<'a>(order: &'a Value, key: &str) -> Option<&'a Value> {
    order["spec"]["sysctls"].as_array()?.iter().find(|entry| entry["name"] == key)
}

/// What was ordered on these nodes so far.
fn generations(suite: &Suite, nodes: &[&Node]) -> Result<Vec<Value>, Failure> {
    let generation = |node: &&Node| {
        suite.get("tcpclosenode", &node.name).map(|order| order["metadata"]["generation"].clone())
    };
    Ok(nodes.iter().map(generation).collect::<crate::Result<_>>()?)
}

fn under_load(suite: &Suite) -> Outcome {
    let default = suite.values(TW_BUCKETS)?[0].clone();
    busy(suite, || {
        suite.tune("web", &gated(&["tcpFinTimeoutSeconds: 30"], 30, "{}"))?;
        suite.wait_for_condition("web", "Ready", ("True", "Applied"), PASSED)?;
        let all: Vec<_> = suite.cluster.nodes().iter().collect();
        let (before, toll) = (generations(suite, &all)?, Toll::begin(suite)?);

        let bad = gated(&["tcpFinTimeoutSeconds: 30", TOO_FEW], 60, "{}") + ACCEPTED;
        suite.tune("web", &bad)?;
        suite.wait_for_condition("web", "Ready", ("False", "Soaking"), SOON)?;
        let (canary, others) = canary(suite, TW_BUCKETS)?;
        let took = suite.wait_for_condition("web", "Ready", ("False", "RolledBack"), NOTICED)?;
        println!("    taken back {:.1} s after the canary had it", took.as_secs_f64());
        suite.wait_for_value(&canary.name, TW_BUCKETS, &default)?;
        all_hold(suite, FIN_TIMEOUT, "30")?;
        says_why(suite, &canary.name)?;

        let untouched: Vec<_> =
            all.iter().zip(&before).filter(|(node, _)| node.name != canary.name).collect();
        let now = generations(suite, &others)?;
        ensure(untouched.iter().map(|(_, before)| *before).eq(&now), || {
            format!(
                "other nodes were ordered something: generations {before:?} before, {now:?} of others now"
            )
        })?;
        for node in &others {
            let report = suite.get("tcpclosenode", &node.name)?;
            ensure(sysctl(&report, TW_BUCKETS).is_none(), || format!("{} was changed: {report}", node.name))?;
        }

        let after = generations(suite, &[canary])?;
        suite.tune("web", &bad.replace("soakSeconds: 60", "soakSeconds: 61"))?;
        suite.wait_for_condition("web", "Ready", ("False", "RolledBack"), SOON)?;
        let again = generations(suite, &[canary])?;
        ensure(after == again, || format!("{} was ordered it again", canary.name))?;
        // There and back.
        toll.is(suite, |node| if node.name == canary.name { 2 } else { 0 }, MOST)
    })?;
    nodes_end_as_without_fault(suite, "web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

/// The status says which figure went from what to what, and where.
fn says_why(suite: &Suite, canary: &str) -> Outcome {
    let rollout = suite.get("tcpclosetuning", "web")?["status"]["rollout"].clone();
    let reason = rollout["failedReason"].as_str().unwrap_or_default();
    println!("    {reason}");
    let right =
        reason.starts_with("TIME_WAIT overflow went from 0 to ") && reason.contains(&format!(" on {canary}"));
    ensure(right, || rollout.to_string())
}

fn without_traffic(suite: &Suite) -> Outcome {
    let spec = |gate| gated(&["tcpFinTimeoutSeconds: 25"], 5, gate);
    let toll = Toll::begin(suite)?;
    suite.tune("web", &spec("{}"))?;
    suite.wait_for_condition("web", "Ready", ("False", "GateInconclusive"), NOTICED)?;
    let (canary, others) = canary(suite, FIN_TIMEOUT)?;
    suite.wait_for_value(&canary.name, FIN_TIMEOUT, "25")?;
    // Three more reports say no more.
    poll_until("the canary has reported for a minute", PASSED, || {
        let report = suite.get("tcpclosenode", &canary.name)?;
        let seconds = report["status"]["ratesSince"]["seconds"].as_u64();
        Ok(Seen::when(seconds >= Some(60), || format!("{seconds:?}")))
    })?;
    suite.wait_for_condition("web", "Ready", ("False", "GateInconclusive"), SOON)?;
    // An agent that begins anew has neither a past nor old counters.
    let killed = agent(canary)?;
    killed.kill()?;
    wait_for_successor(canary, AGENT, killed)?;
    poll_until("the canary's new agent has reported", SOON, || {
        let status = suite.get("tcpclosenode", &canary.name)?["status"].clone();
        let anew = status["ratesSince"]["seconds"].as_u64().is_none_or(|seconds| seconds < 60);
        Ok(Seen::when(anew, || status["ratesSince"].to_string()))
    })?;
    suite.wait_for_condition("web", "Ready", ("False", "GateInconclusive"), SOON)?;
    for node in others {
        let live = node.read_sysctl(FIN_TIMEOUT)?;
        ensure(live == "60", || format!("{} holds {live}", node.name))?;
    }
    poll_until("the status says why it waits", SOON, || {
        let gate = suite.get("tcpclosetuning", "web")?["status"]["rollout"]["gate"].clone();
        let words = ["too few connections since the change: ", "no figures since the change from "];
        let said = gate.as_str().is_some_and(|said| words.iter().any(|words| said.starts_with(words)));
        Ok(Seen::when(said, || gate.to_string()))
    })?;
    suite.tune("web", &spec("{whenInconclusive: Proceed}"))?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "25")?;
    toll.is(suite, |_| 1, MOST)?;
    ends_as_without_fault(suite, "web", &everywhere(&["tcpFinTimeoutSeconds: 25"]))
}
