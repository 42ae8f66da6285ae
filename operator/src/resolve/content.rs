//! What a tuning has for a node: its spec, or what its rollout leaves there meanwhile.

use std::collections::HashMap;

use crds::TcpCloseNode;
use crds::node::{EntryAction, SysctlEntry, TuningReference};
use crds::tuning::{DriftPolicyName, RemovalPolicy, Safety, StableRevision, Sysctls, TcpCloseTuningSpec};
use tcp_close::Sysctl;

use super::is_order;
use crate::snapshot::Tuning;

/// Which content of a tuning a node is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Content {
    /// What its spec says.
    #[default]
    Spec,
    /// What completed last; nothing, where nothing has.
    Stable,
    /// The same, on a node that a later revision has changed: it is taken back.
    Rollback,
    /// What the node has been ordered: neither the spec, nor what completed last.
    AsOrdered,
}

/// The contents that are not the spec's, by the uid of the tuning and the name of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents(HashMap<String, HashMap<String, Content>>);

impl Contents {
    /// Every node is to have what the specs say.
    pub fn as_specified() -> Self {
        Self::default()
    }

    /// Whether every node is to have what the specs say.
    pub fn are_as_specified(&self) -> bool {
        self.0.is_empty()
    }

    /// What nodes are to have of a tuning; those that are not named are to have its spec.
    pub fn set<'a>(&mut self, tuning: &str, nodes: impl Iterator<Item = (&'a str, Content)>) {
        let others = nodes.filter(|(_, content)| *content != Content::Spec);
        let others: HashMap<_, _> = others.map(|(name, content)| (name.to_string(), content)).collect();
        if !others.is_empty() {
            self.0.insert(tuning.into(), others);
        }
    }

    /// What a node is to have of a tuning.
    pub fn of(&self, tuning: &str, node: &str) -> Content {
        self.0.get(tuning).and_then(|nodes| nodes.get(node)).copied().unwrap_or_default()
    }
}

/// One revision of a tuning: what it orders, and on which terms.
#[derive(Clone, Copy)]
struct Revision<'a> {
    name: &'a str,
    sysctls: &'a Sysctls,
    safety: Option<&'a Safety>,
    drift_policy: DriftPolicyName,
    removal_policy: RemovalPolicy,
}

impl<'a> Revision<'a> {
    fn of_spec(tuning: &'a Tuning, spec: &'a TcpCloseTuningSpec) -> Self {
        Self {
            name: &tuning.revision,
            sysctls: &spec.sysctls,
            safety: spec.safety.as_ref(),
            drift_policy: spec.drift_policy(),
            removal_policy: spec.removal_policy(),
        }
    }

    fn of_stable(stable: &'a StableRevision) -> Self {
        Self {
            name: &stable.revision,
            sysctls: &stable.sysctls,
            safety: stable.safety.as_ref(),
            drift_policy: stable.drift_policy.unwrap_or_default(),
            removal_policy: stable.removal_policy.unwrap_or_default(),
        }
    }
}

/// A tuning that is for a node, with what it has for it.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) tuning: &'a Tuning,
    pub(super) spec: &'a TcpCloseTuningSpec,
    what: What<'a>,
    /// Whether it takes the node back, or has.
    pub(super) rollback: bool,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Revision(Revision<'a>),
    AsOrdered(&'a TcpCloseNode),
    Nothing,
}

impl<'a> Offer<'a> {
    pub(super) fn new(
        tuning: &'a Tuning,
        spec: &'a TcpCloseTuningSpec,
        content: Content,
        prior: Option<&'a TcpCloseNode>,
    ) -> Self {
        let stable = || tuning.stable().map(Revision::of_stable).map_or(What::Nothing, What::Revision);
        let what = match content {
            Content::Spec => What::Revision(Revision::of_spec(tuning, spec)),
            Content::Stable | Content::Rollback => stable(),
            Content::AsOrdered => prior.map_or(What::Nothing, What::AsOrdered),
        };
        // What took a node back says so until the node is ordered another revision.
        let is_back_already = || {
            let What::Revision(revision) = what else { return false };
            let mut own = prior.into_iter().flat_map(|prior| orders_of(prior, &tuning.uid));
            own.any(|entry| entry.rollback == Some(true) && entry.tuning.revision == revision.name)
        };
        Self { tuning, spec, what, rollback: content == Content::Rollback || is_back_already() }
    }

    /// What it orders for this key.
    pub(super) fn value(&self, sysctl: Sysctl) -> Option<i64> {
        match self.what {
            What::Revision(revision) => revision.sysctls.get(sysctl),
            What::AsOrdered(order) => self.last(order, sysctl)?.value,
            What::Nothing => None,
        }
    }

    /// Its order for this key, if it has one.
    pub(super) fn entry(&self, sysctl: Sysctl) -> Option<SysctlEntry> {
        match self.what {
            What::Revision(revision) => {
                let value = revision.sysctls.get(sysctl)?;
                let entry =
                    entry(sysctl.name(), EntryAction::Set, Some(value), self.tuning, self.spec, &revision);
                Some(SysctlEntry { rollback: self.rollback.then_some(true), ..entry })
            }
            What::AsOrdered(order) => {
                let last = self.last(order, sysctl)?;
                // Priority is no part of a revision: it counts at once.
                Some(SysctlEntry { priority: priority(self.spec), ..last.clone() })
            }
            What::Nothing => None,
        }
    }

    fn last(&self, order: &'a TcpCloseNode, sysctl: Sysctl) -> Option<&'a SysctlEntry> {
        orders_of(order, &self.tuning.uid).find(|entry| entry.name == sysctl.name())
    }
}

/// The entries by which a tuning keeps values in force on a node.
pub fn orders_of<'a>(order: &'a TcpCloseNode, tuning: &'a str) -> impl Iterator<Item = &'a SysctlEntry> {
    order.spec.sysctls.iter().filter(move |entry| entry.tuning.uid == tuning && is_order(entry))
}

/// The order that keeps a value as it is: the tuning only observes now. It is still of the revision that ordered the value:
/// a node that is down meanwhile has not been ordered a change.
pub(super) fn hold(last: &SysctlEntry, tuning: &Tuning, spec: &TcpCloseTuningSpec) -> SysctlEntry {
    let revision = Revision { name: &last.tuning.revision, ..Revision::of_spec(tuning, spec) };
    entry(&last.name, EntryAction::Hold, last.value, tuning, spec, &revision)
}

/// The order of a tuning for one key. What the tuning leaves at its default is left out, so that an order of an earlier
/// version keeps its revision.
fn entry(
    name: &str,
    action: EntryAction,
    value: Option<i64>,
    tuning: &Tuning,
    spec: &TcpCloseTuningSpec,
    revision: &Revision<'_>,
) -> SysctlEntry {
    SysctlEntry {
        name: name.into(),
        action,
        value,
        tuning: TuningReference {
            name: tuning.name.clone(),
            uid: tuning.uid.clone(),
            revision: revision.name.into(),
        },
        priority: priority(spec),
        safety: revision.safety.cloned().unwrap_or_default(),
        drift_policy: Some(revision.drift_policy).filter(|policy| *policy != DriftPolicyName::Correct),
        removal_policy: revision.removal_policy,
        rollback: None,
    }
}

fn priority(spec: &TcpCloseTuningSpec) -> Option<i32> {
    Some(spec.priority()).filter(|priority| *priority != 0)
}
