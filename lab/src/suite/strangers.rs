//! What is not of the agent's making: other programs that write, other agents, other lives of the kernel, mounts that lead
//! elsewhere, disks that take nothing.

use std::time::Duration;

use super::{
    FIN_TIMEOUT, Outcome, Suite, Test,
    alone::{Alone, FAILED, IN_FORCE, command, ends, holds, says, set, wait_until_it_holds, with_mounts},
    ensure,
};
use crate::{
    meanwhile::{Work, meanwhile},
    namespace::NetNamespace,
    process::run,
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_foreign_write_through_another_procfs_is_put_right_within_10_s", run: another_procfs },
    Test { name: "a_fight_ends_as_contended_and_its_value_is_left_by_a_restore", run: fight },
    Test { name: "a_second_agent_on_one_journal_writes_nothing_and_says_so", run: two_agents },
    Test { name: "a_journal_of_another_namespace_is_history", run: another_namespace },
    Test { name: "a_journal_of_another_boot_is_history", run: another_boot },
    Test { name: "nothing_is_written_through_a_mount_that_leads_elsewhere", run: wrong_mounts },
    Test { name: "nothing_is_written_where_the_journal_cannot_be_saved_or_read", run: journal_faults },
];

const TUNING: &[&str] = &["tcpFinTimeoutSeconds: 30"];
const NOTICED: Duration = Duration::from_secs(10);
const GIVEN_UP: Duration = Duration::from_secs(30);
const BLOW: Duration = Duration::from_millis(100);

/// With a tuning of 30 s, where the kernel holds 60.
fn with_a_tuning(suite: &Suite, test: impl FnOnce(&Alone) -> Outcome + Send) -> Outcome {
    Alone::apart(suite, |alone| {
        alone.tune(TUNING)?;
        holds(&[(FIN_TIMEOUT, "60")])?;
        test(alone)
    })
}

// ---- other programs ----

fn another_procfs(suite: &Suite) -> Outcome {
    with_a_tuning(suite, |alone| {
        let agent = alone.watch()?;
        wait_until_it_holds(FIN_TIMEOUT, "30", NOTICED)?;
        let write = [
            "sh",
            "-ec",
            "echo 45 >\"$0\"/sys/net/ipv4/tcp_fin_timeout; cat \"$0\"/sys/net/ipv4/tcp_fin_timeout",
        ];
        let procfs = alone.folder.join("proc").display().to_string();
        let line: Vec<_> = write.into_iter().chain([procfs.as_str()]).map(str::to_owned).collect();
        let mounted = format!("mkdir {procfs}\nmount -t proc none {procfs}");
        let written = run(&mut with_mounts(&mounted, &line))?;
        ensure(written.trim() == "45", || written)?;
        let took = wait_until_it_holds(FIN_TIMEOUT, "30", NOTICED)?;
        println!("    put right after {:.1} s", took.as_secs_f64());
        drop(agent);
        ends(&mut command(&alone.restore()), IN_FORCE)?;
        holds(&[(FIN_TIMEOUT, "60")])
    })
}

fn fight(suite: &Suite) -> Outcome {
    with_a_tuning(suite, |alone| {
        let agent = alone.watch()?;
        wait_until_it_holds(FIN_TIMEOUT, "30", NOTICED)?;
        let net = NetNamespace::of_this_thread()?;
        let fights = |work: &Work| {
            net.run(|| {
                while work.goes_on() {
                    let _ = set(FIN_TIMEOUT, "45");
                    std::thread::sleep(BLOW);
                }
            })
        };
        let (fought, took) = meanwhile(fights, || agent.wait_until_it_says("Contended", GIVEN_UP));
        println!("    given up after {:.1} s", took?.as_secs_f64());
        fought?;
        set(FIN_TIMEOUT, "45")?;
        drop(agent);
        says(&ends(&mut command(&alone.restore()), IN_FORCE)?, "RestoreSkipped")?;
        holds(&[(FIN_TIMEOUT, "45")])
    })
}

// ---- other agents ----

