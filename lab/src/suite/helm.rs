//! A pipeline that waits: Helm and Flux go on when a tuning is in force, and stop with our own words when it is refused.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Deserializer, Value, json};

use super::{
    FIN_TIMEOUT, Failure, Outcome, Suite, Test, condition, ensure, everywhere, said_no,
    toll::{Toll, ends_as_without_fault},
    tuning,
};
use crate::{
    error::{Error, Result},
    install::{NAMESPACE, install},
    meanwhile::{Work, meanwhile},
    node::Node,
    process, programs,
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "helm_waits_until_a_tuning_is_in_force", run: good_release },
    Test { name: "helm_fails_with_our_words_when_a_tuning_is_refused", run: refused_release },
    Test { name: "a_misspelt_value_of_the_chart_is_refused_by_its_name", run: misspelt_value },
    Test { name: "without_countpods_the_agent_sees_nothing_of_pods", run: without_pods },
    Test { name: "the_charts_switches_make_what_they_name", run: switches },
];

/// They replace every pod, or wait for a tie that lasts.
pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "kstatus_judges_every_situation_as_flux_would", run: kstatus },
    Test { name: "helm_upgrade_keeps_tunings_and_values_in_force", run: upgrade },
];

/// How long helm may wait; a failure that is seen takes no third of it.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What an upgrade costs at most: a report and a heartbeat of each new agent, and statuses.
const MOST: usize = 40;
/// The release of a team that has tunings and nothing else.
const TUNINGS: &str = "tunings";

/// The values of the fixture chart: one tuning for every node.
fn values(name: &str, sysctls: &Value) -> String {
    let spec = json!({
        "nodeSelector": { "matchLabels": { "kubernetes.io/os": "linux" } },
        "mode": "Enforce",
        "sysctls": sysctls,
        "safety": { "clientsBehindNat": "Never" },
    });
    format!("tunings={}", json!({ name: spec }))
}

/// `helm install` or `upgrade` of the fixture chart, and how long helm waited.
fn release(suite: &Suite, verb: &str, values: &str) -> (Result<String>, Duration) {
    let chart = suite.cluster.checkout().root().join("lab/fixtures/tunings-chart").display().to_string();
    let timeout = format!("{}s", TIMEOUT.as_secs());
    let start = Instant::now();
    let arguments = [verb, TUNINGS, &chart, "--wait", "--timeout", &timeout, "--set-json", values];
    (suite.cluster.helm(&arguments), start.elapsed())
}

/// What the chart makes of some values.
pub(super) fn rendered(suite: &Suite, values: &[&str]) -> Result<String> {
    let chart = suite.cluster.checkout().root().join("charts/tcp-close-tuning").display().to_string();
    let set = values.iter().flat_map(|value| ["--set", value]);
    let template = ["template", &chart, "--namespace", NAMESPACE];
    suite.cluster.helm(&template.into_iter().chain(set).collect::<Vec<_>>())
}

/// Manifests as objects.
pub(super) fn objects(suite: &Suite, manifests: &str) -> Result<Vec<Value>> {
    let mut kubectl = suite.cluster.client("kubectl");
    kubectl.args(["create", "--dry-run=client", "--validate=false", "--output=json", "--filename", "-"]);
    let text = process::run_with_input(&mut kubectl, manifests.as_bytes())?;
    let objects = Deserializer::from_str(&text).into_iter::<Value>().collect::<Result<_, _>>();
    objects.map_err(|error| Error::Unclear {
        what: "kubectl create --output=json".into(),
        why: error.to_string(),
    })
}

/// The lines are there with these values, and not without them.
fn makes(suite: &Suite, values: &[&str], lines: &[&str]) -> Outcome {
    let (without, with) = (rendered(suite, &[])?, rendered(suite, values)?);
    let has = |text: &str, line: &str| text.lines().any(|seen| seen.trim() == line);
    for line in lines {
        ensure(has(&with, line), || format!("{values:?} does not make {line:?}"))?;
        ensure(!has(&without, line), || format!("{line:?} is there without {values:?}"))?;
    }
    Ok(())
}

fn without_pods(suite: &Suite) -> Outcome {
    let (with, without) = (rendered(suite, &[])?, rendered(suite, &["agent.countPods=false"])?);
    for seen in ["--count-pods", "path: /proc", "path: /var/log/containers", "mountPath: /host/proc"] {
        let is_there = |text: &str| text.lines().any(|line| line.trim().trim_start_matches("- ") == seen);
        ensure(is_there(&with), || format!("the agent counts pods without {seen:?}"))?;
        ensure(!is_there(&without), || format!("{seen:?} is there without countPods"))?;
    }
    Ok(())
}

