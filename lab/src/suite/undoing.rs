//! What is undone: after a grace, a few nodes at a time, not by accident, and not where a person says no.

use std::time::{Duration, Instant};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, condition, ensure, everywhere,
    faults::{delete, fin_timeout, tuned},
    orders::{all_hold, wait_until_all_hold},
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    bench::client::{Inside, api},
    error::Result,
    install::{NAMESPACE, RELEASE},
    node::Node,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_label_that_flaps_at_10_hz_costs_no_write", run: flapping },
    Test { name: "a_deleted_tuning_is_restored_after_the_grace_and_not_before", run: grace },
    Test { name: "a_conflict_is_judged_anew_when_priorities_or_selectors_change", run: judged_anew },
    Test { name: "the_switch_holds_every_order_releases_every_value_and_runs_again", run: switch },
    Test { name: "a_node_labelled_hold_keeps_its_order_and_holds_nobody_up", run: held },
];

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "what_would_take_values_from_many_nodes_can_be_taken_back_for_30_s", run: many },
    Test { name: "a_node_condition_is_written_where_the_chart_asks_for_it", run: node_condition },
];

/// What is undone waits this long, and where it is many nodes, that long.
const GRACE: Duration = Duration::from_secs(5);
const GUARD: Duration = Duration::from_secs(30);
/// So much later it has happened; a loaded machine may take longer than an idle one.
const A_FEW_SECONDS: Duration = Duration::from_secs(8);
/// So long an observer watches that nothing happens.
const WATCHED: Duration = Duration::from_secs(3);
/// Twice in a period of 10 Hz.
const FLIP: Duration = Duration::from_millis(50);
const FLIPS: u32 = 40;
/// Heartbeats, and statuses of a tuning whose nodes come and go.
const MOST: usize = 30;

/// How many orders a node has been given.
fn generation(suite: &Suite, node: &Node) -> Result<Value> {
    Ok(suite.get("tcpclosenode", &node.name)?["metadata"]["generation"].clone())
}

/// A spec for the nodes with a label.
fn labelled(label: &str, seconds: u8) -> String {
    fin_timeout(seconds).replace("kubernetes.io/os: linux", label)
}

fn label(suite: &Suite, node: &str, label: &str) -> Outcome {
    suite.cluster.kubectl(&["label", "node", node, label, "--overwrite"])?;
    Ok(())
}

/// How long a value stays after this moment before another one is in its place; anything between them is a failure.
fn stays_until(node: &Node, before: &str, after: &str, since: Instant) -> Result<Duration, Failure> {
    let mut strange = None;
    poll_until(&format!("{FIN_TIMEOUT} is {after} on {}", node.name), GUARD + SOON, || {
        let live = node.read_sysctl(FIN_TIMEOUT)?;
        if live != before && live != after {
            strange = Some(live.clone());
        }
        Ok(Seen::when(live == after, || live))
    })?;
    ensure(strange.is_none(), || format!("{} held {strange:?} on the way", node.name))?;
    Ok(since.elapsed())
}

fn took(what: &str, took: Duration, at_least: Duration) -> Outcome {
    println!("    {what} after {:.1} s", took.as_secs_f64());
    ensure(took >= at_least && took < at_least + A_FEW_SECONDS, || {
        format!("{what} after {took:?}, which is not soon after {at_least:?}")
    })
}

// ---- the grace ----

fn flapping(suite: &Suite) -> Outcome {
    let node = &suite.cluster.nodes()[0];
    label(suite, &node.name, "pool=web")?;
    suite.tune("web", &labelled("pool: web", 30))?;
    suite.wait_until_applied("web")?;
    let (before, toll) = (generation(suite, node)?, Toll::begin(suite)?);
    // The client stays in another network namespace, and so does its thread.
    let flipped = std::thread::scope(|scope| scope.spawn(|| flip(suite, node)).join());
    let took_so_long = flipped.unwrap_or_else(|_| Err(Failure("it panicked".into())))?;
    println!("    {FLIPS} flips in {:.1} s", took_so_long.as_secs_f64());
    ensure(took_so_long < FLIP * FLIPS * 3 / 2, || format!("{FLIPS} flips took {took_so_long:?}"))?;
    let after = generation(suite, node)?;
    ensure(before == after, || format!("orders: {before:?} -> {after:?}"))?;
    toll.is(suite, |_| 0, MOST)?;
    let left = Instant::now();
    label(suite, &node.name, "pool-")?;
    took("restored", stays_until(node, "30", "60", left)?, GRACE)?;
    suite.wait_for_condition("web", "Ready", ("True", "NoMatchingNodes"), SOON)?;
    ends_as_without_fault(suite, "web", &labelled("pool: web", 30))
}

