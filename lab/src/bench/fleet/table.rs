//! The figures of a fleet, one column for each size.

use std::{fmt, time::Duration};

use super::gauge::Usage;
use crate::bench::{
    aim::{Aim, at_most},
    cost::mebibytes,
};

/// The most writes in a second for heartbeats, counts and orders.
const WRITES_AIM: f64 = 50.0;
/// The most memory of the operator, in MiB.
const OPERATOR_AIM: f64 = 128.0;
/// The largest status of a tuning, in bytes.
const STATUS_AIM: f64 = 8192.0;
/// The longest time from an overflow to the tuning's status, in seconds.
const OVERFLOW_AIM: f64 = 5.0;

/// What was measured at one size.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How many nodes.
    pub nodes: usize,
    /// How many API servers, all on one etcd.
    pub servers: usize,
    /// How often a simulated agent looks at its kernel.
    pub turn: Duration,
    /// How often a node reports when nothing happens.
    pub interval: Duration,
    /// From the first Node's creation until every node is in force.
    pub start: Duration,
    /// Nothing happens.
    pub idle: Usage,
    /// The counts of every node move each second.
    pub churn: Usage,
    /// Every node changes at once, until there are as many reports as nodes.
    pub storm: Usage,
    /// From an edit to the last node that holds the value.
    pub edit: Duration,
    /// From an edit to Ready.
    pub ready: Duration,
    /// What the edit cost.
    pub edit_usage: Usage,
    /// From an overflow on one node to the tuning's status.
    pub overflows: Vec<Duration>,
    /// From the start of an operator until it shows every node.
    pub operator_restart: Duration,
    /// CPU time of that.
    pub operator_restart_cpu: Duration,
    /// From the start of the API servers until they are ready.
    pub server_ready: Duration,
    /// From the start of the API servers until an edit is in force everywhere and Ready.
    pub server_restart: Duration,
    /// The naive design.
    pub naive: Usage,
    /// The largest status of the tuning that was seen.
    pub status_bytes: usize,
    /// The most memory that the operator has held, in bytes.
    pub operator_peak: u64,
    /// The most memory that the API servers have held together, in bytes.
    pub servers_peak: u64,
}

impl Figures {
    /// The longest time from an overflow to the tuning's status.
    pub fn worst_overflow(&self) -> Duration {
        self.overflows.iter().copied().max().unwrap_or_default()
    }

    fn aims(&self) -> [Aim; 5] {
        let at = |what: &str| format!("{what}, {} nodes", self.nodes);
        let status = u32::try_from(self.status_bytes).unwrap_or(u32::MAX);
        [
            at_most(at("writes/s when idle"), self.idle.writes_per_second(), WRITES_AIM),
            at_most(at("writes/s under churn"), self.churn.writes_per_second(), WRITES_AIM),
            at_most(at("operator's peak memory, in MiB"), mebibytes(self.operator_peak), OPERATOR_AIM),
            at_most(at("status of the tuning, in bytes"), status.into(), STATUS_AIM),
            at_most(at("overflow to status, in s"), self.worst_overflow().as_secs_f64(), OVERFLOW_AIM),
        ]
    }
}

type Row = (&'static str, fn(&Figures) -> String);

const ROWS: [Row; 31] = [
    ("nodes", |figures| figures.nodes.to_string()),
    ("API servers", |figures| figures.servers.to_string()),
    ("simulated agents' turn, s", |figures| figures.turn.as_secs().to_string()),
    ("report interval, s", |figures| figures.interval.as_secs().to_string()),
    ("first Node to all in force, s", |figures| seconds(figures.start)),
    ("idle: writes/s", |figures| tenths(figures.idle.writes_per_second())),
    ("idle: CPU of API servers, %", |figures| percent(&figures.idle, |usage| usage.servers)),
    ("idle: CPU of etcd, %", |figures| percent(&figures.idle, |usage| usage.etcd)),
    ("idle: CPU of the operator, %", |figures| percent(&figures.idle, |usage| usage.operator)),
    ("idle: CPU of simulated agents, %", |figures| percent(&figures.idle, |usage| usage.agents)),
    ("churn: writes/s", |figures| tenths(figures.churn.writes_per_second())),
    ("churn: CPU of API servers, %", |figures| percent(&figures.churn, |usage| usage.servers)),
    ("churn: CPU of etcd, %", |figures| percent(&figures.churn, |usage| usage.etcd)),
    ("churn: CPU of the operator, %", |figures| percent(&figures.churn, |usage| usage.operator)),
    ("storm: to a report for each node, s", |figures| seconds(figures.storm.wall)),
    ("storm: writes/s", |figures| tenths(figures.storm.writes_per_second())),
    ("storm: CPU of API servers, %", |figures| percent(&figures.storm, |usage| usage.servers)),
    ("storm: CPU of etcd, %", |figures| percent(&figures.storm, |usage| usage.etcd)),
    ("storm: CPU of the operator, %", |figures| percent(&figures.storm, |usage| usage.operator)),
    ("overflow to status, worst, s", |figures| seconds(figures.worst_overflow())),
    ("edit to last node applied, s", |figures| seconds(figures.edit)),
    ("edit to Ready, s", |figures| seconds(figures.ready)),
    ("operator restart to full view, s", |figures| seconds(figures.operator_restart)),
    ("API restart to ready, s", |figures| seconds(figures.server_ready)),
    ("API restart to an edit in force, s", |figures| seconds(figures.server_restart)),
    ("status of the tuning, bytes", |figures| figures.status_bytes.to_string()),
    ("operator, peak MiB", |figures| tenths(mebibytes(figures.operator_peak))),
    ("API servers, peak MiB", |figures| tenths(mebibytes(figures.servers_peak))),
    ("naive: writes/s reached", |figures| tenths(figures.naive.reports_per_second())),
    ("naive: CPU of API servers, %", |figures| percent(&figures.naive, |usage| usage.servers)),
    ("naive: CPU of etcd, %", |figures| percent(&figures.naive, |usage| usage.etcd)),
];

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

fn tenths(number: f64) -> String {
    format!("{number:.1}")
}

fn percent(usage: &Usage, of: fn(&Usage) -> Duration) -> String {
    tenths(usage.percent(of(usage)))
}

/// What was measured, size by size.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// From the smallest to the largest.
    pub sizes: Vec<Figures>,
    pub(super) machine: String,
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a simulated fleet; {}", self.machine)?;
        for (name, figure) in ROWS {
            write!(f, "{name:<36}")?;
            for figures in &self.sizes {
                write!(f, "{:>10}", figure(figures))?;
            }
            writeln!(f)?;
        }
        self.sizes.iter().flat_map(Figures::aims).try_for_each(|aim| writeln!(f, "{aim}"))
    }
}
