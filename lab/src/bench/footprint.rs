//! What the agent and the operator cost: memory, threads, CPU time, size. Read from `/proc` of the very processes that run
//! in pods, while a tuning is in force.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::io::Errno;

use super::{Machine, with_tuning};
use crate::{
    cluster::Cluster,
    error::{Error, Result},
    files,
    process::Process,
    programs::{AGENT, OPERATOR},
    suite::{everywhere, tuning},
};

const TUNING: &str = "lab-bench-footprint";
/// The most that an agent shall ever hold in memory.
const AGENT_MEMORY_AIM: u64 = 8 << 20;
/// The most that a program's file shall have.
const SIZE_AIM: u64 = 10_000_000;

/// What one process costs.
#[derive(Clone, Debug)]
pub struct Cost {
    program: &'static str,
    node: String,
    /// The most that it has held in memory since its start, in bytes.
    pub peak: u64,
    /// What is neither a file's nor shared.
    pub anonymous: u64,
    /// What would be free without it.
    pub private: u64,
    /// How many threads it has.
    pub threads: u64,
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
            let Cost { program, node, threads, cpu, size, .. } = cost;
            let [peak, anonymous, private] =
                [cost.peak, cost.anonymous, cost.private].map(|bytes| bytes >> 10);
            let milliseconds = cpu.as_secs_f64() * 1000.0;
            writeln!(
                f,
                "{program:<18}{node:<10}{peak:>12}{anonymous:>12}{private:>12}{threads:>9}{milliseconds:>12.1}{size:>12}"
            )?;
        }
        let agents = self.costs.iter().filter(|cost| cost.program == AGENT);
        let peak = agents.map(|cost| cost.peak).max().unwrap_or_default();
        let size = self.costs.iter().map(|cost| cost.size).max().unwrap_or_default();
        let verdict = |within| if within { "reached" } else { "MISSED" };
        writeln!(f, "aim: an agent of at most 8 MiB: {}", verdict(peak <= AGENT_MEMORY_AIM))?;
        writeln!(f, "aim: programs of at most 10 MB: {}", verdict(size <= SIZE_AIM))
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
        let spent = before.iter().map(|(.., process)| cpu(*process)).collect::<Result<Vec<_>>>()?;
        thread::sleep(during);
        let cost = |((program, node, process), spent)| cost(program, node, process, spent);
        let costs = before.into_iter().zip(spent).map(cost).collect::<Result<_>>()?;
        Ok(Footprint { costs, during, machine: machine.told()? })
    })
}

fn cost(program: &'static str, node: String, process: Process, spent: Duration) -> Result<Cost> {
    let status = files::read(&file(process, "status"))?;
    let rollup = files::read(&file(process, "smaps_rollup"))?;
    let of = |text: &str, name: &str| {
        field(text, name)
            .ok_or_else(|| Error::Unclear { what: name.into(), why: format!("{program} has none") })
    };
    let binary = file(process, "exe");
    Ok(Cost {
        program,
        node,
        peak: of(&status, "VmHWM")? << 10,
        anonymous: of(&status, "RssAnon")? << 10,
        private: (of(&rollup, "Private_Clean")? + of(&rollup, "Private_Dirty")?) << 10,
        threads: of(&status, "Threads")?,
        cpu: cpu(process)?.saturating_sub(spent),
        size: fs::metadata(&binary).map_err(Error::file("find", &binary))?.len(),
    })
}

fn file(process: Process, name: &str) -> PathBuf {
    Path::new("/proc").join(process.pid.to_string()).join(name)
}

/// The number in a line `Name:   123 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The CPU time of all threads, in nanoseconds: the ticks of `/proc/PID/stat` are 10 ms, more than an idle agent takes.
fn cpu(process: Process) -> Result<Duration> {
    let tasks = file(process, "task");
    let times = files::list(&tasks)?.into_iter().map(|task| {
        let path = tasks.join(task).join("schedstat");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap_or(0)),
            // A thread that has ended since the folder was listed; where the process has, there are none at all.
            Err(error) if is_gone(&error) => Ok(0),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    });
    times.sum::<Result<u64>>().map(Duration::from_nanos)
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Seen, poll_until};

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "VmHWMx:\t 1 kB\nVmHWM:\t    7264 kB\nThreads:\t1\n";
        assert_eq!(
            (field(text, "VmHWM"), field(text, "Threads"), field(text, "Vm")),
            (Some(7264), Some(1), None)
        );
    }

    #[test]
    fn a_process_that_works_has_cpu_time() {
        let own = Process::of_pid(std::process::id()).unwrap();
        // The scheduler accounts for a thread that has just started a tick later.
        let accounted = || Ok(Seen::when(cpu(own)? > Duration::ZERO, || "no time".into()));
        poll_until("this process has taken time", Duration::from_secs(10), accounted).unwrap();
    }
}
