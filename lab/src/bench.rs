//! Benches: what can be measured, most of it on a running lab, printed beside what it is aimed at and what the machine was doing.
//!
//! They are compiled with optimisation: a client that is slower than the product would make the floor look high.

mod agent;
mod aim;
pub(crate) mod client;
mod cost;
pub(crate) mod count;
mod crowd;
pub(crate) mod fleet;
mod floor;
mod footprint;
mod gate;
mod latency;
mod node_exporter;
mod time_wait;
mod tuned;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Subcommand;

use crate::{
    checkout::Checkout,
    cluster::Cluster,
    error::{Error, Result},
    files,
    install::install_from_checkout,
    programs,
    report::say,
    up::{NODES, up},
};

pub use agent::{Beside, Extent, Phase, Share, measure as measure_agent};
pub use count::{Count, Life, Scene, measure as measure_count};
pub use crowd::Size as CrowdSize;
pub use fleet::{
    Extent as FleetExtent, Fleet, Growth, Usage as FleetUsage, measure as measure_fleet, measure_growth,
};
pub use footprint::{Footprint, measure as measure_footprint};
pub use latency::{Latency, Pace, Times, measure as measure_latency};

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// From sending a changed tuning to the value in the nodes' kernels, and to Ready.
    Latency {
        /// How many changes.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
        changes: u32,
    },
    /// Memory, CPU time and size of the agent and the operator.
    Footprint {
        /// For how long CPU time is measured.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// The whole agent on a crowded node, beside TuneD and node_exporter, and its sampler through an hour.
    Agent {
        /// For how long CPU time is measured, with pods every 5 s and again with pods each second. In less than two minutes some
        /// readings are not made at all.
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// What a fleet costs: simulated agents and the real operator on a real API server, beside the naive design.
    Fleet {
        /// How many nodes; may be given several times. By default 3, 100, 1,000, 5,000 and 15,000: more than an
        /// hour on two CPUs.
        #[arg(long)]
        nodes: Vec<usize>,
        /// Instead: whether the operator's memory grows with a million reports, and with 50,000 through an API server.
        #[arg(long)]
        growth: bool,
        /// An operator that is built already, in place of this checkout's.
        #[arg(long)]
        operator: Option<PathBuf>,
    },
    /// Counting closing sockets, beside ss, netstat, node_exporter and others; needs no cluster.
    Count {
        /// How often everything is measured.
        #[arg(long, default_value_t = count::ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Whether the gate of a rollout tells good changes from bad ones, on real sockets; needs no cluster.
    Gate {
        /// How often every change is made.
        #[arg(long, default_value_t = gate::RUNS, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
}

/// Measures, and prints one table.
pub fn bench(what: &What) -> Result<()> {
    // A few hundred connections a second need no optimisation.
    let is_slow = cfg!(debug_assertions) && !matches!(what, What::Gate { .. });
    if is_slow {
        return become_release(what);
    }
    match what {
        What::Latency { changes } => {
            let cluster = up(NODES)?;
            // What is measured is this checkout, not what an earlier one has left.
            install_from_checkout(&cluster)?;
            print!("{}", measure_latency(&cluster, *changes)?);
        }
        What::Footprint { seconds } => {
            let cluster = up(NODES)?;
            if !footprint::is_installed(&cluster)? {
                install_from_checkout(&cluster)?;
            }
            print!("{}", measure_footprint(&cluster, Duration::from_secs(*seconds))?);
        }
        What::Agent { seconds } => {
            let cluster = up(NODES)?;
            let images = install_from_checkout(&cluster)?;
            print!("{}", agent::bench(&cluster, &images, Duration::from_secs(*seconds))?);
        }
        What::Fleet { growth: true, operator, .. } => fleet::bench_growth(operator.as_deref())?,
        What::Fleet { nodes, operator, .. } => print!("{}", fleet::bench(nodes, operator.as_deref())?),
        What::Count { rounds } => print!("{}", count::bench(*rounds)?),
        What::Gate { runs } => print!("{}", gate::bench(*runs)?),
    }
    Ok(())
}

/// Becomes the same command of a lab that is compiled with optimisation.
fn become_release(what: &What) -> Result<()> {
    let checkout = Checkout::current()?;
    say("builds the bench with optimisation and starts it");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut command = Command::new(&cargo);
    command.current_dir(checkout.root()).args(["run", "--quiet", "--profile", "bench"]);
    if matches!(what, What::Fleet { growth: true, .. }) {
        // The operator's code runs in this very process: what it leaves in pieces is its allocator's doing, too.
        programs::link_alike(&mut command, &checkout)?;
    }
    command.args(["--package", "lab", "--"]);
    let source = command.args(arguments).exec();
    Err(Error::Start { program: cargo.to_string_lossy().into_owned(), source })
}

/// The machine, and how busy it was: without it a figure says nothing.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    kernel: String,
    cpus: usize,
    load_before: String,
}

impl Machine {
    fn look() -> Result<Self> {
        let kernel = files::read(Path::new("/proc/sys/kernel/osrelease"))?.trim().to_owned();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { kernel, cpus, load_before: load()? })
    }

    /// One line, at the end of the measurement.
    fn told(&self) -> Result<String> {
        let Self { kernel, cpus, load_before } = self;
        Ok(format!("Linux {kernel}, {cpus} CPUs, load average {load_before} before and {} after", load()?))
    }
}

/// The load average of the last minute.
fn load() -> Result<String> {
    let text = files::read(Path::new("/proc/loadavg"))?;
    Ok(text.split_whitespace().next().unwrap_or("?").to_owned())
}

/// Applies a tuning for the time of a measurement; it is deleted however that ends.
fn with_tuning<T>(cluster: &Cluster, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = work();
    cluster.kubectl(&["delete", "tcpclosetuning", name, "--ignore-not-found"])?;
    result
}
