//! The agent is killed, or the kernel refuses, at each system call by which it changes something: what is left, and what a
//! restart costs.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tcp_close::Sysctl;

use super::{
    FIN_TIMEOUT, Failure, Outcome, RETRIES, Suite, Test,
    alone::{Alone, FAILED, IN_FORCE, command, ended, ends, file, holds, live, says, set},
    ensure,
    strace::{Nth, Trace},
};
use crate::error::Result;

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_kill_at_any_call_of_apply_or_restore_costs_no_write_more", run: killed_at_any_call },
    Test { name: "a_failure_of_any_call_of_apply_leaves_all_keys_or_none", run: fails_at_any_call },
    Test {
        name: "the_agent_writes_to_the_keys_ordered_and_to_its_journal_and_to_nothing_else",
        run: touches,
    },
    Test { name: "a_key_that_the_kernel_refuses_takes_back_those_before_it", run: refused_by_the_kernel },
    Test { name: "the_journal_is_on_disk_before_the_kernel_is_written", run: on_disk_first },
    Test { name: "tcp_max_orphans_of_the_machine_is_set_and_restored_also_after_a_kill", run: max_orphans },
];

pub(super) const LONG_TESTS: &[Test] =
    &[Test { name: "a_minute_of_kills_while_the_tuning_flips_loses_nothing", run: a_minute_of_kills }];

const REUSE: &str = Sysctl::TwReuse.name();
const MAX_ORPHANS: &str = Sysctl::MaxOrphans.name();
/// Three keys of one tuning, and what it orders.
const ORDERED: [(&str, &str); 3] = [(FIN_TIMEOUT, "30"), (RETRIES, "5"), (REUSE, "1")];
const TUNING: &[&str] = &["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5", "tcpTwReuse: 1"];

/// What the kernel holds of the keys.
fn values() -> Result<Vec<(&'static str, String)>> {
    ORDERED.iter().map(|(key, _)| Ok((*key, live(key)?))).collect()
}

fn texts<'a>(values: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    values.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

/// A whole run, which ends well.
fn run(alone: &Alone, line: &[String]) -> Result<Trace, Failure> {
    let (output, trace) = alone.strace.run(&alone.folder, None, line)?;
    ended(&output, IN_FORCE)?;
    Ok(trace)
}

/// A run that is killed when it is about to make a call.
fn killed_at(alone: &Alone, line: &[String], call: &Nth) -> Result<Trace, Failure> {
    let (output, trace) = alone.strace.run(&alone.folder, Some(&call.inject("signal=SIGKILL")), line)?;
    let was_killed = output.status.signal() == Some(Signal::KILL.as_raw());
    ensure(was_killed, || format!("it was not killed: {}", output.status))?;
    Ok(trace)
}

fn writes_nothing(alone: &Alone, line: &[String]) -> Outcome {
    let written = run(alone, line)?.written();
    ensure(written.is_empty(), || format!("a restart that finds all in order writes to {written:?}"))
}

/// Puts back what is there, and forgets that it ever ran.
fn undo(alone: &Alone, before: &[(&str, &str)]) -> Outcome {
    ends(&mut command(&alone.restore()), IN_FORCE)?;
    holds(before)?;
    alone.forget()
}

// ---- at any call ----

fn killed_at_any_call(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let before = values()?;
        let before = texts(&before);
        let undo = || undo(alone, &before);
        let apply = || {
            undo()?;
            ends(&mut command(&alone.apply()), IN_FORCE).map(drop)
        };
        survives_kills(alone, &alone.apply(), undo, &ORDERED)?;
        survives_kills(alone, &alone.restore(), apply, &before)?;
        undo()
    })
}

/// Kills a command at each call by which it changes something.
fn survives_kills(
    alone: &Alone,
    line: &[String],
    prepare: impl Fn() -> Outcome,
    wanted: &[(&str, &str)],
) -> Outcome {
    prepare()?;
    let before = values()?;
    let calls = run(alone, line)?.changes();
    for call in &calls {
        prepare()
            .and_then(|()| survives_kill(alone, line, call, &texts(&before), wanted))
            .map_err(|Failure(why)| Failure(format!("{line:?}, killed at {call}: {why}")))?;
    }
    println!("    {} kills", calls.len());
    Ok(())
}

