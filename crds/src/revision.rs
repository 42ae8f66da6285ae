//! Short names for contents: equal contents have equal revisions, on every machine and in every release.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::node::{ObservedTuning, SysctlEntry};
use crate::tuning::{DriftPolicyName, TcpCloseTuningSpec};

/// The revision of a tuning: its sysctls, mode, safety and policies. Selector and priority are not part of it: they decide
/// where it applies, not what.
pub fn of_tuning(spec: &TcpCloseTuningSpec) -> String {
    let safety = spec.safety();
    let word = safety.clients_behind_nat.unwrap_or_default();
    let first = (&spec.sysctls, spec.mode, word, spec.removal_policy());
    let (acknowledged, drift_policy) = (safety.acknowledged(), spec.drift_policy());
    if acknowledged.is_empty() && drift_policy == DriftPolicyName::Correct {
        // What 0.1.0 could say keeps the name that it had then: an upgrade is no new order.
        hash(&first)
    } else {
        hash(&(first, acknowledged, drift_policy))
    }
}

/// The revision of a node's order: its entries.
pub fn of_entries(sysctls: &[SysctlEntry], observe: &[ObservedTuning]) -> String {
    hash(&(sysctls, observe))
}

/// 12 hexadecimal digits of SHA-256 over the JSON, whose fields have a fixed order.
fn hash(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).unwrap_or_default();
    let digest = Sha256::digest(json);
    let number = digest.iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{number:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_have_equal_revisions_in_every_release() {
        assert_eq!(of_entries(&[], &[]), "643d54371042");
    }
}
