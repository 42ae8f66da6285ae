//! A change reaches one node first, is watched there, and follows to the others; and what becomes of it when nodes die of it.

use std::{
    fs,
    io::Read,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test,
    cautions::{FEW, TW_BUCKETS},
    condition, ensure, everywhere,
    faults::{BACK, NODE_IS_BACK, fin_timeout, only, plain_node, tuned, wait_for_value_within},
    in_flight::with_one_in_flight_at_most,
    orders::{all_hold, wait_until_all_hold, wait_until_all_hold_within},
    privilege::agent,
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    error::Error,
    node::Node,
    report::{Seen, poll_until},
    up::wait_for_nodes,
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_change_goes_to_a_canary_first_soaks_and_then_rolls_out", run: canary_first },
    Test { name: "a_paused_rollout_waits_and_an_edit_back_to_the_stable_revision_does_not", run: paused },
    Test { name: "a_canary_that_is_refused_changes_nothing_and_says_why", run: refused },
];

pub(super) const LONG_TESTS: &[Test] = &[
    Test {
        name: "a_canary_that_is_cut_off_right_after_its_write_is_lost_and_stops_the_rollout",
        run: cut_off,
    },
    Test { name: "a_node_that_dies_of_a_change_fails_it_and_it_is_not_tried_again_unasked", run: killed },
    Test {
        name: "agents_that_are_killed_at_random_never_leave_more_in_flight_than_may_be",
        run: killed_at_random,
    },
];

/// The label of the node that goes first.
const POOL: &str = "pool=canary";
/// Kubernetes calls a node NotReady after 50 s, and an agent that misses three reports is silent after 60; the operator turns
/// every 5 s.
const LOST: Duration = Duration::from_secs(90);
const FIRST: u8 = 31;
/// Orders and reports of a few changes, heartbeats, and statuses.
const MOST: usize = 120;

/// A spec for every node with a rollout, each line of it `field: value`.
pub(super) fn rolling(seconds: u8, rollout: &[&str]) -> String {
    format!("{}\n  rollout:\n    {}", fin_timeout(seconds), rollout.join("\n    "))
}

/// A spec whose rollout begins on the node that was chosen, and stays there.
fn on_the_chosen(seconds: u8, more: &[&str]) -> String {
    let canary = ["maxConcurrent: 1", "canary: {nodeSelector: {matchLabels: {pool: canary}}}"];
    rolling(seconds, &[&canary[..], more].concat())
}

/// Chooses a node that goes first, whatever its place.
fn with_chosen(suite: &Suite, work: impl FnOnce(&Node) -> Outcome) -> Outcome {
    let node = plain_node(suite)?;
    suite.cluster.kubectl(&["label", "node", &node.name, POOL, "--overwrite"])?;
    let outcome = work(node);
    suite.cluster.kubectl(&["label", "node", &node.name, "pool-"])?;
    outcome
}

fn others_hold(suite: &Suite, node: &Node, value: &str) -> Outcome {
    for other in suite.cluster.nodes().iter().filter(|other| other.name != node.name) {
        let live = other.read_sysctl(FIN_TIMEOUT)?;
        ensure(live == value, || format!("{} holds {live}, not {value}", other.name))?;
    }
    Ok(())
}

fn message(object: &Value) -> String {
    let ready = condition(object, "Ready").cloned().unwrap_or_default();
    ready["message"].as_str().unwrap_or_default().to_owned()
}

// ---- forward ----

fn canary_first(suite: &Suite) -> Outcome {
    tuned(suite)?;
    suite.tune("web", &rolling(31, &["soakSeconds: 5", "maxConcurrent: 1"]))?;
    suite.wait_for_condition("web", "Ready", ("False", "Soaking"), SOON)?;
    let object = suite.get("tcpclosetuning", "web")?;
    let rollout = &object["status"]["rollout"];
    let canary = suite.cluster.node(rollout["canaries"][0].as_str().unwrap_or_default())?;
    let live = canary.read_sysctl(FIN_TIMEOUT)?;
    ensure(live == "31", || format!("the canary holds {live}"))?;
    others_hold(suite, canary, "30")?;
    let said = message(&object);
    ensure(said.contains(&format!("canary {} settled; soaking until", canary.name)), || said.clone())?;
    ensure(rollout["stable"]["sysctls"]["tcpFinTimeoutSeconds"] == 30, || rollout.to_string())?;
    let took = suite.wait_until_applied("web")?;
    println!("    {} first, everywhere {:.1} s after its soak began", canary.name, took.as_secs_f64());
    all_hold(suite, FIN_TIMEOUT, "31")?;
    let object = suite.get("tcpclosetuning", "web")?;
    let rollout = &object["status"]["rollout"];
    let stable = &rollout["stable"];
    let completed = rollout["phase"] == "Completed" && stable["revision"] == rollout["revision"];
    ensure(completed && stable["sysctls"]["tcpFinTimeoutSeconds"] == 31, || rollout.to_string())
}

