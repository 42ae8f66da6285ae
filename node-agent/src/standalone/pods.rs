//! Other network namespaces on this host: those of pods, of other containers, of services.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crds::node::{self, PortCount, Side, States};
use jiff::Timestamp;
use serde::Serialize;

use super::print::{Printed, aligned, counts};
use crate::procfs::Procfs;
use crate::report::census;
use crate::sample::inside::{self, Inside};
use crate::sample::names::PodName;
use crate::sample::namespaces::{Way, namespace_of};
use crate::sample::pods::{Pods, Seen};
use crate::sample::{self, Census, Dated};

/// A person does not wait longer for the states of thousands of namespaces.
const STATES_TIME_MAX: Duration = Duration::from_secs(5);
/// So many pods are named to a person who asked for another one.
const NAMED_MAX: usize = 20;

/// Where other namespaces are looked for.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// A procfs that shows the processes in them.
    pub processes: Procfs,
    /// The kubelet's `/var/log/containers`.
    pub logs: PathBuf,
}

/// A namespace that a person asks for.
#[derive(Clone, Debug)]
pub enum Whose {
    /// A pod's.
    Pod(PodName),
    /// A process's.
    Process(u32),
}

/// What is known of them all.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodsSeen {
    #[serde(flatten)]
    all: node::Pods,
    #[serde(rename = "most", skip_serializing_if = "Vec::is_empty")]
    rows: Vec<Row>,
}

/// One namespace, by its pod or by a process in it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    counts: node::PodCounts,
    #[serde(flatten)]
    process: Process,
}

/// A process in a namespace.
#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
}

/// One namespace, on demand.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InsideSeen {
    #[serde(flatten)]
    process: Process,
    sockets: States,
    ports: Vec<PortCount>,
    pairs: Vec<Pair>,
}

/// Connections from one address to one destination. How many local ports the namespace has cannot be read from outside.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair {
    source: String,
    destination: String,
    destination_port: u16,
    used: u32,
}

impl Elsewhere {
    /// Counts in every namespace.
    pub(super) fn count(&self, now: Timestamp) -> PodsSeen {
        let mut pods = self.pods();
        pods.count(now);
        pods.count_events(Duration::ZERO);
        let start = Instant::now();
        while start.elapsed() < STATES_TIME_MAX && pods.read_next_states(now) {}
        let census = Census { pods: Some(pods.census()), ..Census::default() };
        let mut all = census::pods(&census).unwrap_or_default();
        let counts = std::mem::take(&mut all.most).into_iter().zip(pods.most());
        let rows = counts.map(|(counts, Seen { pid, .. })| Row { counts, process: self.process(pid) });
        PodsSeen { rows: rows.collect(), all }
    }

    /// Reads the namespace that a person asks for.
    ///
    /// # Errors
    /// In words, where it cannot be seen or read.
    pub(super) fn read(&self, whose: &Whose, now: Timestamp) -> Result<InsideSeen, String> {
        match whose {
            Whose::Process(pid) => {
                let root = self.root().display();
                let namespace = namespace_of(self.root(), *pid)
                    .map_err(|error| format!("process {pid} cannot be looked at in {root}: {error}"))?;
                self.inside(&Way::through(self.root(), *pid, namespace, true), now)
            }
            Whose::Pod(name) => {
                let pods = self.pods();
                let way = pods.way_into(name).ok_or_else(|| self.not_found(name, &pods))?;
                self.inside(way, now)
            }
        }
    }

    /// Looks twice, as a process is believed to be where it was seen twice.
    fn pods(&self) -> Pods {
        let mut pods = Pods::new(&self.processes, self.logs.clone());
        pods.look();
        pods.look();
        pods
    }

    fn root(&self) -> &Path {
        self.processes.root()
    }

    fn process(&self, pid: u32) -> Process {
        Process { pid, program: self.processes.program(pid).ok() }
    }

    fn inside(&self, way: &Way, now: Timestamp) -> Result<InsideSeen, String> {
        let Inside { counts, behind, pairs } =
            inside::read(way).map_err(|error| format!("sockets of process {}: {error}", way.pid))?;
        Ok(InsideSeen {
            process: self.process(way.pid),
            sockets: census::states(Dated { value: counts, at: now }),
            ports: behind.into_iter().map(census::port_count).collect(),
            pairs: pairs.iter().map(pair).collect(),
        })
    }

