//! `helm uninstall` while tunings are in force: every node is put back, or named; whoever is dead by then hangs nothing.

use std::time::{Duration, Instant};

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, ensure, everywhere,
    faults::{operator, plain_node},
    helm::{held_during, identity},
    orders::{all_hold, wait_until_all_hold},
    partition::{Frozen, turn_not_ready},
    privilege::agent,
    toll::{self, Toll, ends_as_without_fault},
};
use crate::{
    error::Result,
    install::{NAMESPACE, RELEASE, install_or_upgrade},
    process, programs,
    report::{Seen, poll_until, say},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "helm_uninstall_puts_every_node_back_and_keeps_crds_and_tunings", run: everything_alive },
    Test { name: "helm_uninstall_right_after_a_tuning_was_deleted_waits_for_the_nodes", run: just_deleted },
    Test { name: "helm_uninstall_without_an_operator_names_the_nodes_and_goes_on", run: no_operator },
    Test {
        name: "helm_uninstall_with_a_dead_node_and_an_agent_that_is_silent_names_both_and_goes_on",
        run: dead_and_silent,
    },
    Test { name: "helm_uninstall_after_the_definitions_are_gone_goes_on", run: no_definitions },
];

const SYSCTLS: &[&str] = &["tcpFinTimeoutSeconds: 30"];
/// An order to put back for each node, its answer, statuses, and what the next install writes until it is seen.
const MOST: usize = 40;
/// Nobody is waited for longer by a test; the chart's default is two minutes.
const PATIENCE: &str = "uninstall.timeoutSeconds=10";
/// With pulling, scheduling and deleting around it.
const BOUNDED: Duration = Duration::from_secs(90);

fn in_force(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(SYSCTLS))?;
    suite.wait_until_applied("web").map(drop)
}

/// Installs the chart with little patience, lets an act precede `helm uninstall`, drops what that returned when helm has
/// ended, and installs the chart again for the next test. Returns what helm printed.
fn uninstalled_after<T>(suite: &Suite, act: impl FnOnce() -> Result<T, Failure>) -> Result<String, Failure> {
    install_or_upgrade(&suite.cluster, &suite.images, &["--set", PATIENCE])?;
    in_force(suite)?;
    let (mut said, toll) = (String::new(), Toll::begin(suite)?);
    let held = held_during(suite, || {
        let acted = act()?;
        said = uninstall(suite)?;
        drop(acted);
        nothing_is_left(suite)
    });
    // The logs of the agents have gone with them: what a kernel held shows what it was written.
    let requests = toll.requests(suite);
    install_or_upgrade(&suite.cluster, &suite.images, &[])?;
    let (held, requests) = (held?, requests?);
    println!("    the kernels held {held:?}");
    ensure(held.iter().all(|live| live == "30" || live == "60"), || format!("the kernels held {held:?}"))?;
    toll::are_at_most(&requests, MOST)?;
    Ok(said)
}

fn uninstall(suite: &Suite) -> Result<String, Failure> {
    let start = Instant::now();
    let mut helm = suite.cluster.client("helm");
    helm.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]);
    let output = process::output(&mut helm)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let took = start.elapsed();
    say(format!("helm uninstall --wait: {:.1} s\n{said}", took.as_secs_f64()));
    ensure(output.status.success() && took < BOUNDED, || {
        format!("{} after {took:?}: {said}", output.status)
    })?;
    Ok(said)
}

fn nothing_is_left(suite: &Suite) -> Outcome {
    poll_until("no agent and no operator runs", SOON, || {
        let mut running = Vec::new();
        for node in suite.cluster.nodes() {
            running.extend(node.processes(programs::AGENT)?);
            running.extend(node.processes(programs::OPERATOR)?);
        }
        Ok(Seen::when(running.is_empty(), || format!("{running:?}")))
    })?;
    let kinds = "clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,configmaps,jobs,flowschemas,\
                 prioritylevelconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let selector = format!("--selector=app.kubernetes.io/name={RELEASE}");
    let get = ["get", kinds, &selector, "--namespace", NAMESPACE, "--output", "name"];
    poll_until("nothing of the chart is left", SOON, || {
        let left = suite.cluster.kubectl(&get)?;
        Ok(Seen::when(left.is_empty(), || left))
    })?;
    Ok(())
}

