//! A network namespace for one run: connections within it, its sysctls and counters, and its closing sockets watched.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use tcp_close::sockets::{Sockstat, State};

use super::{
    experiment::{Figure, Figures, Setting, Value},
    lookup::{Closing, Ends, Lookup},
};
use crate::{
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    process::{on_path, run_with_input},
    report::{Seen, poll_until},
    traffic,
};

/// An address that the kernel does not take for loopback, although `lo` has it: one of those kept for documentation.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Below the ports that connect() chooses from, whatever ip_local_port_range is.
pub(crate) const PORT: u16 = 80;
/// Within one machine a state is reached at once; a busy one may take longer, and while another thread starts a program,
/// its child has every socket open for a moment.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);
/// A watch looks two hundred times, within these bounds.
const LOOKS: u32 = 200;
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_millis(100);

/// Figures that several experiments have.
pub(crate) const TW: &str = "tw of sockstat";
pub(crate) const RESETS: &str = "OutRsts";

/// The namespace that the calling thread is in.
pub(crate) struct Space {
    lookup: Lookup,
    listener: Socket,
}

/// A connection within the namespace, both its ends.
pub(crate) struct Pair {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
    pub(crate) client_ends: Ends,
    pub(crate) server_ends: Ends,
}

/// The clients' ends.
pub(crate) fn clients(pairs: &[Pair]) -> Vec<Ends> {
    pairs.iter().map(|pair| pair.client_ends).collect()
}

/// The servers' ends.
pub(crate) fn servers(pairs: &[Pair]) -> Vec<Ends> {
    pairs.iter().map(|pair| pair.server_ends).collect()
}

/// A socket, and what it is watched for.
pub(crate) struct Watched {
    /// What the figure is called.
    pub(crate) what: &'static str,
    pub(crate) ends: Ends,
    pub(crate) is: Box<dyn Fn(Closing) -> bool>,
}

impl Watched {
    /// Watched for being in a state.
    pub(crate) fn state(what: &'static str, ends: Ends, state: State) -> Self {
        Self { what, ends, is: Box::new(move |seen| seen.state == state) }
    }
}

impl Pair {
    /// The client ends its side, and when the server has seen that, it closes. The client keeps its socket until then: given
    /// up earlier, it would wait as a mini-socket in FIN_WAIT2 for a moment.
    pub(crate) fn close_in_turn(self) -> Result<()> {
        let to_the_end = |mut socket: &Socket| {
            socket.read(&mut [0]).map(drop).map_err(Error::system("read to the end of a connection"))
        };
        traffic::shut_down(&self.client)?;
        to_the_end(&self.server)?;
        drop(self.server);
        to_the_end(&self.client)
    }

    /// Server and client in each other's place.
    pub(crate) fn swapped(self) -> Self {
        let Self { client, server, client_ends, server_ends } = self;
        Self { client: server, server: client, client_ends: server_ends, server_ends: client_ends }
    }
}

impl Space {
    /// Runs work in a new namespace with these sysctls. It is gone when the work is done and its last orphan has ended.
    pub(crate) fn run_in_new<T: Send>(
        sysctls: &[Setting],
        work: impl FnOnce(&Self) -> Result<T> + Send,
    ) -> Result<T> {
        NetNamespace::run_in_new(|| work(&Self::prepare(sysctls)?))?
    }

    fn prepare(sysctls: &[Setting]) -> Result<Self> {
        let ip = on_path("ip").ok_or_else(|| Error::Missing {
            what: "no program `ip` on the PATH".into(),
            remedy: "install iproute2".into(),
        })?;
        let commands = format!("link set lo up\naddress add {ADDRESS}/32 dev lo\n");
        run_with_input(Command::new(ip).args(["-batch", "-"]), commands.as_bytes())?;
        sysctls.iter().try_for_each(|(file, value)| write_sysctl(file, value))?;
        let lookup = Lookup::open().map_err(Error::system("open a sock_diag socket"))?;
        Ok(Self { lookup, listener: traffic::listen_on((Ipv4Addr::UNSPECIFIED, PORT).into())? })
    }

    /// Makes a connection.
    pub(crate) fn connect(&self) -> Result<Pair> {
        self.connect_to(ADDRESS)
    }

    /// Makes a connection to an address of the namespace.
    pub(crate) fn connect_to(&self, address: Ipv4Addr) -> Result<Pair> {
        let client = traffic::connect_to((address, PORT).into())?;
        let (server, _) = self.listener.accept().map_err(Error::system("accept a connection"))?;
        let client_ends = ends(&client)?;
        let server_ends = Ends { local: client_ends.remote, remote: client_ends.local };
        Ok(Pair { client, server, client_ends, server_ends })
    }

    /// Makes connections.
    pub(crate) fn connect_many(&self, count: u64) -> Result<Vec<Pair>> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// What the kernel says of a socket, unless it is gone or does not close.
    pub(crate) fn closing(&self, ends: Ends) -> Result<Option<Closing>> {
        self.lookup.closing(ends).map_err(Error::system("look a socket up"))
    }

    /// How many of these are in a state.
    pub(crate) fn count(&self, all: &[Ends], state: State) -> Result<u64> {
        let mut count = 0;
        for ends in all {
            count += u64::from(self.closing(*ends)?.is_some_and(|seen| seen.state == state));
        }
        Ok(count)
    }

    /// Waits until all of these are in a state.
    pub(crate) fn wait_for_all(&self, all: &[Ends], state: State) -> Result<()> {
        self.wait_for_count(all, state, all.len() as u64)
    }

