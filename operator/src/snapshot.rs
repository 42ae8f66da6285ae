//! What is known of the cluster at one moment: the input of every step that only computes.

use std::collections::BTreeMap;

use crds::tuning::{Labels, Mode, RolloutStatus, StableRevision};
use crds::{
    TcpCloseNode, TcpCloseNodeStatus, TcpCloseTuning, TcpCloseTuningSpec, TcpCloseTuningStatus, revision,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};
use serde::Deserialize;

use crate::node_condition;
use crate::store::Objects;
use crate::switch::Switch;

/// The label that every Linux node carries.
const OS_LABEL: &str = "kubernetes.io/os";
/// The label by which a person keeps a node's order as it is.
pub const HOLD_LABEL: &str = "tcpclose.dev/hold";
/// The annotation of a tuning by which a person has a failed revision tried again: any new value.
pub const RETRY_AT: &str = "tcpclose.dev/retry-at";
/// So much of it tells one attempt from the next; a status takes no more.
const RETRY_AT_MAX: usize = 64;

/// A Node, less everything that tuning does not look at: a real one has 10 to 20 KB.
#[derive(Resource, Clone, Debug, Default, PartialEq, Deserialize)]
#[resource(inherit = "k8s_openapi::api::core::v1::Node")]
pub struct Node {
    /// Name and uid, once it is [stripped](Self::strip).
    pub metadata: ObjectMeta,
    /// Whether it is Ready.
    #[serde(default)]
    pub status: NodeStatus,
    #[serde(skip)]
    labels: NodeLabels,
    /// Every step asks for it.
    #[serde(skip)]
    linux: bool,
}

/// The labels of a Node, in one text: a line `key=value` for each. As a map they would be half of what the operator keeps of a
/// large fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLabels(Box<str>);

impl NodeLabels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.split('\n').find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}

impl Labels for NodeLabels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for NodeLabels {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(labels: I) -> Self {
        let lines = labels.into_iter().map(|(key, value)| format!("{key}={value}\n"));
        Self(lines.collect::<String>().into())
    }
}

/// The part of a Node's status that tuning looks at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NodeStatus {
    /// Ready and its like.
    #[serde(default)]
    pub conditions: Vec<NodeCondition>,
}

/// One condition of a Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NodeCondition {
    /// `Ready`
    #[serde(rename = "type", default)]
    pub type_: String,
    /// `True`
    #[serde(default)]
    pub status: String,
    /// `KubeletReady`
    #[serde(default)]
    pub reason: String,
}

/// Why an object cannot be decoded; `None` where it can.
pub fn unreadable(object: &OrderObject) -> Option<&str> {
    object.0.as_ref().err().map(|invalid| invalid.error.as_str())
}

/// What an agent has reported on this order: before it does, a status holds nothing that it said.
pub fn report_in(order: &TcpCloseNode) -> Option<&TcpCloseNodeStatus> {
    order.status.as_ref().filter(|status| status.observed_generation >= 0)
}

impl Node {
    /// Whether it runs Linux.
    pub fn is_linux(&self) -> bool {
        self.linux
    }

    /// Whether its kubelet says that it works.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }

    /// Its condition of this type.
    pub fn condition(&self, type_: &str) -> Option<&NodeCondition> {
        self.status.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether a person has labelled it to keep its order as it is. Only the value `false` means no: who sets such a label
    /// means it.
    pub fn is_held(&self) -> bool {
        self.labels().get(HOLD_LABEL).is_some_and(|value| value != "false")
    }

    /// Its name; empty for a Node that has none.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The order in an object of its name, if it is for this very Node.
    pub fn order_in<'a>(&self, object: &'a OrderObject) -> Option<&'a TcpCloseNode> {
        object.0.as_ref().ok().filter(|order| order.spec.node_uid == self.uid())
    }

    /// Whether it is Ready and its agent has ever reported on its order: it can be ordered something, unless it has fallen silent
    /// since.
    pub fn is_reporting(&self, order: Option<&TcpCloseNode>) -> bool {
        self.is_ready() && order.and_then(report_in).is_some()
    }

    /// Its uid; empty for a Node that no API server has seen.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its labels, once it is [stripped](Self::strip).
    pub fn labels(&self) -> &NodeLabels {
        &self.labels
    }

    /// Gives it a label, or takes one away.
    #[cfg(test)]
    pub(crate) fn set_label(&mut self, key: &str, value: Option<&str>) {
        let lines = self.labels.0.lines().filter_map(|line| line.split_once('='));
        let kept = lines.filter(|(known, _)| *known != key).chain(value.map(|value| (key, value)));
        self.set_labels(kept.collect());
    }

    fn set_labels(&mut self, labels: NodeLabels) {
        self.linux = labels.get(OS_LABEL) == Some("linux");
        self.labels = labels;
    }

    /// Drops what nothing here reads. What remains changes seldom, while the Node's version does with each heartbeat.
    pub fn strip(&mut self) {
        let ObjectMeta { name, uid, labels, .. } = std::mem::take(&mut self.metadata);
        self.metadata = ObjectMeta { name, uid, ..ObjectMeta::default() };
        let labels = labels.iter().flatten();
        self.set_labels(labels.map(|(key, value)| (key.as_str(), value.as_str())).collect());
        self.status
            .conditions
            .retain(|condition| ["Ready", node_condition::TYPE].contains(&&*condition.type_));
        self.status.conditions.shrink_to_fit();
    }
}