/// Each key holds what it held or what it shall hold; the next run ends well, and each key has been written once all in all.
fn survives_kill(
    alone: &Alone,
    line: &[String],
    call: &Nth,
    before: &[(&str, &str)],
    wanted: &[(&str, &str)],
) -> Outcome {
    let first = killed_at(alone, line, call)?;
    for ((key, before), (_, wanted)) in before.iter().zip(wanted) {
        let now = live(key)?;
        ensure(now == *before || now == *wanted, || format!("{key} is {now}"))?;
    }
    let second = run(alone, line)?;
    holds(wanted)?;
    for (key, _) in wanted {
        let writes = [&first, &second].map(|trace| trace.writes_to(&file(key)));
        ensure(writes.iter().sum::<usize>() == 1, || format!("{key} was written {writes:?} times"))?;
    }
    writes_nothing(alone, line)
}

fn fails_at_any_call(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let before = values()?;
        let before = texts(&before);
        for call in run(alone, &alone.apply())?.changes() {
            let at = |Failure(why)| Failure(format!("{call} failed: {why}"));
            undo(alone, &before).map_err(at)?;
            alone.strace.run(&alone.folder, Some(&call.inject("error=EIO")), &alone.apply())?;
            holds(&before).or_else(|_| holds(&ORDERED)).map_err(at)?;
            run(alone, &alone.apply()).map_err(at)?;
            holds(&ORDERED).map_err(at)?;
        }
        undo(alone, &before)
    })
}

fn refused_by_the_kernel(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let before = values()?;
        for (error, words) in [("EIO", "(os error 5)"), ("EINVAL", "(os error 22)")] {
            let inject = format!("pwrite64:error={error}:when=2");
            let (output, trace) = alone.strace.run(&alone.folder, Some(&inject), &alone.apply())?;
            let said = ended(&output, FAILED)?;
            holds(&texts(&before))?;
            says(&said, "/proc/sys/net/ipv4/tcp_fin_timeout: the kernel did not take 30")?;
            says(&said, words)?;
            // The first one there and back, the others never.
            let writes = ORDERED.map(|(key, _)| trace.writes_to(&file(key)));
            ensure(writes == [0, 2, 0], || format!("{writes:?} writes"))?;
        }
        ends(&mut command(&alone.apply()), IN_FORCE)?;
        holds(&ORDERED)
    })
}

// ---- what it touches, and when ----

fn touches(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let state = alone.state();
        let own = ["", "lock", "journal.new", "journal"].map(|name| state.join(name));
        let mut allowed: BTreeSet<PathBuf> =
            ORDERED.map(|(key, _)| file(key)).into_iter().chain(own).collect();
        for line in [alone.apply(), alone.restore()] {
            let touched: BTreeSet<PathBuf> = run(alone, &line)?.touched().into_iter().collect();
            ensure(touched == allowed, || format!("{line:?} touches {touched:?} and not {allowed:?}"))?;
            // What is taken back was in force.
            allowed.extend(["earlier.new", "earlier"].map(|name| state.join(name)));
        }
        Ok(())
    })
}

/// A kill loses nothing that was written to a file; a loss of power does, unless the disk has it.
fn on_disk_first(suite: &Suite) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        let trace = run(alone, &alone.apply())?;
        let [new, journal] = ["journal.new", "journal"].map(|name| alone.state().join(name));
        let saved = [
            ("write", vec![new.clone()]),
            ("fsync", vec![new.clone()]),
            ("rename", vec![new, journal]),
            ("fsync", vec![alone.state()]),
        ];
        let keys = ORDERED.map(|(key, _)| file(key));
        // Some machines have `renameat` alone.
        let calls = trace.calls.iter().map(|call| (call.name.trim_end_matches("at"), call.files()));
        let before: Vec<_> = calls
            .take_while(|(name, files)| *name != "pwrite64" || !files.iter().any(|file| keys.contains(file)))
            .filter(|(name, _)| !name.starts_with("open"))
            .collect();
        ensure(before.ends_with(&saved), || format!("before the first write to the kernel: {before:?}"))
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
        let whole = run(alone, &alone.apply())?;
        holds(&[(MAX_ORPHANS, &one_more)])?;
        ends(&mut command(&alone.restore()), IN_FORCE)?;
        holds(&[(MAX_ORPHANS, &value)])?;
        for call in &whole.changes() {
            alone.forget()?;
            killed_at(alone, &alone.apply(), call)?;
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
        let before = values()?;
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
        writes_nothing(alone, &alone.apply())?;
        ends(&mut command(&alone.restore()), IN_FORCE)?;
        holds(&texts(&before))
    })
}
