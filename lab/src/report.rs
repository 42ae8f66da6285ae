//! What the lab says while it works: one line per step with the time since the start, on stderr, so that stdout keeps
//! what a script wants (`export KUBECONFIG=...`).

use std::{
    io::{IsTerminal, Write},
    ops::RangeInclusive,
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// How often a long step speaks where no terminal can be redrawn.
const PLAIN_INTERVAL: Duration = Duration::from_secs(20);
/// How often the live line of a terminal is redrawn.
const LIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A condition is looked at again after a tenth of the time waited so far, within these bounds: short waits are
/// measured finely, long ones leave the two cores to those who are waited for.
const RESTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(500);

/// The time since the first thing was said.
pub(crate) fn elapsed() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Says one line.
pub fn say(text: impl AsRef<str>) {
    eprintln!("[{:>6.1}s] {}", elapsed().as_secs_f64(), text.as_ref());
}

/// A time as a person would say it: `9 min 5 s`.
pub(crate) fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{} min {} s", seconds / 60, seconds % 60)
}

/// Runs a step that may take long: says that it goes on, and how long it took.
pub fn during<T>(what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let (done, waiting) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || tick(what, start, &waiting));
        let result = step();
        drop(done);
        result
    });
    if result.is_ok() {
        say(format!("{what}: {:.1} s", start.elapsed().as_secs_f64()));
    }
    result
}

fn tick(what: &str, start: Instant, done: &mpsc::Receiver<()>) {
    let live = std::io::stderr().is_terminal();
    let interval = if live { LIVE_INTERVAL } else { PLAIN_INTERVAL };
    while done.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
        let seconds = start.elapsed().as_secs();
        if live {
            eprint!("\r\x1b[K[{:>6.1}s] {what} ... {seconds} s", elapsed().as_secs_f64());
            // Progress that cannot be shown is no reason to stop.
            let _ = std::io::stderr().flush();
        } else {
            say(format!("{what} ... {seconds} s"));
        }
    }
    if live {
        eprint!("\r\x1b[K");
    }
}

/// What a look at a condition saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It holds.
    Yes,
    /// Not yet, and what was there instead.
    NotYet(String),
}

impl Seen {
    /// `Yes` when it holds, else what was seen instead.
    pub fn when(holds: bool, otherwise: impl FnOnce() -> String) -> Self {
        if holds { Self::Yes } else { Self::NotYet(otherwise()) }
    }
}

/// Polls a condition until it holds, and returns how long that took. A look that fails is an observation like any
/// other: an API server that restarts answers nothing for a while.
pub fn poll_until(what: &str, deadline: Duration, look: impl FnMut() -> Result<Seen>) -> Result<Duration> {
    poll_resting(RESTS, what, deadline, look)
}

/// [`poll_until`], with rests within other bounds: for who measures as finely late as early, or whose looks cost much.
pub(crate) fn poll_resting(
    rests: RangeInclusive<Duration>,
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Seen>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(Seen::Yes) => return Ok(start.elapsed()),
            Ok(Seen::NotYet(seen)) => seen,
            Err(ended @ Error::Ended { .. }) => return Err(ended),
            Err(error) => error.chain(),
        };
        if start.elapsed() >= deadline {
            return Err(Error::Deadline { what: what.to_owned(), waited: start.elapsed(), last });
        }
        std::thread::sleep((start.elapsed() / 10).clamp(*rests.start(), *rests.end()));
    }
}

/// [`poll_until`], and says how long it took.
pub fn wait_until(what: &str, deadline: Duration, look: impl FnMut() -> Result<Seen>) -> Result<Duration> {
    let took = poll_until(what, deadline, look)?;
    say(format!("{what}: {:.1} s", took.as_secs_f64()));
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_is_an_error_with_the_last_observation() {
        let error =
            poll_until("the moon is blue", Duration::ZERO, || Ok(Seen::NotYet("grey".into()))).unwrap_err();
        assert!(
            error.to_string().contains("the moon is blue") && error.to_string().contains("grey"),
            "{error}"
        );
    }

    #[test]
    fn a_time_is_told_in_minutes_and_seconds() {
        assert_eq!(minutes(Duration::from_secs(545)), "9 min 5 s");
        assert_eq!(minutes(Duration::from_millis(59_900)), "0 min 59 s");
    }

    #[test]
    fn a_look_that_fails_is_tried_again() {
        let mut looks = 0;
        let look = || {
            looks += 1;
            if looks < 3 { Err(Error::NotUp) } else { Ok(Seen::Yes) }
        };
        poll_until("the third look", Duration::from_secs(5), look).unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn a_process_that_has_ended_is_not_waited_for() {
        let ended =
            || Err(Error::Ended { name: "etcd".into(), log: "/dev/null".into(), tail: String::new() });
        let error = poll_until("etcd answers", Duration::from_mins(1), ended).unwrap_err();
        assert!(matches!(error, Error::Ended { .. }), "{error}");
    }
}