fn paused(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let soak = ["soakSeconds: 3600", "maxConcurrent: 1"];
    suite.tune("web", &rolling(31, &soak))?;
    suite.wait_for_condition("web", "Ready", ("False", "Soaking"), SOON)?;
    let paused = ["soakSeconds: 0", "maxConcurrent: 1", "paused: true"];
    suite.tune("web", &rolling(31, &paused))?;
    suite.wait_for_condition("web", "Ready", ("False", "Paused"), SOON)?;
    let changed = suite.values(FIN_TIMEOUT)?.iter().filter(|live| *live == "31").count();
    ensure(changed == 1, || format!("{changed} nodes have the change"))?;
    suite.tune("web", &rolling(30, &paused))?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "30")?;
    let nodes = suite.get("tcpclosenodes", "")?;
    let taken_back = |node: &&Value| node["spec"]["sysctls"][0]["rollback"] == true;
    let taken_back = nodes["items"].as_array().into_iter().flatten().filter(taken_back).count();
    ensure(taken_back == 1, || format!("{taken_back} nodes were taken back"))
}

fn refused(suite: &Suite) -> Outcome {
    let before = suite.values(TW_BUCKETS)?;
    let spec = everywhere(&[FEW]) + "\n  rollout: {soakSeconds: 1, maxConcurrent: 1}";
    suite.tune("web", &spec)?;
    suite.wait_for_condition("web", "Stalled", ("True", "Refused"), SOON)?;
    let after = suite.values(TW_BUCKETS)?;
    ensure(before == after, || format!("{before:?} became {after:?}"))?;
    let object = suite.get("tcpclosetuning", "web")?;
    let rule = object["status"]["refusals"][0]["rule"].as_str().unwrap_or_default();
    let said = message(&object);
    ensure(said.contains(&format!("add {rule} to safety.acknowledge")), || said.clone())
}

// ---- nodes that die of it ----

fn cut_off(suite: &Suite) -> Outcome {
    tuned(suite)?;
    with_chosen(suite, |node| {
        let toll = Toll::begin(suite)?;
        suite.tune("web", &on_the_chosen(31, &["soakSeconds: 600"]))?;
        wait_for_value_within(node, "31", SOON)?;
        let net = suite.cluster.net()?;
        let start = Instant::now();
        suite.cluster.ip(&net, &format!("link set {} down\n", node.name))?;
        let outcome =
            suite.wait_for_condition("web", "Stalled", ("True", "NodesLost"), LOST).and_then(|_| {
                println!("    lost {:.1} s after it was cut off", start.elapsed().as_secs_f64());
                // Whatever else its author wants: a lost node keeps its slot.
                suite.tune("web", &on_the_chosen(31, &["soakSeconds: 0"]))?;
                suite.wait_for_condition("web", "Stalled", ("True", "NodesLost"), SOON)?;
                others_hold(suite, node, "30")?;
                let object = suite.get("tcpclosetuning", "web")?;
                let nodes = &object["status"]["nodes"];
                ensure(nodes["failed"] == 1 && nodes["pending"] == 2, || nodes.to_string())?;
                let live = node.read_sysctl(FIN_TIMEOUT)?;
                ensure(live == "31", || format!("the node that is cut off holds {live}"))
            });
        suite.cluster.ip(&net, &format!("link set {} up\n", node.name))?;
        outcome?;
        wait_for_nodes(&suite.cluster, NODE_IS_BACK)?;
        suite.wait_for_condition("web", "Ready", ("True", "Applied"), BACK)?;
        all_hold(suite, FIN_TIMEOUT, "31")?;
        toll.is(suite, |_| 1, MOST)?;
        ends_as_without_fault(suite, "web", &fin_timeout(31))
    })
}

