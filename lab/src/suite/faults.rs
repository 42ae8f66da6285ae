//! What may die, and what must hold then: values stay, the first baseline survives, nothing is written that was written
//! already, and the status becomes true again.
//!
//! A process that is to stay dead for a while has its kubelet frozen meanwhile: nobody starts it again.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    FIN_TIMEOUT, Failure, Outcome, RETRIES, Suite, Test, condition, ensure, everywhere,
    orders::{all_hold, wait_until_all_hold},
    sysctl,
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    control_plane::Component,
    error::{Error, Result},
    install::{NAMESPACE, RELEASE},
    node::Node,
    process::Process,
    programs::{AGENT, OPERATOR},
    report::{Seen, poll_until},
    up::wait_for_nodes,
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "agents_that_are_killed_come_back_and_write_nothing", run: agents_come_back },
    Test { name: "deleting_a_tuning_returns_at_once_without_any_agent", run: no_agents },
    Test { name: "an_operator_that_is_killed_catches_up", run: operator_catches_up },
];

pub(super) const LONG_TESTS: &[Test] = &[
    Test {
        name: "what_changed_while_an_agent_was_dead_is_right_within_10_s_of_its_start",
        run: changed_while_dead,
    },
    Test { name: "a_damaged_journal_is_said_in_words_and_stops_one_node_only", run: damaged_journal },
    Test { name: "an_api_server_that_is_killed_costs_no_write", run: api_server_is_killed },
    Test { name: "an_etcd_that_is_killed_costs_no_write", run: etcd_is_killed },
    Test { name: "etcd_may_be_away_for_a_minute", run: etcd_is_away },
    Test { name: "a_node_in_a_new_life_drops_the_old_baseline", run: new_life },
    Test { name: "a_node_object_made_anew_gets_a_new_order_and_keeps_its_baselines", run: new_node_object },
];

const JOURNAL: &str = "/var/lib/tcp-close-tuning/journal";

/// A container that was killed is back after some seconds; a loaded machine may take longer.
pub(super) const BACK: Duration = Duration::from_secs(60);
/// After its start an agent has this long until all is right.
const RIGHT: Duration = Duration::from_secs(10);
/// After the API server is back, statuses have this long to become true.
const TRUE_AGAIN: Duration = Duration::from_secs(30);
/// A node that starts anew brings containerd, kubelet and its pods up.
pub(super) const NODE_IS_BACK: Duration = Duration::from_mins(2);
/// A fault costs no more writes to the product's objects, answered or not.
const MOST: usize = 60;
/// So long an observer watches that nothing happens.
const WATCHED: Duration = Duration::from_secs(3);

// ---- who runs ----

pub(super) fn only(node: &Node, program: &str) -> Result<Option<Process>> {
    Ok(node.processes(program)?.first().copied())
}

pub(super) fn agent_of(node: &Node) -> Result<Process, Failure> {
    only(node, AGENT)?.ok_or_else(|| Failure(format!("no agent runs on {}", node.name)))
}

/// The operator, and the node that it runs on.
pub(super) fn operator(suite: &Suite) -> Result<(&Node, Process), Failure> {
    for node in suite.cluster.nodes() {
        if let Some(process) = only(node, OPERATOR)? {
            return Ok((node, process));
        }
    }
    Err(Failure("no operator runs".into()))
}

/// A node that does not run the operator, so that a fault there is a fault of the node alone.
pub(super) fn plain_node(suite: &Suite) -> Result<&Node, Failure> {
    let (busy, _) = operator(suite)?;
    let found = suite.cluster.nodes().iter().find(|node| node.name != busy.name);
    found.ok_or_else(|| Failure("every node runs the operator".into()))
}

/// Everything of the product that runs.
fn programs(suite: &Suite) -> Result<Vec<Process>, Failure> {
    let mut running = vec![operator(suite)?.1];
    for node in suite.cluster.nodes() {
        running.push(agent_of(node)?);
    }
    Ok(running)
}

