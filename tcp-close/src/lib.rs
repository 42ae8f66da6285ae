//! The domain of closing TCP connections on Linux: what the sysctls are, what is unsafe, what to write in which order,
//! and how sockets are counted.
//!
//! Everything here takes values and returns values. There is no I/O, no clock, and no Kubernetes: a test needs nothing
//! but the numbers, and the agent, the operator and the generated schema share one source for each fact.

pub mod catalogue;
pub mod contention;
pub mod counters;
pub mod heavy;
pub mod judge;
pub mod kernel;
pub mod metric;
pub mod order;
pub mod peak;
pub mod plan;
pub mod reach;
pub mod rule;
pub mod sockets;
mod sysctl;

pub use sysctl::Sysctl;
