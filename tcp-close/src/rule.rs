//! The safety rules of severity refuse: what is never written, and why.
//!
//! A rule that sees the object alone is a small closed [`Predicate`]: evaluated here by the agent, and rendered to CEL for the
//! API server, so that both say no to the same values. What needs the node is decided in [`crate::judge`].

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::Sysctl;
use crate::order::ClientsBehindNat;

/// A rule. Its id is never renamed or reused: people search for it, and statuses carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `fin-timeout-61-to-89`
    pub id: &'static str,
    /// The key whose value is refused.
    pub sysctl: Sysctl,
    /// What it sees in the object, for a rule that needs nothing else.
    pub predicate: Option<Predicate>,
    /// What is wrong and what to do instead.
    pub message: &'static str,
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

/// A fin_timeout that means less than it says.
pub const FIN_TIMEOUT_61_TO_89: &str = "fin-timeout-61-to-89";
/// tcp_tw_reuse 1 without what it needs.
pub const TW_REUSE_WITHOUT_TIMESTAMPS: &str = "tw-reuse-without-timestamps";
/// tcp_tw_recycle without the user's word.
pub const TW_RECYCLE_WITHOUT_WORD: &str = "tw-recycle-without-word";
/// tcp_tw_recycle where the kernel lacks it.
pub const TW_RECYCLE_REMOVED: &str = "tw-recycle-removed";
/// tcp_tw_recycle where NAT has been seen.
pub const TW_RECYCLE_NAT_SEEN: &str = "tw-recycle-nat-seen";
/// tcp_tw_recycle where nothing is known of NAT.
pub const TW_RECYCLE_NAT_UNKNOWN: &str = "tw-recycle-nat-unknown";
/// A value that no schema lets through.
pub const OUT_OF_BOUNDS: &str = "out-of-bounds";

/// Every rule that an object alone can break. The bounds of the schema are the catalogue's and not repeated here.
pub fn object_rules() -> [Rule; 3] {
    [
        Rule {
            id: FIN_TIMEOUT_61_TO_89,
            sysctl: Sysctl::FinTimeout,
            predicate: Some(Predicate::In(61..=89)),
            message: "from 61 to 89 the kernel keeps FIN_WAIT2 for 2 x (value - 60) seconds, less than 60: order those \
                      seconds directly (1 to 60), or 90 and more",
        },
        Rule {
            id: TW_REUSE_WITHOUT_TIMESTAMPS,
            sysctl: Sysctl::TwReuse,
            predicate: Some(Predicate::While(1, Sysctl::Timestamps, 0)),
            message: "tcpTwReuse 1 has no effect while tcpTimestamps is 0: set tcpTimestamps to 1, or tcpTwReuse to 0",
        },
        Rule {
            id: TW_RECYCLE_WITHOUT_WORD,
            sysctl: Sysctl::TwRecycle,
            predicate: Some(Predicate::WithoutWordOnNat(1)),
            message: "tcpTwRecycle 1 cuts off clients behind NAT: remove it (tcpTwReuse is the safe relative), or, for \
                      kernels before 4.12 whose clients are never behind NAT, set safety.clientsBehindNat to Never",
        },
    ]
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

impl Rule {
    /// Whether these values break it.
    pub fn is_broken_by(&self, values: &BTreeMap<Sysctl, i64>, clients_behind_nat: ClientsBehindNat) -> bool {
        let (Some(predicate), Some(value)) = (&self.predicate, values.get(&self.sysctl)) else {
            return false;
        };
        match predicate {
            Predicate::In(range) => range.contains(value),
            Predicate::While(this, other, that) => value == this && values.get(other) == Some(that),
            Predicate::WithoutWordOnNat(this) => {
                value == this && clients_behind_nat != ClientsBehindNat::Never
            }
        }
    }

    /// The refusal of this value.
    pub fn refuse(&self, value: i64) -> Refusal {
        let sysctl = self.sysctl;
        Refusal { rule: self.id, sysctl, message: format!("{sysctl} = {value}: {}", self.message) }
    }

    /// The rule as CEL over a tuning's `spec`, true where it is kept; `None` for a rule that needs the node.
    pub fn cel(&self) -> Option<String> {
        let field = format!("self.sysctls.{}", self.sysctl.field());
        let broken = match self.predicate.as_ref()? {
            Predicate::In(range) => format!("{field} >= {} && {field} <= {}", range.start(), range.end()),
            Predicate::While(this, other, that) => {
                let other = format!("self.sysctls.{}", other.field());
                format!("{field} == {this} && has({other}) && {other} == {that}")
            }
            Predicate::WithoutWordOnNat(this) => format!(
                "{field} == {this} && !(has(self.safety) && has(self.safety.clientsBehindNat) \
                 && self.safety.clientsBehindNat == 'Never')"
            ),
        };
        Some(format!("!(has({field}) && {broken})"))
    }
}

/// The refusal of a value outside what may be ordered, which only an object that passed no schema can hold.
pub fn out_of_bounds(sysctl: Sysctl, value: i64) -> Option<Refusal> {
    let bounds = sysctl.facts().orderable;
    (!bounds.contains(&value)).then(|| Refusal {
        rule: OUT_OF_BOUNDS,
        sysctl,
        message: format!("{sysctl} = {value}: allowed is {} to {}", bounds.start(), bounds.end()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(values: &[(Sysctl, i64)], word: ClientsBehindNat) -> Vec<&'static str> {
        let values = values.iter().copied().collect();
        object_rules()
            .into_iter()
            .filter(|rule| rule.is_broken_by(&values, word))
            .map(|rule| rule.id)
            .collect()
    }

    #[test]
    fn fin_timeout_is_refused_from_61_to_89_only() {
        for (value, refused) in [(60, false), (61, true), (89, true), (90, false)] {
            let ids = broken(&[(Sysctl::FinTimeout, value)], ClientsBehindNat::Unknown);
            assert_eq!(ids == [FIN_TIMEOUT_61_TO_89], refused, "{value}");
        }
    }

    #[test]
    fn tw_reuse_without_timestamps_is_refused() {
        let unknown = ClientsBehindNat::Unknown;
        assert_eq!(
            broken(&[(Sysctl::TwReuse, 1), (Sysctl::Timestamps, 0)], unknown),
            [TW_REUSE_WITHOUT_TIMESTAMPS]
        );
        for kept in
            [[(Sysctl::TwReuse, 2), (Sysctl::Timestamps, 0)], [(Sysctl::TwReuse, 1), (Sysctl::Timestamps, 1)]]
        {
            assert!(broken(&kept, unknown).is_empty(), "{kept:?}");
        }
    }

    #[test]
    fn tw_recycle_without_the_users_word_is_refused() {
        assert_eq!(broken(&[(Sysctl::TwRecycle, 1)], ClientsBehindNat::Unknown), [TW_RECYCLE_WITHOUT_WORD]);
        assert!(broken(&[(Sysctl::TwRecycle, 1)], ClientsBehindNat::Never).is_empty());
        assert!(broken(&[(Sysctl::TwRecycle, 0)], ClientsBehindNat::Unknown).is_empty());
    }

    #[test]
    fn a_refusal_names_key_value_and_remedy() {
        let refusal = object_rules()[0].refuse(65);
        assert_eq!(
            refusal.message,
            "net.ipv4.tcp_fin_timeout = 65: from 61 to 89 the kernel keeps FIN_WAIT2 for 2 x (value - 60) seconds, less \
             than 60: order those seconds directly (1 to 60), or 90 and more"
        );
    }
}
