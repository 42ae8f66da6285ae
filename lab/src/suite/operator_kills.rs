//! The operator is killed before or after each of its writes, during a rollout too: what it leaves, its next life brings to the
//! same end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};

use super::{
    FIN_TIMEOUT, Failure, Outcome, Suite, Test, ensure,
    in_flight::with_one_in_flight_at_most,
    orders::wait_until_all_hold,
    own_operator::{OwnOperator, without_operators},
    rollout::rolling,
    toll::{Toll, state},
};
use crate::{
    audit::Request,
    proxy::{Moment, Proxy},
};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "an_operator_killed_before_or_after_any_of_its_writes_comes_to_the_same_end",
    run: killed_around_each_write,
}];

const IDENTITY: &str = "killed-operator";
const ACCOUNT: &str = "tcp-close-tuning-operator";
/// Each kernel is written when the tuning comes, and when it goes.
const KERNEL_WRITES: usize = 2;

/// Writes to objects of the product that a kill may cost: one that was taken and not remembered, and counts that come at
/// another time.
const COSTS_MOST: usize = 3;
/// Kills around a run's last writes may find it over: leases and counts are written by the clock.
const MISSES_MOST: usize = 4;

/// Around which write it is killed.
type Kill = (usize, Moment);

/// A run, and what it took.
struct Run {
    end: End,
    /// Writes that the operator sent.
    sent: usize,
    /// How many of those to objects of the product were taken.
    taken: usize,
    /// Whether it was killed.
    killed: bool,
}

/// What a run has led to.
#[derive(Debug, PartialEq, Eq)]
struct End {
    tuned: Value,
    untuned: Value,
    kernel_writes: Vec<usize>,
}

fn killed_around_each_write(suite: &Suite) -> Outcome {
    without_operators(suite, || with_one_in_flight_at_most(suite, || kill_around_each_write(suite)))
}

fn kill_around_each_write(suite: &Suite) -> Outcome {
    let (operator, proxy) = OwnOperator::behind_proxy(suite, IDENTITY)?;
    let start = Instant::now();
    let Run { end: calm, sent, taken, .. } = run(suite, &operator, &proxy, None)?;
    println!("    without a kill: {sent} writes, {:.1} s", start.elapsed().as_secs_f64());
    let nodes = suite.cluster.nodes().len();
    ensure(calm.kernel_writes == vec![KERNEL_WRITES; nodes], || format!("{calm:?}"))?;
    let (mut most, mut kills) = (taken, 0);
    for (number, moment) in (1..=sent).flat_map(|number| [(number, Moment::Before), (number, Moment::After)])
    {
        let named = |Failure(why)| Failure(format!("killed {moment:?} write {number}: {why}"));
        let ran = run(suite, &operator, &proxy, Some((number, moment))).map_err(named)?;
        ensure(ran.end == calm, || format!("{:#?}\nand not {calm:#?}", ran.end)).map_err(named)?;
        most = most.max(ran.taken);
        kills += usize::from(ran.killed);
    }
    println!(
        "    {kills} kills, {:.1} s; writes of the operator to objects of ours: {taken} without a kill, at most {most} with one; \
         to each kernel: {KERNEL_WRITES} in every run",
        start.elapsed().as_secs_f64()
    );
    ensure(kills + MISSES_MOST >= 2 * sent, || format!("only {kills} of {} kills met a write", 2 * sent))?;
    ensure(most <= taken + COSTS_MOST, || format!("{most} writes, where {taken} are enough"))
}

/// A node's object is made anew, a tuning comes, one node after the other, and goes.
fn run(
    suite: &Suite,
    operator: &Arc<OwnOperator>,
    proxy: &Proxy,
    kill: Option<Kill>,
) -> Result<Run, Failure> {
    // In one request: kubectl asks for each of the hundreds that earlier tests have left.
    suite.cluster.kubectl(&["delete", "--raw", "/api/v1/namespaces/default/events"])?;
    let toll = Toll::begin(suite)?;
    let killed = kill_at(operator, proxy, kill);
    operator.start()?;
    let node = &suite.cluster.nodes()[0].name;
    suite.cluster.kubectl(&["delete", "tcpclosenode", node])?;
    suite.tune("web", &rolling(30, &["soakSeconds: 0", "maxConcurrent: 1"]))?;
    suite.wait_until_applied("web")?;
    let tuned = state(suite)?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60")?;
    let untuned = state(suite)?;
    told_once(suite)?;
    managed_by_nobody(suite, node)?;
    operator.kill()?;
    let kernel_writes = toll.kernel_writes(suite)?;
    let audited = toll.requests(suite)?;
    let ours = |request: &&Request| {
        request.user == ACCOUNT && request.was_taken() && request.resource.starts_with("tcpclose")
    };
    Ok(Run {
        end: End { tuned, untuned, kernel_writes },
        sent: proxy.answers().len(),
        taken: audited.iter().filter(ours).count(),
        killed: killed.load(Ordering::Relaxed),
    })
}

/// Kills the operator around a write, once, and starts it again. Returns what turns true when that has happened.
fn kill_at(operator: &Arc<OwnOperator>, proxy: &Proxy, kill: Option<Kill>) -> Arc<AtomicBool> {
    let (operator, killed) = (operator.clone(), Arc::<AtomicBool>::default());
    let has_killed = killed.clone();
    proxy.act(Box::new(move |write, moment| {
        if kill != Some((write.number, moment)) || has_killed.swap(true, Ordering::Relaxed) {
            return true;
        }
        let again = operator.kill().and_then(|()| operator.start());
        again.unwrap_or_else(|error| println!("    the operator is not started again: {}", error.chain()));
        false
    }));
    killed
}

/// Fails where the API server still notes who manages which field of an object that was ordered something.
fn managed_by_nobody(suite: &Suite, node: &str) -> Outcome {
    let get =
        ["get", "tcpclosenode", node, "--show-managed-fields", "--output=jsonpath={.metadata.managedFields}"];
    let managers = suite.cluster.kubectl(&get)?;
    ensure(managers.is_empty(), || format!("the object of {node} is managed: {managers}"))
}

/// Fails where an event was told twice.
fn told_once(suite: &Suite) -> Outcome {
    let events = suite.get("events", "")?;
    let mut seen = BTreeSet::new();
    for event in events["items"].as_array().into_iter().flatten() {
        let about = &event["involvedObject"];
        let ours = event["reportingComponent"].as_str().is_some_and(|by| by.starts_with("tcp-close"));
        let told = json!([about["uid"], about["kind"], event["reason"], event["message"]]);
        ensure(!ours || seen.insert(told.to_string()), || format!("told twice: {told}"))?;
    }
    Ok(())
}
