//! Specs on both sides of every edge of every rule that an object alone can break.

use std::collections::BTreeMap;

use crds::{
    TcpCloseTuningSpec,
    tuning::{ClientsBehindNatWord, Mode, NodeSelector, Safety},
};
use serde_json::{Map, Value};
use tcp_close::{
    Sysctl,
    rule::{self, Predicate, RULES, Rule, Sees, Severity},
};

use crate::suite::Failure;

/// What is of interest in a spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    values: BTreeMap<Sysctl, i64>,
    word: Option<ClientsBehindNatWord>,
    acknowledge: Vec<&'static str>,
}

impl Sample {
    fn of<const N: usize>(values: [(Sysctl, i64); N]) -> Self {
        Self { values: values.into(), ..Self::default() }
    }

    /// A spec that is good but for this. What is not said is absent.
    pub(super) fn spec(&self) -> Result<TcpCloseTuningSpec, Failure> {
        let fields: Map<_, _> =
            self.values.iter().map(|(sysctl, value)| (sysctl.field().into(), (*value).into())).collect();
        let sysctls = serde_json::from_value(Value::Object(fields))
            .map_err(|error| Failure(format!("{self:?}: {error}")))?;
        let safety = Safety {
            clients_behind_nat: self.word,
            acknowledge: self.acknowledge.iter().map(ToString::to_string).collect(),
        };
        Ok(TcpCloseTuningSpec {
            node_selector: NodeSelector {
                match_labels: [("kubernetes.io/os".into(), "linux".into())].into(),
                ..NodeSelector::default()
            },
            mode: Mode::Enforce,
            sysctls,
            priority: None,
            safety: Some(safety).filter(|safety| *safety != Safety::default()),
            drift_policy: None,
            removal_policy: None,
            max_failed_nodes: None,
            rollout: None,
        })
    }
}

/// All of them, each once.
pub(super) fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for rule in RULES {
        for edge in edges(rule) {
            for acknowledge in acknowledgements(rule) {
                let sample = Sample { acknowledge, ..edge.clone() };
                if !samples.contains(&sample) {
                    samples.push(sample);
                }
            }
        }
    }
    samples
}

/// Both sides of each edge of one rule; none for a rule that looks at the node.
fn edges(rule: &Rule) -> Vec<Sample> {
    match (&rule.sees, rule.sysctl) {
        (Sees::Bounds, _) => {
            let keys = Sysctl::ALL.into_iter();
            keys.flat_map(|sysctl| {
                around(sysctl, *sysctl.facts().orderable.start(), *sysctl.facts().orderable.end())
            })
            .collect()
        }
        (Sees::Object(Predicate::In(range)), Some(sysctl)) => {
            around(sysctl, *range.start(), *range.end()).into()
        }
        (Sees::Object(Predicate::While(this, other, that)), Some(sysctl)) => {
            let beside = |value| {
                let both =
                    [*that, another(*other, *that)].map(|that| Sample::of([(sysctl, value), (*other, that)]));
                both.into_iter().chain([Sample::of([(sysctl, value)])])
            };
            [*this, another(sysctl, *this)].into_iter().flat_map(beside).collect()
        }
        (Sees::Object(Predicate::WithoutWordOnNat(this)), Some(sysctl)) => {
            let words = [None, Some(ClientsBehindNatWord::Unknown), Some(ClientsBehindNatWord::Never)];
            let with = |value| words.map(|word| Sample { word, ..Sample::of([(sysctl, value)]) });
            [*this, another(sysctl, *this)].into_iter().flat_map(with).collect()
        }
        (Sees::Object(_), None) | (Sees::EveryOrder | Sees::Node { .. }, _) => Vec::new(),
    }
}

/// The ends of a range, and what lies just outside.
fn around(sysctl: Sysctl, start: i64, end: i64) -> [Sample; 4] {
    [start - 1, start, end, end + 1].map(|value| Sample::of([(sysctl, value)]))
}

/// A neighbour of a value that may be ordered too.
fn another(sysctl: Sysctl, value: i64) -> i64 {
    if sysctl.facts().orderable.contains(&(value + 1)) { value + 1 } else { value - 1 }
}

/// What may be acknowledged, and lift the rule or not: for a caution nothing, itself, and everything else; for a refusal
/// nothing and everything.
fn acknowledgements(rule: &Rule) -> Vec<Vec<&'static str>> {
    match rule.severity {
        Severity::Refuse => vec![Vec::new(), rule::cautions().collect()],
        Severity::Caution => {
            let others = rule::cautions().filter(|id| *id != rule.id);
            vec![Vec::new(), vec![rule.id], others.collect()]
        }
        Severity::Note => vec![Vec::new()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples_of(id: &str) -> Vec<Sample> {
        edges(RULES.iter().find(|rule| rule.id == id).unwrap())
    }

    fn values_of(id: &str, sysctl: Sysctl) -> Vec<i64> {
        samples_of(id).iter().map(|sample| sample.values[&sysctl]).collect()
    }

    #[test]
    fn a_range_is_met_at_its_ends_and_just_outside() {
        assert_eq!(values_of("fin-timeout-61-to-89", Sysctl::FinTimeout), [60, 61, 89, 90]);
        assert_eq!(values_of("timestamps-off", Sysctl::Timestamps), [-1, 0, 0, 1]);
    }

    #[test]
    fn every_key_is_met_at_its_bounds() {
        let samples = samples_of("out-of-bounds");
        assert_eq!(samples.len(), 4 * Sysctl::ALL.len());
        for sysctl in Sysctl::ALL {
            let above = sysctl.facts().orderable.end() + 1;
            assert!(samples.contains(&Sample::of([(sysctl, above)])), "{sysctl}");
        }
    }

    #[test]
    fn two_keys_are_met_in_every_combination_and_one_of_them_alone() {
        let pairs: Vec<_> = samples_of("tw-reuse-without-timestamps")
            .iter()
            .map(|sample| (sample.values[&Sysctl::TwReuse], sample.values.get(&Sysctl::Timestamps).copied()))
            .collect();
        assert_eq!(pairs, [(1, Some(0)), (1, Some(1)), (1, None), (2, Some(0)), (2, Some(1)), (2, None)]);
    }

    #[test]
    fn tw_recycle_is_met_with_and_without_a_word_on_nat() {
        let words: Vec<_> =
            samples_of("tw-recycle-without-word").into_iter().map(|sample| sample.word).collect();
        let each = [None, Some(ClientsBehindNatWord::Unknown), Some(ClientsBehindNatWord::Never)];
        assert_eq!(words, [each, each].concat());
    }

    #[test]
    fn a_caution_is_met_with_and_without_its_own_id_and_with_all_others() {
        let rule = RULES.iter().find(|rule| rule.id == "timestamps-off").unwrap();
        let [nothing, own, others] = &acknowledgements(rule)[..] else { panic!("not three") };
        assert!(nothing.is_empty() && !others.contains(&"timestamps-off"));
        assert_eq!(own, &["timestamps-off"]);
        assert_eq!(others.len() + 1, rule::cautions().count());
    }

    #[test]
    fn nothing_is_asked_twice() {
        let samples = samples();
        for (at, sample) in samples.iter().enumerate() {
            assert!(!samples[..at].contains(sample), "{sample:?}");
        }
    }
}