/// Changes a node's label to and fro, and looks at its kernel each time.
fn flip(suite: &Suite, node: &Node) -> Result<Duration, Failure> {
    let Inside { runtime, client } = Inside::enter(&suite.cluster)?;
    let (nodes, start) = (Api::<k8s_openapi::api::core::v1::Node>::all(client), Instant::now());
    for flip in 0..FLIPS {
        let pool = if flip % 2 == 0 { "idle" } else { "web" };
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "pool": pool } } }));
        let params = PatchParams::default();
        let patched = nodes.patch_metadata(&node.name, &params, &patch);
        runtime.block_on(patched).map_err(api("label a Node"))?;
        let live = node.read_sysctl(FIN_TIMEOUT)?;
        ensure(live == "30", || format!("after {flip} flips {} holds {live}", node.name))?;
        std::thread::sleep((start + FLIP * (flip + 1)).saturating_duration_since(Instant::now()));
    }
    Ok(start.elapsed())
}

fn grace(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let deleted = Instant::now();
    delete(suite)?;
    took("restored", stays_until(&suite.cluster.nodes()[0], "30", "60", deleted)?, GRACE)?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

fn judged_anew(suite: &Suite) -> Outcome {
    let [first, second, ..] = suite.cluster.nodes() else {
        return Err(Failure("the lab has fewer than two nodes".into()));
    };
    suite.tune("older", &everywhere(&["tcpFinTimeoutSeconds: 40"]))?;
    suite.wait_until_applied("older")?;
    suite.tune("younger", &everywhere(&["tcpFinTimeoutSeconds: 20"]))?;
    suite.wait_for_condition("younger", "Ready", ("False", "Conflict"), SOON)?;
    suite.tune("younger", &(everywhere(&["tcpFinTimeoutSeconds: 20"]) + "\n  priority: 1"))?;
    suite.wait_until_applied("younger")?;
    all_hold(suite, FIN_TIMEOUT, "20")?;
    suite.wait_for_condition("older", "Ready", ("True", "Overridden"), SOON)?;
    suite.wait_for_condition("older", "Conflicted", ("False", "NoConflict"), SOON)?;
    // The winner leaves all nodes but one: they go over to the other without passing through the baseline.
    label(suite, &first.name, "pool=web")?;
    let left = Instant::now();
    suite.tune("younger", &(labelled("pool: web", 20) + "\n  priority: 1"))?;
    took("handed over", stays_until(second, "20", "40", left)?, GRACE)?;
    ensure(first.read_sysctl(FIN_TIMEOUT)? == "20", || format!("{} has lost its value", first.name))?;
    suite.wait_for_condition("older", "Ready", ("True", "Applied"), SOON)?;
    let left = Instant::now();
    label(suite, &first.name, "pool-")?;
    took("handed over", stays_until(first, "20", "40", left)?, GRACE)
}

// ---- what a person says ----

fn switch(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let outcome = obeyed(suite);
    suite.switch(None)?;
    outcome?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "25")?;
    suite.wait_until_applied("web").map(drop)
}

