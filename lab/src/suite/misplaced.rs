//! Agents that must not write: in a wrong place, beside another one, held by a person, or given an order that nobody should
//! have got past the API server.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, ensure, everywhere,
    faults::{fin_timeout, plain_node, tuned, wait_for_row},
    orders::all_hold,
    privilege::{agent, in_namespace},
    sysctl,
};
use crate::{
    error::{Error, Result},
    install::{NAMESPACE, RELEASE},
    node::Node,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "an_agent_whose_writes_would_miss_its_node_writes_nothing", run: wrong_places },
    Test { name: "a_file_named_hold_stops_the_writes_of_one_node", run: hold_file },
    Test { name: "what_was_stored_behind_admissions_back_is_refused_by_the_agent", run: behind_admission },
];

/// It watches two agents for longer than the time between two statuses.
pub(super) const LONG_TESTS: &[Test] =
    &[Test { name: "of_two_agents_on_one_node_the_second_observes_and_says_so", run: two_agents }];

pub(super) const STATE_FOLDER: &str = "/var/lib/tcp-close-tuning";
/// A pod is started within a few seconds; a loaded machine may take longer.
const STARTED: Duration = Duration::from_secs(60);
/// Statuses are written 5 s apart: so long two agents are watched.
const WATCHED: Duration = Duration::from_secs(7);

// ---- agents of the test's own ----

/// An agent's pod that a test puts onto a node beside the chart's.
pub(super) struct ExtraAgent<'a> {
    suite: &'a Suite,
    node: &'a Node,
    name: String,
}

impl<'a> ExtraAgent<'a> {
    /// What the chart's pods are, with a change.
    pub(super) fn start(suite: &'a Suite, node: &'a Node, change: impl FnOnce(&mut Value)) -> Result<Self> {
        let daemon_set = in_namespace(suite, &["daemonset", &format!("{RELEASE}-agent")])?;
        let mut spec = daemon_set["spec"]["template"]["spec"].clone();
        spec["nodeName"] = json!(node.name);
        change(&mut spec);
        let name = format!("extra-agent-{}", node.name);
        // Without the labels of the chart's: the DaemonSet would take it for one of its own.
        let metadata = json!({ "name": name, "namespace": NAMESPACE });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        suite.cluster.apply(&pod.to_string())?;
        Ok(Self { suite, node, name })
    }

    fn log(&self) -> Result<String> {
        self.suite.cluster.kubectl(&["logs", "--namespace", NAMESPACE, &self.name])
    }

    fn wait_until_it_says(&self, words: &str) -> Outcome {
        poll_until(&format!("the agent on {} says {words:?}", self.node.name), STARTED, || {
            let log = self.log()?;
            Ok(Seen::when(log.contains(words) && log.contains("nothing is written"), || log.clone()))
        })?;
        Ok(())
    }

    fn has_written_nothing(&self) -> Outcome {
        let log = self.log()?;
        ensure(!log.contains("\"wrote\""), || format!("{} wrote: {log}", self.name))
    }
}

impl Drop for ExtraAgent<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "pod", &self.name, "--namespace", NAMESPACE, "--now"];
        if let Err(error) = self.suite.cluster.kubectl(&delete) {
            crate::report::say(format!("{} is still there: {error}", self.name));
        }
    }
}

/// Freezes the chart's agents meanwhile.
fn without_agents(suite: &Suite, work: impl FnOnce() -> Outcome) -> Outcome {
    let agents = suite.cluster.nodes().iter().map(agent).collect::<Result<Vec<_>, _>>()?;
    let signal_all = |signal| agents.iter().try_for_each(|agent| agent.signal(signal));
    let outcome = signal_all(Signal::STOP).map_err(Failure::from).and_then(|()| work());
    signal_all(Signal::CONT)?;
    outcome
}

// ---- where their writes would go ----

