//! That the benches yield figures. Whether these are good is not judged here: the machine is busy, and the lab not optimised.

use std::time::Duration;

use super::{Outcome, Suite, Test, ensure};
use crate::bench::{measure_footprint, measure_latency};

pub(super) const LONG_TESTS: &[Test] = &[Test { name: "benches_run", run: benches_run }];

const CHANGES: u32 = 3;

fn benches_run(suite: &Suite) -> Outcome {
    let latency = measure_latency(&suite.cluster, CHANGES)?;
    print!("{latency}");
    let nodes = suite.cluster.nodes().len();
    let wanted = usize::try_from(CHANGES).unwrap_or(usize::MAX);
    let kinds = [&latency.answered, &latency.every_kernel, &latency.ready, &latency.floor];
    let complete = kinds.iter().all(|times| times.count() == wanted && times.percentile(0) > Duration::ZERO);
    ensure(complete && latency.one_kernel.count() == wanted * nodes, || {
        format!("figures are missing: {latency}")
    })?;

    let footprint = measure_footprint(&suite.cluster, Duration::from_secs(5))?;
    print!("{footprint}");
    let costs = &footprint.costs;
    ensure(costs.len() == nodes + 1, || {
        format!("{} processes, not {nodes} agents and an operator", costs.len())
    })?;
    let complete = costs.iter().all(|cost| {
        let memory = cost.memory;
        memory.peak > 0
            && memory.private > 0
            && memory.threads > 0
            && cost.size > 0
            && cost.cpu > Duration::ZERO
    });
    ensure(complete, || format!("figures are missing: {footprint}"))
}
