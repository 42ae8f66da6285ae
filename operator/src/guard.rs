//! Guard: whether the policies are in place by which the API server holds every agent to its own node. Without them nothing
//! breaks, and nothing would be noticed: so this looks, and says.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{Api, Client, ResourceExt};

use crate::event::{Events, Transition};
use crate::lead::Leadership;
use crate::metrics::Metrics;

/// How often it looks: four small reads.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(10);
const DENY: &str = "Deny";

/// A policy of the chart, whose binding has the same name.
#[derive(Debug)]
pub struct Guard {
    /// Its name.
    pub name: &'static str,
    /// What is possible without it.
    without: &'static str,
}

/// The policies of the chart.
pub const GUARDS: [Guard; 2] = [
    Guard {
        name: "tcp-close-tuning-nodes",
        without: "an agent that somebody has taken over can write the report of every other node",
    },
    Guard {
        name: "tcp-close-tuning-tunings",
        without: "an administrator can write a tuning's status, which pipelines take for the operator's word",
    },
];

/// Why a policy does not hold anybody; `None` where it does.
pub fn gap(
    policy: Option<&ValidatingAdmissionPolicy>,
    binding: Option<&ValidatingAdmissionPolicyBinding>,
) -> Option<&'static str> {
    let Some(policy) = policy else { return Some("the policy does not exist") };
    let Some(binding) = binding else { return Some("its binding does not exist") };
    let failure_policy = policy.spec.as_ref().and_then(|spec| spec.failure_policy.as_deref());
    if policy.metadata.name.as_ref() != Some(&binding.spec.policy_name) {
        Some("its binding names another policy")
    } else if !binding.spec.validation_actions.iter().any(|action| action == DENY) {
        Some("its binding does not deny")
    } else if binding.spec.match_resources.is_some() {
        Some("its binding leaves something out (matchResources)")
    } else if failure_policy == Some("Ignore") {
        Some("it lets pass what it cannot judge (failurePolicy: Ignore)")
    } else {
        None
    }
}

/// What to tell people who were told of another gap, or of none.
fn transition(guard: &Guard, told: Option<&str>, now: Option<&str>) -> Option<Transition> {
    if told == now {
        return None;
    }
    let Guard { name, without } = guard;
    let message = now.map_or_else(
        || format!("ValidatingAdmissionPolicy {name} is in place again"),
        |why| {
            format!(
                "ValidatingAdmissionPolicy {name} holds nobody ({why}): {without}. Put it back with `helm upgrade`, with \
                 admissionPolicy.enabled=true"
            )
        },
    );
    let (warning, reason) = if now.is_some() { (true, "GuardMissing") } else { (false, "GuardInPlace") };
    Some(Transition { warning, reason: reason.into(), message })
}

/// A policy that could not be looked at.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("look whether ValidatingAdmissionPolicy {1} is in place")]
    Read(#[source] kube::Error, &'static str),
    #[error("look whether ValidatingAdmissionPolicy {name} is in place: no answer within {} s", TIMEOUT.as_secs())]
    Timeout { name: &'static str },
}

/// Looks for ever, as long as this operator leads.
pub async fn watch_over(client: Client, mut leadership: Leadership, events: Events, metrics: Metrics) {
    let mut posts = GUARDS.each_ref().map(|guard| Post { guard, told: None, failing: false });
    loop {
        for post in &mut posts {
            let in_place = if leadership.may_write() { post.look(&client, &events).await } else { None };
            metrics.show_guard(post.guard.name, in_place);
        }
        tokio::select! {
            () = leadership.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// What was said of one policy.
struct Post {
    guard: &'static Guard,
    told: Option<&'static str>,
    failing: bool,
}

impl Post {
    /// Whether the policy is in place; `None` where that could not be found out.
    async fn look(&mut self, client: &Client, events: &Events) -> Option<bool> {
        let name = self.guard.name;
        let reading = tokio::time::timeout(TIMEOUT, read(client, name)).await;
        match reading.unwrap_or(Err(Error::Timeout { name })) {
            Ok((uid, gap)) => {
                if let Some(transition) = transition(self.guard, self.told, gap) {
                    events.tell_of_policy(name, uid.as_deref(), transition);
                }
                (self.told, self.failing) = (gap, false);
                Some(gap.is_none())
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!("{}", crate::chain(&error));
                }
                self.failing = true;
                None
            }
        }
    }
}

/// The uid of the policy, where it exists, and why it does not hold anybody.
async fn read(client: &Client, name: &'static str) -> Result<(Option<String>, Option<&'static str>), Error> {
    let failed = |error| Error::Read(error, name);
    let policy = Api::<ValidatingAdmissionPolicy>::all(client.clone()).get_opt(name).await.map_err(failed)?;
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone());
    let binding = bindings.get_opt(name).await.map_err(failed)?;
    let uid = policy.as_ref().and_then(ResourceExt::uid);
    Ok((uid, gap(policy.as_ref(), binding.as_ref())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NODES: &Guard = &GUARDS[0];

    fn policy(failure_policy: &str) -> ValidatingAdmissionPolicy {
        let spec = json!({ "failurePolicy": failure_policy });
        serde_json::from_value(json!({ "metadata": { "name": NODES.name }, "spec": spec })).unwrap()
    }

    fn binding(change: impl FnOnce(&mut Value)) -> ValidatingAdmissionPolicyBinding {
        let mut spec = json!({ "policyName": NODES.name, "validationActions": ["Deny"] });
        change(&mut spec);
        serde_json::from_value(json!({ "metadata": { "name": NODES.name }, "spec": spec })).unwrap()
    }

    #[test]
    fn a_policy_with_a_binding_that_denies_leaves_no_gap() {
        assert_eq!(gap(Some(&policy("Fail")), Some(&binding(|_| {}))), None);
    }

    #[test]
    fn whatever_makes_a_policy_hold_nobody_is_a_gap() {
        let bad = |change: fn(&mut Value)| gap(Some(&policy("Fail")), Some(&binding(change)));
        for (gap, words) in [
            (gap(None, Some(&binding(|_| {}))), "the policy does not exist"),
            (gap(Some(&policy("Fail")), None), "its binding does not exist"),
            (gap(Some(&policy("Ignore")), Some(&binding(|_| {}))), "failurePolicy: Ignore"),
            (bad(|spec| spec["validationActions"] = json!(["Audit", "Warn"])), "does not deny"),
            (bad(|spec| spec["policyName"] = json!("another")), "another policy"),
            (bad(|spec| spec["matchResources"] = json!({ "namespaceSelector": {} })), "matchResources"),
        ] {
            assert!(gap.is_some_and(|gap| gap.contains(words)), "{gap:?} lacks {words}");
        }
    }

    #[test]
    fn a_gap_is_told_once_with_what_it_means_and_what_to_do() {
        let gap = Some("the policy does not exist");
        let first = transition(NODES, None, gap).unwrap();
        assert_eq!((first.warning, first.reason.as_str()), (true, "GuardMissing"));
        for words in ["the policy does not exist", "the report of every other node", "helm upgrade"] {
            assert!(first.message.contains(words), "{} lacks {words}", first.message);
        }
        assert_eq!(transition(NODES, gap, gap), None);
        assert!(transition(NODES, gap, Some("its binding does not exist")).is_some());
    }

    #[test]
    fn a_guard_that_is_put_back_is_told_and_one_that_was_never_missing_is_not() {
        assert_eq!(transition(NODES, None, None), None);
        let back = transition(NODES, Some("the policy does not exist"), None).unwrap();
        assert_eq!((back.warning, back.reason.as_str()), (false, "GuardInPlace"));
    }
}
