//! The rules that an object alone can break are kept in three places: in Rust by the agent, as CEL and bounds in the
//! generated definition, and by an API server that was given it. All three are asked about every value where a rule changes
//! its mind.

use std::{collections::BTreeSet, ops::RangeInclusive, thread};

use crds::{TcpCloseTuning, TcpCloseTuningSpec};
use kube::{Api, api::PostParams};
use tcp_close::{
    Sysctl,
    rule::{self, RULES, Refusal, Sees},
};

use super::{Failure, Outcome, Suite, Test, ensure};
use crate::bench::client::{Inside, api};
use definition::Definition;

mod definition;
mod samples;

pub(super) const TESTS: &[Test] =
    &[Test { name: "rust_cel_and_the_api_server_refuse_the_same_values", run: all_agree }];

/// What is said against a spec, field by field, in the API server's words; empty where it is taken.
type Refusals = BTreeSet<(String, String)>;

fn path(sysctl: Sysctl) -> String {
    format!("spec.sysctls.{}", sysctl.field())
}

/// How an API server puts a rule's message.
fn invalid(message: &str) -> String {
    format!("Invalid value: {message}")
}

/// How it puts that a value is outside of its bounds; `None` where it is not.
fn out_of_bounds(sysctl: Sysctl, value: i64, bounds: &RangeInclusive<i64>) -> Option<String> {
    let (than, bound) = match value {
        value if value < *bounds.start() => ("greater", bounds.start()),
        value if value > *bounds.end() => ("less", bounds.end()),
        _ => return None,
    };
    Some(invalid(&format!("{value}: {} in body should be {than} than or equal to {bound}", path(sysctl))))
}

/// What the agent's rules say.
fn in_rust(spec: &TcpCloseTuningSpec) -> Refusals {
    let (values, safety) = (spec.sysctls.values(), spec.safety());
    let refusals = rule::opine_on_object(&values, safety.clients_behind_nat(), &safety.acknowledged());
    let in_words = |Refusal { rule: id, sysctl, .. }: Refusal| {
        let rule = RULES.iter().find(|rule| rule.id == id)?;
        let message = match rule.sees {
            Sees::Bounds => out_of_bounds(sysctl, *values.get(&sysctl)?, &sysctl.facts().orderable)?,
            Sees::Object(_) | Sees::EveryOrder | Sees::Node { .. } => invalid(&rule.object_message()),
        };
        Some((path(sysctl), message))
    };
    refusals.into_iter().filter_map(in_words).collect()
}

/// What the lab's API server says. Nothing is stored.
async fn on_api_server(tunings: &Api<TcpCloseTuning>, spec: TcpCloseTuningSpec) -> Result<Refusals, Failure> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let status = match tunings.create(&params, &TcpCloseTuning::new("sample", spec)).await {
        Ok(_) => return Ok(Refusals::new()),
        Err(kube::Error::Api(status)) if status.code == 422 => status,
        Err(other) => return Err(api("try a tuning")(other).into()),
    };
    let causes = status.details.map(|details| details.causes).unwrap_or_default();
    ensure(!causes.is_empty(), || format!("it names no cause: {}", status.message))?;
    Ok(causes.into_iter().map(|cause| (cause.field, cause.message)).collect())
}

fn all_agree(suite: &Suite) -> Outcome {
    // The thread stays in the control plane's network namespace.
    let walk = || {
        let Inside { runtime, client } = Inside::enter(&suite.cluster)?;
        runtime.block_on(walk(&Api::all(client)))
    };
    thread::scope(|scope| scope.spawn(walk).join()).unwrap_or_else(|_| Err(Failure("it panicked".into())))
}

async fn walk(tunings: &Api<TcpCloseTuning>) -> Outcome {
    let definition = Definition::generated()?;
    let (mut refused, samples) = (0, samples::samples());
    for sample in &samples {
        let spec = sample.spec()?;
        let said = in_rust(&spec);
        let by_cel = definition.refusals(&spec, None)?;
        ensure(said == by_cel, || format!("{sample:?}: Rust says {said:#?}, CEL says {by_cel:#?}"))?;
        let by_server = on_api_server(tunings, spec).await?;
        ensure(said == by_server, || {
            format!("{sample:?}: Rust says {said:#?}, the API server says {by_server:#?}")
        })?;
        refused += usize::from(!said.is_empty());
    }
    println!("    {} samples, {refused} of them refused", samples.len());
    ensure(refused > 0 && refused < samples.len(), || "the samples do not lie on both sides".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_and_cel_refuse_the_same_values() {
        let definition = Definition::generated().unwrap();
        for sample in samples::samples() {
            let spec = sample.spec().unwrap();
            assert_eq!(definition.refusals(&spec, None).unwrap(), in_rust(&spec), "{sample:?}");
        }
    }

    #[test]
    fn what_is_stored_against_a_rule_can_be_changed_elsewhere_and_where_the_rule_looks_only_for_the_better() {
        let definition = Definition::generated().unwrap();
        let broken = samples::samples().into_iter().map(|sample| sample.spec().unwrap()).filter(|spec| {
            let outside = |(sysctl, value): (&Sysctl, &i64)| !sysctl.facts().orderable.contains(value);
            !in_rust(spec).is_empty() && !spec.sysctls.values().iter().any(outside)
        });
        let mut seen = 0;
        for old in broken {
            let mut edited = old.clone();
            edited.priority = Some(7);
            edited.sysctls.tcp_max_orphans = Some(65_536);
            let refusals = |spec, before| definition.refusals(spec, before).unwrap();
            assert_eq!(refusals(&edited, Some(&old)), Refusals::new());
            assert_eq!(refusals(&edited, None), in_rust(&edited));
            assert!(!in_rust(&edited).is_empty());
            let (mut good, mut other) = (old.clone(), old.clone());
            good.sysctls = serde_json::from_value(serde_json::json!({ "tcpMaxOrphans": 65536 })).unwrap();
            assert_eq!(refusals(&edited, Some(&good)), in_rust(&edited), "a rule is broken anew");
            if let Some(seconds) = &mut other.sysctls.tcp_fin_timeout_seconds {
                *seconds += 1;
                assert_eq!(
                    refusals(&other, Some(&old)),
                    in_rust(&other),
                    "another value, and not a good one"
                );
            }
            seen += 1;
        }
        assert!(seen > 0);
    }

    #[test]
    fn every_rule_that_refuses_an_object_is_broken_by_a_sample() {
        let said: BTreeSet<_> =
            samples::samples().iter().flat_map(|sample| in_rust(&sample.spec().unwrap())).collect();
        for rule in RULES.iter().filter(|rule| rule.cel().is_some()) {
            let message = invalid(&rule.object_message());
            assert!(said.iter().any(|(_, words)| *words == message), "{}", rule.id);
        }
    }
}
