//! `TcpCloseTuning`: what people write, and what the operator answers.

// False alarm: each `printcolumn` has its own `type_`.
#![allow(clippy::duplicated_attributes)]

mod rollout;
mod selector;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tcp_close::Sysctl;
use tcp_close::order::{ClientsBehindNat, DriftPolicy};
use tcp_close::rule;

use crate::definition::sysctl_schema;

pub use rollout::{
    Canary, Gate, PERCENTAGE, Phase, Rollout, RolloutStatus, StableRevision, WhenInconclusive, is_percentage,
    share,
};
pub use selector::{Labels, NodeSelector, NodeSelectorRequirement, SelectorOperator};
pub use status::{
    Coverage, NodeCounts, RateSums, RefusalSummary, SocketMaxima, SocketSums, TcpCloseTuningStatus, WorstNode,
};

/// Says how a set of nodes shall close TCP connections: which nodes, and which sysctls. What is absent is not touched.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tcpclose.dev",
    version = "v1alpha1",
    kind = "TcpCloseTuning",
    plural = "tcpclosetunings",
    shortname = "tct",
    category = "tcpclose",
    status = "TcpCloseTuningStatus",
    derive = "PartialEq",
    doc = "Says how a set of nodes shall close TCP connections. The operator turns all tunings into one order per node; an agent \
           on each node applies it, refuses what is unsafe, and reports what the kernel holds and how connections close.",
    selectable = ".spec.mode",
    printcolumn(
        name = "Ready",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        type_ = "string"
    ),
    printcolumn(
        name = "Reason",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        type_ = "string"
    ),
    printcolumn(
        name = "Nodes",
        json_path = ".status.nodes.summary",
        type_ = "string",
        description = "Nodes where everything is in force, of those that match."
    ),
    printcolumn(name = "Time-Wait", json_path = ".status.sockets.timeWait", type_ = "integer"),
    printcolumn(name = "Orphans", json_path = ".status.sockets.orphans", type_ = "integer"),
    printcolumn(name = "Mode", json_path = ".spec.mode", type_ = "string", priority = 1),
    printcolumn(name = "Fin-Wait1", json_path = ".status.sockets.finWait1", type_ = "integer", priority = 1),
    printcolumn(name = "Fin-Wait2", json_path = ".status.sockets.finWait2", type_ = "integer", priority = 1),
    printcolumn(name = "Closing", json_path = ".status.sockets.closing", type_ = "integer", priority = 1),
    printcolumn(
        name = "Close-Wait",
        json_path = ".status.sockets.closeWait",
        type_ = "integer",
        priority = 1
    ),
    printcolumn(name = "Last-Ack", json_path = ".status.sockets.lastAck", type_ = "integer", priority = 1),
    printcolumn(name = "Age", json_path = ".metadata.creationTimestamp", type_ = "date"),
    printcolumn(
        name = "Message",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        type_ = "string",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TcpCloseTuningSpec {
    /// The nodes it is for, by their labels; it must not be empty. Only Linux nodes are ever matched. For all of them:
    /// `matchLabels: {kubernetes.io/os: linux}`.
    pub node_selector: NodeSelector,
    /// Enforce writes the sysctls. Observe reports per node what would change or be refused, and writes nothing. A
    /// tuning changed from Enforce to Observe leaves its values as they are.
    pub mode: Mode,
    /// The sysctls and their values, at least one. What is absent is not touched.
    pub sysctls: Sysctls,
    /// From -1000 to 1000; absent means 0. Where several tunings order the same sysctl on a node, the one with the
    /// highest priority wins there. At equal priority the older tuning wins, and the other one says Conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: Option<i32>,
    /// What you know of the network that a node cannot see, and which costs you accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<Safety>,
    /// What becomes of a value that another program changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_policy: Option<DriftPolicyName>,
    /// What becomes of a node that the tuning leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_policy: Option<RemovalPolicy>,
    /// How many of its nodes may be refused or have failed while the tuning is Ready all the same: a number from 0 to
    /// 1000000, or a percentage of the nodes that match, rounded down. Absent means 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rollout::number_or_percentage")]
    pub max_failed_nodes: Option<IntOrString>,
    /// How a changed tuning reaches its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// Whether a tuning writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Writes the sysctls.
    Enforce,
    /// Writes nothing, and reports what it would do.
    Observe,
}

// The schema of an optional enum takes its description from here, not from the field.
/// What becomes of a value that another program changes. Correct (absent means this) puts it right, and gives up for a
/// while where the other program keeps on. Report leaves it alone, and the tuning is not Ready until it is right again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriftPolicyName {
    /// It is put right.
    #[default]
    Correct,
    /// It is left alone and reported.
    Report,
}

impl From<DriftPolicyName> for DriftPolicy {
    fn from(name: DriftPolicyName) -> Self {
        match name {
            DriftPolicyName::Correct => Self::Correct,
            DriftPolicyName::Report => Self::Report,
        }
    }
}

// The schema of an optional enum takes its description from here, not from the field.
/// What becomes of a node when the tuning is deleted or no longer matches it. Restore (absent means this) puts back
/// what the kernel held before, where it still holds our value. Keep leaves the values as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RemovalPolicy {
    /// What the kernel held before goes back.
    #[default]
    Restore,
    /// They stay.
    Keep,
}

