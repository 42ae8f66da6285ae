//! From a verdict to the five conditions, as kstatus, `kubectl wait` and people read them.

use std::time::Duration;

use crds::TcpCloseTuningStatus;
use crds::condition::{Condition, ConditionStatus, kind};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Two tunings that contradict each other may be on their way to not doing so: a pipeline applies one after the other.
const PEACE_AFTER: Duration = Duration::from_secs(15);
const MESSAGE_MAX: usize = 1024;

/// Why Ready is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// In force on every node.
    Applied,
    /// In force on every node that is heard.
    AppliedExceptStale,
    /// In force but on few nodes: no more than its author allows.
    AppliedWithExceptions,
    /// Mode Observe: every node has reported.
    Observed,
    /// Orders or acknowledgements are outstanding.
    Progressing,
    /// The nodes that go first take the change.
    Canary,
    /// They have, and are watched.
    Soaking,
    /// The others follow.
    RollingOut,
    /// The figures of the nodes that went first say nothing.
    GateInconclusive,
    /// The change failed and is taken back.
    RollingBack,
    /// It has been.
    RolledBack,
    /// Its author has paused it.
    Paused,
    /// Nodes have been lost since they were ordered the change.
    NodesLost,
    /// Nodes match, and none reports.
    NoReports,
    /// No node matches.
    NoMatchingNodes,
    /// A rule forbids something.
    Refused,
    /// A write failed.
    WriteFailed,
    /// Another program keeps changing something, and is left alone for a while.
    Contended,
    /// Another program has changed something, which is reported and not put right.
    Drifted,
    /// An agent is missing on a Ready node.
    AgentMissing,
    /// Another tuning of the same priority orders another value.
    Conflict,
    /// Tunings of higher priority order every key.
    Overridden,
    /// No node has one of the keys.
    Unsupported,
    /// A person has stopped it: by the switch everywhere, or by their label on every node.
    Suspended,
    /// The tuning cannot be decoded, or the cluster cannot be watched.
    OperatorError,
}

impl Reason {
    /// Every one of them.
    #[cfg(test)]
    pub const ALL: [Self; 25] = [
        Self::Applied,
        Self::AppliedExceptStale,
        Self::AppliedWithExceptions,
        Self::Observed,
        Self::Progressing,
        Self::Canary,
        Self::Soaking,
        Self::RollingOut,
        Self::GateInconclusive,
        Self::RollingBack,
        Self::RolledBack,
        Self::Paused,
        Self::NodesLost,
        Self::NoReports,
        Self::NoMatchingNodes,
        Self::Refused,
        Self::WriteFailed,
        Self::Contended,
        Self::Drifted,
        Self::AgentMissing,
        Self::Conflict,
        Self::Overridden,
        Self::Unsupported,
        Self::Suspended,
        Self::OperatorError,
    ];

    /// As it stands in a condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "Applied",
            Self::AppliedExceptStale => "AppliedExceptStale",
            Self::AppliedWithExceptions => "AppliedWithExceptions",
            Self::Observed => "Observed",
            Self::Progressing => "Progressing",
            Self::Canary => "Canary",
            Self::Soaking => "Soaking",
            Self::RollingOut => "RollingOut",
            Self::GateInconclusive => "GateInconclusive",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::Paused => "Paused",
            Self::NodesLost => "NodesLost",
            Self::NoReports => "NoReports",
            Self::NoMatchingNodes => "NoMatchingNodes",
            Self::Refused => "Refused",
            Self::WriteFailed => "WriteFailed",
            Self::Contended => "Contended",
            Self::Drifted => "Drifted",
            Self::AgentMissing => "AgentMissing",
            Self::Conflict => "Conflict",
            Self::Overridden => "Overridden",
            Self::Unsupported => "Unsupported",
            Self::Suspended => "Suspended",
            Self::OperatorError => "OperatorError",
        }
    }
}

/// Whether anybody is working on it. That Reconciling and Stalled are never both True is in the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing is under way, and nothing has to be.
    Settled,
    /// Work is under way or scheduled, retries included.
    UnderWay,
    /// Nothing that operator or agents do by themselves can make it Ready.
    Stuck,
}

