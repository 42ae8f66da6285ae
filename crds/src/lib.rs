//! The two resources of group `tcpclose.dev`, as Rust types and as the YAML that a cluster installs.
//!
//! `TcpCloseTuning` is written by people; its status by the operator alone. `TcpCloseNode` is one node's order, written
//! by the operator, and one node's report, written by that node's agent. Bounds and cross-field rules come from
//! `tcp-close`; a test keeps the committed YAML equal to what [`definition`] generates.

pub mod condition;
pub mod definition;
pub mod node;
pub mod revision;
pub mod state;
pub mod tuning;

#[cfg(feature = "client")]
pub mod client;

pub use node::{TcpCloseNode, TcpCloseNodeSpec, TcpCloseNodeStatus};
pub use tuning::{TcpCloseTuning, TcpCloseTuningSpec, TcpCloseTuningStatus};

/// The API group of both resources.
pub const GROUP: &str = "tcpclose.dev";
/// The one version of both resources.
pub const VERSION: &str = "v1alpha1";
