//! Every situation that the conditions of a tuning can tell, reached here and kept in `crds/corpus/tunings`, one file each, for
//! whatever reads conditions. `UPDATE_CORPUS=1 cargo test -p operator corpus` writes the files anew.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, fs};

use crds::TcpCloseTuning;
use crds::tuning::{Gate, Rollout};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde_json::{Value, json};

use super::*;
use crate::switch::Switch;

/// A situation, what Ready, Reconciling and Stalled say in it, and a cluster that is in it.
type Row = (&'static str, &'static str, fn() -> Cluster);

const TABLE: &[Row] = &[
    ("progressing", "False Progressing Reconciling", || ordered_anew(&["n1", "n2"])),
    ("restoring", "False Progressing Reconciling", || {
        let mut cluster = settled(&["n1"]);
        web(&mut cluster, |tuning| tuning.with(|spec| spec.node_selector = selector("pool", "none")));
        cluster
    }),
    ("canary", "False Canary Reconciling", || begun(gated())),
    ("soaking", "False Soaking Reconciling", || soaking(gated())),
    ("rolling-out", "False RollingOut Reconciling", || begun(one_at_a_time())),
    ("refused", "False Refused Stalled", || reporting("Refused", "fin_timeout is 7; see the rule")),
    ("write-failed", "False WriteFailed Stalled", || reporting("Failed", "permission denied")),
    ("contended", "False Contended Stalled", || reporting("Contended", "left alone until 12:05")),
    ("drifted", "False Drifted Stalled", || reporting("Drifted", "another program set it to 60")),
    ("agent-missing", "False AgentMissing Stalled", || {
        let mut cluster = settled(&["n1", "n2"]);
        cluster.status("web");
        cluster.pass(300);
        cluster.agent_reports("n1", |_| {});
        cluster
    }),
    ("nodes-lost", "False NodesLost Stalled", || {
        let mut cluster = begun(one_at_a_time());
        let ordered = ordered(&cluster);
        cluster.node_is_down(&ordered);
        for node in NODES.iter().filter(|node| **node != ordered) {
            cluster.agent_reports(node, |_| {});
        }
        cluster
    }),
    ("applied-with-exceptions", "True AppliedWithExceptions", || {
        let mut cluster = reporting("Failed", "permission denied");
        web(&mut cluster, |tuning| tuning.with(|spec| spec.max_failed_nodes = Some(IntOrString::Int(1))));
        cluster
    }),
    ("applied", "True Applied", || settled(&["n1", "n2"])),
    ("applied-except-stale", "True AppliedExceptStale", || {
        let mut cluster = settled(&["n1", "n2"]);
        cluster.node_is_down("n2");
        cluster
    }),
    ("suspended", "False Suspended", || {
        let mut cluster = settled(&["n1"]);
        cluster.snapshot.switch = Switch::Hold;
        cluster
    }),
    ("no-reports", "Unknown NoReports Reconciling", || Cluster::new(&["n1"], vec![tuning("web", 30)])),
    ("no-matching-nodes", "True NoMatchingNodes", || {
        Cluster::settled(&["n1"], vec![tuning("web", 30).on("n2")])
    }),
    ("observed", "True Observed", || Cluster::settled(&["n1"], vec![tuning("web", 30).observing()])),
    ("conflict", "False Conflict Reconciling", two_at_odds),
    ("conflict-that-stays", "False Conflict Stalled", || {
        let mut cluster = two_at_odds();
        cluster.status("web");
        cluster.pass(15);
        cluster
    }),
    ("overridden", "True Overridden", || {
        Cluster::settled(&["n1"], vec![tuning("base", 20).priority(1), tuning("web", 30)])
    }),
    ("unsupported-on-some-nodes", "True Applied", || reporting("Unsupported", "since Linux 9")),
    ("unsupported", "False Unsupported Stalled", || {
        let mut cluster = settled(&["n1"]);
        cluster.agent_reports("n1", in_state("Unsupported", "since Linux 9"));
        cluster
    }),
    ("paused", "False Paused", || begun(Rollout { paused: Some(true), ..one_at_a_time() })),
    ("suspended", "False Suspended", || {
        let mut cluster = settled(&["n1"]);
        cluster.snapshot.switch = Switch::Hold;
        cluster
    }),
    ("gate-inconclusive", "False GateInconclusive Reconciling", || soaked(60)),
    ("gate-inconclusive-for-long", "False GateInconclusive Stalled", || soaked(660)),
    ("rolling-back", "False RollingBack Reconciling", failing),
    ("rolled-back", "False RolledBack Stalled", || {
        let mut cluster = failing();
        cluster.status("web");
        cluster.assign();
        cluster.agents_apply();
        cluster
    }),
    ("operator-error", "Unknown OperatorError Reconciling", || {
        let mut cluster = settled(&["n1"]);
        web(&mut cluster, Tuning::undecodable);
        cluster
    }),
    ("operator-error-of-a-watch", "Unknown OperatorError Reconciling", || {
        let mut cluster = settled(&["n1"]);
        cluster.failing = Some("nodes: nodes is forbidden".into());
        cluster
    }),
];

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

