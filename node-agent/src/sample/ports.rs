//! Ports: which ones closing sockets belong to, and how near connections come to running out of them.

use std::io;
use std::net::IpAddr;

use tcp_close::heavy::HeavyHitters;
use tcp_close::sockets::State;

use super::{Pair, PortCount, PortUse};
use crate::sock_diag::{Connection, SockDiag};

/// So many ports are listed.
const PORTS_MAX: usize = 10;
/// A port is listed where at least one in so many sockets of a state are behind it.
const PORT_SHARE: u64 = 10;
/// A port with fewer sockets explains nothing.
const PORT_SOCKETS_MIN: u64 = 10;
/// So many pairs are listed.
const PAIRS_MAX: usize = 5;
/// A pair is listed where it has taken at least one in so many of its ports.
const PAIR_SHARE: u32 = 100;

/// Ports kept for each state and end: a count is too low by at most 1/64 of the state's.
const PORTS_KEPT: usize = 63;
/// Pairs kept: a count is too low by at most 1/256 of all connections from local ports that the kernel chooses.
const PAIRS_KEPT: usize = 255;

/// Finds out, from one dump of every connection, the kernel taking local ports from `range`.
///
/// # Errors
/// Where the kernel gives no dump.
pub fn port_use(sock_diag: &mut SockDiag, range: (u16, u16)) -> io::Result<PortUse> {
    let found: Found = sock_diag.connected(|found: &mut Found, connection| found.add(connection, range))?;
    Ok(found.port_use(range))
}

/// This end, and the other end with its port: what a connection's local port is chosen for.
type Ends = (IpAddr, (IpAddr, u16));

struct Found {
    /// For each of [`State::ALL`], the ports of this end and of the other.
    ports: [[HeavyHitters<u16>; 2]; State::ALL.len()],
    pairs: HeavyHitters<Ends>,
}

impl Default for Found {
    fn default() -> Self {
        let ports = || [HeavyHitters::new(PORTS_KEPT), HeavyHitters::new(PORTS_KEPT)];
        Self { ports: std::array::from_fn(|_| ports()), pairs: HeavyHitters::new(PAIRS_KEPT) }
    }
}

impl Found {
    fn add(&mut self, connection: Connection<'_>, (low, high): (u16, u16)) {
        let (source_port, destination_port) = (connection.source_port(), connection.destination_port());
        if let Some(socket) = connection.closing()
            && let Some((_, [local, remote])) =
                State::ALL.iter().zip(&mut self.ports).find(|(state, _)| **state == socket.state)
        {
            local.add(source_port);
            remote.add(destination_port);
        }
        // A server's port is none that the kernel chose.
        if (low..=high).contains(&source_port) {
            self.pairs.add((connection.source(), (connection.destination(), destination_port)));
        }
    }

    fn port_use(&self, (low, high): (u16, u16)) -> PortUse {
        let available = u32::from(high).saturating_sub(u32::from(low)) + 1;
        PortUse { behind: self.behind(), pairs: self.pairs(available), available }
    }

    fn behind(&self) -> Vec<PortCount> {
        let mut behind = Vec::new();
        for (&state, ends) in State::ALL.iter().zip(&self.ports) {
            for (local, ports) in [true, false].into_iter().zip(ends) {
                let least = ports.total().div_ceil(PORT_SHARE).max(PORT_SOCKETS_MIN);
                let count = |(port, sockets)| PortCount { state, local, port, sockets };
                behind.extend(ports.at_least(least).into_iter().map(count));
            }
        }
        behind.sort_by_key(|count| std::cmp::Reverse(count.sockets));
        behind.truncate(PORTS_MAX);
        behind
    }

