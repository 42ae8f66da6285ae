//! What the rules need to know of this node: counts are read anew in each turn, what moves slowly a little less often, but
//! always just before something is written.

use std::time::Duration;

use tcp_close::Sysctl;
use tcp_close::kernel::{Connections, Nat, NodeFacts, RTO_MAX_MS_DEFAULT, Watched};
use tcp_close::order::{Entries, Entry, Reading, Readings};
use tcp_close::peak::PeakWatch;
use tcp_close::sockets::Sockstat;

use crate::nat;
use crate::procfs::{Error, Held, Procfs};

/// What was read for a turn that writes nothing may be this old.
const AGE_MAX: Duration = Duration::from_secs(5);

/// Watches the counts whose peaks decide, and remembers what moves slowly.
#[derive(Debug)]
pub struct Watcher {
    procfs: Procfs,
    sockstat: Held,
    orphans: PeakWatch,
    time_wait: PeakWatch,
    /// Everything but counts, and when it was read.
    known: Option<(Duration, NodeFacts)>,
}

impl Watcher {
    /// Looks below `procfs`.
    pub fn new(procfs: &Procfs) -> Self {
        Self {
            procfs: procfs.clone(),
            sockstat: procfs.hold_sockstat(),
            orphans: PeakWatch::default(),
            time_wait: PeakWatch::default(),
            known: None,
        }
    }

    /// Counts, and remembers the counts.
    pub fn count(&mut self, now: Duration) -> Option<Sockstat> {
        let counts = Sockstat::parse(self.sockstat.read().ok()?)?;
        self.orphans.note(counts.machine_orphans, now);
        self.time_wait.note(counts.tw, now);
        Some(counts)
    }

    /// The node as it is now: all of it is read.
    pub fn look(&mut self, now: Duration) -> NodeFacts {
        self.known = None;
        self.look_briefly(now)
    }

    /// The node as far as a turn needs it that writes nothing: only counts are always read. Nothing is said of NAT yet: that
    /// depends on what is ordered.
    pub fn look_briefly(&mut self, now: Duration) -> NodeFacts {
        let counts = self.count(now);
        let known = self.known.take().filter(|(read, _)| now.saturating_sub(*read) < AGE_MAX);
        let known = known.unwrap_or_else(|| (now, self.settings()));
        let facts = NodeFacts {
            orphans: Watched {
                now: counts.map(|counts| counts.machine_orphans),
                peak: self.orphans.peak(now),
            },
            time_wait: Watched { now: counts.map(|counts| counts.tw), peak: self.time_wait.peak(now) },
            ..known.1.clone()
        };
        self.known = Some(known);
        facts
    }

    /// Everything but counts.
    fn settings(&self) -> NodeFacts {
        let procfs = &self.procfs;
        NodeFacts {
            kernel: procfs.kernel_version(),
            first_namespace: procfs.in_first_namespace(),
            nat: Nat::Unknown("it is looked for where tcp_tw_recycle is ordered".into()),
            memory_bytes: procfs.meminfo().ok().and_then(|text| memory_bytes(&text)),
            rto_max_ms: rto_max_ms(procfs),
            tcp_mem_bytes: procfs.tcp_setting("tcp_mem").ok().and_then(|text| tcp_mem_bytes(&text)),
            local_ports: procfs.tcp_setting("ip_local_port_range").ok().and_then(|text| local_ports(&text)),
            connections: procfs.snmp().ok().and_then(|text| connections(&text)),
            ..NodeFacts::unknown()
        }
    }
}

/// The facts, with what is known of NAT where that decides: tcp_tw_recycle exists, and 1 is ordered.
pub fn with_nat(facts: &NodeFacts, procfs: &Procfs, entries: &Entries, live: &Readings) -> NodeFacts {
    let ordered = entries.get(&Sysctl::TwRecycle).and_then(Entry::value) == Some(1);
    let exists = !matches!(live.get(&Sysctl::TwRecycle), None | Some(Reading::Absent));
    let nat = if ordered && exists { nat::evidence(procfs) } else { facts.nat.clone() };
    NodeFacts { nat, ..facts.clone() }
}

