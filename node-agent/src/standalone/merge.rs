//! Merge: what the tunings of one file order together, on a host that no operator looks after.
//!
//! Per sysctl the highest priority wins, as in a cluster. There the older of two equals wins a tie; a file knows no age, so
//! that two values at the same priority make it invalid.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crds::TcpCloseTuning;
use crds::manifest::{Located, Problem};
use crds::node::{ObservedTuning, TuningReference};
use crds::tuning::{Mode, Safety};
use crds::{TcpCloseTuningSpec, revision};
use tcp_close::Sysctl;
use tcp_close::order::{Action, Entries, Entry};

use crate::order;

type Tuning = Located<TcpCloseTuning>;

/// What a file orders.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// What is to be in force.
    pub(super) entries: Entries,
    /// The tunings that only observe.
    pub(super) observe: Vec<ObservedTuning>,
    /// The fields that are not used, because a tuning of higher priority orders the same sysctl.
    pub(super) overridden: Vec<Problem>,
}

/// Merges the tunings of a file. `acknowledged` are ids of cautions that are accepted beside those in the file.
///
/// # Errors
/// Tunings of the same name, and ties.
pub(super) fn merge(tunings: &[Tuning], acknowledged: &[String]) -> Result<Merged, Vec<Problem>> {
    let mut problems = same_names(tunings);
    let mut merged = Merged { observe: observed(tunings, acknowledged), ..Merged::default() };
    for sysctl in Sysctl::ALL {
        let claims = claims(tunings, sysctl);
        let Some(((winner, value), losers)) = claims.split_first() else { continue };
        merged.entries.insert(sysctl, entry(&winner.object, *value, acknowledged));
        for (loser, other) in losers {
            let outranked = priority(loser) < priority(winner);
            if outranked {
                merged.overridden.push(overridden(sysctl, loser, winner, *value));
            } else if other != value {
                problems.push(tie(sysctl, (loser, *other), (winner, *value)));
            }
        }
    }
    if problems.is_empty() { Ok(merged) } else { Err(problems) }
}

/// The path of a sysctl's field in a tuning.
pub(super) fn field(sysctl: Sysctl) -> String {
    format!("spec.sysctls.{}", sysctl.field())
}

/// Who orders a sysctl and which value, the highest priority first, then in the order of the file.
fn claims(tunings: &[Tuning], sysctl: Sysctl) -> Vec<(&Tuning, i64)> {
    let enforcing = tunings.iter().filter(|tuning| tuning.object.spec.mode == Mode::Enforce);
    let mut claims: Vec<_> =
        enforcing.filter_map(|tuning| Some((tuning, tuning.object.spec.sysctls.get(sysctl)?))).collect();
    claims.sort_by_key(|(tuning, _)| Reverse(priority(tuning)));
    claims
}

fn priority(tuning: &Tuning) -> i32 {
    tuning.object.spec.priority()
}

fn name(tuning: &TcpCloseTuning) -> &str {
    tuning.metadata.name.as_deref().unwrap_or_default()
}

fn safety(spec: &TcpCloseTuningSpec, acknowledged: &[String]) -> Safety {
    let mut safety = spec.safety();
    safety.acknowledge.extend_from_slice(acknowledged);
    safety
}

fn entry(tuning: &TcpCloseTuning, value: i64, acknowledged: &[String]) -> Entry {
    let spec = &tuning.spec;
    let safety = safety(spec, acknowledged);
    order::entry(Action::Set(value), name(tuning), spec.priority(), &safety, spec.drift_policy())
}

fn observed(tunings: &[Tuning], acknowledged: &[String]) -> Vec<ObservedTuning> {
    let observing = tunings.iter().map(|tuning| &tuning.object).filter(|it| it.spec.mode == Mode::Observe);
    let observed = observing.map(|tuning| ObservedTuning {
        tuning: TuningReference {
            name: name(tuning).into(),
            uid: String::new(),
            revision: revision::of_tuning(&tuning.spec),
        },
        sysctls: tuning.spec.sysctls.clone(),
        safety: safety(&tuning.spec, acknowledged),
    });
    observed.collect()
}

/// In a cluster the second would replace the first.
fn same_names(tunings: &[Tuning]) -> Vec<Problem> {
    let mut first = BTreeMap::new();
    let mut problems = Vec::new();
    for tuning in tunings {
        let line = tuning.at("metadata.name").line;
        let first = *first.entry(name(&tuning.object)).or_insert(line);
        if first != line {
            let message = format!("a tuning of this name is in line {first} already");
            problems.push(tuning.problem("metadata.name", message));
        }
    }
    problems
}

fn overridden(sysctl: Sysctl, loser: &Tuning, winner: &Tuning, value: i64) -> Problem {
    let (by, priority) = (name(&winner.object), priority(winner));
    let message = format!("overridden: {by} of priority {priority} orders {value}");
    loser.problem(&field(sysctl), message)
}

