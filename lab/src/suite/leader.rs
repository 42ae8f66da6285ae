//! Two operators, of which one leads.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{FIN_TIMEOUT, Failure, Outcome, Suite, Test, everywhere, orders::wait_until_all_hold_within};
use crate::{
    error::Result,
    install::NAMESPACE,
    process::Process,
    programs,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "a_leader_that_is_asked_to_end_hands_over_at_once", run: handed_over },
    Test { name: "a_standby_takes_over_from_a_leader_that_is_killed", run: taken_over },
];

/// The Deployment, and the lease that its replicas share.
const DEPLOYMENT: &str = "tcp-close-tuning-operator";
/// A lease that was released is free at once; a standby looks every 2 s.
const HANDED_OVER: Duration = Duration::from_secs(15);
/// A lease that was not lasts 15 s.
const TAKEN_OVER: Duration = Duration::from_secs(60);
/// Each pod's name, and when it was told to end.
const STAYING: &str =
    r#"jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{"\n"}{end}"#;
const SCALED: &str = "--timeout=90s";

fn handed_over(suite: &Suite) -> Outcome {
    with_a_standby(suite, || {
        change_leader(suite, HANDED_OVER, |leader, change| {
            suite.cluster.kubectl(&["delete", "pod", leader, "--namespace", NAMESPACE, "--wait=false"])?;
            change()
        })
    })
}

/// Its kubelet is frozen meanwhile: started anew under its old name it would find the lease its own.
fn taken_over(suite: &Suite) -> Outcome {
    with_a_standby(suite, || {
        change_leader(suite, TAKEN_OVER, |leader, change| {
            let (kubelet, operator) = process_of(suite, leader)?;
            kubelet.signal(Signal::STOP)?;
            let outcome = operator.kill().map_err(Failure::from).and_then(|()| change());
            kubelet.signal(Signal::CONT)?;
            outcome
        })
    })
}

pub(super) fn with_a_standby(suite: &Suite, work: impl FnOnce() -> Outcome) -> Outcome {
    scale(suite, 2)?;
    let outcome = work();
    scale(suite, 1)?;
    outcome
}

/// Ends the leader in some way, and waits until a change that is made then is in force: by the word of another leader.
fn change_leader(
    suite: &Suite,
    deadline: Duration,
    end: impl FnOnce(&str, &dyn Fn() -> Outcome) -> Outcome,
) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.wait_until_applied("web")?;
    let leader = settled_leader(suite)?;
    let start = Instant::now();
    end(&leader, &|| {
        suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 20"]))?;
        poll_until("another operator leads", deadline, || {
            let now = self::leader(suite)?;
            Ok(Seen::when(now != leader && !now.is_empty(), || format!("{now:?} leads")))
        })?;
        wait_until_all_hold_within(suite, FIN_TIMEOUT, "20", deadline).map(drop)
    })?;
    println!("    the change was in force {:.1} s after the leader ended", start.elapsed().as_secs_f64());
    Ok(())
}

/// The kubelet that looks after a pod of the operator, and the operator's process.
fn process_of(suite: &Suite, pod: &str) -> Result<(Process, Process), Failure> {
    let name = format!("POD_NAME={pod}");
    for node in suite.cluster.nodes() {
        for operator in node.processes(programs::OPERATOR)? {
            let environment = std::fs::read(format!("/proc/{}/environ", operator.pid)).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == name.as_bytes()) {
                let kubelet = node.processes("kubelet")?.first().copied();
                let missing = || Failure(format!("no kubelet runs on {}", node.name));
                return Ok((kubelet.ok_or_else(missing)?, operator));
            }
        }
    }
    Err(Failure(format!("no process belongs to the pod {pod}")))
}

/// The leader, once it is one of the pods that stay: one that a scaling ends may hold the lease for a moment still.
fn settled_leader(suite: &Suite) -> Result<String> {
    let mut leader = String::new();
    poll_until("a pod that stays leads", HANDED_OVER, || {
        leader = self::leader(suite)?;
        let pods = suite.cluster.kubectl(&["get", "pods", "--namespace", NAMESPACE, "--output", STAYING])?;
        let stays = pods.lines().any(|line| line.strip_suffix(' ') == Some(leader.as_str()));
        Ok(Seen::when(stays, || format!("{leader:?} leads, and the pods are {pods:?}")))
    })?;
    Ok(leader)
}

/// The name of the pod that holds the lease.
pub(super) fn leader(suite: &Suite) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    suite.cluster.kubectl(&["get", "lease", DEPLOYMENT, "--namespace", NAMESPACE, "--output", path])
}

pub(super) fn scale(suite: &Suite, replicas: u8) -> Result<(), Failure> {
    let deployment = format!("deployment/{DEPLOYMENT}");
    let replicas = format!("--replicas={replicas}");
    suite.cluster.kubectl(&["scale", &deployment, "--namespace", NAMESPACE, &replicas])?;
    suite.cluster.kubectl(&["rollout", "status", &deployment, "--namespace", NAMESPACE, SCALED])?;
    Ok(())
}
