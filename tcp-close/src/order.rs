//! What a node has been ordered to do: one entry for each sysctl, and what it is to observe only.
//!
//! A key without an entry is not touched. Absence is never an order.

use std::collections::{BTreeMap, BTreeSet};

use crate::Sysctl;

/// The user's word about NAT between a node and its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientsBehindNat {
    /// Nobody has said.
    #[default]
    Unknown,
    /// The user declares that no client is behind NAT.
    Never,
}

/// What becomes of a value that another program has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriftPolicy {
    /// It is put right.
    #[default]
    Correct,
    /// It is left alone and reported.
    Report,
}

/// What is to become of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bring the value into force and keep it there.
    Set(i64),
    /// Write nothing, keep the baseline: the tuning was changed from Enforce to Observe.
    Hold(i64),
    /// Put the baseline back where the kernel still holds our value.
    Restore,
    /// Keep the value, forget the baseline.
    Release,
}

/// The order for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is to become of it.
    pub action: Action,
    /// The name of the tuning that ordered it. Entries of one tuning stand or fall together.
    pub tuning: String,
    /// The priority of that tuning. Where entries of two tunings break a rule together, the lower one is refused.
    pub priority: i32,
    /// What that tuning's author says about NAT.
    pub clients_behind_nat: ClientsBehindNat,
    /// The ids of cautions that its author accepts.
    pub acknowledged: BTreeSet<String>,
    /// What becomes of a value that another program has changed.
    pub drift_policy: DriftPolicy,
    /// Whether it takes the node back to what was in force here before, by the order and by the agent's own records: then only
    /// values that no kernel is meant to hold are refused.
    pub rollback: bool,
}

impl Entry {
    /// The order to do this, by a tuning that says nothing else.
    pub fn new(action: Action, tuning: impl Into<String>) -> Self {
        Self {
            action,
            tuning: tuning.into(),
            priority: 0,
            clients_behind_nat: ClientsBehindNat::Unknown,
            acknowledged: BTreeSet::new(),
            drift_policy: DriftPolicy::Correct,
            rollback: false,
        }
    }

    /// The value that it is to have.
    pub fn value(&self) -> Option<i64> {
        match self.action {
            Action::Set(value) => Some(value),
            Action::Hold(_) | Action::Restore | Action::Release => None,
        }
    }
}

/// All entries of a node.
pub type Entries = BTreeMap<Sysctl, Entry>;

/// What a kernel file held when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// This number.
    Value(i64),
    /// There is no such file.
    Absent,
    /// It is there and could not be read; the text says why.
    Unreadable(String),
}

impl Reading {
    /// The number, where there is one.
    pub fn value(&self) -> Option<i64> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }
}

/// What the kernel held, key by key.
pub type Readings = BTreeMap<Sysctl, Reading>;

/// What the journal knows of a key that this project has written in this life of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the kernel held before the first write.
    pub baseline: i64,
    /// What was last written and read back.
    pub confirmed: Option<i64>,
    /// What was about to be written when the journal was last saved; a crash leaves it here.
    pub intended: Option<i64>,
}

impl Record {
    /// A record whose value another program has replaced, and that was left alone: nothing is ours any longer.
    pub const fn abandoned(baseline: i64) -> Self {
        Self { baseline, confirmed: None, intended: None }
    }

    /// Whether nothing is ours any longer.
    pub fn is_abandoned(&self) -> bool {
        self.confirmed.is_none() && self.intended.is_none()
    }

    /// Whether a value in the kernel is of our making.
    pub fn is_ours(&self, live: i64) -> bool {
        self.confirmed == Some(live) || self.intended == Some(live)
    }
}

/// The journal's records, key by key.
pub type Records = BTreeMap<Sysctl, Record>;