fn switches(suite: &Suite) -> Outcome {
    makes(suite, &["metrics.podMonitor.enabled=true"], &["kind: PodMonitor"])?;
    makes(suite, &["agent.reportPeers=true"], &["- --report-peers"])?;
    makes(suite, &["agent.podsSeconds=1"], &["- \"1\""])?;
    let textfile = ["agent.textfile.enabled=true", "agent.textfile.directory=/srv/prom"];
    makes(suite, &textfile, &["- --textfile-directory", "path: /srv/prom", "mountPath: /host/textfile"])?;
    let service = rendered(suite, &["metrics.service.enabled=false"])?;
    ensure(!service.contains("kind: Service\n"), || {
        "there is a Service without metrics.service.enabled".into()
    })?;
    for (value, kind) in [
        ("admissionPolicy.enabled", "ValidatingAdmissionPolicy"),
        ("flowControl.enabled", "FlowSchema"),
        ("uninstall.restore", "Job"),
    ] {
        let line = format!("kind: {kind}\n");
        ensure(rendered(suite, &[])?.contains(&line), || format!("there is no {kind}"))?;
        let without = rendered(suite, &[&format!("{value}=false")])?;
        ensure(!without.contains(&line), || format!("there is a {kind} without {value}"))?;
    }
    Ok(())
}

fn misspelt_value(suite: &Suite) -> Outcome {
    match rendered(suite, &["agent.tolerationz=1"]) {
        Err(Error::Failed { output, .. }) => {
            ensure(output.contains("'tolerationz' not allowed"), || output.clone())
        }
        Err(other) => Err(other.into()),
        Ok(_) => Err(Failure("it was accepted".into())),
    }
}

/// The next test installs it anew, however this one ends.
fn without_release(suite: &Suite, outcome: Outcome) -> Outcome {
    let removed = suite.cluster.helm(&["uninstall", TUNINGS, "--ignore-not-found", "--wait"]);
    outcome.and(removed.map(drop).map_err(Failure::from))
}

fn all_hold(suite: &Suite, value: &str) -> Outcome {
    let values = suite.values(FIN_TIMEOUT)?;
    ensure(values.iter().all(|live| live == value), || format!("the kernels hold {values:?}, not {value}"))
}

fn good_release(suite: &Suite) -> Outcome {
    let steps = || {
        for (verb, seconds) in [("install", 30), ("upgrade", 25)] {
            let (result, took) =
                release(suite, verb, &values("web", &json!({ "tcpFinTimeoutSeconds": seconds })));
            result?;
            println!("    helm {verb} --wait returned after {:.1} s", took.as_secs_f64());
            // At once: waiting was helm's part.
            all_hold(suite, &seconds.to_string())?;
        }
        is_judged(suite, "web", ("Ready", "True", "Applied"), "Current")
    };
    without_release(suite, steps())
}

fn refused_release(suite: &Suite) -> Outcome {
    let steps = || {
        let sysctls = json!({ "tcpTwRecycle": 1, "tcpFinTimeoutSeconds": 30 });
        let (result, took) = release(suite, "install", &values("legacy", &sysctls));
        let said = said_no(result)?;
        println!("    helm install --wait failed after {:.1} s: {said}", took.as_secs_f64());
        for words in [
            "TcpCloseTuning//legacy not ready. status: Failed",
            "net.ipv4.tcp_tw_recycle was removed from Linux in 4.12",
            "remove it from the tuning",
        ] {
            ensure(said.contains(words), || format!("helm did not say {words:?}: {said}"))?;
        }
        ensure(took < TIMEOUT / 3, || format!("helm took {:.1} s", took.as_secs_f64()))?;
        is_judged(suite, "legacy", ("Ready", "False", "Refused"), "Failed")?;
        all_hold(suite, "60")
    };
    without_release(suite, steps())
}

/// Waits for a condition, and finds that kstatus judges the object so, in our own words where it has failed.
fn is_judged(suite: &Suite, name: &str, expected: (&str, &str, &str), judgement: &str) -> Outcome {
    let (kind, status, reason) = expected;
    suite.wait_for_condition(name, kind, (status, reason), Duration::from_secs(45))?;
    let object = suite.get("tcpclosetuning", name)?;
    let (judged, words) = suite.cluster.kstatus(&object.to_string())?;
    println!("    {reason}: {judged} ({words})");
    ensure(judged == judgement, || {
        format!("{reason} is judged {judged} ({words}), not {judgement}: {}", object["status"])
    })?;
    let message = condition(&object, "Ready").and_then(|ready| ready["message"].as_str()).unwrap_or_default();
    ensure(judged != "Failed" || words == message, || format!("kstatus says {words}, we say {message}"))
}

