//! Sockets without an owner whose FIN is not acknowledged: in FIN_WAIT1, LAST_ACK and CLOSING, under tcp_orphan_retries.

use std::time::{Duration, Instant};

use tcp_close::{Sysctl, sockets::State};

use super::{
    experiment::{Expected, Experiment, Figure, Figures, Setting, Trial, set},
    model::{self, RTO},
    space::{Pair, Space, Watched, clients, reset_on_close, sockstat},
};
use crate::{
    error::Result,
    traffic::{FIN, RST, drop_all, drop_all_but, shut_down},
};

pub(super) const FIN_WAIT1: &str = "FIN_WAIT1";
const LAST_ACK: &str = "LAST_ACK";
const CLOSING: &str = "CLOSING";
const CLOSED: &str = "FIN_WAIT1 after close()";
const SHUT_DOWN: &str = "FIN_WAIT1 after shutdown()";
const SHOWN_ELSEWHERE: &str = "in the empty namespace's sockstat";

/// So long is watched what outlives the run: longer than the model gives 8 at the least.
pub(super) const RUN: Duration = Duration::from_secs(108);
const SLOW_RTO: Duration = Duration::from_millis(250);
const LOW_RTO_MAX: Duration = Duration::from_secs(1);
/// Enough to be told from what others leave on the machine.
const MANY: u64 = 300;
pub(super) fn experiments() -> Vec<Experiment> {
    let mut all = vec![close_against_shutdown(), machine_wide()];
    for rto in [RTO, SLOW_RTO] {
        all.extend([1, 2, 3, 4].map(|retries| short_lived(retries, rto)));
        all.push(eight(rto));
    }
    all.extend([literal_zero(), last_ack(), closing()]);
    all
}

fn retries(value: u32) -> Setting {
    set(Sysctl::OrphanRetries.file(), value)
}