    fn not_found(&self, name: &PodName, pods: &Pods) -> String {
        if let Some(why) = pods.blind() {
            return why.to_owned();
        }
        let root = self.root().display();
        let names: Vec<String> = pods.names().into_iter().take(NAMED_MAX).map(ToString::to_string).collect();
        if names.is_empty() {
            let logs = self.logs.display();
            return format!(
                "{name}: no namespace in {root} can be told to be a pod's by the logs in {logs} (see --processes and \
                 --container-logs)"
            );
        }
        format!(
            "{name}: no process of it is in {root}, or it is on the host's network and counted there; there are {}",
            names.join(", ")
        )
    }
}

fn pair(pair: &sample::Pair) -> Pair {
    Pair {
        source: pair.source.to_string(),
        destination: pair.destination.0.to_string(),
        destination_port: pair.destination.1,
        used: pair.used,
    }
}

impl Process {
    fn shown(&self) -> String {
        let Self { pid, program } = self;
        program.as_ref().map_or_else(|| format!("pid {pid}"), |program| format!("pid {pid} ({program})"))
    }
}

impl Row {
    fn name(&self) -> String {
        match (&self.counts.namespace, &self.counts.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => self.process.shown(),
        }
    }

    fn cells(&self) -> [String; 9] {
        let state = |count: fn(&States) -> u64| {
            self.counts.states.as_ref().map_or("-".into(), |states| count(states).to_string())
        };
        [
            self.name(),
            self.counts.time_wait_and_fin_wait2.to_string(),
            state(|states| states.time_wait),
            state(|states| states.fin_wait1),
            state(|states| states.fin_wait2),
            state(|states| states.closing),
            state(|states| states.close_wait),
            state(|states| states.last_ack),
            state(|states| states.orphans),
        ]
    }
}

impl PodsSeen {
    /// Nothing where there are no others.
    pub(super) fn table(&self) -> String {
        let node::Pods { unknown, namespaces, unread, time_wait_and_fin_wait2, .. } = &self.all;
        if let Some(why) = unknown {
            return format!("\nother network namespaces: {why}\n");
        }
        let Some(namespaces) = namespaces.filter(|namespaces| *namespaces > 0) else { return String::new() };
        let sum = time_wait_and_fin_wait2.unwrap_or_default();
        let mut text = format!(
            "\n{namespaces} other network namespaces, with {sum} in TIME_WAIT or in FIN_WAIT2 after close()"
        );
        if let Some(unread) = unread.filter(|unread| *unread > 0) {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {unread} of them could not be read and are not in the sum");
        }
        text.push('\n');
        if !self.rows.is_empty() {
            let head = [
                "NAMESPACE",
                "TW+FW2",
                "TIME-WAIT",
                "FIN-WAIT1",
                "FIN-WAIT2",
                "CLOSING",
                "CLOSE-WAIT",
                "LAST-ACK",
                "ORPHANS",
            ];
            let rows = self.rows.iter().map(Row::cells);
            text += &aligned(&[head.map(str::to_owned)].into_iter().chain(rows).collect::<Vec<_>>());
        }
        text
    }
}

impl Printed for InsideSeen {
    fn table(&self) -> String {
        let mut text = format!("network namespace of {}\n\n{}", self.process.shown(), counts(&self.sockets));
        if !self.ports.is_empty() {
            let head = ["STATE", "SIDE", "PORT", "SOCKETS"].map(str::to_owned);
            let rows = self.ports.iter().map(|it| {
                let side = match it.side {
                    Side::Local => "local",
                    Side::Remote => "remote",
                };
                [it.state.clone(), side.into(), it.port.to_string(), it.sockets.to_string()]
            });
            text.push('\n');
            text += &aligned(&[head].into_iter().chain(rows).collect::<Vec<_>>());
        }
        if !self.pairs.is_empty() {
            let head = ["SOURCE", "DESTINATION", "PORT", "LOCAL-PORTS"].map(str::to_owned);
            let rows = self.pairs.iter().map(|it| {
                [
                    it.source.clone(),
                    it.destination.clone(),
                    it.destination_port.to_string(),
                    it.used.to_string(),
                ]
            });
            text.push('\n');
            text += &aligned(&[head].into_iter().chain(rows).collect::<Vec<_>>());
        }
        text
    }
}
