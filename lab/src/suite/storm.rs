//! Somebody else writes to our objects as fast as can be.

use std::time::{Duration, Instant};

use crds::{TcpCloseNode, TcpCloseTuning};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    FIN_TIMEOUT, Failure, Outcome, Suite, Test, ensure,
    faults::{fin_timeout, tuned},
    orders::wait_until_all_hold_within,
    toll::{Toll, ends_as_without_fault, is_ours, say},
};
use crate::{
    audit::Request,
    bench::client::{Inside, api},
    error::Result,
    meanwhile::{Work, meanwhile},
};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "under_a_storm_of_foreign_writes_orders_and_statuses_land_within_5_s_and_leave_them_alone",
    run: storm,
}];

const MANAGER: &str = "storm";
const ANNOTATION: &str = "example.com/storm";
/// So many writes to an object at least are one.
const STORM: usize = 50;
/// Values of `tcp_fin_timeout`, one after the other.
const EDITS: [u8; 2] = [25, 20];
/// So many writes of ours are taken at most, as in a calm cluster: for each edit an order and a report of each node, and statuses.
const TAKEN_MOST: usize = 24;
/// Of so many of the other's writes, one at most meets one of ours, which is then sent again.
const FOREIGN_FOR_ONE: usize = 4;
const LANDED: Duration = Duration::from_secs(5);

fn storm(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = suite.cluster.nodes()[0].name.clone();
    let toll = Toll::begin(suite)?;
    let (on_tuning, (on_node, outcome)) = meanwhile(
        |work| write_on::<TcpCloseTuning>(suite, "web", work),
        || meanwhile(|work| write_on::<TcpCloseNode>(suite, &node, work), || lands(suite)),
    );
    let (on_tuning, on_node) = (on_tuning?, on_node?);
    println!("    {on_tuning} foreign writes to the tuning and {on_node} to a node's object meanwhile");
    outcome?;
    ensure(on_tuning >= STORM && on_node >= STORM, || "that was no storm".into())?;
    kept(suite, "tcpclosetuning", "web", on_tuning)?;
    kept(suite, "tcpclosenode", &node, on_node)?;
    toll.wrote(suite, |_| EDITS.len())?;
    costs_no_write_more(&toll.requests(suite)?, on_tuning + on_node)?;
    ends_as_without_fault(suite, "web", &fin_timeout(EDITS[1]))
}

/// Two edits, one after the other.
fn lands(suite: &Suite) -> Outcome {
    for seconds in EDITS {
        let start = Instant::now();
        suite.tune("web", &fin_timeout(seconds))?;
        let kernel = wait_until_all_hold_within(suite, FIN_TIMEOUT, &seconds.to_string(), LANDED)?;
        suite.wait_for_condition("web", "Ready", ("True", "Applied"), LANDED)?;
        let ready = start.elapsed();
        println!(
            "    in force after {:.2} s, Ready after {:.2} s",
            kernel.as_secs_f64(),
            ready.as_secs_f64()
        );
        ensure(ready < LANDED, || format!("the status took {ready:?}"))?;
    }
    Ok(())
}

/// Writes an annotation again and again; returns how often.
fn write_on<K>(suite: &Suite, name: &str, work: &Work) -> Result<usize>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let inside = Inside::enter(&suite.cluster)?;
    let objects = Api::<K>::all(inside.client);
    let params = PatchParams::apply(MANAGER);
    inside.runtime.block_on(async {
        let mut count = 0;
        while work.goes_on() {
            count += 1;
            let patch = json!({
                "apiVersion": K::api_version(&()),
                "kind": K::kind(&()),
                "metadata": { "annotations": { ANNOTATION: count.to_string() } },
            });
            objects.patch(name, &params, &Patch::Apply(&patch)).await.map_err(api("write an annotation"))?;
        }
        Ok(count)
    })
}

/// Ours that were taken are as many as without a storm; those that met one of the other's are few beside them.
fn costs_no_write_more(requests: &[Request], foreign: usize) -> Outcome {
    say(requests);
    let (taken, refused): (Vec<_>, Vec<_>) =
        requests.iter().filter(|request| is_ours(request)).partition(|request| request.was_taken());
    let [taken, refused] = [taken, refused].map(|requests| requests.len());
    let refused_most = foreign / FOREIGN_FOR_ONE;
    ensure(taken <= TAKEN_MOST && refused <= refused_most, || {
        format!(
            "{taken} API writes were taken and {refused} refused, where {TAKEN_MOST} and {refused_most} are allowed"
        )
    })
}

/// The other's field holds what it wrote last, and is the other's.
fn kept(suite: &Suite, kind: &str, name: &str, count: usize) -> Outcome {
    let arguments = ["get", kind, name, "--output", "json", "--show-managed-fields"];
    let object: serde_json::Value = serde_json::from_str(&suite.cluster.kubectl(&arguments)?)
        .map_err(|error| Failure(format!("{kind} {name}: {error}")))?;
    let metadata = &object["metadata"];
    let value = &metadata["annotations"][ANNOTATION];
    let owned =
        metadata["managedFields"].as_array().into_iter().flatten().any(|entry| entry["manager"] == MANAGER);
    ensure(owned && *value == json!(count.to_string()), || format!("{kind} {name}: {metadata}"))
}
