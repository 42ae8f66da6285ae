//! States of a sysctl on a node. Plain strings in the schema, so that an older definition does not lock out a newer
//! agent; here they are a closed set.

use std::fmt;

/// How far an order for one sysctl is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Read back: the kernel holds what was ordered.
    Applied,
    /// In force, and a rule would refuse it now.
    AtRisk,
    /// Ordered, and not yet tried.
    Pending,
    /// A rule forbids it, or forbids a key that it stands or falls with.
    Refused,
    /// This node has no such sysctl.
    Unsupported,
    /// Another program has changed it, and the tuning wants that reported, not put right.
    Drifted,
    /// Another program keeps changing it; it is left alone for a while.
    Contended,
    /// Writing or reading failed.
    Failed,
    /// It stays as it is: its tuning was changed from Enforce to Observe.
    Held,
    /// It is being put back.
    Restoring,
    /// It holds what it held before, or nothing of ours was there to take back.
    Restored,
    /// Another program has changed it since; it was left alone.
    RestoreSkipped,
    /// It stays as it is, and its baseline is forgotten.
    Released,
    /// Mode Observe: Enforce would write it.
    WouldChange,
    /// Mode Observe: Enforce would be refused.
    WouldRefuse,
}

impl State {
    /// Every state that this version reports.
    pub const ALL: [Self; 15] = [
        Self::Applied,
        Self::AtRisk,
        Self::Pending,
        Self::Refused,
        Self::Unsupported,
        Self::Drifted,
        Self::Contended,
        Self::Failed,
        Self::Held,
        Self::Restoring,
        Self::Restored,
        Self::RestoreSkipped,
        Self::Released,
        Self::WouldChange,
        Self::WouldRefuse,
    ];

    /// As it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "Applied",
            Self::AtRisk => "AtRisk",
            Self::Pending => "Pending",
            Self::Refused => "Refused",
            Self::Unsupported => "Unsupported",
            Self::Drifted => "Drifted",
            Self::Contended => "Contended",
            Self::Failed => "Failed",
            Self::Held => "Held",
            Self::Restoring => "Restoring",
            Self::Restored => "Restored",
            Self::RestoreSkipped => "RestoreSkipped",
            Self::Released => "Released",
            Self::WouldChange => "WouldChange",
            Self::WouldRefuse => "WouldRefuse",
        }
    }

    /// The state of this name; `None` for one that only a newer agent knows.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether an entry in this state that restores or releases is done with.
    pub const fn is_removed(self) -> bool {
        matches!(self, Self::Restored | Self::RestoreSkipped | Self::Released)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
