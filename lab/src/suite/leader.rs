//! Two operators, of which one leads.

use std::time::{Duration, Instant};

use super::{Failure, Outcome, Suite, Test, everywhere, orders::wait_until_all_hold_within};
use crate::{
    error::Result,
    install::NAMESPACE,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "a_leader_that_is_asked_to_end_hands_over_at_once", run: handed_over },
    Test { name: "a_standby_takes_over_from_a_leader_that_is_killed", run: taken_over },
];

const FIN_TIMEOUT: &str = "net.ipv4.tcp_fin_timeout";
/// The Deployment, and the lease that its replicas share.
const OPERATOR: &str = "tcp-close-tuning-operator";
/// A lease that was released is free at once; a standby looks every 2 s.
const HANDED_OVER: Duration = Duration::from_secs(15);
/// A lease that was not lasts 15 s.
const TAKEN_OVER: Duration = Duration::from_secs(60);
const SCALED: &str = "--timeout=90s";

fn handed_over(suite: &Suite) -> Outcome {
    with_a_standby(suite, || change_leader(suite, "--grace-period=30", HANDED_OVER))
}

fn taken_over(suite: &Suite) -> Outcome {
    with_a_standby(suite, || change_leader(suite, "--grace-period=0", TAKEN_OVER))
}

fn with_a_standby(suite: &Suite, work: impl FnOnce() -> Outcome) -> Outcome {
    scale(suite, 2)?;
    let outcome = work();
    scale(suite, 1)?;
    outcome
}

/// Ends the leader's pod, and waits until a change that is made then is in force: by the word of another leader.
fn change_leader(suite: &Suite, grace: &str, deadline: Duration) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.wait_until_applied("web")?;
    let leader = leader(suite)?;
    let force = if grace == "--grace-period=0" { "--force=true" } else { "--force=false" };
    suite.cluster.kubectl(&[
        "delete",
        "pod",
        &leader,
        "--namespace",
        NAMESPACE,
        "--wait=false",
        grace,
        force,
    ])?;
    let start = Instant::now();
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 20"]))?;
    poll_until("another operator leads", deadline, || {
        let now = self::leader(suite)?;
        Ok(Seen::when(now != leader && !now.is_empty(), || format!("{now:?} leads")))
    })?;
    wait_until_all_hold_within(suite, FIN_TIMEOUT, "20", deadline)?;
    println!("    the change is in force {:.1} s after the leader ended", start.elapsed().as_secs_f64());
    Ok(())
}

/// The name of the pod that holds the lease.
fn leader(suite: &Suite) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    suite.cluster.kubectl(&["get", "lease", OPERATOR, "--namespace", NAMESPACE, "--output", path])
}

fn scale(suite: &Suite, replicas: u8) -> Result<(), Failure> {
    let deployment = format!("deployment/{OPERATOR}");
    let replicas = format!("--replicas={replicas}");
    suite.cluster.kubectl(&["scale", &deployment, "--namespace", NAMESPACE, &replicas])?;
    suite.cluster.kubectl(&["rollout", "status", &deployment, "--namespace", NAMESPACE, SCALED])?;
    Ok(())
}
