//! A tuning that v0.1.0 has stored, and that breaks a rule of this version.

use serde_json::{Value, json};
use tcp_close::Sysctl;

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, ensure, everywhere,
    helm::objects,
    misplaced::{DEFINITION, tune_when_learnt, under_definition},
    orders::all_hold,
    toll::{Toll, ends_as_without_fault},
    tuning,
};
use crate::error::{Error, Result};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "a_tuning_stored_by_v0_1_0_that_meets_a_caution_is_kept_refused_in_words_and_can_be_edited",
    run: stored_before_the_rule,
}];

const CHART: &str = "lab/fixtures/v0.1.0/tcp-close-tuning-0.1.0.tgz";
const RULE: &str = "timestamps-off";
/// Four orders for each node, with their reports, and statuses.
const MOST: usize = 80;
const CONCERN: &str = "without timestamps there is no protection";
const WAY_OUT: &str = "add timestamps-off to safety.acknowledge";
const TIMESTAMPS: &str = Sysctl::Timestamps.name();

fn stored_before_the_rule(suite: &Suite) -> Outcome {
    let spec = |timestamps, seconds| {
        everywhere(&[&format!("tcpTimestamps: {timestamps}"), &format!("tcpFinTimeoutSeconds: {seconds}")])
    };
    let (mut stored, toll) = (Value::Null, Toll::begin(suite)?);
    under_definition(suite, &definition_of_v0_1_0(suite, DEFINITION)?, || {
        tune_when_learnt(suite, "web", &spec(0, 30))?;
        stored = identity(suite)?;
        Ok(())
    })?;
    let now = identity(suite)?;
    ensure(now == stored, || format!("it was {stored} and is {now}"))?;
    is_refused_by_agents(suite)?;

    suite.cluster.kubectl(&["label", "tcpclosetuning", "web", "team=edge"])?;
    suite.tune("web", &spec(0, 25))?;
    is_refused_by_agents(suite)?;
    // A new one is not taken, nor is this one once it has been mended.
    let says = |said: String| {
        let words = ["spec.sysctls.tcpTimestamps", CONCERN, WAY_OUT];
        let lacks = words.into_iter().find(|words| !said.contains(words));
        ensure(lacks.is_none(), || format!("the answer lacks {lacks:?}: {said}"))
    };
    says(suite.refused(&tuning("new", &spec(0, 30)), &["--dry-run=server"])?)?;
    suite.tune("web", &spec(1, 25))?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "25")?;
    says(suite.refused(&tuning("web", &spec(0, 25)), &["--dry-run=server"])?)?;
    toll.is(suite, |_| 1, MOST)?;
    ends_as_without_fault(suite, "web", &spec(1, 25))
}

/// Nothing is written, and the status says by which rule and what to do, for the present generation.
fn is_refused_by_agents(suite: &Suite) -> Outcome {
    suite.wait_for_condition("web", "Ready", ("False", "Refused"), SOON)?;
    let refusals = suite.get("tcpclosetuning", "web")?["status"]["refusals"].clone();
    let said = refusals[0]["message"].as_str().unwrap_or_default();
    let right = refusals[0]["rule"] == RULE && [CONCERN, WAY_OUT].iter().all(|words| said.contains(words));
    ensure(right, || refusals.to_string())?;
    all_hold(suite, TIMESTAMPS, "1")?;
    all_hold(suite, FIN_TIMEOUT, "60")
}

/// What must not be lost: which object it is, and what it asks for.
fn identity(suite: &Suite) -> Result<Value> {
    let object = suite.get("tcpclosetuning", "web")?;
    Ok(json!([object["metadata"]["uid"], object["metadata"]["generation"], object["spec"]]))
}

/// A definition as the chart of v0.1.0 installs it.
pub(super) fn definition_of_v0_1_0(suite: &Suite, name: &str) -> Result<Value, Failure> {
    let chart = suite.cluster.checkout().root().join(CHART).display().to_string();
    let manifests = suite.cluster.helm(&["template", &chart, "--show-only", "templates/crds.yaml"])?;
    for object in objects(suite, &manifests)? {
        if object["metadata"]["name"] == name {
            return Ok(object);
        }
    }
    Err(Error::Unclear { what: CHART.into(), why: format!("it has no {name}") }.into())
}
