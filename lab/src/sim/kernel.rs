//! A kernel that is values in memory: what the agent reads of it, and what it writes to it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_agent::{
    procfs::{Kernel, KernelFile},
    sock_diag::{Connection, Dump, Progress, SockDiag},
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tcp_close::Sysctl;

use crate::{
    error::Result,
    files,
};

/// The counter of `/proc/net/netstat` that a simulated overflow moves.
const OVERFLOW: &str = "TCPTimeWaitOverflow";
/// How many sockets are in TIME_WAIT at first.
const TIME_WAITS: u64 = 1000;
/// Files that say the same on every node, beside those that are taken from the machine.
const TEXTS: [(&str, &str); 5] = [
    ("osrelease", "6.18.44\n"),
    ("meminfo", "MemTotal:       16384000 kB\n"),
    ("tcp_mem", "190000\t253000\t380000\n"),
    ("ip_local_port_range", "32768\t60999\n"),
    ("mountinfo", "1 0 0:5 / /proc rw - proc proc rw\n"),
];

/// What a node's kernel holds when it starts.
fn start_value(sysctl: Sysctl) -> Option<i64> {
    match sysctl {
        Sysctl::OrphanRetries => Some(0),
        Sysctl::MaxOrphans | Sysctl::MaxTwBuckets => Some(65_536),
        Sysctl::FinTimeout => Some(60),
        Sysctl::TwReuse => Some(2),
        Sysctl::TwReuseDelay => Some(1000),
        Sysctl::Timestamps => Some(1),
        Sysctl::TwRecycle => None,
    }
}

/// What all nodes of a process share: texts of files, and who holds which `tcp_fin_timeout`.
#[derive(Debug)]
pub(super) struct Machine {
    texts: BTreeMap<&'static str, Arc<str>>,
    /// `/proc/net/netstat` before and after the number of overflows.
    netstat: [String; 2],
    held: Mutex<BTreeMap<i64, Held>>,
}

/// How many nodes hold a value, and since when as many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// How many.
    pub(crate) nodes: usize,
    /// When the last of them was written, in nanoseconds of the machine's monotonic clock.
    pub(crate) last: u64,
}

impl Machine {
    /// With the counters' text as this machine's kernel writes it.
    pub(super) fn new() -> Result<Self> {
        let mut texts: BTreeMap<_, Arc<str>> = TEXTS.map(|(name, text)| (name, text.into())).into();
        texts.insert("snmp", files::read(Path::new("/proc/self/net/snmp"))?.into());
        let netstat = split_at_counter(&files::read(Path::new("/proc/self/net/netstat"))?);
        Ok(Self { texts, netstat, held: Mutex::default() })
    }

    /// Who holds this value.
    pub(super) fn held(&self, value: i64) -> Held {
        locked(&self.held).get(&value).copied().unwrap_or_default()
    }

    fn note_written(&self, from: i64, to: i64) {
        let mut held = locked(&self.held);
        if let Some(before) = held.get_mut(&from) {
            before.nodes = before.nodes.saturating_sub(1);
        }
        let now = held.entry(to).or_default();
        *now = Held { nodes: now.nodes + 1, last: monotonic() };
    }
}

/// The machine's monotonic clock, which all its processes share.
pub(crate) fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text before and after the number of overflows.
fn split_at_counter(netstat: &str) -> [String; 2] {
    let mut parts = [String::new(), String::new()];
    let mut place = None;
    for line in netstat.lines() {
        let found = line.split(' ').position(|word| word == OVERFLOW);
        for (at, word) in line.split(' ').enumerate() {
            let behind = usize::from(!parts[1].is_empty());
            let blank = if at == 0 { "" } else { " " };
            if place == Some(at) && found.is_none() && behind == 0 {
                parts[0].push_str(blank);
                parts[1].push('\n');
                parts[1].clear();
                parts[1].push_str("");
                place = None;
                parts[1].push(' ');
                continue;
            }
            let _ = write!(parts[behind], "{blank}{word}");
        }
        let behind = usize::from(!parts[1].is_empty());
        parts[behind].push('\n');
        if found.is_some() {
            place = found;
        }
    }
    parts
}
