//! The operator is killed before or after each of its writes: what it leaves, its next life brings to the same end.

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
    faults::fin_timeout,
    orders::wait_until_all_hold,
    own_operator::{OwnOperator, without_operators},
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

/// Around which write it is killed.
type Kill = (usize, Moment);

/// What a run has led to.
#[derive(Debug, PartialEq, Eq)]
struct End {
    tuned: Value,
    untuned: Value,
    kernel_writes: Vec<usize>,
}

fn killed_around_each_write(suite: &Suite) -> Outcome {
    without_operators(suite, || {
        let (operator, proxy) = OwnOperator::behind_proxy(suite, IDENTITY)?;
        let start = Instant::now();
        let (calm, sent, taken) = run(suite, &operator, &proxy, None)?;
        println!("    without a kill: {sent} writes, {:.1} s", start.elapsed().as_secs_f64());
        let nodes = suite.cluster.nodes().len();
        ensure(calm.kernel_writes == vec![KERNEL_WRITES; nodes], || format!("{calm:?}"))?;
        let mut most = taken;
        for (number, moment) in
            (1..=sent).flat_map(|number| [(number, Moment::Before), (number, Moment::After)])
        {
            let named = |Failure(why)| Failure(format!("killed {moment:?} write {number}: {why}"));
            let (end, _, taken) = run(suite, &operator, &proxy, Some((number, moment))).map_err(named)?;
            ensure(end == calm, || format!("{end:#?}\nand not {calm:#?}")).map_err(named)?;
            most = most.max(taken);
        }
        println!(
            "    {} kills, {:.1} s; writes of the operator to objects of ours: {taken} without a kill, at most {most} with one; \
             to each kernel: {KERNEL_WRITES} in every run",
            2 * sent,
            start.elapsed().as_secs_f64()
        );
        Ok(())
    })
}

/// A node's object is made anew, a tuning comes and goes. Returns what was there then, how many writes the operator sent, and
/// how many of those to objects of the product were taken.
fn run(
    suite: &Suite,
    operator: &Arc<OwnOperator>,
    proxy: &Proxy,
    kill: Option<Kill>,
) -> Result<(End, usize, usize), Failure> {
    // In one request: kubectl asks for each of the hundreds that earlier tests have left.
    suite.cluster.kubectl(&["delete", "--raw", "/api/v1/namespaces/default/events"])?;
    let toll = Toll::begin(suite)?;
    kill_at(operator, proxy, kill);
    operator.start()?;
    let node = &suite.cluster.nodes()[0].name;
    suite.cluster.kubectl(&["delete", "tcpclosenode", node])?;
    suite.tune("web", &fin_timeout(30))?;
    suite.wait_until_applied("web")?;
    let tuned = state(suite)?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60")?;
    let untuned = state(suite)?;
    told_once(suite)?;
    operator.kill()?;
    let kernel_writes = toll.kernel_writes(suite)?;
    let audited = toll.requests(suite)?;
    let ours = |request: &&Request| {
        request.user == ACCOUNT && request.was_taken() && request.resource.starts_with("tcpclose")
    };
    Ok((End { tuned, untuned, kernel_writes }, proxy.answers().len(), audited.iter().filter(ours).count()))
}

/// Kills the operator around a write, once, and starts it again.
fn kill_at(operator: &Arc<OwnOperator>, proxy: &Proxy, kill: Option<Kill>) {
    let (operator, killed) = (operator.clone(), AtomicBool::new(false));
    proxy.act(Box::new(move |write, moment| {
        if kill != Some((write.number, moment)) || killed.swap(true, Ordering::Relaxed) {
            return true;
        }
        let again = operator.kill().and_then(|()| operator.start());
        again.unwrap_or_else(|error| println!("    the operator is not started again: {}", error.chain()));
        false
    }));
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