/// Kills a program on a node, and holds the kubelet off until what happens meanwhile has happened; returns when the
/// program's successor was seen.
fn dead_during(node: &Node, program: &str, meanwhile: impl FnOnce() -> Outcome) -> Result<Instant, Failure> {
    let kubelet = only(node, "kubelet")?.ok_or_else(|| Failure(format!("no kubelet on {}", node.name)))?;
    let victim = only(node, program)?.ok_or_else(|| Failure(format!("no {program} on {}", node.name)))?;
    kubelet.signal(Signal::STOP)?;
    let outcome = victim.kill().map_err(Failure::from).and_then(|()| meanwhile());
    kubelet.signal(Signal::CONT)?;
    outcome?;
    wait_for_successor(node, program, victim)
}

pub(super) fn wait_for_successor(node: &Node, program: &str, victim: Process) -> Result<Instant, Failure> {
    let what = format!("{program} runs again on {}", node.name);
    let took = poll_until(&what, BACK, || {
        let is_new = only(node, program)?.is_some_and(|process| process != victim);
        Ok(Seen::when(is_new, || "not yet".into()))
    })?;
    println!("    {program} is back on {} after {:.1} s", node.name, took.as_secs_f64());
    Ok(Instant::now())
}

// ---- what they say ----

pub(super) fn reported_at(suite: &Suite, node: &Node) -> Result<String> {
    Ok(suite.get("tcpclosenode", &node.name)?["status"]["reportedAt"].to_string())
}

