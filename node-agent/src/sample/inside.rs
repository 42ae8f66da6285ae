//! One namespace, on demand: which ports closing sockets belong to, and which destinations take the most.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tcp_close::sockets::{SocketCounts, State, Tally};

use super::namespaces::{Unread, Way};
use super::text::Line;
use super::{Pair, PortCount};

/// How many of each are told.
const LARGEST: usize = 10;

/// What is in a namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// State by state.
    pub counts: SocketCounts,
    /// The ports behind the most closing sockets, the largest first.
    pub behind: Vec<PortCount>,
    /// The (source, destination) pairs with the most local ports taken, the largest first.
    pub pairs: Vec<Pair>,
}

/// Reads every socket of a namespace.
///
/// # Errors
/// Where it is gone, or cannot be read whole.
pub fn read(way: &Way) -> Result<Inside, Unread> {
    let mut sockets = Sockets::default();
    way.sockets(|line| sockets.add(line))?;
    Ok(sockets.inside())
}

#[derive(Default)]
struct Sockets {
    tally: Tally,
    listening: HashSet<u16>,
    /// How many close, by state, this end's port and the other end's.
    closing: HashMap<(u8, u16, u16), u64>,
    /// How many there are to a destination, in any state: each has a local port of its own.
    connected: HashMap<(IpAddr, (IpAddr, u16)), u32>,
}

impl Sockets {
    fn add(&mut self, line: &Line<'_>) {
        let Some((local, remote)) = line.local().zip(line.remote()) else { return };
        if line.listens() {
            self.listening.insert(local.1);
            return;
        }
        *self.connected.entry((local.0, remote)).or_default() += 1;
        if let Some(socket) = line.closing() {
            self.tally.add(socket);
            *self.closing.entry((socket.state as u8, local.1, remote.1)).or_default() += 1;
        }
    }

    /// A port that is listened on is a server's, and the other end's port is any; else it is the other way round.
    fn inside(self) -> Inside {
        let mut behind: HashMap<(u8, bool, u16), u64> = HashMap::new();
        for ((state, here, there), sockets) in self.closing {
            let local = self.listening.contains(&here);
            *behind.entry((state, local, if local { here } else { there })).or_default() += sockets;
        }
        let mut behind: Vec<_> = behind.into_iter().collect();
        behind.sort_unstable_by_key(|(port, sockets)| (Reverse(*sockets), *port));
        let is_client = |(_, used): &(_, u32)| *used > 1;
        let mut pairs: Vec<_> = self.connected.into_iter().filter(is_client).collect();
        pairs.sort_unstable_by_key(|(pair, used)| (Reverse(*used), *pair));
        let port_count = |((state, local, port), sockets)| {
            Some(PortCount { state: State::from_number(state)?, local, port, sockets })
        };
        let pair = |((source, destination), used)| Pair { source, destination, used };
        Inside {
            counts: self.tally.counts(),
            behind: behind.into_iter().filter_map(port_count).take(LARGEST).collect(),
            pairs: pairs.into_iter().map(pair).take(LARGEST).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::text::Table;

    #[test]
    fn a_port_that_is_listened_on_is_a_servers_and_others_are_clients() {
        let mut sockets = Sockets::default();
        let text = include_str!("../../../fuzz/seeds/kernel_text/tcp");
        Table::default().read(text.as_bytes(), &mut |line| sockets.add(line)).unwrap();
        // The client's ends were in the same namespace, where nobody listens on their ports.
        let inside = sockets.inside();
        let of = |state| inside.behind.iter().filter(move |port| port.state == state);
        let ports = |state| of(state).map(|it| (it.local, it.port, it.sockets)).collect::<Vec<_>>();
        assert_eq!(ports(State::TimeWait), [(false, 8080, 3)]);
        assert_eq!(ports(State::CloseWait), [(true, 8081, 2), (true, 8082, 1), (true, 8085, 1)]);
        let localhost: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(inside.pairs[0], Pair { source: localhost, destination: (localhost, 8080), used: 3 });
        assert_eq!(inside.counts.orphans, 4);
    }
}
