//! The whole agent, connected to the API server, on a crowded node; beside it on the same machine, in the same minute, TuneD
//! and node_exporter. Then its sampler, living through an hour.

use std::{
    fmt,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{
    Machine,
    aim::at_most,
    cost::{Memory, cpu_time, mebibytes},
    count::{self, Life, Scene},
    crowd::{Crowd, Size},
    footprint::AGENT_MEMORY_AIM,
    node_exporter::NodeExporter,
    time_wait::{self, LIFETIME},
    tuned::Tuned,
};
use crate::{
    checkout::Cache,
    cluster::Cluster,
    debian,
    error::{Error, Result},
    images::Images,
    install::{NAMESPACE, install},
    node::Node,
    process::Process,
    programs::AGENT,
    report::during,
};

/// What the node is crowded with.
const CROWD: Size = Size { time_waits: 60_000, namespaces: 110 };
/// How many seconds the sampler lives through.
const HOUR: u32 = 3600;
/// Its start is not what an agent takes: by then it has connected, read everything once, looked at each process twice, which
/// it does half a minute after the first time where there are many, and reported.
const SETTLING: Duration = Duration::from_secs(45);
/// Where node_exporter listens in the node's namespace.
const EXPORTER_PORT: u16 = 19_100;
/// How often Prometheus scrapes by default.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
/// Memory that is the agent's alone, in MiB.
const PRIVATE_AIM: f64 = 2.0;
/// A sampler that does not leak may yet move a page or two, in MiB.
const GROWTH_AIM: f64 = 0.1;
/// CPU time, in percent of a core.
const CPU_AIM: f64 = 0.05;
const CPU_OFTEN_AIM: f64 = 0.1;

/// What one process took in one phase.
#[derive(Clone, Debug)]
pub struct Share {
    /// What it is.
    pub what: String,
    /// What it holds in memory at the end.
    pub memory: Memory,
    /// CPU time over the phase.
    pub cpu: Duration,
    /// How long that was.
    pub during: Duration,
    /// In percent of a core, what it aims at.
    cpu_aim: Option<f64>,
}

impl Share {
    /// In percent of a core.
    fn percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / self.during.as_secs_f64()
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Process by process.
    pub shares: Vec<Share>,
    /// Why TuneD could not be measured.
    pub without_tuned: Option<String>,
    /// The sampler's hour.
    pub life: Life,
    /// Sockets in TIME_WAIT in the node's namespace in the end.
    pub time_waits: u64,
    /// Other namespaces that were made there.
    namespaces: u32,
    machine: String,
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time_waits, namespaces, .. } = self;
        writeln!(
            f,
            "on a node with {time_waits} TIME_WAIT and {namespaces} more namespaces; {}",
            self.machine
        )?;
        writeln!(
            f,
            "{:<44}{:>10}{:>10}{:>12}{:>10}{:>9}{:>13}",
            "MiB", "VmHWM", "RssAnon", "Priv_Dirty", "Private", "threads", "% of a core"
        )?;
        for share in &self.shares {
            let Memory { peak, anonymous, dirty, private, threads } = share.memory;
            write!(f, "{:<44}{:>10.1}", share.what, mebibytes(peak))?;
            write!(f, "{:>10.2}{:>12.2}", mebibytes(anonymous), mebibytes(dirty))?;
            writeln!(f, "{:>10.2}{threads:>9}{:>13.4}", mebibytes(private), share.percent())?;
        }
        if let Some(why) = &self.without_tuned {
            writeln!(f, "TuneD was not measured: {why}")?;
        }
        let Life { seconds, first, last, namespaces, .. } = self.life;
        writeln!(
            f,
            "the sampler alone, {seconds} s of its clock, {namespaces} other namespaces: RssAnon {:.2} MiB after a minute, {:.2} MiB in the end; {:.4} % of a core",
            mebibytes(first.anonymous),
            mebibytes(last.anonymous),
            self.life.percent()
        )?;
        self.write_aims(f)
    }
}

impl Beside {
    fn write_aims(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = || self.shares.iter().filter(|share| share.cpu_aim.is_some());
        for share in ours() {
            let aim = share.cpu_aim.unwrap_or_default();
            writeln!(f, "{}", at_most(format!("{}, in % of a core", share.what), share.percent(), aim))?;
        }
        let most =
            |of: fn(&Memory) -> u64| mebibytes(ours().map(|it| of(&it.memory)).max().unwrap_or_default());
        let peak = most(|memory| memory.peak);
        writeln!(f, "{}", at_most("VmHWM of the agent, in MiB", peak, AGENT_MEMORY_AIM))?;
        let dirty = most(|memory| memory.dirty);
        writeln!(
            f,
            "{}",
            at_most("private memory of the agent (Private_Dirty), in MiB", dirty, PRIVATE_AIM)
        )?;
        let Life { first, last, seconds, .. } = self.life;
        let growth = mebibytes(last.anonymous.saturating_sub(first.anonymous));
        writeln!(
            f,
            "{}",
            at_most(format!("growth of RssAnon over {seconds} s of samples, in MiB"), growth, GROWTH_AIM)
        )
    }
}

/// What runs beside the agent.
struct Peers {
    exporter: NodeExporter,
    tuned: Result<Tuned>,
}

