//! One budget of CPU time for all sampling: every step has its part of it, and runs as often as that allows.
//!
//! The budget never makes a count wrong, only older: a step that costs more waits longer, and every count says when it was
//! taken. Clock and CPU time come in as arguments.

use std::time::Duration;

/// Turns come a little early or late; a step waits for no other one because of that.
const EARLY: Duration = Duration::from_millis(100);

/// When a step runs.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// CPU time per second that it may use: with a higher cost its interval is stretched.
    pub share: Duration,
    /// The interval where its share allows it.
    pub interval: Duration,
    /// The interval beyond which it is not stretched, whatever it costs.
    pub longest: Duration,
}

impl Pace {
    /// How long to wait after a run that cost so much.
    fn wait(&self, cost: Duration) -> Duration {
        let stretched = Duration::try_from_secs_f64(cost.as_secs_f64() / self.share.as_secs_f64());
        stretched.unwrap_or(self.longest).max(self.interval).min(self.longest)
    }
}

#[derive(Clone, Copy, Debug)]
struct Step<T> {
    task: T,
    pace: Pace,
    due: Duration,
}

/// Steps, each at its own pace.
#[derive(Clone, Debug)]
pub struct Schedule<T>(Vec<Step<T>>);

impl<T: Copy + PartialEq> Schedule<T> {
    /// All of them are due at once.
    pub fn new(steps: impl IntoIterator<Item = (T, Pace)>) -> Self {
        Self(steps.into_iter().map(|(task, pace)| Step { task, pace, due: Duration::ZERO }).collect())
    }

    /// The first step that is due.
    pub fn next(&self, clock: Duration) -> Option<T> {
        self.0.iter().find(|step| step.due <= clock).map(|step| step.task)
    }

    /// A step ran, and cost so much CPU time.
    pub fn ran(&mut self, task: T, clock: Duration, cost: Duration) {
        if let Some(step) = self.0.iter_mut().find(|step| step.task == task) {
            step.due = clock + step.pace.wait(cost).saturating_sub(EARLY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        share: Duration::from_micros(100),
        interval: Duration::from_secs(5),
        longest: Duration::from_secs(300),
    };

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_cheap_runs_at_its_interval() {
        assert_eq!(PACE.wait(Duration::from_micros(499)), secs(5));
        assert_eq!(PACE.wait(Duration::ZERO), secs(5));
    }

    #[test]
    fn what_is_dear_is_stretched_until_it_keeps_its_share() {
        assert_eq!(PACE.wait(Duration::from_micros(6000)), secs(60));
    }

    #[test]
    fn nothing_is_stretched_beyond_its_longest_interval() {
        assert_eq!(PACE.wait(secs(1)), secs(300));
        assert_eq!(Pace { share: Duration::ZERO, ..PACE }.wait(secs(1)), secs(300));
    }

    #[test]
    fn a_step_that_is_dear_keeps_no_other_one_waiting() {
        let mut schedule = Schedule::new([("dear", PACE), ("cheap", PACE)]);
        let mut ran = Vec::new();
        for clock in (0..=60).map(secs) {
            while let Some(task) = schedule.next(clock) {
                let cost = if task == "dear" { Duration::from_millis(6) } else { Duration::ZERO };
                schedule.ran(task, clock, cost);
                ran.push(task);
            }
        }
        let times = |name| ran.iter().filter(|task| **task == name).count();
        assert_eq!((times("dear"), times("cheap")), (2, 13));
    }

    #[test]
    fn a_turn_that_comes_a_little_early_is_not_one_that_is_left_out() {
        let mut schedule = Schedule::new([("own", PACE)]);
        schedule.ran("own", secs(7), Duration::ZERO);
        assert_eq!(schedule.next(Duration::from_millis(11_950)), Some("own"));
        assert_eq!(schedule.next(secs(11)), None);
    }
}
