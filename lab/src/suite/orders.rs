//! From a tuning to a kernel to a status, and back.

use std::time::Duration;

use super::{
    FIN_TIMEOUT, Failure, Outcome, RETRIES, SOON, Suite, Test, condition, ensure, everywhere, sysctl,
    toll::{Toll, ends_as_without_fault},
    tuning,
};
use crate::report::{Seen, poll_until};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_tuning_reaches_every_kernel_and_becomes_ready", run: reaches_every_kernel },
    Test { name: "deleting_a_tuning_restores_every_node", run: deleting_restores },
    Test { name: "removal_policy_keep_leaves_the_values", run: keep_leaves },
    Test { name: "a_foreign_change_is_put_right_within_10_s", run: drift_is_corrected },
    Test { name: "a_tuning_that_observes_writes_nothing", run: observe_writes_nothing },
    Test { name: "enforce_changed_to_observe_holds_the_values_until_it_is_deleted", run: freeze },
    Test { name: "a_sysctl_that_a_node_lacks_is_unsupported_and_the_others_apply", run: unsupported },
    Test { name: "tw_recycle_is_refused_with_its_reason_and_nothing_is_written", run: tw_recycle },
    Test { name: "the_higher_priority_wins_and_the_loser_takes_over_without_the_baseline", run: priority },
    Test { name: "of_equal_priorities_the_older_wins_and_the_other_says_conflict", run: conflict },
    Test { name: "a_node_that_leaves_the_selector_is_restored", run: leaving },
];

pub(super) const LONG_TESTS: &[Test] =
    &[Test { name: "a_conflict_that_lasts_is_stalled", run: lasting_conflict }];

/// Of a change that comes and goes: orders, reports, heartbeats and statuses.
const MOST: usize = 60;

pub(super) fn all_hold(suite: &Suite, key: &str, value: &str) -> Outcome {
    let values = suite.values(key)?;
    ensure(values.iter().all(|live| live == value), || format!("{key} is {values:?}, not {value} everywhere"))
}

pub(crate) fn wait_until_all_hold(suite: &Suite, key: &str, value: &str) -> Result<Duration, Failure> {
    wait_until_all_hold_within(suite, key, value, SOON)
}

pub(super) fn wait_until_all_hold_within(
    suite: &Suite,
    key: &str,
    value: &str,
    deadline: Duration,
) -> Result<Duration, Failure> {
    let what = format!("{key} is {value} on every node");
    Ok(poll_until(&what, deadline, || {
        let values =
            suite.values(key).map_err(|Failure(why)| crate::Error::Unclear { what: key.into(), why })?;
        Ok(Seen::when(values.iter().all(|live| live == value), || format!("{values:?}")))
    })?)
}

fn reaches_every_kernel(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30", "tcpOrphanRetries: 5"]))?;
    suite.wait_until_applied("web")?;
    all_hold(suite, FIN_TIMEOUT, "30")?;
    all_hold(suite, RETRIES, "5")?;
    let object = suite.get("tcpclosetuning", "web")?;
    let summary = &object["status"]["nodes"]["summary"];
    let wanted = format!("{0}/{0}", suite.cluster.nodes().len());
    ensure(*summary == *wanted, || format!("the summary is {summary}"))?;
    for node in suite.cluster.nodes() {
        let reported = suite.get("tcpclosenode", &node.name)?;
        let status = sysctl(&reported, FIN_TIMEOUT).cloned().unwrap_or_default();
        let right = status["state"] == "Applied" && status["live"] == 30 && status["baseline"] == 60;
        ensure(right, || format!("{} reports {status}", node.name))?;
    }
    Ok(())
}

fn deleting_restores(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30", "tcpTwReuse: 1"]))?;
    suite.wait_until_applied("web")?;
    suite.cluster.kubectl(&["delete", "tcpclosetuning", "web", "--timeout=10s"])?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60")?;
    wait_until_all_hold(suite, "net.ipv4.tcp_tw_reuse", "2").map(drop)
}

fn keep_leaves(suite: &Suite) -> Outcome {
    let keep = everywhere(&["tcpFinTimeoutSeconds: 33"]) + "\n  removalPolicy: Keep";
    suite.tune("web", &keep)?;
    suite.wait_until_applied("web")?;
    suite.clear()?;
    all_hold(suite, FIN_TIMEOUT, "33")?;
    for node in suite.cluster.nodes() {
        node.write_sysctl(FIN_TIMEOUT, "60")?;
    }
    Ok(())
}