    fn pairs(&self, available: u32) -> Vec<Pair> {
        let least = available.div_ceil(PAIR_SHARE);
        let pairs = self.pairs.at_least(least.into()).into_iter().take(PAIRS_MAX);
        pairs
            .map(|((source, destination), used)| Pair {
                source,
                destination,
                // A dump under churn may show a socket twice; a pair has no more ports than there are.
                used: u32::try_from(used).unwrap_or(u32::MAX).min(available),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sock_diag::tests::connection;

    const RANGE: (u16, u16) = (32768, 60999);
    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn found(connections: impl IntoIterator<Item = (u8, u16, (IpAddr, u16))>) -> PortUse {
        let mut found = Found::default();
        for (state, source_port, destination) in connections {
            let message = connection(state, (NEAR, source_port), destination);
            found.add(Connection::new(&message), RANGE);
        }
        found.port_use(RANGE)
    }

    #[test]
    fn a_server_that_closes_first_is_named_by_its_own_port() {
        let use_ = found((0..5000).map(|n| (6, 80, (FAR, 20_000 + n))));
        assert_eq!(use_.behind, [PortCount { state: State::TimeWait, local: true, port: 80, sockets: 5000 }]);
        assert_eq!(use_.pairs, [], "its clients chose the ports");
    }

    #[test]
    fn a_client_that_closes_first_is_named_by_the_other_ends_port() {
        let use_ = found((0..5000).map(|n| (6, 33_000 + n, (FAR, 443))));
        let expected = PortCount { state: State::TimeWait, local: false, port: 443, sockets: 5000 };
        assert_eq!(use_.behind, [expected]);
        assert_eq!(use_.pairs, [Pair { source: NEAR, destination: (FAR, 443), used: 5000 }]);
        assert_eq!(use_.available, 28_232);
    }

    #[test]
    fn a_leak_of_close_wait_is_named_beside_a_larger_state() {
        let time_wait = (0..5000).map(|n| (6, 80, (FAR, 20_000 + n)));
        let close_wait = (0..40).map(|n| (8, 9090, (FAR, 20_000 + n)));
        let behind = found(time_wait.chain(close_wait)).behind;
        assert_eq!(behind.len(), 2, "{behind:?}");
        assert_eq!(behind[1], PortCount { state: State::CloseWait, local: true, port: 9090, sockets: 40 });
    }

    #[test]
    fn ports_that_explain_little_are_not_listed() {
        let scattered = found((0..3000).map(|n| (6, 1000 + n % 30, (FAR, 20_000 + n))));
        assert_eq!(scattered.behind, []);
        let few = found((0..9).map(|n| (8, 80, (FAR, 20_000 + n))));
        assert_eq!(few.behind, []);
    }

    #[test]
    fn a_pair_is_listed_in_whatever_state_its_ports_are() {
        let established = (0..200).map(|n| (1, 33_000 + n, (FAR, 5432)));
        let connecting = (0..100).map(|n| (2, 34_000 + n, (FAR, 5432)));
        let time_wait = (0..100).map(|n| (6, 35_000 + n, (FAR, 5432)));
        let pairs = found(established.chain(connecting).chain(time_wait)).pairs;
        assert_eq!(pairs, [Pair { source: NEAR, destination: (FAR, 5432), used: 400 }]);
    }

    #[test]
    fn a_pair_far_from_its_limit_is_not_listed() {
        assert_eq!(found((0..282).map(|n| (1, 33_000 + n, (FAR, 5432)))).pairs, []);
        assert_eq!(found((0..283).map(|n| (1, 33_000 + n, (FAR, 5432)))).pairs.len(), 1);
    }

    #[test]
    fn a_socket_that_a_dump_shows_twice_does_not_take_more_ports_than_there_are() {
        let twice = (0..2).flat_map(|_| (RANGE.0..=RANGE.1).map(|port| (6, port, (FAR, 443))));
        assert_eq!(found(twice).pairs[0].used, 28_232);
    }

    #[test]
    fn the_lists_are_bounded() {
        let states = [4, 5, 6, 8, 9, 11];
        let many =
            states.into_iter().flat_map(|state| (0..3000).map(move |n| (state, 33_000 + n, (FAR, n % 6))));
        let use_ = found(many);
        assert_eq!((use_.behind.len(), use_.pairs.len()), (PORTS_MAX, PAIRS_MAX));
    }
}