/// Mounts the node's `/proc/sys/net/ipv4` where the agent writes.
fn mount_ipv4(spec: &mut Value) {
    let volume = json!({ "name": "ipv4", "hostPath": { "path": "/proc/sys/net/ipv4" } });
    let mount = json!({ "name": "ipv4", "mountPath": "/host/proc-sys-net/ipv4" });
    for (list, item) in [("/volumes", volume), ("/containers/0/volumeMounts", mount)] {
        if let Some(list) = spec.pointer_mut(list).and_then(Value::as_array_mut) {
            list.push(item);
        }
    }
}

/// Takes away the mount of `/proc/sys/net`.
fn unmount(spec: &mut Value) {
    for list in ["/volumes", "/containers/0/volumeMounts"] {
        if let Some(list) = spec.pointer_mut(list).and_then(Value::as_array_mut) {
            list.retain(|item| item["name"] != "sysctls");
        }
    }
}

fn wrong_places(suite: &Suite) -> Outcome {
    let [first, second, third, ..] = suite.cluster.nodes() else {
        return Err(Failure("the lab has fewer than three nodes".into()));
    };
    without_agents(suite, || {
        let only_below = ExtraAgent::start(suite, first, |spec| {
            unmount(spec);
            mount_ipv4(spec);
        })?;
        let pinned = ExtraAgent::start(suite, second, mount_ipv4)?;
        let own_network = ExtraAgent::start(suite, third, |spec| spec["hostNetwork"] = json!(false))?;
        suite.tune("web", &fin_timeout(30))?;
        let address = format!(
            "the node's address {} is not an address of this network namespace, so this is not the node's: the agent's \
             pod needs hostNetwork: true",
            third.ip
        );
        for (agent, words) in [
            (
                only_below,
                "/host/proc-sys-net is not a procfs, so writing there would change no kernel: mount /proc/sys/net of the node \
                 there",
            ),
            (
                pinned,
                "/host/proc-sys-net/ipv4 is a mount of /sys/net/ipv4 of a procfs, which belongs to the network namespace of \
                 whoever mounted it, not to the node's: mount /proc/sys/net",
            ),
            (own_network, &address),
        ] {
            agent.wait_until_it_says(words)?;
            wait_for_row(suite, agent.node, "says why nothing is written", SOON, |row| {
                row["state"] == "Failed" && row["message"].as_str().is_some_and(|said| said.contains(words))
            })?;
            agent.has_written_nothing()?;
        }
        all_hold(suite, FIN_TIMEOUT, "60")
    })?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "30")
}

// ---- two on one node ----

fn two_agents(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = plain_node(suite)?;
    let second = ExtraAgent::start(suite, node, |_| ())?;
    second.wait_until_it_says("another agent on this node holds the journal; this one only observes")?;
    suite.tune("web", &fin_timeout(25))?;
    suite.wait_until_applied("web")?;
    let until = Instant::now() + WATCHED;
    while Instant::now() < until {
        let report = suite.get("tcpclosenode", &node.name)?;
        let row = sysctl(&report, FIN_TIMEOUT).cloned().unwrap_or_default();
        let right = row["state"] == "Applied" && row["live"] == 25 && row["message"].is_null();
        ensure(right, || format!("{} reports {row}", node.name))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    second.has_written_nothing()
}

// ---- held by a person ----

fn hold_file(suite: &Suite) -> Outcome {
    let node = plain_node(suite)?;
    let hold = node.path(STATE_FOLDER).join("hold");
    fs::write(&hold, "").map_err(Error::file("write", &hold))?;
    let outcome = held(suite, node);
    // Whatever happened, the next test finds a node that is free.
    fs::remove_file(&hold).map_err(Error::file("remove", &hold))?;
    outcome?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "30")
}

