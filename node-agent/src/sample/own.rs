//! The node's own network namespace. Its files stay open, which makes a reading cost a microsecond, however many sockets
//! there are.

use std::io;
use std::time::Duration;

use tcp_close::counters::{CounterReader, Counters, RateWatch, Rates};
use tcp_close::sockets::{SocketCounts, Sockstat};

use super::{Conntrack, PortUse, ports};
use crate::facts::local_ports;
use crate::procfs::{Held, Procfs};
use crate::sock_diag::{self, SockDiag};

/// What the kernel tells of the agent's own network namespace.
#[derive(Debug)]
pub struct Own {
    procfs: Procfs,
    sockstat: Held,
    snmp: Held,
    netstat: Held,
    counters: CounterReader,
    watch: RateWatch,
    sock_diag: SockDiag,
}

impl Own {
    /// Reads below `procfs`.
    pub fn new(procfs: &Procfs) -> Self {
        Self {
            procfs: procfs.clone(),
            sockstat: procfs.hold_sockstat(),
            snmp: procfs.hold_snmp(),
            netstat: procfs.hold_netstat(),
            counters: CounterReader::default(),
            watch: RateWatch::default(),
            sock_diag: procfs.sock_diag(),
        }
    }

    /// What the kernel counts itself: one read of one file.
    ///
    /// # Errors
    /// Where sockstat cannot be read, or has no such counts.
    pub fn sockstat(&mut self) -> io::Result<Sockstat> {
        sock_diag::sockstat(self.sockstat.read())
    }

    /// State by state: one walk of the kernel's table.
    ///
    /// # Errors
    /// Where the kernel gives no dump or no sockstat.
    pub fn states(&mut self) -> io::Result<SocketCounts> {
        let Self { sockstat, sock_diag, .. } = self;
        sock_diag.closing(|| sock_diag::sockstat(sockstat.read()))
    }

    /// What happens per minute; `clock` never goes back. A table that cannot be read leaves its events unknown.
    pub fn rates(&mut self, clock: Duration) -> Option<Rates> {
        let counters = self.counters();
        self.watch.note(counters, clock);
        self.watch.rates()
    }

    /// The same over the whole time since the first reading, or since [`forget_rates`](Self::forget_rates).
    pub fn rates_since(&self) -> Option<Rates> {
        self.watch.rates_since_start()
    }

    /// From now on things are different: what has happened so far is in no rate any longer.
    pub fn forget_rates(&mut self, clock: Duration) {
        let counters = self.counters();
        self.watch.note_as_start(counters, clock);
    }

    fn counters(&mut self) -> Counters {
        let (snmp, netstat) = (self.snmp.read().unwrap_or_default(), self.netstat.read().unwrap_or_default());
        self.counters.read(snmp, netstat)
    }

    /// How full the connection tracker's table is; `None` where there is none.
    pub fn conntrack(&self) -> Option<Conntrack> {
        let (entries, max) = self.procfs.conntrack_use().ok()?;
        Some(Conntrack { entries, max })
    }

    /// Which ports closing sockets belong to, and how near connections come to running out of ports: one dump of every
    /// connection.
    ///
    /// # Errors
    /// Where the kernel gives no dump, or does not say from which ports it takes.
    pub fn ports(&mut self) -> io::Result<PortUse> {
        let text = self.procfs.tcp_setting("ip_local_port_range").map_err(io::Error::other)?;
        let range = local_ports(&text).ok_or_else(|| {
            io::Error::other(format!("ip_local_port_range holds {text:?}, which is no range"))
        })?;
        ports::port_use(&mut self.sock_diag, range)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::procfs::tests::tree;

    #[test]
    fn the_running_kernel_says_all_of_it() {
        let mut own = Own::new(&Procfs::new("/proc", None));
        own.sockstat().unwrap();
        own.states().unwrap();
        assert!(own.ports().unwrap().available > 0);
        assert_eq!(own.rates(Duration::ZERO), None);
        let rates = own.rates(Duration::from_secs(60)).unwrap();
        assert!(
            rates.overflows.is_some() && rates.connects.is_some() && rates.paws_rejected.is_some(),
            "{rates:?}"
        );
    }

    #[test]
    fn a_table_of_counters_that_is_missing_leaves_its_events_unknown() {
        let (dir, procfs) = tree(&[]);
        let mut own = Own::new(&procfs);
        for (second, resets) in [(0, 5), (60, 8)] {
            fs::write(dir.path().join("self/net/snmp"), format!("Tcp: OutRsts\nTcp: {resets}\n")).unwrap();
            let rates = own.rates(Duration::from_secs(second));
            assert_eq!(rates.and_then(|rates| rates.resets_sent), (second > 0).then_some(3));
            assert_eq!(rates.and_then(|rates| rates.overflows), None);
        }
    }

    #[test]
    fn a_node_without_connection_tracker_has_no_such_counts() {
        let (dir, procfs) = tree(&[]);
        assert_eq!(Own::new(&procfs).conntrack(), None);
        let folder = dir.path().join("sys/net/netfilter");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("nf_conntrack_count"), "12\n").unwrap();
        assert_eq!(Own::new(&procfs).conntrack(), None, "half of it says nothing");
        fs::write(folder.join("nf_conntrack_max"), "262144\n").unwrap();
        assert_eq!(Own::new(&procfs).conntrack(), Some(Conntrack { entries: 12, max: 262_144 }));
    }

    #[test]
    fn a_sockstat_that_is_not_one_is_unknown_not_zero() {
        let (dir, procfs) = tree(&[]);
        assert!(Own::new(&procfs).sockstat().is_err());
        fs::write(dir.path().join("self/net/sockstat"), "TCP: inuse 1\n").unwrap();
        let error = Own::new(&procfs).sockstat().unwrap_err();
        assert_eq!(error.to_string(), "sockstat has no line for TCP, or not its fields orphan and tw");
    }
}
