//! The tests of a real cluster. They share one start; each leaves the nodes as it found them.
//!
//! A test is a function that returns what went wrong. There is no way to skip one.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use serde_json::Value;
use tcp_close::Sysctl;

use crate::{
    checkout::Checkout,
    clear::down,
    cluster::Cluster,
    error::{Error, Result},
    images::Images,
    install::{NAMESPACE, install_from_checkout},
    report::{Seen, minutes, poll_until, say},
    up::{NODES, up},
};

mod alone;
mod another;
mod bearer;
mod benches;
mod blind;
mod cautions;
mod checks;
mod counts;
mod crash;
mod explain;
mod faults;
mod fenced;
mod flow;
mod fuzz;
mod gate;
mod guard;
mod helm;
mod hostile;
mod in_flight;
mod inputs;
mod leader;
mod lives;
mod lost;
mod messages;
mod metrics;
mod misplaced;
mod operator_kills;
mod orders;
mod own_operator;
mod partition;
mod pods;
mod privilege;
mod prove;
mod recreated;
mod rights;
mod rivals;
mod rollout;
mod rules;
mod skew;
mod stale;
mod standalone;
mod stored;
mod storm;
mod strace;
mod strangers;
mod toll;
mod undoing;
mod uninstall;
mod whole_run;

/// The tests of `cargo lab test`.
const TESTS: &[&[Test]] = &[
    orders::TESTS,
    counts::TESTS,
    inputs::TESTS,
    rules::TESTS,
    explain::TESTS,
    helm::TESTS,
    privilege::TESTS,
    rights::TESTS,
    hostile::TESTS,
    flow::TESTS,
    faults::TESTS,
    messages::TESTS,
    metrics::TESTS,
    prove::TESTS,
    cautions::TESTS,
    misplaced::TESTS,
    standalone::TESTS,
    rollout::TESTS,
    crash::TESTS,
    strangers::TESTS,
    undoing::TESTS,
];
/// What takes long, for `cargo lab test --all`.
const LONG_TESTS: &[&[Test]] = &[
    orders::LONG_TESTS,
    rivals::LONG_TESTS,
    rollout::LONG_TESTS,
    misplaced::LONG_TESTS,
    leader::LONG_TESTS,
    fenced::LONG_TESTS,
    storm::LONG_TESTS,
    partition::LONG_TESTS,
    recreated::LONG_TESTS,
    skew::LONG_TESTS,
    stale::LONG_TESTS,
    operator_kills::LONG_TESTS,
    helm::LONG_TESTS,
    uninstall::LONG_TESTS,
    guard::LONG_TESTS,
    faults::LONG_TESTS,
    lost::LONG_TESTS,
    blind::LONG_TESTS,
    stored::LONG_TESTS,
    crash::LONG_TESTS,
    whole_run::LONG_TESTS,
    gate::LONG_TESTS,
    lives::LONG_TESTS,
    pods::LONG_TESTS,
    benches::LONG_TESTS,
    fuzz::LONG_TESTS,
    undoing::LONG_TESTS,
];

pub(crate) const FIN_TIMEOUT: &str = Sysctl::FinTimeout.name();
const RETRIES: &str = Sysctl::OrphanRetries.name();
/// A change takes a second; a loaded machine may take longer.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) use {orders::wait_until_all_hold, privilege::in_namespace};

/// A sentence about behaviour, and the function that finds out whether it is true.
pub struct Test {
    /// The sentence, with underscores.
    pub name: &'static str,
    /// Finds out.
    pub run: fn(&Suite) -> Outcome,
}

/// Nothing, or what went wrong.
pub type Outcome = Result<(), Failure>;

/// What went wrong, in words.
#[derive(Debug)]
pub struct Failure(pub String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error.chain())
    }
}

/// Fails a test with words where something does not hold.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failure(otherwise())) }
}

/// The cluster that the tests share.
pub struct Suite {
    /// Where it runs.
    pub cluster: Cluster,
    /// What was installed.
    pub images: Images,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the tests, and prints how long that took and, as the last line, how many passed and failed. A lab that was up
/// stays up.
///
/// # Errors
/// Where the cluster does not come up, or does not come down.
pub fn test(all: bool, filter: &str) -> Result<Tally> {
    let start = Instant::now();
    let checkout = Checkout::current()?;
    let mut tally = Tally::default();
    if all && filter.is_empty() {
        tally.add(checks::code(&checkout)?);
    }
    if filter.is_empty() {
        tally.add(checks::fast_layer(&checkout)?);
    }
    let was_up = Cluster::open().is_ok_and(|cluster| cluster.is_up());
    let cluster = up(NODES)?;
    let images = install_from_checkout(&cluster)?;
    let suite = Suite { cluster, images };
    let long = if all { LONG_TESTS } else { &[] };
    for tests in TESTS.iter().chain(long) {
        tally.add(run(&suite, tests, filter));
    }
    if !was_up {
        down()?;
    }
    println!("the tests took {}", minutes(start.elapsed()));
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally)
}

/// Runs tests one after the other, and says how each ended. Names that do not contain `filter` are left out.
fn run(suite: &Suite, tests: &[Test], filter: &str) -> Tally {
    let mut tally = Tally::default();
    for test in tests.iter().filter(|test| test.name.contains(filter)) {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (test.run)(suite)))
            .unwrap_or_else(|_| Err(Failure("it panicked".into())))
            .and_then(|()| suite.clear());
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                tally.passed += 1;
                println!("test {} ... ok ({seconds:.1} s)", test.name);
            }
            Err(Failure(why)) => {
                tally.failed += 1;
                println!(
                    "test {} ... FAILED ({seconds:.1} s)\n    {}",
                    test.name,
                    why.replace('\n', "\n    ")
                );
                suite.clear().unwrap_or_else(|Failure(why)| say(format!("the cluster is not clear: {why}")));
            }
        }
    }
    tally
}

