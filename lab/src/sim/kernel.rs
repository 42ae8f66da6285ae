//! A kernel that is values in memory: what an agent reads of it, and what it writes to it.

use std::{
    collections::BTreeMap,
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

/// How many sockets are in TIME_WAIT at first.
pub(super) const TIME_WAITS: u64 = 1000;
/// Files that say the same on every node.
const TEXTS: [(&str, &str); 6] = [
    ("osrelease", "6.18.44\n"),
    ("meminfo", "MemTotal:       16384000 kB\n"),
    ("tcp_mem", "190000\t253000\t380000\n"),
    ("ip_local_port_range", "32768\t60999\n"),
    ("mountinfo", "1 0 0:5 / /proc rw - proc proc rw\n"),
    (
        "snmp",
        "Tcp: ActiveOpens PassiveOpens AttemptFails EstabResets RetransSegs OutRsts\nTcp: 30015 29154 606 288 448 294\n",
    ),
];
/// The counters of `/proc/net/netstat` beside the one of overflows, which stay as they are.
const STILL: &str = "TWRecycled PAWSActive PAWSEstab PAWSTimewait PAWSOldAck TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory \
                     TCPAbortOnTimeout TCPAbortOnLinger TCPAbortFailed";

/// What a kernel holds when it starts.
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

/// Who holds which value of [`WATCHED`], over all nodes of a process.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<i64, Held>>);

/// The sysctl whose values are on the board.
const WATCHED: Sysctl = Sysctl::FinTimeout;

/// How many nodes hold a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// How many.
    pub(crate) nodes: usize,
    /// When the last of them was written, in nanoseconds of [`monotonic`].
    pub(crate) last: u64,
}

impl Board {
    /// Who holds this value.
    pub(super) fn held(&self, value: i64) -> Held {
        locked(&self.0).get(&value).copied().unwrap_or_default()
    }

    /// How many nodes have been ordered a value.
    pub(super) fn ordered(&self) -> usize {
        locked(&self.0).values().map(|held| held.nodes).sum()
    }

    fn note_written(&self, from: i64, to: i64) {
        let mut held = locked(&self.0);
        if let Some(before) = held.get_mut(&from) {
            before.nodes = before.nodes.saturating_sub(1);
        }
        let now = held.entry(to).or_default();
        *now = Held { nodes: now.nodes + 1, last: monotonic() };
    }
}

/// The machine's monotonic clock in nanoseconds, which all its processes share.
pub(crate) fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel of one simulated node.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    boot_id: String,
    board: Arc<Board>,
    values: Mutex<Values>,
}

#[derive(Debug)]
struct Values {
    sysctls: BTreeMap<Sysctl, i64>,
    time_waits: u64,
    overflows: u64,
}

impl Memory {
    /// One that has just started.
    pub(super) fn new(boot_id: String, board: Arc<Board>) -> Self {
        let sysctls = Sysctl::ALL.into_iter().filter_map(|sysctl| Some((sysctl, start_value(sysctl)?)));
        let values = Values { sysctls: sysctls.collect(), time_waits: TIME_WAITS, overflows: 0 };
        Self(Arc::new(Inner { boot_id, board, values: Mutex::new(values) }))
    }

    /// Where it notes what it holds.
    pub(super) fn board(&self) -> &Board {
        &self.0.board
    }

    /// So many sockets are in TIME_WAIT now.
    pub(super) fn set_time_waits(&self, count: u64) {
        locked(&self.0.values).time_waits = count;
    }

    /// So many connections have skipped TIME_WAIT.
    pub(super) fn overflow(&self, more: u64) {
        locked(&self.0.values).overflows += more;
    }

    /// Another program writes a sysctl.
    pub(super) fn meddle(&self, sysctl: Sysctl, value: i64) {
        locked(&self.0.values).sysctls.insert(sysctl, value);
    }

    fn file(&self, path: &Path) -> io::Result<File> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let what = match name {
            "sockstat" => What::Sockstat,
            "netstat" => What::Netstat,
            "boot_id" => What::BootId,
            _ => {
                let sysctl = Sysctl::ALL.into_iter().find(|sysctl| sysctl.file() == name);
                let sysctl = sysctl.filter(|sysctl| locked(&self.0.values).sysctls.contains_key(sysctl));
                let text = TEXTS.into_iter().find(|(known, _)| *known == name);
                let what = sysctl.map(What::Sysctl).or(text.map(|(_, text)| What::Text(text)));
                what.ok_or(io::ErrorKind::NotFound)?
            }
        };
        Ok(File { memory: self.clone(), what })
    }
}

