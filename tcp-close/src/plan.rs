//! Plan: what will be written, in which order, and what becomes of every key that is not.
//!
//! A plan is a value, made before the first write. Carrying it out makes no choices. Its spoken form is what logs and
//! tests compare: `net.ipv4.tcp_fin_timeout 60 -> 30`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::Sysctl;
use crate::judge::{Judgements, Verdict, judge, units};
use crate::kernel::NodeFacts;
use crate::order::{Action, DriftPolicy, Entries, Entry, Reading, Readings, Record, Records};
use crate::rule::{Refusal, Remark};

/// Why a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was ordered, and the kernel has never held it by our hand.
    Ordered,
    /// It was in force, and another program changed it.
    Drifted,
    /// The baseline goes back.
    Restored,
    /// A later write of its transaction failed.
    PutBack,
}

/// One write to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which file.
    pub sysctl: Sysctl,
    /// What it holds.
    pub from: i64,
    /// What it shall hold.
    pub to: i64,
    /// Why.
    pub cause: Cause,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.sysctl, self.from, self.to)
    }
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It will be written.
    Write(Write),
    /// It holds what was ordered.
    InForce,
    /// It holds what was ordered, and a rule would refuse that now. It stays.
    AtRisk(Refusal),
    /// Another program has changed it, and the tuning wants that reported, not put right.
    Drifted {
        /// What it holds.
        live: i64,
    },
    /// Another program keeps changing it. It is left alone for a while.
    Contended {
        /// What it holds.
        live: i64,
    },
    /// A rule forbids it.
    Refused(Refusal),
    /// A key that it stands or falls with was refused.
    HeldBack(Refusal),
    /// This node has no such key, and why.
    Unsupported(String),
    /// It could not be read, and why.
    Unreadable(String),
    /// It stays as it is until somebody orders it again.
    Held,
    /// It holds its baseline, or there was nothing of ours to take back.
    Restored,
    /// Another program has changed it since: what it holds stays.
    RestoreSkipped {
        /// What it holds.
        live: i64,
        /// What it held before we came.
        baseline: i64,
    },
    /// It stays as it is, and its baseline is forgotten.
    Released,
}

/// What becomes of every key that has an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Key by key.
    pub outcomes: BTreeMap<Sysctl, Outcome>,
    /// What else the rules say, key by key: notes, acknowledged cautions, what could not be judged.
    pub remarks: BTreeMap<Sysctl, Vec<Remark>>,
}

impl Plan {
    /// The writes, in an order that is safe after each step: timestamps before what needs them on the way up, and after
    /// it on the way down.
    pub fn writes(&self) -> Vec<Write> {
        let mut writes: Vec<Write> = self
            .outcomes
            .values()
            .filter_map(|outcome| if let Outcome::Write(write) = outcome { Some(*write) } else { None })
            .collect();
        writes.sort_by_key(|write| (rank(write), write.sysctl));
        writes
    }

    /// The writes, in lists that each happen as a whole or not at all: what one tuning orders, and keys that depend on
    /// each other.
    pub fn transactions(&self, entries: &Entries) -> Vec<Vec<Write>> {
        let writes = self.writes();
        units(entries)
            .iter()
            .map(|unit| writes.iter().copied().filter(|write| unit.contains(&write.sysctl)).collect())
            .filter(|transaction: &Vec<Write>| !transaction.is_empty())
            .collect()
    }

    /// Its spoken form, one line for each write.
    pub fn spoken(&self) -> Vec<String> {
        self.writes().iter().map(ToString::to_string).collect()
    }
}

/// Switching something off comes first, then what the others need, then switching something on.
fn rank(write: &Write) -> u8 {
    match (write.sysctl, write.to) {
        (Sysctl::TwRecycle | Sysctl::TwReuse, 0) => 0,
        (Sysctl::Timestamps, 0) => 4,
        (Sysctl::Timestamps, _) => 1,
        (Sysctl::TwRecycle | Sysctl::TwReuse, _) => 3,
        (
            Sysctl::OrphanRetries
            | Sysctl::MaxOrphans
            | Sysctl::FinTimeout
            | Sysctl::MaxTwBuckets
            | Sysctl::TwReuseDelay,
            _,
        ) => 2,
    }
}

