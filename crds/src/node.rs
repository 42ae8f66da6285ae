//! `TcpCloseNode`: one node's order and one node's report.

// False alarm: each `printcolumn` has its own `type_`.
#![allow(clippy::duplicated_attributes)]

mod pods;
mod sockets;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::shared::Shared;
use crate::tuning::{DriftPolicyName, RemovalPolicy, Safety, Sysctls};

pub use pods::{PodCounts, Pods};
pub use sockets::{Conntrack, PairUse, PortCount, Ports, Rates, Side, Sockets, Sockstat, States};

/// What the operator orders on one node, and what that node's agent reports. Written by programs only.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tcpclose.dev",
    version = "v1alpha1",
    kind = "TcpCloseNode",
    plural = "tcpclosenodes",
    shortname = "tcn",
    category = "tcpclose",
    status = "TcpCloseNodeStatus",
    derive = "PartialEq",
    doc = "One node's order and report, under the node's name. The operator writes the spec, the agent on that node writes \
           the status, and the API server holds them to it. To change something, write a TcpCloseTuning.",
    printcolumn(
        name = "In-Force",
        json_path = ".status.conditions[?(@.type==\"InForce\")].status",
        type_ = "string"
    ),
    printcolumn(
        name = "State",
        json_path = ".status.summary",
        type_ = "string",
        description = "How many sysctls are in which state."
    ),
    printcolumn(name = "Time-Wait", json_path = ".status.sockets.timeWait", type_ = "integer"),
    printcolumn(name = "Orphans", json_path = ".status.sockets.orphans", type_ = "integer"),
    printcolumn(
        name = "Reason",
        json_path = ".status.conditions[?(@.type==\"InForce\")].reason",
        type_ = "string"
    ),
    printcolumn(name = "Reported", json_path = ".status.reportedAt", type_ = "date"),
    printcolumn(name = "Kernel", json_path = ".status.node.kernelRelease", type_ = "string", priority = 1),
    printcolumn(name = "Revision", json_path = ".status.observedRevision", type_ = "string", priority = 1),
    printcolumn(name = "Age", json_path = ".metadata.creationTimestamp", type_ = "date", priority = 1)
)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[serde(rename_all = "camelCase")]
pub struct TcpCloseNodeSpec {
    /// The uid of the Node that this is for. A new Node under an old name gets a new object.
    #[serde(rename = "nodeUID")]
    #[schemars(length(min = 1, max = 64))]
    pub node_uid: String,
    /// Names the entries; the agent repeats it in `status.observedRevision` when it has carried them out.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// How often the agent reports when nothing of note changes.
    #[schemars(range(min = 20, max = 300))]
    pub report_interval_seconds: u32,
    /// How often the agent reports counts that move, where that is more often than `reportIntervalSeconds`. Absent means every 5 s
    /// where that is 20, and else with each report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 300))]
    pub counts_interval_seconds: Option<u32>,
    /// What is to become of each sysctl. One without an entry is not touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sysctls: Shared<Vec<SysctlEntry>>,
    /// Tunings that only observe this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub observe: Shared<Vec<ObservedTuning>>,
}

impl TcpCloseNodeSpec {
    /// How often the agent reports counts that move. Orders of 0.1.0 do not say it: there a fleet that reports every 20 s was small.
    pub fn counts_interval_seconds(&self) -> u32 {
        let interval = self.report_interval_seconds;
        let unsaid = if interval <= 20 { 5 } else { interval };
        self.counts_interval_seconds.unwrap_or(unsaid).min(interval)
    }
}

/// The order for one sysctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SysctlEntry {
    /// The sysctl, `net.ipv4.tcp_fin_timeout`. The agent touches only those of its own catalogue.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// What is to become of it.
    pub action: EntryAction,
    /// The value, for Set and Hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// The tuning that orders it, or ordered it last.
    pub tuning: TuningReference,
    /// The priority of that tuning, absent for 0. Where two entries break a rule together, the lower one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// What that tuning says of safety.
    #[serde(flatten)]
    pub safety: Safety,
    /// What becomes of a value that another program changes, absent for Correct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_policy: Option<DriftPolicyName>,
    /// What becomes of it when nothing orders it any longer.
    pub removal_policy: RemovalPolicy,
    /// Whether this takes the node back to the tuning's stable revision. Where the agent knows by its own records that the value
    /// was in force here by an order before, since the node has started, cautions and rules about facts do not hold it back;
    /// values that no kernel is meant to hold are refused all the same. A value that was never in force here is judged like any
    /// other. Absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<bool>,
}

/// What is to become of a sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EntryAction {
    /// Bring the value into force and keep it there.
    Set,
    /// Write nothing and keep the baseline: the tuning was changed from Enforce to Observe.
    Hold,
    /// Put back what was there before, where the kernel still holds our value.
    Restore,
    /// Keep the value and forget what was there before.
    Release,
}

