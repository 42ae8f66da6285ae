//! Conditions and their reasons, as kstatus, `kubectl wait` and people read them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One aspect of an object's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub type_: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one word for programs.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Why, in a sentence for people.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When the status last changed; a new reason or message does not move it.
    pub last_transition_time: Time,
    /// The generation of the spec that this is about.
    #[serde(default)]
    pub observed_generation: i64,
}

/// Whether a condition is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody knows.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(so: bool) -> Self {
        if so { Self::True } else { Self::False }
    }
}

/// Types of conditions. On a tuning all but InForce, in this order; on a node InForce alone.
pub mod kind {
    /// What the tuning orders is in force on its nodes.
    pub const READY: &str = "Ready";
    /// Work is under way or scheduled, retries included.
    pub const RECONCILING: &str = "Reconciling";
    /// Nothing that operator or agents will do by themselves can make Ready True.
    pub const STALLED: &str = "Stalled";
    /// Another tuning of the same priority orders another value on a shared node.
    pub const CONFLICTED: &str = "Conflicted";
    /// Another program has changed a sysctl.
    pub const DRIFTED: &str = "Drifted";
    /// What is ordered on this node is in force.
    pub const IN_FORCE: &str = "InForce";
}
