//! That the benches yield figures. Whether these are good is not judged here: the machine is busy, and the lab not optimised.

use std::time::Duration;

use super::{Outcome, Suite, Test, ensure};
use crate::bench::{
    CrowdSize, Extent, FleetExtent, FleetUsage, Phase, Scene, Times, measure_agent, measure_count,
    measure_fleet, measure_footprint, measure_growth, measure_latency,
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "benches_run", run: benches_run },
    Test { name: "the_bench_of_counting_yields_every_figure", run: counting },
    Test { name: "the_bench_of_the_agent_yields_every_figure", run: agent },
    Test { name: "the_bench_of_a_fleet_yields_every_figure", run: fleet },
    Test { name: "the_operators_memory_does_not_grow_with_reports", run: growth },
];

const CHANGES: u32 = 3;

fn benches_run(suite: &Suite) -> Outcome {
    let latency = measure_latency(&suite.cluster, CHANGES)?;
    print!("{latency}");
    let nodes = suite.cluster.nodes().len();
    let wanted = usize::try_from(CHANGES).unwrap_or(usize::MAX);
    let (rested, in_a_row) = (&latency.rested, &latency.in_a_row);
    let paces = [&rested.every_kernel, &rested.floor, &in_a_row.every_kernel, &in_a_row.floor];
    let rest = [&latency.answered, &latency.ready, &latency.tuning_write];
    let is_complete = |times: &&Times| times.count() == wanted && times.percentile(0) > Duration::ZERO;
    let complete = paces.iter().chain(&rest).all(is_complete);
    let kernels =
        [&rested.one_kernel, &in_a_row.one_kernel].iter().all(|times| times.count() == wanted * nodes);
    ensure(complete && kernels && latency.order_write.count() >= wanted * nodes, || {
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

fn counting(suite: &Suite) -> Outcome {
    let scene = |time_waits, namespaces, buckets| Scene { time_waits, namespaces, buckets };
    let scenes = [scene(500, 0, None), scene(500, 3, None), scene(0, 0, Some(4096))];
    let folder = suite.cluster.dir().join("bench");
    let agent = &suite.images.agent.program;
    let count = measure_count(suite.cluster.checkout(), agent, &folder, &scenes, 2)?;
    print!("{count}");
    let missing = count.missing();
    ensure(missing.is_empty(), || format!("figures are missing: {}", missing.join(", ")))
}

fn agent(suite: &Suite) -> Outcome {
    let seconds = Duration::from_secs;
    let crowd = CrowdSize { time_waits: 5000, namespaces: 3 };
    let extent = Extent { crowd, gathering: seconds(1), settling: seconds(0), phase: seconds(5), life: 120 };
    let phases = [Phase { name: "agent", set_up: &|| Ok(()), cpu_aim: 100.0 }];
    let beside = measure_agent(&suite.cluster, &extent, &phases)?;
    print!("{beside}");
    let complete = beside
        .shares
        .iter()
        .all(|share| share.memory.peak > 0 && share.memory.dirty > 0 && share.cpu > Duration::ZERO);
    ensure(complete && beside.shares.len() == 3 && beside.time_waits > 0, || {
        let why =
            beside.without_tuned.as_deref().unwrap_or("the agent, node_exporter and TuneD were measured");
        format!("figures are missing ({why}): {beside}")
    })?;
    let life = beside.life;
    ensure(life.namespaces == crowd.namespaces && life.last.anonymous > 0, || {
        format!("the sampler knows {} namespaces, not {}", life.namespaces, crowd.namespaces)
    })
}

fn fleet(suite: &Suite) -> Outcome {
    let seconds = Duration::from_secs;
    // The naive nodes write every 10 s.
    let (window, settling, naive) = (seconds(3), seconds(1), seconds(11));
    let extent = FleetExtent { sizes: vec![50], window, settling, overflows: 1, naive };
    let fleet = measure_fleet(suite.cluster.checkout(), &suite.images.operator.program, &extent)?;
    print!("{fleet}");
    for size in &fleet.sizes {
        let times = [size.start, size.edit, size.ready, size.operator_restart, size.server_restart];
        let is_measured = |usage: &FleetUsage| usage.servers > Duration::ZERO && usage.etcd > Duration::ZERO;
        // At rest a few seconds may pass without a heartbeat.
        let complete = times.iter().all(|time| *time > Duration::ZERO)
            && [size.idle, size.churn, size.storm].iter().all(is_measured)
            && size.churn.writes_per_second() > 0.0
            && size.storm.writes_per_second() > 0.0
            && size.overflows.len() == extent.overflows
            && size.servers_peak > 0
            && size.naive.reports_per_second() > 0.0
            && size.status_bytes > 0
            && size.operator_peak > 0;
        ensure(complete, || format!("figures are missing: {fleet}"))?;
    }
    Ok(())
}

fn growth(_: &Suite) -> Outcome {
    let growth = measure_growth(100, 10_000)?;
    print!("{growth}");
    ensure(growth.marks.len() == 10 && growth.grown() < 4 << 20, || format!("it grows: {growth}"))
}