/// The sysctls of a tuning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sysctls {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "orphan_retries")]
    #[allow(missing_docs)] // The catalogue has it.
    pub tcp_orphan_retries: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "max_orphans")]
    #[allow(missing_docs)]
    pub tcp_max_orphans: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "fin_timeout")]
    #[allow(missing_docs)]
    pub tcp_fin_timeout_seconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "max_tw_buckets")]
    #[allow(missing_docs)]
    pub tcp_max_tw_buckets: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tw_reuse")]
    #[allow(missing_docs)]
    pub tcp_tw_reuse: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tw_reuse_delay")]
    #[allow(missing_docs)]
    pub tcp_tw_reuse_delay_milliseconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "timestamps")]
    #[allow(missing_docs)]
    pub tcp_timestamps: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tw_recycle")]
    #[allow(missing_docs)]
    pub tcp_tw_recycle: Option<i64>,
}

macro_rules! schema_functions {
    ($($function:ident: $sysctl:ident),+ $(,)?) => {
        $(fn $function(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
            sysctl_schema(Sysctl::$sysctl)
        })+
    };
}
schema_functions!(
    orphan_retries: OrphanRetries,
    max_orphans: MaxOrphans,
    fin_timeout: FinTimeout,
    max_tw_buckets: MaxTwBuckets,
    tw_reuse: TwReuse,
    tw_reuse_delay: TwReuseDelay,
    timestamps: Timestamps,
    tw_recycle: TwRecycle,
);

impl Sysctls {
    /// What is ordered for this sysctl.
    pub fn get(&self, sysctl: Sysctl) -> Option<i64> {
        match sysctl {
            Sysctl::OrphanRetries => self.tcp_orphan_retries,
            Sysctl::MaxOrphans => self.tcp_max_orphans,
            Sysctl::FinTimeout => self.tcp_fin_timeout_seconds,
            Sysctl::MaxTwBuckets => self.tcp_max_tw_buckets,
            Sysctl::TwReuse => self.tcp_tw_reuse,
            Sysctl::TwReuseDelay => self.tcp_tw_reuse_delay_milliseconds,
            Sysctl::Timestamps => self.tcp_timestamps,
            Sysctl::TwRecycle => self.tcp_tw_recycle,
        }
    }

    /// Everything that is ordered.
    pub fn values(&self) -> BTreeMap<Sysctl, i64> {
        Sysctl::ALL.into_iter().filter_map(|sysctl| Some((sysctl, self.get(sysctl)?))).collect()
    }
}

/// What you know of the network that a node cannot see, and which costs you accept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Safety {
    /// The author's word about NAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients_behind_nat: Option<ClientsBehindNatWord>,
    /// The ids of cautions whose cost is accepted: without them a value that meets a caution is refused. A message that
    /// refuses says the id. A rule of severity refuse cannot be lifted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"), schema_with = "acknowledge_schema")]
    pub acknowledge: Vec<String>,
}

fn acknowledge_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let ids: Vec<_> = rule::cautions().collect();
    schemars::json_schema!({ "type": "array", "items": { "type": "string", "enum": ids } })
}

impl Safety {
    /// The ids of cautions whose cost is accepted.
    pub fn acknowledged(&self) -> BTreeSet<String> {
        self.acknowledge.iter().cloned().collect()
    }

    /// The word about NAT; absent means Unknown.
    pub fn clients_behind_nat(&self) -> ClientsBehindNat {
        self.clients_behind_nat.unwrap_or_default().into()
    }
}

// The schema of an optional enum takes its description from here, not from the field.
/// Never declares that no client of these nodes is behind NAT, which tcpTwRecycle needs (and which is not enough
/// where a node sees NAT). Unknown, or absent, declares nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientsBehindNatWord {
    /// Nothing is declared.
    #[default]
    Unknown,
    /// No client is behind NAT.
    Never,
}

impl From<ClientsBehindNatWord> for ClientsBehindNat {
    fn from(word: ClientsBehindNatWord) -> Self {
        match word {
            ClientsBehindNatWord::Unknown => Self::Unknown,
            ClientsBehindNatWord::Never => Self::Never,
        }
    }
}

impl TcpCloseTuningSpec {
    /// The priority; absent means 0.
    pub fn priority(&self) -> i32 {
        self.priority.unwrap_or_default()
    }

    /// The removal policy; absent means Restore.
    pub fn removal_policy(&self) -> RemovalPolicy {
        self.removal_policy.unwrap_or_default()
    }

    /// The drift policy; absent means Correct.
    pub fn drift_policy(&self) -> DriftPolicyName {
        self.drift_policy.unwrap_or_default()
    }

    /// How many of so many matched nodes may be refused or have failed; absent means none.
    pub fn max_failed_nodes(&self, matched: usize) -> usize {
        self.max_failed_nodes.as_ref().map_or(0, |max| share(max, matched))
    }

    /// What its author says of safety; absent means nothing.
    pub fn safety(&self) -> Safety {
        self.safety.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sysctl_of_the_catalogue_has_its_field() {
        for sysctl in Sysctl::ALL {
            let sysctls: Sysctls = serde_json::from_value(serde_json::json!({ sysctl.field(): 1 })).unwrap();
            assert_eq!(sysctls.values(), BTreeMap::from([(sysctl, 1)]), "{sysctl}");
        }
    }
}
