//! FIN_WAIT2 after close() and after shutdown(), under tcp_fin_timeout, and what tcp_fin_timeout does not touch.

use std::time::{Duration, Instant};

use tcp_close::{Sysctl, sockets::State};

use super::{
    experiment::{Expected, Experiment, Figure, Figures, Setting, Trial, set},
    model,
    space::{Pair, Space, TW, Watched, clients, reset_on_close, sockstat},
};
use crate::{error::Result, traffic::shut_down};

const FIN_WAIT2: &str = "FIN_WAIT2";
const FULL: &str = "of that with a full socket";
const CLOSED: &str = "FIN_WAIT2 after close()";
const SHUT_DOWN: &str = "FIN_WAIT2 after shutdown()";
const TIME_WAIT: &str = "TIME_WAIT";

const EACH: u64 = 5;

pub(super) fn experiments() -> Vec<Experiment> {
    vec![
        tw_counts_both(),
        close_against_shutdown(),
        lasts(5),
        lasts(30),
        sixty(),
        lasts(61),
        lasts(65),
        ninety(),
        time_wait_is_not_touched(),
    ]
}

fn fin_timeout(value: u32) -> Setting {
    set(Sysctl::FinTimeout.file(), value)
}

fn lasts(value: u32) -> Experiment {
    let time = model::fin_wait2(value);
    let seen = model::seen_after(time);
    let longest = *seen.end();
    let run = move |space: &Space| fin_wait2(space, longest);
    Experiment {
        id: format!("S6-fin-timeout-{value}"),
        claim: format!("with tcp_fin_timeout {value} FIN_WAIT2 after close() lasts {} s", time.as_secs()),
        expected: vec![Expected::lives(FIN_WAIT2, seen)],
        trial: Trial::with(&[fin_timeout(value)], run),
        control: Trial::at_default(run),
    }
}

/// 60 is the default: so the control is the value next to it.
fn sixty() -> Experiment {
    let trial = Trial::at_default(|space| fin_wait2(space, *model::seen_after(model::fin_wait2(60)).end()));
    let control = Trial::with(&[fin_timeout(61)], |space| {
        fin_wait2(space, *model::seen_after(model::fin_wait2(61)).end())
    });
    Experiment { trial, control: control.named("not the default, which is 60"), ..lasts(60) }
}

/// The default lasts 60 s as well; what tells 90 from it is the full socket that is kept for half of that.
fn ninety() -> Experiment {
    let halves = model::seen_after(model::fin_wait2(90) / 2);
    let mut ninety = lasts(90);
    ninety.claim += ", and half of that a full socket is kept";
    ninety.expected.push(Expected::lives(FULL, halves));
    ninety
}

fn time_wait_is_not_touched() -> Experiment {
    let seen = model::seen_after(model::TIME_WAIT);
    let longest = *seen.end();
    let run = move |space: &Space| fin_wait2_and_time_wait(space, longest);
    let short = model::seen_after(model::fin_wait2(5));
    Experiment {
        id: "S7-fin-timeout-5".into(),
        claim: "tcp_fin_timeout 5 ends FIN_WAIT2 after 5 s, and TIME_WAIT beside it still lasts 60 s".into(),
        expected: vec![Expected::lives(FIN_WAIT2, short), Expected::lives(TIME_WAIT, seen)],
        trial: Trial::with(&[fin_timeout(5)], run),
        control: Trial::at_default(run),
    }
}

fn close_against_shutdown() -> Experiment {
    let seen = model::seen_after(model::fin_wait2(2));
    let longest = *seen.end();
    let run = move |space: &Space| closed_and_shut_down(space, longest);
    Experiment {
        id: "S3-fin-wait2".into(),
        claim: "tcp_fin_timeout ends FIN_WAIT2 after close(), and not after shutdown()".into(),
        expected: vec![Expected::lives(CLOSED, seen), Expected::outlives(SHUT_DOWN, longest)],
        trial: Trial::with(&[fin_timeout(2)], run),
        control: Trial::at_default(run),
    }
}

fn tw_counts_both() -> Experiment {
    Experiment {
        id: "S1-sockstat-tw".into(),
        claim:
            "sockstat's tw counts FIN_WAIT2 after close() with TIME_WAIT, unless tcp_fin_timeout is above 60"
                .into(),
        expected: vec![Expected::exactly(TW, EACH)],
        trial: Trial::with(&[fin_timeout(90)], tw_of_both),
        control: Trial::at_default(tw_of_both),
    }
}

/// The client has closed; the server, in CLOSE_WAIT, never does.
fn fin_wait2(space: &Space, longest: Duration) -> Result<Figures> {
    let Pair { client, server, client_ends, .. } = space.connect()?;
    reset_on_close(&server)?;
    let closed = Instant::now();
    drop(client);
    let any = Watched::state(FIN_WAIT2, client_ends, State::FinWait2);
    space.settle(std::slice::from_ref(&any))?;
    let full = Watched { what: FULL, ends: client_ends, is: Box::new(|seen| !seen.mini) };
    space.watch_settled(closed, longest, &[any, full])
}

fn closed_and_shut_down(space: &Space, longest: Duration) -> Result<Figures> {
    let [closed, shut] = [space.connect()?, space.connect()?];
    reset_on_close(&closed.server)?;
    reset_on_close(&shut.server)?;
    let since = Instant::now();
    drop(closed.client);
    shut_down(&shut.client)?;
    let watched = [(CLOSED, closed.client_ends), (SHUT_DOWN, shut.client_ends)]
        .map(|(what, ends)| Watched::state(what, ends, State::FinWait2));
    space.watch(since, longest, &watched)
}

fn fin_wait2_and_time_wait(space: &Space, longest: Duration) -> Result<Figures> {
    let waiting = space.connect()?;
    reset_on_close(&waiting.server)?;
    let both = space.connect()?;
    let ends = both.client_ends;
    let since = Instant::now();
    drop(waiting.client);
    both.close_in_turn()?;
    let watched = [
        Watched::state(FIN_WAIT2, waiting.client_ends, State::FinWait2),
        Watched::state(TIME_WAIT, ends, State::TimeWait),
    ];
    space.watch(since, longest, &watched)
}

fn tw_of_both(space: &Space) -> Result<Figures> {
    let [fin_wait2, time_wait] = [space.connect_many(EACH)?, space.connect_many(EACH)?];
    let [in_fin_wait2, in_time_wait] = [clients(&fin_wait2), clients(&time_wait)];
    let mut peers = Vec::new();
    for Pair { client, server, .. } in fin_wait2 {
        reset_on_close(&server)?;
        drop(client);
        peers.push(server);
    }
    time_wait.into_iter().try_for_each(Pair::close_in_turn)?;
    space.wait_for_all(&in_fin_wait2, State::FinWait2)?;
    space.wait_for_all(&in_time_wait, State::TimeWait)?;
    Ok(vec![Figure::count(TW, sockstat()?.tw)])
}
