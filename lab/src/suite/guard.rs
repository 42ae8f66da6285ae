//! Without the policies agents are held to nothing, and nothing breaks: so the operator says so.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Outcome, Suite, Test, metrics::scrape};
use crate::{
    error::Result,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] =
    &[Test { name: "a_policy_that_goes_missing_is_said_and_said_again_when_it_is_back", run: missing }];

const KIND: &str = "validatingadmissionpolicybinding";
const POLICY: &str = "tcp-close-tuning-nodes";
/// The operator looks every 15 s.
const NOTICED: Duration = Duration::from_secs(45);

fn missing(suite: &Suite) -> Outcome {
    let binding = suite.get(KIND, POLICY)?;
    shown(suite, "1")?;
    suite.cluster.kubectl(&["delete", KIND, POLICY])?;
    let noticed = said(suite, "0", "GuardMissing", "its binding does not exist");
    let (metadata, spec) = (&binding["metadata"], &binding["spec"]);
    let metadata =
        json!({ "name": POLICY, "labels": metadata["labels"], "annotations": metadata["annotations"] });
    let again = json!({
        "apiVersion": binding["apiVersion"], "kind": binding["kind"], "metadata": metadata, "spec": spec,
    });
    suite.cluster.apply(&again.to_string())?;
    noticed?;
    said(suite, "1", "GuardInPlace", "is in place again")
}

/// The metric shows it, and an event says why.
fn said(suite: &Suite, value: &str, reason: &str, words: &str) -> Outcome {
    let took = shown(suite, value)?;
    println!("    {reason} after {:.1} s", took.as_secs_f64());
    poll_until(&format!("an event {reason}"), Duration::from_secs(10), || {
        let events = suite.get("events", "")?;
        let of_it = |event: &&Value| event["reason"] == reason && event["involvedObject"]["name"] == POLICY;
        let says = |event: &Value| event["message"].as_str().is_some_and(|said| said.contains(words));
        let seen: Vec<_> = events["items"].as_array().into_iter().flatten().filter(of_it).cloned().collect();
        Ok(Seen::when(seen.iter().any(says), || format!("{seen:?}")))
    })?;
    Ok(())
}

fn shown(suite: &Suite, value: &str) -> Result<Duration> {
    let name = format!("tcpclose_operator_admission_policy{{policy=\"{POLICY}\"}}");
    poll_until(&format!("{name} is {value}"), NOTICED, || {
        let seen = scrape(suite)?.get(&name).cloned();
        Ok(Seen::when(seen.as_deref() == Some(value), || format!("{seen:?}")))
    })
}
