//! Every count in a status is what `ss` and `/proc` say in that node's namespace, for mixes made on purpose.

use std::time::Duration;

use serde_json::Value;
use tcp_close::sockets::SocketCounts;

use super::{Failure, Outcome, Suite, Test};
use crate::{
    node::Node,
    report::{Seen, poll_until},
    sockets::{listed, machine_orphans},
    traffic,
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "counts_are_exact_for_time_wait", run: time_wait },
    Test { name: "counts_are_exact_for_fin_wait1_zero_windows_and_the_machines_orphans", run: fin_wait1 },
    Test {
        name: "counts_are_exact_for_fin_wait2_with_and_without_an_owner_and_for_unaccepted",
        run: fin_wait2,
    },
    Test { name: "counts_are_exact_for_last_ack_and_closing", run: last_ack },
];

/// Where a dump is dear the table is read every 120 s, and the last few sockets that an earlier test left in TIME_WAIT are no
/// material difference: they are reported when the interval of 20 s is over.
const DEADLINE: Duration = Duration::from_secs(150);
/// TIME_WAIT lasts 60 s, FIN_WAIT2 without an owner too: what has not been reported by then is made anew.
const SEEN_IN_TIME: Duration = Duration::from_secs(50);
const TRIES: usize = 3;

/// The counts of a status, under the names of a witness.
fn reported(status: &Value) -> Option<(SocketCounts, u64)> {
    let sockets = &status["status"]["sockets"];
    Some((states(sockets)?, sockets["machineOrphans"].as_u64()?))
}

/// Counts by state, under the names of a witness.
pub(super) fn states(sockets: &Value) -> Option<SocketCounts> {
    let count = |name: &str| sockets[name].as_u64();
    Some(SocketCounts {
        time_wait: count("timeWait")?,
        fin_wait1: count("finWait1")?,
        fin_wait2: count("finWait2")?,
        closing: count("closing")?,
        close_wait: count("closeWait")?,
        last_ack: count("lastAck")?,
        orphans: count("orphans")?,
        zero_window_orphans: count("zeroWindowOrphans")?,
        fin_wait2_held: count("finWait2Held")?,
        unaccepted: count("unaccepted")?,
    })
}

/// Waits until a node reports exactly what the witnesses see before and after the report is read, and what the test made
/// is in it.
fn is_exact(suite: &Suite, node: &Node, made: impl Fn(&SocketCounts) -> bool) -> Outcome {
    is_exact_within(DEADLINE, suite, node, made)
}

fn is_exact_within(
    deadline: Duration,
    suite: &Suite,
    node: &Node,
    made: impl Fn(&SocketCounts) -> bool,
) -> Outcome {
    let what = format!("{} reports what ss and sockstat say", node.name);
    let took = poll_until(&what, deadline, || {
        let before = (listed(node)?, machine_orphans(node)?);
        let status = reported(&suite.get("tcpclosenode", &node.name)?);
        let after = (listed(node)?, machine_orphans(node)?);
        let holds = before == after && status == Some(before) && made(&before.0);
        Ok(Seen::when(holds, || format!("reported {status:?}, before {before:?}, after {after:?}")))
    })?;
    println!("    {}: exact after {:.1} s", node.name, took.as_secs_f64());
    Ok(())
}

fn pair(suite: &Suite) -> Result<(&Node, &Node), Failure> {
    match suite.cluster.nodes() {
        [client, server, ..] => Ok((client, server)),
        _ => Err(Failure("the lab has fewer than two nodes".into())),
    }
}

/// The same of sockets that end by themselves; returns what keeps the last ones.
fn is_exact_in_time<T>(
    suite: &Suite,
    node: &Node,
    make: impl Fn() -> Result<T, Failure>,
    is_made: impl Fn(&SocketCounts) -> bool,
) -> Result<T, Failure> {
    let mut tries = 1..=TRIES;
    loop {
        let kept = make()?;
        let outcome = is_exact_within(SEEN_IN_TIME, suite, node, &is_made);
        if outcome.is_ok() || tries.next() == Some(TRIES) {
            return outcome.map(|()| kept);
        }
    }
}

fn time_wait(suite: &Suite) -> Outcome {
    let (client, server) = pair(suite)?;
    let make = || Ok(traffic::time_wait(client, server, 3000)?);
    is_exact_in_time(suite, client, make, |seen| seen.time_wait >= 3000)
}

fn fin_wait1(suite: &Suite) -> Outcome {
    let (client, server) = pair(suite)?;
    let _held = traffic::fin_wait1_orphans(client, server, 150)?
        .and(traffic::zero_window_orphans(client, server, 20)?);
    is_exact(suite, client, |seen| {
        (seen.fin_wait1, seen.orphans, seen.zero_window_orphans) == (170, 170, 20)
    })?;
    // The machine has one counter; the other node shows it too, and none of its own.
    is_exact(suite, server, |seen| seen.orphans == 0)
}

fn fin_wait2(suite: &Suite) -> Outcome {
    let (client, server) = pair(suite)?;
    let make = || {
        let unowned = traffic::fin_wait2_orphans(client, server, 120)?;
        let held = unowned.and(traffic::fin_wait2_held(client, server, 30)?);
        Ok(held.and(traffic::never_accepted(client, server, 110)?))
    };
    let is_made = |seen: &SocketCounts| (seen.fin_wait2, seen.fin_wait2_held, seen.orphans) == (260, 30, 0);
    let _held = is_exact_in_time(suite, client, make, is_made)?;
    is_exact(suite, server, |seen| (seen.close_wait, seen.unaccepted, seen.orphans) == (260, 110, 0))
}

fn last_ack(suite: &Suite) -> Outcome {
    let (client, server) = pair(suite)?;
    let _held = traffic::last_ack(client, server, 120)?.and(traffic::closing(client, server, 40)?);
    is_exact(suite, server, |seen| (seen.last_ack, seen.closing, seen.orphans) == (120, 40, 160))?;
    is_exact(suite, client, |seen| (seen.fin_wait2_held, seen.fin_wait1, seen.orphans) == (120, 40, 0))
}
