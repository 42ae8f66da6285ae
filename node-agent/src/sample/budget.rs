//! One budget of CPU time for all sampling, and which step of it is allowed next.
//!
//! The budget never makes a count wrong, only older: a step that it does not allow waits, and every count says when it was
//! taken. Clock and CPU time come in as arguments.

use std::time::Duration;

/// What is saved is at most what this long gives: a quiet hour does not decide over the next.
const CAPACITY: Duration = Duration::from_secs(30);
/// What is owed is at most what this long gives. Steps that run whatever they cost, because their longest interval is over,
/// are paid for by those that come after them.
const DEBT: Duration = Duration::from_secs(300);
/// Turns come a little early or late; a step waits for no other one because of that.
const EARLY: Duration = Duration::from_millis(100);

/// CPU time that is earned at a steady rate and spent on steps.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// CPU time in nanoseconds that a second gives.
    share: i64,
    /// Nanoseconds saved, or owed.
    balance: i64,
    /// Until when it has been earned.
    earned: Option<Duration>,
}

impl Budget {
    fn new(share: Duration) -> Self {
        let share = nanoseconds(share);
        Self { share, balance: 0, earned: None }
    }

    fn capacity(&self) -> i64 {
        self.share * seconds(CAPACITY)
    }

    fn debt(&self) -> i64 {
        self.share * seconds(DEBT)
    }

    fn earn(&mut self, clock: Duration) {
        let passed = clock.saturating_sub(self.earned.replace(clock).unwrap_or(clock)).min(CAPACITY);
        let earned = nanoseconds(passed).saturating_mul(self.share) / 1_000_000_000;
        self.balance = self.balance.saturating_add(earned).min(self.capacity());
    }

    fn spend(&mut self, cost: Duration) {
        self.balance = self.balance.saturating_sub(nanoseconds(cost)).max(-self.debt());
    }

    /// Whether there is enough for something that costs this. More than can be saved is never asked for.
    fn allows(&self, cost: Duration) -> bool {
        self.balance >= nanoseconds(cost).min(self.capacity())
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// How a step takes its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It is cheap, and runs as soon as the budget allows it.
    Prompt,
    /// It is dear. Of such steps the one that has been due the longest runs first, and the others wait for it, so that none
    /// is kept from running by one that costs less.
    Patient,
}

#[derive(Clone, Copy, Debug)]
struct Step<T> {
    task: T,
    manner: Manner,
    interval: Duration,
    longest: Duration,
    ran: Option<Duration>,
    cost: Duration,
}

impl<T> Step<T> {
    fn due(&self, interval: Duration) -> Duration {
        self.ran.map_or(Duration::ZERO, |ran| (ran + interval).saturating_sub(EARLY))
    }
}

/// Steps, each with the interval at which it should run and the longest one that it is stretched to.
#[derive(Clone, Debug)]
pub struct Schedule<T> {
    budget: Budget,
    steps: Vec<Step<T>>,
}

impl<T: Copy + PartialEq> Schedule<T> {
    /// `share` is the CPU time that all steps together may use in a second.
    pub fn new(share: Duration) -> Self {
        Self { budget: Budget::new(share), steps: Vec::new() }
    }

    /// With one more step, which comes after those before it where several may run.
    #[must_use]
    pub fn with(mut self, task: T, manner: Manner, interval: Duration, longest: Duration) -> Self {
        self.steps.push(Step { task, manner, interval, longest, ran: None, cost: Duration::ZERO });
        self
    }

    /// It is so late now.
    pub fn note(&mut self, clock: Duration) {
        self.budget.earn(clock);
    }

    /// The step that should run now: one whose longest interval is over, whatever it costs; else one whose interval is over and
    /// whose last cost the budget allows.
    pub fn next(&self, clock: Duration) -> Option<T> {
        let due = || self.steps.iter().filter(|step| step.due(step.interval) <= clock);
        let overdue = due().find(|step| step.due(step.longest) <= clock);
        let prompt = due().filter(|step| step.manner == Manner::Prompt);
        let patient = due().filter(|step| step.manner == Manner::Patient);
        let first_patient = patient.min_by_key(|step| step.due(step.interval));
        let allowed = || prompt.chain(first_patient).find(|step| self.budget.allows(step.cost));
        overdue.or_else(allowed).map(|step| step.task)
    }

