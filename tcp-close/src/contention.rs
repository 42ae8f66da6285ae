//! Recognises a fight: another program that keeps changing what we put right, and that we shall not fight for ever.
//!
//! Time comes in as an argument, as what has passed since some moment.

use std::time::Duration;

/// So many corrections, each within [`WINDOW`] of the one before, are a fight.
pub const ROUNDS: u32 = 5;
/// Corrections that are further apart have nothing to do with each other: a configuration tool that comes by twice an hour
/// is put right each time.
pub const WINDOW: Duration = Duration::from_secs(10 * 60);
/// How long a key that is fought for is left alone, at first.
pub const REST_FIRST: Duration = Duration::from_secs(5 * 60);
/// It doubles each time, up to this.
pub const REST_MAX: Duration = Duration::from_secs(60 * 60);

/// What is remembered of other programs' changes of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contention {
    /// How often another program changed it and it was put right.
    pub corrections: u32,
    /// What another program set it to, last.
    pub last_value: i64,
    rounds: u32,
    corrected: Duration,
    rest: Duration,
    rests_until: Option<Duration>,
}

impl Contention {
    /// A key that another program has changed for the first time, to this value, and that was put right now.
    pub fn new(value: i64, now: Duration) -> Self {
        let rest = REST_FIRST;
        Self { corrections: 1, last_value: value, rounds: 1, corrected: now, rest, rests_until: None }
    }

    /// Another program has changed it again, to this value, and it was put right now. After the last round of a fight it is
    /// left alone; one that goes on after the rest is recognised at once.
    pub fn corrected(&mut self, value: i64, now: Duration) {
        if now.saturating_sub(self.corrected) > WINDOW.max(self.rested()) {
            (self.rounds, self.rest) = (0, REST_FIRST);
        }
        (self.last_value, self.corrected) = (value, now);
        self.corrections = self.corrections.saturating_add(1);
        self.rounds += 1;
        self.rests_until = None;
        if self.rounds >= ROUNDS {
            self.rests_until = Some(now + self.rest);
            self.rest = (self.rest * 2).min(REST_MAX);
            self.rounds = ROUNDS - 1;
        }
    }

    /// Until when it is left alone, where that is not over.
    pub fn rests_until(&self, now: Duration) -> Option<Duration> {
        self.rests_until.filter(|until| now < *until)
    }

    /// How long the rest before the next correction may have been: that is no peace.
    fn rested(&self) -> Duration {
        self.rests_until.map_or(Duration::ZERO, |until| until.saturating_sub(self.corrected) + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts right as often as it may within the time, while another program changes the key every `every`.
    fn fight(every: Duration, lasts: Duration) -> (Contention, Vec<Duration>) {
        let mut contention = Contention::new(45, Duration::ZERO);
        let mut corrections = vec![Duration::ZERO];
        let mut now = every;
        while now <= lasts {
            if contention.rests_until(now).is_none() {
                contention.corrected(45, now);
                corrections.push(now);
            }
            now += every;
        }
        (contention, corrections)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_fight_is_ended_after_a_few_rounds_whatever_its_pace() {
        for every in [Duration::from_millis(100), seconds(1), seconds(10), seconds(60)] {
            let (contention, corrections) = fight(every, every * 20);
            let during = corrections.iter().filter(|at| **at < every * (ROUNDS - 1) + REST_FIRST).count();
            assert_eq!(during, ROUNDS as usize, "{every:?}");
            assert!(contention.rests_until(every * 4).is_some() || every * 20 > REST_FIRST, "{every:?}");
        }
    }

    #[test]
    fn rests_are_five_minutes_and_longer_each_time_up_to_an_hour() {
        let (_, corrections) = fight(seconds(10), seconds(6 * 3600));
        let rests: Vec<u64> = corrections
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]).as_secs())
            .filter(|gap| *gap > 10)
            .collect();
        assert_eq!(rests, [300, 600, 1200, 2400, 3600, 3600, 3600, 3600]);
    }

    #[test]
    fn a_tool_that_comes_by_now_and_then_is_put_right_each_time() {
        let (contention, corrections) = fight(seconds(1800), seconds(24 * 3600));
        assert_eq!(corrections.len(), 49);
        assert_eq!(contention.rests_until(seconds(24 * 3600)), None);
    }

    #[test]
    fn peace_is_remembered() {
        let (mut contention, _) = fight(seconds(1), seconds(10));
        contention.corrected(45, seconds(3600 * 5));
        assert_eq!(contention.rests_until(seconds(3600 * 5)), None, "one change after hours is no fight");
    }

    #[test]
    fn what_goes_on_after_the_rest_is_recognised_at_once() {
        let (mut contention, _) = fight(seconds(1), seconds(10));
        let after = seconds(4) + REST_FIRST + seconds(1);
        assert_eq!(contention.rests_until(after), None);
        contention.corrected(45, after);
        assert_eq!(contention.rests_until(after), Some(after + REST_FIRST * 2));
    }
}
