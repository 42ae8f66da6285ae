//! Guard: whether the policies are in place by which the API server holds every agent to its own node. Without them nothing
//! breaks, and nothing would be noticed: so this looks, and says.

use std::time::Duration;

use crds::TcpCloseNode;
use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, Client, Resource, ResourceExt};

use crate::event::{Events, Transition};
use crate::lead::Leadership;
use crate::metrics::Metrics;

/// How often it looks: four small reads.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(10);
const DENY: &str = "Deny";
/// What a policy has to look at. A patch is an update.
const OPERATIONS: [&str; 2] = ["CREATE", "UPDATE"];

/// A policy of the chart, whose binding has the same name.
#[derive(Debug)]
pub struct Guard {
    /// Its name.
    pub name: &'static str,
    /// What is possible without it.
    without: &'static str,
    /// What it has to look at.
    resources: &'static [&'static str],
    /// How many validations it has at least.
    validations: usize,
}

/// The policies of the chart.
pub const GUARDS: [Guard; 2] = [
    Guard {
        name: "tcp-close-tuning-nodes",
        without: "an agent that somebody has taken over can write the report of every other node",
        resources: &["tcpclosenodes", "tcpclosenodes/status"],
        validations: 5,
    },
    Guard {
        name: "tcp-close-tuning-tunings",
        without: "an administrator can write a tuning's status, which pipelines take for the operator's word",
        resources: &["tcpclosetunings/status"],
        validations: 1,
    },
];

/// Why a policy does not hold everybody; `None` where it does. Whoever may change policies can still hide a hole in the words of
/// a validation: this is about what is missing.
fn gap(
    guard: &Guard,
    policy: Option<&ValidatingAdmissionPolicy>,
    binding: Option<&ValidatingAdmissionPolicyBinding>,
) -> Option<&'static str> {
    let Some(policy) = policy else { return Some("the policy does not exist") };
    let Some(binding) = binding else { return Some("its binding does not exist") };
    let Some(spec) = &policy.spec else { return Some("it is empty") };
    gap_of_binding(guard, &binding.spec).or_else(|| gap_of_policy(guard, spec))
}

fn gap_of_binding(guard: &Guard, binding: &ValidatingAdmissionPolicyBindingSpec) -> Option<&'static str> {
    if binding.policy_name != guard.name {
        Some("its binding names another policy")
    } else if !binding.validation_actions.iter().any(|action| action == DENY) {
        Some("its binding does not deny")
    } else if binding.match_resources.is_some() {
        Some("its binding leaves something out (matchResources)")
    } else {
        None
    }
}

fn gap_of_policy(guard: &Guard, policy: &ValidatingAdmissionPolicySpec) -> Option<&'static str> {
    let Some(constraints) = &policy.match_constraints else {
        return Some("it looks at nothing (no matchConstraints)");
    };
    // An API server writes an empty selector where there was none.
    let selects = |selector: &Option<LabelSelector>| {
        selector.as_ref().is_some_and(|it| *it != LabelSelector::default())
    };
    let holding =
        policy.validations.iter().flatten().filter(|validation| validation.expression.trim() != "true");
    // Absent, it is Fail.
    if policy.failure_policy.as_deref().is_some_and(|policy| policy != "Fail") {
        Some("it lets pass what it cannot judge (failurePolicy: Ignore)")
    } else if policy.match_conditions.iter().flatten().next().is_some() {
        Some("it leaves something out (matchConditions)")
    } else if constraints.exclude_resource_rules.iter().flatten().next().is_some() {
        Some("it leaves something out (matchConstraints.excludeResourceRules)")
    } else if selects(&constraints.object_selector) {
        Some("it leaves something out (matchConstraints.objectSelector)")
    } else if selects(&constraints.namespace_selector) {
        Some("it leaves something out (matchConstraints.namespaceSelector)")
    } else if !guard.resources.iter().all(|resource| looks_at(constraints, resource)) {
        Some("it does not look at every write that it is about (matchConstraints.resourceRules)")
    } else if holding.count() < guard.validations {
        Some("some of its validations are missing")
    } else {
        None
    }
}

/// Whether a policy looks at every write to a resource.
fn looks_at(constraints: &MatchResources, resource: &str) -> bool {
    OPERATIONS.iter().all(|operation| {
        constraints.resource_rules.iter().flatten().any(|rule| is_about(rule, resource, operation))
    })
}

fn is_about(rule: &NamedRuleWithOperations, resource: &str, operation: &str) -> bool {
    let has = |list: &Option<Vec<String>>, wanted: &str| {
        list.iter().flatten().any(|item| item == wanted || item == "*")
    };
    let (_, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let is_resource = rule.resources.iter().flatten().any(|pattern| match pattern.split_once('/') {
        Some(("*", pattern)) => pattern == "*" || pattern == sub,
        // Without a subresource it is about none.
        None if pattern == "*" => sub.is_empty(),
        Some(_) | None => pattern == resource,
    });
    is_resource
        && has(&rule.operations, operation)
        && has(&rule.api_groups, TcpCloseNode::group(&()).as_ref())
        && has(&rule.api_versions, TcpCloseNode::version(&()).as_ref())
        && rule.resource_names.iter().flatten().next().is_none()
        && rule.scope.as_deref().is_none_or(|scope| scope != "Namespaced")
}

/// What to tell people who were told of another gap, or of none.
fn transition(guard: &Guard, told: Option<&str>, now: Option<&str>) -> Option<Transition> {
    if told == now {
        return None;
    }
    let Guard { name, without, .. } = guard;
    let message = now.map_or_else(
        || format!("ValidatingAdmissionPolicy {name} is in place again"),
        |why| {
            format!(
                "ValidatingAdmissionPolicy {name} is not in place ({why}): {without}. Put it back with `helm upgrade`, with \
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
        let reading = tokio::time::timeout(TIMEOUT, read(client, self.guard)).await;
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
async fn read(client: &Client, guard: &Guard) -> Result<(Option<String>, Option<&'static str>), Error> {
    let name = guard.name;
    let failed = |error| Error::Read(error, name);
    let policy = Api::<ValidatingAdmissionPolicy>::all(client.clone()).get_opt(name).await.map_err(failed)?;
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone());
    let binding = bindings.get_opt(name).await.map_err(failed)?;
    let uid = policy.as_ref().and_then(ResourceExt::uid);
    Ok((uid, gap(guard, policy.as_ref(), binding.as_ref())))
}

#[cfg(test)]
mod tests;
