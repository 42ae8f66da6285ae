//! Judge: may what has been ordered be written on this node?
//!
//! The agent judges just before it writes, with facts that it gathered itself, and trusts no admission check before it.
//! Rules gate writes, not residence: a value that is in force is never taken back because a rule would refuse it now, it is
//! at risk. Restores are exempt, because a baseline is its owner's, and so is a return to what was in force before: it must
//! not be kept on a revision that failed because a fact has moved.

use std::collections::{BTreeMap, BTreeSet};

use crate::Sysctl;
use crate::kernel::NodeFacts;
use crate::order::{Entries, Entry, Reading, Readings};
use crate::rule::{self, Case, Opinion, Refusal, Remark};

/// The answer for one key that is ordered to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it may be written.
    pub verdict: Verdict,
    /// What else a person should know: notes, acknowledged cautions, what could not be judged.
    pub remarks: Vec<Remark>,
}

/// Whether a value may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It is in force already, and a rule would refuse it now.
    AtRisk(Refusal),
    /// A rule forbids it.
    Refused(Refusal),
    /// No rule forbids it, but another key that stands or falls with it was refused.
    HeldBack(Refusal),
    /// This node has no such key, and why.
    Unsupported(String),
}

/// The judgements, key by key.
pub type Judgements = BTreeMap<Sysctl, Judgement>;

/// Judges every entry that sets a value; entries that restore, release or hold get no verdict.
pub fn judge(entries: &Entries, live: &Readings, facts: &NodeFacts) -> Judgements {
    let mut judgements: Judgements = entries
        .iter()
        .filter_map(|(&sysctl, entry)| {
            Some((sysctl, judge_key(sysctl, entry.value()?, entries, live, facts)))
        })
        .collect();
    hold_back_units(entries, &mut judgements);
    judgements
}

fn judge_key(sysctl: Sysctl, value: i64, entries: &Entries, live: &Readings, facts: &NodeFacts) -> Judgement {
    let entry = &entries[&sysctl];
    let ordered = together(entry, entries);
    let clients_behind_nat = entry.clients_behind_nat;
    let case = Case { sysctl, value, ordered: &ordered, live, clients_behind_nat, facts };
    let reading = live.get(&sysctl).unwrap_or(&Reading::Absent);
    let Opinion { refusals, remarks } = match reading {
        // What the node has not got is not judged by its facts. The rules on tcp_tw_recycle know that it may be absent.
        Reading::Absent if sysctl != Sysctl::TwRecycle => rule::opine_without_node(&case),
        _ => rule::opine(&case, &entry.acknowledged),
    };
    let higher = rule::opine_on_precedence(sysctl, value, &above(entry, entries), &entry.acknowledged);
    let mut refusals = refusals.into_iter().chain(higher).peekable();
    let returns = entry.rollback && rule::opine_without_node(&case).refusals.is_empty();
    let in_force = matches!(reading, Reading::Value(live) if *live == value);
    // What a return is spared stays among the remarks, until it is in force and at risk.
    let forbidding = refusals.next_if(|_| !returns || in_force);
    let verdict = match (forbidding, reading) {
        (Some(refusal), _) if in_force => Verdict::AtRisk(refusal),
        (Some(refusal), _) => Verdict::Refused(refusal),
        // A kernel without tcp_tw_recycle never recycles: 0 is what it does.
        (None, Reading::Absent) if sysctl != Sysctl::TwRecycle => {
            Verdict::Unsupported(sysctl.why_absent(facts.kernel, facts.first_namespace))
        }
        (None, Reading::Absent | Reading::Value(_) | Reading::Unreadable(_)) => Verdict::Allowed,
    };
    let further = refusals.map(|refusal| Remark { rule: refusal.rule, message: refusal.message });
    Judgement { verdict, remarks: further.chain(remarks).collect() }
}

/// What is ordered together with an entry, as its rules see it: what its own tuning orders, and what tunings of the same or
/// a higher priority do. In a rule across two tunings the lower one is refused.
fn together(entry: &Entry, entries: &Entries) -> BTreeMap<Sysctl, i64> {
    values(entries, |other| other.tuning == entry.tuning || other.priority >= entry.priority)
}

/// What tunings of a higher priority order.
fn above(entry: &Entry, entries: &Entries) -> BTreeMap<Sysctl, i64> {
    values(entries, |other| other.priority > entry.priority)
}

fn values(entries: &Entries, of: impl Fn(&Entry) -> bool) -> BTreeMap<Sysctl, i64> {
    let entries = entries.iter().filter(|(_, entry)| of(entry));
    entries.filter_map(|(&sysctl, entry)| Some((sysctl, entry.value()?))).collect()
}

/// What one tuning orders on a node is applied as a whole or not at all, and so are keys that depend on each other: a
/// refusal holds back all keys of its unit that would be written. A tuning of higher priority is not held back by one that
/// it has precedence over.
fn hold_back_units(entries: &Entries, judgements: &mut Judgements) {
    for unit in units(entries) {
        let refused = unit.iter().find_map(|sysctl| match &judgements.get(sysctl)?.verdict {
            Verdict::Refused(refusal) => Some((&entries[sysctl], refusal.clone())),
            Verdict::Allowed | Verdict::AtRisk(_) | Verdict::HeldBack(_) | Verdict::Unsupported(_) => None,
        });
        let Some((culprit, refusal)) = refused else { continue };
        for sysctl in unit {
            let spared = entries[&sysctl].priority > culprit.priority;
            if let Some(judgement) = judgements.get_mut(&sysctl)
                && judgement.verdict == Verdict::Allowed
                && !spared
            {
                judgement.verdict = Verdict::HeldBack(refusal.clone());
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
mod tests;