fn killed(suite: &Suite) -> Outcome {
    tuned(suite)?;
    with_chosen(suite, |node| {
        let (proceed, toll) = ("gate: {whenInconclusive: Proceed}", Toll::begin(suite)?);
        suite.tune("web", &on_the_chosen(31, &["soakSeconds: 600", proceed]))?;
        wait_for_value_within(node, "31", SOON)?;
        let kubelet =
            only(node, "kubelet")?.ok_or_else(|| Failure(format!("no kubelet on {}", node.name)))?;
        kubelet.signal(Signal::STOP)?;
        let start = Instant::now();
        let outcome = agent(node).and_then(|agent| {
            agent.kill()?;
            suite.wait_for_condition("web", "Stalled", ("True", "RolledBack"), LOST)?;
            println!("    taken back {:.1} s after it died", start.elapsed().as_secs_f64());
            let object = suite.get("tcpclosetuning", "web")?;
            let rollout = &object["status"]["rollout"];
            let reason = rollout["failedReason"].as_str().unwrap_or_default();
            ensure(reason.contains(&node.name), || rollout.to_string())?;
            others_hold(suite, node, "30")
        });
        kubelet.signal(Signal::CONT)?;
        outcome?;
        wait_for_value_within(node, "30", NODE_IS_BACK)?;
        // It stays taken back, whatever is changed beside the revision, until a person says so.
        suite.tune("web", &on_the_chosen(31, &["soakSeconds: 1", proceed]))?;
        suite.wait_for_condition("web", "Stalled", ("True", "RolledBack"), SOON)?;
        wait_for_nodes(&suite.cluster, NODE_IS_BACK)?;
        all_hold(suite, FIN_TIMEOUT, "30")?;
        let retry = "tcpclose.dev/retry-at=now";
        suite.cluster.kubectl(&["annotate", "tcpclosetuning", "web", retry, "--overwrite"])?;
        wait_until_all_hold(suite, FIN_TIMEOUT, "31")?;
        suite.wait_for_condition("web", "Ready", ("True", "Applied"), BACK)?;
        // There and back, and there when it was asked for.
        toll.is(suite, |other| if other.name == node.name { 3 } else { 1 }, MOST)?;
        ends_as_without_fault(suite, "web", &fin_timeout(31))
    })
}

// ---- in flight ----

fn killed_at_random(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let toll = Toll::begin(suite)?;
    with_one_in_flight_at_most(suite, || flip(suite))?;
    toll.asks_at_most(suite, MOST)?;
    let last = changes(suite).last().map_or(FIRST, |(value, _)| value);
    ends_as_without_fault(suite, "web", &fin_timeout(last))
}

/// Values of `tcp_fin_timeout`, and the node whose agent is killed at each.
fn changes(suite: &Suite) -> impl Iterator<Item = (u8, &Node)> {
    (FIRST..).zip(suite.cluster.nodes().iter().chain(suite.cluster.nodes()))
}

/// A number of the kernel's.
fn random_below(bound: u64) -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    let random = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    random.map_err(Error::file("read", "/dev/urandom"))?;
    Ok(u64::from_ne_bytes(bytes) % bound)
}

/// Change after change, and an agent that is killed at a random time after each.
fn flip(suite: &Suite) -> Outcome {
    for (round, node) in changes(suite) {
        let toll = Toll::begin(suite)?;
        suite.tune("web", &rolling(round, &["soakSeconds: 0", "maxConcurrent: 1"]))?;
        let delay = Duration::from_millis(random_below(160)?);
        println!("    kills the agent on {} after {delay:?}", node.name);
        thread::sleep(delay);
        agent(node)?.kill()?;
        wait_until_all_hold_within(suite, FIN_TIMEOUT, &round.to_string(), BACK)?;
        suite.wait_for_condition("web", "Ready", ("True", "Applied"), BACK)?;
        poll_until("the agent is back", BACK, || {
            Ok(Seen::when(agent(node).is_ok(), || format!("none runs on {}", node.name)))
        })?;
        // One that is killed between a write and its word of it has written all the same.
        let written = toll.kernel_writes(suite)?;
        ensure(written.iter().all(|writes| *writes <= 1), || format!("{round}: kernel writes {written:?}"))?;
    }
    Ok(())
}
