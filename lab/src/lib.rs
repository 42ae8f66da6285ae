//! A real cluster on one machine: a control plane and nodes in namespaces of their own, built from package registries
//! and taken down without a trace. The demo, the tests and the benches run on it. It knows nothing about tuning.

mod audit;
pub mod bench;
mod cgroup;
mod checkout;
mod clear;
pub mod cli;
mod cluster;
mod control_plane;
mod debian;
mod demo;
mod error;
mod files;
mod fixture;
mod fuzz;
pub mod images;
mod inotify;
mod install;
mod namespace;
mod network;
mod node;
mod pieces;
mod pki;
mod process;
mod programs;
mod prove;
mod proxy;
mod relay;
mod report;
mod shared_build;
pub mod sockets;
mod stale;
pub mod suite;
mod tools;
pub mod traffic;
mod up;

pub use clear::down;
pub use cluster::Cluster;
pub use control_plane::Component;
pub use error::{Error, Result};
pub use install::{NAMESPACE, RELEASE, install, install_from_checkout};
pub use namespace::NetNamespace;
pub use node::Node;
pub use process::Process;
pub use report::{Seen, during, poll_until, say, wait_until};
pub use up::{up, wait_for_nodes};
