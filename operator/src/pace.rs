//! Pace: when a loop turns, and how long it rests.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::lead::Leadership;
use crate::serve::Health;

/// Every loop turns at least this often: silence has to be noticed, and what failed is tried again.
const TICK: Duration = Duration::from_secs(5);
/// A change is ordered at once. What comes while an order is being sent leads to one order more.
const ORDER_AFTER: Duration = Duration::ZERO;
/// Orders and reports of one change come within this time, and lead to one status.
const STATUS_AFTER: Duration = Duration::from_millis(150);
/// Counts alone, of which many nodes have news in each second, come to a status (or to the metrics) in this time.
const COUNTS_AFTER: Duration = Duration::from_secs(1);
/// After a turn, what is urgent waits for this many times the CPU time that it took, so that a loop takes at most a third of a core.
const REST: u32 = 2;
/// The same for counts, which move all the time in a large fleet: a tenth of a core.
const REST_OF_COUNTS: u32 = 9;

/// When a loop turns.
pub struct Pace {
    /// Facts to the loop that orders, alarms to the one that tells.
    urgent: watch::Receiver<u64>,
    /// `None`: it has no use for them.
    counts: Option<watch::Receiver<u64>>,
    leadership: Leadership,
    after: Duration,
    /// When the last turn had computed, and how much CPU time that took.
    ended: Instant,
    took: Duration,
    /// When something is due that no change announces.
    wake: Option<Duration>,
}

impl Pace {
    /// Of the loop that orders: counts are nothing to it.
    pub fn of_orders(facts: watch::Receiver<u64>, leadership: &Leadership) -> Self {
        let leadership = leadership.clone();
        let (ended, took) = (Instant::now(), Duration::ZERO);
        Self { urgent: facts, counts: None, leadership, after: ORDER_AFTER, ended, took, wake: None }
    }

    /// Of the loop that tells.
    pub fn of_statuses(
        alarms: watch::Receiver<u64>,
        counts: watch::Receiver<u64>,
        leadership: &Leadership,
    ) -> Self {
        Self { counts: Some(counts), after: STATUS_AFTER, ..Self::of_orders(alarms, leadership) }
    }

    /// Something is due by then that no change announces; `None`: nothing is.
    pub fn wake_after(&mut self, wake: Option<Duration>) {
        self.wake = wake;
    }

    /// Waits for a change, or a tick. What changes from here on is for the next turn.
    pub async fn next(&mut self, health: &Health) {
        let (urgent_at, counts_at) = (self.ended + self.took * REST, self.ended + self.took * REST_OF_COUNTS);
        let urgent = async {
            let _ = self.urgent.changed().await;
            rest_until(urgent_at.max(Instant::now() + self.after)).await;
        };
        let counts = async {
            let Some(counts) = &mut self.counts else { return std::future::pending().await };
            let _ = counts.changed().await;
            rest_until(counts_at.max(Instant::now() + COUNTS_AFTER)).await;
        };
        tokio::select! {
            () = urgent => {}
            () = counts => {}
            () = self.leadership.changed() => {}
            () = tokio::time::sleep(self.wake.map_or(TICK, |wake| wake.min(TICK))) => {}
        }
        self.urgent.mark_unchanged();
        if let Some(counts) = &mut self.counts {
            counts.mark_unchanged();
        }
        health.beat();
    }

    /// The computing of this turn, which has just ended, took so much.
    pub fn worked(&mut self, spent: Spent) {
        (self.ended, self.took) = (Instant::now(), spent.cpu);
    }
}

/// What something has taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// On the clock.
    pub time: Duration,
    /// Of the CPU. On a machine where others want it too that is less, and a loop that rested for all of the time would be the
    /// slower the busier they are.
    pub cpu: Duration,
}

impl Spent {
    /// Without a part of it.
    #[must_use]
    pub fn less(self, part: Self) -> Self {
        Self { time: self.time.saturating_sub(part.time), cpu: self.cpu.saturating_sub(part.cpu) }
    }
}

/// Measures what this thread spends, on which everything of the operator runs.
pub struct Stopwatch {
    clock: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// One that has just begun.
    pub fn start() -> Self {
        Self { clock: Instant::now(), cpu: cpu_time() }
    }

    /// What was spent since then.
    pub fn spent(&self) -> Spent {
        Spent { time: self.clock.elapsed(), cpu: cpu_time().saturating_sub(self.cpu) }
    }
}

/// How much CPU time this thread has had.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// A timer of the runtime is a millisecond or two late, so who need not wait asks none.
async fn rest_until(at: Instant) {
    if at > Instant::now() {
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the next turn is waited for after one that computed for so long, when `happens` tells something.
    async fn waits(took: Duration, of_statuses: bool, happens: impl FnOnce(&Feeds)) -> Duration {
        let (feeds, urgent, counts) = feeds();
        let leadership = Leadership::of_nobody();
        let mut pace = if of_statuses {
            Pace::of_statuses(urgent, counts, &leadership)
        } else {
            Pace::of_orders(urgent, &leadership)
        };
        pace.worked(Spent { cpu: took, ..Spent::default() });
        happens(&feeds);
        let start = Instant::now();
        pace.next(&Health::default()).await;
        start.elapsed()
    }

    struct Feeds {
        urgent: watch::Sender<u64>,
        counts: watch::Sender<u64>,
    }

    fn feeds() -> (Feeds, watch::Receiver<u64>, watch::Receiver<u64>) {
        let (urgent, of_urgent) = watch::channel(0);
        let (counts, of_counts) = watch::channel(0);
        (Feeds { urgent, counts }, of_urgent, of_counts)
    }

    fn tell(feed: &watch::Sender<u64>) {
        feed.send_modify(|told| *told += 1);
    }

    #[tokio::test]
    async fn an_order_waits_for_nothing_but_the_rest_after_the_last_turn() {
        let (took, fact) = (Duration::from_millis(100), |feeds: &Feeds| tell(&feeds.urgent));
        assert!(waits(Duration::ZERO, false, fact).await < TICK / 2);
        assert!(waits(took, false, fact).await >= took * REST);
    }

    #[test]
    fn who_waits_spends_time_and_who_computes_spends_the_cpu_too() {
        let (watch, wait) = (Stopwatch::start(), Duration::from_millis(100));
        std::thread::sleep(wait);
        let waited = watch.spent();
        assert!(waited.time >= wait && waited.cpu < wait / 2, "{waited:?}");
        while watch.spent().less(waited).cpu < wait {}
        assert!(watch.spent().less(waited).time >= wait, "a thread has one CPU at a time");
    }

    #[tokio::test]
    async fn counts_wake_the_loop_that_tells_and_not_the_one_that_orders() {
        let counts = |feeds: &Feeds| tell(&feeds.counts);
        let ordered = tokio::time::timeout(COUNTS_AFTER * 2, waits(Duration::ZERO, false, counts));
        let (told, ordered) = tokio::join!(waits(Duration::ZERO, true, counts), ordered);
        assert!((COUNTS_AFTER..TICK).contains(&told), "{told:?}");
        assert!(ordered.is_err(), "{ordered:?}");
    }

    #[tokio::test]
    async fn what_is_due_is_not_waited_for_longer() {
        let (_feeds, facts, _) = feeds();
        let mut pace = Pace::of_orders(facts, &Leadership::of_nobody());
        pace.wake_after(Some(Duration::from_millis(20)));
        let start = Instant::now();
        pace.next(&Health::default()).await;
        assert!(start.elapsed() < TICK, "{:?}", start.elapsed());
    }
}