    /// A step ran, and cost so much CPU time.
    pub fn ran(&mut self, task: T, clock: Duration, cost: Duration) {
        self.budget.spend(cost);
        if let Some(step) = self.steps.iter_mut().find(|step| step.task == task) {
            (step.ran, step.cost) = (Some(clock), cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SHARE: Duration = Duration::from_micros(500);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// Runs a schedule for so long, turning each second, and says when each step ran and what CPU time was used in all.
    fn simulate(
        mut schedule: Schedule<&'static str>,
        costs: &[(&'static str, Duration)],
        seconds: u64,
    ) -> (BTreeMap<&'static str, Vec<u64>>, Duration) {
        let (mut cpu, mut ran) = (Duration::ZERO, BTreeMap::<_, Vec<u64>>::new());
        for second in 0..seconds {
            schedule.note(secs(second));
            while let Some(task) = schedule.next(secs(second)) {
                let cost = costs.iter().find(|(name, _)| *name == task).unwrap().1;
                cpu += cost;
                schedule.ran(task, secs(second), cost);
                ran.entry(task).or_default().push(second);
            }
        }
        (ran, cpu)
    }

    fn longest_wait(ran: &[u64]) -> u64 {
        ran.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(u64::MAX)
    }

    #[test]
    fn what_is_cheap_runs_at_its_interval() {
        let schedule = Schedule::new(SHARE).with("own", Manner::Prompt, secs(1), secs(1)).with(
            "dump",
            Manner::Patient,
            secs(5),
            secs(300),
        );
        let costs = [("own", micros(10)), ("dump", micros(1100))];
        let (ran, _) = simulate(schedule, &costs, 600);
        assert_eq!((ran["own"].len(), ran["dump"].len()), (600, 120));
    }

    #[test]
    fn what_is_dear_is_stretched_until_all_keep_their_share() {
        let schedule = Schedule::new(SHARE).with("own", Manner::Prompt, secs(1), secs(1)).with(
            "dump",
            Manner::Patient,
            secs(5),
            secs(300),
        );
        let costs = [("own", micros(10)), ("dump", micros(6000))];
        let (ran, cpu) = simulate(schedule, &costs, 3600);
        assert!(cpu <= SHARE * (3600 + 60), "{cpu:?}");
        assert!((10..=30).contains(&longest_wait(&ran["dump"])), "{:?}", ran["dump"]);
    }

    #[test]
    fn a_step_runs_after_its_longest_interval_even_where_others_leave_it_nothing() {
        let schedule = Schedule::new(SHARE).with("pods", Manner::Prompt, secs(1), secs(1)).with(
            "dump",
            Manner::Patient,
            secs(5),
            secs(300),
        );
        let (ran, _) = simulate(schedule, &[("pods", micros(900)), ("dump", micros(6000))], 3600);
        assert_eq!(longest_wait(&ran["dump"]), 300);
    }

    #[test]
    fn the_dearest_step_is_not_kept_from_running_by_cheaper_ones() {
        let schedule = Schedule::new(SHARE).with("dump", Manner::Patient, secs(5), secs(3000)).with(
            "ports",
            Manner::Patient,
            secs(60),
            secs(3000),
        );
        let costs = [("dump", micros(4000)), ("ports", micros(14_000))];
        let (ran, _) = simulate(schedule, &costs, 3600);
        assert!(longest_wait(&ran["ports"]) < 300, "{:?}", ran["ports"]);
        assert!(longest_wait(&ran["dump"]) < 120, "{:?}", ran["dump"]);
    }

    #[test]
    fn a_step_that_costs_more_than_can_be_saved_runs_when_all_is_saved() {
        let schedule = Schedule::new(SHARE).with("dump", Manner::Patient, secs(5), secs(3000));
        let (ran, _) = simulate(schedule, &[("dump", secs(1))], 1000);
        assert_eq!(longest_wait(&ran["dump"]), 330, "debt is bounded as well");
    }

    #[test]
    fn a_turn_that_comes_a_little_early_is_not_one_that_is_left_out() {
        let mut schedule = Schedule::new(SHARE).with("own", Manner::Prompt, secs(1), secs(1));
        schedule.ran("own", secs(7), Duration::ZERO);
        assert_eq!(schedule.next(Duration::from_millis(7997)), Some("own"));
        assert_eq!(schedule.next(secs(7) + Duration::from_millis(500)), None);
    }
}
