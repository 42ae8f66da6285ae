//! What the agent and the operator cost: memory, threads, CPU time, size. Read from `/proc` of the very processes that run
//! in pods, while a tuning is in force.

use std::{fmt, thread, time::Duration};

use super::{
    Machine,
    aim::at_most,
    cost::{Memory, cpu_time, mebibytes, megabytes, program_size},
    with_tuning,
};
use crate::{
    cluster::Cluster,
    error::Result,
    process::Process,
    programs::{AGENT, OPERATOR},
    suite::{everywhere, tuning},
};

const TUNING: &str = "lab-bench-footprint";
/// The most that an agent shall ever hold in memory, in MiB.
pub(super) const AGENT_MEMORY_AIM: f64 = 8.0;
/// The most that the file of a program shall have, in MB.
const SIZE_AIMS: [(&str, f64); 2] = [(AGENT, 7.0), (OPERATOR, 10.0)];

/// What one process costs.
#[derive(Clone, Debug)]
pub struct Cost {
    program: &'static str,
    node: String,
    /// What it holds in memory.
    pub memory: Memory,
    /// CPU time during the measurement.
    pub cpu: Duration,
    /// The size of its file.
    pub size: u64,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Process by process.
    pub costs: Vec<Cost>,
    during: Duration,
    machine: String,
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "footprint over {} s with a tuning in force; {}", self.during.as_secs(), self.machine)?;
        writeln!(
            f,
            "{:<28}{:>12}{:>12}{:>12}{:>9}{:>12}{:>12}",
            "", "VmHWM KiB", "RssAnon KiB", "private KiB", "threads", "CPU ms", "file bytes"
        )?;
        for cost in &self.costs {
            let Cost { program, node, memory, cpu, size } = cost;
            let [peak, anonymous, private] =
                [memory.peak, memory.anonymous, memory.private].map(|bytes| bytes >> 10);
            let threads = memory.threads;
            let milliseconds = cpu.as_secs_f64() * 1000.0;
            writeln!(
                f,
                "{program:<18}{node:<10}{peak:>12}{anonymous:>12}{private:>12}{threads:>9}{milliseconds:>12.1}{size:>12}"
            )?;
        }
        let largest = |program, of: fn(&Cost) -> u64| {
            let costs = self.costs.iter().filter(|cost| cost.program == program);
            costs.map(of).max().unwrap_or_default()
        };
        let peak = mebibytes(largest(AGENT, |cost| cost.memory.peak));
        writeln!(f, "{}", at_most("peak memory of an agent, in MiB", peak, AGENT_MEMORY_AIM))?;
        SIZE_AIMS.iter().try_for_each(|(program, aim)| {
            let size = megabytes(largest(program, |cost| cost.size));
            writeln!(f, "{}", at_most(format!("{program}, in MB"), size, *aim))
        })
    }
}

/// Whether an agent runs.
pub(super) fn is_installed(cluster: &Cluster) -> Result<bool> {
    Ok(running(cluster)?.iter().any(|(program, ..)| *program == AGENT))
}

/// Every process of the product: its program, its node and itself.
fn running(cluster: &Cluster) -> Result<Vec<(&'static str, String, Process)>> {
    let mut found = Vec::new();
    for program in [AGENT, OPERATOR] {
        for node in cluster.nodes() {
            found.extend(
                node.processes(program)?.into_iter().map(|process| (program, node.name.clone(), process)),
            );
        }
    }
    Ok(found)
}

/// Measures for so long, with a tuning in force.
pub fn measure(cluster: &Cluster, during: Duration) -> Result<Footprint> {
    with_tuning(cluster, TUNING, || {
        let spec = everywhere(&["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5", "tcpTwReuse: 1"]);
        cluster.apply(&tuning(TUNING, &spec))?;
        let ready = format!("tcpclosetuning/{TUNING}");
        cluster.kubectl(&["wait", "--for=condition=Ready", &ready, "--timeout=60s"])?;
        let machine = Machine::look()?;
        let before = running(cluster)?;
        let spent = before.iter().map(|(.., process)| cpu_time(*process)).collect::<Result<Vec<_>>>()?;
        thread::sleep(during);
        let cost = |((program, node, process), spent)| cost(program, node, process, spent);
        let costs = before.into_iter().zip(spent).map(cost).collect::<Result<_>>()?;
        Ok(Footprint { costs, during, machine: machine.told()? })
    })
}

fn cost(program: &'static str, node: String, process: Process, spent: Duration) -> Result<Cost> {
    Ok(Cost {
        program,
        node,
        memory: Memory::of(process)?,
        cpu: cpu_time(process)?.saturating_sub(spent),
        size: program_size(process)?,
    })
}
