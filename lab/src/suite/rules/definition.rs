//! The generated definition of a tuning, asked without a cluster: its CEL rules on `spec`, and the bounds of its sysctls.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, sync::Arc};

use cel::{Context, Program, Value, objects::OptionalValue};
use crds::TcpCloseTuningSpec;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, ValidationRule};
use tcp_close::Sysctl;

use super::{Refusals, invalid, out_of_bounds, path};
use crate::suite::Failure;

/// What a definition says of a spec.
pub(super) struct Definition {
    rules: Vec<Rule>,
    bounds: BTreeMap<Sysctl, RangeInclusive<i64>>,
}

struct Rule {
    kept: Program,
    field: String,
    message: String,
}

/// For `map_err`: what could not be done with the definition.
fn failure<E: Display>(act: &str) -> impl FnOnce(E) -> Failure {
    move |error| Failure(format!("cannot {act}: {error}"))
}

impl Definition {
    /// The one that this version ships.
    pub(super) fn generated() -> Result<Self, Failure> {
        let definition = crds::definition::tuning().map_err(failure("generate the definition"))?;
        let schema = definition
            .spec
            .versions
            .first()
            .and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
        let spec = schema.and_then(|schema| property(schema, "spec"));
        let spec = spec.ok_or_else(|| Failure("the definition has no spec".into()))?;
        let rules =
            spec.x_kubernetes_validations.iter().flatten().map(Rule::new).collect::<Result<_, _>>()?;
        let sysctls = property(spec, "sysctls");
        let bounds = Sysctl::ALL.into_iter().filter_map(|sysctl| {
            let field = property(sysctls?, sysctl.field())?;
            Some((sysctl, whole(field.minimum?)?..=whole(field.maximum?)?))
        });
        Ok(Self { rules, bounds: bounds.collect() })
    }

    /// What it says against a spec, and the one that was stored before where it is changed.
    pub(super) fn refusals(
        &self,
        spec: &TcpCloseTuningSpec,
        before: Option<&TcpCloseTuningSpec>,
    ) -> Result<Refusals, Failure> {
        let values = spec.sysctls.values();
        let outside = values.iter().filter_map(|(&sysctl, &value)| {
            Some((path(sysctl), out_of_bounds(sysctl, value, self.bounds.get(&sysctl)?)?))
        });
        let mut refusals: Refusals = outside.collect();
        let mut context = Context::default();
        context.add_variable("self", spec).map_err(failure("give the spec to CEL"))?;
        let old = match before {
            None => OptionalValue::none(),
            Some(old) => OptionalValue::of(cel::to_value(old).map_err(failure("give the old spec to CEL"))?),
        };
        context.add_variable_from_value("oldSelf", Value::Opaque(Arc::new(old)));
        for Rule { kept, field, message } in &self.rules {
            match kept.execute(&context).map_err(failure("evaluate a rule"))? {
                Value::Bool(true) => {}
                Value::Bool(false) => drop(refusals.insert((field.clone(), invalid(message)))),
                other => return Err(Failure(format!("the rule on {field} says {other:?}"))),
            }
        }
        Ok(refusals)
    }
}

impl Rule {
    fn new(rule: &ValidationRule) -> Result<Self, Failure> {
        let kept = Program::compile(&rule.rule).map_err(failure("read a rule"))?;
        let field = format!("spec{}", rule.field_path.as_deref().unwrap_or_default());
        Ok(Self { kept, field, message: rule.message.clone().unwrap_or_default() })
    }
}

fn property<'a>(schema: &'a JSONSchemaProps, name: &str) -> Option<&'a JSONSchemaProps> {
    schema.properties.as_ref()?.get(name)
}

/// The integer that a schema's number is.
#[expect(clippy::cast_possible_truncation, reason = "whole, and far below 2^53")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 2_f64.powi(53)).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sysctl_has_bounds_and_every_rule_a_field_and_words() {
        let definition = Definition::generated().unwrap();
        assert_eq!(definition.bounds.len(), Sysctl::ALL.len());
        assert!(!definition.rules.is_empty());
        for rule in definition.rules {
            assert!(rule.field.starts_with("spec.sysctls."), "{}", rule.field);
            assert!(!rule.message.is_empty(), "{}", rule.field);
        }
    }
}
