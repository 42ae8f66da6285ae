//! Costs that somebody has to accept: refused until then, said ever after, and what becomes of a value whose author takes
//! the word back.

use serde_json::Value;
use tcp_close::{Sysctl, rule};

use super::{
    Outcome, SOON, Suite, Test, condition, ensure, everywhere,
    inputs::answer_of_rule,
    orders::{all_hold, wait_until_all_hold},
    sysctl, tuning,
};
use crate::{
    node::Node,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_caution_of_the_object_is_refused_until_its_id_is_acknowledged", run: of_the_object },
    Test { name: "an_unknown_id_to_acknowledge_is_refused_with_the_list", run: unknown_id },
    Test { name: "a_caution_of_the_node_is_refused_with_its_numbers_until_acknowledged", run: of_the_node },
    Test { name: "a_value_whose_acknowledgement_is_withdrawn_stays_and_is_at_risk", run: withdrawn },
    Test { name: "in_a_rule_across_two_tunings_the_lower_priority_is_refused", run: across_tunings },
];

pub(super) const TW_BUCKETS: &str = Sysctl::MaxTwBuckets.name();
/// Of every machine with 4 GB and more this is less than a quarter of the default, and more than the tests' traffic needs.
pub(super) const FEW: &str = "tcpMaxTwBuckets: 16000";
const BELOW_QUARTER: &str = "max-tw-buckets-below-quarter-of-default";

/// A spec for every node whose author accepts the cost of some rules.
fn accepting(sysctls: &[&str], rules: &[&str]) -> String {
    format!("{}\n  safety:\n    acknowledge: [{}]", everywhere(sysctls), rules.join(", "))
}

fn of_the_object(suite: &Suite) -> Outcome {
    let answer = suite.refused(&tuning("bad", &everywhere(&["tcpOrphanRetries: 2"])), &[])?;
    let said = answer_of_rule("orphan-retries-2")?;
    ensure(answer.contains(&said), || format!("the answer lacks {said:?}: {answer}"))?;
    let way_out = "add orphan-retries-2 to safety.acknowledge";
    ensure(answer.contains(way_out), || format!("the answer lacks {way_out:?}: {answer}"))?;
    suite.tune("web", &accepting(&["tcpOrphanRetries: 2"], &["orphan-retries-2"]))?;
    suite.wait_until_applied("web")?;
    all_hold(suite, Sysctl::OrphanRetries.name(), "2")
}

fn unknown_id(suite: &Suite) -> Outcome {
    let manifest = tuning("bad", &accepting(&["tcpOrphanRetries: 2"], &["orphan-retries"]));
    let answer = suite.refused(&manifest, &[])?;
    let field = "spec.safety.acknowledge[0]: Unsupported value: \"orphan-retries\": supported values: ";
    ensure(answer.contains(field), || answer.clone())?;
    let missing: Vec<_> = rule::cautions().filter(|id| !answer.contains(&format!("{id:?}"))).collect();
    ensure(missing.is_empty(), || format!("{missing:?} are not in the list: {answer}"))
}

/// Waits until a node reports on a sysctl as wanted.
fn wait_for_row(suite: &Suite, node: &Node, key: Sysctl, wanted: impl Fn(&Value) -> bool) -> Outcome {
    poll_until(&format!("{} reports on {key} as wanted", node.name), SOON, || {
        let report = suite.get("tcpclosenode", &node.name)?;
        let row = sysctl(&report, key.name()).cloned().unwrap_or_default();
        Ok(Seen::when(wanted(&row), || row.to_string()))
    })?;
    Ok(())
}

/// Whether a node says of a value that is in force what a rule has to say of it.
fn remarks(row: &Value, rule: &str) -> bool {
    let remarks = row["remarks"].as_array().into_iter().flatten();
    row["state"] == "Applied" && remarks.into_iter().any(|remark| remark["rule"] == rule)
}

/// What a node with this default says of [`FEW`].
fn numbers(default: &str) -> String {
    let quarter = default.parse::<u64>().unwrap_or_default() / 4;
    format!("{TW_BUCKETS} = 16000: a quarter of this node's default of {default} is {quarter}")
}

