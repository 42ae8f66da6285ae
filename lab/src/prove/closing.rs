//! How the two sides close: who first, with what unread, or both at once; and the side that never does.

use std::{
    io::Read,
    mem::MaybeUninit,
    time::{Duration, Instant},
};

use tcp_close::{Sysctl, sockets::State};

use super::{
    experiment::{Expected, Experiment, Figure, Figures, Setting, Trial, set},
    model,
    space::{Pair, RESETS, SETTLE, Space, TW, Watched, clients, counter, servers, sockstat, write_sysctl},
};
use crate::{
    error::{Error, Result},
    report::{Seen, poll_until},
    traffic::{FIN, RST, drop_all, drop_all_but, drop_nothing, shut_down},
};

const CLIENTS: &str = "TIME_WAIT of clients";
const SERVERS: &str = "TIME_WAIT of servers";
const ABORTS: &str = "TCPAbortOnClose";
const CLOSE_WAIT: &str = "CLOSE_WAIT";
const FIN_WAIT2: &str = "FIN_WAIT2 of its peer";
const FIN_WAIT1: &str = "both sides in FIN_WAIT1";
const CLOSING: &str = "then in CLOSING";
const TIME_WAIT: &str = "then in TIME_WAIT";

const COUNT: u64 = 10;
/// Ten times what the shortest knob gives the peer.
const LEAK: Duration = Duration::from_secs(10);

pub(super) fn experiments() -> Vec<Experiment> {
    vec![active_closer(), unread_data(), close_wait(), at_once()]
}

fn active_closer() -> Experiment {
    Experiment {
        id: "S1-active-closer".into(),
        claim: "only the side that closes first gets TIME_WAIT".into(),
        expected: vec![Expected::exactly(CLIENTS, COUNT), Expected::exactly(SERVERS, 0)],
        trial: Trial::at_default(|space| close_first(space, Pair::close_in_turn))
            .named("clients close first"),
        control: Trial::at_default(|space| close_first(space, |pair| pair.swapped().close_in_turn()))
            .named("servers close first"),
    }
}

fn unread_data() -> Experiment {
    Experiment {
        id: "S2-unread-data".into(),
        claim: "close() with data unread sends a reset instead of a FIN, and leaves no TIME_WAIT".into(),
        expected: vec![
            Expected::exactly(ABORTS, COUNT),
            Expected::exactly(RESETS, COUNT),
            Expected::exactly(TW, 0),
        ],
        trial: Trial::at_default(|space| close_with_data(space, false)).named("data unread"),
        control: Trial::at_default(|space| close_with_data(space, true)).named("data read"),
    }
}

/// The lowest that each knob of a namespace can usefully be.
fn every_knob() -> Vec<Setting> {
    vec![
        set(Sysctl::OrphanRetries.file(), 1),
        set(Sysctl::FinTimeout.file(), 1),
        set(Sysctl::MaxTwBuckets.file(), 1),
        set(Sysctl::TwReuse.file(), 1),
        set(Sysctl::TwReuseDelay.file(), 1),
        set(Sysctl::Timestamps.file(), 0),
    ]
}

/// That a knob does nothing has no opposite at its default. What does end CLOSE_WAIT is the program: that is the control;
/// and that the knobs are in force shows on the peer.
fn close_wait() -> Experiment {
    Experiment {
        id: "S12-close-wait".into(),
        claim: "no knob ends CLOSE_WAIT, while its peer's FIN_WAIT2 ends; a program that closes does".into(),
        expected: vec![
            Expected::outlives(CLOSE_WAIT, LEAK),
            Expected::lives(FIN_WAIT2, model::seen_after(model::fin_wait2(1))),
        ],
        trial: Trial::with(&every_knob(), |space| leak(space, false)),
        control: Trial::with(&every_knob(), |space| leak(space, true)).named("the program closes"),
    }
}

fn at_once() -> Experiment {
    Experiment {
        id: "S13-simultaneous-close".into(),
        claim: "two sides that close at once go from FIN_WAIT1 through CLOSING to TIME_WAIT, both".into(),
        expected: [FIN_WAIT1, CLOSING, TIME_WAIT].map(|what| Expected::at_least(what, 1)).to_vec(),
        trial: Trial::at_default(close_at_once).named("both at once"),
        control: Trial::at_default(close_in_turn).named("one after the other"),
    }
}

fn close_first(space: &Space, close: fn(Pair) -> Result<()>) -> Result<Figures> {
    let pairs = space.connect_many(COUNT)?;
    let (clients, servers) = (clients(&pairs), servers(&pairs));
    pairs.into_iter().try_for_each(close)?;
    poll_until("every connection is closed", SETTLE, || {
        let tw = sockstat()?.tw;
        Ok(Seen::when(tw == COUNT, || format!("{tw} in tw")))
    })?;
    Ok(vec![
        Figure::count(CLIENTS, space.count(&clients, State::TimeWait)?),
        Figure::count(SERVERS, space.count(&servers, State::TimeWait)?),
    ])
}