/// A tuning as the API server holds it. One that cannot be decoded is still there, with its name and uid.
pub type TuningObject = DeserializeGuard<TcpCloseTuning>;
/// A node's order and report as the API server holds it.
pub type OrderObject = DeserializeGuard<TcpCloseNode>;

/// A tuning.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Its name.
    pub name: String,
    /// Its uid: a tuning made anew under an old name is another one.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
    /// The version of the whole object.
    pub resource_version: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Whether somebody has deleted it and a finalizer of somebody else's keeps it.
    pub deleting: bool,
    /// What it orders, or why that cannot be read.
    pub spec: Result<TcpCloseTuningSpec, String>,
    /// The revision of its spec.
    pub revision: String,
    /// When a person last wanted a failed revision tried again, in that person's words.
    pub retry_at: Option<String>,
    /// What is stored of its status.
    pub status: Option<TcpCloseTuningStatus>,
}

impl From<&TuningObject> for Tuning {
    fn from(object: &TuningObject) -> Self {
        let meta = object.meta();
        let (spec, status) = match &object.0 {
            Ok(tuning) => (Ok(tuning.spec.clone()), tuning.status.clone()),
            Err(invalid) => (Err(invalid.error.clone()), None),
        };
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            deleting: meta.deletion_timestamp.is_some(),
            revision: spec.as_ref().map(revision::of_tuning).unwrap_or_default(),
            retry_at: object.annotations().get(RETRY_AT).map(|at| at.chars().take(RETRY_AT_MAX).collect()),
            spec,
            status,
        }
    }
}

impl Tuning {
    /// Its spec, if it is to be carried out in this mode: decoded, and not being deleted.
    pub fn in_mode(&self, mode: Mode) -> Option<&TcpCloseTuningSpec> {
        self.spec.as_ref().ok().filter(|spec| !self.deleting && spec.mode == mode)
    }

    /// How far the rollout of its spec is, as it is stored.
    pub fn rollout(&self) -> Option<&RolloutStatus> {
        self.status.as_ref()?.rollout.as_ref()
    }

    /// The revision that completed last.
    pub fn stable(&self) -> Option<&StableRevision> {
        self.rollout()?.stable.as_ref()
    }

    /// Whether the revision of its spec was rolled out and taken back.
    pub fn has_failed(&self) -> bool {
        self.rollout().is_some_and(|rollout| rollout.failed_revision.as_deref() == Some(&self.revision))
    }

    /// Whether it is there and nobody can say what it wants.
    pub fn is_frozen(&self) -> bool {
        self.spec.is_err() && !self.deleting
    }

    /// Whether it is for this node.
    pub fn matches(&self, node: &Node) -> bool {
        node.is_linux() && self.spec.as_ref().is_ok_and(|spec| spec.node_selector.matches(node.labels()))
    }
}

/// What comes in the order of its names, each with what a map has of that name.
pub fn in_step<'a, T, V>(
    named: impl Iterator<Item = (&'a String, T)>,
    map: &'a BTreeMap<String, V>,
) -> impl Iterator<Item = (&'a String, T, Option<&'a V>)> {
    let mut others = map.iter().peekable();
    named.map(move |(name, thing)| {
        while others.next_if(|(other, _)| *other < name).is_some() {}
        let found = others.next_if(|(other, _)| *other == name);
        (name, thing, found.map(|(_, found)| found))
    })
}

/// Everything that was listed, as it stands now.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes by name.
    pub nodes: Objects<Node>,
    /// Tunings, by name.
    pub tunings: Vec<Tuning>,
    /// Orders and reports by node name.
    pub orders: Objects<OrderObject>,
    /// What the switch says.
    pub switch: Switch,
}

impl Snapshot {
    /// Every Node by name, with the object of that name. For a large fleet this costs far less than to look each one up.
    pub fn nodes_with_objects(&self) -> impl Iterator<Item = (&String, &Node, Option<&OrderObject>)> {
        let nodes = self.nodes.iter().map(|(name, node)| (name, &**node));
        in_step(nodes, &self.orders).map(|(name, node, object)| (name, node, object.map(|object| &**object)))
    }

    /// Every Node by name, with the order of this very Node.
    pub fn nodes_with_orders(&self) -> impl Iterator<Item = (&String, &Node, Option<&TcpCloseNode>)> {
        self.nodes_with_objects()
            .map(|(name, node, object)| (name, node, object.and_then(|object| node.order_in(object))))
    }

    /// The order of this very Node: one of an earlier Node of the same name is not adopted, and one that cannot be decoded
    /// says nothing.
    pub fn order_of(&self, node: &Node) -> Option<&TcpCloseNode> {
        node.order_in(self.orders.get(node.name())?)
    }

    /// The tuning of this uid.
    pub fn tuning(&self, uid: &str) -> Option<&Tuning> {
        self.tunings.iter().find(|tuning| tuning.uid == uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_step_finds_what_a_map_has_of_each_name_and_passes_over_the_rest() {
        let names = ["b", "c", "e"].map(String::from);
        let map = BTreeMap::from(["a", "b", "d", "e", "f"].map(|name| (name.to_string(), name)));
        let in_order = names.iter().zip(1..);
        let found: Vec<_> =
            in_step(in_order, &map).map(|(name, at, found)| (name.as_str(), at, found.copied())).collect();
        assert_eq!(found, [("b", 1, Some("b")), ("c", 2, None), ("e", 3, Some("e"))]);
    }
}
