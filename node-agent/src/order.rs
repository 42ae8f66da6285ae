//! Decodes a node's order. What this agent does not know is set aside with a reason, and blinds nothing else.

use crds::node::{EntryAction, ObservedTuning, SysctlEntry};
use crds::tuning::{DriftPolicyName, Safety};
use crds::{TcpCloseNode, state::State};
use tcp_close::Sysctl;
use tcp_close::order::{Action, Entries, Entry};

use crate::journal::OrderMark;

/// One node's order.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which object, and which generation of it.
    pub mark: OrderMark,
    /// The uid of the Node that it is for.
    pub node_uid: String,
    /// Names the entries.
    pub revision: String,
    /// How often to report when nothing of note changes.
    pub report_interval_seconds: u32,
    /// How often to report counts that move.
    pub counts_interval_seconds: u32,
    /// The entries that this agent can carry out.
    pub entries: Entries,
    /// Those that it cannot.
    pub set_aside: Vec<SetAside>,
    /// What only to observe.
    pub observe: Vec<ObservedTuning>,
}

/// An entry that this agent cannot carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The name in the entry.
    pub name: String,
    /// The tuning that ordered it.
    pub tuning: String,
    /// Unsupported or Failed.
    pub state: State,
    /// Why.
    pub message: String,
}

impl Order {
    /// Decodes the spec of a node's object.
    pub fn decode(object: &TcpCloseNode) -> Self {
        let spec = &object.spec;
        let mut entries = Entries::new();
        let mut set_aside = Vec::new();
        for saved in &spec.sysctls {
            match decode_entry(saved) {
                Ok((sysctl, entry)) => drop(entries.insert(sysctl, entry)),
                Err(reason) => set_aside.push(reason),
            }
        }
        Self {
            mark: OrderMark::of(object),
            node_uid: spec.node_uid.clone(),
            revision: spec.revision.clone(),
            report_interval_seconds: spec.report_interval_seconds,
            counts_interval_seconds: spec.counts_interval_seconds(),
            entries,
            set_aside,
            observe: spec.observe.to_vec(),
        }
    }

    /// The order of a person at the node, which no object holds. It is never old.
    pub fn of_person(entries: Entries, observe: Vec<ObservedTuning>) -> Self {
        Self {
            mark: OrderMark { uid: "standalone".into(), generation: 0 },
            node_uid: String::new(),
            revision: String::new(),
            report_interval_seconds: 0,
            counts_interval_seconds: 0,
            entries,
            set_aside: Vec::new(),
            observe,
        }
    }

    /// Whether something is to be taken back or let go.
    pub fn removes(&self) -> bool {
        self.entries.values().any(|entry| matches!(entry.action, Action::Restore | Action::Release))
    }

    /// The order without what takes back or lets go.
    pub fn without_removals(&self) -> Entries {
        let keep = |entry: &Entry| !matches!(entry.action, Action::Restore | Action::Release);
        self.entries
            .iter()
            .filter(|(_, entry)| keep(entry))
            .map(|(&sysctl, entry)| (sysctl, entry.clone()))
            .collect()
    }
}

fn decode_entry(saved: &SysctlEntry) -> Result<(Sysctl, Entry), SetAside> {
    let set_aside = |state, message| SetAside {
        name: saved.name.clone(),
        tuning: saved.tuning.name.clone(),
        state,
        message,
    };
    let Some(sysctl) = Sysctl::from_name(&saved.name) else {
        let version = env!("CARGO_PKG_VERSION");
        return Err(set_aside(State::Unsupported, format!("agent {version} does not know this sysctl")));
    };
    let action = match (saved.action, saved.value) {
        (EntryAction::Set, Some(value)) => Action::Set(value),
        (EntryAction::Hold, Some(value)) => Action::Hold(value),
        (EntryAction::Set | EntryAction::Hold, None) => {
            return Err(set_aside(State::Failed, "the order has no value".into()));
        }
        (EntryAction::Restore, _) => Action::Restore,
        (EntryAction::Release, _) => Action::Release,
    };
    let priority = saved.priority.unwrap_or_default();
    let drift_policy = saved.drift_policy.unwrap_or_default();
    let entry = entry(action, &saved.tuning.name, priority, &saved.safety, drift_policy);
    Ok((sysctl, Entry { rollback: saved.rollback.unwrap_or_default(), ..entry }))
}

