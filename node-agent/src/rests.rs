//! Rests: how long an agent waits before it asks an API server again.
//!
//! One that could not be reached is asked again within 30 s of its return. One that says that it has too much to do is asked more
//! rarely by the agents of a larger fleet, or answering them "later" would be all that it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crds::client;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, ExponentialBackoff};

/// What an overloaded API server answers: too many requests, unavailable, and that it has taken too long.
const OVERLOADED: [u16; 3] = [429, 503, 504];
/// Agents that report as often as this, in seconds, or more often, are few enough to ask an overloaded API server as often as one
/// that is away.
const INTERVAL_OF_FEW: u32 = 60;

/// How much the API server has to do, as far as an agent knows. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Load {
    report_interval_seconds: Arc<AtomicU32>,
    is_overloaded: Arc<AtomicBool>,
}

impl Load {
    /// The operator sets the interval by the number of nodes.
    pub fn note_interval(&self, seconds: u32) {
        self.report_interval_seconds.store(seconds, Ordering::Relaxed);
    }

    /// A request has failed, because the API server had too much to do or for another reason.
    pub fn note_failure(&self, is_overloaded: bool) {
        self.is_overloaded.store(is_overloaded, Ordering::Relaxed);
    }

    /// How many times longer than otherwise to rest.
    fn times(&self) -> u32 {
        let interval = self.report_interval_seconds.load(Ordering::Relaxed);
        if self.is_overloaded.load(Ordering::Relaxed) { (interval / INTERVAL_OF_FEW).max(1) } else { 1 }
    }
}

/// Whether an API server that has too much to do answers so.
pub fn is_overload(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if OVERLOADED.contains(&status.code))
}

/// The same of a watch.
pub fn is_overload_of_watch(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_overload(error),
        watcher::Error::WatchError(status) => OVERLOADED.contains(&status.code),
        watcher::Error::NoResourceVersion => false,
    }
}

/// One rest after the other, each longer than the last until something succeeds.
pub struct Rests {
    backoff: ExponentialBackoff,
    load: Load,
}

impl Rests {
    /// The first is short.
    pub fn new(load: &Load) -> Self {
        Self { backoff: client::backoff(), load: load.clone() }
    }
}

impl Iterator for Rests {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.backoff.next()? * self.load.times())
    }
}

impl Backoff for Rests {
    fn reset(&mut self) {
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    /// The first rest, and the longest, in seconds.
    fn rests(interval: u32, is_overloaded: bool) -> (f64, f64) {
        let load = Load::default();
        load.note_interval(interval);
        load.note_failure(is_overloaded);
        let rests: Vec<_> = Rests::new(&load).take(50).map(|rest| rest.as_secs_f64()).collect();
        (rests[0], rests.into_iter().fold(0.0, f64::max))
    }

    #[test]
    fn an_api_server_that_was_away_is_asked_within_30_s_by_a_fleet_of_any_size() {
        for interval in [20, 60, 120, 300] {
            let (first, longest) = rests(interval, false);
            assert!(first < 1.0 && longest < 30.0, "{interval}: {first} {longest}");
        }
    }

    #[test]
    fn an_overloaded_one_is_asked_more_rarely_by_a_larger_fleet() {
        assert!(rests(60, true).1 < 30.0);
        let (first, longest) = rests(300, true);
        assert!(first >= 2.5 && longest >= 60.0, "{first} {longest}");
    }

    #[test]
    fn too_much_is_told_from_other_failures() {
        let answer = |code| kube::Error::Api(Box::new(Status::failure("", "").with_code(code)));
        assert!(OVERLOADED.into_iter().all(|code| is_overload(&answer(code))));
        assert!(!is_overload(&answer(403)) && !is_overload(&answer(409)));
        assert!(is_overload_of_watch(&watcher::Error::WatchStartFailed(answer(429))));
        assert!(!is_overload_of_watch(&watcher::Error::NoResourceVersion));
    }
}