    /// Waits until none of these is in a state.
    pub(crate) fn wait_for_none(&self, all: &[Ends], state: State) -> Result<()> {
        self.wait_for_count(all, state, 0)
    }

    fn wait_for_count(&self, all: &[Ends], state: State, wanted: u64) -> Result<()> {
        poll_until(&format!("{wanted} sockets are in {state:?}"), SETTLE, || {
            let count = self.count(all, state)?;
            Ok(Seen::when(count == wanted, || format!("{count} of {}", all.len())))
        })
        .map(drop)
    }

    /// Whether a socket is what it is watched for.
    fn still(&self, watched: &Watched) -> Result<bool> {
        Ok(self.closing(watched.ends)?.is_some_and(&watched.is))
    }

    /// Waits until every socket is what it will be watched for.
    pub(crate) fn settle(&self, watched: &[Watched]) -> Result<()> {
        for one in watched {
            poll_until(&format!("it is in {}", one.what), SETTLE, || {
                let seen = self.closing(one.ends)?;
                Ok(Seen::when(seen.is_some_and(&one.is), || format!("{seen:?}")))
            })?;
        }
        Ok(())
    }

    /// Waits until every socket is what it is watched for, then watches until none is, or until `longest` after `since`. The
    /// times count from `since`.
    pub(crate) fn watch(&self, since: Instant, longest: Duration, watched: &[Watched]) -> Result<Figures> {
        self.settle(watched)?;
        self.watch_settled(since, longest, watched)
    }

    /// [`watch`](Self::watch) without the wait.
    pub(crate) fn watch_settled(
        &self,
        since: Instant,
        longest: Duration,
        watched: &[Watched],
    ) -> Result<Figures> {
        let interval = (longest / LOOKS).clamp(INTERVAL_MIN, INTERVAL_MAX);
        let mut ended = vec![None; watched.len()];
        loop {
            let now = since.elapsed();
            for (one, ended) in watched.iter().zip(&mut ended) {
                if ended.is_none() && !self.still(one)? {
                    *ended = Some(since.elapsed());
                }
            }
            if now >= longest || ended.iter().all(Option::is_some) {
                let value = |ended: Option<Duration>| ended.map_or(Value::StillThere(now), Value::Ended);
                let figure = |(one, ended): (&Watched, _)| Figure { what: one.what, value: value(ended) };
                return Ok(watched.iter().zip(ended).map(figure).collect());
            }
            thread::sleep(interval);
        }
    }
}

/// TIME_WAIT and FIN_WAIT2 after close() of this namespace, and the machine's orphans.
pub(crate) fn sockstat() -> Result<Sockstat> {
    let text = read_proc_net("sockstat")?;
    Sockstat::parse(&text).ok_or_else(|| Error::Unclear { what: "sockstat".into(), why: text.clone() })
}

/// A counter of this namespace, by the name that `/proc/net/snmp` or `/proc/net/netstat` has for it.
pub(crate) fn counter(name: &str) -> Result<u64> {
    let text = read_proc_net("snmp")? + &read_proc_net("netstat")?;
    find_counter(&text, name)
        .ok_or_else(|| Error::Unclear { what: format!("the counter {name}"), why: "it is not there".into() })
}

/// Every line of names is followed by one of values.
fn find_counter(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut columns = lines
        .chunks_exact(2)
        .flat_map(|pair| pair[0].split_ascii_whitespace().zip(pair[1].split_ascii_whitespace()));
    columns.find(|(column, _)| *column == name)?.1.parse().ok()
}

/// A file of this namespace below `/proc/net`.
pub(crate) fn read_proc_net(file: &str) -> Result<String> {
    // /proc/net is a link to the process; the thread's own folder is the one that follows the thread.
    files::read(&Path::new("/proc/thread-self/net").join(file))
}

/// Sets a sysctl of this namespace, by its file below `/proc/sys/net/ipv4`.
pub(crate) fn write_sysctl(file: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net/ipv4").join(file);
    if !path.exists() {
        return Err(Error::Missing {
            what: format!("this kernel has no {file}"),
            remedy: "run it on a newer one".into(),
        });
    }
    std::fs::write(&path, value).map_err(Error::file("write", &path))
}

fn ends(socket: &Socket) -> Result<Ends> {
    let address = |address: std::io::Result<socket2::SockAddr>| -> Result<SocketAddrV4> {
        let address = address.map_err(Error::system("read the address of a connection"))?;
        address.as_socket_ipv4().ok_or_else(|| Error::Unclear {
            what: "the address of a connection".into(),
            why: "it is not IPv4".into(),
        })
    };
    Ok(Ends { local: address(socket.local_addr())?, remote: address(socket.peer_addr())? })
}

/// Makes this socket end its peer by reset when it is closed, were it by the end of this process: an orphan must not
/// outlive its experiment.
pub(crate) fn reset_on_close(socket: &Socket) -> Result<()> {
    socket.set_linger(Some(Duration::ZERO)).map_err(Error::system("set SO_LINGER"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "TcpExt: TW TWRecycled\nTcpExt: 7 3\nIpExt: InOctets\nIpExt: 9\n";
        assert_eq!(find_counter(text, "TWRecycled"), Some(3));
        assert_eq!(find_counter(text, "InOctets"), Some(9));
        assert_eq!(find_counter(text, "OutRsts"), None);
    }
}