impl Suite {
    /// Deletes every tuning, and waits until no node has an order. The switch makes that quick: what is deleted by hand
    /// waits for some seconds.
    pub fn clear(&self) -> Outcome {
        // A version without a switch, or none at all, takes its time.
        let _ = self.switch(Some("Release"));
        let outcome = self.clear_orders();
        let _ = self.switch(None);
        outcome
    }

    fn clear_orders(&self) -> Outcome {
        self.cluster.kubectl(&["delete", "tcpclosetunings", "--all", "--wait=true"])?;
        poll_until("no node has an order", Duration::from_secs(60), || {
            let nodes = self.get("tcpclosenodes", "")?;
            let ordered =
                |node: &&Value| node["spec"]["sysctls"].is_array() || node["spec"]["observe"].is_array();
            let left = nodes["items"].as_array().and_then(|items| items.iter().find(ordered)).cloned();
            Ok(Seen::when(left.is_none(), || left.unwrap_or_default()["spec"].to_string()))
        })?;
        Ok(())
    }

    /// Writes a word into the switch, or takes it away.
    pub fn switch(&self, word: Option<&str>) -> Outcome {
        let patch = serde_json::json!({ "data": word.map(|word| serde_json::json!({ "state": word })) });
        let map = ["patch", "configmap", "tcpclose-control", "--namespace", NAMESPACE];
        self.cluster.kubectl(&[&map[..], &["--type=merge", "--patch", &patch.to_string()]].concat())?;
        Ok(())
    }

    /// An object, or a list of all where the name is empty.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let mut arguments = vec!["get", kind, "--output", "json"];
        arguments.extend(Some(name).filter(|name| !name.is_empty()));
        let text = self.cluster.kubectl(&arguments)?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Unclear { what: format!("{kind} {name}"), why: error.to_string() })
    }

    /// Applies a tuning: its name and its spec as YAML, indented by two blanks.
    pub fn tune(&self, name: &str, spec: &str) -> Outcome {
        let manifest = tuning(name, spec);
        self.cluster.apply(&manifest)?;
        Ok(())
    }

    /// Applies something that must be refused, and returns what the API server said.
    pub fn refused(&self, manifest: &str, options: &[&str]) -> Result<String, Failure> {
        said_no(self.cluster.apply_with(options, manifest))
    }

    /// Waits until a condition of a tuning has a status and a reason, for the present generation of its spec.
    pub fn wait_for_condition(
        &self,
        tuning: &str,
        kind: &str,
        expected: (&str, &str),
        deadline: Duration,
    ) -> Result<Duration, Failure> {
        let (status, reason) = expected;
        let what = format!("{tuning} is {kind}={status}/{reason}");
        let took = poll_until(&what, deadline, || {
            let object = self.get("tcpclosetuning", tuning)?;
            let seen = condition(&object, kind).cloned().unwrap_or_default();
            let present = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let holds = present && seen["status"] == status && seen["reason"] == reason;
            Ok(Seen::when(holds, || object["status"].to_string()))
        })?;
        Ok(took)
    }

    /// Waits until the tuning is Ready=True/Applied.
    pub fn wait_until_applied(&self, tuning: &str) -> Result<Duration, Failure> {
        self.wait_for_condition(tuning, "Ready", ("True", "Applied"), SOON)
    }

    /// Waits until a node's kernel holds a value.
    pub fn wait_for_value(&self, node: &str, key: &str, value: &str) -> Result<Duration, Failure> {
        let node = self.cluster.node(node)?;
        let what = format!("{key} is {value} on {}", node.name);
        let took = poll_until(&what, SOON, || {
            let live = node.read_sysctl(key)?;
            Ok(Seen::when(live == value, || live.clone()))
        })?;
        Ok(took)
    }

    /// What the nodes' kernels hold now, node by node.
    pub fn values(&self, key: &str) -> Result<Vec<String>, Failure> {
        Ok(self.cluster.nodes().iter().map(|node| node.read_sysctl(key)).collect::<Result<_>>()?)
    }
}

/// What a program said that had to fail.
pub fn said_no(result: Result<String>) -> Result<String, Failure> {
    match result {
        Ok(said) => Err(Failure(format!("it was accepted: {said}"))),
        Err(Error::Failed { output, .. }) => Ok(output),
        Err(other) => Err(other.into()),
    }
}

/// A tuning's manifest: its name and its spec as YAML, indented by two blanks.
pub fn tuning(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: tcpclose.dev/v1alpha1\nkind: TcpCloseTuning\nmetadata:\n  name: {name}\nspec:\n{spec}\n"
    )
}

/// A spec for every node that enforces these sysctls, each line `field: value`.
pub fn everywhere(sysctls: &[&str]) -> String {
    let sysctls = sysctls.join("\n    ");
    format!(
        "  nodeSelector:\n    matchLabels: {{kubernetes.io/os: linux}}\n  mode: Enforce\n  sysctls:\n    {sysctls}"
    )
}

/// The condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// The sysctl of a node's status.
pub fn sysctl<'a>(node: &'a Value, key: &str) -> Option<&'a Value> {
    node["status"]["sysctls"].as_array()?.iter().find(|sysctl| sysctl["name"] == key)
}