impl Kernel for Memory {
    fn open(&self, path: &Path) -> io::Result<Box<dyn KernelFile>> {
        Ok(Box::new(self.file(path)?))
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<Box<dyn KernelFile>> {
        self.open(path)
    }

    fn read(&self, path: &Path, _bytes_max: u64) -> io::Result<String> {
        Ok(self.file(path)?.text())
    }

    fn has(&self, path: &Path) -> bool {
        self.file(path).is_ok()
    }

    fn is_procfs(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }

    fn sock_diag(&self) -> SockDiag {
        SockDiag::of(NoSockets)
    }
}

/// All that closes is in TIME_WAIT, which sockstat counts and no dump gives.
#[derive(Debug)]
struct NoSockets;

impl Dump for NoSockets {
    fn dump(&mut self, _states: u32, _add: &mut dyn FnMut(Connection<'_>)) -> io::Result<Progress> {
        Ok(Progress { done: true, interrupted: false })
    }
}

#[derive(Debug)]
struct File {
    memory: Memory,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Sysctl(Sysctl),
    Sockstat,
    Netstat,
    BootId,
    Text(&'static str),
}

impl File {
    fn text(&self) -> String {
        let inner = &*self.memory.0;
        let values = locked(&inner.values);
        match self.what {
            What::Sysctl(sysctl) => format!("{}\n", values.sysctls.get(&sysctl).copied().unwrap_or_default()),
            What::Sockstat => format!("TCP: inuse 40 orphan 0 tw {} alloc 60 mem 4\n", values.time_waits),
            What::Netstat => {
                let zeroes = " 0".repeat(STILL.split(' ').count());
                format!("TcpExt: TCPTimeWaitOverflow {STILL}\nTcpExt: {}{zeroes}\n", values.overflows)
            }
            What::BootId => format!("{}\n", inner.boot_id),
            What::Text(text) => text.into(),
        }
    }
}

impl KernelFile for File {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let text = self.text();
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let What::Sysctl(sysctl) = self.what else { return Err(io::ErrorKind::PermissionDenied.into()) };
        let number = str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
        let value = number.ok_or(io::ErrorKind::InvalidInput)?;
        let inner = &*self.memory.0;
        let before = locked(&inner.values).sysctls.insert(sysctl, value);
        if sysctl == WATCHED {
            inner.board.note_written(before.unwrap_or_default(), value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use node_agent::{
        facts::Watcher,
        node::Moment,
        procfs::Procfs,
        sample::{Census, Sampler},
        sentinel::Sentinel,
    };
    use tcp_close::order::Reading;

    use super::*;

    fn memory() -> (Memory, Procfs) {
        let memory = Memory::new("b007".into(), Arc::default());
        (memory.clone(), Procfs::of(Arc::new(memory)))
    }

    #[test]
    fn an_agent_takes_it_for_its_nodes_kernel() {
        let (_, procfs) = memory();
        assert_eq!(Sentinel::Proves { node_address: None }.check(&procfs), Ok(()));
        let facts = Watcher::new(&procfs).look(Duration::ZERO);
        assert!(facts.kernel.is_some() && facts.memory_bytes.is_some() && facts.first_namespace, "{facts:?}");
        assert!(facts.local_ports.is_some() && facts.connections.is_some() && facts.time_wait.now.is_some());
    }

    #[test]
    fn what_is_written_is_read_back_and_counted() {
        let (memory, procfs) = memory();
        procfs.open_for_writing(WATCHED).unwrap().write(30).unwrap();
        assert_eq!(procfs.read_sysctl(WATCHED), Reading::Value(30));
        assert_eq!(memory.0.board.held(30).nodes, 1);
        procfs.open_for_writing(WATCHED).unwrap().write(31).unwrap();
        assert_eq!((memory.0.board.held(30).nodes, memory.0.board.held(31).nodes), (0, 1));
    }

    #[test]
    fn the_agents_sampler_counts_its_sockets_and_overflows() {
        let (memory, procfs) = memory();
        let (mut sampler, mut census) = (Sampler::new(&procfs, None), Census::default());
        let start = Moment::now();
        sampler.update(&mut census, start);
        assert_eq!(census.states.unwrap().value.time_wait, TIME_WAITS);
        memory.overflow(60);
        sampler.update(&mut census, Moment { clock: start.clock + Duration::from_secs(60), ..start });
        assert_eq!(census.rates.unwrap().overflows, Some(60));
    }
}
