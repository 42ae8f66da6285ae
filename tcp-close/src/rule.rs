//! The safety rules: what is never written, what is written only where its author accepts the cost, and what is said.
//!
//! One [`table`] is the source of everything that is said of a rule: the agent's refusals, the conditions of a tuning, the
//! API server's messages, and `docs/rules.md`. A rule that sees the object alone is a small closed [`Predicate`], evaluated
//! here by the agent and rendered to CEL for the API server, so that both say no to the same values. What needs the node is
//! a function of its facts.

pub mod cel;
mod check;
pub mod markdown;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use crate::Sysctl;
use crate::kernel::NodeFacts;
use crate::order::{ClientsBehindNat, Reading, Readings};
use crate::reach::Reach;

pub use table::RULES;

/// What a broken rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Never meaningful, never written.
    Refuse,
    /// A real cost that somebody may want: refused until its author acknowledges the rule.
    Caution,
    /// Legal and widely run, with a misunderstanding attached: said, and blocks nothing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Caution => "caution",
            Self::Note => "note",
        })
    }
}

/// A rule. Its id is never renamed or reused: people search for it, and statuses carry it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `fin-timeout-61-to-89`
    pub id: &'static str,
    /// What it means to break it.
    pub severity: Severity,
    /// The key whose value is judged; `None`: of every key.
    pub sysctl: Option<Sysctl>,
    /// What it looks at.
    pub sees: Sees,
    /// What is wrong with a value that breaks it.
    pub wrong: &'static str,
    /// What to do instead.
    pub instead: &'static str,
    /// Where that is known from.
    pub source: &'static str,
}

/// What a rule looks at.
#[derive(Clone, Debug)]
pub enum Sees {
    /// The object alone.
    Object(Predicate),
    /// The bounds of the catalogue, which are the schema's.
    Bounds,
    /// No value: it is said once of everything that is ordered, with the share that it reaches.
    EveryOrder,
    /// The node.
    Node {
        /// What it looks at there, in words.
        looks_at: &'static str,
        /// Whether the rule is kept there.
        check: fn(&Case<'_>) -> Answer,
    },
}

/// When an object alone breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// The value lies in the range.
    In(RangeInclusive<i64>),
    /// The value is the first while the other key has the second.
    While(i64, Sysctl, i64),
    /// The value is this, and nobody has said that no client is behind NAT.
    WithoutWordOnNat(i64),
}

/// Whether a rule is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is, or it has nothing to say here.
    Kept,
    /// It is broken; the facts that say so, with their numbers.
    Broken(String),
    /// What it looks at is not known; the text says what.
    Unknown(String),
}

/// A value, and everything that a rule may look at.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The key.
    pub sysctl: Sysctl,
    /// What is ordered for it.
    pub value: i64,
    /// Everything that is ordered together with it, itself included.
    pub ordered: &'a BTreeMap<Sysctl, i64>,
    /// What the kernel holds.
    pub live: &'a Readings,
    /// What its author says of NAT.
    pub clients_behind_nat: ClientsBehindNat,
    /// The node.
    pub facts: &'a NodeFacts,
}

impl Case<'_> {
    /// What the kernel holds for the key.
    fn reading(&self) -> &Reading {
        self.live.get(&self.sysctl).unwrap_or(&Reading::Absent)
    }
}

/// A value that a rule forbids to write. A refusal is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The id of the rule.
    pub rule: &'static str,
    /// The key that it forbids.
    pub sysctl: Sysctl,
    /// What was ordered, the facts that led to the refusal, and what to do instead.
    pub message: String,
}

/// What a rule has to say that forbids nothing: a note, or a caution that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The id of the rule.
    pub rule: &'static str,
    /// What was ordered, and what a person should know of it.
    pub message: String,
}

/// What all rules together say of one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion {
    /// Why it must not be written, the gravest first; empty where it may be.
    pub refusals: Vec<Refusal>,
    /// What else is said.
    pub remarks: Vec<Remark>,
}

/// Asks every rule about a value. `acknowledged` holds ids of cautions that its author accepts; it never lifts a refusal.
///
/// For a rule of severity refuse, what is not known counts as unsafe. Other rules say that they do not know, and do not
/// block: an agent that has just started must be able to tune.
pub fn opine(case: &Case<'_>, acknowledged: &BTreeSet<String>) -> Opinion {
    let mut opinion = Opinion::default();
    for rule in RULES.iter().filter(|rule| rule.is_about(case.sysctl)) {
        let (said, known) = match rule.ask(case) {
            Answer::Kept => continue,
            Answer::Broken(evidence) => (rule.said(&evidence), true),
            Answer::Unknown(what) => (format!("not judged, because {what}"), false),
        };
        let forbids = match rule.severity {
            Severity::Refuse => true,
            Severity::Caution => known && !acknowledged.contains(rule.id),
            Severity::Note => false,
        };
        if forbids {
            opinion.refusals.push(rule.refuse(case.sysctl, case.value, &said));
        } else {
            let message = format!("{} = {}: {said}", case.sysctl, case.value);
            opinion.remarks.push(Remark { rule: rule.id, message });
        }
    }
    opinion
}

/// The refusals that no node and nobody's word can lift, for a key that the node has not got.
pub fn opine_without_node(case: &Case<'_>) -> Opinion {
    let refuse = RULES.iter().filter(|rule| rule.severity == Severity::Refuse && rule.is_about(case.sysctl));
    let refusals =
        refuse.filter_map(|rule| rule.refuse_object(case.sysctl, case.ordered, case.clients_behind_nat));
    Opinion { refusals: refusals.collect(), remarks: Vec::new() }
}