/// Waits until a row of a node's report is as wanted.
pub(super) fn wait_for_row(
    suite: &Suite,
    node: &Node,
    what: &str,
    deadline: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> Outcome {
    poll_until(&format!("{}: {what}", node.name), deadline, || {
        let report = suite.get("tcpclosenode", &node.name)?;
        let row = sysctl(&report, FIN_TIMEOUT).cloned().unwrap_or_default();
        Ok(Seen::when(wanted(&row), || row.to_string()))
    })?;
    Ok(())
}

pub(super) fn wait_for_value_within(
    node: &Node,
    value: &str,
    deadline: Duration,
) -> Result<Duration, Failure> {
    let what = format!("{FIN_TIMEOUT} is {value} on {}", node.name);
    Ok(poll_until(&what, deadline, || {
        let live = node.read_sysctl(FIN_TIMEOUT)?;
        Ok(Seen::when(live == value, || live.clone()))
    })?)
}

pub(super) fn stays(suite: &Suite, value: &str) -> Outcome {
    let until = Instant::now() + WATCHED;
    while Instant::now() < until {
        all_hold(suite, FIN_TIMEOUT, value)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(super) fn fin_timeout(seconds: u8) -> String {
    everywhere(&[&format!("tcpFinTimeoutSeconds: {seconds}")])
}

/// Applies a tuning of 30 s and waits until it is in force.
pub(super) fn tuned(suite: &Suite) -> Outcome {
    suite.tune("web", &fin_timeout(30))?;
    suite.wait_until_applied("web").map(drop)
}

/// Waits until every node's order has been renewed for another value: the operator has done its part.
pub(super) fn wait_for_order(suite: &Suite, node: &Node, action: &str, value: Option<i64>) -> Outcome {
    poll_until(&format!("{} is ordered {action} {value:?}", node.name), TRUE_AGAIN, || {
        let object = suite.get("tcpclosenode", &node.name)?;
        let entry = &object["spec"]["sysctls"][0];
        let holds = entry["action"] == action && entry["value"].as_i64() == value;
        Ok(Seen::when(holds, || object["spec"].to_string()))
    })?;
    Ok(())
}

pub(super) fn delete(suite: &Suite) -> Result<Duration, Failure> {
    let start = Instant::now();
    suite.cluster.kubectl(&["delete", "tcpclosetuning", "web", "--timeout=10s"])?;
    Ok(start.elapsed())
}

// ---- agents ----

fn agents_come_back(suite: &Suite) -> Outcome {
    let before = suite.values(RETRIES)?;
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5"]))?;
    suite.wait_until_applied("web")?;
    let (mut killed, toll) = (Vec::new(), Toll::begin(suite)?);
    for node in suite.cluster.nodes() {
        killed.push((node, agent_of(node)?, reported_at(suite, node)?));
    }
    for (_, agent, _) in &killed {
        agent.kill()?;
    }
    all_hold(suite, FIN_TIMEOUT, "30")?;
    for (node, agent, report) in killed {
        wait_for_successor(node, AGENT, agent)?;
        poll_until(&format!("{} reports again", node.name), BACK, || {
            let now = reported_at(suite, node)?;
            Ok(Seen::when(now != report, || now))
        })?;
        wait_for_row(suite, node, "in force over its first baseline", RIGHT, |row| {
            row["state"] == "Applied" && row["live"] == 30 && row["baseline"] == 60
        })?;
    }
    toll.kernels_are_untouched(suite)?;
    all_hold(suite, RETRIES, "5")?;
    delete(suite)?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60")?;
    wait_until_all_hold(suite, RETRIES, &before[0]).map(drop)
}

fn changed_while_dead(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let [first, second, ..] = suite.cluster.nodes() else {
        return Err(Failure("the lab has fewer than two nodes".into()));
    };
    let started = dead_during(first, AGENT, || {
        suite.tune("web", &fin_timeout(25))?;
        wait_for_order(suite, first, "Set", Some(25))?;
        suite.wait_for_value(&second.name, FIN_TIMEOUT, "25")?;
        let live = first.read_sysctl(FIN_TIMEOUT)?;
        ensure(live == "30", || format!("without an agent {} holds {live}", first.name))
    })?;
    wait_for_value_within(first, "25", RIGHT)?;
    println!("    changed: right {:.2} s after its start", started.elapsed().as_secs_f64());
    suite.wait_until_applied("web")?;
    let started = dead_during(second, AGENT, || {
        delete(suite)?;
        wait_for_order(suite, second, "Restore", None)?;
        suite.wait_for_value(&first.name, FIN_TIMEOUT, "60")?;
        let live = second.read_sysctl(FIN_TIMEOUT)?;
        ensure(live == "25", || format!("without an agent {} holds {live}", second.name))
    })?;
    wait_for_value_within(second, "60", RIGHT)?;
    println!("    deleted: restored {:.2} s after its start", started.elapsed().as_secs_f64());
    Ok(())
}

fn no_agents(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let outcome = select_agents(suite, r#"{"nowhere": "true"}"#, 0).and_then(|()| {
        all_hold(suite, FIN_TIMEOUT, "30")?;
        let took = delete(suite)?;
        println!("    deleted after {:.2} s without an agent", took.as_secs_f64());
        ensure(took < Duration::from_secs(5), || format!("the deletion took {took:?}"))?;
        let gone = suite.cluster.kubectl(&["get", "tcpclosetunings", "--output", "name"])?;
        ensure(gone.trim().is_empty(), || format!("{gone} is still there"))?;
        for node in suite.cluster.nodes() {
            wait_for_order(suite, node, "Restore", None)?;
        }
        all_hold(suite, FIN_TIMEOUT, "30")
    });
    select_agents(suite, r#"{"nowhere": null}"#, suite.cluster.nodes().len())?;
    outcome?;
    for node in suite.cluster.nodes() {
        wait_for_value_within(node, "60", RIGHT)?;
    }
    Ok(())
}

/// Patches the nodeSelector of the DaemonSet, and waits until so many agents run.
pub(super) fn select_agents(suite: &Suite, selector: &str, agents: usize) -> Outcome {
    let name = format!("{RELEASE}-agent");
    let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{selector}}}}}}}}}"#);
    suite.cluster.kubectl(&["patch", "daemonset", &name, "--namespace", NAMESPACE, "--patch", &patch])?;
    poll_until(&format!("{agents} agents run"), BACK, || {
        let running = suite.cluster.nodes().iter().map(|node| Ok(node.processes(AGENT)?.len()));
        let running = running.sum::<Result<usize>>()?;
        Ok(Seen::when(running == agents, || format!("{running} run")))
    })?;
    Ok(())
}

