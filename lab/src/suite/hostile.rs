//! A node that somebody has taken over: what its agent may say is bounded by the schema, shown harmlessly, and takes
//! nothing from the other nodes.

use crds::AGENT_MANAGER;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test,
    bearer::Bearer,
    ensure,
    faults::{fin_timeout, plain_node, tuned},
    metrics::scrape,
    privilege::agent,
    said_no,
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    install::{NAMESPACE, RELEASE},
    node::Node,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] =
    &[Test { name: "a_hostile_status_is_bounded_and_escaped_and_leaves_other_nodes_theirs", run: hostile }];

/// Clears a terminal, ends a line, turns text around.
const SCREEN: &str = "\u{1b}[2J\u{1b}[1;31mall is well\r\nnode-2 Applied\u{202e}\u{1f480}";
/// How it begins where it is shown.
const ESCAPED: &str = "\\u{1b}[2J\\u{1b}[1;31mall is well\\u{d}\\u{a}";
const RULE: &str = "made-up";
const STATUS_MAX: usize = 8 * 1024;
/// Five that are refused, the lie, and what corrects it.
const MOST: usize = 30;

fn hostile(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = plain_node(suite)?;
    let agent = agent(node)?;
    let bearer = Bearer::of_process(suite, agent)?;
    let toll = Toll::begin(suite)?;
    agent.signal(Signal::STOP)?;
    let outcome = too_much(&bearer, node).and_then(|()| within_bounds(suite, &bearer, node));
    agent.signal(Signal::CONT)?;
    outcome?;
    suite.wait_for_condition("web", "Ready", ("True", "Applied"), SOON)?;
    toll.is(suite, |_| 0, MOST)?;
    ends_as_without_fault(suite, "web", &fin_timeout(30))
}

/// Writes the status of a node as its agent would.
fn write(bearer: &Bearer<'_>, node: &Node, status: &Value) -> crate::error::Result<String> {
    let object = json!({
        "apiVersion": "tcpclose.dev/v1alpha1",
        "kind": "TcpCloseNode",
        "metadata": { "name": node.name },
        "status": status,
    });
    let manager = format!("--field-manager={AGENT_MANAGER}");
    bearer.patch(&object.to_string(), &["--subresource=status", &manager])
}

/// What the schema bounds does not get in.
fn too_much(bearer: &Bearer<'_>, node: &Node) -> Outcome {
    let row = |name: &str, message: &str| json!({ "name": name, "state": "Applied", "message": message });
    let rows: Vec<_> = (0..10_000).map(|n| row(&format!("net.ipv4.made_up_{n}"), "")).collect();
    let counts = |time_wait: &str| -> Value {
        let zero = json!({
            "timeWait": 0, "orphans": 0, "finWait1": 0, "finWait2": 0, "closing": 0, "closeWait": 0, "lastAck": 0,
            "machineOrphans": 0,
        });
        serde_json::from_str(
            &zero.to_string().replace("\"timeWait\":0", &format!("\"timeWait\":{time_wait}")),
        )
        .unwrap_or_default()
    };
    for (status, words) in [
        (json!({ "sysctls": [row(FIN_TIMEOUT, &"x".repeat(1 << 20))] }), "may not be more than 512"),
        (json!({ "sysctls": rows }), "must have at most 32 items"),
        (json!({ "sockets": counts("-1") }), "should be greater than or equal to 0"),
        (json!({ "sockets": counts("1e30") }), "timeWait"),
        (json!({ "observedGeneration": 1, "anything": SCREEN }), "field not declared in schema"),
    ] {
        let said = said_no(write(bearer, node, &status))?;
        ensure(said.contains(words) && !said.contains("forbidden"), || {
            format!("the answer lacks {words:?}: {said}")
        })?;
    }
    Ok(())
}

/// What gets in is shown escaped and short, and the other nodes are shown as they are.
fn within_bounds(suite: &Suite, bearer: &Bearer<'_>, node: &Node) -> Outcome {
    let stored = suite.get("tcpclosenode", &node.name)?;
    let message: String = SCREEN.chars().cycle().take(512).collect();
    let many = i64::MAX;
    let status = json!({
        "observedGeneration": many,
        "observedRevision": stored["spec"]["revision"],
        "nodeUID": stored["spec"]["nodeUID"],
        "summary": message.chars().take(256).collect::<String>(),
        "sysctls": [{ "name": FIN_TIMEOUT, "state": "Refused", "rule": RULE, "message": message }],
        "sockets": {
            "timeWait": many, "orphans": many, "finWait1": many, "finWait2": many, "closing": many,
            "closeWait": many, "lastAck": many, "machineOrphans": many,
        },
        "rates": { "seconds": 60, "overflows": many, "abortsOnMemory": many, "abortsOnClose": many },
    });
    write(bearer, node, &status)?;
    let others = suite.cluster.nodes().len() - 1;
    // Another node may still be listed for what an earlier test did to it, until it reports anew.
    poll_until("the lie is in the tuning's status, and no other node is", SOON, || {
        let status = &suite.get("tcpclosetuning", "web")?["status"];
        let worst = status["worst"].as_array().into_iter().flatten();
        let troubled: Vec<_> =
            worst.filter(|worst| worst["reason"] != "Sockets").map(|worst| &worst["name"]).collect();
        let told = status["refusals"][0]["rule"] == RULE && troubled == [&json!(node.name)];
        Ok(Seen::when(told, || status.to_string()))
    })?;
    let status = suite.get("tcpclosetuning", "web")?["status"].clone();
    let counts = &status["nodes"];
    ensure(counts["updated"] == others && counts["refused"] == 1, || format!("{counts}"))?;
    let said = status["refusals"][0]["message"].as_str().unwrap_or_default();
    ensure(said.starts_with(ESCAPED), || said.into())?;
    is_harmless("the tuning's status", &every_text(&status))?;
    let size = status.to_string().len();
    println!("    the tuning's status has {size} bytes");
    ensure(size <= STATUS_MAX, || format!("the tuning's status has {size} bytes"))?;
    elsewhere(suite)
}

/// Events, the operator's log and its metrics.
fn elsewhere(suite: &Suite) -> Outcome {
    let mut messages = String::new();
    poll_until("an event repeats the lie", SOON, || {
        let events = suite.get("events", "")?["items"].clone();
        let refused = events.as_array().into_iter().flatten().filter(|event| event["reason"] == "Refused");
        messages = refused.filter_map(|event| event["message"].as_str()).collect();
        Ok(Seen::when(messages.contains(ESCAPED), || messages.clone()))
    })?;
    is_harmless("an event", &messages)?;
    let operator = format!("deployment/{RELEASE}-operator");
    let log = suite.cluster.kubectl(&["logs", &operator, "--namespace", NAMESPACE, "--tail=200"])?;
    ensure(log.contains("all is well"), || format!("the operator's log does not repeat the lie: {log}"))?;
    is_harmless("the operator's log", &log.replace('\n', ""))?;
    let samples = scrape(suite)?;
    let invented = samples.keys().find(|name| name.contains(RULE));
    ensure(invented.is_none(), || format!("a series was made up: {invented:?}"))
}

/// All strings in a value.
fn every_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(every_text).collect(),
        Value::Object(fields) => fields.values().map(every_text).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

fn is_harmless(what: &str, text: &str) -> Result<(), Failure> {
    let bad = text.chars().find(|letter| *letter != '…' && !(' '..='~').contains(letter));
    ensure(bad.is_none(), || format!("{what} holds {bad:?}: {text:?}"))
}
