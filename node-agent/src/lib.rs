//! The node side: observe, judge, plan, apply, read back, report.
//!
//! This crate is the only code that reads or writes a kernel, and [`procfs`] the only module in it that opens kernel
//! files, but for those of other network namespaces, which [`sample::namespaces`] reads. It needs no capability (uid 0 may
//! write below `/proc/sys`), opens no listener, and talks to nothing but the API server, where it reads `TcpCloseNode`
//! objects and writes the status of its own node's.

pub mod apply;
pub mod cluster;
mod earlier;
pub mod facts;
pub mod journal;
pub mod life;
pub mod nat;
pub mod node;
pub mod order;
pub mod procfs;
pub mod report;
pub mod rests;
pub mod run;
pub mod sample;
pub mod sentinel;
pub mod sock_diag;
pub mod standalone;
pub mod textfile;
pub mod ticks;
pub mod watchdog;