fn web(cluster: &mut Cluster, change: impl FnOnce(Tuning) -> Tuning) {
    cluster.edit_tuning("web", change);
}

/// Two nodes, the second of which reports this.
fn reporting(state: &str, message: &str) -> Cluster {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.agent_reports("n2", in_state(state, message));
    cluster
}

fn one_at_a_time() -> Rollout {
    Rollout { max_concurrent: Some(IntOrString::Int(1)), ..Rollout::default() }
}

fn gated() -> Rollout {
    Rollout { gate: Some(Gate::default()), ..one_at_a_time() }
}

/// A change has been ordered on the first of four nodes.
fn begun(rollout: Rollout) -> Cluster {
    let mut cluster = settled(&NODES);
    web(&mut cluster, |tuning| {
        tuning.with(|spec| {
            spec.sysctls.tcp_fin_timeout_seconds = Some(31);
            spec.rollout = Some(rollout);
        })
    });
    cluster.assign();
    cluster
}

/// The node that has been ordered the change.
fn ordered(cluster: &Cluster) -> String {
    let orders = cluster.snapshot.orders.iter();
    let mut changed = orders.filter(|(_, order)| order.0.as_ref().unwrap().spec.sysctls[0].value == Some(31));
    changed.next().unwrap().0.clone()
}

/// And has taken it.
fn soaking(rollout: Rollout) -> Cluster {
    let mut cluster = begun(rollout);
    cluster.agents_apply();
    cluster
}

/// And so many seconds have passed.
fn soaked(seconds: u64) -> Cluster {
    let mut cluster = soaking(gated());
    cluster.status("web");
    cluster.pass(seconds);
    cluster.agents_apply();
    cluster
}

/// And could not write it.
fn failing() -> Cluster {
    let mut cluster = soaking(gated());
    let canary = ordered(&cluster);
    cluster.agent_reports(&canary, in_state("Failed", "permission denied"));
    cluster
}

/// The tuning as the API server would show it.
fn shown(mut cluster: Cluster) -> Value {
    let status = cluster.status("web");
    let tuning = cluster.snapshot.tunings.iter().find(|tuning| tuning.name == "web").unwrap();
    let spec = tuning.spec.as_ref().map_or_else(|_| json!({ "mode": "Someday" }), |spec| json!(spec));
    json!({
        "apiVersion": TcpCloseTuning::api_version(&()),
        "kind": TcpCloseTuning::kind(&()),
        "metadata": { "name": tuning.name, "uid": tuning.uid, "generation": tuning.generation },
        "spec": spec,
        "status": status,
    })
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/corpus/tunings"))
}

#[test]
fn every_situation_has_its_conditions() {
    for (situation, verdict, reach) in TABLE {
        assert_eq!(reach().verdict("web"), *verdict, "{situation}");
    }
}

#[test]
fn the_corpus_holds_the_status_of_every_situation() {
    for (situation, _, reach) in TABLE {
        let path = folder().join(format!("{situation}.yaml"));
        let text = serde_yaml::to_string(&shown(reach())).unwrap();
        if env::var_os("UPDATE_CORPUS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "{} is not\n{text}", path.display());
    }
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: BTreeSet<_> = files.map(|name| name.into_string().unwrap()).collect();
    let known: BTreeSet<_> = TABLE.iter().map(|(situation, ..)| format!("{situation}.yaml")).collect();
    assert_eq!(kept, known);
}

#[test]
fn every_reason_is_in_the_table() {
    let seen: BTreeSet<_> = TABLE.iter().map(|(_, verdict, _)| verdict.split(' ').nth(1).unwrap()).collect();
    let all: BTreeSet<_> =
        super::super::condition::Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(seen, all);
}
