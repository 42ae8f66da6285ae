//! What a fault has cost, and whether it came to the end of a run without it.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Failure, Outcome, Suite, ensure, partition::agent_log, privilege::in_namespace};
use crate::{
    audit::{Counts, Mark, Request},
    error::{Error, Result},
    install::RELEASE,
    node::Node,
    report::{Seen, poll_until},
};

/// By then a write is in the agent's log.
const LOGGED: Duration = Duration::from_secs(5);
/// A broken connection rests for up to 24 s, and what is stale is so after 60.
const SETTLED: Duration = Duration::from_secs(90);
/// How an agent says that it begins, and that it has written to its kernel.
const STARTS: &str = "\"starts\"";
const WROTE: &str = "\"wrote\"";

/// The moment from which on writes are counted.
pub(super) struct Toll {
    since: Timestamp,
    mark: Mark,
}

impl Toll {
    pub(super) fn begin(suite: &Suite) -> Result<Self> {
        Ok(Self { mark: suite.cluster.audit_mark()?, since: Timestamp::now() })
    }

    /// How often each kernel was written since, also by an agent that has ended.
    pub(super) fn kernel_writes(&self, suite: &Suite) -> Result<Vec<usize>> {
        let written = |node: &Node| {
            let log = agent_log(node)?;
            // Without a log there would be no writes in it either.
            if !log.contains(STARTS) {
                return Err(Error::Unclear { what: format!("the agent's log on {}", node.name), why: log });
            }
            let times = log.lines().filter(|line| line.contains(WROTE)).map(time);
            let times = times.collect::<Result<Vec<_>>>()?;
            Ok(times.into_iter().filter(|time| *time >= self.since).count())
        };
        suite.cluster.nodes().iter().map(written).collect()
    }

    /// Fails where an agent has written to a kernel since.
    pub(super) fn kernels_are_untouched(&self, suite: &Suite) -> Outcome {
        let written = self.kernel_writes(suite)?;
        ensure(written.iter().all(|writes| *writes == 0), || format!("kernel writes: {written:?}"))
    }

    /// What the API server was asked to write since.
    pub(super) fn requests(&self, suite: &Suite) -> Result<Vec<Request>> {
        suite.cluster.audited_since(self.mark)
    }

    /// Fails where a kernel was not written as often as `kernel` says of its node, or more than `most` writes to objects of the
    /// product were asked for.
    pub(super) fn is(&self, suite: &Suite, kernel: impl Fn(&Node) -> usize, most: usize) -> Outcome {
        self.wrote(suite, kernel)?;
        self.asks_at_most(suite, most)
    }

    /// Fails where a kernel was not written as often as `kernel` says of its node.
    pub(super) fn wrote(&self, suite: &Suite, kernel: impl Fn(&Node) -> usize) -> Outcome {
        let wanted: Vec<_> = suite.cluster.nodes().iter().map(kernel).collect();
        poll_until(&format!("each kernel was written so often: {wanted:?}"), LOGGED, || {
            let seen = self.kernel_writes(suite)?;
            Ok(Seen::when(seen == wanted, || format!("{seen:?}")))
        })?;
        println!("    kernel writes: {wanted:?}");
        Ok(())
    }

    /// Fails where operator and agents have asked for more writes to objects of the product since. Says who has written what.
    pub(super) fn asks_at_most(&self, suite: &Suite, most: usize) -> Outcome {
        are_at_most(&self.requests(suite)?, most)
    }
}

/// Fails where operator and agents have asked for more writes to objects of the product. Says who has written what.
pub(super) fn are_at_most(requests: &[Request], most: usize) -> Outcome {
    say(requests);
    let asked = requests.iter().filter(|request| is_ours(request)).count();
    ensure(asked <= most, || format!("{asked} API writes, where at most {most} are allowed"))
}

/// Says who has written what.
pub(super) fn say(requests: &[Request]) {
    println!("    API writes: {}", Counts(requests));
}

/// When a line of a container's log was written: its first word.
fn time(line: &str) -> Result<Timestamp> {
    let word = line.split(' ').next().unwrap_or_default();
    word.parse().map_err(|error: jiff::Error| Error::Unclear { what: line.into(), why: error.to_string() })
}

