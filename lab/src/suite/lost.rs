//! A node whose agent is dead for ever, and whose Node object goes.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, ensure, everywhere,
    faults::{BACK, NODE_IS_BACK, only, plain_node, tuned, wait_for_value_within},
    orders::wait_until_all_hold,
    privilege::agent,
};
use crate::{
    error::Result,
    node::Node,
    report::{Seen, poll_until},
    up::wait_for_nodes,
};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "a_node_that_goes_with_a_dead_agent_hangs_nothing_and_is_said_not_to_be_restored",
    run: lost,
}];

const REUSE: &str = tcp_close::Sysctl::TwReuse.name();
/// A deletion waits for nobody.
const AT_ONCE: Duration = Duration::from_secs(5);

fn lost(suite: &Suite) -> Outcome {
    let before = suite.values(REUSE)?[0].clone();
    tuned(suite)?;
    suite.tune("clients", &everywhere(&["tcpTwReuse: 1"]))?;
    suite.wait_until_applied("clients")?;
    let node = plain_node(suite)?;
    let kubelet = only(node, "kubelet")?.ok_or_else(|| Failure(format!("no kubelet on {}", node.name)))?;
    // Nobody starts the agent again.
    kubelet.signal(Signal::STOP)?;
    let outcome = agent(node).and_then(|agent| {
        agent.kill()?;
        gone(suite, node)
    });
    // The node's first process starts its kubelet again, which registers it.
    kubelet.kill()?;
    wait_for_nodes(&suite.cluster, NODE_IS_BACK)?;
    outcome?;

    // Same kernel, same life: the first baselines are kept.
    wait_for_value_within(node, "25", NODE_IS_BACK)?;
    suite.tune("clients", &everywhere(&["tcpTwReuse: 1"]))?;
    suite.wait_for_condition("clients", "Ready", ("True", "Applied"), BACK)?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60")?;
    wait_until_all_hold(suite, REUSE, &before).map(drop)
}

/// One tuning is deleted while the agent is dead, the other one is in force when the Node goes.
fn gone(suite: &Suite, node: &Node) -> Outcome {
    let uid = suite.get("tcpclosenode", &node.name)?["metadata"]["uid"].clone();
    deleted_at_once(suite, "clients")?;
    poll_until("the node is asked to put it back", SOON, || {
        let order = suite.get("tcpclosenode", &node.name)?["spec"]["sysctls"].clone();
        let mut entries = order.as_array().into_iter().flatten();
        let asked = entries.any(|entry| entry["name"] == REUSE && entry["action"] == "Restore");
        Ok(Seen::when(asked, || order.to_string()))
    })?;
    suite.cluster.kubectl(&["delete", "node", &node.name, "--timeout=20s"])?;
    poll_until("its TcpCloseNode is gone", BACK, || {
        let names = suite.cluster.kubectl(&["get", "tcpclosenodes", "--output", "name"])?;
        Ok(Seen::when(!names.contains(&node.name), || names))
    })?;
    let left = suite.cluster.nodes().len() - 1;
    poll_until("the tuning's status has settled", SOON, || {
        let object = suite.get("tcpclosetuning", "web")?;
        let settled = object["status"]["nodes"]["summary"] == format!("{left}/{left}");
        Ok(Seen::when(settled, || object["status"].to_string()))
    })?;
    suite.wait_until_applied("web")?;
    poll_until("an event says so", SOON, || {
        let events = not_restored(suite, &uid)?;
        let right = events.len() == 1 && events[0]["type"] == "Warning" && names_both(&events[0], node);
        Ok(Seen::when(right, || format!("{events:?}")))
    })?;
    deleted_at_once(suite, "web")?;
    for (key, value) in [(FIN_TIMEOUT, "30"), (REUSE, "1")] {
        let live = node.read_sysctl(key)?;
        ensure(live == value, || format!("without an agent {key} is {live} on {}", node.name))?;
    }
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 25"]))?;
    suite.wait_until_applied("web").map(drop)
}

fn deleted_at_once(suite: &Suite, tuning: &str) -> Outcome {
    let start = Instant::now();
    suite.cluster.kubectl(&["delete", "tcpclosetuning", tuning, "--timeout=20s"])?;
    let took = start.elapsed();
    ensure(took < AT_ONCE, || format!("the deletion of {tuning} took {took:?}"))
}

/// What was told of this object; one of an earlier test had another uid.
fn not_restored(suite: &Suite, uid: &Value) -> Result<Vec<Value>> {
    let events = suite.get("events", "")?;
    let of_it = |event: &&Value| event["reason"] == "NotRestored" && event["involvedObject"]["uid"] == *uid;
    Ok(events["items"].as_array().into_iter().flatten().filter(of_it).cloned().collect())
}

fn names_both(event: &Value, node: &Node) -> bool {
    let words = event["message"].as_str().unwrap_or_default();
    [node.name.as_str(), FIN_TIMEOUT, REUSE].iter().all(|name| words.contains(name))
}