fn drift_is_corrected(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.wait_until_applied("web")?;
    let node = &suite.cluster.nodes()[0];
    node.write_sysctl(FIN_TIMEOUT, "45")?;
    let took = suite.wait_for_value(&node.name, FIN_TIMEOUT, "30")?;
    println!("    put right after {:.1} s", took.as_secs_f64());
    poll_until("the change is in the status", SOON, || {
        let reported = suite.get("tcpclosenode", &node.name)?;
        let status = sysctl(&reported, FIN_TIMEOUT).cloned().unwrap_or_default();
        Ok(Seen::when(status["drifts"] == 1 && status["baseline"] == 60, || status.to_string()))
    })?;
    Ok(())
}

fn observe_writes_nothing(suite: &Suite) -> Outcome {
    let spec = everywhere(&["tcpFinTimeoutSeconds: 30", "tcpTimestamps: 1"]).replace("Enforce", "Observe");
    suite.tune("trial", &spec)?;
    suite.wait_for_condition("trial", "Ready", ("True", "Observed"), SOON)?;
    all_hold(suite, FIN_TIMEOUT, "60")?;
    let object = suite.get("tcpclosetuning", "trial")?;
    let message = condition(&object, "Ready").map(|ready| ready["message"].to_string()).unwrap_or_default();
    ensure(message.contains("would change"), || {
        format!("the message does not say what would change: {message}")
    })?;
    let reported = suite.get("tcpclosenode", &suite.cluster.nodes()[0].name)?;
    let observed = reported["status"]["observe"][0]["sysctls"].to_string();
    ensure(observed.contains("WouldChange") && observed.contains("60 -> 30"), || observed.clone())
}

fn freeze(suite: &Suite) -> Outcome {
    let enforce = everywhere(&["tcpFinTimeoutSeconds: 30"]);
    suite.tune("web", &enforce)?;
    suite.wait_until_applied("web")?;
    suite.tune("web", &enforce.replace("Enforce", "Observe").replace("30", "20"))?;
    suite.wait_for_condition("web", "Ready", ("True", "Observed"), SOON)?;
    all_hold(suite, FIN_TIMEOUT, "30")?;
    let reported = suite.get("tcpclosenode", &suite.cluster.nodes()[0].name)?;
    let status = sysctl(&reported, FIN_TIMEOUT).cloned().unwrap_or_default();
    ensure(status["state"] == "Held", || format!("the node reports {status}"))?;
    suite.cluster.kubectl(&["delete", "tcpclosetuning", "web"])?;
    wait_until_all_hold(suite, FIN_TIMEOUT, "60").map(drop)
}

fn unsupported(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30", "tcpMaxOrphans: 100000"]))?;
    // On every node, so nothing that operator or agents do can make it Ready.
    suite.wait_for_condition("web", "Stalled", ("True", "Unsupported"), SOON)?;
    all_hold(suite, FIN_TIMEOUT, "30")?;
    let object = suite.get("tcpclosetuning", "web")?;
    let nodes = &object["status"]["nodes"];
    ensure(nodes["unsupported"] == suite.cluster.nodes().len(), || nodes.to_string())?;
    let reported = suite.get("tcpclosenode", &suite.cluster.nodes()[0].name)?;
    let status = sysctl(&reported, "net.ipv4.tcp_max_orphans").cloned().unwrap_or_default();
    let said =
        status["message"].as_str().is_some_and(|message| message.contains("first network namespace only"));
    ensure(status["state"] == "Unsupported" && said, || status.to_string())
}