fn obeyed(suite: &Suite) -> Outcome {
    let node = &suite.cluster.nodes()[0];
    for (word, words) in [("Hold", "says Hold"), ("hodl", "says \"hodl\", which is no known word")] {
        suite.switch(Some(word))?;
        suspended(suite, words)?;
        let before = generation(suite, node)?;
        suite.tune("web", &fin_timeout(25))?;
        std::thread::sleep(WATCHED);
        let after = generation(suite, node)?;
        ensure(before == after, || format!("{word}: {} was ordered something", node.name))?;
        all_hold(suite, FIN_TIMEOUT, "30")?;
    }
    suite.switch(Some("Run"))?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "25")?;
    suite.wait_until_applied("web")?;
    let released = Instant::now();
    suite.switch(Some("Release"))?;
    took("released", stays_until(node, "25", "60", released)?, Duration::ZERO)?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60")?;
    poll_until("no node has an order", SOON, || {
        let order = suite.get("tcpclosenode", &node.name)?["spec"]["sysctls"].clone();
        Ok(Seen::when(order.is_null(), || order.to_string()))
    })?;
    suspended(suite, "says Release")
}

/// Waits until the tuning says that the switch has stopped it.
fn suspended(suite: &Suite, words: &str) -> Outcome {
    poll_until(&format!("web is suspended: {words}"), SOON, || {
        let object = suite.get("tcpclosetuning", "web")?;
        let status = |kind: &str| condition(&object, kind).cloned().unwrap_or_default();
        let ready = status("Ready");
        let said = ready["message"].as_str().is_some_and(|message| message.contains(words));
        let idle = ["Reconciling", "Stalled"].iter().all(|kind| status(kind)["status"] == "False");
        let holds = ready["reason"] == "Suspended" && ready["status"] == "False" && said && idle;
        Ok(Seen::when(holds, || object["status"]["conditions"].to_string()))
    })?;
    Ok(())
}

fn held(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = &suite.cluster.nodes()[2];
    label(suite, &node.name, "tcpclose.dev/hold=")?;
    let outcome = kept(suite, node);
    label(suite, &node.name, "tcpclose.dev/hold-")?;
    outcome?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "25")
}

fn kept(suite: &Suite, node: &Node) -> Outcome {
    suite.tune("web", &fin_timeout(25))?;
    suite.wait_for_condition("web", "Ready", ("True", "AppliedExceptStale"), SOON)?;
    let object = suite.get("tcpclosetuning", "web")?;
    let message = condition(&object, "Ready").map(|ready| ready["message"].to_string()).unwrap_or_default();
    ensure(message.contains(&format!("1 node held ({})", node.name)), || message.clone())?;
    ensure(object["status"]["nodes"]["held"] == 1, || object["status"]["nodes"].to_string())?;
    let values = suite.values(FIN_TIMEOUT)?;
    ensure(values == ["25", "25", "30"], || format!("{values:?}"))
}

// ---- many nodes ----

/// Nodes without a kubelet: the guard counts what it would take values from, not who answers.
const FAKES: usize = 11;

fn fakes() -> Vec<String> {
    (0..FAKES).map(|index| format!("fake-{index}")).collect()
}

fn fake(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{kubernetes.io/os: linux, pool: many}}\n---\n"
    )
}

fn with_fakes(suite: &Suite, work: impl FnOnce() -> Outcome) -> Outcome {
    suite.cluster.apply(&fakes().iter().map(|name| fake(name)).collect::<String>())?;
    let outcome = work();
    let names = fakes();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    suite.cluster.kubectl(&[&["delete", "node"][..], &names].concat())?;
    // The DaemonSet would wait for its pods on them until something else happens to it.
    let pods =
        ["delete", "pods", "--namespace", NAMESPACE, "--field-selector=spec.nodeName=", "--wait=false"];
    suite.cluster.kubectl(&pods)?;
    outcome
}

fn many(suite: &Suite) -> Outcome {
    let node = &suite.cluster.nodes()[0];
    label(suite, &node.name, "pool=many")?;
    let outcome = with_fakes(suite, || guarded(suite, node));
    label(suite, &node.name, "pool-")?;
    outcome
}

/// Many nodes, which need not wait for a soak.
fn at_once(label: &str) -> String {
    labelled(label, 30) + "\n  rollout: {soakSeconds: 0}"
}

