//! Which nodes a tuning is for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nodes by their labels. All of matchLabels and matchExpressions must be true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// Labels that a node must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), schema_with = "labels_schema")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on a node's labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<NodeSelectorRequirement>,
}

fn labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "additionalProperties": { "type": "string", "maxLength": 63 } })
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeSelectorRequirement {
    /// The label's key.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label is compared with the values. In and NotIn need values; Exists and DoesNotExist take none.
    pub operator: SelectorOperator,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is absent.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl NodeSelector {
    /// Why one that [is empty](Self::is_empty) is refused.
    pub const EMPTY: &str = "must not be empty: say which nodes with matchLabels or matchExpressions (it is a label \
                             selector; a pod's nodeSelector goes under matchLabels). For every node: matchLabels: \
                             {kubernetes.io/os: linux}";

    /// Whether it says nothing about a node's labels.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether a node with these labels is selected. An empty selector, which no schema lets through, selects nothing.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.is_empty()
            && self.match_labels.iter().all(|(key, value)| labels.label(key) == Some(value.as_str()))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

/// The labels of an object, however they are kept.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl NodeSelectorRequirement {
    /// Why one whose values [do not suit](Self::values_suit) its operator is refused.
    pub const VALUES: &str = "operators In and NotIn need values; Exists and DoesNotExist take none";

    /// Whether there are values if the operator needs them, and only then.
    pub fn values_suit(&self) -> bool {
        let needed = matches!(self.operator, SelectorOperator::In | SelectorOperator::NotIn);
        needed != self.values.is_empty()
    }

    fn matches(&self, labels: &impl Labels) -> bool {
        let label = labels.label(&self.key);
        let is_among = |value: &str| self.values.iter().any(|known| known == value);
        match self.operator {
            SelectorOperator::In => label.is_some_and(is_among),
            SelectorOperator::NotIn => label.is_none_or(|value| !is_among(value)),
            SelectorOperator::Exists => label.is_some(),
            SelectorOperator::DoesNotExist => label.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
    }

    fn requirement(operator: SelectorOperator, values: &[&str]) -> NodeSelector {
        let values = values.iter().map(ToString::to_string).collect();
        NodeSelector {
            match_expressions: vec![NodeSelectorRequirement { key: "pool".into(), operator, values }],
            ..NodeSelector::default()
        }
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        assert!(!NodeSelector::default().matches(&labels(&[("pool", "web")])));
    }

    #[test]
    fn operators_compare_as_in_a_label_selector() {
        for (operator, values, on_web, on_none) in [
            (SelectorOperator::In, &["web", "db"][..], true, false),
            (SelectorOperator::In, &["db"][..], false, false),
            (SelectorOperator::NotIn, &["db"][..], true, true),
            (SelectorOperator::NotIn, &["web"][..], false, true),
            (SelectorOperator::Exists, &[][..], true, false),
            (SelectorOperator::DoesNotExist, &[][..], false, true),
        ] {
            let selector = requirement(operator, values);
            assert_eq!(selector.matches(&labels(&[("pool", "web")])), on_web, "{operator:?} {values:?}");
            assert_eq!(selector.matches(&labels(&[])), on_none, "{operator:?} {values:?}");
        }
    }
}
