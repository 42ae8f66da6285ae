//! Which nodes still have something to put back. Takes what a watch says; no client.

use std::collections::{BTreeMap, BTreeSet};

use crds::TcpCloseNode;
use crds::node::EntryAction;
use crds::state::State;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::resolve::{is_order, is_removed};
use crate::sanitize;
use crate::snapshot::OrderObject;

/// What is known of all nodes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    listed: bool,
    /// Nodes that had something to put back once.
    nodes: BTreeSet<String>,
    waiting: BTreeMap<String, Waiting>,
    /// Those of the list before, while a new one comes in.
    unseen: BTreeMap<String, Waiting>,
    /// What nobody will put back any more: keys and why.
    given_up: BTreeMap<String, (Vec<String>, String)>,
    /// Nodes whose objects cannot be decoded, and why.
    unreadable: BTreeMap<String, String>,
    trouble: Option<String>,
}

/// What a node has not put back yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    keys: Vec<String>,
    /// Whether the operator still orders one of them.
    ordered: bool,
    /// What the agent says went wrong.
    failed: Option<String>,
    reported_at: Option<Timestamp>,
}

/// How a Node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Ready,
    NotReady,
    Gone,
    Unknown,
}

/// What is left on one node.
pub(super) struct Left<'a> {
    pub(super) node: &'a str,
    keys: &'a [String],
    why: Why<'a>,
}

enum Why<'a> {
    Waiting(&'a Waiting),
    GivenUp(&'a str),
}

impl Ledger {
    /// Whether all nodes are known.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether all nodes are known, and nothing can be waited for.
    pub(super) fn is_settled(&self) -> bool {
        self.listed && self.waiting.is_empty()
    }

    /// How many nodes had something to put back.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// What to say where not every node was heard.
    pub(super) fn unheard(&self) -> Option<String> {
        let trouble = self.trouble.as_ref().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
        if !self.listed {
            return Some(format!(
                "the API server has not listed the TcpCloseNodes{trouble}: what the nodes hold is not known"
            ));
        }
        self.trouble
            .as_ref()
            .map(|_| format!("the API server stopped answering{trouble}: more may be put back by now"))
    }

    pub(super) fn note_trouble(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    pub(super) fn note(&mut self, event: Event<OrderObject>) {
        self.trouble = None;
        match event {
            Event::Init => self.unseen.append(&mut self.waiting),
            Event::InitApply(object) | Event::Apply(object) => self.note_object(object),
            Event::InitDone => {
                self.listed = true;
                for (name, waiting) in std::mem::take(&mut self.unseen) {
                    self.note_lost(name, waiting);
                }
            }
            Event::Delete(object) => {
                let name = object.name_any();
                if let Some(waiting) = self.waiting.remove(&name) {
                    self.note_lost(name, waiting);
                }
            }
        }
    }

    fn note_lost(&mut self, name: String, waiting: Waiting) {
        let why = "its TcpCloseNode was deleted before its agent had answered";
        self.given_up.insert(name, (waiting.keys, why.into()));
    }

    fn note_object(&mut self, object: OrderObject) {
        let name = object.name_any();
        self.unseen.remove(&name);
        self.waiting.remove(&name);
        self.unreadable.remove(&name);
        match object.0 {
            Err(invalid) => {
                let why = format!("its TcpCloseNode cannot be read ({})", sanitize::error(&invalid.error));
                self.nodes.insert(name.clone());
                self.unreadable.insert(name, why);
            }
            Ok(mut object) => {
                object.status.iter_mut().for_each(sanitize::status);
                self.note_skipped(&name, &object);
                if let Some(waiting) = waiting(&object) {
                    self.nodes.insert(name.clone());
                    self.waiting.insert(name, waiting);
                }
            }
        }
    }

    /// What a node leaves to another program stays as it is. It is said while its entry is there, and not after.
    fn note_skipped(&mut self, name: &str, object: &TcpCloseNode) {
        let is_skipped = |key: &str| {
            let mut entries = object.spec.sysctls.iter();
            entries.any(|entry| entry.name == key && entry.action == EntryAction::Restore)
                && is_removed(object, key)
        };
        let rows = object.status.iter().flat_map(|status| &status.sysctls);
        let skipped = rows.filter(|row| State::parse(&row.state) == Some(State::RestoreSkipped));
        let skipped: Vec<_> = skipped.filter(|row| is_skipped(&row.name)).collect();
        if let Some(first) = skipped.first() {
            let why = first.message.clone().unwrap_or_else(|| "another program has changed it".into());
            let keys = skipped.iter().map(|row| row.name.clone()).collect();
            self.nodes.insert(name.into());
            self.given_up.insert(name.into(), (keys, why));
        }
    }

    /// What is left, by node.
    pub(super) fn left(&self) -> impl Iterator<Item = Left<'_>> {
        let waiting = self.waiting.iter().chain(&self.unseen);
        let waiting =
            waiting.map(|(node, waiting)| Left { node, keys: &waiting.keys, why: Why::Waiting(waiting) });
        let given_up =
            self.given_up.iter().map(|(node, (keys, why))| Left { node, keys, why: Why::GivenUp(why) });
        let unreadable =
            self.unreadable.iter().map(|(node, why)| Left { node, keys: &[], why: Why::GivenUp(why) });
        let mut left: Vec<_> = waiting.chain(given_up).chain(unreadable).collect();
        left.sort_by_key(|left| left.node);
        left.into_iter()
    }
}

/// What a node has not put back yet; `None` where it has put back everything.
fn waiting(object: &TcpCloseNode) -> Option<Waiting> {
    let entries = object.spec.sysctls.iter();
    let left: Vec<_> = entries.filter(|entry| is_order(entry) || !is_removed(object, &entry.name)).collect();
    left.first()?;
    let status = object.status.as_ref();
    let rows = status.into_iter().flat_map(|status| &status.sysctls);
    let mut failed = rows.filter(|row| State::parse(&row.state) == Some(State::Failed));
    Some(Waiting {
        keys: left.iter().map(|entry| entry.name.clone()).collect(),
        ordered: left.iter().any(|entry| is_order(entry)),
        failed: failed.find_map(|row| row.message.clone()),
        reported_at: status.and_then(|status| Some(status.reported_at.as_ref()?.0)),
    })
}

impl Left<'_> {
    /// A line for people: `node-2: net.ipv4.tcp_fin_timeout: the Node is not Ready`.
    pub(super) fn said(&self, health: Health) -> String {
        let why = match self.why {
            Why::GivenUp(why) => why.to_string(),
            Why::Waiting(waiting) => waiting.said(health),
        };
        match self.keys.join(", ") {
            keys if keys.is_empty() => format!("{}: {why}", self.node),
            keys => format!("{}: {keys}: {why}", self.node),
        }
    }
}

impl Waiting {
    fn said(&self, health: Health) -> String {
        match (health, &self.failed, self.reported_at) {
            (Health::Gone, ..) => "its Node is gone".into(),
            (Health::NotReady, ..) => "its Node is not Ready".into(),
            _ if self.ordered => {
                "the operator has not taken the order back: it does not run, or cannot write".into()
            }
            (_, Some(failed), _) => failed.clone(),
            (_, None, Some(at)) => format!("its agent has not answered; it last reported at {at:.0}"),
            (_, None, None) => "its agent has not answered, and has never reported".into(),
        }
    }
}
