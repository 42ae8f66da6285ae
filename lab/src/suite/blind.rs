//! An operator that may no longer see what it needs: it says so, orders nothing new, and undoes nothing.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    FIN_TIMEOUT, Outcome, Suite, Test, condition, ensure,
    faults::{fin_timeout, operator, stays, tuned, wait_for_successor},
    orders::all_hold,
    toll::{Toll, ends_as_without_fault},
};
use crate::{install::RELEASE, programs::OPERATOR};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "an_operator_that_may_not_list_nodes_says_so_orders_nothing_new_and_undoes_nothing",
    run: may_not_list,
}];

/// Refused for a minute; and its lease, which was not released, lasts 15 s.
const SAYS_SO: Duration = Duration::from_secs(150);
/// A watch rests for 24 s at most.
const SEES_AGAIN: Duration = Duration::from_secs(60);
/// Reports of two minutes, two statuses, and orders for the edit.
const MOST: usize = 60;

fn may_not_list(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let name = format!("{RELEASE}-operator");
    let mut role = suite.get("clusterrole", &name)?;
    if let Some(metadata) = role["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    let toll = Toll::begin(suite)?;
    suite.cluster.replace(&without_nodes(&role).to_string())?;
    let outcome = says_so(suite);
    suite.cluster.replace(&role.to_string())?;
    outcome?;
    let start = Instant::now();
    suite.wait_for_condition("web", "Ready", ("True", "Applied"), SEES_AGAIN)?;
    println!("    sees again after {:.1} s", start.elapsed().as_secs_f64());
    all_hold(suite, FIN_TIMEOUT, "25")?;
    toll.is(suite, |_| 1, MOST)?;
    ends_as_without_fault(suite, "web", &fin_timeout(25))
}

/// The role without its rule about Nodes.
fn without_nodes(role: &Value) -> Value {
    let mut role = role.clone();
    if let Some(rules) = role["rules"].as_array_mut() {
        rules.retain(|rule| rule["resources"] != serde_json::json!(["nodes"]));
    }
    role
}

/// A watch that is open stays so: it is the next operator that is refused.
fn says_so(suite: &Suite) -> Outcome {
    let (node, running) = operator(suite)?;
    running.kill()?;
    wait_for_successor(node, OPERATOR, running)?;
    let took = suite.wait_for_condition("web", "Ready", ("Unknown", "OperatorError"), SAYS_SO)?;
    println!("    says so after {:.1} s", took.as_secs_f64());
    let tuning = suite.get("tcpclosetuning", "web")?;
    let message = condition(&tuning, "Ready").map(|ready| ready["message"].clone()).unwrap_or_default();
    let named = message.as_str().is_some_and(|said| said.contains("nodes: ") && said.contains("forbidden"));
    ensure(named, || format!("it does not name what it may not see: {message}"))?;
    suite.tune("web", &fin_timeout(25))?;
    stays(suite, "30")
}
