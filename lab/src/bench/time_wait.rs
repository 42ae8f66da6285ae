//! Makes TIME_WAIT fast: connections over loopback, which the client closes first. Each has addresses and ports that no other
//! of the last minute had, so that no sysctl has to be changed and none takes another's place.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tcp_close::sockets::Sockstat;

use crate::{
    error::{Error, Result},
    files,
    report::{Seen, poll_until},
    traffic::listen_on,
};

/// How long the kernel keeps one.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);
/// The kernel ends them in a timer of its own, some time after.
const GONE: Duration = Duration::from_secs(90);
/// Clients' ports, below those that connect() chooses from.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// Clients' addresses: 127.1.0.1 and so on.
const ADDRESSES: u32 = 200;
const PORT: u16 = 9;

/// Makes them in the network namespace that its thread was in when it was made.
pub(crate) struct Maker {
    listener: Socket,
    made: u32,
}

impl Maker {
    /// Listens.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { listener: listen_on((Ipv4Addr::LOCALHOST, PORT).into())?, made: 0 })
    }

    /// Makes so many. Must run in the same network namespace.
    pub(crate) fn make(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            let client = client(self.made)?;
            let (server, _) = self.listener.accept().map_err(Error::system("accept a connection"))?;
            // In this order: over loopback a FIN has arrived when close() returns.
            drop(client);
            drop(server);
            self.made = self.made.wrapping_add(1);
        }
        Ok(())
    }
}

fn client(number: u32) -> Result<Socket> {
    let from = source(number);
    let act = || format!("connect from {from}");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(Error::system("make a socket"))?;
    // A port that is in TIME_WAIT at one address may be bound at another one.
    socket.set_reuse_address(true).map_err(Error::system(act()))?;
    socket.bind(&from.into()).map_err(Error::system(act()))?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).into()).map_err(Error::system(act()))?;
    Ok(socket)
}

/// Where the connection of this number comes from: all ports of one address, then those of the next.
fn source(number: u32) -> SocketAddr {
    let ports = u32::from(PORTS.end - PORTS.start);
    let port = PORTS.start + u16::try_from(number % ports).unwrap_or_default();
    let address = u8::try_from(number / ports % ADDRESSES).unwrap_or_default();
    (Ipv4Addr::new(127, 1, address, 1), port).into()
}

/// What the network namespace of this thread counts itself.
pub(crate) fn sockstat() -> Result<Sockstat> {
    let path = Path::new("/proc/thread-self/net/sockstat");
    let text = files::read(path)?;
    let what = path.display().to_string();
    Sockstat::parse(&text).ok_or(Error::Unclear { what, why: "it has no line for TCP".into() })
}

/// Waits until those of an earlier time are gone.
pub(crate) fn wait_until_none() -> Result<()> {
    let none = || sockstat().map(|seen| Seen::when(seen.tw == 0, || format!("{} are left", seen.tw)));
    poll_until("no socket is in TIME_WAIT", GONE, none).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_connection_of_a_lifetime_comes_from_where_another_did() {
        let all: HashSet<_> = (0..300_000).map(source).collect();
        assert_eq!(all.len(), 300_000);
    }
}
