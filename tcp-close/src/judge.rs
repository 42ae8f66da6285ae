//! Judge: may what has been ordered be written on this node?
//!
//! The agent judges just before it writes, with facts that it gathered itself, and trusts no admission check before it.
//! Rules gate writes, not residence: a value that is in force already is not judged. Restores are exempt, because a
//! baseline is its owner's.

use std::collections::{BTreeMap, BTreeSet};

use crate::Sysctl;
use crate::kernel::{Nat, NodeFacts};
use crate::order::{Action, Entries, Entry, Reading, Readings};
use crate::rule::{self, Refusal};

/// The answer for one key that is ordered to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be written.
    Allowed,
    /// A rule forbids it.
    Refused(Refusal),
    /// No rule forbids it, but another key that stands or falls with it was refused.
    HeldBack(Refusal),
    /// This node has no such key, and why.
    Unsupported(String),
}

/// Judges every entry that sets a value; entries that restore, release or hold get no verdict.
pub fn judge(entries: &Entries, live: &Readings, facts: &NodeFacts) -> BTreeMap<Sysctl, Verdict> {
    let mut verdicts: BTreeMap<Sysctl, Verdict> = entries
        .iter()
        .filter_map(|(&sysctl, entry)| match entry.action {
            Action::Set(value) => Some((sysctl, judge_key(sysctl, value, entry, entries, live, facts))),
            Action::Hold(_) | Action::Restore | Action::Release => None,
        })
        .collect();
    hold_back_units(entries, &mut verdicts);
    verdicts
}

fn judge_key(
    sysctl: Sysctl,
    value: i64,
    entry: &Entry,
    entries: &Entries,
    live: &Readings,
    facts: &NodeFacts,
) -> Verdict {
    let reading = live.get(&sysctl).unwrap_or(&Reading::Absent);
    if reading.value() == Some(value) {
        return Verdict::Allowed;
    }
    let refusal = rule::out_of_bounds(sysctl, value)
        .or_else(|| broken_object_rule(sysctl, value, entry, entries))
        .or_else(|| if sysctl == Sysctl::TwRecycle { judge_tw_recycle(value, reading, facts) } else { None });
    match (refusal, reading) {
        (Some(refusal), _) => Verdict::Refused(refusal),
        // A kernel without tcp_tw_recycle never recycles: 0 is what it does.
        (None, Reading::Absent) if sysctl == Sysctl::TwRecycle => Verdict::Allowed,
        (None, Reading::Absent) => {
            Verdict::Unsupported(sysctl.why_absent(facts.kernel, facts.first_namespace))
        }
        (None, Reading::Value(_) | Reading::Unreadable(_)) => Verdict::Allowed,
    }
}

/// The first rule that this key breaks among the keys of its own tuning.
fn broken_object_rule(sysctl: Sysctl, value: i64, entry: &Entry, entries: &Entries) -> Option<Refusal> {
    let values = entries
        .iter()
        .filter(|(_, other)| other.tuning == entry.tuning)
        .filter_map(|(&key, other)| match other.action {
            Action::Set(value) => Some((key, value)),
            Action::Hold(_) | Action::Restore | Action::Release => None,
        })
        .collect();
    rule::object_rules()
        .into_iter()
        .find(|rule| rule.sysctl == sysctl && rule.is_broken_by(&values, entry.clients_behind_nat))
        .map(|rule| rule.refuse(value))
}

/// The rules on tcp_tw_recycle that need the node. The user's word has been found by then.
fn judge_tw_recycle(value: i64, reading: &Reading, facts: &NodeFacts) -> Option<Refusal> {
    if value == 0 {
        return None;
    }
    let ordered = format!("{} = {value}", Sysctl::TwRecycle);
    let (rule, message) = match (reading, &facts.nat) {
        (Reading::Absent, _) => (
            rule::TW_RECYCLE_REMOVED,
            format!(
                "{ordered}: {}. Remove it from the tuning; tcpTwReuse is the safe relative for nodes that connect",
                Sysctl::TwRecycle.why_absent(facts.kernel, facts.first_namespace)
            ),
        ),
        (_, Nat::Seen(evidence)) => (
            rule::TW_RECYCLE_NAT_SEEN,
            format!(
                "{ordered}: clients are behind NAT, and all but one of them behind each address would time out \
                 ({evidence}). Remove it from the tuning"
            ),
        ),
        (_, Nat::Unknown(why)) => (
            rule::TW_RECYCLE_NAT_UNKNOWN,
            format!(
                "{ordered}: whether clients are behind NAT is unknown ({why}), and unknown counts as unsafe"
            ),
        ),
        (_, Nat::NotSeen) => return None,
    };
    Some(Refusal { rule, sysctl: Sysctl::TwRecycle, message })
}