/// Whether the operator or an agent asked for a write to an object of the product.
pub(super) fn is_ours(request: &Request) -> bool {
    request.is_write() && request.user.starts_with(RELEASE) && request.resource.starts_with("tcpclose")
}

/// Fails where all is not as if nothing had happened: as when this tuning comes to a cluster that has none.
pub(super) fn ends_as_without_fault(suite: &Suite, name: &str, spec: &str) -> Outcome {
    let [end, calm] = ends(suite, name, spec)?;
    ensure(end == calm, || format!("the end is {end:#}\nand without the fault it is {calm:#}"))
}

/// The same of the nodes alone, where the tuning itself has to tell of the fault.
pub(super) fn nodes_end_as_without_fault(suite: &Suite, name: &str, spec: &str) -> Outcome {
    let [end, calm] = ends(suite, name, spec)?.map(|state| state["nodes"].clone());
    ensure(end == calm, || format!("the nodes end as {end:#}\nand without the fault as {calm:#}"))
}

/// What there is now, and what there is when this tuning comes to a cluster that has none.
fn ends(suite: &Suite, name: &str, spec: &str) -> Result<[Value; 2], Failure> {
    let end = state(suite)?;
    suite.clear()?;
    suite.tune(name, spec)?;
    Ok([end, state(suite)?])
}

/// Which objects there are, and what they say but for names and times of this very run; waits until all is settled.
pub(super) fn state(suite: &Suite) -> Result<Value, Failure> {
    let mut seen = Value::Null;
    // A status may still follow a report.
    poll_until("all is settled, and as it was a moment ago", SETTLED, || {
        let list = |kind: &str| Ok(suite.get(kind, "")?["items"].as_array().cloned().unwrap_or_default());
        let (tunings, nodes): (Vec<_>, Vec<_>) = (list("tcpclosetunings")?, list("tcpclosenodes")?);
        let now = json!({
            "tunings": tunings.iter().map(of_tuning).collect::<Vec<_>>(),
            "nodes": nodes.iter().map(of_node).collect::<Vec<_>>(),
            "leases": in_namespace(suite, &["leases"])?["items"].as_array().map(Vec::len),
        });
        let settled = now == seen && tunings.iter().all(is_settled);
        seen = now;
        Ok(Seen::when(settled, || seen.to_string()))
    })?;
    Ok(seen)
}

fn is_current(tuning: &Value) -> bool {
    tuning["status"]["observedGeneration"] == tuning["metadata"]["generation"]
}

fn is_settled(tuning: &Value) -> bool {
    let reconciling = super::condition(tuning, "Reconciling");
    is_current(tuning) && reconciling.is_some_and(|condition| condition["status"] == "False")
}

fn of_tuning(tuning: &Value) -> Value {
    let status = &tuning["status"];
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions =
        conditions.map(|each| json!([each["type"], each["status"], each["reason"], each["message"]]));
    // Of a tuning that has lost all its nodes it tells which it had.
    let rollout = (status["nodes"]["matched"] != 0).then_some(&status["rollout"]);
    let rollout =
        rollout.map(|rollout| ["phase", "revision", "stable", "failedRevision"].map(|field| &rollout[field]));
    json!([
        tuning["metadata"]["name"],
        is_current(tuning),
        status["nodes"],
        conditions.collect::<Vec<_>>(),
        status["refusals"],
        rollout,
    ])
}

fn of_node(node: &Value) -> Value {
    let rows = |list: &Value, fields: &[&str]| {
        let rows = list.as_array().into_iter().flatten();
        rows.map(|row| fields.iter().map(|field| row[*field].clone()).collect()).collect::<Vec<Value>>()
    };
    let (spec, status) = (&node["spec"], &node["status"]);
    let tunings = |list: &Value| {
        let entries = list.as_array().into_iter().flatten();
        entries.map(|entry| json!([entry["tuning"]["name"], entry["tuning"]["revision"]])).collect::<Vec<_>>()
    };
    json!([
        node["metadata"]["name"],
        rows(&spec["sysctls"], &["name", "action", "value", "driftPolicy", "removalPolicy", "acknowledge"]),
        tunings(&spec["sysctls"]),
        tunings(&spec["observe"]),
        spec["nodeUID"] == status["nodeUID"],
        spec["revision"] == status["observedRevision"],
        rows(&status["sysctls"], &["name", "state", "live", "desired", "baseline", "message"]),
    ])
}