/// What a tuning orders of one sysctl, with what it says of itself.
pub fn entry(
    action: Action,
    tuning: &str,
    priority: i32,
    safety: &Safety,
    drift_policy: DriftPolicyName,
) -> Entry {
    Entry {
        action,
        tuning: tuning.into(),
        priority,
        clients_behind_nat: safety.clients_behind_nat(),
        acknowledged: safety.acknowledged(),
        drift_policy: drift_policy.into(),
        rollback: false,
    }
}

/// What a tuning would order here if it did not only observe. Its priority counts for nothing, and it puts nothing right.
pub fn hypothetical(observed: &ObservedTuning) -> Entries {
    let ObservedTuning { tuning, sysctls, safety } = observed;
    let entry = |value| entry(Action::Set(value), &tuning.name, 0, safety, DriftPolicyName::default());
    sysctls.values().into_iter().map(|(sysctl, value)| (sysctl, entry(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(sysctls: &serde_json::Value) -> TcpCloseNode {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "tcpclose.dev/v1alpha1",
            "kind": "TcpCloseNode",
            "metadata": { "name": "node-1", "uid": "u", "generation": 3 },
            "spec": { "nodeUID": "n", "revision": "r", "reportIntervalSeconds": 20, "sysctls": sysctls },
        }))
        .unwrap()
    }

    fn entry(name: &str, action: &str, value: Option<i64>) -> serde_json::Value {
        let mut entry = serde_json::json!({
            "name": name, "action": action, "removalPolicy": "Restore",
            "tuning": { "name": "web", "uid": "t", "revision": "1" },
        });
        if let Some(value) = value {
            entry["value"] = value.into();
        }
        entry
    }

    #[test]
    fn a_sysctl_that_the_agent_does_not_know_is_set_aside_and_the_rest_is_carried_out() {
        let order = Order::decode(&object(&serde_json::json!([
            entry("net.ipv4.tcp_fin_timeout", "Set", Some(30)),
            entry("kernel.panic", "Set", Some(1)),
        ])));
        assert_eq!(order.entries.keys().collect::<Vec<_>>(), [&Sysctl::FinTimeout]);
        assert_eq!(order.set_aside[0].state, State::Unsupported);
    }

    #[test]
    fn a_return_to_the_stable_revision_is_read_as_one() {
        let mut back = entry("net.ipv4.tcp_fin_timeout", "Set", Some(30));
        back["rollback"] = true.into();
        let order = Order::decode(&object(&serde_json::json!([
            back,
            entry("net.ipv4.tcp_tw_reuse", "Set", Some(1))
        ])));
        let rollback = |sysctl| order.entries[&sysctl].rollback;
        assert_eq!((rollback(Sysctl::FinTimeout), rollback(Sysctl::TwReuse)), (true, false));
    }

    #[test]
    fn an_order_of_0_1_0_that_says_nothing_of_counts_has_them_reported_as_ever() {
        let counts = |interval, counts| {
            let mut object = object(&serde_json::json!([]));
            (object.spec.report_interval_seconds, object.spec.counts_interval_seconds) = (interval, counts);
            Order::decode(&object).counts_interval_seconds
        };
        assert_eq!((counts(20, None), counts(60, None), counts(300, None)), (5, 60, 300));
        assert_eq!((counts(20, Some(20)), counts(60, Some(5)), counts(20, Some(60))), (20, 5, 20));
    }

    #[test]
    fn an_order_to_set_nothing_is_set_aside() {
        let order =
            Order::decode(&object(&serde_json::json!([entry("net.ipv4.tcp_fin_timeout", "Set", None)])));
        assert!(order.entries.is_empty());
        assert_eq!(order.set_aside[0].state, State::Failed);
    }

    #[test]
    fn removals_can_be_left_out() {
        let order = Order::decode(&object(&serde_json::json!([
            entry("net.ipv4.tcp_fin_timeout", "Set", Some(30)),
            entry("net.ipv4.tcp_tw_reuse", "Restore", None),
        ])));
        assert!(order.removes());
        assert_eq!(order.without_removals().keys().collect::<Vec<_>>(), [&Sysctl::FinTimeout]);
    }
}
