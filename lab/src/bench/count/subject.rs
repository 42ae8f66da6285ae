//! What is measured: the product's readings, and its peers'.

use serde::{Deserialize, Serialize};
use tcp_close::sockets::State;

use super::scene::Scene;

/// One thing that is measured, alone or as a whole program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// The agent's fast sample of its own namespace.
    Sample,
    /// The agent's dump of its own namespace.
    States,
    /// The agent counts every other namespace.
    Pods,
    /// The agent looks for namespaces that are new.
    Look,
    /// The agent's program, once.
    Observe,
    /// `ss -s`.
    SsSummary,
    /// `ss -Htan state time-wait | wc -l`.
    SsDump,
    /// `netstat -tan`.
    Netstat,
    /// `cat /proc/net/tcp`.
    Cat,
    /// A scrape of node_exporter's collector sockstat.
    ExporterSockstat,
    /// A scrape of its collector tcpstat.
    ExporterTcpstat,
    /// That collector's own time, as it says itself.
    CollectorTcpstat,
    /// What the agent dumps, in C.
    RawStates,
    /// What `ss -Htan state time-wait` dumps, in C.
    RawTimeWait,
    /// What `ss -s` reads, in C.
    RawSummary,
    /// What `netstat -tan` reads, in C.
    RawTables,
    /// `/proc/net/tcp` alone, in C.
    RawTable,
    /// What the agent dumps, in C, in every other namespace.
    RawInEach,
    /// `/proc/PID/net/sockstat` of a process in every other namespace, in C, by path.
    RawSockstatInEach,
}

impl Subject {
    /// Every one that says something about the namespace it is in, then those that look at others.
    const OWN: [Self; 15] = [
        Self::Sample,
        Self::States,
        Self::Observe,
        Self::SsSummary,
        Self::SsDump,
        Self::Netstat,
        Self::Cat,
        Self::ExporterSockstat,
        Self::ExporterTcpstat,
        Self::CollectorTcpstat,
        Self::RawStates,
        Self::RawTimeWait,
        Self::RawSummary,
        Self::RawTables,
        Self::RawTable,
    ];
    const OTHERS: [Self; 5] =
        [Self::Sample, Self::Pods, Self::Look, Self::RawInEach, Self::RawSockstatInEach];

    /// What is measured in a scene.
    pub(crate) fn of(scene: &Scene) -> &'static [Self] {
        if scene.namespaces == 0 { &Self::OWN } else { &Self::OTHERS }
    }

    /// How a person calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sample => "agent: sample of the own namespace",
            Self::States => "agent: state split of the own namespace",
            Self::Pods => "agent: all other namespaces counted",
            Self::Look => "agent: looks for new namespaces",
            Self::Observe => "tcpclose-agent observe -o json",
            Self::SsSummary => "ss -s",
            Self::SsDump => "ss -Htan state time-wait | wc -l",
            Self::Netstat => "netstat -tan",
            Self::Cat => "cat /proc/net/tcp",
            Self::ExporterSockstat => "node_exporter: scrape of sockstat",
            Self::ExporterTcpstat => "node_exporter: scrape of tcpstat",
            Self::CollectorTcpstat => "  its collector tcpstat alone",
            Self::RawStates => "C: dump with the agent's filter",
            Self::RawTimeWait => "C: what ss ... time-wait dumps",
            Self::RawSummary => "C: what ss -s reads",
            Self::RawTables => "C: what netstat -tan reads",
            Self::RawTable => "C: /proc/net/tcp",
            Self::RawInEach => "C: setns and the dump in each",
            Self::RawSockstatInEach => "C: sockstat of each, by path",
        }
    }

    /// How often it is done for one measurement, of which the mean is taken: what takes microseconds must last long enough
    /// for the clock.
    pub(crate) fn repeats(self) -> u32 {
        match self {
            Self::Sample | Self::RawSummary => 1000,
            Self::Pods | Self::Look | Self::RawSockstatInEach => 20,
            Self::States | Self::RawStates => 3,
            _ => 1,
        }
    }

    /// What the C program is to read, and of what.
    pub(crate) fn reading(self) -> Option<(&'static str, Vec<String>)> {
        let mask = |states: u32| vec![format!("{states:#x}")];
        let files = |names: &[&str]| names.iter().map(|name| format!("/proc/net/{name}")).collect();
        Some(match self {
            Self::RawStates => ("dump", mask(agent_states())),
            Self::RawTimeWait => ("families", mask(State::TimeWait.mask())),
            Self::RawSummary => ("files", files(&["sockstat", "sockstat6", "snmp"])),
            Self::RawTables => ("files", files(&["tcp", "tcp6"])),
            Self::RawTable => ("files", files(&["tcp"])),
            Self::RawInEach => ("each", mask(agent_states())),
            Self::RawSockstatInEach => ("files", Vec::new()),
            _ => return None,
        })
    }
}

/// The states that the agent has the kernel dump: all closing ones but TIME_WAIT.
fn agent_states() -> u32 {
    State::ALL.iter().filter(|state| **state != State::TimeWait).map(|state| state.mask()).sum()
}
