//! Whether the gate of a rollout tells a good change from a bad one: on real sockets, every change under the same load, beside a
//! namespace that is not changed. Needs no cluster.
//!
//! A namespace stands for a node. It holds both ends of each connection, so that a connection counts twice.

mod load;

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use crds::node::Rates;
use operator::rollout::gate::{Changed, Evidence, FIGURES, Figure, Verdict, judge};
use tcp_close::{
    Sysctl,
    counters::{CounterReader, Counters, RateWatch},
};

use super::{
    Machine,
    aim::{Aim, at_least},
};
use crate::{
    error::{Error, Result},
    prove::space::{Space, read_proc_net, write_sysctl},
    report::during,
};
use load::{CLOSES_AFTER, CYCLE, Load, PER_SECOND, READS_AFTER};

pub(super) const RUNS: u32 = 3;
/// In the last minute of it as many orphans end as are made: the kernel gives one up after 107 s.
const BEFORE: Duration = Duration::from_secs(175);
/// For so long the gate looks at a change.
const SINCE: Duration = Duration::from_secs(45);
/// The agent reads the counters this often.
const READ_EVERY: Duration = Duration::from_secs(5);
/// What a tuning has where it says nothing.
const MIN_CONNECTIONS: u32 = 1000;

/// A change that a person may make.
struct Change {
    sysctl: Sysctl,
    from: &'static str,
    to: &'static str,
    good: bool,
}

/// Every change that is made, beside a namespace without any.
const CHANGES: [Change; 5] = [
    Change { sysctl: Sysctl::FinTimeout, from: "60", to: "30", good: true },
    Change { sysctl: Sysctl::OrphanRetries, from: "0", to: "3", good: true },
    Change { sysctl: Sysctl::MaxTwBuckets, from: "default", to: "200", good: false },
    Change { sysctl: Sysctl::FinTimeout, from: "60", to: "10", good: false },
    Change { sysctl: Sysctl::OrphanRetries, from: "0", to: "1", good: false },
];

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sysctl, from, to, .. } = self;
        write!(f, "{} {from} -> {to}", sysctl.file())
    }
}

/// What a namespace saw.
struct Seen {
    before: Rates,
    since: Rates,
}

/// Several runs of every change.
pub(super) struct Calibration {
    /// By run, then by change.
    runs: Vec<Vec<Judged>>,
    machine: String,
}

/// One change in one run.
struct Judged {
    seen: Seen,
    verdict: Verdict,
}

/// Makes every change in every run.
pub(super) fn bench(runs: u32) -> Result<Calibration> {
    let machine = Machine::look()?;
    let run = |number| during(&format!("run {number} of {runs}"), run);
    let runs = (1..=runs).map(run).collect::<Result<_>>()?;
    Ok(Calibration { runs, machine: machine.told()? })
}

/// Makes every change at the same time, each in a namespace of its own.
fn run() -> Result<Vec<Judged>> {
    thread::scope(|scope| {
        let unchanged = scope.spawn(|| live(None));
        let changed: Vec<_> = CHANGES.iter().map(|change| scope.spawn(|| live(Some(change)))).collect();
        let unchanged = ended(unchanged)?;
        let judged = |changed| {
            let seen: Seen = ended(changed)?;
            let node = Changed { node: "changed", before: Some(&seen.before), since: Some(&seen.since) };
            let evidence = Evidence { changed: vec![node], unchanged: vec![&unchanged.since] };
            let verdict = judge(&evidence, MIN_CONNECTIONS);
            Ok(Judged { seen, verdict })
        };
        changed.into_iter().map(judged).collect()
    })
}

fn ended(run: thread::ScopedJoinHandle<'_, Result<Seen>>) -> Result<Seen> {
    let broken = || Error::Unclear { what: "a load".into(), why: "it panicked".into() };
    run.join().unwrap_or_else(|_| Err(broken()))
}

/// The load in a namespace, around a change or around none.
fn live(change: Option<&Change>) -> Result<Seen> {
    Space::run_in_new(&[], |space| {
        let (mut load, mut observer) = (Load::new(space), Observer::new());
        observer.watch(&mut load, BEFORE)?;
        let before = known(observer.watch.rates())?;
        let Some(change) = change else {
            observer.watch(&mut load, SINCE)?;
            return Ok(Seen { before, since: known(observer.watch.rates())? });
        };
        write_sysctl(change.sysctl.file(), change.to)?;
        let counters = observer.read()?;
        observer.watch.note_as_start(counters, observer.started.elapsed());
        observer.watch(&mut load, SINCE)?;
        Ok(Seen { before, since: known(observer.watch.rates_since_start())? })
    })
}