fn tie(sysctl: Sysctl, (loser, other): (&Tuning, i64), (winner, value): (&Tuning, i64)) -> Problem {
    let (field, priority) = (field(sysctl), priority(winner));
    let (one, another) = (name(&loser.object), name(&winner.object));
    let line = winner.at(&field).line;
    let message = format!(
        "{one} orders {other}, and {another} orders {value} in line {line}, both with priority {priority}: give one of them a \
         higher spec.priority"
    );
    loser.problem(&field, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tuning of so many lines that the field of its sysctl is in its ninth.
    fn tuning(name: &str, mode: &str, priority: i32, sysctl: &str) -> String {
        format!(
            "apiVersion: tcpclose.dev/v1alpha1\nkind: TcpCloseTuning\nmetadata: {{name: {name}}}\nspec:\n  \
             nodeSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}\n  mode: {mode}\n  priority: {priority}\n  \
             sysctls:\n    {sysctl}\n---\n"
        )
    }

    fn merged(tunings: &[String], acknowledged: &[&str]) -> Result<Merged, Vec<String>> {
        let manifest = crds::manifest::read("web.yaml", &tunings.concat()).unwrap();
        let acknowledged: Vec<String> = acknowledged.iter().map(ToString::to_string).collect();
        merge(&manifest.tunings, &acknowledged)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    fn orders(merged: &Merged) -> Vec<(Sysctl, Option<i64>, &str)> {
        let entries = merged.entries.iter();
        entries.map(|(&sysctl, entry)| (sysctl, entry.value(), entry.tuning.as_str())).collect()
    }

    #[test]
    fn the_higher_priority_wins_wherever_it_stands_and_the_other_is_said_to_be_overridden() {
        let (web, base) = (
            tuning("web", "Enforce", 10, "tcpFinTimeoutSeconds: 30"),
            tuning("base", "Enforce", 0, "tcpFinTimeoutSeconds: 20"),
        );
        for (tunings, line) in [([web.clone(), base.clone()], 19), ([base, web], 9)] {
            let merged = merged(&tunings, &[]).unwrap();
            assert_eq!(orders(&merged), [(Sysctl::FinTimeout, Some(30), "web")]);
            let [overridden] = merged.overridden.as_slice() else { panic!("{merged:?}") };
            let expected = format!(
                "web.yaml:{line}:5: spec.sysctls.tcpFinTimeoutSeconds: overridden: web of priority 10 orders 30"
            );
            assert_eq!(overridden.to_string(), expected);
        }
    }

    #[test]
    fn different_sysctls_of_several_tunings_are_all_ordered() {
        let merged = merged(
            &[
                tuning("web", "Enforce", 0, "tcpFinTimeoutSeconds: 30"),
                tuning("clients", "Enforce", 0, "tcpTwReuse: 1"),
            ],
            &[],
        );
        let expected = [(Sysctl::FinTimeout, Some(30), "web"), (Sysctl::TwReuse, Some(1), "clients")];
        assert_eq!(orders(&merged.unwrap()), expected);
    }

    #[test]
    fn two_values_of_equal_priority_are_a_problem_that_names_both_tunings() {
        let problems = merged(
            &[
                tuning("web", "Enforce", 5, "tcpFinTimeoutSeconds: 30"),
                tuning("batch", "Enforce", 5, "tcpFinTimeoutSeconds: 20"),
            ],
            &[],
        );
        assert_eq!(
            problems.unwrap_err(),
            [
                "web.yaml:19:5: spec.sysctls.tcpFinTimeoutSeconds: batch orders 20, and web orders 30 in line 9, both with priority 5: \
              give one of them a higher spec.priority"
            ]
        );
    }

    #[test]
    fn equal_values_of_equal_priority_agree() {
        let same = |name| tuning(name, "Enforce", 0, "tcpFinTimeoutSeconds: 30");
        let merged = merged(&[same("web"), same("batch")], &[]).unwrap();
        assert_eq!(orders(&merged), [(Sysctl::FinTimeout, Some(30), "web")]);
    }

    #[test]
    fn those_that_lose_anyway_may_differ() {
        let tunings = [("web", 9, 30), ("a", 0, 20), ("b", 0, 25)].map(|(name, priority, value)| {
            tuning(name, "Enforce", priority, &format!("tcpFinTimeoutSeconds: {value}"))
        });
        assert_eq!(merged(&tunings, &[]).unwrap().overridden.len(), 2);
    }

    #[test]
    fn a_tuning_that_only_observes_orders_nothing_and_overrides_nobody() {
        let merged = merged(
            &[
                tuning("look", "Observe", 100, "tcpFinTimeoutSeconds: 20"),
                tuning("web", "Enforce", 0, "tcpFinTimeoutSeconds: 30"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(orders(&merged), [(Sysctl::FinTimeout, Some(30), "web")]);
        assert_eq!((merged.observe.len(), merged.overridden.len()), (1, 0));
    }

    #[test]
    fn a_second_tuning_of_a_name_is_a_problem() {
        let twice = [
            tuning("web", "Enforce", 0, "tcpFinTimeoutSeconds: 30"),
            tuning("web", "Enforce", 1, "tcpTwReuse: 1"),
        ];
        let expected = ["web.yaml:13:12: metadata.name: a tuning of this name is in line 3 already"];
        assert_eq!(merged(&twice, &[]).unwrap_err(), expected);
    }

    #[test]
    fn what_is_acknowledged_beside_the_file_counts_for_every_tuning() {
        let tunings = [
            tuning("web", "Enforce", 0, "tcpFinTimeoutSeconds: 3"),
            tuning("look", "Observe", 0, "tcpFinTimeoutSeconds: 3"),
        ];
        let merged = merged(&tunings, &["fin-timeout-below-5"]).unwrap();
        assert!(merged.entries[&Sysctl::FinTimeout].acknowledged.contains("fin-timeout-below-5"));
        assert_eq!(merged.observe[0].safety.acknowledge, ["fin-timeout-below-5"]);
    }
}
