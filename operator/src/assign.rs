//! Assign: bring each node's TcpCloseNode to what was resolved. [`plan`] decides and computes only; [`carry_out`] talks to
//! the API server.
//!
//! A write names the version of the object that it was planned from. If somebody was faster, or the cache was old, the API
//! server answers 409; that is no error, because the event that made us late leads to a new plan. Nothing is deleted on the
//! cache's word alone: a watch that is dead for a minute does not know a node that has joined meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crds::node::{EntryAction, SysctlEntry};
use crds::state::State;
use crds::tuning::{Mode, Phase, RemovalPolicy};
use crds::{TcpCloseNode, TcpCloseNodeSpec, revision};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::lead::Leadership;
use crate::metrics::{Fate, Kind, Metrics};
use crate::resolve::{NodeOrder, Resolution, is_order, is_removed};
use crate::serve::Health;
use crate::snapshot::{Node, OrderObject, Snapshot, Tuning, in_step};
use crds::OPERATOR_MANAGER;

/// Requests that are under way at once.
const CONCURRENT: usize = 16;
/// A request that has no answer by then is given up; the next turn plans it anew.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Writes of one turn. The next one plans anew from what has happened meanwhile; an order for a large fleet takes a minute.
pub const TURN_MAX: usize = 1000;
/// For how long a write that was answered is taken for what the cache will show next.
const SENT_FOR: Duration = Duration::from_secs(10);
/// By then the cache shows what was taken: a dead watch is noticed within 60 s, and lists anew.
const SHOWN_BY: Duration = Duration::from_secs(90);

/// A key whose removal was acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct Removed {
    /// The entry that asked for it.
    pub entry: SysctlEntry,
    /// What the node says, where it left another program's value alone.
    pub skipped: Option<String>,
}

/// An object whose Node is gone, as the cache has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The uid of the object.
    pub uid: String,
    /// The uid of its Node; `None` where the object cannot be decoded.
    pub node_uid: Option<String>,
}

impl Orphan {
    fn of(object: &OrderObject) -> Self {
        let node_uid = object.0.as_ref().ok().map(|stored| stored.spec.node_uid.clone());
        Self { uid: object.meta().uid.clone().unwrap_or_default(), node_uid }
    }
}

/// One write to one node's object.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The node has none.
    Create {
        /// The new object.
        object: Box<TcpCloseNode>,
        /// What an earlier Node of this name has left; it goes first.
        instead_of: Option<Orphan>,
    },
    /// The order has changed.
    Patch {
        /// The node.
        name: String,
        /// The uid of the object.
        uid: String,
        /// The version that it was planned from.
        version: Option<String>,
        /// The new order. As the JSON of a patch it would take ten times the memory, node by node.
        spec: Box<TcpCloseNodeSpec>,
        /// Whether the API server is to forget who manages which field: nobody but our own programs does.
        untrack: bool,
        /// Keys whose removal was acknowledged and whose entries this patch drops.
        done: Vec<Removed>,
    },
    /// Its Node is gone.
    Delete {
        /// The node.
        name: String,
        /// What it has left.
        orphan: Orphan,
        /// Keys that the node never said it had put back.
        not_restored: Vec<String>,
        /// Whether it had been asked to put one of them back.
        asked: bool,
    },
}

impl Write {
    /// The node that it is for.
    pub fn node(&self) -> &str {
        match self {
            Self::Create { object, .. } => object.metadata.name.as_deref().unwrap_or_default(),
            Self::Patch { name, .. } | Self::Delete { name, .. } => name,
        }
    }

    /// The uid of the object that is written to, where there is one already.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Create { .. } => None,
            Self::Patch { uid, .. } | Self::Delete { orphan: Orphan { uid, .. }, .. } => Some(uid),
        }
    }
}

/// A canary that a gate looks at reports this often, in however large a fleet: a soak is a minute.
const WATCHED_INTERVAL_SECONDS: u32 = 20;

/// So many nodes may write every 5 s.
const EARLY_COUNTS_MAX: usize = 250;

/// How often a node reports when nothing happens, so that all of them together stay within 50 writes a second.
pub fn report_interval_seconds(nodes: usize) -> u32 {
    match nodes {
        0..=1_000 => 20,
        1_001..=3_000 => 60,
        3_001..=6_000 => 120,
        _ => 300,
    }
}