/// A tuning at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TuningReference {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its uid: a tuning made anew under an old name is another one.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The revision of its spec that led to the order.
    #[schemars(length(max = 64))]
    pub revision: String,
}

/// A tuning that only observes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedTuning {
    /// The tuning.
    pub tuning: TuningReference,
    /// What it would order.
    pub sysctls: Sysctls,
    /// What it says of safety.
    #[serde(flatten)]
    pub safety: Safety,
}

/// What the agent has found. Written by the agent of this node alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
// One writer owns the whole of it: an API server that kept the owner of each field would spend a quarter more on every report.
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[serde(rename_all = "camelCase")]
pub struct TcpCloseNodeStatus {
    /// The generation of the spec that this status is about; -1 until the agent has reported once.
    #[serde(default)]
    pub observed_generation: i64,
    /// The revision of the entries that were carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub observed_revision: Option<String>,
    /// The uid of the Node that the agent found in its order.
    #[serde(rename = "nodeUID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub node_uid: Option<String>,
    /// The boot id of the machine. Nodes that share it share one kernel.
    #[serde(rename = "bootID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// Names the life of the node's network namespace that the baselines belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub life: Option<String>,
    /// When the agent last wrote this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<Time>,
    /// The version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// How many sysctls are in which state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub summary: Option<String>,
    /// Whether what is ordered is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Facts about the node that decide what can be ordered there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeFacts>,
    /// Every sysctl that has an entry, as it was read back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sysctls: Vec<SysctlStatus>,
    /// What the tunings that only observe would do here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub observe: Vec<ObservedStatus>,
    /// Closing sockets in the node's own network namespace. Absent means unknown, never 0. Pods have namespaces of
    /// their own and are not counted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Sockets>,
    /// What the kernel counts itself in the node's own network namespace. Known even where the states are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockstat: Option<Sockstat>,
    /// How connections end in the node's own network namespace, as events per minute. Measured anew from the moment on at which
    /// an order changes a sysctl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
    /// The same just before an order last changed a sysctl, to compare with `ratesSince`. Absent where this agent has not made
    /// that change or had been running for less than ten seconds, and when it is more than two days ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates_before: Option<Rates>,
    /// The same over the whole time since that change, or since the agent started where that is later. Absent when that is more
    /// than two days ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates_since: Option<Rates>,
    /// The connection tracker's table in the node's own network namespace, at most a minute older than the report. Absent where
    /// there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
    /// The ports behind the closing sockets of the node's own network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// Closing sockets in the network namespaces of pods. Absent where pods are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
}

/// Facts about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// The kernel's release, as `uname -r` prints it.
    #[schemars(length(max = 128))]
    pub kernel_release: String,
    /// Whether the node's network namespace is the first of its machine. A node that is a container is not, and lacks
    /// the sysctls that exist once per machine.
    pub first_network_namespace: bool,
}

/// One sysctl on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SysctlStatus {
    /// The sysctl, `net.ipv4.tcp_fin_timeout`.
    #[schemars(length(max = 64))]
    pub name: String,
    /// How far its order is: Applied, AtRisk, Pending, Refused, Unsupported, Drifted, Contended, Failed, Held, Restoring,
    /// Restored, RestoreSkipped, Released, WouldChange, WouldRefuse. Newer agents may know others.
    #[schemars(length(max = 32))]
    pub state: String,
    /// What the kernel held when it was last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<i64>,
    /// What was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<i64>,
    /// What the kernel held before the first write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<i64>,
    /// The tuning that the order came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub tuning: Option<String>,
    /// When the agent last wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Time>,
    /// Why the agent last wrote it: the tuning's name, or `restore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub changed_by: Option<String>,
    /// How connections ended on the node just before an order last changed it. Kept until the next change; absent where the agent
    /// had not been running for ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates_before: Option<Box<Rates>>,
    /// How often another program has changed it since the agent started, and was put right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifts: Option<u32>,
    /// When it did so first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifts_since: Option<Time>,
    /// The id of the rule that forbids it; absent where it is only held back with another sysctl that a rule forbids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rule: Option<String>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// What rules say of it that forbid nothing: notes, cautions that were acknowledged, what could not be judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub remarks: Vec<Remark>,
}

/// What a rule says of a value without forbidding it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remark {
    /// The id of the rule.
    #[schemars(length(max = 64))]
    pub rule: String,
    /// What a person should know.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// What a tuning that only observes would do on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedStatus {
    /// The tuning.
    pub tuning: TuningReference,
    /// Its sysctls: Applied (it has that value already), WouldChange, WouldRefuse, Unsupported, Failed.
    #[schemars(length(max = 32))]
    pub sysctls: Vec<SysctlStatus>,
}