impl Peers {
    fn start(cluster: &Cluster, node: &Node) -> Result<Self> {
        let programs = debian::peers(&Cache::of_user()?)?;
        let start = || {
            let mut command = Command::new(&programs.node_exporter);
            // As Prometheus users have it who want sockets counted.
            command.arg("--collector.tcpstat");
            NodeExporter::start(command, EXPORTER_PORT)
        };
        let exporter = node.net()?.run(start)??;
        Ok(Self { exporter, tuned: Tuned::start(&cluster.dir().join("tuned.log")) })
    }

    fn processes(&self) -> Vec<(String, Process, Option<f64>)> {
        let exporter = Process::of_pid(self.exporter.pid());
        let scrapes = format!("node_exporter with tcpstat, a scrape in {} s", SCRAPE_INTERVAL.as_secs());
        let tuned = self.tuned.as_ref().ok().map(|tuned| tuned.process);
        let named = |name: &str, process: Option<Process>| process.map(|it| (name.to_owned(), it, None));
        [named(&scrapes, exporter), named("TuneD, five sysctls, --no-dbus", tuned)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Measures the agent as it is installed, then with pods counted, then with pods counted each second.
pub(super) fn bench(cluster: &Cluster, images: &Images, phase: Duration) -> Result<Beside> {
    let result = carry_out(cluster, images, phase);
    // Also where a phase failed, the release is left as it was found.
    install(cluster, images, &[])?;
    result
}

fn carry_out(cluster: &Cluster, images: &Images, phase: Duration) -> Result<Beside> {
    let install_with = |pods_seconds: u32| {
        let values = format!("agent.countPods=true,agent.podsSeconds={pods_seconds}");
        install(cluster, images, &["--set", &values])
    };
    let phases = [
        Phase { name: "agent, pods every 5 s", set_up: &|| install_with(5), cpu_aim: CPU_AIM },
        Phase { name: "agent, pods each second", set_up: &|| install_with(1), cpu_aim: CPU_OFTEN_AIM },
    ];
    let extent = Extent { crowd: CROWD, gathering: LIFETIME, settling: SETTLING, phase, life: HOUR };
    measure(cluster, &extent, &phases)
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// What the node is crowded with.
    pub crowd: Size,
    /// How long sockets are let gather: all are there after a minute.
    pub gathering: Duration,
    /// How long the agent is let start in each phase.
    pub settling: Duration,
    /// How long it is measured then.
    pub phase: Duration,
    /// How many seconds the sampler lives through afterwards.
    pub life: u32,
}

/// How the agent runs while it is measured.
pub struct Phase<'a> {
    /// What the table calls it.
    pub name: &'a str,
    /// Makes it run so.
    pub set_up: &'a dyn Fn() -> Result<()>,
    /// The share of a core that it aims at, in percent.
    pub cpu_aim: f64,
}

/// Measures the agent on the first node phase by phase, then the sampler alone.
pub fn measure(cluster: &Cluster, extent: &Extent, phases: &[Phase<'_>]) -> Result<Beside> {
    let node = cluster.nodes().first().ok_or(Error::NotUp)?;
    let machine = Machine::look()?;
    let mut shares = Vec::new();
    let peers = Peers::start(cluster, node)?;
    let crowd = Crowd::bring(node, extent.crowd)?;
    during("lets sockets gather", || {
        thread::sleep(extent.gathering);
        Ok(())
    })?;
    for phase in phases {
        (phase.set_up)()?;
        thread::sleep(extent.settling);
        shares.extend(share(node, &peers, phase, extent.phase)?);
        crowd.check()?;
    }
    let time_waits = node.net()?.run(time_wait::sockstat)??.tw;
    drop(crowd);
    let without_tuned = peers.tuned.as_ref().err().map(Error::chain);
    drop(peers);
    let Size { time_waits: wanted, namespaces } = extent.crowd;
    let life = count::live(Scene { time_waits: wanted, namespaces, buckets: None }, extent.life)?;
    Ok(Beside { shares, without_tuned, life, time_waits, namespaces, machine: machine.told()? })
}

/// What the agent and its peers take in one phase.
fn share(node: &Node, peers: &Peers, phase: &Phase<'_>, during: Duration) -> Result<Vec<Share>> {
    let agent = node.processes(AGENT)?.first().copied().ok_or_else(|| Error::Missing {
        what: format!("no agent runs on {}", node.name),
        remedy: format!("look at its pod: cargo lab kubectl get pods -n {NAMESPACE} -o wide"),
    })?;
    let mut watched = vec![(phase.name.to_owned(), agent, Some(phase.cpu_aim))];
    watched.extend(peers.processes());
    let before = watched.iter().map(|(_, process, _)| cpu_time(*process)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    scrape_for(node, &peers.exporter, during)?;
    let passed = start.elapsed();
    let share = |((what, process, cpu_aim), before)| {
        let cpu = cpu_time(process)?.saturating_sub(before);
        Ok(Share { what, memory: Memory::of(process)?, cpu, during: passed, cpu_aim })
    };
    watched.into_iter().zip(before).map(share).collect()
}

/// Scrapes as Prometheus would, at least once.
fn scrape_for(node: &Node, exporter: &NodeExporter, during: Duration) -> Result<()> {
    let end = Instant::now() + during;
    loop {
        node.net()?.run(|| exporter.scrape(&[]).map(drop))??;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SCRAPE_INTERVAL));
    }
}