fn two_agents(suite: &Suite) -> Outcome {
    with_a_tuning(suite, |alone| {
        let first = alone.watch()?;
        wait_until_it_holds(FIN_TIMEOUT, "30", NOTICED)?;
        for line in [alone.apply(), alone.restore()] {
            let said = ends(&mut command(&line), FAILED)?;
            says(&said, "another agent on this node holds the journal; this one only observes")?;
            holds(&[(FIN_TIMEOUT, "30")])?;
        }
        drop(first);
        ends(&mut command(&alone.restore()), IN_FORCE)?;
        holds(&[(FIN_TIMEOUT, "60")])
    })
}

// ---- other lives ----

fn another_namespace(suite: &Suite) -> Outcome {
    with_a_tuning(suite, |alone| {
        ends(&mut command(&alone.apply()), IN_FORCE)?;
        NetNamespace::run_in_new(|| {
            set(FIN_TIMEOUT, "50")?;
            ends(&mut command(&alone.apply()), IN_FORCE)?;
            holds(&[(FIN_TIMEOUT, "30")])?;
            ends(&mut command(&alone.restore()), IN_FORCE)?;
            holds(&[(FIN_TIMEOUT, "50")])
        })??;
        holds(&[(FIN_TIMEOUT, "30")])
    })
}

fn another_boot(suite: &Suite) -> Outcome {
    with_a_tuning(suite, |alone| {
        ends(&mut command(&alone.apply()), IN_FORCE)?;
        // After a boot the kernel holds what its owner makes it hold then.
        set(FIN_TIMEOUT, "50")?;
        let boot = format!(
            "echo 11111111-2222-3333-4444-555555555555 >{0}/boot\nmount --bind {0}/boot /proc/sys/kernel/random/boot_id",
            alone.folder.display()
        );
        ends(&mut with_mounts(&boot, &alone.apply()), IN_FORCE)?;
        holds(&[(FIN_TIMEOUT, "30")])?;
        ends(&mut with_mounts(&boot, &alone.restore()), IN_FORCE)?;
        holds(&[(FIN_TIMEOUT, "50")])
    })
}

// ---- mounts that lead elsewhere ----

/// The agent runs in a namespace of its own, and what lies over its sysctls leads to this one, or to no kernel.
fn wrong_mounts(suite: &Suite) -> Outcome {
    with_a_tuning(suite, |alone| {
        let elsewhere = alone.folder.join("elsewhere").display().to_string();
        let a_tree = format!("mkdir -p {elsewhere}/ipv4\necho 60 >{elsewhere}/ipv4/tcp_fin_timeout");
        let ours = format!("{a_tree}\nmount --bind /proc/sys/net/ipv4 {elsewhere}/ipv4");
        let (folder, key) = ("/ipv4", "/ipv4/tcp_fin_timeout");
        let pinned = "which belongs to the network namespace of whoever mounted it";
        for (there, what, words) in [
            (&ours, folder, pinned),
            (&ours, key, pinned),
            (&a_tree, "", "/proc/sys/net is not a procfs"),
            (&a_tree, key, "/proc/sys/net/ipv4/tcp_fin_timeout is not a procfs"),
        ] {
            let over = format!("mount --bind {elsewhere}{what} /proc/sys/net{what}\nexec \"$@\"");
            let inside = ["unshare", "--net", "sh", "-ec", &over, "sh"].map(str::to_owned);
            let said = ends(&mut with_mounts(there, &[&inside[..], &alone.apply()].concat()), FAILED)?;
            says(&said, words)?;
            holds(&[(FIN_TIMEOUT, "60")])?;
        }
        Ok(())
    })
}

// ---- disks that take nothing ----

fn journal_faults(suite: &Suite) -> Outcome {
    with_a_tuning(suite, |alone| {
        let state = alone.state().display().to_string();
        let small = format!("mkdir -p {state}\nmount -t tmpfs -o size=4k none {state}");
        let cases = [
            (format!("{small}\nhead -c 4096 /dev/zero >{state}/full"), "No space left on device"),
            (format!("{small}\nmount -o remount,ro {state}"), "Read-only file system"),
            (format!("{small}\necho garbage >{state}/journal"), "the journal is damaged"),
            (format!("{small}\n: >{state}/journal"), "the journal is damaged"),
        ];
        for (fault, words) in cases {
            let said = ends(&mut with_mounts(&fault, &alone.apply()), FAILED)?;
            says(&said, words)?;
            holds(&[(FIN_TIMEOUT, "60")])?;
        }
        Ok(())
    })
}
