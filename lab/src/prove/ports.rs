//! The side that connects: running out of ports, and tcp_tw_reuse.

use std::{net::Ipv4Addr, thread, time::Duration};

use tcp_close::{Sysctl, sockets::State};

use super::{
    experiment::{Expected, Experiment, Figure, Figures, Setting, Trial, set},
    space::{ADDRESS, Pair, Space, clients, counter},
};
use crate::error::{Error, Result};

const AGAIN: &str = "connected again";
const REUSED: &str = "TWRecycled";

/// So many ports that a run soon has all of them in TIME_WAIT. One end is even, the other odd: else the kernel complains in
/// its log.
const FEW_PORTS: &str = "40000 40009";
const FEW: u64 = 10;
/// More than the default of tcp_tw_reuse_delay, and less than the longest that it takes.
const PAUSE: Duration = Duration::from_millis(1500);
const LONGEST_DELAY_MS: u32 = 60_000;
const MANY_BUCKETS: u32 = 1 << 20;

pub(super) fn experiments() -> Vec<Experiment> {
    vec![exhausted(), reused(), not_without_timestamps(), not_before_the_delay(), loopback_only()]
}

fn few_ports() -> Setting {
    set("ip_local_port_range", FEW_PORTS)
}

fn reuse() -> Setting {
    set(Sysctl::TwReuse.file(), 1)
}

/// All connect again, and all of them in the place of a TIME_WAIT.
fn all_reused() -> Vec<Expected> {
    vec![Expected::exactly(AGAIN, FEW), Expected::exactly(REUSED, FEW)]
}

fn none_again() -> Vec<Expected> {
    vec![Expected::exactly(AGAIN, 0)]
}

fn exhausted() -> Experiment {
    Experiment {
        id: "S9-ports".into(),
        claim: "with every port to a destination in TIME_WAIT connect() fails, however large tcp_max_tw_buckets is".into(),
        expected: none_again(),
        trial: Trial::with(&[few_ports(), set(Sysctl::MaxTwBuckets.file(), MANY_BUCKETS)], |space| {
            connect_again(space, ADDRESS, Duration::ZERO)
        }),
        control: Trial::at_default(|space| connect_again(space, ADDRESS, Duration::ZERO)),
    }
}

fn reused() -> Experiment {
    Experiment {
        id: "S10-reuse".into(),
        claim: "tcp_tw_reuse 1 lets connect() take over TIME_WAIT after a second, which TWRecycled counts"
            .into(),
        expected: all_reused(),
        trial: Trial::with(&[few_ports(), reuse()], after_a_pause),
        control: Trial::with(&[few_ports()], after_a_pause),
    }
}

fn not_without_timestamps() -> Experiment {
    Experiment {
        id: "S10-timestamps".into(),
        claim: "tcp_tw_reuse 1 does nothing without TCP timestamps".into(),
        expected: none_again(),
        trial: Trial::with(&[few_ports(), reuse(), set(Sysctl::Timestamps.file(), 0)], after_a_pause),
        control: Trial::with(&[few_ports(), reuse()], after_a_pause),
    }
}

fn not_before_the_delay() -> Experiment {
    Experiment {
        id: "S10-delay".into(),
        claim: "tcp_tw_reuse 1 does nothing before tcp_tw_reuse_delay is over".into(),
        expected: none_again(),
        trial: Trial::with(
            &[few_ports(), reuse(), set(Sysctl::TwReuseDelay.file(), LONGEST_DELAY_MS)],
            after_a_pause,
        ),
        control: Trial::with(&[few_ports(), reuse()], after_a_pause),
    }
}

fn loopback_only() -> Experiment {
    let between_loopback = |space: &Space| connect_again(space, Ipv4Addr::LOCALHOST, PAUSE);
    Experiment {
        id: "S10-loopback".into(),
        claim: "tcp_tw_reuse 2, the default, takes over TIME_WAIT between loopback addresses only".into(),
        expected: all_reused(),
        trial: Trial::with(&[few_ports()], between_loopback).named("between loopback addresses"),
        control: Trial::with(&[few_ports()], after_a_pause).named("between other addresses"),
    }
}

fn after_a_pause(space: &Space) -> Result<Figures> {
    connect_again(space, ADDRESS, PAUSE)
}

/// Makes as many connections as there are few ports, closes them, and makes them again.
fn connect_again(space: &Space, address: Ipv4Addr, pause: Duration) -> Result<Figures> {
    let pairs = (0..FEW).map(|_| space.connect_to(address)).collect::<Result<Vec<_>>>()?;
    let clients = clients(&pairs);
    pairs.into_iter().try_for_each(Pair::close_in_turn)?;
    space.wait_for_all(&clients, State::TimeWait)?;
    // The kernel's own delay is what is waited for.
    thread::sleep(pause);
    let mut again = Vec::new();
    while again.len() as u64 != FEW {
        match space.connect_to(address) {
            Ok(pair) => again.push(pair),
            Err(Error::System { source, .. }) if source.kind() == std::io::ErrorKind::AddrNotAvailable => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(vec![Figure::count(AGAIN, again.len() as u64), Figure::count(REUSED, counter(REUSED)?)])
}