fn rto_max_ms(procfs: &Procfs) -> Option<i64> {
    match procfs.tcp_setting("tcp_rto_max_ms") {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.is_absent() => Some(RTO_MAX_MS_DEFAULT),
        Err(Error::Read { .. } | Error::Open { .. } | Error::Write { .. } | Error::Content { .. }) => None,
    }
}

/// `MemTotal:       24689764 kB`
pub fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The last of three numbers of pages: above it TCP resets what it cannot hold.
pub fn tcp_mem_bytes(tcp_mem: &str) -> Option<u64> {
    let pages: u64 = tcp_mem.split_ascii_whitespace().nth(2)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size().try_into().ok()?)
}

/// `32768   60999`
pub fn local_ports(range: &str) -> Option<(u16, u16)> {
    let (low, high) = range.trim().split_once(char::is_whitespace)?;
    Some((low.parse().ok()?, high.trim().parse().ok()?))
}

/// `ActiveOpens` and `PassiveOpens` of `/proc/net/snmp`: a line of names, then one of numbers.
pub fn connections(snmp: &str) -> Option<Connections> {
    let field = |name| crate::procfs::counter(snmp, "Tcp: ", name);
    Some(Connections { opened: field("ActiveOpens")?, accepted: field("PassiveOpens")? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::procfs::tests::tree;

    #[test]
    fn the_files_of_a_real_kernel_are_understood() {
        let facts = Watcher::new(&Procfs::new("/proc", None)).look(Duration::ZERO);
        assert!(facts.kernel.is_some() && facts.memory_bytes > Some(1 << 28), "{facts:?}");
        assert!(facts.local_ports.is_some() && facts.connections.is_some(), "{facts:?}");
        assert!(facts.orphans.now.is_some() && facts.time_wait.now.is_some(), "{facts:?}");
        assert!(facts.rto_max_ms.is_some(), "{facts:?}");
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let (_dir, procfs) = tree(&[]);
        let facts = Watcher::new(&procfs).look(Duration::ZERO);
        assert_eq!((facts.memory_bytes, facts.connections, facts.orphans.now), (None, None, None));
        assert_eq!(facts.rto_max_ms, Some(RTO_MAX_MS_DEFAULT), "a kernel without the file does that");
    }

    #[test]
    fn peaks_are_remembered_between_turns() {
        let (dir, procfs) = tree(&[]);
        let mut watcher = Watcher::new(&procfs);
        for (second, orphans, tw) in [(0, 7, 900), (60, 2, 100)] {
            let text = format!("TCP: inuse 1 orphan {orphans} tw {tw} alloc 1 mem 1\n");
            fs::write(dir.path().join("self/net/sockstat"), text).unwrap();
            let facts = watcher.look_briefly(Duration::from_secs(second));
            let peaks = (facts.orphans.peak, facts.time_wait.peak);
            let counts = (peaks.0.map(|peak| peak.count), peaks.1.map(|peak| peak.count));
            assert_eq!(counts, if second == 0 { (None, None) } else { (Some(7), Some(900)) });
        }
    }

    #[test]
    fn what_moves_slowly_is_read_before_a_write_and_else_every_five_seconds() {
        let (dir, procfs) = tree(&[]);
        let mut watcher = Watcher::new(&procfs);
        let rto_max = |ms: &str| fs::write(dir.path().join("sys/net/ipv4/tcp_rto_max_ms"), ms).unwrap();
        let mut briefly = |second| watcher.look_briefly(Duration::from_secs(second)).rto_max_ms;
        rto_max("1000\n");
        assert_eq!(briefly(0), Some(1000));
        rto_max("2000\n");
        assert_eq!((briefly(4), briefly(5)), (Some(1000), Some(2000)));
        rto_max("3000\n");
        assert_eq!(watcher.look(Duration::from_secs(6)).rto_max_ms, Some(3000));
    }

    #[test]
    fn garbage_is_unknown_not_a_number() {
        for text in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(memory_bytes(text), None, "{text:?}");
        }
        assert_eq!((tcp_mem_bytes("1 2"), local_ports("1"), local_ports("1 70000")), (None, None, None));
        assert_eq!(connections("Tcp: ActiveOpens\nTcp: 1\n"), None);
    }
}