fn says(said: &str, words: &str) -> Outcome {
    ensure(said.contains(words), || format!("helm did not say {words:?}: {said}"))
}

fn everything_alive(suite: &Suite) -> Outcome {
    let mut before = None;
    let said = uninstalled_after(suite, || {
        before = Some(identity(suite)?);
        Ok(())
    });
    // A tuning that was kept is in force again after the next install, with the baseline of before.
    let kept = identity(suite)?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "30")?;
    says(
        &said?,
        &format!("put back on every node that held a value of a tuning: {}", suite.cluster.nodes().len()),
    )?;
    ensure(before.as_ref() == Some(&kept), || format!("it was {before:?} and is {kept}"))?;
    ends_as_without_fault(suite, "web", &everywhere(SYSCTLS))?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

fn just_deleted(suite: &Suite) -> Outcome {
    uninstalled_after(suite, || {
        suite.cluster.kubectl(&["delete", "tcpclosetunings", "--all", "--wait=false"])?;
        Ok(())
    })?;
    all_hold(suite, FIN_TIMEOUT, "60")
}

fn no_operator(suite: &Suite) -> Outcome {
    let said = uninstalled_after(suite, || {
        let deployment = format!("deployment/{RELEASE}-operator");
        suite.cluster.kubectl(&["scale", &deployment, "--namespace", NAMESPACE, "--replicas=0"])?;
        poll_until("no operator runs", SOON, || {
            let mut running = Vec::new();
            for node in suite.cluster.nodes() {
                running.extend(node.processes(programs::OPERATOR)?);
            }
            Ok(Seen::when(running.is_empty(), || format!("{running:?}")))
        })?;
        Ok(())
    })?;
    for node in suite.cluster.nodes() {
        says(&said, &format!("{}: {FIN_TIMEOUT}: the operator has not taken the order back", node.name))?;
    }
    suite.wait_until_applied("web")?;
    ends_as_without_fault(suite, "web", &everywhere(SYSCTLS))?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

/// One agent stands still until its pod is killed with the rest; on another node nothing moves any more, and helm waits for
/// nobody there.
fn dead_and_silent(suite: &Suite) -> Outcome {
    let silent = plain_node(suite)?;
    let (busy, _) = operator(suite)?;
    let mut others = suite.cluster.nodes().iter();
    let dead = others.find(|node| ![&busy.name, &silent.name].contains(&&node.name));
    let dead = dead.ok_or_else(|| Failure("every node is spoken for".into()))?;
    let mut frozen = None;
    let said = uninstalled_after(suite, || {
        frozen = Some(Frozen::new(agent(silent)?)?);
        Ok([Frozen::new(agent(dead)?)?, turn_not_ready(suite, dead)?])
    })?;
    drop(frozen);
    for (node, why) in [(silent, "its agent has not answered"), (dead, "its Node is not Ready")] {
        says(&said, &format!("{}: {FIN_TIMEOUT}: {why}", node.name))?;
    }
    let named = said.matches(FIN_TIMEOUT).count();
    ensure(named == 2, || format!("{named} nodes are named: {said}"))?;
    suite.wait_until_applied("web")?;
    ends_as_without_fault(suite, "web", &everywhere(SYSCTLS))?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

fn no_definitions(suite: &Suite) -> Outcome {
    let said = uninstalled_after(suite, || {
        let crds = ["tcpclosetunings.tcpclose.dev", "tcpclosenodes.tcpclose.dev"];
        suite.cluster.kubectl(&[&["delete", "crd", "--timeout=30s"], &crds[..]].concat())?;
        Ok(())
    })?;
    says(&said, "not defined in this cluster any longer")?;
    // Nobody has ordered them back. The journals still know what was there before.
    all_hold(suite, FIN_TIMEOUT, "30")?;
    in_force(suite)?;
    suite.clear()?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}
