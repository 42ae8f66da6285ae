//! The condition `tcpclose.dev/Tuned` of a Node, for people who keep work away from nodes that are not tuned yet. Off unless
//! asked for: it takes the right to write the status of nodes.
//!
//! It is about nodes that join. Once True it stays True as long as its Node exists: an edit, a reboot or a silent agent must
//! not make a whole fleet unschedulable. [`wanted`] decides; [`NodeConditions`] talks to the API server.

use std::time::{Duration, Instant};

use crds::node::{EntryAction, SysctlEntry};
use crds::state::State;
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::lead::Leadership;
use crate::resolve::{Resolution, is_acknowledged, is_order};
use crate::snapshot::{Node, NodeCondition, Snapshot};
use crate::summarise::{Now, clip};
use crds::OPERATOR_MANAGER;

/// The type of the condition.
pub const TYPE: &str = "tcpclose.dev/Tuned";
/// Writes in one go, and how far apart goes are: at most 25 a second, however many nodes there are.
const WRITES_MAX: usize = 50;
const EVERY: Duration = Duration::from_secs(2);
/// Requests that are under way at once.
const CONCURRENT: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(10);
const MESSAGE_MAX: usize = 512;

/// A condition that a Node should have and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    node: String,
    uid: String,
    tuned: Tuned,
}