/// Makes the plan for a node. `resting` are keys that another program fights for, and that are left alone for a while.
pub fn plan(
    entries: &Entries,
    live: &Readings,
    records: &Records,
    facts: &NodeFacts,
    resting: &BTreeSet<Sysctl>,
) -> Plan {
    let judgements = judge(entries, live, facts);
    let outcomes = entries
        .iter()
        .map(|(&sysctl, entry)| {
            let reading = live.get(&sysctl).unwrap_or(&Reading::Absent);
            let record = records.get(&sysctl);
            let outcome = match entry.action {
                Action::Set(value) => {
                    let set = plan_set(sysctl, value, reading, record, &judgements);
                    leave_alone(set, entry, resting.contains(&sysctl))
                }
                Action::Hold(_) => Outcome::Held,
                Action::Restore => plan_restore(sysctl, reading, record),
                Action::Release => Outcome::Released,
            };
            (sysctl, outcome)
        })
        .collect();
    let remarks = judgements.into_iter().map(|(sysctl, judgement)| (sysctl, judgement.remarks));
    Plan { outcomes, remarks: remarks.filter(|(_, remarks)| !remarks.is_empty()).collect() }
}

fn plan_set(
    sysctl: Sysctl,
    value: i64,
    reading: &Reading,
    record: Option<&Record>,
    judgements: &Judgements,
) -> Outcome {
    match (judgements.get(&sysctl).map(|judgement| &judgement.verdict), reading) {
        (Some(Verdict::Refused(refusal)), _) => Outcome::Refused(refusal.clone()),
        (Some(Verdict::AtRisk(refusal)), _) => Outcome::AtRisk(refusal.clone()),
        (Some(Verdict::Unsupported(why)), _) => Outcome::Unsupported(why.clone()),
        (_, Reading::Unreadable(why)) => Outcome::Unreadable(why.clone()),
        // Only `tcp_tw_recycle = 0` is allowed where the file is absent.
        (_, Reading::Absent) => Outcome::InForce,
        (_, Reading::Value(live)) if *live == value => Outcome::InForce,
        (Some(Verdict::HeldBack(refusal)), _) => Outcome::HeldBack(refusal.clone()),
        (Some(Verdict::Allowed) | None, Reading::Value(live)) => {
            let drifted = record.is_some_and(|record| record.confirmed == Some(value));
            let cause = if drifted { Cause::Drifted } else { Cause::Ordered };
            Outcome::Write(Write { sysctl, from: *live, to: value, cause })
        }
    }
}

/// What another program has changed is not always put right.
fn leave_alone(outcome: Outcome, entry: &Entry, resting: bool) -> Outcome {
    match outcome {
        Outcome::Write(Write { cause: Cause::Drifted, from: live, .. }) => match entry.drift_policy {
            DriftPolicy::Report => Outcome::Drifted { live },
            DriftPolicy::Correct if resting => Outcome::Contended { live },
            DriftPolicy::Correct => outcome,
        },
        other => other,
    }
}

