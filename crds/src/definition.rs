//! The definitions that a cluster installs, generated from the types and from the catalogue.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::Schema;
use serde_json::{Map, Value, json};
use tcp_close::Sysctl;
use tcp_close::catalogue::{DefaultValue, Facts, Unit};
use tcp_close::rule::RULES;

use crate::tuning::{NodeSelector, NodeSelectorRequirement};
use crate::{TcpCloseNode, TcpCloseTuning};

/// Whether an object is changed, and not made.
const HAS_OLD_SELF: &str = "oldSelf.hasValue()";

/// A definition could not be generated: a mistake in this crate, which a test finds.
pub type Error = serde_json::Error;

/// The schema of a sysctl's field: its bounds and what it means, from the catalogue.
pub(crate) fn sysctl_schema(sysctl: Sysctl) -> Schema {
    let facts = sysctl.facts();
    schemars::json_schema!({
        "type": "integer",
        "format": "int64",
        "minimum": facts.orderable.start(),
        "maximum": facts.orderable.end(),
        "description": describe(sysctl, &facts),
    })
}

fn describe(sysctl: Sysctl, facts: &Facts) -> String {
    let unit = match facts.unit {
        Unit::Retries | Unit::Choice => "",
        Unit::Sockets => " in sockets,",
        Unit::Seconds => " in seconds,",
        Unit::Milliseconds => " in milliseconds,",
    };
    // `kubectl explain` shows no bounds but those in the text.
    let bounds = format!("{} to {}", facts.orderable.start(), facts.orderable.end());
    let default = match facts.default {
        DefaultValue::Fixed(value) => format!("The kernel's default is {value}."),
        DefaultValue::Changed(before, since, after) => {
            format!("The kernel's default is {after}, before {since} {before}.")
        }
        DefaultValue::HalfOfHashTable => {
            "The kernel's default follows the memory: 16384 with 4 GiB, 131072 with 32, at most 262144."
                .into()
        }
    };
    let life = match (facts.since, facts.removed) {
        (Some(since), _) => format!(" Since Linux {since}."),
        (None, Some(removed)) => format!(" Removed in Linux {removed}."),
        (None, None) => String::new(),
    };
    format!("{sysctl},{unit} {bounds}. {} {default}{life} Note: {}", facts.does, facts.misbelief)
}

/// The definition of `TcpCloseTuning`.
///
/// # Errors
/// See [`Error`].
pub fn tuning() -> Result<CustomResourceDefinition, Error> {
    let mut definition = serde_json::to_value(TcpCloseTuning::crd())?;
    finish(&mut definition);
    let spec = property(&mut definition, &["spec"]);
    for rule in RULES {
        if let (Some(cel), Some(breach), Some(sysctl)) = (rule.cel(), rule.breach_as_cel(), rule.sysctl) {
            let field = format!("sysctls.{}", sysctl.field());
            let cel = ratcheting(&cel, &breach, &field);
            validate(spec, &cel, &rule.object_message(), Some(&format!(".{field}")));
        }
    }
    let sysctls = property(&mut definition, &["spec", "sysctls"]);
    sysctls.insert("minProperties".into(), json!(1));
    for path in SELECTORS {
        selector_rules(&mut definition, path);
    }
    serde_json::from_value(definition)
}

/// Where a tuning selects nodes.
const SELECTORS: [&[&str]; 2] = [&["spec", "nodeSelector"], &["spec", "rollout", "canary", "nodeSelector"]];

fn selector_rules(definition: &mut Value, path: &[&str]) {
    validate(
        property(definition, path),
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || \
         (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
        NodeSelector::EMPTY,
        None,
    );
    let expressions = property(definition, &[path, &["matchExpressions"]].concat());
    if let Some(Value::Object(item)) = expressions.get_mut("items") {
        validate(
            item,
            "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : \
             !has(self.values) || size(self.values) == 0",
            NodeSelectorRequirement::VALUES,
            Some(".values"),
        );
    }
}

/// A rule that lets what was stored before the rule was there be edited elsewhere. An API server checks a rule on the spec
/// again whatever changes in it. What was acknowledged then is not asked: CEL that looks through a list of the old spec
/// costs more than an API server allows.
fn ratcheting(cel: &str, breach: &str, field: &str) -> String {
    let old = breach.replace("self.", "oldSelf.value().");
    format!("({cel}) || ({HAS_OLD_SELF} && {old} && oldSelf.value().{field} == self.{field})")
}

/// The definition of `TcpCloseNode`.
///
/// # Errors
/// See [`Error`].
pub fn node() -> Result<CustomResourceDefinition, Error> {
    let mut definition = serde_json::to_value(TcpCloseNode::crd())?;
    finish(&mut definition);
    let uid = property(&mut definition, &["spec", "nodeUID"]);
    validate(uid, "self == oldSelf", "cannot change: a new Node gets a new object", None);
    serde_json::from_value(definition)
}

/// A definition as the YAML file that is committed and shipped.
///
/// # Errors
/// Where it cannot be written as YAML.
pub fn yaml(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    Ok(format!("# Generated by `cargo run -p crds`. Do not edit.\n{}", serde_yaml::to_string(definition)?))
}

/// What the derive cannot say: no field is nullable (a stored null is a difference for ever), numbers have formats that the
/// API server knows, descriptions are lines as long as the reader's terminal, a status that nobody has written is not taken
/// for a good one, and `helm uninstall` leaves people's objects alone.
fn finish(definition: &mut Value) {
    mend_types(definition);
    definition["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
    property(definition, &["status"]).insert("default".into(), json!({ "observedGeneration": -1 }));
}

fn mend_types(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            if let Some(format) = map.get_mut("format") {
                match format.as_str() {
                    Some("uint16" | "uint32") => *format = json!("int32"),
                    Some("uint64") => *format = json!("int64"),
                    _ => {}
                }
            }
            // `kubectl explain` would break where the source does, and then once more at its own width.
            if let Some(Value::String(description)) = map.get_mut("description") {
                *description = description.replace('\n', " ");
            }
            map.values_mut().for_each(mend_types);
        }
        Value::Array(items) => items.iter_mut().for_each(mend_types),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The schema of a field; made where it is not there, which the comparison with the committed file shows.
fn property<'a>(definition: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for name in path {
        schema = &mut schema["properties"][*name];
    }
    if !schema.is_object() {
        *schema = json!({});
    }
    #[expect(clippy::expect_used, reason = "made an object the line above")]
    schema.as_object_mut().expect("an object")
}

