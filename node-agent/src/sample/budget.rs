//! One budget of CPU time for the whole process, and which step of sampling it allows next.
//!
//! The budget never makes a count wrong, only older: a step that it does not allow waits, and every count says when it was
//! taken. Clock and CPU time come in as arguments.

use std::time::Duration;

/// What is saved is at most what this long gives: a quiet hour does not decide over the next.
const CAPACITY: Duration = Duration::from_secs(30);
/// What is owed is at most what this long gives: after a storm of orders, counts are wanted most.
const DEBT: Duration = Duration::from_secs(5);
/// What a process costs in its first moments, as for the way to the API server, is no part of what it costs.
const START: Duration = Duration::from_secs(10);
/// Turns come a little early or late; a step waits for no other one because of that.
const EARLY: Duration = Duration::from_millis(100);

/// CPU time that is earned at a steady rate and spent by the process.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// CPU time in nanoseconds that a second gives.
    share: i64,
    /// Nanoseconds saved, or owed.
    balance: i64,
    /// When the process was first looked at.
    start: Option<Duration>,
    /// When it was last looked at, and what it had used until then.
    last: Option<(Duration, Duration)>,
}

impl Budget {
    fn new(share: Duration) -> Self {
        let share = nanoseconds(share);
        Self { share, balance: 0, start: None, last: None }
    }

    fn capacity(&self) -> i64 {
        self.share * seconds(CAPACITY)
    }

    fn debt(&self) -> i64 {
        self.share * seconds(DEBT)
    }

    /// Takes note of the CPU time that the process has used so far. Returns what it has used since the last time.
    fn note(&mut self, clock: Duration, cpu: Duration) -> Duration {
        let start = *self.start.get_or_insert(clock);
        let (last_clock, last_cpu) = self.last.replace((clock, cpu)).unwrap_or((clock, cpu));
        let passed = clock.saturating_sub(last_clock).min(CAPACITY);
        let used = cpu.saturating_sub(last_cpu);
        let charged = if clock.saturating_sub(start) < START { Duration::ZERO } else { used };
        let earned = nanoseconds(passed).saturating_mul(self.share) / 1_000_000_000;
        let balance = self.balance.saturating_add(earned).saturating_sub(nanoseconds(charged));
        self.balance = balance.clamp(-self.debt(), self.capacity());
        used
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
    /// `share` is the CPU time that the whole process may use in a second.
    pub fn new(share: Duration) -> Self {
        Self { budget: Budget::new(share), steps: Vec::new() }
    }

    /// With one more step, which comes after those before it where several may run.
    #[must_use]
    pub fn with(mut self, task: T, manner: Manner, interval: Duration, longest: Duration) -> Self {
        self.steps.push(Step { task, manner, interval, longest, ran: None, cost: Duration::ZERO });
        self
    }

    /// Takes note of the CPU time that the process has used so far.
    pub fn note(&mut self, clock: Duration, cpu: Duration) {
        self.budget.note(clock, cpu);
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

    /// A step ran, and the process has used so much CPU time until now.
    pub fn ran(&mut self, task: T, clock: Duration, cpu: Duration) {
        let cost = self.budget.note(clock, cpu);
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
    /// `rest` is what the process uses per second beside it.
    fn simulate(
        mut schedule: Schedule<&'static str>,
        costs: &[(&'static str, Duration)],
        rest: Duration,
        seconds: u64,
    ) -> (BTreeMap<&'static str, Vec<u64>>, Duration) {
        let (mut cpu, mut ran) = (Duration::ZERO, BTreeMap::<_, Vec<u64>>::new());
        for second in 0..seconds {
            cpu += rest;
            schedule.note(secs(second), cpu);
            while let Some(task) = schedule.next(secs(second)) {
                cpu += costs.iter().find(|(name, _)| *name == task).unwrap().1;
                schedule.ran(task, secs(second), cpu);
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
        let (ran, _) = simulate(schedule, &costs, micros(100), 600);
        assert_eq!((ran["own"].len(), ran["dump"].len()), (600, 120));
    }

    #[test]
    fn what_is_dear_is_stretched_until_the_whole_process_keeps_its_share() {
        let schedule = Schedule::new(SHARE).with("own", Manner::Prompt, secs(1), secs(1)).with(
            "dump",
            Manner::Patient,
            secs(5),
            secs(300),
        );
        let costs = [("own", micros(10)), ("dump", micros(6000))];
        let (ran, cpu) = simulate(schedule, &costs, micros(200), 3600);
        assert!(cpu <= SHARE * (3600 + 60), "{cpu:?}");
        assert!((15..=30).contains(&longest_wait(&ran["dump"])), "{}", longest_wait(&ran["dump"]));
    }

    #[test]
    fn a_step_runs_after_its_longest_interval_even_where_the_process_is_over_its_share() {
        let schedule = Schedule::new(SHARE).with("dump", Manner::Patient, secs(5), secs(300));
        let (ran, _) = simulate(schedule, &[("dump", micros(6000))], micros(900), 3600);
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
        let (ran, _) = simulate(schedule, &costs, micros(250), 3600);
        assert!(longest_wait(&ran["ports"]) < 300, "{:?}", ran["ports"]);
        assert!(longest_wait(&ran["dump"]) < 120, "{:?}", ran["dump"]);
    }

    #[test]
    fn a_step_that_costs_more_than_can_be_saved_runs_when_all_is_saved() {
        let schedule = Schedule::new(SHARE).with("dump", Manner::Patient, secs(5), secs(3000));
        let (ran, _) = simulate(schedule, &[("dump", secs(1))], Duration::ZERO, 1000);
        assert_eq!(longest_wait(&ran["dump"]), 35, "debt is bounded as well");
    }

    #[test]
    fn the_start_is_not_counted() {
        let mut schedule = Schedule::new(SHARE).with("dump", Manner::Patient, secs(1), secs(300));
        schedule.note(secs(100), secs(2));
        schedule.note(secs(105), secs(9));
        assert_eq!(schedule.budget.balance, nanoseconds(5 * SHARE), "what was earned meanwhile");
        schedule.note(secs(110), secs(9));
        schedule.note(secs(111), secs(10));
        assert_eq!(schedule.budget.balance, -schedule.budget.debt());
    }

    #[test]
    fn a_turn_that_comes_a_little_early_is_not_one_that_is_left_out() {
        let mut schedule = Schedule::new(SHARE).with("own", Manner::Prompt, secs(1), secs(1));
        schedule.ran("own", secs(7), Duration::ZERO);
        assert_eq!(schedule.next(Duration::from_millis(7997)), Some("own"));
        assert_eq!(schedule.next(secs(7) + Duration::from_millis(500)), None);
    }
}
