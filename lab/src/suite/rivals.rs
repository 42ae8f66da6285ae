//! Other programs that change what a tuning orders: once, all the time, and after us.

use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, condition, ensure,
    faults::{delete, fin_timeout, plain_node, tuned, wait_for_row, wait_for_successor},
    orders::wait_until_all_hold,
    privilege::agent,
    toll::Toll,
};
use crate::{
    error::Error,
    files,
    meanwhile::{Work, meanwhile},
    node::Node,
    programs::AGENT,
    report::{Seen, poll_until},
};

/// They wait for statuses 5 s apart, and for a fight to be over.
pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "with_drift_policy_report_a_foreign_change_is_left_alone_and_said", run: reported },
    Test { name: "a_fight_is_given_up_within_30_s_and_what_it_left_is_not_restored", run: fight },
];

/// What the other program writes.
const FOREIGN: &str = "45";
/// How often one that fights writes.
const PACE: Duration = Duration::from_millis(100);
/// So long nobody may write once the fight is given up.
const QUIET: Duration = Duration::from_secs(10);

fn reported(suite: &Suite) -> Outcome {
    suite.tune("web", &(fin_timeout(30) + "\n  driftPolicy: Report"))?;
    suite.wait_until_applied("web")?;
    let node = plain_node(suite)?;
    node.write_sysctl(FIN_TIMEOUT, FOREIGN)?;
    wait_for_row(suite, node, "says that it drifted", SOON, |row| {
        row["state"] == "Drifted" && row["live"] == 45 && row["desired"] == 30 && row["baseline"] == 60
    })?;
    suite.wait_for_condition("web", "Ready", ("False", "Drifted"), SOON)?;
    suite.wait_for_condition("web", "Stalled", ("True", "Drifted"), SOON)?;
    says_all(suite, "Ready", &[&node.name, "set it to 45; left alone, because driftPolicy is Report"])?;
    ensure(node.read_sysctl(FIN_TIMEOUT)? == FOREIGN, || format!("{} was written", node.name))?;
    // It is the other program's to put right.
    node.write_sysctl(FIN_TIMEOUT, "30")?;
    suite.wait_until_applied("web")?;
    delete(suite)?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

/// Fails where the message of a condition of the tuning lacks some words.
fn says_all(suite: &Suite, kind: &str, words: &[&str]) -> Outcome {
    let object = suite.get("tcpclosetuning", "web")?;
    let message = condition(&object, kind).and_then(|found| found["message"].as_str()).unwrap_or_default();
    let lacks = words.iter().find(|words| !message.contains(*words));
    ensure(lacks.is_none(), || format!("{kind} lacks {lacks:?}: {message}"))
}

fn fight(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = plain_node(suite)?;
    let outcome = given_up(suite, node).and_then(|()| not_restored(suite, node));
    // Whatever happened, the next test finds the value of a fresh node, and an agent that remembers no fight.
    suite.clear()?;
    node.write_sysctl(FIN_TIMEOUT, "60")?;
    let fought = agent(node)?;
    fought.kill()?;
    wait_for_successor(node, AGENT, fought)?;
    outcome
}

/// While another program writes all the time, the agent gives up, says so, and writes no more.
fn given_up(suite: &Suite, node: &Node) -> Outcome {
    while_fighting(node, || {
        let start = Instant::now();
        wait_for_row(suite, node, "gave the fight up", SOON, |row| {
            row["state"] == "Contended" && row["drifts"] == tcp_close::contention::ROUNDS
        })?;
        suite.wait_for_condition("web", "Ready", ("False", "Contended"), SOON)?;
        println!("    Contended after {:.1} s", start.elapsed().as_secs_f64());
        suite.wait_for_condition("web", "Stalled", ("True", "Contended"), SOON)?;
        let since = suite.get("tcpclosenode", &node.name)?["status"]["sysctls"][0]["driftsSince"].clone();
        let often = format!(
            "another program keeps changing it, {} times since {}, last to {FOREIGN}; left alone until",
            tcp_close::contention::ROUNDS,
            since.as_str().unwrap_or_default(),
        );
        says_all(suite, "Ready", &[&often, &node.name, "find the program"])?;
        let (toll, quiet) = (Toll::begin(suite)?, Instant::now() + QUIET);
        while Instant::now() < quiet {
            let live = node.read_sysctl(FIN_TIMEOUT)?;
            ensure(live == FOREIGN, || format!("the agent writes on: {live}"))?;
            std::thread::sleep(PACE / 10);
        }
        toll.kernels_are_untouched(suite)
    })
}

/// Does something while another program changes a value all the time.
fn while_fighting(node: &Node, work: impl FnOnce() -> Outcome) -> Outcome {
    let fights = |work: &Work| {
        while work.goes_on() {
            node.write_sysctl(FIN_TIMEOUT, FOREIGN)?;
            std::thread::sleep(PACE);
        }
        Ok::<_, Error>(())
    };
    let (fought, outcome) = meanwhile(fights, work);
    fought?;
    outcome
}

/// What another program has written since stays when the tuning goes, and the node says both values.
fn not_restored(suite: &Suite, node: &Node) -> Outcome {
    let rows = rows_during(suite, node, || {
        delete(suite)?;
        suite.clear()
    })?;
    let words = "another program set it to 45, so it was left alone; before us it was 60";
    let said = |row: &Value| row["state"] == "RestoreSkipped" && row["message"] == words;
    ensure(rows.iter().any(said), || format!("{} never said so: {rows:#?}", node.name))?;
    let live = node.read_sysctl(FIN_TIMEOUT)?;
    ensure(live == FOREIGN, || format!("{} holds {live}", node.name))
}

/// Every row that a node reports while its order is taken away. The last one goes with the order, within milliseconds, so
/// that only a watch sees it.
fn rows_during(suite: &Suite, node: &Node, work: impl FnOnce() -> Outcome) -> Result<Vec<Value>, Failure> {
    let path = suite.cluster.dir().join("reports");
    let output = File::create(&path).map_err(Error::file("create", &path))?;
    let selected = format!("watch=true&fieldSelector=metadata.name={}", node.name);
    let mut kubectl = suite.cluster.client("kubectl");
    kubectl.args(["get", "--raw", &format!("/apis/tcpclose.dev/v1alpha1/tcpclosenodes?{selected}")]);
    let mut watch = kubectl
        .stdout(output)
        .spawn()
        .map_err(|source| Error::Start { program: "kubectl".into(), source })?;
    let outcome =
        wait_for_reports(&path, |reports| !reports.is_empty()).and_then(|_| work()).and_then(|()| {
            wait_for_reports(&path, |reports| reports.last().is_some_and(|last| rows(last).is_empty()))
        });
    watch.kill().and_then(|()| watch.wait()).map_err(Error::system("end kubectl"))?;
    Ok(outcome?.iter().flat_map(rows).cloned().collect())
}

/// Waits until the events of a watch, one in each line of a file, are as wanted.
fn wait_for_reports(path: &Path, wanted: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>, Failure> {
    let mut seen = Vec::new();
    poll_until("the watch has seen what it waits for", SOON, || {
        // The last line may be half written.
        seen = files::read(path)?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Seen::when(wanted(&seen), || format!("{:?}", seen.last())))
    })?;
    Ok(seen)
}

fn rows(report: &Value) -> &[Value] {
    report["object"]["status"]["sysctls"].as_array().map_or(&[], Vec::as_slice)
}