fn guarded(suite: &Suite, node: &Node) -> Outcome {
    suite.tune("web", &at_once("pool: many"))?;
    poll_until("every node has its order", SOON, || {
        let nodes = suite.get("tcpclosenodes", "")?;
        let items = nodes["items"].as_array().cloned().unwrap_or_default();
        let ordered = items.iter().filter(|object| object["spec"]["sysctls"].is_array()).count();
        Ok(Seen::when(ordered == FAKES + 1, || format!("{ordered} have")))
    })?;
    suite.wait_for_value(&node.name, FIN_TIMEOUT, "30")?;
    let (toll, before) = (Toll::begin(suite)?, generation(suite, node)?);
    // A typing error, and its correction.
    suite.tune("web", &at_once("pool: mnay"))?;
    poll_until("an event says so", SOON, || {
        let events = suite.get("events", "")?;
        let is_told = |event: &Value| {
            let words = event["message"].as_str().unwrap_or_default();
            // Earlier tests may have taken values from the other two nodes a moment ago.
            let parts = ["no longer wanted on 12 nodes", "of 14 nodes within 5 minutes"];
            event["reason"] == "MassUndoing" && parts.iter().all(|part| words.contains(part))
        };
        let items = events["items"].as_array().cloned().unwrap_or_default();
        Ok(Seen::when(items.iter().any(is_told), || format!("{} events", items.len())))
    })?;
    std::thread::sleep(GRACE + WATCHED);
    suite.tune("web", &at_once("pool: many"))?;
    suite.wait_for_condition("web", "Reconciling", ("False", "Settled"), SOON)?;
    let after = generation(suite, node)?;
    ensure(before == after, || format!("generation of the order: {before} -> {after}"))?;
    toll.kernels_are_untouched(suite)?;
    // Meant this time.
    let left = Instant::now();
    suite.tune("web", &at_once("pool: mnay"))?;
    took("restored", stays_until(node, "30", "60", left)?, GUARD)
}

// ---- a node condition ----

const TYPE: &str = "tcpclose.dev/Tuned";

fn node_condition(suite: &Suite) -> Outcome {
    tuned(suite)?;
    may_write_nodes(suite, "no")?;
    let outcome = asked_for(suite, true)
        .and_then(|()| with_fakes(suite, || conditions(suite)))
        .and_then(|()| may_write_nodes(suite, "yes"));
    asked_for(suite, false)?;
    outcome?;
    may_write_nodes(suite, "no")
}

fn asked_for(suite: &Suite, so: bool) -> Outcome {
    let chart = suite.cluster.checkout().root().join("charts").join(RELEASE).display().to_string();
    let value = format!("operator.nodeCondition={so}");
    let options =
        ["--namespace", NAMESPACE, "--reset-then-reuse-values", "--set", &value, "--wait", "--timeout", "2m"];
    suite.cluster.helm(&[&["upgrade", RELEASE, &chart][..], &options].concat())?;
    Ok(())
}

fn may_write_nodes(suite: &Suite, answer: &str) -> Outcome {
    let operator = format!("--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-operator");
    // The answer is also the exit code.
    let asked = suite.cluster.kubectl(&[
        "auth",
        "can-i",
        "patch",
        "nodes",
        "--subresource=status",
        &operator,
        "--quiet",
    ]);
    let said = if asked.is_ok() { "yes" } else { "no" };
    ensure(said == answer, || format!("whether the operator may patch nodes/status: {said}"))
}

/// A node that is tuned says so, one whose agent has not been heard says that too, and the kubelet's own conditions stay.
fn conditions(suite: &Suite) -> Outcome {
    for node in suite.cluster.nodes() {
        wait_for_node(suite, &node.name, ("True", "InForce"))?;
        let object = suite.get("node", &node.name)?;
        let ready = condition(&object, "Ready").cloned().unwrap_or_default();
        ensure(ready["reason"] == "KubeletReady", || ready.to_string())?;
    }
    wait_for_node(suite, "fake-0", ("False", "Pending"))
}

fn wait_for_node(suite: &Suite, node: &str, expected: (&str, &str)) -> Outcome {
    poll_until(&format!("{node} is {TYPE}={expected:?}"), SOON, || {
        let object = suite.get("node", node)?;
        let seen = condition(&object, TYPE).cloned().unwrap_or_default();
        let holds = seen["status"] == expected.0 && seen["reason"] == expected.1;
        Ok(Seen::when(holds, || seen.to_string()))
    })?;
    Ok(())
}
