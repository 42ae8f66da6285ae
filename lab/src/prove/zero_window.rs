//! Orphans in FIN_WAIT1 whose peer is alive but has closed its window, so that neither their data nor their FIN can leave.

use std::{
    io::{ErrorKind, Read, Write},
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use tcp_close::{Sysctl, sockets::State};

use super::{
    experiment::{Expected, Experiment, Figure, Figures, Trial, set},
    model,
    orphans::{FIN_WAIT1, RUN},
    space::{Pair, Space, Watched, reset_on_close},
};
use crate::error::{Error, Result};

const BYTES_LOST: &str = "bytes lost";

/// What of a run counts as outliving it.
const OUTLIVED: Duration = Duration::from_secs(100);
/// A program that cannot send for this long gives up and closes. Within two seconds after the window has closed an early
/// probe of it is found unanswered, because the peer answers one in half a second; that is what 1 does not forgive.
const STUCK: Duration = Duration::from_secs(1);
/// So often it tries.
const RETRY: Duration = Duration::from_millis(10);
/// A peer that has read everything waits this long for more.
const NO_MORE: Duration = Duration::from_secs(2);

pub(super) fn experiments() -> Vec<Experiment> {
    vec![loses_its_data(), keeps_its_data()]
}

fn loses_its_data() -> Experiment {
    let seen = model::seen(Duration::ZERO..=Duration::from_secs(1));
    let longest = *seen.end();
    let run = move |space: &Space| zero_window(space, longest);
    Experiment {
        id: "S5-zero-window-1".into(),
        claim: "with tcp_orphan_retries 1 a peer that is alive but has closed its window loses its data in the second after close()"
            .into(),
        expected: vec![Expected::lives(FIN_WAIT1, seen), Expected::at_least(BYTES_LOST, 1)],
        trial: Trial::with(&[set(Sysctl::OrphanRetries.file(), 1)], run),
        control: Trial::at_default(run),
    }
}

/// At its default the knob does no harm either: so the control is 1.
fn keeps_its_data() -> Experiment {
    let run = |space: &Space| zero_window(space, RUN);
    Experiment {
        id: "S5-zero-window-2".into(),
        claim: "with tcp_orphan_retries 2 an orphan with such a peer outlives the run of 100 s, and nothing is lost".into(),
        expected: vec![Expected::outlives(FIN_WAIT1, OUTLIVED), Expected::exactly(BYTES_LOST, 0)],
        trial: Trial::with(&[set(Sysctl::OrphanRetries.file(), 2)], run),
        control: Trial::with(&[set(Sysctl::OrphanRetries.file(), 1)], run)
            .named("not the default, which loses nothing either"),
    }
}

/// An orphan whose peer is alive and does not read; at the end it reads all it can get.
fn zero_window(space: &Space, longest: Duration) -> Result<Figures> {
    let Pair { client, server, client_ends, .. } = space.connect()?;
    reset_on_close(&server)?;
    let sent = send_until_stuck(&client)?;
    let closed = Instant::now();
    drop(client);
    let watched = [Watched::state(FIN_WAIT1, client_ends, State::FinWait1)];
    let mut figures = space.watch(closed, longest, &watched)?;
    figures.push(Figure::count(BYTES_LOST, sent - read_all(&server)?));
    Ok(figures)
}

fn send_until_stuck(mut socket: &Socket) -> Result<u64> {
    socket.set_nonblocking(true).map_err(Error::system("set O_NONBLOCK"))?;
    let chunk = [0; 16 * 1024];
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < STUCK {
        match socket.write(&chunk) {
            Ok(bytes) => (sent, last) = (sent + bytes as u64, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(Error::system("fill a connection")(error)),
        }
    }
    Ok(sent)
}

/// The bytes up to the peer's FIN, its reset, or its silence.
fn read_all(mut socket: &Socket) -> Result<u64> {
    socket.set_read_timeout(Some(NO_MORE)).map_err(Error::system("set SO_RCVTIMEO"))?;
    let mut chunk = [0; 16 * 1024];
    let mut received = 0;
    while let Ok(bytes @ 1..) = socket.read(&mut chunk) {
        received += bytes as u64;
    }
    Ok(received)
}
