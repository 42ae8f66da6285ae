//! The agent is killed, or the kernel refuses, at each system call by which it changes something: what is left, and what a
//! restart costs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tcp_close::Sysctl;

use super::{
    FIN_TIMEOUT, Failure, Outcome, RETRIES, Suite, Test,
    alone::{Alone, FAILED, IN_FORCE, command, ended, ends, file, holds, live, says, set},
    ensure,
    strace::{Call, Trace},
};
use crate::error::Result;

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_kill_at_any_call_of_apply_or_restore_costs_no_write_more", run: killed_at_any_call },
    Test {
        name: "the_agent_writes_to_the_keys_ordered_and_to_its_journal_and_to_nothing_else",
        run: touches,
    },
    Test { name: "a_key_that_the_kernel_refuses_takes_back_those_before_it", run: refused_by_the_kernel },
    Test { name: "tcp_max_orphans_of_the_machine_is_set_and_restored_also_after_a_kill", run: max_orphans },
];

pub(super) const LONG_TESTS: &[Test] =
    &[Test { name: "a_minute_of_kills_while_the_tuning_flips_loses_nothing", run: a_minute_of_kills }];

const REUSE: &str = Sysctl::TwReuse.name();
const MAX_ORPHANS: &str = Sysctl::MaxOrphans.name();
/// Three keys of one tuning, and what it orders.
const ORDERED: [(&str, &str); 3] = [(FIN_TIMEOUT, "30"), (RETRIES, "5"), (REUSE, "1")];
const TUNING: &[&str] = &["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5", "tcpTwReuse: 1"];

type Values = [(&'static str, String); 3];

/// What the kernel holds before anything is ordered.
fn baseline() -> Result<Values> {
    let [a, b, c] = ORDERED.map(|(key, _)| live(key).map(|value| (key, value)));
    Ok([a?, b?, c?])
}

fn texts(values: &Values) -> [(&'static str, &str); 3] {
    values.each_ref().map(|(key, value)| (*key, value.as_str()))
}

// ---- killed at any call ----

fn killed_at_any_call(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let before = baseline()?;
        let kills = kills(alone, &alone.apply(), &ORDERED, || Ok(()))?;
        // A run of apply has left its values and its journal; each restore starts from there.
        let applied = || ends(&mut command(&alone.apply()), IN_FORCE).map(drop);
        let restored = || ends(&mut command(&alone.restore()), IN_FORCE).map(drop);
        println!("    {kills} kills of apply");
        restored()?;
        applied()?;
        let kills = self::kills(alone, &alone.restore(), &texts(&before), applied)?;
        println!("    {kills} kills of restore");
        Ok(())
    })
}

/// Kills a command at each call by which it changes something, and starts it again: it then ends well, and each key has been
/// written once all in all. Before each kill all is as it was at first, and `prepare` is done.
fn kills(
    alone: &Alone,
    line: &[String],
    wanted: &[(&str, &str)],
    prepare: impl Fn() -> Outcome,
) -> Result<usize, Failure> {
    let before: Vec<_> = wanted.iter().map(|(key, _)| live(key)).collect::<Result<_>>()?;
    let whole = run(alone, None, line)?;
    ensure(ORDERED.iter().all(|(key, _)| whole.writes_to(&file(key)) == 1), || {
        format!("a whole run writes {:?}", whole.written())
    })?;
    let points = whole.changes();
    for point in &points {
        let at = |Failure(why)| Failure(format!("{line:?}, killed at {point}: {why}"));
        ends(&mut command(&alone.restore()), IN_FORCE).map_err(at)?;
        alone.forget()?;
        prepare().map_err(at)?;
        killed(alone, line, point, wanted, &before).map_err(at)?;
    }
    Ok(points.len())
}

fn killed(
    alone: &Alone,
    line: &[String],
    point: &str,
    wanted: &[(&str, &str)],
    before: &[String],
) -> Outcome {
    let first = killed_at(alone, line, point)?;
    for ((key, wanted), before) in wanted.iter().zip(before) {
        let now = live(key)?;
        ensure(now == *wanted || now == *before, || format!("{key} is {now} after the kill"))?;
    }
    let second = run(alone, None, line)?;
    holds(wanted)?;
    for (key, _) in wanted {
        let writes = [&first, &second].map(|trace| trace.writes_to(&file(key)));
        ensure(writes.iter().sum::<usize>() == 1, || format!("{key} was written {writes:?} times"))?;
    }
    let third = run(alone, None, line)?;
    let idle = third.written().iter().all(|file| is_terminal(file));
    ensure(idle, || format!("a restart that finds all in order writes to {:?}", third.written()))
}

/// A whole run, which ends well.
fn run(alone: &Alone, inject: Option<&str>, line: &[String]) -> Result<Trace, Failure> {
    let trace = alone.strace.run(&alone.folder, inject, line)?;
    ended(&trace.output, IN_FORCE)?;
    Ok(trace)
}

/// A run that is killed when it is about to make a call.
fn killed_at(alone: &Alone, line: &[String], point: &str) -> Result<Trace, Failure> {
    use std::os::unix::process::ExitStatusExt;
    let inject = point.replace(":when=", ":signal=SIGKILL:when=");
    let trace = alone.strace.run(&alone.folder, Some(&inject), line)?;
    let was_killed = trace.output.status.signal() == Some(Signal::KILL.as_raw());
    ensure(was_killed, || format!("it was not killed at {point}: {}", trace.output.status))?;
    Ok(trace)
}

/// What it says goes to pipes here.
fn is_terminal(file: &Path) -> bool {
    file.to_string_lossy().starts_with("pipe:")
}

// ---- what it touches ----

fn touches(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let journal = ["lock", "journal.new", "journal"].map(|name| alone.state().join(name));
        let keys = ORDERED.map(|(key, _)| file(key));
        let allowed: BTreeSet<PathBuf> = keys.into_iter().chain(journal).collect();
        for line in [alone.apply(), alone.restore()] {
            let trace = run(alone, None, &line)?;
            let changes = trace.calls.iter().filter(|call| call.changes());
            let touched: BTreeSet<PathBuf> =
                changes.flat_map(Call::files).filter(|file| !is_terminal(file)).collect();
            let folders = [alone.state(), alone.folder.clone()];
            let others: Vec<_> =
                touched.difference(&allowed).filter(|file| !folders.contains(file)).collect();
            ensure(others.is_empty(), || format!("{line:?} touches {others:?}"))?;
            let missed: Vec<_> = allowed.difference(&touched).collect();
            ensure(missed.is_empty(), || format!("{line:?} does not touch {missed:?}"))?;
        }
        Ok(())
    })
}

