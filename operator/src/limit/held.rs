//! What is held back, and why, in words.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::RECENT;

/// Nodes whose order stays as it is although another one is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBack(BTreeMap<String, Why>);

/// Why an order stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The switch says so.
    Switch,
    /// The node's label says so.
    Label,
    /// It would undo something, which is often taken back within this time.
    Grace(Duration),
    /// So many others are being undone.
    Others(usize),
    /// With what was taken a short while ago, values would be taken from many nodes.
    Many {
        /// From how many.
        nodes: usize,
        /// Of how many.
        of: usize,
        /// When it goes on, unless it is taken back.
        until: Timestamp,
    },
}

impl HeldBack {
    pub(super) fn note(&mut self, node: &str, why: Why) {
        self.0.insert(node.into(), why);
    }

    /// Why the order of this node stays as it is; `None` where it does not.
    pub fn why(&self, node: &str) -> Option<&Why> {
        self.0.get(node)
    }
}

/// Completes `which waits ...`.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => write!(f, "because of the switch"),
            Self::Label => write!(f, "because of its label {}", crate::snapshot::HOLD_LABEL),
            Self::Grace(time) => write!(f, "for {} s, in case it is taken back", time.as_secs()),
            Self::Others(at_once) => write!(f, "for others: values are taken from {at_once} nodes at a time"),
            Self::Many { nodes, of, until } => write!(
                f,
                "until {}, because values would be taken from {nodes} of {of} nodes within {} minutes",
                until.strftime("%H:%M:%S UTC"),
                RECENT.as_secs() / 60,
            ),
        }
    }
}
