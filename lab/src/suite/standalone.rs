//! The agent's program without a cluster, each time on a new network namespace of a real kernel.

use std::process::Command;

use tcp_close::Sysctl;

use super::{
    FIN_TIMEOUT, Outcome, RETRIES, SOON, Suite, Test,
    alone::{Alone, command, holds, set, wait_until_it_holds},
    ensure,
};
use crate::{
    error::Result,
    files,
    process::{self, output},
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "apply_without_a_cluster_brings_a_host_to_its_manifest_and_a_second_one_writes_nothing",
        run: apply_twice,
    },
    Test {
        name: "apply_watch_puts_a_foreign_change_right_and_follows_its_file_but_not_an_invalid_one",
        run: watch,
    },
    Test {
        name: "restore_without_a_cluster_puts_back_all_but_what_another_program_has_changed",
        run: restore,
    },
    Test {
        name: "restore_beside_apply_watch_says_who_has_the_journal_and_works_with_a_hold_file",
        run: restore_beside_watch,
    },
    Test { name: "apply_leaves_what_its_file_does_not_order_and_says_what_restores_it", run: leaves },
    Test { name: "apply_without_a_cluster_needs_no_capability", run: unprivileged },
    Test {
        name: "apply_without_a_cluster_obeys_a_rule_and_a_hold_file_which_does_not_stop_a_restore",
        run: held_or_refused,
    },
];

/// How the agent ended, and what it printed where.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the agent to its end.
fn run(host: &Alone, words: &[&str]) -> Result<Said> {
    let output = output(&mut command(&host.line(words)))?;
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Ok(Said { code: output.status.code(), stdout, stderr })
}

impl Said {
    /// Whether it ended like this, and printed this.
    fn is(&self, code: i32, stdout: &str) -> Outcome {
        let Self { code: ended, stdout: said, stderr } = self;
        ensure(*ended == Some(code) && said.contains(stdout), || {
            format!("it ended with {ended:?} and not {code}, or did not say {stdout:?}:\n{said}{stderr}")
        })
    }

    fn writes(&self) -> usize {
        self.stderr.matches("INFO wrote ").count()
    }
}

fn apply_twice(suite: &Suite) -> Outcome {
    Alone::apart(suite, |host| {
        host.tune(&["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5"])?;
        run(host, &["plan"])?.is(1, "WouldChange: net.ipv4.tcp_fin_timeout 60 -> 30\n")?;
        let first = run(host, &["apply"])?;
        first.is(0, "net.ipv4.tcp_fin_timeout     30   30       60      Applied  web\n")?;
        holds(&[(FIN_TIMEOUT, "30"), (RETRIES, "5")])?;
        run(host, &["plan"])?.is(0, "Applied")?;
        let journal = files::read(&host.state().join("journal"))?;
        let second = run(host, &["apply"])?;
        second.is(0, "Applied")?;
        let same = files::read(&host.state().join("journal"))? == journal;
        ensure((first.writes(), second.writes(), same) == (2, 0, true), || {
            format!("{}{}the journal is the same: {same}", first.stderr, second.stderr)
        })
    })
}

fn watch(suite: &Suite) -> Outcome {
    Alone::apart(suite, |host| {
        host.tune(&["tcpFinTimeoutSeconds: 30"])?;
        let watch = host.watch()?;
        wait_until_it_holds(FIN_TIMEOUT, "30", SOON)?;
        host.tune(&["tcpFinTimeoutSeconds: 20"])?;
        wait_until_it_holds(FIN_TIMEOUT, "20", SOON)?;
        // Both at once: the turn that finds the file invalid puts the value right against the last good order.
        host.tune(&["tcpFinTimeoutSeconds: soon"])?;
        set(FIN_TIMEOUT, "45")?;
        wait_until_it_holds(FIN_TIMEOUT, "20", SOON)?;
        let (code, log) = watch.end()?;
        let said = log.contains("spec.sysctls.tcpFinTimeoutSeconds") && log.contains("cause=Drifted");
        ensure(code == Some(0) && said, || format!("it ended with {code:?} and said {log}"))?;
        holds(&[(FIN_TIMEOUT, "20")])
    })
}

