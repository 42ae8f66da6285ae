//! Programs of this version beside what another one has installed or stored.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    FIN_TIMEOUT, Outcome, SOON, Suite, Test, ensure, everywhere,
    faults::{fin_timeout, tuned},
    misplaced::{DEFINITION, tune_when_learnt, under_definition},
    orders::{all_hold, wait_until_all_hold},
    stored::definition_of_v0_1_0,
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    audit::Counts,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test {
        name: "under_the_definitions_of_v0_1_0_values_stay_and_an_edit_lands_with_those_of_this_version",
        run: older_definitions,
    },
    Test { name: "a_tuning_that_cannot_be_decoded_stops_no_other", run: bad_object },
];

/// Refused ones too: each program asks for a change at most once a second.
const MOST: usize = 100;
const NODES: &str = "tcpclosenodes.tcpclose.dev";
/// The operator turns every 5 s: what it would write again and again shows within this.
const CALM: Duration = Duration::from_secs(12);

/// Programs that come before the definitions: those refuse a status with fields that they do not have, so nothing new is
/// ordered until they have followed. Nothing is undone meanwhile, and nobody writes as fast as can be.
fn older_definitions(suite: &Suite) -> Outcome {
    let (tunings, nodes) = (definition_of_v0_1_0(suite, DEFINITION)?, definition_of_v0_1_0(suite, NODES)?);
    tuned(suite)?;
    let toll = Toll::begin(suite)?;
    under_definition(suite, &tunings, || {
        under_definition(suite, &nodes, || {
            suite.tune("web", &fin_timeout(25))?;
            is_calm(suite)
        })
    })?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "25")?;
    toll.is(suite, |_| 1, MOST)?;
    ends_as_without_fault(suite, "web", &fin_timeout(25))?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

/// Each program asks for a change at most once a second.
fn is_calm(suite: &Suite) -> Outcome {
    let (mark, start) = (suite.cluster.audit_mark()?, Instant::now());
    while start.elapsed() < CALM {
        let values = suite.values(FIN_TIMEOUT)?;
        ensure(values.iter().all(|live| live == "30" || live == "25"), || format!("{values:?}"))?;
        std::thread::sleep(CALM / 100);
    }
    let audited = suite.cluster.audited_since(mark)?;
    let asked = audited.iter().filter(|request| request.is_write()).count();
    println!("    in {} s: {}", CALM.as_secs(), Counts(&audited));
    let programs = 1 + u64::try_from(suite.cluster.nodes().len()).unwrap_or_default();
    ensure(asked as u64 <= programs * CALM.as_secs(), || format!("{asked} writes in {CALM:?}"))
}

/// A mode that a newer version may know, let through by its definition.
fn bad_object(suite: &Suite) -> Outcome {
    let mut newer = suite.get("customresourcedefinition", DEFINITION)?;
    any_mode(&mut newer["spec"]);
    let spec = everywhere(&["tcpOrphanRetries: 5"]).replace("Enforce", "Sideways");
    under_definition(suite, &newer, || {
        tune_when_learnt(suite, "bad", &spec)?;
        suite.tune("web", &fin_timeout(30))?;
        suite.wait_until_applied("web")?;
        all_hold(suite, FIN_TIMEOUT, "30")?;
        suite.wait_for_condition("bad", "Ready", ("Unknown", "OperatorError"), SOON)?;
        suite.cluster.kubectl(&["delete", "tcpclosetuning", "bad"])?;
        Ok(())
    })?;
    poll_until("the other one is in force still", SOON, || {
        let values = suite
            .values(FIN_TIMEOUT)
            .map_err(|super::Failure(why)| crate::Error::Unclear { what: FIN_TIMEOUT.into(), why })?;
        Ok(Seen::when(values.iter().all(|live| live == "30"), || format!("{values:?}")))
    })?;
    Ok(())
}

/// Takes the list of modes out of a definition.
fn any_mode(schema: &mut Value) {
    let versions = schema["versions"].as_array_mut().into_iter().flatten();
    for version in versions {
        let mode = version.pointer_mut("/schema/openAPIV3Schema/properties/spec/properties/mode");
        if let Some(mode) = mode.and_then(Value::as_object_mut) {
            mode.remove("enum");
        }
    }
}