fn of_the_node(suite: &Suite) -> Outcome {
    let default = suite.values(TW_BUCKETS)?[0].clone();
    suite.tune("web", &everywhere(&[FEW]))?;
    suite.wait_for_condition("web", "Stalled", ("True", "Refused"), SOON)?;
    all_hold(suite, TW_BUCKETS, &default)?;
    let object = suite.get("tcpclosetuning", "web")?;
    let refusal = &object["status"]["refusals"][0];
    let said = refusal["message"].as_str().unwrap_or_default();
    let way_out = format!("add {BELOW_QUARTER} to safety.acknowledge");
    let right = refusal["rule"] == BELOW_QUARTER && refusal["nodes"] == suite.cluster.nodes().len();
    ensure(right && said.starts_with(&numbers(&default)) && said.contains(&way_out), || refusal.to_string())?;
    suite.tune("web", &accepting(&[FEW], &[BELOW_QUARTER]))?;
    suite.wait_until_applied("web")?;
    all_hold(suite, TW_BUCKETS, "16000")?;
    for node in suite.cluster.nodes() {
        wait_for_row(suite, node, Sysctl::MaxTwBuckets, |row| remarks(row, BELOW_QUARTER))?;
    }
    suite.clear()?;
    wait_until_all_hold(suite, TW_BUCKETS, &default).map(drop)
}

fn withdrawn(suite: &Suite) -> Outcome {
    let default = suite.values(TW_BUCKETS)?[0].clone();
    suite.tune("web", &accepting(&[FEW], &[BELOW_QUARTER]))?;
    suite.wait_until_applied("web")?;
    suite.tune("web", &everywhere(&[FEW]))?;
    suite.wait_until_applied("web")?;
    for node in suite.cluster.nodes() {
        wait_for_row(suite, node, Sysctl::MaxTwBuckets, |row| {
            row["state"] == "AtRisk" && row["live"] == 16_000 && row["rule"] == BELOW_QUARTER
        })?;
    }
    all_hold(suite, TW_BUCKETS, "16000")?;
    let object = suite.get("tcpclosetuning", "web")?;
    let message = condition(&object, "Ready").and_then(|ready| ready["message"].as_str()).unwrap_or_default();
    let names = suite.cluster.nodes().iter().map(|node| node.name.as_str()).collect::<Vec<_>>();
    let said = format!("at risk on {} nodes ({}): {}", names.len(), names.join(", "), numbers(&default));
    ensure(message.contains(&said), || format!("the message lacks {said:?}: {message}"))?;
    suite.clear()?;
    wait_until_all_hold(suite, TW_BUCKETS, &default).map(drop)
}

fn across_tunings(suite: &Suite) -> Outcome {
    let (reuse, timestamps) = (Sysctl::TwReuse.name(), Sysctl::Timestamps.name());
    let before = suite.values(reuse)?;
    let off = accepting(&["tcpTimestamps: 0"], &["timestamps-off"]) + "\n  priority: 10";
    suite.tune("special", &off)?;
    suite.wait_until_applied("special")?;
    suite.tune("base", &everywhere(&["tcpTwReuse: 1"]))?;
    suite.wait_for_condition("base", "Ready", ("False", "Refused"), SOON)?;
    suite.wait_until_applied("special")?;
    all_hold(suite, timestamps, "0")?;
    let now = suite.values(reuse)?;
    ensure(before == now, || format!("{reuse} was {before:?} and is {now:?}"))?;
    let rule = "tw-reuse-without-timestamps";
    for node in suite.cluster.nodes() {
        wait_for_row(suite, node, Sysctl::TwReuse, |row| row["state"] == "Refused" && row["rule"] == rule)?;
        wait_for_row(suite, node, Sysctl::Timestamps, |row| row["state"] == "Applied")?;
    }
    let refusals = suite.get("tcpclosetuning", "base")?["status"]["refusals"].clone();
    ensure(refusals[0]["rule"] == rule, || refusals.to_string())?;
    suite.clear()?;
    wait_until_all_hold(suite, timestamps, "1").map(drop)
}