fn plan_restore(sysctl: Sysctl, reading: &Reading, record: Option<&Record>) -> Outcome {
    let (record, live) = match (record, reading) {
        (None, _) | (_, Reading::Absent) => return Outcome::Restored,
        (Some(_), Reading::Unreadable(why)) => return Outcome::Unreadable(why.clone()),
        (Some(record), Reading::Value(live)) => (record, *live),
    };
    if live == record.baseline {
        Outcome::Restored
    } else if record.is_ours(live) {
        Outcome::Write(Write { sysctl, from: live, to: record.baseline, cause: Cause::Restored })
    } else {
        Outcome::RestoreSkipped { live, baseline: record.baseline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelVersion;

    fn facts() -> NodeFacts {
        NodeFacts { kernel: Some(KernelVersion::new(6, 18)), first_namespace: true, ..NodeFacts::unknown() }
    }

    fn entries(actions: &[(Sysctl, Action)]) -> Entries {
        actions.iter().map(|&(sysctl, action)| (sysctl, Entry::new(action, "web"))).collect()
    }

    fn make(entries: &Entries, live: &Readings, records: &Records) -> Plan {
        plan(entries, live, records, &facts(), &BTreeSet::new())
    }

    fn live(values: &[(Sysctl, i64)]) -> Readings {
        values.iter().map(|&(sysctl, value)| (sysctl, Reading::Value(value))).collect()
    }

    fn record(baseline: i64, confirmed: Option<i64>, intended: Option<i64>) -> Records {
        Records::from([(Sysctl::FinTimeout, Record { baseline, confirmed, intended })])
    }

    fn fin_timeout(action: Action, value: i64, records: &Records) -> Outcome {
        let plan =
            make(&entries(&[(Sysctl::FinTimeout, action)]), &live(&[(Sysctl::FinTimeout, value)]), records);
        plan.outcomes[&Sysctl::FinTimeout].clone()
    }

    #[test]
    fn a_plan_has_a_spoken_form() {
        let plan = make(
            &entries(&[(Sysctl::FinTimeout, Action::Set(30)), (Sysctl::OrphanRetries, Action::Set(0))]),
            &live(&[(Sysctl::FinTimeout, 60), (Sysctl::OrphanRetries, 0)]),
            &Records::new(),
        );
        assert_eq!(plan.spoken(), ["net.ipv4.tcp_fin_timeout 60 -> 30"]);
        assert_eq!(plan.outcomes[&Sysctl::OrphanRetries], Outcome::InForce);
    }

    #[test]
    fn timestamps_come_before_reuse_on_the_way_up() {
        let plan = make(
            &entries(&[(Sysctl::TwReuse, Action::Set(1)), (Sysctl::Timestamps, Action::Set(1))]),
            &live(&[(Sysctl::TwReuse, 0), (Sysctl::Timestamps, 0)]),
            &Records::new(),
        );
        assert_eq!(plan.spoken(), ["net.ipv4.tcp_timestamps 0 -> 1", "net.ipv4.tcp_tw_reuse 0 -> 1"]);
    }

    #[test]
    fn reuse_comes_before_timestamps_on_the_way_down() {
        let mut entries = entries(&[(Sysctl::TwReuse, Action::Set(0)), (Sysctl::Timestamps, Action::Set(0))]);
        for entry in entries.values_mut() {
            entry.acknowledged.insert("timestamps-off".into());
        }
        let plan = make(&entries, &live(&[(Sysctl::TwReuse, 1), (Sysctl::Timestamps, 1)]), &Records::new());
        assert_eq!(plan.spoken(), ["net.ipv4.tcp_tw_reuse 1 -> 0", "net.ipv4.tcp_timestamps 1 -> 0"]);
    }

    #[test]
    fn a_foreign_change_is_told_from_a_new_order() {
        let Outcome::Write(write) = fin_timeout(Action::Set(30), 45, &record(60, Some(30), None)) else {
            panic!()
        };
        assert_eq!(write.cause, Cause::Drifted);
        let Outcome::Write(write) = fin_timeout(Action::Set(20), 30, &record(60, Some(30), None)) else {
            panic!()
        };
        assert_eq!(write.cause, Cause::Ordered);
    }

    #[test]
    fn a_restore_writes_the_baseline_over_what_is_ours() {
        for records in
            [record(60, Some(30), None), record(60, None, Some(30)), record(60, Some(30), Some(60))]
        {
            let outcome = fin_timeout(Action::Restore, 30, &records);
            let Outcome::Write(write) = outcome else { panic!("{outcome:?}") };
            assert_eq!(write.to_string(), "net.ipv4.tcp_fin_timeout 30 -> 60");
        }
    }

    #[test]
    fn a_restore_leaves_what_another_program_wrote() {
        let outcome = fin_timeout(Action::Restore, 45, &record(60, Some(30), None));
        assert_eq!(outcome, Outcome::RestoreSkipped { live: 45, baseline: 60 });
    }

    #[test]
    fn a_restore_without_a_record_touches_nothing() {
        assert_eq!(fin_timeout(Action::Restore, 30, &Records::new()), Outcome::Restored);
    }

    #[test]
    fn a_released_or_held_key_is_not_written() {
        assert_eq!(fin_timeout(Action::Release, 30, &record(60, Some(30), None)), Outcome::Released);
        assert_eq!(fin_timeout(Action::Hold(30), 45, &record(60, Some(30), None)), Outcome::Held);
    }

    #[test]
    fn a_key_without_an_entry_is_not_in_the_plan() {
        let plan = make(&Entries::new(), &live(&[(Sysctl::FinTimeout, 60)]), &record(60, Some(30), None));
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn each_tuning_is_a_transaction_of_its_own() {
        let mut entries = entries(&[
            (Sysctl::FinTimeout, Action::Set(30)),
            (Sysctl::OrphanRetries, Action::Set(5)),
            (Sysctl::MaxTwBuckets, Action::Set(7)),
        ]);
        if let Some(entry) = entries.get_mut(&Sysctl::MaxTwBuckets) {
            entry.tuning = "other".into();
        }
        let live = live(&[(Sysctl::FinTimeout, 60), (Sysctl::OrphanRetries, 0), (Sysctl::MaxTwBuckets, 9)]);
        let plan = make(&entries, &live, &Records::new());
        let sizes: Vec<usize> = plan.transactions(&entries).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 2]);
    }

    #[test]
    fn a_key_that_cannot_be_read_is_not_written() {
        let reading = Reading::Unreadable("permission denied".into());
        let plan = make(
            &entries(&[(Sysctl::FinTimeout, Action::Set(30))]),
            &Readings::from([(Sysctl::FinTimeout, reading)]),
            &Records::new(),
        );
        assert_eq!(plan.outcomes[&Sysctl::FinTimeout], Outcome::Unreadable("permission denied".into()));
    }

    fn drifted(drift_policy: DriftPolicy, resting: &[Sysctl]) -> Outcome {
        let mut entries = entries(&[(Sysctl::FinTimeout, Action::Set(30))]);
        if let Some(entry) = entries.get_mut(&Sysctl::FinTimeout) {
            entry.drift_policy = drift_policy;
        }
        let live = live(&[(Sysctl::FinTimeout, 45)]);
        let resting = resting.iter().copied().collect();
        let plan = plan(&entries, &live, &record(60, Some(30), None), &facts(), &resting);
        plan.outcomes[&Sysctl::FinTimeout].clone()
    }

    #[test]
    fn a_foreign_change_is_only_reported_where_the_tuning_wants_that() {
        assert_eq!(drifted(DriftPolicy::Report, &[]), Outcome::Drifted { live: 45 });
        assert!(matches!(drifted(DriftPolicy::Correct, &[]), Outcome::Write(_)));
    }

    #[test]
    fn a_key_that_another_program_fights_for_is_left_alone() {
        assert_eq!(drifted(DriftPolicy::Correct, &[Sysctl::FinTimeout]), Outcome::Contended { live: 45 });
    }

    #[test]
    fn a_new_value_is_written_although_the_key_was_fought_for() {
        let resting = BTreeSet::from([Sysctl::FinTimeout]);
        let entries = entries(&[(Sysctl::FinTimeout, Action::Set(20))]);
        let live = live(&[(Sysctl::FinTimeout, 45)]);
        let plan = plan(&entries, &live, &record(60, Some(30), None), &facts(), &resting);
        assert_eq!(plan.spoken(), ["net.ipv4.tcp_fin_timeout 45 -> 20"]);
    }
}