fn validate(schema: &mut Map<String, Value>, rule: &str, message: &str, field_path: Option<&str>) {
    let mut validation = json!({ "rule": rule, "message": message });
    if let Some(field_path) = field_path {
        validation["fieldPath"] = json!(field_path);
        validation["reason"] = json!("FieldValueInvalid");
    }
    // Else it would be asked of changed objects only.
    if rule.contains(HAS_OLD_SELF) {
        validation["optionalOldSelf"] = json!(true);
    }
    let list = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Value::Array(list) = list {
        list.push(validation);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tcp_close::rule::markdown;

    use super::*;

    fn generated() -> [(&'static str, String); 2] {
        [
            ("tcpclose.dev_tcpclosetunings.yaml", yaml(&tuning().unwrap()).unwrap()),
            ("tcpclose.dev_tcpclosenodes.yaml", yaml(&node().unwrap()).unwrap()),
        ]
    }

    #[test]
    fn committed_definitions_are_the_generated_ones() {
        for (name, text) in generated() {
            for folder in ["", "../charts/tcp-close-tuning/files/crds"] {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
                let committed = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(
                    committed == text,
                    "{} is not what the types say: run `cargo run -p crds`",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn the_page_of_rules_is_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == markdown::page(), "docs/rules.md is not the table: run `cargo run -p crds`");
    }

    #[test]
    fn nothing_is_nullable_and_no_spec_has_a_default() {
        for definition in [tuning().unwrap(), node().unwrap()] {
            let value = serde_json::to_value(&definition).unwrap();
            assert!(!value.to_string().contains("\"nullable\""));
            let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
            assert!(
                !schema["spec"].to_string().contains("\"default\":"),
                "a default in a spec is noise in every diff"
            );
            assert_eq!(schema["status"]["default"], json!({ "observedGeneration": -1 }));
        }
    }

    #[test]
    fn numbers_have_formats_that_the_api_server_knows() {
        for (name, text) in generated() {
            let formats = text.lines().filter_map(|line| line.trim().strip_prefix("format: "));
            let unknown: Vec<_> =
                formats.filter(|format| !["int32", "int64", "date-time"].contains(format)).collect();
            assert!(unknown.is_empty(), "{name}: {unknown:?}");
        }
    }

    #[test]
    fn every_field_is_described_and_bounded() {
        fn walk(path: &str, schema: &Value, problems: &mut Vec<String>) {
            let properties = schema["properties"].as_object();
            for (name, field) in properties.into_iter().flatten() {
                let path = format!("{path}.{name}");
                if field["description"].as_str().is_none_or(str::is_empty) {
                    problems.push(format!("{path}: not described"));
                }
                let kind = field["type"].as_str().unwrap_or_default();
                let bounded = match kind {
                    "string" => {
                        field["maxLength"].is_u64()
                            || field["enum"].is_array()
                            || field["format"] == "date-time"
                    }
                    "array" => field["maxItems"].is_u64(),
                    "object" => field["properties"].is_object() || field["maxProperties"].is_u64(),
                    _ => true,
                };
                if !bounded {
                    problems.push(format!("{path}: not bounded"));
                }
                walk(&path, field, problems);
                walk(&format!("{path}[]"), &field["items"], problems);
            }
        }
        let mut problems = Vec::new();
        for definition in [tuning().unwrap(), node().unwrap()] {
            let value = serde_json::to_value(&definition).unwrap();
            let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            walk(&definition.spec.names.kind, schema, &mut problems);
        }
        assert!(problems.is_empty(), "{problems:#?}");
    }

    #[test]
    fn bounds_are_the_catalogues() {
        let value = serde_json::to_value(tuning().unwrap()).unwrap();
        let sysctls = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["sysctls"];
        for sysctl in Sysctl::ALL {
            let field = &sysctls["properties"][sysctl.field()];
            let bounds = sysctl.facts().orderable;
            assert_eq!(field["minimum"].to_string(), format!("{}.0", bounds.start()), "{sysctl}");
            assert_eq!(field["maximum"].to_string(), format!("{}.0", bounds.end()), "{sysctl}");
        }
    }
}