// ---- refused by the kernel ----

fn refused_by_the_kernel(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let before = baseline()?;
        for (error, words) in [("EIO", "Input/output error"), ("EINVAL", "Invalid argument")] {
            let inject = format!("pwrite64:error={error}:when=2");
            let trace = alone.strace.run(&alone.folder, Some(&inject), &alone.apply())?;
            let said = ended(&trace.output, FAILED)?;
            holds(&texts(&before))?;
            says(&said, words)?;
            let refused = trace.calls.iter().filter(|call| call.name == "pwrite64").nth(1);
            let refused = refused.map(Call::files).unwrap_or_default();
            let key = ORDERED.iter().find(|(key, _)| refused == [file(key)]);
            let (key, _) = key.ok_or_else(|| Failure(format!("{refused:?} was refused")))?;
            says(&said, &format!("{}: the kernel did not take", file(key).display()))?;
            let writes = ORDERED.map(|(key, _)| trace.writes_to(&file(key)));
            ensure(writes.iter().sum::<usize>() == 2, || format!("there, and back: {writes:?}"))?;
        }
        ends(&mut command(&alone.apply()), IN_FORCE)?;
        holds(&ORDERED)
    })
}

// ---- the machine's own key ----

/// Puts a value of the machine back, whatever the test did.
struct PutBack {
    key: &'static str,
    value: String,
}

impl Drop for PutBack {
    fn drop(&mut self) {
        if live(self.key).is_ok_and(|live| live != self.value) {
            set(self.key, &self.value).unwrap_or_else(|error| {
                eprintln!("{} was {}, and could not be put back: {}", self.key, self.value, error.chain());
            });
        }
    }
}

/// The only sysctl of the machine's first network namespace that a test touches: it is in no other.
fn max_orphans(suite: &Suite) -> Outcome {
    Alone::here(suite, |alone| {
        let value = live(MAX_ORPHANS)?;
        let number: i64 = value.parse().map_err(|_| Failure(format!("{MAX_ORPHANS} is {value}")))?;
        let one_more = (number + 1).to_string();
        let _machine = PutBack { key: MAX_ORPHANS, value: value.clone() };
        alone.tune(&[&format!("tcpMaxOrphans: {one_more}")])?;
        let whole = run(alone, None, &alone.apply())?;
        holds(&[(MAX_ORPHANS, &one_more)])?;
        ends(&mut command(&alone.restore()), IN_FORCE)?;
        holds(&[(MAX_ORPHANS, &value)])?;
        for point in &whole.changes() {
            alone.forget()?;
            killed_at(alone, &alone.apply(), point)?;
            ends(&mut command(&alone.restore()), IN_FORCE)?;
            holds(&[(MAX_ORPHANS, &value)])?;
        }
        Ok(())
    })
}

// ---- a minute of kills ----

const MINUTE: Duration = Duration::from_secs(60);
const LIFE: Duration = Duration::from_millis(200);

fn a_minute_of_kills(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        let before = baseline()?;
        let (until, mut kills) = (Instant::now() + MINUTE, 0);
        while Instant::now() < until {
            let retries = 4 + kills % 5;
            alone.tune(&[TUNING[0], &format!("tcpOrphanRetries: {retries}"), TUNING[2]])?;
            let agent = alone.watch()?;
            std::thread::sleep(LIFE);
            drop(agent);
            kills += 1;
        }
        println!("    {kills} kills");
        alone.tune(TUNING)?;
        ends(&mut command(&alone.apply()), IN_FORCE)?;
        holds(&ORDERED)?;
        let idle = run(alone, None, &alone.apply())?;
        ensure(idle.written().iter().all(|file| is_terminal(file)), || {
            format!("a restart that finds all in order writes to {:?}", idle.written())
        })?;
        ends(&mut command(&alone.restore()), IN_FORCE)?;
        holds(&texts(&before))
    })
}
