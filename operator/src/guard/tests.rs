use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

const CHART: &str = include_str!("../../../charts/tcp-close-tuning/templates/admission-policy.yaml");
const NODES: &Guard = &GUARDS[0];

/// What the chart makes of its template: the guards' policies and bindings.
fn chart() -> Vec<Value> {
    let (_, manifests) = CHART.split_at(CHART.find("apiVersion:").unwrap());
    let manifests = manifests.replace("{{ $name }}", "tcp-close-tuning");
    let lines = manifests.lines().filter(|line| !line.trim_start().starts_with("{{"));
    let text = lines.collect::<Vec<_>>().join("\n");
    serde_yaml::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap()).collect()
}

/// The gap of a guard of the chart after a change to its policy and its binding.
fn gap_after(guard: &Guard, change: impl FnOnce(&mut Value, &mut Value)) -> Option<&'static str> {
    let find = |kind: &str| {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == guard.name;
        chart().iter().find(is_it).unwrap().clone()
    };
    let mut policy = find("ValidatingAdmissionPolicy");
    let mut binding = find("ValidatingAdmissionPolicyBinding");
    change(&mut policy["spec"], &mut binding["spec"]);
    let (policy, binding) =
        (serde_json::from_value(policy).unwrap(), serde_json::from_value(binding).unwrap());
    gap(guard, Some(&policy), Some(&binding))
}

#[test]
fn the_policies_of_the_chart_leave_no_gap() {
    for guard in &GUARDS {
        assert_eq!(gap_after(guard, |_, _| {}), None, "{}", guard.name);
    }
}

#[test]
fn a_guard_has_as_many_validations_as_the_chart() {
    for guard in &GUARDS {
        let mut validations = 0;
        gap_after(guard, |policy, _| validations = policy["validations"].as_array().unwrap().len());
        assert_eq!(guard.validations, validations, "{}", guard.name);
    }
}

#[test]
fn what_an_api_server_fills_in_is_no_gap() {
    let filled = gap_after(NODES, |policy, _| {
        let constraints = &mut policy["matchConstraints"];
        (constraints["objectSelector"], constraints["namespaceSelector"]) = (json!({}), json!({}));
        constraints["matchPolicy"] = json!("Equivalent");
        constraints["resourceRules"][0]["scope"] = json!("*");
    });
    assert_eq!(filled, None);
    assert_eq!(gap_after(NODES, |policy, _| policy["failurePolicy"] = Value::Null), None);
}

#[test]
fn a_policy_or_a_binding_that_is_not_there_is_a_gap() {
    let [policy, binding] =
        [json!({ "metadata": {} }), json!({ "metadata": {}, "spec": { "policyName": NODES.name } })];
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(policy).unwrap();
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(binding).unwrap();
    assert_eq!(gap(NODES, None, Some(&binding)), Some("the policy does not exist"));
    assert_eq!(gap(NODES, Some(&policy), None), Some("its binding does not exist"));
    assert_eq!(gap(NODES, Some(&policy), Some(&binding)), Some("it is empty"));
}

#[test]
fn a_binding_that_holds_nobody_is_a_gap() {
    let bad = |change: fn(&mut Value)| gap_after(NODES, |_, binding| change(binding));
    for (gap, words) in [
        (bad(|spec| spec["validationActions"] = json!(["Audit", "Warn"])), "does not deny"),
        (bad(|spec| spec["policyName"] = json!("another")), "another policy"),
        (bad(|spec| spec["matchResources"] = json!({ "namespaceSelector": {} })), "matchResources"),
    ] {
        assert!(gap.is_some_and(|gap| gap.contains(words)), "{gap:?} lacks {words}");
    }
}

#[test]
fn a_policy_that_leaves_something_out_is_a_gap() {
    let bad = |change: fn(&mut Value)| gap_after(NODES, |policy, _| change(policy));
    for (gap, words) in [
        (bad(|spec| spec["failurePolicy"] = json!("Ignore")), "failurePolicy: Ignore"),
        (
            bad(|spec| spec["matchConditions"] = json!([{ "name": "never", "expression": "false" }])),
            "matchConditions",
        ),
        (bad(|spec| spec["matchConstraints"] = Value::Null), "no matchConstraints"),
        (
            bad(|spec| {
                let rules = spec["matchConstraints"]["resourceRules"].clone();
                spec["matchConstraints"]["excludeResourceRules"] = rules;
            }),
            "excludeResourceRules",
        ),
        (
            bad(|spec| spec["matchConstraints"]["objectSelector"] = json!({ "matchLabels": { "a": "b" } })),
            "objectSelector",
        ),
        (
            bad(|spec| {
                spec["matchConstraints"]["namespaceSelector"] = json!({ "matchLabels": { "a": "b" } });
            }),
            "namespaceSelector",
        ),
        (bad(|spec| spec["validations"] = json!([])), "validations"),
        (bad(|spec| drop(spec["validations"].as_array_mut().unwrap().pop())), "validations"),
        (bad(|spec| spec["validations"][1]["expression"] = json!("true")), "validations"),
    ] {
        assert!(gap.is_some_and(|gap| gap.contains(words)), "{gap:?} lacks {words}");
    }
}

#[test]
fn a_policy_that_does_not_look_at_every_write_is_a_gap() {
    let with = |field: &str, value: Value| {
        gap_after(NODES, |policy, _| policy["matchConstraints"]["resourceRules"][0][field] = value)
    };
    for (field, value) in [
        ("operations", json!(["CREATE"])),
        ("operations", json!(["UPDATE", "DELETE"])),
        ("resources", json!(["tcpclosenodes"])),
        ("resources", json!(["tcpclosenodes/status"])),
        ("resources", json!(["*"])),
        ("resources", json!(["tcpclosenodes", "tcpclosetunings/status"])),
        ("apiGroups", json!(["apps"])),
        ("apiVersions", json!(["v2"])),
        ("resourceNames", json!(["node-1"])),
        ("scope", json!("Namespaced")),
    ] {
        let gap = with(field, value.clone());
        assert!(gap.is_some_and(|gap| gap.contains("resourceRules")), "{field} {value}: {gap:?}");
    }
    for (field, value) in [
        ("operations", json!(["*"])),
        ("resources", json!(["*/*"])),
        ("resources", json!(["tcpclosenodes", "*/status"])),
        ("resources", json!(["*", "tcpclosenodes/status"])),
        ("apiGroups", json!(["*"])),
        ("apiVersions", json!(["v1alpha1"])),
        ("scope", json!("Cluster")),
    ] {
        assert_eq!(with(field, value.clone()), None, "{field} {value}");
    }
}

#[test]
fn two_rules_may_share_what_there_is_to_look_at() {
    let shared = gap_after(NODES, |policy, _| {
        let rules = &mut policy["matchConstraints"]["resourceRules"];
        let mut other = rules[0].clone();
        (rules[0]["operations"], other["operations"]) = (json!(["CREATE"]), json!(["UPDATE"]));
        rules.as_array_mut().unwrap().push(other);
    });
    assert_eq!(shared, None);
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
