//! The two resources of group `tcpclose.dev`, as Rust types and as the YAML that a cluster installs.
//!
//! `TcpCloseTuning` is written by people; its status by the operator alone. `TcpCloseNode` is one node's order, written
//! by the operator, and one node's report, written by that node's agent. Bounds and cross-field rules come from
//! `tcp-close`; a test keeps the committed YAML equal to what [`definition`] generates.
//!
//! Feature `manifest` adds the reader of the YAML that people write, feature `client` the function that makes a client.

pub mod condition;
pub mod definition;
pub mod node;
pub mod revision;
pub mod shared;
pub mod state;
pub mod tuning;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "manifest")]
pub mod manifest;

pub use node::{TcpCloseNode, TcpCloseNodeSpec, TcpCloseNodeStatus};
pub use tuning::{TcpCloseTuning, TcpCloseTuningSpec, TcpCloseTuningStatus};

/// The API group of both resources.
pub const GROUP: &str = "tcpclose.dev";
/// The one version of both resources.
pub const VERSION: &str = "v1alpha1";

/// The field manager of everything that the operator writes: who the API server says has written a field.
pub const OPERATOR_MANAGER: &str = "tcp-close-operator";
/// The field manager of everything that an agent writes.
pub const AGENT_MANAGER: &str = "tcp-close-agent";

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn objects_stored_by_v0_1_0_are_read_and_nothing_is_lost() {
        let kept: Value =
            serde_json::from_str(include_str!("../../lab/fixtures/v0.1.0/objects.json")).unwrap();
        let items = kept["items"].as_array().unwrap();
        assert_eq!(items.len(), 6);
        for item in items {
            let again = match item["kind"].as_str().unwrap() {
                "TcpCloseTuning" => {
                    serde_json::to_value(serde_json::from_value::<TcpCloseTuning>(item.clone()).unwrap())
                }
                _ => serde_json::to_value(serde_json::from_value::<TcpCloseNode>(item.clone()).unwrap()),
            }
            .unwrap();
            for part in ["spec", "status"] {
                assert!(holds(&again[part], &item[part]), "{} became {}", item[part], again[part]);
            }
        }
    }

    /// Whether everything of `old` is in `new`, where a count of this version may have come in beside it.
    fn holds(new: &Value, old: &Value) -> bool {
        match (new, old) {
            (Value::Object(new), Value::Object(old)) => {
                old.iter().all(|(key, old)| new.get(key).is_some_and(|new| holds(new, old)))
            }
            (Value::Array(new), Value::Array(old)) => {
                new.len() == old.len() && new.iter().zip(old).all(|(new, old)| holds(new, old))
            }
            _ => new == old,
        }
    }
}
