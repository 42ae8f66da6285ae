//! What the operator says of a tuning.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RolloutStatus;
use crate::condition::Condition;

/// What the operator has found. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
// One writer owns the whole of it: an API server that kept the owner of each field would spend a tenth to a fifth more time on
// every write of a tuning, and a third more bytes on the object.
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[serde(rename_all = "camelCase")]
pub struct TcpCloseTuningStatus {
    /// The generation of the spec that this status is about; -1 until the operator has looked at it once.
    #[serde(default)]
    pub observed_generation: i64,
    /// Ready, Reconciling, Stalled, Conflicted, Drifted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The nodes that match, by how far they are. Every node that matches is in exactly one of updated, pending, refused,
    /// failed and stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// Closing sockets in the nodes' own network namespaces, summed over the nodes that match, to two significant digits.
    /// Pods have namespaces of their own and are not counted, but in `coverage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<SocketSums>,
    /// The nodes that need a look most, at most 10, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub worst: Vec<WorstNode>,
    /// The rules that forbid something that this tuning orders, with the evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["rule"]))]
    pub refusals: Vec<RefusalSummary>,
    /// How far the rollout of the spec is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

/// The nodes that match, by how far they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Updated of matched, as in `3/5`.
    #[schemars(length(max = 32))]
    pub summary: String,
    /// All nodes that the selector matches.
    pub matched: u32,
    /// Everything that the tuning orders there is in force (in mode Observe: has been reported on).
    pub updated: u32,
    /// Not ordered yet, or ordered and not yet acknowledged.
    pub pending: u32,
    /// A rule forbids something there.
    pub refused: u32,
    /// A write failed there, another program's change stands there, it was lost or taken back in a rollout, or it is Ready and
    /// its agent has been silent for 5 minutes and for 5 reports.
    pub failed: u32,
    /// The node is not Ready, its agent has been silent for 3 report intervals, or its label `tcpclose.dev/hold` keeps an
    /// earlier order there.
    pub stale: u32,
    /// Among them: nodes that lack one of the sysctls.
    pub unsupported: u32,
    /// Among them: nodes where another tuning orders one of the sysctls.
    pub overridden: u32,
    /// Among them: nodes where another program changed one of the sysctls, now or in the last report.
    pub drifted: u32,
    /// Nodes that no longer match and are being put back.
    pub restoring: u32,
    /// Among those that match: nodes that a person holds, with the label `tcpclose.dev/hold`.
    #[serde(default)]
    pub held: u32,
}

/// Sums and the largest count of a single node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SocketSums {
    /// Sockets in TIME_WAIT.
    pub time_wait: u64,
    /// Sockets that their program has closed and the peer has not, without FIN_WAIT2 mini-sockets.
    pub orphans: u64,
    /// Sockets in FIN_WAIT1.
    pub fin_wait1: u64,
    /// Sockets in FIN_WAIT2.
    pub fin_wait2: u64,
    /// Sockets in CLOSING.
    pub closing: u64,
    /// Sockets in CLOSE_WAIT.
    pub close_wait: u64,
    /// Sockets in LAST_ACK.
    pub last_ack: u64,
    /// Nodes whose counts are in the sums. A node whose counts are unknown is not among them, and adds nothing.
    pub nodes: u32,
    /// The largest count of a single node, state by state.
    pub highest: SocketMaxima,
    /// How connections end, as events per minute, summed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<RateSums>,
    /// How much of the nodes' TIME_WAIT the tuning reaches at all. Absent where pods are not counted, and where nothing
    /// closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
}

/// Events per minute in the nodes' own network namespaces. One that no node can tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateSums {
    /// Connections that skipped TIME_WAIT because net.ipv4.tcp_max_tw_buckets was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflows: Option<u64>,
    /// Connections that were given up or reset, all kinds together: for lack of memory, after a timeout, with unread data,
    /// with data that came too late, and by a program's TCP_LINGER2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborts: Option<u64>,
    /// Resets sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_sent: Option<u64>,
    /// Ports in TIME_WAIT that connect() took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
    /// Nodes whose rates are in the sums.
    pub nodes: u32,
}

/// Which part of the sockets in TIME_WAIT and FIN_WAIT2 after close() is in network namespaces that a tuning reaches. Pods
/// have their own and do not inherit the node's sysctls; those on the host's network share the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// The percentage in the nodes' own namespaces, which the tuning reaches, rounded down.
    pub percent: u32,
    /// How many are in the nodes' own namespaces.
    pub in_nodes: u64,
    /// How many are in the pods' namespaces, which the tuning does not reach.
    pub in_pods: u64,
    /// Nodes that know both.
    pub nodes: u32,
}

/// The largest count of a single node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SocketMaxima {
    /// Sockets in TIME_WAIT.
    pub time_wait: u64,
    /// Orphans.
    pub orphans: u64,
    /// Sockets in FIN_WAIT1.
    pub fin_wait1: u64,
    /// Sockets in FIN_WAIT2.
    pub fin_wait2: u64,
    /// Sockets in CLOSING.
    pub closing: u64,
    /// Sockets in CLOSE_WAIT.
    pub close_wait: u64,
    /// Sockets in LAST_ACK.
    pub last_ack: u64,
}

/// A node that needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorstNode {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Failed, Lost, Contended, Drifted, RolledBack, Refused, Stale, Held, Pending, AtRisk; for a node where all is well,
    /// Sockets: it has the most that close.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What is wrong there.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// A rule and the nodes where it forbids something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusalSummary {
    /// The id of the rule.
    #[schemars(length(max = 64))]
    pub rule: String,
    /// What was ordered, the facts that led to the refusal on the first of the nodes, and what to do instead.
    #[schemars(length(max = 512))]
    pub message: String,
    /// How many nodes.
    pub nodes: u32,
    /// The first of them by name, at most 3.
    #[schemars(length(max = 3), inner(length(max = 253)))]
    pub names: Vec<String>,
}