fn close_with_data(space: &Space, read: bool) -> Result<Figures> {
    for Pair { mut client, mut server, .. } in space.connect_many(COUNT)? {
        server.send(b"x").map_err(Error::system("send"))?;
        client.peek(&mut [MaybeUninit::uninit()]).map_err(Error::system("wait for data"))?;
        if read {
            client.read_exact(&mut [0]).map_err(Error::system("read"))?;
        }
        drop(client);
        // The end of the stream, or the reset.
        let _ = server.read(&mut [0]);
    }
    poll_until("every connection is closed", SETTLE, || {
        let (tw, aborts) = (sockstat()?.tw, counter(ABORTS)?);
        Ok(Seen::when(tw + aborts == COUNT, || format!("{tw} in tw, {aborts} aborts")))
    })?;
    Ok(vec![
        Figure::count(ABORTS, counter(ABORTS)?),
        Figure::count(RESETS, counter(RESETS)?),
        Figure::count(TW, sockstat()?.tw),
    ])
}

/// The client closes. The server, a program that leaks, does not, or does at last.
fn leak(space: &Space, closes: bool) -> Result<Figures> {
    let Pair { client, server, client_ends, server_ends } = space.connect()?;
    let since = Instant::now();
    drop(client);
    let watched = [
        Watched::state(CLOSE_WAIT, server_ends, State::CloseWait),
        Watched::state(FIN_WAIT2, client_ends, State::FinWait2),
    ];
    space.settle(&watched)?;
    let owner = (!closes).then_some(server);
    let figures = space.watch_settled(since, LEAK, &watched)?;
    drop(owner);
    Ok(figures)
}

/// Drops everything until both have sent their FIN, then lets FINs through and nothing that only acknowledges. Both FINs are
/// sent again by the same tick of the kernel's timers, so they cross; a pair of which one was earlier does not count.
fn close_at_once(space: &Space) -> Result<Figures> {
    // In CLOSING no end of this process resets the peer.
    write_sysctl(Sysctl::OrphanRetries.file(), "1")?;
    let pairs = space.connect_many(COUNT)?;
    let all = [clients(&pairs), servers(&pairs)].concat();
    each_side(&pairs, drop_all)?;
    each_side(&pairs, shut_down)?;
    let fin_wait1 = in_state_on_both_sides(space, &pairs, State::FinWait1)?;
    each_side(&pairs, |socket| drop_all_but(socket, FIN | RST))?;
    space.wait_for_none(&all, State::FinWait1)?;
    let closing = in_state_on_both_sides(space, &pairs, State::Closing)?;
    each_side(&pairs, drop_nothing)?;
    space.wait_for_none(&all, State::Closing)?;
    let time_wait = in_state_on_both_sides(space, &pairs, State::TimeWait)?;
    Ok(both_sides(fin_wait1, closing, time_wait))
}

fn close_in_turn(space: &Space) -> Result<Figures> {
    let pairs = space.connect_many(COUNT)?;
    let clients = clients(&pairs);
    pairs.iter().try_for_each(|pair| shut_down(&pair.client))?;
    space.wait_for_all(&clients, State::FinWait2)?;
    pairs.iter().try_for_each(|pair| shut_down(&pair.server))?;
    let fin_wait1 = in_state_on_both_sides(space, &pairs, State::FinWait1)?;
    let closing = in_state_on_both_sides(space, &pairs, State::Closing)?;
    space.wait_for_all(&clients, State::TimeWait)?;
    let time_wait = in_state_on_both_sides(space, &pairs, State::TimeWait)?;
    Ok(both_sides(fin_wait1, closing, time_wait))
}

fn both_sides(fin_wait1: u64, closing: u64, time_wait: u64) -> Figures {
    vec![
        Figure::count(FIN_WAIT1, fin_wait1),
        Figure::count(CLOSING, closing),
        Figure::count(TIME_WAIT, time_wait),
    ]
}

fn each_side(pairs: &[Pair], act: impl Fn(&socket2::Socket) -> Result<()>) -> Result<()> {
    pairs.iter().flat_map(|pair| [&pair.client, &pair.server]).try_for_each(act)
}

fn in_state_on_both_sides(space: &Space, pairs: &[Pair], state: State) -> Result<u64> {
    let mut count = 0;
    for pair in pairs {
        count += u64::from(space.count(&[pair.client_ends, pair.server_ends], state)? == 2);
    }
    Ok(count)
}