/// The refusals that an object alone leads to, whatever the node: what the API server says too.
pub fn opine_on_object(
    values: &BTreeMap<Sysctl, i64>,
    clients_behind_nat: ClientsBehindNat,
    acknowledged: &BTreeSet<String>,
) -> Vec<Refusal> {
    let forbids = |rule: &&Rule| match rule.severity {
        Severity::Refuse => true,
        Severity::Caution => !acknowledged.contains(rule.id),
        Severity::Note => false,
    };
    let of_rule = |rule: &'static Rule| {
        let keys = values.keys().filter(|sysctl| rule.is_about(**sysctl));
        keys.filter_map(|&sysctl| rule.refuse_object(sysctl, values, clients_behind_nat)).collect::<Vec<_>>()
    };
    RULES.iter().filter(forbids).flat_map(of_rule).collect()
}

/// Why a tuning must not bring a key to a value while one that has precedence over it holds another key where it is.
pub fn opine_on_precedence(
    sysctl: Sysctl,
    value: i64,
    higher: &BTreeMap<Sysctl, i64>,
    acknowledged: &BTreeSet<String>,
) -> Option<Refusal> {
    RULES.iter().filter(|rule| !acknowledged.contains(rule.id)).find_map(|rule| {
        let Sees::Object(Predicate::While(this, other, that)) = &rule.sees else { return None };
        let own = rule.sysctl.filter(|own| higher.get(own) == Some(this))?;
        let met = *other == sysctl && *that == value;
        let evidence = format!("{}, and a tuning of higher priority orders {own} = {this}", rule.wrong);
        met.then(|| rule.refuse(sysctl, value, &rule.said(&evidence)))
    })
}

/// What is said once of everything that is ordered, with the share that it reaches where that is known.
pub fn said_of_every_order(reach: Option<Reach>) -> impl Iterator<Item = Remark> {
    let share = reach.and_then(|reach| Some((reach.percent()?, reach.all())));
    let figures = share.map(|(percent, all)| {
        format!(
            " (of the {all} sockets here in TIME_WAIT, or in FIN_WAIT2 after close(), {percent} % are in the node's own)"
        )
    });
    let figures = figures.unwrap_or_default();
    let rules = RULES.iter().filter(|rule| matches!(rule.sees, Sees::EveryOrder));
    rules.map(move |rule| Remark { rule: rule.id, message: rule.said(&format!("{}{figures}", rule.wrong)) })
}

/// The ids that `safety.acknowledge` may hold: those of all cautions.
pub fn cautions() -> impl Iterator<Item = &'static str> {
    RULES.iter().filter(|rule| rule.severity == Severity::Caution).map(|rule| rule.id)
}

impl Rule {
    /// Whether it has to do with this key.
    pub fn is_about(&self, sysctl: Sysctl) -> bool {
        self.sysctl.is_none_or(|own| own == sysctl)
    }

    fn ask(&self, case: &Case<'_>) -> Answer {
        if let Sees::Node { check, .. } = self.sees {
            return check(case);
        }
        self.broken_by_object(case.sysctl, case.ordered, case.clients_behind_nat)
            .map_or(Answer::Kept, Answer::Broken)
    }

    /// What is wrong, where the object alone breaks it; never for a rule that looks at the node.
    fn broken_by_object(
        &self,
        sysctl: Sysctl,
        ordered: &BTreeMap<Sysctl, i64>,
        clients_behind_nat: ClientsBehindNat,
    ) -> Option<String> {
        let value = *ordered.get(&sysctl)?;
        match &self.sees {
            Sees::Node { .. } | Sees::EveryOrder => None,
            Sees::Bounds => {
                let bounds = sysctl.facts().orderable;
                let outside = !bounds.contains(&value);
                outside.then(|| format!("{}, {} to {}", self.wrong, bounds.start(), bounds.end()))
            }
            Sees::Object(predicate) => {
                predicate.is_true_of(value, ordered, clients_behind_nat).then(|| self.wrong.into())
            }
        }
    }

    fn refuse_object(
        &self,
        sysctl: Sysctl,
        ordered: &BTreeMap<Sysctl, i64>,
        clients_behind_nat: ClientsBehindNat,
    ) -> Option<Refusal> {
        let evidence = self.broken_by_object(sysctl, ordered, clients_behind_nat)?;
        Some(self.refuse(sysctl, *ordered.get(&sysctl)?, &self.said(&evidence)))
    }

    fn refuse(&self, sysctl: Sysctl, value: i64, said: &str) -> Refusal {
        let message = format!("{sysctl} = {value}: {said}{}", self.way_out());
        Refusal { rule: self.id, sysctl, message }
    }

    /// What is wrong, by these facts, and what to do.
    fn said(&self, evidence: &str) -> String {
        if self.instead.is_empty() { evidence.into() } else { format!("{evidence}: {}", self.instead) }
    }

    /// How its author gets what a caution keeps back.
    fn way_out(&self) -> String {
        match self.severity {
            Severity::Refuse | Severity::Note => String::new(),
            Severity::Caution => format!(". To accept it, add {} to safety.acknowledge", self.id),
        }
    }

    /// What the API server says of an object that breaks it.
    pub fn object_message(&self) -> String {
        format!("{}{}", self.said(self.wrong), self.way_out())
    }
}

impl Predicate {
    fn is_true_of(
        &self,
        value: i64,
        ordered: &BTreeMap<Sysctl, i64>,
        clients_behind_nat: ClientsBehindNat,
    ) -> bool {
        match self {
            Self::In(range) => range.contains(&value),
            Self::While(this, other, that) => value == *this && ordered.get(other) == Some(that),
            Self::WithoutWordOnNat(this) => value == *this && clients_behind_nat != ClientsBehindNat::Never,
        }
    }
}

#[cfg(test)]
mod tests;
