//! Who cannot be reached: a node whose packets are dropped, an agent that says nothing, an operator that hears nothing. No
//! connection is reset, so that only silence shows.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    FIN_TIMEOUT, Failure, Outcome, Suite, Test, condition, ensure,
    faults::{fin_timeout, tuned, wait_for_value_within},
    leader::{leader, with_a_standby},
    privilege::{agent, in_namespace},
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    error::Result,
    files,
    node::Node,
    programs::OPERATOR,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test {
        name: "a_node_that_is_cut_off_keeps_its_values_is_stale_and_follows_when_it_is_back",
        run: cut_off,
    },
    Test { name: "a_node_that_turns_not_ready_is_stale_at_once", run: not_ready },
];

/// A report comes every 20 s; an agent that misses three is silent.
const STALE: Duration = Duration::from_secs(60);
/// The operator turns every 5 s, and its status follows; a loaded machine may take longer.
const NOTICED: Duration = Duration::from_secs(10);
/// A dead connection is noticed within this.
const DEAD: Duration = Duration::from_secs(60);
const CONVERGED: Duration = Duration::from_secs(30);
const AT_ONCE: Duration = Duration::from_secs(5);
/// An order and a report for each node, heartbeats, and statuses of the tuning.
const MOST: usize = 60;
/// What they say when a watch breaks.
const AGENT_SAYS: &str = "no news from the API server";
const OPERATOR_SAYS: &str = "watch tcpclosenodes: ";

/// Undoes a fault of the network, whatever the test did.
struct Cut<'a> {
    suite: &'a Suite,
    undo: String,
}

impl<'a> Cut<'a> {
    /// Carries out a command of `ip` in the control plane's namespace.
    fn make(suite: &'a Suite, ip: &str, undo: String) -> Result<Self> {
        suite.cluster.ip(&suite.cluster.net()?, &format!("{ip}\n"))?;
        Ok(Self { suite, undo: undo + "\n" })
    }

    /// The node's packets are dropped, there and back.
    fn node(suite: &'a Suite, node: &Node) -> Result<Self> {
        Self::make(suite, &format!("link set {} down", node.name), format!("link set {} up", node.name))
    }

    /// What is sent to this address is dropped; what comes from it arrives.
    fn answers_to(suite: &'a Suite, address: &str) -> Result<Self> {
        Self::make(
            suite,
            &format!("route add blackhole {address}/32"),
            format!("route del blackhole {address}/32"),
        )
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let healed = self.suite.cluster.net().and_then(|net| self.suite.cluster.ip(&net, &self.undo));
        healed.unwrap_or_else(|error| crate::report::say(format!("the network is not healed: {error}")));
    }
}

/// A program that stands still, until this is dropped.
pub(super) struct Frozen(crate::process::Process);

impl Frozen {
    pub(super) fn new(process: crate::process::Process) -> Result<Self> {
        process.signal(Signal::STOP)?;
        Ok(Self(process))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // One that has ended meanwhile needs no more.
        let _ = self.0.signal(Signal::CONT);
    }
}

/// One node is cut off, the agent of another is silent, and a standby hears nothing: all at once, as each takes a minute.
fn cut_off(suite: &Suite) -> Outcome {
    with_a_standby(suite, || {
        tuned(suite)?;
        let leading = leader(suite)?;
        let standby = in_namespace(suite, &["pods", "--selector=app.kubernetes.io/component=operator"])?;
        let standby = standby["items"].as_array().into_iter().flatten();
        let mut standby = standby.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let standby = standby.find(|pod| pod["metadata"]["name"] != leading.as_str()).cloned();
        let standby = standby.ok_or_else(|| Failure("no operator stands by".into()))?;
        let (mut away, mut busy) = (Vec::new(), Vec::new());
        for node in suite.cluster.nodes() {
            if node.processes(OPERATOR)?.is_empty() { away.push(node) } else { busy.push(node) }
        }
        let (Some(cut), Some(silent)) = (away.first(), busy.first()) else {
            return Err(Failure("every node runs an operator, or none".into()));
        };
        partitioned(suite, cut, silent, &standby)
    })
}