fn kstatus(suite: &Suite) -> Outcome {
    nobody_has_looked(suite)?;
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    is_judged(suite, "web", ("Ready", "True", "Applied"), "Current")?;
    progressing(suite)?;

    // Its 15 s run while the others are judged.
    suite.tune("younger", &everywhere(&["tcpFinTimeoutSeconds: 20"]))?;
    is_judged(suite, "younger", ("Ready", "False", "Conflict"), "InProgress")?;
    is_judged(suite, "web", ("Conflicted", "True", "Conflict"), "Current")?;

    let nowhere =
        everywhere(&["tcpFinTimeoutSeconds: 20"]).replace("kubernetes.io/os: linux", "pool: nowhere");
    suite.tune("nowhere", &nowhere)?;
    is_judged(suite, "nowhere", ("Ready", "True", "NoMatchingNodes"), "Current")?;
    suite.tune("trial", &everywhere(&["tcpFinTimeoutSeconds: 20"]).replace("Enforce", "Observe"))?;
    is_judged(suite, "trial", ("Ready", "True", "Observed"), "Current")?;
    suite.tune("weak", &(everywhere(&["tcpFinTimeoutSeconds: 50"]) + "\n  priority: -10"))?;
    is_judged(suite, "weak", ("Ready", "True", "Overridden"), "Current")?;
    let word = "\n  safety:\n    clientsBehindNat: Never";
    suite.tune("legacy", &(everywhere(&["tcpTwRecycle: 1"]) + word))?;
    is_judged(suite, "legacy", ("Stalled", "True", "Refused"), "Failed")?;
    suite.tune("machine", &everywhere(&["tcpMaxOrphans: 100000"]))?;
    is_judged(suite, "machine", ("Stalled", "True", "Unsupported"), "Failed")?;

    is_judged(suite, "younger", ("Stalled", "True", "Conflict"), "Failed")
}

/// What a client gets back before the operator has seen the object: never taken for ready.
fn nobody_has_looked(suite: &Suite) -> Outcome {
    let options = ["--dry-run=server", "--output", "json"];
    let fresh = suite.cluster.apply_with(&options, &tuning("fresh", &everywhere(&["tcpTwReuse: 1"])))?;
    let (judged, words) = suite.cluster.kstatus(&fresh)?;
    println!("    nobody has looked: {judged} ({words})");
    ensure(judged == "InProgress" && words.contains("-1"), || format!("{judged} ({words}): {fresh}"))
}

/// An agent that stands still acknowledges nothing.
fn progressing(suite: &Suite) -> Outcome {
    let agents = suite.cluster.nodes()[0].processes(programs::AGENT)?;
    let signal = |signal| agents.iter().try_for_each(|agent| agent.signal(signal));
    signal(Signal::STOP)?;
    let judged = suite
        .tune("web", &everywhere(&["tcpFinTimeoutSeconds: 31"]))
        .and_then(|()| is_judged(suite, "web", ("Ready", "False", "Progressing"), "InProgress"));
    signal(Signal::CONT)?;
    judged?;
    is_judged(suite, "web", ("Ready", "True", "Applied"), "Current")
}

/// What the nodes' kernels held while something went on, node by node.
pub(super) fn held_during(suite: &Suite, act: impl FnOnce() -> Outcome) -> Result<BTreeSet<String>, Failure> {
    let look = |work: &Work| {
        let mut seen = BTreeSet::new();
        while work.goes_on() {
            let live: Result<Vec<_>> =
                suite.cluster.nodes().iter().map(|node: &Node| node.read_sysctl(FIN_TIMEOUT)).collect();
            seen.extend(live?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok::<_, Error>(seen)
    };
    let (seen, acted) = meanwhile(look, act);
    acted?;
    Ok(seen?)
}

/// What must survive: which object it is, and what it asks for.
pub(super) fn identity(suite: &Suite) -> Result<Value, Failure> {
    let object = suite.get("tcpclosetuning", "web")?;
    Ok(json!([object["metadata"]["uid"], object["metadata"]["generation"], object["spec"]]))
}

fn upgrade(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.wait_until_applied("web")?;
    let before = identity(suite)?;
    let toll = Toll::begin(suite)?;
    let annotations = ["agent", "operator"].map(|part| format!("{part}.podAnnotations.lab=upgraded"));
    let more = ["--set", &annotations.join(",")];
    let held = held_during(suite, || Ok(install(&suite.cluster, &suite.images, &more)?))?;
    ensure(held == BTreeSet::from(["30".to_owned()]), || format!("meanwhile the kernels held {held:?}"))?;
    ensure(identity(suite)? == before, || format!("before the upgrade: {before}"))?;
    suite.wait_until_applied("web")?;
    // What an old agent might have written, its log has taken with it; what the kernels held is known.
    toll.is(suite, |_| 0, MOST)?;
    // The new programs follow.
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 25"]))?;
    suite.wait_until_applied("web")?;
    all_hold(suite, "25")?;
    ends_as_without_fault(suite, "web", &everywhere(&["tcpFinTimeoutSeconds: 25"]))
}