fn damaged_journal(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = plain_node(suite)?;
    let journal = node.path(JOURNAL);
    let whole = fs::read(&journal).map_err(Error::file("read", &journal))?;
    let outcome = write_nothing_without_a_journal(suite, node, &whole);
    // Whatever happened, the next test finds a node that works.
    fs::remove_file(&journal)
        .or_else(|_| fs::write(&journal, &whole))
        .map_err(Error::file("remove", &journal))?;
    outcome?;
    wait_for_value_within(node, "25", RIGHT)?;
    wait_for_row(suite, node, "the baseline is back from the status", RIGHT, |row| {
        row["state"] == "Applied" && row["live"] == 25 && row["baseline"] == 60
    })?;
    suite.wait_until_applied("web")?;
    delete(suite)?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

/// With half a journal, an agent that starts leaves its node alone and says why; others do their work.
fn write_nothing_without_a_journal(suite: &Suite, node: &Node, whole: &[u8]) -> Outcome {
    let journal = node.path(JOURNAL);
    dead_during(node, AGENT, || {
        fs::write(&journal, &whole[..whole.len() / 2]).map_err(Error::file("write", &journal))?;
        Ok(())
    })?;
    let in_words =
        |row: &Value| row["message"].as_str().is_some_and(|words| words.contains("the journal is damaged"));
    wait_for_row(suite, node, "says that its journal is damaged", BACK, |row| {
        row["state"] == "Applied" && row["baseline"] == 60 && in_words(row)
    })?;
    suite.tune("web", &fin_timeout(25))?;
    for other in suite.cluster.nodes().iter().filter(|other| other.name != node.name) {
        suite.wait_for_value(&other.name, FIN_TIMEOUT, "25")?;
    }
    wait_for_row(suite, node, "says that it could not write", BACK, |row| {
        row["state"] == "Failed" && row["desired"] == 25 && in_words(row)
    })?;
    let live = node.read_sysctl(FIN_TIMEOUT)?;
    ensure(live == "30", || format!("{} was written without a journal: {live}", node.name))?;
    suite.wait_for_condition("web", "Ready", ("False", "WriteFailed"), TRUE_AGAIN)?;
    let object = suite.get("tcpclosetuning", "web")?;
    let message = condition(&object, "Ready").map(|ready| ready["message"].to_string()).unwrap_or_default();
    ensure(message.contains(&node.name) && message.contains("damaged"), || message.clone())
}

// ---- operator, API server, etcd ----

fn operator_catches_up(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let (node, _) = operator(suite)?;
    let started = dead_during(node, OPERATOR, || {
        suite.tune("web", &fin_timeout(25))?;
        stays(suite, "30")
    })?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "25")?;
    println!("    ordered {:.1} s after its start", started.elapsed().as_secs_f64());
    suite.wait_until_applied("web")?;
    println!("    Ready {:.1} s after its start", started.elapsed().as_secs_f64());
    Ok(())
}

/// Whether a fault of the control plane passes without a write to a kernel and without an end of a program, and a change
/// after it arrives.
fn survives(suite: &Suite, fault: impl FnOnce() -> Result<Duration>) -> Outcome {
    tuned(suite)?;
    let (programs_before, toll) = (programs(suite)?, Toll::begin(suite)?);
    let ready = fault()?;
    let start = Instant::now();
    stays(suite, "30")?;
    toll.is(suite, |_| 0, MOST)?;
    suite.tune("web", &fin_timeout(25))?;
    suite.wait_for_condition("web", "Ready", ("True", "Applied"), TRUE_AGAIN)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("    API ready after {:.1} s; a change is Ready {seconds:.1} s after that", ready.as_secs_f64());
    all_hold(suite, FIN_TIMEOUT, "25")?;
    let programs_after = programs(suite)?;
    ensure(programs_before == programs_after, || {
        format!("programs ended: {programs_before:?} -> {programs_after:?}")
    })?;
    ends_as_without_fault(suite, "web", &fin_timeout(25))
}

fn api_server_is_killed(suite: &Suite) -> Outcome {
    survives(suite, || {
        suite.cluster.kill(Component::ApiServer)?;
        suite.cluster.start(Component::ApiServer)?;
        suite.cluster.wait_for_api_server()
    })
}

fn etcd_is_killed(suite: &Suite) -> Outcome {
    survives(suite, || without_etcd(suite, WATCHED))
}