/// These, and where it is not the default, the sysctl that makes this the retransmission timeout.
fn at_rto(rto: Duration, knobs: &[Setting]) -> Vec<Setting> {
    let rto_min = (rto != RTO).then(|| set("tcp_rto_min_us", rto.as_micros()));
    knobs.iter().cloned().chain(rto_min).collect()
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn short_lived(value: u32, rto: Duration) -> Experiment {
    let model = model::orphan(value, rto);
    let seen = model::seen(model.clone());
    let longest = *seen.end();
    let run = move |space: &Space| fin_wait1(space, longest);
    Experiment {
        id: format!("S4-orphan-retries-{value}-rto-{}", rto.as_millis()),
        claim: format!(
            "tcp_orphan_retries {value} gives up an orphan in FIN_WAIT1 after {:.1} to {:.1} s at an RTO of {} ms",
            seconds(*model.start()),
            seconds(*model.end()),
            rto.as_millis()
        ),
        expected: vec![Expected::lives(FIN_WAIT1, seen)],
        trial: Trial::with(&at_rto(rto, &[retries(value)]), run),
        control: Trial::with(&at_rto(rto, &[]), run),
    }
}

/// The default, 0, means 8 itself: so the control is another value.
fn eight(rto: Duration) -> Experiment {
    let model = model::orphan(8, rto);
    let run = |space: &Space| fin_wait1(space, RUN);
    Experiment {
        id: format!("S4-orphan-retries-8-rto-{}", rto.as_millis()),
        claim: format!(
            "tcp_orphan_retries 8 keeps an orphan in FIN_WAIT1 for {:.1} s at least, at an RTO of {} ms",
            seconds(*model.start()),
            rto.as_millis()
        ),
        expected: vec![Expected::outlives(FIN_WAIT1, *model.start())],
        trial: Trial::with(&at_rto(rto, &[retries(8)]), run),
        control: Trial::with(&at_rto(rto, &[retries(4)]), run)
            .named("not the default, which means 8 as well"),
    }
}

/// The orphan is given up when its backed-off timeout reaches tcp_rto_max_ms: the timeouts before add up to less than twice
/// that.
fn literal_zero() -> Experiment {
    let seen = model::seen(LOW_RTO_MAX..=4 * LOW_RTO_MAX);
    let longest = *seen.end();
    let run = move |space: &Space| fin_wait1(space, longest);
    Experiment {
        id: "S4-orphan-retries-0-rto-max-1000".into(),
        claim: "tcp_orphan_retries 0 means 8 only while tcp_rto_max_ms is at its default".into(),
        expected: vec![Expected::lives(FIN_WAIT1, seen)],
        trial: Trial::with(&[set("tcp_rto_max_ms", LOW_RTO_MAX.as_millis())], run),
        control: Trial::at_default(run),
    }
}

fn last_ack() -> Experiment {
    let seen = model::seen(model::orphan(1, RTO));
    let longest = *seen.end();
    let run = move |space: &Space| in_last_ack(space, longest);
    Experiment {
        id: "S12-last-ack".into(),
        claim: "tcp_orphan_retries 1 gives up an orphan in LAST_ACK as it does one in FIN_WAIT1".into(),
        expected: vec![Expected::lives(LAST_ACK, seen)],
        trial: Trial::with(&[retries(1)], run),
        control: Trial::at_default(run),
    }
}

fn closing() -> Experiment {
    let seen = model::seen(model::orphan(1, RTO));
    let longest = *seen.end();
    let run = move |space: &Space| in_closing(space, longest);
    Experiment {
        id: "S13-orphan-retries".into(),
        claim: "tcp_orphan_retries 1 gives up an orphan in CLOSING as it does one in FIN_WAIT1".into(),
        expected: vec![Expected::lives(CLOSING, seen)],
        trial: Trial::with(&[retries(1)], run),
        control: Trial::at_default(run),
    }
}

fn close_against_shutdown() -> Experiment {
    let seen = model::seen(model::orphan(1, RTO));
    let longest = *seen.end();
    let run = move |space: &Space| closed_and_shut_down(space, longest);
    Experiment {
        id: "S3-fin-wait1".into(),
        claim: "tcp_orphan_retries ends FIN_WAIT1 after close(), and not after shutdown()".into(),
        expected: vec![Expected::lives(CLOSED, seen), Expected::outlives(SHUT_DOWN, longest)],
        trial: Trial::with(&[retries(1)], run),
        control: Trial::at_default(run),
    }
}

fn machine_wide() -> Experiment {
    Experiment {
        id: "S3-orphan-scope".into(),
        claim:
            "sockstat's orphan is a count of the machine: a namespace without a socket shows those of another"
                .into(),
        expected: vec![Expected::at_least(SHOWN_ELSEWHERE, MANY)],
        trial: Trial::at_default(orphans_shown_elsewhere).named("orphan"),
        control: Trial::at_default(tw_shown_elsewhere).named("tw"),
    }
}

/// An orphan whose peer drops everything.
fn fin_wait1(space: &Space, longest: Duration) -> Result<Figures> {
    let Pair { client, server, client_ends, .. } = space.connect()?;
    reset_on_close(&server)?;
    drop_all(&server)?;
    let closed = Instant::now();
    drop(client);
    space.watch(closed, longest, &[Watched::state(FIN_WAIT1, client_ends, State::FinWait1)])
}

fn closed_and_shut_down(space: &Space, longest: Duration) -> Result<Figures> {
    let [closed, shut] = [space.connect()?, space.connect()?];
    for server in [&closed.server, &shut.server] {
        reset_on_close(server)?;
        drop_all(server)?;
    }
    let since = Instant::now();
    drop(closed.client);
    shut_down(&shut.client)?;
    let watched = [(CLOSED, closed.client_ends), (SHUT_DOWN, shut.client_ends)];
    space.watch(since, longest, &watched.map(|(what, ends)| Watched::state(what, ends, State::FinWait1)))
}

/// An orphan on the side that closed second: its peer has shut down, and drops everything since.
fn in_last_ack(space: &Space, longest: Duration) -> Result<Figures> {
    let Pair { client, server, client_ends, server_ends } = space.connect()?;
    reset_on_close(&client)?;
    shut_down(&client)?;
    space.wait_for_all(&[client_ends], State::FinWait2)?;
    drop_all(&client)?;
    let closed = Instant::now();
    drop(server);
    space.watch(closed, longest, &[Watched::state(LAST_ACK, server_ends, State::LastAck)])
}

/// An orphan that has seen its peer's FIN, sent again by the peer before it could know of the orphan's own, and that never
/// sees an acknowledgement. The peer has an owner and stays in FIN_WAIT1.
fn in_closing(space: &Space, longest: Duration) -> Result<Figures> {
    let Pair { client, server, client_ends, .. } = space.connect()?;
    reset_on_close(&server)?;
    drop_all(&client)?;
    drop_all(&server)?;
    let closed = Instant::now();
    shut_down(&client)?;
    shut_down(&server)?;
    drop_all_but(&client, FIN | RST)?;
    let watched = [Watched::state(CLOSING, client_ends, State::Closing)];
    space.settle(&watched)?;
    drop(client);
    space.watch(closed, longest, &watched)
}

fn orphans_shown_elsewhere(space: &Space) -> Result<Figures> {
    let pairs = space.connect_many(MANY)?;
    let (orphans, mut peers) = (clients(&pairs), Vec::new());
    for Pair { client, server, .. } in pairs {
        reset_on_close(&server)?;
        drop_all(&server)?;
        drop(client);
        peers.push(server);
    }
    space.wait_for_all(&orphans, State::FinWait1)?;
    let seen = Space::run_in_new(&[], |_| sockstat())?;
    Ok(vec![Figure::count(SHOWN_ELSEWHERE, seen.machine_orphans)])
}

fn tw_shown_elsewhere(space: &Space) -> Result<Figures> {
    for pair in space.connect_many(MANY)? {
        pair.close_in_turn()?;
    }
    let seen = Space::run_in_new(&[], |_| sockstat())?;
    Ok(vec![Figure::count(SHOWN_ELSEWHERE, seen.tw)])
}