fn held(suite: &Suite, node: &Node) -> Outcome {
    suite.tune("web", &fin_timeout(30))?;
    let words =
        format!("{STATE_FOLDER}/hold is there, so the agent only observes: remove the file to let it write");
    wait_for_row(suite, node, "says that it is held", SOON, |row| {
        row["state"] == "Failed" && row["desired"] == 30 && row["message"] == words
    })?;
    for other in suite.cluster.nodes().iter().filter(|other| other.name != node.name) {
        suite.wait_for_value(&other.name, FIN_TIMEOUT, "30")?;
    }
    suite.wait_for_condition("web", "Ready", ("False", "WriteFailed"), SOON)?;
    let live = node.read_sysctl(FIN_TIMEOUT)?;
    ensure(live == "60", || format!("{} was written: {live}", node.name))
}

// ---- what admission did not see ----

pub(super) const DEFINITION: &str = "tcpclosetunings.tcpclose.dev";
/// An API server that was given another definition checks by it after this at the latest.
const LEARNT: Duration = Duration::from_secs(30);

fn behind_admission(suite: &Suite) -> Outcome {
    let forbidden = everywhere(&["tcpFinTimeoutSeconds: 65", "tcpTwRecycle: 1", "tcpOrphanRetries: 5"]);
    without_rules_at_admission(suite, || tune_when_learnt(suite, "web", &forbidden))?;
    suite.wait_for_condition("web", "Ready", ("False", "Refused"), SOON)?;
    let refusals = suite.get("tcpclosetuning", "web")?["status"]["refusals"].clone();
    let rules: Vec<_> = refusals.as_array().into_iter().flatten().map(|refusal| &refusal["rule"]).collect();
    ensure(rules == ["fin-timeout-61-to-89", "tw-recycle-removed"], || refusals.to_string())?;
    all_hold(suite, FIN_TIMEOUT, "60")?;
    all_hold(suite, super::RETRIES, "0")
}

/// Takes the rules out of the definition of tunings meanwhile, as what writes to etcd itself would meet none.
fn without_rules_at_admission(suite: &Suite, work: impl FnOnce() -> Outcome) -> Outcome {
    let mut lax = suite.get("customresourcedefinition", DEFINITION)?;
    remove_rules(&mut lax["spec"]);
    under_definition(suite, &lax, work)
}

/// Gives the API server another definition meanwhile, in place of the one of its name.
pub(super) fn under_definition(suite: &Suite, definition: &Value, work: impl FnOnce() -> Outcome) -> Outcome {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let present = suite.get("customresourcedefinition", name)?;
    let outcome = define(suite, definition).and_then(|()| work());
    define(suite, &present)?;
    let manifest = super::tuning("bad", &everywhere(&["tcpFinTimeoutSeconds: 65"]));
    poll_until("the API server knows its rules again", LEARNT, || {
        let refused = suite.cluster.apply_with(&["--dry-run=server"], &manifest).is_err();
        Ok(Seen::when(refused, || "it stores what breaks a rule".into()))
    })?;
    outcome
}

/// Applies a tuning that an API server takes as soon as it has learnt another definition.
pub(super) fn tune_when_learnt(suite: &Suite, name: &str, spec: &str) -> Outcome {
    poll_until("the API server stores what breaks a rule", LEARNT, || {
        let taken = suite.tune(name, spec).map_err(|Failure(why)| why);
        Ok(taken.map_or_else(Seen::NotYet, |()| Seen::Yes))
    })?;
    Ok(())
}

fn remove_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("x-kubernetes-validations");
            fields.values_mut().for_each(remove_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_rules),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Applies the definition in helm's name: the next upgrade must not meet another owner.
pub(super) fn define(suite: &Suite, definition: &Value) -> Outcome {
    let metadata = &definition["metadata"];
    let manifest = json!({
        "apiVersion": definition["apiVersion"],
        "kind": definition["kind"],
        "metadata": {
            "name": metadata["name"], "labels": metadata["labels"], "annotations": metadata["annotations"],
        },
        "spec": definition["spec"],
    });
    let options = ["--server-side", "--field-manager=helm", "--force-conflicts"];
    suite.cluster.apply_with(&options, &manifest.to_string())?;
    Ok(())
}
