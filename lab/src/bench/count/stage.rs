//! Measures one subject once, in the network namespace of this process.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jiff::Timestamp;
use node_agent::{
    procfs::Procfs,
    sample::{own::Own, pods::Pods},
};

use super::{
    scene::{Programs, Scene},
    subject::Subject,
};
use crate::{
    bench::{
        cost::Cost,
        node_exporter::{NodeExporter, metric},
    },
    error::{Error, Result},
    process::{Process, run},
};

/// Where node_exporter listens in the scene's namespace.
const EXPORTER_PORT: u16 = 9100;
const TCPSTAT: &str = "tcpstat";
const SOCKSTAT: &str = "sockstat";

/// What a scene is measured with.
pub(super) struct Stage<'a> {
    programs: &'a Programs,
    own: Own,
    pods: Pods,
    /// Processes, one in each other namespace.
    others: Vec<u32>,
    /// Only where its collectors are measured.
    exporter: Option<NodeExporter>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(scene: &Scene, programs: &'a Programs, others: Vec<u32>) -> Result<Self> {
        let procfs = Procfs::new("/proc", None);
        // No container has a log here.
        let mut pods = Pods::new(&procfs, PathBuf::from("/nonexistent"));
        // New processes are looked at twice.
        pods.look();
        pods.look();
        let wants_exporter = Subject::of(scene).contains(&Subject::ExporterTcpstat);
        let exporter = wants_exporter.then(|| start_exporter(programs)).transpose()?;
        Ok(Self { programs, own: Own::new(&procfs), pods, others, exporter })
    }

    pub(super) fn measure(&mut self, subject: Subject) -> Result<Cost> {
        let peers = &self.programs.peers;
        match subject {
            Subject::Sample => self.sample(),
            Subject::States => self.states(),
            Subject::Pods => self.count_pods(),
            Subject::Look => Cost::of_work(subject.repeats(), || {
                self.pods.look();
                Ok(())
            }),
            Subject::Observe => whole(command(&self.programs.agent, &["observe", "-o", "json"])),
            Subject::SsSummary => whole(self.ss(&["-s"])),
            Subject::SsDump => {
                let ss = self.ss(&["-Htan", "state", "time-wait"]);
                Cost::of_programs(ss, Some(command(Path::new("wc"), &["-l"])))
            }
            Subject::Netstat => whole(command(&peers.netstat, &["-tan"])),
            Subject::Cat => whole(command(Path::new("cat"), &["/proc/net/tcp"])),
            Subject::ExporterSockstat => Ok(self.scrape(SOCKSTAT, "node_sockstat_TCP_tw")?.0),
            Subject::ExporterTcpstat => Ok(self.scrape(TCPSTAT, "node_tcp_connection_states")?.0),
            Subject::CollectorTcpstat => self.collector(),
            Subject::RawStates
            | Subject::RawTimeWait
            | Subject::RawSummary
            | Subject::RawTables
            | Subject::RawTable
            | Subject::RawInEach
            | Subject::RawSockstatInEach => self.read(subject),
        }
    }

    fn sample(&mut self) -> Result<Cost> {
        Cost::of_work(Subject::Sample.repeats(), || {
            self.own.sockstat().map(drop).map_err(|error| unclear("the agent's sample", &error))
        })
    }

    fn states(&mut self) -> Result<Cost> {
        Cost::of_work(Subject::States.repeats(), || {
            self.own.states().map(drop).map_err(|error| unclear("the agent's state split", &error))
        })
    }

    fn count_pods(&mut self) -> Result<Cost> {
        let at = Timestamp::now();
        let cost = Cost::of_work(Subject::Pods.repeats(), || {
            self.pods.count(at);
            Ok(())
        })?;
        let census = self.pods.census().map_err(|why| unclear("the agent's count of pods", &why))?;
        let read = (census.namespaces - census.unread) as usize;
        if read == self.others.len() {
            return Ok(cost);
        }
        let why = format!("{read} namespaces were read, not {}", self.others.len());
        Err(unclear("the agent's count of pods", &why))
    }

    fn ss(&self, arguments: &[&str]) -> Command {
        let mut ss = command(&self.programs.peers.ss, arguments);
        if let Some(libraries) = &self.programs.peers.libraries {
            ss.env("LD_LIBRARY_PATH", libraries);
        }
        ss
    }

    /// Has the C program read.
    fn read(&self, subject: Subject) -> Result<Cost> {
        let (what, arguments) =
            subject.reading().ok_or_else(|| unclear(subject.name(), &"it reads nothing"))?;
        let mut reading = Command::new(&self.programs.reading);
        reading.arg(subject.repeats().to_string()).arg(what).args(arguments);
        match subject {
            Subject::RawInEach => _ = reading.args(self.others.iter().map(u32::to_string)),
            Subject::RawSockstatInEach => {
                _ = reading.args(self.others.iter().map(|pid| format!("/proc/{pid}/net/sockstat")));
            }
            _ => {}
        }
        let printed = run(&mut reading)?;
        let cost = printed_cost(&printed).ok_or_else(|| unclear("what the C program printed", &printed))?;
        Ok(cost)
    }

    /// A scrape of one collector, and the metrics. Fails unless a metric of it is there.
    fn scrape(&self, collector: &str, wanted: &str) -> Result<(Cost, String)> {
        let missing = || unclear("node_exporter", &"it was not started");
        let exporter = self.exporter.as_ref().ok_or_else(missing)?;
        let process = Process::of_pid(exporter.pid()).ok_or_else(missing)?;
        let mut metrics = String::new();
        let cost = Cost::of_process(process, || {
            metrics = exporter.scrape(&[collector])?;
            Ok(())
        })?;
        if metrics.lines().any(|line| line.starts_with(wanted)) {
            return Ok((cost, metrics));
        }
        Err(unclear("node_exporter's answer", &format!("it has no {wanted}")))
    }

    /// What the collector says that it took itself.
    fn collector(&self) -> Result<Cost> {
        let (_, metrics) = self.scrape(TCPSTAT, "node_tcp_connection_states")?;
        let name = format!("node_scrape_collector_duration_seconds{{collector=\"{TCPSTAT}\"}}");
        let seconds = metric(&metrics, &name);
        let wall = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let wall = wall.ok_or_else(|| unclear("node_exporter's answer", &format!("it has no {name}")))?;
        Ok(Cost { cpu: None, wall })
    }
}

fn start_exporter(programs: &Programs) -> Result<NodeExporter> {
    let mut command = Command::new(&programs.peers.node_exporter);
    command.args(["--collector.disable-defaults", "--web.disable-exporter-metrics"]);
    command.args([TCPSTAT, SOCKSTAT].map(|name| format!("--collector.{name}")));
    NodeExporter::start(command, EXPORTER_PORT)
}

fn whole(command: Command) -> Result<Cost> {
    Cost::of_programs(command, None)
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Nanoseconds of CPU time, of wall time, and a count.
fn printed_cost(text: &str) -> Option<Cost> {
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (cpu, wall) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Cost { cpu: Some(Duration::from_nanos(cpu)), wall: Duration::from_nanos(wall) })
}

fn unclear(what: &str, why: &impl ToString) -> Error {
    Error::Unclear { what: what.into(), why: why.to_string() }
}