/// Whether a node is tuned, why in one word, and in a sentence.
type Tuned = (bool, &'static str, String);

/// The conditions that have to be written, where this is to be ordered now; that is asked only where a node is not tuned yet.
pub fn wanted(snapshot: &Snapshot, decide: impl FnOnce() -> Resolution) -> Vec<Change> {
    let is_tuned = |node: &Node| node.condition(TYPE).is_some_and(|before| before.status == "True");
    let untuned: Vec<_> = snapshot.nodes.values().filter(|node| node.is_linux() && !is_tuned(node)).collect();
    if untuned.is_empty() {
        return Vec::new();
    }
    let resolution = decide();
    let changes = untuned.into_iter().filter_map(|node| {
        let tuned = judge(node, snapshot, &resolution);
        let same = |before: &NodeCondition| !tuned.0 && before.reason == tuned.1;
        let said = node.condition(TYPE).is_some_and(same);
        (!said).then(|| Change { node: node.name_any(), uid: node.uid().into(), tuned })
    });
    changes.collect()
}

fn judge(node: &Node, snapshot: &Snapshot, resolution: &Resolution) -> Tuned {
    let pending = |why: &str| (false, "Pending", why.to_string());
    let Some(order) = snapshot.order_of(node) else { return pending("its order is being written") };
    let wanted = resolution.orders.get(&node.name_any()).map_or(&[][..], |wanted| &wanted.entries);
    if wanted.iter().any(|entry| is_order(entry) && !order.spec.sysctls.contains(entry)) {
        return pending("its order is being written");
    }
    // Also where nothing is ordered: a node that has just joined may get its labels in a moment, and True is for ever.
    if !is_acknowledged(order) {
        return pending("its agent has not acknowledged the order yet");
    }
    let mut set = order.spec.sysctls.iter().filter(|entry| entry.action == EntryAction::Set).peekable();
    if set.peek().is_none() {
        return (true, "NothingOrdered", "no tuning orders anything here".into());
    }
    let rows = order.status.iter().flat_map(|status| &status.sysctls);
    let state = |entry: &SysctlEntry| {
        let row = rows.clone().find(|row| row.name == entry.name);
        (
            entry.name.clone(),
            row.and_then(|row| State::parse(&row.state)),
            row.and_then(|row| row.message.clone()),
        )
    };
    let in_force =
        |state: &Option<State>| matches!(state, Some(State::Applied | State::AtRisk | State::Unsupported));
    match set.map(state).find(|(_, state, _)| !in_force(state)) {
        None => (true, "InForce", "what tunings order here has been read back".into()),
        Some((name, state, message)) => {
            let reason = state.map_or("Pending", State::as_str);
            (false, reason, message.unwrap_or_else(|| format!("{name} is not in force")))
        }
    }
}

/// A condition that the API server did not take.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("write condition {TYPE} of Node {1}")]
    Write(#[source] kube::Error, String),
    #[error("write condition {TYPE} of Node {node}: no answer within {} s", TIMEOUT.as_secs())]
    Timeout { node: String },
}

/// Writes conditions, a few at a time.
pub struct NodeConditions {
    client: Client,
    written: Option<Instant>,
}

impl NodeConditions {
    /// One that has written nothing.
    pub fn new(client: Client) -> Self {
        Self { client, written: None }
    }

    /// Writes what has to be written, as long as this operator leads.
    pub async fn write(
        &mut self,
        snapshot: &Snapshot,
        decide: impl FnOnce() -> Resolution,
        now: Now,
        leadership: &Leadership,
    ) {
        if self.written.is_some_and(|written| now.clock.saturating_duration_since(written) < EVERY) {
            return;
        }
        let changes = wanted(snapshot, decide);
        if changes.is_empty() {
            return;
        }
        self.written = Some(now.clock);
        let client = &self.client;
        let writing = changes.into_iter().take(WRITES_MAX).map(async |change| {
            if let Some(Err(error)) = leadership.fence(send(client, &change, now.wall)).await {
                tracing::warn!("{}", crate::chain(&error));
            }
        });
        futures::stream::iter(writing).buffer_unordered(CONCURRENT).collect::<()>().await;
    }
}

async fn send(client: &Client, change: &Change, now: Timestamp) -> Result<(), Error> {
    let (tuned, reason, message) = &change.tuned;
    let patch = json!({
        // A Node made anew under this name gets a condition of its own.
        "metadata": { "uid": change.uid },
        "status": { "conditions": [{
            "type": TYPE,
            "status": if *tuned { "True" } else { "False" },
            "reason": reason,
            "message": clip(message, MESSAGE_MAX),
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }] },
    });
    let api = Api::<k8s_openapi::api::core::v1::Node>::all(client.clone());
    let params = PatchParams { field_manager: Some(OPERATOR_MANAGER.into()), ..PatchParams::default() };
    // Strategic: the conditions of others stay.
    let patch = Patch::Strategic(&patch);
    let sending = api.patch_status(&change.node, &params, &patch);
    match tokio::time::timeout(TIMEOUT, sending).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 || answer.code == 409 => Ok(()),
        Ok(Err(error)) => Err(Error::Write(error, change.node.clone())),
        Err(_) => Err(Error::Timeout { node: change.node.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Cluster, in_state, selector, tuning};
    use crate::snapshot::Tuning;

    fn said(cluster: &Cluster) -> Vec<String> {
        let changes = wanted(&cluster.snapshot, || cluster.resolve_now());
        changes
            .iter()
            .map(|change| format!("{} {} {}", change.node, change.tuned.0, change.tuned.1))
            .collect()
    }

    /// What was wanted is written.
    fn write(cluster: &mut Cluster) {
        for change in wanted(&cluster.snapshot, || cluster.resolve_now()) {
            let (tuned, reason, _) = change.tuned;
            let status = if tuned { "True" } else { "False" }.into();
            cluster.edit_node(&change.node, |node| {
                node.status.conditions.retain(|condition| condition.type_ != TYPE);
                node.status.conditions.push(NodeCondition {
                    type_: TYPE.into(),
                    status,
                    reason: reason.into(),
                });
            });
        }
    }

    #[test]
    fn a_node_that_joins_is_tuned_when_its_agent_has_read_everything_back() {
        let mut cluster = Cluster::settled(&["n0"], vec![tuning("a", 30)]);
        write(&mut cluster);
        let n1 = crate::fixtures::node("n1");
        cluster.snapshot.nodes.insert("n1".into(), std::sync::Arc::new(n1));
        assert_eq!(said(&cluster), ["n1 false Pending"]);
        write(&mut cluster);
        assert!(said(&cluster).is_empty(), "written on change only");
        cluster.assign();
        assert!(said(&cluster).is_empty(), "still pending");
        cluster.agents_apply();
        assert_eq!(said(&cluster), ["n1 true InForce"]);
    }

    #[test]
    fn a_node_that_nobody_tunes_is_tuned() {
        assert_eq!(said(&Cluster::settled(&["n1"], vec![])), ["n1 true NothingOrdered"]);
    }

    #[test]
    fn a_node_that_nobody_tunes_yet_is_tuned_only_once_its_agent_has_answered() {
        let mut cluster = Cluster::settled(&["n0"], vec![tuning("a", 30)]);
        write(&mut cluster);
        cluster.edit_tuning("a", |a| a.with(|spec| spec.node_selector = selector("pool", "web")));
        let label = |cluster: &mut Cluster, name: &str| {
            cluster.edit_node(name, |node| node.set_label("pool", Some("web")));
        };
        label(&mut cluster, "n0");
        let n1 = crate::fixtures::node("n1");
        cluster.snapshot.nodes.insert("n1".into(), std::sync::Arc::new(n1));
        cluster.assign();
        assert_eq!(said(&cluster), ["n1 false Pending"]);
        write(&mut cluster);
        // Its label comes some seconds after it has registered.
        label(&mut cluster, "n1");
        assert!(said(&cluster).is_empty());
        cluster.assign();
        assert!(said(&cluster).is_empty(), "ordered, and not answered");
        cluster.agents_apply();
        assert_eq!(said(&cluster), ["n1 true InForce"]);
    }

    #[test]
    fn what_a_rule_refuses_keeps_the_node_untuned() {
        let mut cluster = Cluster::settled(&["n1"], vec![tuning("a", 30)]);
        cluster.agent_reports("n1", in_state("Refused", "no"));
        assert_eq!(said(&cluster), ["n1 false Refused"]);
    }

    #[test]
    fn a_node_that_was_tuned_once_stays_so_until_its_node_is_made_anew() {
        let mut cluster = Cluster::settled(&["n1"], vec![tuning("a", 30)]);
        write(&mut cluster);
        cluster.edit_tuning("a", |a: Tuning| a.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
        assert!(said(&cluster).is_empty());
        let anew = crate::fixtures::node("n1");
        cluster.snapshot.nodes.insert("n1".into(), std::sync::Arc::new(anew));
        assert_eq!(said(&cluster), ["n1 false Pending"]);
    }
}