/// How often a node reports counts that move, where a fleet that reports as often as any has too many nodes for 5 s.
fn counts_interval_seconds(nodes: usize) -> Option<u32> {
    let (interval, shortest) = (report_interval_seconds(nodes), report_interval_seconds(0));
    (nodes > EARLY_COUNTS_MAX && interval == shortest).then_some(shortest)
}

/// What has to be written so that every node's object is what was resolved; empty where it is already.
pub fn plan(snapshot: &Snapshot, resolution: &Resolution) -> Vec<Write> {
    let (nodes, watched) = (resolution.orders.len(), watched(snapshot));
    let of_fleet = (report_interval_seconds(nodes), counts_interval_seconds(nodes));
    let mut revisions = Revisions::default();
    let nodes = in_step(
        snapshot.nodes_with_objects().map(|(name, node, object)| (name, (node, object))),
        &resolution.orders,
    );
    let orders = nodes.filter_map(|(name, (node, object), order)| {
        let order = order?;
        let is_watched = watched.contains(name.as_str());
        let intervals = if is_watched { (WATCHED_INTERVAL_SECONDS, None) } else { of_fleet };
        plan_node(node, object, order, revisions.of(order), intervals, snapshot)
    });
    let orphans = snapshot.orders.iter().filter(|(name, _)| !snapshot.nodes.contains_key(*name));
    orders.chain(orphans.map(|(name, object)| delete(name, object))).collect()
}

/// Canaries whose figures a gate waits for.
fn watched(snapshot: &Snapshot) -> BTreeSet<&str> {
    let has_gate = |tuning: &&Tuning| {
        let rollout = tuning.in_mode(Mode::Enforce).and_then(|spec| spec.rollout.as_ref());
        rollout.is_some_and(|rollout| rollout.gate.is_some())
    };
    let rollouts = snapshot.tunings.iter().filter(has_gate).filter_map(Tuning::rollout);
    let watching =
        rollouts.filter(|it| matches!(Phase::parse(&it.phase), Some(Phase::Canary | Phase::Soaking)));
    watching.flat_map(|rollout| &rollout.canaries).map(String::as_str).collect()
}

/// Revisions of what nodes are ordered. Most nodes share what they are ordered, and a revision is a hash.
/// The order is held as long as its place in memory stands for it.
#[derive(Default)]
struct Revisions<'a>(HashMap<[usize; 2], (&'a NodeOrder, String)>);

impl<'a> Revisions<'a> {
    fn of(&mut self, order: &'a NodeOrder) -> String {
        let place = [order.entries.place(), order.observe.place()];
        let own = || (order, revision::of_entries(&order.entries, &order.observe));
        self.0.entry(place).or_insert_with(own).1.clone()
    }
}

fn plan_node(
    node: &Node,
    object: Option<&OrderObject>,
    order: &NodeOrder,
    revision: String,
    (report_interval_seconds, counts_interval_seconds): (u32, Option<u32>),
    snapshot: &Snapshot,
) -> Option<Write> {
    let spec = TcpCloseNodeSpec {
        node_uid: node.uid().into(),
        revision,
        report_interval_seconds,
        counts_interval_seconds,
        sysctls: order.entries.clone(),
        observe: order.observe.clone(),
    };
    let stored = object.and_then(|object| object.0.as_ref().ok());
    match stored {
        None => Some(Write::Create { object: Box::new(new_object(node, spec)), instead_of: None }),
        Some(stored) if stored.spec.node_uid != spec.node_uid => {
            let instead_of = object.map(Orphan::of);
            Some(Write::Create { object: Box::new(new_object(node, spec)), instead_of })
        }
        Some(stored) if stored.spec == spec || snapshot.switch.freezes() => None,
        Some(stored) => Some(patch(stored, spec)),
    }
}

fn new_object(node: &Node, spec: TcpCloseNodeSpec) -> TcpCloseNode {
    let mut object = TcpCloseNode::new(&node.name_any(), spec);
    // The Node's garbage: no controller, and nothing that keeps the Node from going.
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: Node::api_version(&()).into_owned(),
        kind: Node::kind(&()).into_owned(),
        name: node.name_any(),
        uid: node.uid().into(),
        block_owner_deletion: None,
        controller: None,
    }]);
    object
}

fn patch(stored: &TcpCloseNode, spec: TcpCloseNodeSpec) -> Write {
    let done = stored.spec.sysctls.iter().filter(|entry| {
        !is_order(entry)
            && is_removed(stored, &entry.name)
            && spec.sysctls.iter().all(|wanted| wanted.name != entry.name)
    });
    let done = done.map(|entry| Removed { entry: entry.clone(), skipped: skipped(stored, &entry.name) });
    Write::Patch {
        name: stored.name_any(),
        uid: stored.uid().unwrap_or_default(),
        version: stored.metadata.resource_version.clone(),
        untrack: stored.metadata.managed_fields.is_some(),
        done: done.collect(),
        spec: Box::new(spec),
    }
}