fn restore(suite: &Suite) -> Outcome {
    Alone::apart(suite, |host| {
        host.tune(&["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5", "tcpTwReuse: 1"])?;
        run(host, &["apply"])?.is(0, "Applied")?;
        set(FIN_TIMEOUT, "45")?;
        run(host, &["restore", RETRIES])?.is(0, "Restored")?;
        holds(&[(RETRIES, "0"), (Sysctl::TwReuse.name(), "1")])?;
        let skipped = "net.ipv4.tcp_fin_timeout: RestoreSkipped: another program set it to 45, so it was left alone; \
                       before us it was 60\n";
        run(host, &["restore"])?.is(0, skipped)?;
        holds(&[(FIN_TIMEOUT, "45"), (Sysctl::TwReuse.name(), "2")])?;
        run(host, &["restore"])?.is(0, "nothing is left to put back")
    })
}

fn restore_beside_watch(suite: &Suite) -> Outcome {
    Alone::apart(suite, |host| {
        host.tune(&["tcpFinTimeoutSeconds: 30"])?;
        let watch = host.watch()?;
        wait_until_it_holds(FIN_TIMEOUT, "30", SOON)?;
        let locked = run(host, &["restore"])?;
        locked.is(4, "Failed")?;
        ensure(locked.stderr.contains("holds the journal"), || locked.stderr.clone())?;
        files::write(&host.state().join("hold"), "")?;
        poll_until("restore has the journal", SOON, || {
            let said = run(host, &["restore"])?;
            Ok(Seen::when(said.code == Some(0), || said.stderr.clone()))
        })?;
        holds(&[(FIN_TIMEOUT, "60")])?;
        let (code, log) = watch.end()?;
        ensure(code == Some(0), || format!("it ended with {code:?} and said {log}"))?;
        holds(&[(FIN_TIMEOUT, "60")])
    })
}

fn leaves(suite: &Suite) -> Outcome {
    Alone::apart(suite, |host| {
        host.tune(&["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5"])?;
        run(host, &["apply"])?.is(0, "Applied")?;
        host.tune(&["tcpOrphanRetries: 5"])?;
        let state = host.state();
        let left = format!(
            "note: {FIN_TIMEOUT} stays 30, which {} does not order; to put back 60: tcpclose-agent restore --state {} \
             {FIN_TIMEOUT}\n",
            host.tuning().display(),
            state.display()
        );
        run(host, &["apply"])?.is(0, &left)?;
        holds(&[(FIN_TIMEOUT, "30")])
    })
}

fn unprivileged(suite: &Suite) -> Outcome {
    Alone::apart(suite, |host| {
        host.tune(&["tcpFinTimeoutSeconds: 30"])?;
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        process::run(setpriv.args(host.apply()))?;
        holds(&[(FIN_TIMEOUT, "30")])
    })
}

fn held_or_refused(suite: &Suite) -> Outcome {
    Alone::apart(suite, |host| {
        host.tune(&["tcpFinTimeoutSeconds: 70", "tcpOrphanRetries: 5"])?;
        run(host, &["apply"])?.is(2, "Refused (fin-timeout-61-to-89): net.ipv4.tcp_fin_timeout = 70: ")?;
        holds(&[(RETRIES, "0")])?;
        host.tune(&["tcpOrphanRetries: 5"])?;
        run(host, &["apply"])?.is(0, "Applied")?;
        files::write(&host.state().join("hold"), "")?;
        host.tune(&["tcpOrphanRetries: 6"])?;
        let held = run(host, &["apply"])?;
        held.is(4, "Failed")?;
        ensure(held.stderr.contains("remove the file to let it write"), || held.stderr.clone())?;
        holds(&[(RETRIES, "5")])?;
        run(host, &["restore"])?.is(0, "Restored")?;
        holds(&[(RETRIES, "0")])
    })
}