fn etcd_is_away(suite: &Suite) -> Outcome {
    survives(suite, || without_etcd(suite, Duration::from_mins(1)))
}

fn without_etcd(suite: &Suite, away: Duration) -> Result<Duration> {
    suite.cluster.kill(Component::Etcd)?;
    std::thread::sleep(away);
    suite.cluster.start(Component::Etcd)?;
    suite.cluster.wait_for_api_server()
}

// ---- nodes ----

fn new_life(suite: &Suite) -> Outcome {
    let node = plain_node(suite)?;
    // A baseline that no kernel starts with: it would show.
    node.write_sysctl(FIN_TIMEOUT, "50")?;
    tuned(suite)?;
    wait_for_row(suite, node, "its baseline is the old life's", RIGHT, |row| row["baseline"] == 50)?;
    let old = suite.get("tcpclosenode", &node.name)?["status"]["life"].to_string();
    node.kill()?;
    let start = Instant::now();
    suite.cluster.start_node(node)?;
    wait_for_value_within(node, "60", Duration::from_secs(5))?;
    wait_for_value_within(node, "30", NODE_IS_BACK)?;
    println!("    {}: tuned {:.1} s after it was started", node.name, start.elapsed().as_secs_f64());
    wait_for_row(suite, node, "its baseline is the new life's", BACK, |row| {
        row["state"] == "Applied" && row["live"] == 30 && row["baseline"] == 60
    })?;
    let new = suite.get("tcpclosenode", &node.name)?["status"]["life"].to_string();
    ensure(old != new, || format!("both lives are {new}"))?;
    wait_for_nodes(&suite.cluster, NODE_IS_BACK)?;
    suite.wait_for_condition("web", "Ready", ("True", "Applied"), BACK)?;
    delete(suite)?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

fn new_node_object(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = plain_node(suite)?;
    let old = suite.get("tcpclosenode", &node.name)?;
    let (toll, start) = (Toll::begin(suite)?, Instant::now());
    suite.cluster.kubectl(&["delete", "node", &node.name, "--timeout=20s"])?;
    poll_until("its TcpCloseNode is gone", BACK, || {
        let names = suite.cluster.kubectl(&["get", "tcpclosenodes", "--output", "name"])?;
        Ok(Seen::when(!names.contains(&node.name), || names))
    })?;
    suite.tune("web", &fin_timeout(25))?;
    wait_until_others_hold(suite, node, "25")?;
    let live = node.read_sysctl(FIN_TIMEOUT)?;
    ensure(live == "30", || format!("without a Node object {} holds {live}", node.name))?;
    // A kubelet registers its node when it starts; the node's first process starts it again.
    let kubelet = only(node, "kubelet")?.ok_or_else(|| Failure(format!("no kubelet on {}", node.name)))?;
    kubelet.kill()?;
    wait_for_value_within(node, "25", NODE_IS_BACK)?;
    println!("    {}: right {:.1} s after its Node was deleted", node.name, start.elapsed().as_secs_f64());
    wait_for_row(suite, node, "in force over its first baseline", NODE_IS_BACK, |row| {
        row["state"] == "Applied" && row["live"] == 25 && row["baseline"] == 60
    })?;
    println!("    {}: reported after {:.1} s", node.name, start.elapsed().as_secs_f64());
    let new = suite.get("tcpclosenode", &node.name)?;
    let renewed =
        old["metadata"]["uid"] != new["metadata"]["uid"] && old["spec"]["nodeUID"] != new["spec"]["nodeUID"];
    ensure(renewed, || format!("{} was adopted", old["metadata"]))?;
    suite.wait_for_condition("web", "Ready", ("True", "Applied"), BACK)?;
    toll.is(suite, |_| 1, MOST)?;
    ends_as_without_fault(suite, "web", &fin_timeout(25))?;
    delete(suite)?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

fn wait_until_others_hold(suite: &Suite, node: &Node, value: &str) -> Outcome {
    for other in suite.cluster.nodes().iter().filter(|other| other.name != node.name) {
        suite.wait_for_value(&other.name, FIN_TIMEOUT, value)?;
    }
    Ok(())
}