/// What one tuning orders on a node is applied as a whole or not at all, and so are keys that depend on each other: a
/// refusal holds back all keys of its unit that would be written.
fn hold_back_units(entries: &Entries, verdicts: &mut BTreeMap<Sysctl, Verdict>) {
    for unit in units(entries) {
        let refusal = unit.iter().find_map(|sysctl| match verdicts.get(sysctl) {
            Some(Verdict::Refused(refusal)) => Some(refusal.clone()),
            _ => None,
        });
        let Some(refusal) = refusal else { continue };
        for sysctl in unit {
            if let Some(verdict @ Verdict::Allowed) = verdicts.get_mut(&sysctl) {
                *verdict = Verdict::HeldBack(refusal.clone());
            }
        }
    }
}

/// The keys that stand or fall together: those of one tuning, and the tunings that share the dependent keys.
pub(crate) fn units(entries: &Entries) -> Vec<BTreeSet<Sysctl>> {
    let mut by_tuning: BTreeMap<&str, BTreeSet<Sysctl>> = BTreeMap::new();
    for (&sysctl, entry) in entries {
        by_tuning.entry(&entry.tuning).or_default().insert(sysctl);
    }
    let (dependent, mut units): (Vec<_>, Vec<_>) = by_tuning
        .into_values()
        .partition(|keys| Sysctl::DEPENDENT.iter().any(|sysctl| keys.contains(sysctl)));
    units.push(dependent.into_iter().flatten().collect());
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelVersion;
    use crate::order::ClientsBehindNat;

    fn modern() -> NodeFacts {
        NodeFacts {
            kernel: Some(KernelVersion::new(6, 18)),
            first_namespace: true,
            nat: Nat::Unknown("nobody looked".into()),
        }
    }

    fn old(nat: Nat) -> NodeFacts {
        NodeFacts { kernel: Some(KernelVersion::new(4, 4)), first_namespace: true, nat }
    }

    fn set(tuning: &str, value: i64, clients_behind_nat: ClientsBehindNat) -> Entry {
        Entry { action: Action::Set(value), tuning: tuning.into(), clients_behind_nat }
    }

    fn judge_recycle(value: i64, word: ClientsBehindNat, reading: Reading, facts: &NodeFacts) -> Verdict {
        let entries = Entries::from([(Sysctl::TwRecycle, set("web", value, word))]);
        judge(&entries, &Readings::from([(Sysctl::TwRecycle, reading)]), facts)[&Sysctl::TwRecycle].clone()
    }

    fn rule_of(verdict: &Verdict) -> Option<&str> {
        match verdict {
            Verdict::Refused(refusal) => Some(refusal.rule),
            Verdict::Allowed | Verdict::HeldBack(_) | Verdict::Unsupported(_) => None,
        }
    }

    #[test]
    fn tw_recycle_is_refused_where_the_kernel_lacks_it() {
        let verdict = judge_recycle(1, ClientsBehindNat::Never, Reading::Absent, &modern());
        let Verdict::Refused(refusal) = verdict else { panic!("{verdict:?}") };
        assert_eq!(refusal.rule, rule::TW_RECYCLE_REMOVED);
        assert_eq!(
            refusal.message,
            "net.ipv4.tcp_tw_recycle = 1: net.ipv4.tcp_tw_recycle was removed from Linux in 4.12; this node runs 6.18. \
             Remove it from the tuning; tcpTwReuse is the safe relative for nodes that connect"
        );
    }

    #[test]
    fn tw_recycle_behind_nat_is_refused() {
        let facts = old(Nat::Seen("conntrack: 10.0.0.1 is rewritten to 10.0.0.2".into()));
        let verdict = judge_recycle(1, ClientsBehindNat::Never, Reading::Value(0), &facts);
        assert_eq!(rule_of(&verdict), Some(rule::TW_RECYCLE_NAT_SEEN));
    }

    #[test]
    fn tw_recycle_is_refused_while_nat_is_unknown() {
        let facts = old(Nat::Unknown("conntrack is not loaded".into()));
        let verdict = judge_recycle(1, ClientsBehindNat::Never, Reading::Value(0), &facts);
        assert_eq!(rule_of(&verdict), Some(rule::TW_RECYCLE_NAT_UNKNOWN));
    }

    #[test]
    fn tw_recycle_is_refused_without_the_users_word() {
        let verdict = judge_recycle(1, ClientsBehindNat::Unknown, Reading::Value(0), &old(Nat::NotSeen));
        assert_eq!(rule_of(&verdict), Some(rule::TW_RECYCLE_WITHOUT_WORD));
    }

    #[test]
    fn tw_recycle_is_allowed_on_an_old_kernel_with_the_users_word_and_nothing_against_it() {
        let verdict = judge_recycle(1, ClientsBehindNat::Never, Reading::Value(0), &old(Nat::NotSeen));
        assert_eq!(verdict, Verdict::Allowed);
    }

    #[test]
    fn tw_recycle_0_is_already_true_where_the_kernel_lacks_it() {
        let verdict = judge_recycle(0, ClientsBehindNat::Unknown, Reading::Absent, &modern());
        assert_eq!(verdict, Verdict::Allowed);
    }

    #[test]
    fn a_refused_key_holds_back_its_tuning_and_nothing_else() {
        let unknown = ClientsBehindNat::Unknown;
        let entries = Entries::from([
            (Sysctl::FinTimeout, set("bad", 65, unknown)),
            (Sysctl::OrphanRetries, set("bad", 5, unknown)),
            (Sysctl::MaxTwBuckets, set("good", 50_000, unknown)),
        ]);
        let live = entries.keys().map(|&sysctl| (sysctl, Reading::Value(8))).collect();
        let verdicts = judge(&entries, &live, &modern());
        assert_eq!(rule_of(&verdicts[&Sysctl::FinTimeout]), Some(rule::FIN_TIMEOUT_61_TO_89));
        assert!(
            matches!(&verdicts[&Sysctl::OrphanRetries], Verdict::HeldBack(r) if r.sysctl == Sysctl::FinTimeout)
        );
        assert_eq!(verdicts[&Sysctl::MaxTwBuckets], Verdict::Allowed);
    }

    #[test]
    fn keys_that_depend_on_each_other_are_held_back_across_tunings() {
        let entries = Entries::from([
            (Sysctl::TwRecycle, set("a", 1, ClientsBehindNat::Never)),
            (Sysctl::TwReuse, set("b", 1, ClientsBehindNat::Unknown)),
            (Sysctl::FinTimeout, set("c", 30, ClientsBehindNat::Unknown)),
        ]);
        let live = Readings::from([
            (Sysctl::TwReuse, Reading::Value(2)),
            (Sysctl::FinTimeout, Reading::Value(60)),
            (Sysctl::TwRecycle, Reading::Absent),
        ]);
        let verdicts = judge(&entries, &live, &modern());
        assert!(matches!(verdicts[&Sysctl::TwReuse], Verdict::HeldBack(_)));
        assert_eq!(verdicts[&Sysctl::FinTimeout], Verdict::Allowed);
    }

    #[test]
    fn an_absent_sysctl_is_unsupported_not_refused_and_holds_nothing_back() {
        let unknown = ClientsBehindNat::Unknown;
        let entries = Entries::from([
            (Sysctl::MaxOrphans, set("web", 70_000, unknown)),
            (Sysctl::FinTimeout, set("web", 30, unknown)),
        ]);
        let live =
            Readings::from([(Sysctl::MaxOrphans, Reading::Absent), (Sysctl::FinTimeout, Reading::Value(60))]);
        let verdicts = judge(&entries, &live, &NodeFacts { first_namespace: false, ..modern() });
        assert!(
            matches!(&verdicts[&Sysctl::MaxOrphans], Verdict::Unsupported(why) if why.contains("first network"))
        );
        assert_eq!(verdicts[&Sysctl::FinTimeout], Verdict::Allowed);
    }

    #[test]
    fn a_value_that_no_schema_would_let_through_is_refused_by_the_agent_too() {
        let entries = Entries::from([(Sysctl::FinTimeout, set("web", -1, ClientsBehindNat::Unknown))]);
        let verdicts =
            judge(&entries, &Readings::from([(Sysctl::FinTimeout, Reading::Value(60))]), &modern());
        assert_eq!(rule_of(&verdicts[&Sysctl::FinTimeout]), Some(rule::OUT_OF_BOUNDS));
    }

    #[test]
    fn a_value_in_force_is_not_taken_back_because_a_rule_would_refuse_it() {
        let entries = Entries::from([(Sysctl::FinTimeout, set("web", 65, ClientsBehindNat::Unknown))]);
        let verdicts =
            judge(&entries, &Readings::from([(Sysctl::FinTimeout, Reading::Value(65))]), &modern());
        assert_eq!(verdicts[&Sysctl::FinTimeout], Verdict::Allowed);
    }
}