/// What the conditions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether what the tuning orders is in force.
    pub ready: ConditionStatus,
    /// Why.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// Whether anybody is working on it.
    pub work: Work,
    /// With whom it is at odds, for people; `None`: with nobody.
    pub conflicted: Option<String>,
    /// What another program has changed, for people; `None`: nothing.
    pub drifted: Option<String>,
}

/// What is stored: the past of a status.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The stored status.
    pub status: Option<&'a TcpCloseTuningStatus>,
    /// The generation that the next status is about.
    pub generation: i64,
}

impl<'a> Stored<'a> {
    fn condition(&self, kind: &str) -> Option<&'a Condition> {
        self.status?.conditions.iter().find(|condition| condition.type_ == kind)
    }

    /// The condition, if it is about this generation.
    fn current(&self, kind: &str) -> Option<&'a Condition> {
        self.condition(kind).filter(|condition| condition.observed_generation == self.generation)
    }

    /// Whether this generation was in force everywhere once, and no more than counts has moved since.
    pub fn was_in_force(&self) -> bool {
        let latching =
            [Reason::Applied, Reason::AppliedExceptStale, Reason::AppliedWithExceptions, Reason::Observed];
        self.current(kind::READY).is_some_and(|ready| {
            ready.status == ConditionStatus::True
                && latching.iter().any(|reason| reason.as_str() == ready.reason)
        })
    }

    /// Whether Ready was what it was for one of these reasons.
    pub fn is_ready_for(&self, reasons: impl IntoIterator<Item = Reason>) -> bool {
        let ready = self.condition(kind::READY);
        ready.is_some_and(|ready| reasons.into_iter().any(|reason| reason.as_str() == ready.reason))
    }

    /// Whether it needed a person.
    pub fn is_stalled(&self) -> bool {
        self.condition(kind::STALLED).is_some_and(|stalled| stalled.status == ConditionStatus::True)
    }

    /// Whether a lost tie at this generation has lasted long enough to be meant.
    pub fn has_waited_for_peace(&self, now: Timestamp) -> bool {
        let lost = |condition: &&Condition| condition.reason == Reason::Conflict.as_str();
        if !self.current(kind::READY).as_ref().is_some_and(lost) {
            return false;
        }
        let is_true = |condition: &&Condition| condition.status == ConditionStatus::True;
        if self.current(kind::STALLED).as_ref().is_some_and(is_true) {
            return true;
        }
        let since = |kind| Some(self.condition(kind).filter(is_true)?.last_transition_time.0);
        since(kind::RECONCILING).max(since(kind::CONFLICTED)).is_some_and(|since| {
            Duration::try_from(now.duration_since(since)).is_ok_and(|waited| waited >= PEACE_AFTER)
        })
    }
}

/// All five, Ready first: a column shows the first that it finds.
pub fn conditions(verdict: &Verdict, stored: Stored<'_>, now: Timestamp) -> Vec<Condition> {
    let reason = verdict.reason.as_str();
    let message = verdict.message.as_str();
    let (reconciling, stalled) = match verdict.work {
        Work::Settled => (None, None),
        Work::UnderWay => (Some(message), None),
        Work::Stuck => (None, Some(message)),
    };
    let make = |kind: &str, status: ConditionStatus, reason: &str, message: &str| {
        let before = stored.condition(kind).filter(|before| before.status == status);
        Condition {
            type_: kind.into(),
            status,
            reason: reason.into(),
            message: super::clip(message, MESSAGE_MAX),
            last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
            observed_generation: stored.generation,
        }
    };
    let abnormal = |kind: &str, so: Option<&str>, reason: &str, otherwise: (&str, &str)| match so {
        Some(message) => make(kind, ConditionStatus::True, reason, message),
        None => make(kind, ConditionStatus::False, otherwise.0, otherwise.1),
    };
    let (conflicted, drifted) = (verdict.conflicted.as_deref(), verdict.drifted.as_deref());
    vec![
        make(kind::READY, verdict.ready, reason, message),
        abnormal(kind::RECONCILING, reconciling, reason, ("Settled", "nothing is under way")),
        abnormal(kind::STALLED, stalled, reason, ("NotStalled", "nothing needs a person")),
        abnormal(kind::CONFLICTED, conflicted, "Conflict", ("NoConflict", "no tuning contradicts it")),
        abnormal(kind::DRIFTED, drifted, "Drifted", ("NoDrift", "no other program has changed its sysctls")),
    ]
}
