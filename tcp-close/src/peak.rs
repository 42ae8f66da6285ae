//! The highest value of a count in the last day, in constant memory.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kernel::{PEAK_SECONDS_MAX, PEAK_SECONDS_MIN, Peak};

const HOUR_SECONDS: u64 = 3600;

/// A count that is watched. Time comes in as an argument, as what has passed since some moment.
#[derive(Clone, Debug, Default)]
pub struct PeakWatch {
    since: Option<Duration>,
    /// The highest value in each hour of the last day.
    hours: BTreeMap<u64, u64>,
}

impl PeakWatch {
    /// The count is this now.
    pub fn note(&mut self, count: u64, now: Duration) {
        self.since.get_or_insert(now);
        let hour = now.as_secs() / HOUR_SECONDS;
        self.hours.retain(|past, _| past + PEAK_SECONDS_MAX / HOUR_SECONDS > hour);
        let highest = self.hours.entry(hour).or_default();
        *highest = count.max(*highest);
    }

    /// The highest value, once it has been watched for long enough to say so.
    pub fn peak(&self, now: Duration) -> Option<Peak> {
        let seconds = now.saturating_sub(self.since?).as_secs().min(PEAK_SECONDS_MAX);
        let count = *self.hours.values().max()?;
        (seconds >= PEAK_SECONDS_MIN).then_some(Peak { count, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_count_that_was_watched_for_less_than_a_minute_has_no_peak() {
        let mut watch = PeakWatch::default();
        watch.note(7, seconds(1000));
        assert_eq!(watch.peak(seconds(1059)), None);
        assert_eq!(watch.peak(seconds(1060)), Some(Peak { count: 7, seconds: 60 }));
    }

    #[test]
    fn a_peak_is_kept_for_a_day_and_then_forgotten() {
        let mut watch = PeakWatch::default();
        watch.note(9000, seconds(0));
        for hour in 0..23 {
            watch.note(5, seconds(hour * HOUR_SECONDS + 1));
        }
        let at = |hours| seconds(hours * HOUR_SECONDS);
        assert_eq!(watch.peak(at(23)), Some(Peak { count: 9000, seconds: 23 * HOUR_SECONDS }));
        watch.note(5, at(24));
        assert_eq!(watch.peak(at(24)), Some(Peak { count: 5, seconds: PEAK_SECONDS_MAX }));
    }
}
