//! Sample: how connections close on this node, in its own network namespace and in its pods'.
//!
//! What is not known is absent, and everything that is known has its age.

pub mod inside;
pub mod names;
pub mod namespaces;
pub mod pods;
pub mod text;

use std::net::IpAddr;

use jiff::Timestamp;
use tcp_close::counters::Rates;
use tcp_close::sockets::{SocketCounts, Sockstat, State};

pub use names::PodName;

/// Something that was found out, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated<T> {
    /// What.
    pub value: T,
    /// When.
    pub at: Timestamp,
}

/// Everything that is known of closing sockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// The node's own namespace, by what the kernel counts itself.
    pub sockstat: Option<Dated<Sockstat>>,
    /// The node's own namespace, state by state.
    pub states: Option<Dated<SocketCounts>>,
    /// What happens per minute in the node's own namespace.
    pub rates: Option<Rates>,
    /// The connection tracker's table in the node's own namespace; absent where it has none.
    pub conntrack: Option<Conntrack>,
    /// Ports in the node's own namespace.
    pub ports: Option<Dated<PortUse>>,
    /// The pods' namespaces; or why nothing is known of them, where they are to be counted and cannot be.
    pub pods: Option<Result<PodCensus, String>>,
    /// Orphans of the machine that are in no namespace that was looked at: their pods have ended, or belong to another
    /// node on the same machine. Unknown until every namespace that may hold some has been read.
    pub unattributed_orphans: Option<u64>,
}

/// `nf_conntrack_count` and `nf_conntrack_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Connections that are tracked, those in its own TIME_WAIT (120 s) among them.
    pub entries: u64,
    /// Above it packets of new connections are dropped.
    pub max: u64,
}

/// Which ports closing sockets belong to, and how near connections come to running out of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortUse {
    /// The ports behind the most closing sockets, the largest first.
    pub behind: Vec<PortCount>,
    /// The (source, destination) pairs with the most ports taken, the largest first.
    pub pairs: Vec<Pair>,
    /// How many ports a pair has: `ip_local_port_range`, both ends included.
    pub available: u32,
}

/// Sockets of one state behind one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortCount {
    /// Which state.
    pub state: State,
    /// Whether the port is this end's (a server's) or the other end's (a client's).
    pub local: bool,
    /// The port.
    pub port: u16,
    /// At least so many.
    pub sockets: u64,
}

/// Connections from one address to one destination: each needs a local port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// This end.
    pub source: IpAddr,
    /// The other end.
    pub destination: (IpAddr, u16),
    /// Local ports taken, in any state. At least so many.
    pub used: u32,
}

/// The pods' network namespaces together.
#[derive(Clone, Debug, PartialEq)]
pub struct PodCensus {
    /// When they were counted last.
    pub at: Timestamp,
    /// Network namespaces on this node beside its own.
    pub namespaces: u32,
    /// Of them: could not be read the last time.
    pub unread: u32,
    /// The kernel's fast figure, TIME_WAIT and FIN_WAIT2 mini-sockets together, summed over those that were read.
    pub minis: u64,
    /// The ten with the most TIME_WAIT, the ten with the most CLOSE_WAIT, the ten with the most overflows: none twice.
    pub most: Vec<PodCounts>,
}

/// One pod's namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct PodCounts {
    /// Which pod; absent where no process in it belongs to a container with a log.
    pub pod: Option<PodName>,
    /// The kernel's fast figure, TIME_WAIT and FIN_WAIT2 mini-sockets together.
    pub minis: u64,
    /// `TCPTimeWaitOverflow` per minute; unknown at first.
    pub overflows_per_minute: Option<u64>,
    /// State by state; unknown until its turn has come.
    pub states: Option<Dated<SocketCounts>>,
}