fn tw_recycle(suite: &Suite) -> Outcome {
    let word = "\n  safety:\n    clientsBehindNat: Never";
    suite.tune("legacy", &(everywhere(&["tcpTwRecycle: 1", "tcpFinTimeoutSeconds: 30"]) + word))?;
    suite.wait_for_condition("legacy", "Ready", ("False", "Refused"), SOON)?;
    suite.wait_for_condition("legacy", "Stalled", ("True", "Refused"), SOON)?;
    all_hold(suite, FIN_TIMEOUT, "60")?;
    let object = suite.get("tcpclosetuning", "legacy")?;
    let refusal = &object["status"]["refusals"][0];
    let said =
        refusal["message"].as_str().is_some_and(|message| message.contains("was removed from Linux in 4.12"));
    ensure(refusal["rule"] == "tw-recycle-removed" && said, || refusal.to_string())?;
    ensure(refusal["nodes"] == suite.cluster.nodes().len(), || refusal.to_string())
}

fn priority(suite: &Suite) -> Outcome {
    let (base, toll) = (everywhere(&["tcpFinTimeoutSeconds: 40"]), Toll::begin(suite)?);
    suite.tune("base", &base)?;
    suite.wait_until_applied("base")?;
    suite.tune("special", &(everywhere(&["tcpFinTimeoutSeconds: 20"]) + "\n  priority: 10"))?;
    suite.wait_until_applied("special")?;
    all_hold(suite, FIN_TIMEOUT, "20")?;
    suite.wait_for_condition("base", "Ready", ("True", "Overridden"), SOON)?;
    suite.cluster.kubectl(&["delete", "tcpclosetuning", "special"])?;
    let mut seen = Vec::new();
    poll_until("the loser's value is in force", SOON, || {
        let live = suite.cluster.nodes()[0].read_sysctl(FIN_TIMEOUT)?;
        seen.push(live.clone());
        Ok(Seen::when(live == "40", || live))
    })?;
    ensure(!seen.iter().any(|live| live == "60"), || format!("it passed through the baseline: {seen:?}"))?;
    suite.wait_until_applied("base")?;
    // The loser's, the winner's, and the loser's again.
    toll.is(suite, |_| 3, MOST)?;
    ends_as_without_fault(suite, "base", &base)
}

fn conflict(suite: &Suite) -> Outcome {
    suite.tune("older", &everywhere(&["tcpFinTimeoutSeconds: 40"]))?;
    suite.wait_until_applied("older")?;
    // Creation times have whole seconds; of one second the name decides, and `older` comes first by name too.
    suite.tune("younger", &everywhere(&["tcpFinTimeoutSeconds: 20"]))?;
    suite.wait_for_condition("younger", "Ready", ("False", "Conflict"), SOON)?;
    suite.wait_for_condition("older", "Conflicted", ("True", "Conflict"), SOON)?;
    all_hold(suite, FIN_TIMEOUT, "40")?;
    let object = suite.get("tcpclosetuning", "younger")?;
    let message = condition(&object, "Ready").map(|ready| ready["message"].to_string()).unwrap_or_default();
    ensure(message.contains("older") && message.contains("tcp_fin_timeout"), || message.clone())
}

fn lasting_conflict(suite: &Suite) -> Outcome {
    conflict(suite)?;
    // It stays in conflict by itself, so after 15 s it is stalled.
    suite.wait_for_condition("younger", "Stalled", ("True", "Conflict"), Duration::from_secs(45)).map(drop)
}

fn leaving(suite: &Suite) -> Outcome {
    let node = suite.cluster.nodes()[0].name.clone();
    suite.cluster.kubectl(&["label", "node", &node, "pool=web", "--overwrite"])?;
    let spec = everywhere(&["tcpFinTimeoutSeconds: 30"]).replace("kubernetes.io/os: linux", "pool: web");
    let toll = Toll::begin(suite)?;
    suite.tune("web", &spec)?;
    suite.wait_until_applied("web")?;
    let values = suite.values(FIN_TIMEOUT)?;
    ensure(values[0] == "30" && values[1..].iter().all(|live| live == "60"), || format!("{values:?}"))?;
    suite.cluster.kubectl(&["label", "node", &node, "pool-"])?;
    suite.wait_for_value(&node, FIN_TIMEOUT, "60")?;
    suite.wait_for_condition("web", "Ready", ("True", "NoMatchingNodes"), SOON)?;
    toll.is(suite, |other| if other.name == node { 2 } else { 0 }, MOST)?;
    ends_as_without_fault(suite, "web", &spec)?;
    // The manifest helper writes what a person would: nothing of it may be refused.
    suite.cluster.apply(&tuning("web", &spec)).map(drop)?;
    Ok(())
}