/// The JSON merge patch to an order, from this version of its object.
fn merge_patch(version: Option<&str>, untrack: bool, spec: &TcpCloseNodeSpec) -> Value {
    let mut fields = json!(spec);
    for field in ["sysctls", "observe", "countsIntervalSeconds"] {
        // In a merge patch what is absent stays, and null removes.
        if fields.get(field).is_none() {
            fields[field] = Value::Null;
        }
    }
    let mut metadata = json!({ "resourceVersion": version });
    if untrack {
        // A list of one empty entry is how the API server is told to forget. It begins again where somebody applies.
        metadata["managedFields"] = json!([{}]);
    }
    json!({ "metadata": metadata, "spec": fields })
}

/// What a node says of a key that it did not put back, because another program had changed it.
fn skipped(stored: &TcpCloseNode, name: &str) -> Option<String> {
    let row = stored.status.as_ref()?.sysctls.iter().find(|row| row.name == name)?;
    let skipped = State::parse(&row.state) == Some(State::RestoreSkipped);
    skipped.then(|| row.message.clone().unwrap_or_else(|| "another program has changed it".into()))
}

fn delete(name: &str, object: &OrderObject) -> Write {
    let stored = object.0.as_ref().ok();
    let keeping =
        stored.map(|stored| stored.spec.sysctls.iter().filter(|entry| keeps_our_value(stored, entry)));
    let entries: Vec<_> = keeping.into_iter().flatten().collect();
    Write::Delete {
        name: name.into(),
        orphan: Orphan::of(object),
        not_restored: entries.iter().map(|entry| entry.name.clone()).collect(),
        asked: entries.iter().any(|entry| entry.action == EntryAction::Restore),
    }
}

/// Whether a node that goes now may keep a value of ours that was to be put back one day.
fn keeps_our_value(stored: &TcpCloseNode, entry: &SysctlEntry) -> bool {
    match entry.action {
        EntryAction::Restore => !is_removed(stored, &entry.name),
        EntryAction::Set | EntryAction::Hold => {
            let mut rows = stored.status.iter().flat_map(|status| &status.sysctls);
            let row = rows.find(|row| row.name == entry.name);
            let changed = row.is_some_and(|row| row.baseline.is_some() && row.baseline != row.live);
            changed && entry.removal_policy == RemovalPolicy::Restore
        }
        EntryAction::Release => false,
    }
}

/// Writes that the API server has taken, or may have taken, and the cache may not show yet.
#[derive(Default)]
pub struct Sent {
    taken: HashMap<String, (Write, Instant)>,
    /// By node: the version that a patch was planned from, and until when the cache may still show it.
    tried: HashMap<String, (String, Instant)>,
}

impl Sent {
    /// Those that have not just been sent.
    pub fn without_sent(&mut self, writes: Vec<Write>, now: Instant) -> Vec<Write> {
        self.taken.retain(|_, (_, at)| now.duration_since(*at) < SENT_FOR);
        writes
            .into_iter()
            .filter(|write| self.taken.get(write.node()).is_none_or(|(sent, _)| sent != write))
            .collect()
    }

    /// Nodes whose order was patched a moment ago, and of which the snapshot still shows the one before.
    pub fn unseen(&mut self, snapshot: &Snapshot, now: Instant) -> BTreeSet<String> {
        self.tried.retain(|name, (version, until)| {
            let shown = snapshot.orders.get(name).and_then(|order| order.meta().resource_version.as_ref());
            shown == Some(version) && now < *until
        });
        self.tried.keys().cloned().collect()
    }

    /// Remembers what is about to be sent: of a request without an answer nobody knows what became of it.
    pub fn note_tried(&mut self, writes: &[Write], now: Instant) {
        for write in writes {
            self.expect(write, now + SENT_FOR);
        }
    }

    fn expect(&mut self, write: &Write, until: Instant) {
        let Write::Patch { name, version: Some(version), .. } = write else { return };
        let known = self.tried.get(name).filter(|(of, _)| of == version).map(|(_, until)| *until);
        let until = known.map_or(until, |known| known.max(until));
        self.tried.insert(name.clone(), (version.clone(), until));
    }

