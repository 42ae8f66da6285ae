//! Line: whether the watch of one kind works. It takes what came and when, and only computes; the clock is an argument.
//!
//! A watch that was opened again says nothing until something changes, so that it works is known for sure only from what it
//! shows. One that stays broken errs again and again.

use std::time::{Duration, Instant};

/// A dead connection is noticed within this time. What had been missed before the first error is at most that.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);
/// A watch that broke has been opened again by then: it rests for 24 s at most.
const OPENED_WITHIN: Duration = Duration::from_secs(30);
/// A watch that has not erred for so long works again: it rests for 24 s at most, and the API server answers within 60 s.
const ERRS_WITHIN: Duration = Duration::from_secs(90);
/// A watch that errs for so long is not on its way back from a restart of the API server, after which it rests for 24 s at
/// most: somebody has taken a right away, or broken the kind.
const FAILS_FOR: Duration = Duration::from_secs(60);

/// What the watch of one kind has come to.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// When it showed something last.
    shown: Option<Instant>,
    /// What it has come to since; `None`: no harm.
    errors: Option<Errors>,
    /// For how long it has shown nothing, as far as that has not been asked yet.
    deaf: Duration,
}

/// Errors with nothing between them.
#[derive(Debug)]
struct Errors {
    first: Instant,
    last: Instant,
    words: String,
}

impl Line {
    /// It has shown something. Returns whether it had erred before.
    pub(super) fn note_shown(&mut self, now: Instant) -> bool {
        self.shown = Some(now);
        let ended = self.errors.take();
        if let Some(errors) = &ended {
            self.deaf += now.saturating_duration_since(errors.last).min(OPENED_WITHIN);
        }
        ended.is_some()
    }

    /// It has erred, in these words. Returns whether that is the first time since it worked.
    pub(super) fn note_error(&mut self, words: String, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        match &mut self.errors {
            Some(errors) if since(errors.last) < ERRS_WITHIN => {
                self.deaf += since(errors.last);
                (errors.last, errors.words) = (now, words);
                false
            }
            before => {
                let worked = self.shown.max(before.as_ref().map(|errors| errors.last));
                self.deaf += worked.map(since).unwrap_or_default().min(NOTICED_WITHIN);
                *before = Some(Errors { first: now, last: now, words });
                true
            }
        }
    }

    /// For how long nothing could be heard, since this was asked last.
    pub(super) fn take_deaf(&mut self) -> Duration {
        std::mem::take(&mut self.deaf)
    }

    /// What it says where it fails for long. What came before `since` does not count: the API server itself was away.
    pub(super) fn failing(&self, since: Instant, now: Instant) -> Option<&str> {
        let Errors { first, last, words } = self.errors.as_ref()?;
        let goes_on = now.saturating_duration_since(*last) < ERRS_WITHIN;
        let long = last.saturating_duration_since(since.max(*first)) >= FAILS_FOR;
        (goes_on && long).then_some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A line that has just shown something, and when.
    fn working() -> (Line, Instant) {
        let (mut line, start) = (Line::default(), Instant::now());
        assert!(!line.note_shown(start));
        (line, start)
    }

    #[test]
    fn what_was_missed_is_counted_from_what_was_shown_last_to_what_is_shown_again() {
        let (mut line, start) = working();
        assert!(line.note_error("reset by peer".into(), start + 10 * SECOND));
        assert_eq!(line.take_deaf(), 10 * SECOND);
        assert!(!line.note_error("refused".into(), start + 15 * SECOND));
        assert!(line.note_shown(start + 17 * SECOND));
        assert_eq!(line.take_deaf(), 7 * SECOND);
        assert_eq!(line.take_deaf(), Duration::ZERO, "it is asked once");
    }

    #[test]
    fn an_error_that_stays_alone_has_cost_a_minute_at_most() {
        let (mut line, start) = working();
        line.note_error("reset by peer".into(), start + 4000 * SECOND);
        assert_eq!(line.take_deaf(), 60 * SECOND);
        line.note_shown(start + 8000 * SECOND);
        assert_eq!(line.take_deaf(), 30 * SECOND, "it was opened again long before it had something to show");
    }

    #[test]
    fn a_watch_that_errs_for_a_minute_fails_and_says_why_until_it_shows_something() {
        let (mut line, start) = working();
        let failing = |line: &Line, second| line.failing(start, start + second * SECOND).map(str::to_string);
        for second in [10, 30, 50] {
            line.note_error("forbidden".into(), start + second * SECOND);
            assert_eq!(failing(&line, second), None);
        }
        line.note_error("nodes is forbidden".into(), start + 70 * SECOND);
        assert_eq!(failing(&line, 70), Some("nodes is forbidden".into()));
        line.note_shown(start + 71 * SECOND);
        assert_eq!(failing(&line, 71), None);
    }

    #[test]
    fn a_watch_that_was_opened_again_and_has_nothing_to_show_does_not_fail() {
        let (mut line, start) = working();
        for second in [10, 40, 70] {
            line.note_error("forbidden".into(), start + second * SECOND);
        }
        assert!(line.failing(start, start + 159 * SECOND).is_some());
        assert!(line.failing(start, start + 160 * SECOND).is_none());
    }

    #[test]
    fn an_api_server_that_was_away_for_long_is_no_watch_that_fails() {
        let (mut line, start) = working();
        for second in (0..600).step_by(20) {
            line.note_error("connection refused".into(), start + second * SECOND);
        }
        let back = start + 570 * SECOND;
        line.note_error("connection refused".into(), start + 590 * SECOND);
        assert_eq!(line.failing(back, start + 595 * SECOND), None);
        line.note_error("nodes is forbidden".into(), start + 630 * SECOND);
        assert_eq!(line.failing(back, start + 631 * SECOND), Some("nodes is forbidden"));
    }
}
