//! How connections close in the node's own network namespace. What is not known is absent, never 0.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tcp_close::counters;

/// Closing sockets of one network namespace by state, IPv4 and IPv6 together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct States {
    /// In TIME_WAIT; FIN_WAIT2 is not among them.
    pub time_wait: u64,
    /// Full sockets without an owner in FIN_WAIT1, CLOSING, LAST_ACK or FIN_WAIT2.
    pub orphans: u64,
    /// Among the orphans: in FIN_WAIT1 with data that the peer's closed window keeps from being sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_window_orphans: Option<u64>,
    /// In FIN_WAIT1: our FIN is not acknowledged.
    pub fin_wait1: u64,
    /// In FIN_WAIT2: the peer has not closed. With an owner, or after close().
    pub fin_wait2: u64,
    /// Of those in FIN_WAIT2: a program still has them, because it called shutdown() and not close(). tcp_fin_timeout does
    /// not end them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fin_wait2_held: Option<u64>,
    /// In CLOSING: both closed at once.
    pub closing: u64,
    /// In CLOSE_WAIT: the peer has closed, a program here has not. No sysctl helps; the program leaks.
    pub close_wait: u64,
    /// Of those in CLOSE_WAIT: no program has accepted them yet. They are a full accept queue, not a leak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unaccepted: Option<u64>,
    /// In LAST_ACK: the peer's acknowledgement of our FIN is missing.
    pub last_ack: u64,
    /// When they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Time>,
}

/// Closing sockets of the node's own network namespace by state, and orphans of its machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sockets {
    /// The node's own namespace.
    #[serde(flatten)]
    pub states: States,
    /// Orphans of the whole machine, all its namespaces together, pods' included. Nodes that are containers on one
    /// machine all show the same number: it must not be added up.
    pub machine_orphans: u64,
    /// Orphans of the machine that are in no namespace that was looked at: their pods have ended, or belong to another node
    /// on the same machine. Absent until every namespace that may hold some has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattributed_orphans: Option<u64>,
}

/// What the kernel counts itself, at no cost, in the node's own network namespace: `/proc/net/sockstat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sockstat {
    /// `tw`: sockets in TIME_WAIT, and in FIN_WAIT2 after close(), which the kernel does not tell apart here.
    /// net.ipv4.tcp_max_tw_buckets limits this number.
    pub time_wait_and_fin_wait2: u64,
    /// When it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Time>,
}

/// Events per minute in one network namespace. A counter that the kernel does not have, and one that has gone back (the node
/// was started anew), is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// How many seconds they were measured over. They are at most a minute older than the report.
    pub seconds: u32,
    /// TCPTimeWaitOverflow: connections that skipped TIME_WAIT because net.ipv4.tcp_max_tw_buckets was reached. The kernel
    /// logs nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflows: Option<u64>,
    /// TCPAbortOnMemory: orphans that were reset because of net.ipv4.tcp_max_orphans or net.ipv4.tcp_mem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborts_on_memory: Option<u64>,
    /// TCPAbortOnTimeout: connections given up without an answer from the peer, orphans among them. No reset is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborts_on_timeout: Option<u64>,
    /// TCPAbortOnClose: connections that were closed with unread data, and so reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborts_on_close: Option<u64>,
    /// TCPAbortOnData: resets because data came after close(), or because the program set SO_LINGER to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborts_on_data: Option<u64>,
    /// TCPAbortOnLinger: connections that were closed with a negative TCP_LINGER2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborts_on_linger: Option<u64>,
    /// TCPAbortFailed: resets that should have been sent and were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborts_failed: Option<u64>,
    /// OutRsts: resets sent, to connections and to segments that belong to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_sent: Option<u64>,
    /// EstabResets: connections that a reset ended, from either side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub established_resets: Option<u64>,
    /// TWRecycled: ports in TIME_WAIT that connect() took over, which net.ipv4.tcp_tw_reuse allows. It has nothing to do with
    /// tcp_tw_recycle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
    /// Segments whose timestamp was too old (PAWS), all counters of them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paws_rejected: Option<u64>,
    /// ActiveOpens: connections that were opened from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connects: Option<u64>,
    /// PassiveOpens: connections that came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<u64>,
    /// AttemptFails: connections that did not come about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_connects: Option<u64>,
    /// RetransSegs: segments sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmissions: Option<u64>,
}

impl From<counters::Rates> for Rates {
    fn from(rates: counters::Rates) -> Self {
        let counters::Rates {
            seconds,
            overflows,
            aborts_on_memory,
            aborts_on_timeout,
            aborts_on_close,
            aborts_on_data,
            aborts_on_linger,
            aborts_failed,
            resets_sent,
            established_resets,
            reused,
            paws_rejected,
            connects,
            accepts,
            failed_connects,
            retransmissions,
        } = rates;
        Self {
            seconds,
            overflows,
            aborts_on_memory,
            aborts_on_timeout,
            aborts_on_close,
            aborts_on_data,
            aborts_on_linger,
            aborts_failed,
            resets_sent,
            established_resets,
            reused,
            paws_rejected,
            connects,
            accepts,
            failed_connects,
            retransmissions,
        }
    }
}

/// The connection tracker's table in the node's own network namespace. It is not the table of sockets: it keeps a closed
/// connection for 120 s, and forwarded ones too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conntrack {
    /// Connections that are tracked: nf_conntrack_count.
    pub entries: u64,
    /// When it is reached, packets of new connections are dropped: nf_conntrack_max.
    pub max: u64,
}

/// The ports behind the closing sockets of the node's own network namespace, and how near connections come to running out of
/// ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// The ports behind the most closing sockets, the largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub most: Vec<PortCount>,
    /// The pairs of a source address and a destination with the most local ports taken, the largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub pairs: Vec<PairUse>,
    /// When they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Time>,
}

/// Sockets of one state behind one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortCount {
    /// The state, under the kernel's name: TIME_WAIT, CLOSE_WAIT.
    #[schemars(length(max = 16))]
    pub state: String,
    /// Local where the port is the node's own, as a server's is; Remote where it is the peer's.
    pub side: Side,
    /// The port.
    pub port: u16,
    /// At least so many.
    pub sockets: u64,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Side {
    /// The node's.
    Local,
    /// The peer's.
    Remote,
}

/// The local ports that connections from one address to one destination take. When none is left, connect() fails with
/// EADDRNOTAVAIL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairUse {
    /// The address that the connections come from. Absent unless the agent is told to report peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub source: Option<String>,
    /// The address that they go to. Absent unless the agent is told to report peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub destination: Option<String>,
    /// The port that they go to.
    pub destination_port: u16,
    /// Local ports that they take, in any state. At least so many.
    pub used: u32,
    /// Local ports that there are: net.ipv4.ip_local_port_range.
    pub available: u32,
}