    /// Remembers one that was taken.
    pub fn note(&mut self, write: Write, now: Instant) {
        self.expect(&write, now + SHOWN_BY);
        self.taken.insert(write.node().into(), (write, now));
    }
}

/// A write to a node's object that the API server did not take.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's object was not created.
    #[error("create TcpCloseNode {1}")]
    Create(#[source] kube::Error, String),
    /// The order was not written.
    #[error("order TcpCloseNode {1}")]
    Order(#[source] kube::Error, String),
    /// The object of a Node that is gone was not deleted.
    #[error("delete TcpCloseNode {1}, whose Node is gone")]
    Delete(#[source] kube::Error, String),
    /// Whether a Node is gone could not be found out.
    #[error("look whether Node {1} is gone, to delete its TcpCloseNode")]
    Look(#[source] kube::Error, String),
    /// The API server did not answer.
    #[error("TcpCloseNode {node}: no answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// The node.
        node: String,
    },
}

/// Sends them, a few at a time, as long as this operator leads. Returns those that were taken.
pub async fn carry_out(
    client: &Client,
    writes: Vec<Write>,
    leadership: &Leadership,
    health: &Health,
    metrics: &Metrics,
) -> Vec<Write> {
    let sending = writes.into_iter().map(async |write| {
        let sent = leadership.fence(tokio::time::timeout(TIMEOUT, send(client, &write))).await;
        health.beat();
        let result = sent?;
        let result = result.unwrap_or_else(|_| Err(Error::Timeout { node: write.node().into() }));
        let (fate, taken) = match result {
            Ok(Taken::Yes) => (Fate::Taken, Some(write)),
            Ok(Taken::TooLate) => (Fate::Outdated, None),
            Err(error) => {
                tracing::warn!("{}", crate::chain(&error));
                (Fate::Failed, None)
            }
        };
        metrics.note_write(Kind::Order, fate);
        taken
    });
    futures::stream::iter(sending)
        .buffer_unordered(CONCURRENT)
        .filter_map(async |write| write)
        .collect()
        .await
}

/// What became of a write that did not fail.
enum Taken {
    Yes,
    /// The object has moved on or gone: the next event says what to do.
    TooLate,
}

async fn send(client: &Client, write: &Write) -> Result<Taken, Error> {
    let api = Api::<TcpCloseNode>::all(client.clone());
    match write {
        Write::Create { object, instead_of } => {
            let name = write.node();
            if let Some(orphan) = instead_of
                && let Taken::TooLate = delete_orphan(client, name, orphan).await?
            {
                return Ok(Taken::TooLate);
            }
            let params = PostParams { field_manager: Some(OPERATOR_MANAGER.into()), ..PostParams::default() };
            let created = api.create(&params, object).await;
            taken(created, |error| Error::Create(error, name.into()))
        }
        Write::Patch { name, version, untrack, spec, .. } => {
            let patch = merge_patch(version.as_deref(), *untrack, spec);
            let params =
                PatchParams { field_manager: Some(OPERATOR_MANAGER.into()), ..PatchParams::default() };
            let patched = api.patch(name, &params, &Patch::Merge(patch)).await;
            taken(patched, |error| Error::Order(error, name.clone()))
        }
        Write::Delete { name, orphan, .. } => delete_orphan(client, name, orphan).await,
    }
}

async fn delete_orphan(client: &Client, name: &str, orphan: &Orphan) -> Result<Taken, Error> {
    let look = Api::<Node>::all(client.clone()).get_metadata_opt(name).await;
    let node = look.map_err(|error| Error::Look(error, name.into()))?;
    if node.is_some_and(|node| orphan.node_uid.is_none() || orphan.node_uid == node.uid()) {
        // The cache has yet to hear of it.
        return Ok(Taken::TooLate);
    }
    let this_one = Preconditions { uid: Some(orphan.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
    // The answer to a deletion is the object, which may be one that cannot be decoded.
    match Api::<OrderObject>::all(client.clone()).delete(name, &params).await {
        // The garbage collector was faster.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Taken::Yes),
        deleted => taken(deleted, |error| Error::Delete(error, name.into())),
    }
}

fn taken<T>(result: kube::Result<T>, error: impl FnOnce(kube::Error) -> Error) -> Result<Taken, Error> {
    match result {
        Ok(_) => Ok(Taken::Yes),
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(Taken::TooLate),
        Err(other) => Err(error(other)),
    }
}

#[cfg(test)]
mod tests;