fn partitioned(suite: &Suite, cut: &Node, silent: &Node, standby: &Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (pod, address) = (text(&standby["metadata"]["name"]), text(&standby["status"]["podIP"]));
    let operator_log = || suite.cluster.kubectl(&["logs", "--namespace", crate::NAMESPACE, &pod]);
    let known = (agent_log(cut)?.matches(AGENT_SAYS).count(), operator_log()?.matches(OPERATOR_SAYS).count());
    let toll = Toll::begin(suite)?;
    let (start, frozen) = (Instant::now(), Frozen::new(agent(silent)?)?);
    let cuts = (Cut::node(suite, cut)?, Cut::answers_to(suite, &address)?);
    suite.tune("web", &fin_timeout(25))?;
    let mut noticed = [None; 3];
    poll_until("both nodes are stale or lost, and both watches known to be dead", STALE + NOTICED, || {
        for node in [cut, silent] {
            let live = node.read_sysctl(FIN_TIMEOUT)?;
            if live != "30" {
                return Err(crate::Error::Unclear {
                    what: node.name.clone(),
                    why: format!("it holds {live}"),
                });
            }
        }
        // Lost, where it was thought to be there when it was ordered.
        let nodes = suite.get("tcpclosetuning", "web")?["status"]["nodes"].clone();
        let gone = nodes["stale"].as_u64().unwrap_or_default() + nodes["failed"].as_u64().unwrap_or_default();
        let seen = [
            gone == 2,
            agent_log(cut)?.matches(AGENT_SAYS).count() > known.0,
            operator_log()?.matches(OPERATOR_SAYS).count() > known.1,
        ];
        for (noticed, seen) in noticed.iter_mut().zip(seen) {
            *noticed = noticed.or(seen.then(|| start.elapsed()));
        }
        Ok(Seen::when(noticed.iter().all(Option::is_some), || format!("stale, agent, operator: {noticed:?}")))
    })?;
    let [stale, by_agent, by_operator] = noticed.map(Option::unwrap_or_default);
    println!(
        "    cut: both stale or lost after {:.1} s, the dead watch noticed by the agent after {:.1} s, by an operator after {:.1} s",
        stale.as_secs_f64(),
        by_agent.as_secs_f64(),
        by_operator.as_secs_f64()
    );
    ensure(by_agent <= DEAD && by_operator <= DEAD && stale <= STALE + NOTICED, || format!("{noticed:?}"))?;
    drop((cuts, frozen));
    let healed = Instant::now();
    for node in [cut, silent] {
        wait_for_value_within(node, "25", CONVERGED)?;
    }
    suite.wait_for_condition("web", "Ready", ("True", "Applied"), CONVERGED)?;
    println!("    healed: Ready after {:.1} s", healed.elapsed().as_secs_f64());
    toll.is(suite, |_| 1, MOST)?;
    ends_as_without_fault(suite, "web", &fin_timeout(25))
}

/// What the agent on a node has logged, read from the node's disk.
pub(super) fn agent_log(node: &Node) -> Result<String> {
    let pods = node.path("/var/log/pods");
    let ours = |name: &String| name.starts_with(&format!("{}_{}-agent-", crate::NAMESPACE, crate::RELEASE));
    let mut text = String::new();
    for pod in files::list(&pods)?.iter().filter(|name| ours(name)) {
        let folder: PathBuf = pods.join(pod).join("agent");
        for log in files::list(&folder)? {
            text += &files::read(&folder.join(log))?;
        }
    }
    Ok(text)
}

/// Has a Node said not to be Ready, as the control plane does when its kubelet has been silent for 50 s: until this is dropped.
pub(super) fn turn_not_ready(suite: &Suite, node: &Node) -> Result<Frozen, Failure> {
    let kubelet = super::faults::only(node, "kubelet")?;
    let kubelet = kubelet.ok_or_else(|| Failure(format!("no kubelet on {}", node.name)))?;
    // It would say the contrary at once.
    let frozen = Frozen::new(kubelet)?;
    let patch =
        r#"{"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown"}]}}"#;
    suite.cluster.kubectl(&["patch", "node", &node.name, "--subresource=status", "--patch", patch])?;
    Ok(frozen)
}

fn not_ready(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let (toll, start) = (Toll::begin(suite)?, Instant::now());
    let frozen = turn_not_ready(suite, super::faults::plain_node(suite)?)?;
    poll_until("it is stale", AT_ONCE, || {
        let object = suite.get("tcpclosetuning", "web")?;
        let (stale, ready) = (&object["status"]["nodes"]["stale"], condition(&object, "Ready"));
        let reason = ready.map(|ready| ready["reason"].clone()).unwrap_or_default();
        Ok(Seen::when(*stale == 1 && reason == "AppliedExceptStale", || object["status"].to_string()))
    })?;
    println!("    stale {:.1} s after its Node turned", start.elapsed().as_secs_f64());
    drop(frozen);
    suite.wait_for_condition("web", "Ready", ("True", "Applied"), CONVERGED)?;
    toll.is(suite, |_| 0, MOST)?;
    ends_as_without_fault(suite, "web", &fin_timeout(30))
}
