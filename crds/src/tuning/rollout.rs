//! How a changed tuning reaches its nodes: what people ask for, and how far it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DriftPolicyName, NodeSelector, RemovalPolicy, Safety, Sysctls};

// The schema of an optional object takes its description from here, not from the field.
/// How a changed tuning reaches its nodes. Absent: all at once on up to 10 nodes; above, one canary for 60 s, then a
/// tenth of the nodes at a time, without a gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// The nodes that go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// How many nodes may have been ordered the change and not yet have settled: a number from 1 to 1000000, or a percentage of
    /// the nodes that are reachable when it starts or come within reach meanwhile, rounded down and at least 1. Absent: all of up
    /// to 10 nodes, above that 10%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "number_from_1_or_percentage")]
    pub max_concurrent: Option<IntOrString>,
    /// How long the canaries are watched before other nodes follow, in seconds: 0 to 86400; absent means 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub soak_seconds: Option<u32>,
    /// Whether no further node takes the change. A restore, and a return to the stable revision, go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// After how many seconds without progress a rollout counts as stalled: 10 to 604800; absent means 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 604_800))]
    pub progress_deadline_seconds: Option<u32>,
    /// Compares the changed nodes with their own past and with nodes not yet changed, and takes them back where they do
    /// worse. Absent: nothing is compared, and nothing is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
}

/// The nodes that take a change first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// How many: 1 to 10; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub nodes: Option<u32>,
    /// Among which of the tuning's nodes; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NodeSelector>,
}

/// What lets a rollout go on after its canaries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// What becomes of a rollout whose figures say nothing: too few connections, or none reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_inconclusive: Option<WhenInconclusive>,
    /// How many connections the changed nodes must have had since the change, opened and accepted, before their figures say
    /// something: 1 to 1000000000; absent means 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_connections: Option<u32>,
}

// The schema of an optional enum takes its description from here, not from the field.
/// What becomes of a rollout whose figures say nothing. Wait (absent means this) holds it until they do; Proceed goes on
/// after the soak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenInconclusive {
    /// No further node takes the change.
    #[default]
    Wait,
    /// The rollout goes on.
    Proceed,
}

/// How far a rollout is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Canary, Soaking, RollingOut, Completed, RollingBack, RolledBack. Newer operators may know others.
    #[schemars(length(max = 32))]
    pub phase: String,
    /// Since when it is in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// When a node was ordered the revision or settled last, or the rollout was let go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<Time>,
    /// The revision that is rolled out.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// What completed last: nodes that join meanwhile get it, and a rollout that fails goes back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<StableRevision>,
    /// Revisions that were begun since the stable one completed, and given up for another; a node that still holds one is taken
    /// back with the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 64)), extend("x-kubernetes-list-type" = "set"))]
    pub attempted: Vec<String>,
    /// The revision that was taken back. It is not tried again until the spec or the annotation `tcpclose.dev/retry-at` changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failed_revision: Option<String>,
    /// Why it was taken back: which figure went from what to what, or which nodes were lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub failed_reason: Option<String>,
    /// What the gate found last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub gate: Option<String>,
    /// The annotation `tcpclose.dev/retry-at` that this rollout has taken notice of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub retry_at: Option<String>,
    /// The nodes that went first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub canaries: Vec<String>,
    /// How many nodes were reachable when it started, or at once since, if those were more; percentages are of these.
    #[serde(default)]
    pub reachable: u32,
    /// How many nodes have been ordered this revision.
    #[serde(default)]
    pub ordered: u32,
    /// Among them: how many have acknowledged it, with every sysctl read back.
    #[serde(default)]
    pub settled: u32,
}

/// A revision as it was rolled out: all that its nodes need to be taken back to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StableRevision {
    /// Its name.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// Its sysctls.
    pub sysctls: Sysctls,
    /// What it said of safety.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<Safety>,
    /// Its drift policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_policy: Option<DriftPolicyName>,
    /// Its removal policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_policy: Option<RemovalPolicy>,
}

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The nodes that go first take the change.
    Canary,
    /// They have, and are watched for a while.
    Soaking,
    /// The others follow, some at a time.
    RollingOut,
    /// Every node has it, and every node that joins gets it.
    Completed,
    /// It failed: the nodes that have it are taken back.
    RollingBack,
    /// They have been.
    RolledBack,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 6] =
        [Self::Canary, Self::Soaking, Self::RollingOut, Self::Completed, Self::RollingBack, Self::RolledBack];

    /// As it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "Canary",
            Self::Soaking => "Soaking",
            Self::RollingOut => "RollingOut",
            Self::Completed => "Completed",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
        }
    }

    /// The phase of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

/// How many of so many nodes a number or a percentage is, rounded down. What is neither is none: the schema lets nothing
/// else through.
pub fn share(wanted: &IntOrString, all: usize) -> usize {
    match wanted {
        IntOrString::Int(number) => usize::try_from(*number).unwrap_or_default(),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').filter(|_| is_percentage(text));
            percent
                .and_then(|percent| percent.parse::<usize>().ok())
                .map_or(0, |percent| all.saturating_mul(percent) / 100)
        }
    }
}

/// The only text that may stand for a number of nodes.
pub const PERCENTAGE: &str = "^(100|[1-9]?[0-9])%$";

/// Whether a text is one: `10%`.
pub fn is_percentage(text: &str) -> bool {
    let digits = text.strip_suffix('%').unwrap_or_default();
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let leading = digits.len() > 1 && digits.starts_with('0');
    plain && !leading && digits.parse::<u8>().is_ok_and(|percent| percent <= 100)
}

pub(super) fn number_or_percentage(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    at_least(0)
}

fn number_from_1_or_percentage(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    at_least(1)
}

fn at_least(minimum: u32) -> schemars::Schema {
    schemars::json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "pattern": PERCENTAGE,
        "minimum": minimum,
        "maximum": 1_000_000
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_rounded_down_and_a_number_is_itself() {
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!(share(&percent("10%"), 19), 1);
        assert_eq!(share(&percent("10%"), 9), 0);
        assert_eq!(share(&percent("100%"), 7), 7);
        assert_eq!(share(&IntOrString::Int(3), 7), 3);
    }

    #[test]
    fn what_the_schema_lets_nobody_say_is_none() {
        for text in ["", "%", "ten", "-1%", "1e2%"] {
            assert_eq!(share(&IntOrString::String(text.into()), 7), 0, "{text}");
        }
        assert_eq!(share(&IntOrString::Int(-1), 7), 0);
    }

    #[test]
    fn a_percentage_is_what_the_pattern_matches() {
        let all = (0..=100).map(|percent| format!("{percent}%"));
        assert!(all.into_iter().all(|text| is_percentage(&text)));
        for text in ["101%", "00%", "05%", "+5%", "5", "5 %", "%", "5.5%", "1000%"] {
            assert!(!is_percentage(text), "{text}");
        }
    }

    #[test]
    fn every_phase_is_read_as_it_is_written() {
        assert!(Phase::ALL.into_iter().all(|phase| Phase::parse(phase.as_str()) == Some(phase)));
    }
}