fn known(rates: Option<tcp_close::counters::Rates>) -> Result<Rates> {
    let missing =
        || Error::Unclear { what: "the kernel's counters".into(), why: "they gave no rates".into() };
    rates.map(Rates::from).ok_or_else(missing)
}

/// Reads the counters as the agent does.
struct Observer {
    started: Instant,
    reader: CounterReader,
    watch: RateWatch,
}

impl Observer {
    fn new() -> Self {
        Self { started: Instant::now(), reader: CounterReader::default(), watch: RateWatch::default() }
    }

    fn watch(&mut self, load: &mut Load<'_>, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let counters = self.read()?;
            self.watch.note(counters, self.started.elapsed());
            load.run(READ_EVERY.min(end.saturating_duration_since(Instant::now())))?;
        }
        let counters = self.read()?;
        self.watch.note(counters, self.started.elapsed());
        Ok(())
    }

    fn read(&mut self) -> Result<Counters> {
        Ok(self.reader.read(&read_proc_net("snmp")?, &read_proc_net("netstat")?))
    }
}

impl Calibration {
    fn of_change(&self, at: usize) -> impl Iterator<Item = &Judged> {
        self.runs.iter().filter_map(move |run| run.get(at))
    }

    /// In how many runs the gate said what it should.
    fn right(&self, at: usize) -> usize {
        let is_right = |judged: &&Judged| match judged.verdict {
            Verdict::Passed(_) => CHANGES[at].good,
            Verdict::Failed(_) => !CHANGES[at].good,
            Verdict::Inconclusive(_) => false,
        };
        self.of_change(at).filter(is_right).count()
    }

    fn aims(&self) -> Vec<Aim> {
        let aim = |(at, change): (usize, &Change)| {
            let what = format!("runs in which {change} {}", if change.good { "passes" } else { "fails" });
            at_least(what, float(self.right(at)), float(self.runs.len()))
        };
        CHANGES.iter().enumerate().map(aim).collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "there are few runs")]
fn float(runs: usize) -> f64 {
    runs as f64
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (late, slow) = (CLOSES_AFTER.as_secs(), READS_AFTER.as_secs());
        writeln!(
            f,
            "{} runs of {} s before and {} s after a change, {PER_SECOND} connections a second; of {CYCLE}, 2 peers close after \
             {late} s, 1 reads after {slow} s, 1 is gone\n",
            self.runs.len(),
            BEFORE.as_secs(),
            SINCE.as_secs()
        )?;
        writeln!(f, "events in 1,000 connections, before -> since, the lowest to the highest of all runs")?;
        for (at, change) in CHANGES.iter().enumerate() {
            writeln!(f, "\n{change}")?;
            for figure in &FIGURES {
                let before = spread(figure, self.of_change(at).map(|judged| &judged.seen.before));
                let since = spread(figure, self.of_change(at).map(|judged| &judged.seen.since));
                let Figure { name, harmless, ratio, .. } = figure;
                writeln!(f, "  {name:<28} {before:>15} -> {since:<15} (limit {harmless}, or {ratio} times)")?;
            }
            for Judged { verdict, .. } in self.of_change(at) {
                writeln!(f, "  {}", told(verdict))?;
            }
        }
        writeln!(f)?;
        self.aims().iter().try_for_each(|aim| writeln!(f, "{aim}"))?;
        writeln!(f, "{}", self.machine)
    }
}

fn told(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Passed(why) => format!("passed: {why}"),
        Verdict::Inconclusive(why) => format!("inconclusive: {why}"),
        Verdict::Failed(why) => format!("failed: {why}"),
    }
}

/// The lowest and the highest.
fn spread<'a>(figure: &Figure, rates: impl Iterator<Item = &'a Rates>) -> String {
    let known: Vec<f64> = rates.filter_map(|rates| figure.in_thousand(rates)).collect();
    let lowest = known.iter().copied().reduce(f64::min);
    let highest = known.iter().copied().reduce(f64::max);
    match (lowest, highest) {
        (Some(lowest), Some(highest)) => format!("{lowest:.1}..{highest:.1}"),
        _ => "unknown".into(),
    }
}
