//! `TcpCloseTuning`: what people write, and what the operator answers.

// False alarm: each `printcolumn` has its own `type_`.
#![allow(clippy::duplicated_attributes)]

use std::collections::{BTreeMap, BTreeSet};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tcp_close::Sysctl;
use tcp_close::order::{ClientsBehindNat, DriftPolicy};
use tcp_close::rule;

use crate::condition::Condition;
use crate::definition::sysctl_schema;

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

/// Nodes by their labels. All of matchLabels and matchExpressions must be true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// Labels that a node must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), schema_with = "labels_schema")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on a node's labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<NodeSelectorRequirement>,
}

fn labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "additionalProperties": { "type": "string", "maxLength": 63 } })
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeSelectorRequirement {
    /// The label's key.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label is compared with the values. In and NotIn need values; Exists and DoesNotExist take none.
    pub operator: SelectorOperator,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is absent.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl NodeSelector {
    /// Why one that [is empty](Self::is_empty) is refused.
    pub const EMPTY: &str = "must not be empty: say which nodes with matchLabels or matchExpressions (it is a label \
                             selector; a pod's nodeSelector goes under matchLabels). For every node: matchLabels: \
                             {kubernetes.io/os: linux}";

    /// Whether it says nothing about a node's labels.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether a node with these labels is selected. An empty selector, which no schema lets through, selects nothing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.is_empty()
            && self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl NodeSelectorRequirement {
    /// Why one whose values [do not suit](Self::values_suit) its operator is refused.
    pub const VALUES: &str = "operators In and NotIn need values; Exists and DoesNotExist take none";

    /// Whether there are values if the operator needs them, and only then.
    pub fn values_suit(&self) -> bool {
        let needed = matches!(self.operator, SelectorOperator::In | SelectorOperator::NotIn);
        needed != self.values.is_empty()
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        match self.operator {
            SelectorOperator::In => label.is_some_and(|value| self.values.contains(value)),
            SelectorOperator::NotIn => label.is_none_or(|value| !self.values.contains(value)),
            SelectorOperator::Exists => label.is_some(),
            SelectorOperator::DoesNotExist => label.is_none(),
        }
    }
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

    /// What its author says of safety; absent means nothing.
    pub fn safety(&self) -> Safety {
        self.safety.clone().unwrap_or_default()
    }
}

/// What the operator has found. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Pods have namespaces of their own and are not counted.
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
    /// Ordered and not yet acknowledged.
    pub pending: u32,
    /// A rule forbids something there.
    pub refused: u32,
    /// A write failed there, another program's change stands there, or the agent has been missing for 5 minutes on a Ready
    /// node.
    pub failed: u32,
    /// The node is not Ready, or its agent has been silent for 3 report intervals.
    pub stale: u32,
    /// Among them: nodes that lack one of the sysctls.
    pub unsupported: u32,
    /// Among them: nodes where another tuning orders one of the sysctls.
    pub overridden: u32,
    /// Among them: nodes where another program changed one of the sysctls, now or in the last report.
    pub drifted: u32,
    /// Nodes that no longer match and are being put back.
    pub restoring: u32,
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
    /// Failed, Contended, Drifted, Refused, Stale, Pending, AtRisk; for a node where all is well, Sockets: it has the most
    /// that close.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What is wrong there.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// A rule and the nodes where it forbids something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
    }

    fn requirement(operator: SelectorOperator, values: &[&str]) -> NodeSelector {
        let values = values.iter().map(ToString::to_string).collect();
        NodeSelector {
            match_expressions: vec![NodeSelectorRequirement { key: "pool".into(), operator, values }],
            ..NodeSelector::default()
        }
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        assert!(!NodeSelector::default().matches(&labels(&[("pool", "web")])));
    }

    #[test]
    fn operators_compare_as_in_a_label_selector() {
        for (operator, values, on_web, on_none) in [
            (SelectorOperator::In, &["web", "db"][..], true, false),
            (SelectorOperator::In, &["db"][..], false, false),
            (SelectorOperator::NotIn, &["db"][..], true, true),
            (SelectorOperator::NotIn, &["web"][..], false, true),
            (SelectorOperator::Exists, &[][..], true, false),
            (SelectorOperator::DoesNotExist, &[][..], false, true),
        ] {
            let selector = requirement(operator, values);
            assert_eq!(selector.matches(&labels(&[("pool", "web")])), on_web, "{operator:?} {values:?}");
            assert_eq!(selector.matches(&labels(&[])), on_none, "{operator:?} {values:?}");
        }
    }

    #[test]
    fn every_sysctl_of_the_catalogue_has_its_field() {
        for sysctl in Sysctl::ALL {
            let sysctls: Sysctls = serde_json::from_value(serde_json::json!({ sysctl.field(): 1 })).unwrap();
            assert_eq!(sysctls.values(), BTreeMap::from([(sysctl, 1)]), "{sysctl}");
        }
    }
}
