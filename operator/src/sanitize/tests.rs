use crds::TcpCloseTuningStatus;
use crds::node::{ObservedStatus, PodCounts, SysctlStatus};
use crds::tuning::Sysctls;

use kube::core::ObjectList;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{Cluster, FIN, in_state, tuning};
use crate::snapshot::OrderObject;

/// Clears a terminal, moves the cursor, ends a line, turns text around.
const HOSTILE: &str = "\u{1b}[2J\u{1b}[1;31mall is well\r\nnode-2 Applied\u{202e}\u{0}\u{1f480}";

/// Every text and every number is as bad as it can be, and every list as long.
fn hostile(report: &mut TcpCloseNodeStatus) {
    let long = HOSTILE.repeat(2_000);
    let rows = report.sysctls.clone();
    for row in &mut report.sysctls {
        row.state = "Refused".into();
        (row.rule, row.message) = (Some(format!("{}{long}", row.name)), Some(long.clone()));
    }
    report.sysctls.extend((0..10_000).flat_map(|_| rows.clone()));
    report.rates = Some(Rates { seconds: 60, overflows: Some(u64::MAX), ..Rates::default() });
    if let Some(rates) = &mut report.rates {
        let kinds = [&mut rates.aborts_on_memory, &mut rates.aborts_on_close, &mut rates.aborts_on_data];
        for kind in kinds {
            *kind = Some(u64::MAX);
        }
    }
    let every = u64::MAX;
    let states = States { time_wait: every, orphans: every, close_wait: every, ..States::default() };
    report.sockets = Some(Sockets { states: states.clone(), ..Sockets::default() });
    let pod = PodCounts { namespace: Some(long.clone()), name: Some(long), ..PodCounts::default() };
    let pod = PodCounts { states: Some(states), ..pod };
    report.pods = Some(Pods { most: vec![pod; 100], ..Pods::default() });
    status(report);
}

/// Every sysctl, so that as many rules can be broken as there are.
fn everything() -> Sysctls {
    Sysctls {
        tcp_orphan_retries: Some(5),
        tcp_max_orphans: Some(100_000),
        tcp_fin_timeout_seconds: Some(30),
        tcp_max_tw_buckets: Some(100_000),
        tcp_tw_reuse: Some(1),
        tcp_tw_reuse_delay_milliseconds: Some(1_000),
        tcp_timestamps: Some(1),
        tcp_tw_recycle: Some(0),
    }
}

fn text_of(status: &TcpCloseTuningStatus) -> String {
    serde_json::to_string(status).unwrap()
}

#[test]
fn printable_text_stays_and_all_else_is_shown_by_its_number() {
    assert_eq!(text("fin_timeout = 30 (\"web\")", 512), "fin_timeout = 30 (\"web\")");
    assert_eq!(text("\u{1b}[31mred\n\u{202e}é", 512), "\\u{1b}[31mred\\u{a}\\u{202e}\\u{e9}");
}

#[test]
fn a_text_is_cut_to_what_the_schema_holds_and_shows_it() {
    assert_eq!(text("12345", 5), "12345");
    assert_eq!(text("123456", 5), "1234…");
    // What is escaped takes more room than what it stands for.
    assert_eq!(text("\n\n\n", 6), "\\u{a}…");
    assert_eq!(text(&HOSTILE.repeat(20_000), TEXT_MAX).chars().count(), TEXT_MAX);
}

#[test]
fn a_node_that_lies_gets_one_place_and_leaves_the_others_theirs() {
    let names: Vec<_> = (1..=20).map(|n| format!("n{n:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let tuned = tuning("web", 30).with(|spec| spec.sysctls = everything());
    let mut cluster = Cluster::settled(&names, vec![tuned]);
    cluster.agent_reports("n01", hostile);
    cluster.agent_reports("n02", in_state("Failed", "Input/output error"));
    let status = cluster.status("web");

    let nodes = status.nodes.as_ref().unwrap();
    assert_eq!((nodes.updated, nodes.refused, nodes.failed), (18, 1, 1));
    let worst: Vec<_> = status.worst.iter().map(|worst| worst.name.as_str()).collect();
    assert_eq!((worst[0], worst[1], worst.len()), ("n02", "n01", 10));
    assert_eq!(status.worst[0].message, "Input/output error");
    let text = text_of(&status);
    assert!(text.chars().all(|letter| letter == '…' || (' '..='~').contains(&letter)), "{text}");
    assert!(text.len() <= 8 * 1024, "{} bytes", text.len());
}

#[test]
fn numbers_that_no_kernel_counts_add_up_to_what_a_status_can_hold() {
    let names = ["n1", "n2", "n3"];
    let mut cluster = Cluster::settled(&names, vec![tuning("web", 30)]);
    for node in names {
        cluster.agent_reports(node, hostile);
    }
    let sums = cluster.status("web").sockets.unwrap();
    let rates = sums.rates.unwrap();
    for sum in [sums.time_wait, sums.orphans, rates.overflows.unwrap(), rates.aborts.unwrap()] {
        assert!(i64::try_from(sum).is_ok(), "{sum} is more than an API server takes for a number");
    }
}

#[test]
fn rules_that_one_node_makes_up_push_out_none_that_hold_for_two() {
    let names = ["n1", "n2", "n3"];
    let tuned = tuning("web", 30).with(|spec| spec.sysctls = everything());
    let mut cluster = Cluster::settled(&names, vec![tuned.observing()]);
    cluster.agent_reports("n1", |report| {
        let row = |n: usize| SysctlStatus {
            name: Sysctl::ALL[n % Sysctl::ALL.len()].name().into(),
            state: "WouldRefuse".into(),
            rule: Some(format!("a-rule-{n}")),
            ..SysctlStatus::default()
        };
        report.observe[0].sysctls = (0..1_000).map(row).collect();
        status(report);
    });
    for node in ["n2", "n3"] {
        cluster.agent_reports(node, |report| {
            let row = &mut report.observe[0].sysctls[0];
            (row.state, row.rule) = ("WouldRefuse".into(), Some("out-of-bounds".into()));
        });
    }
    let refusals = cluster.status("web").refusals;
    assert_eq!((refusals[0].rule.as_str(), refusals[0].nodes), ("out-of-bounds", 2));
    assert!(refusals.len() <= 10);
}

#[test]
fn ten_thousand_entries_are_kept_as_few_as_the_schema_takes() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.agent_reports("n1", |report| {
        let row = SysctlStatus { name: FIN.name().into(), ..SysctlStatus::default() };
        let observed = |name: &str| ObservedStatus {
            tuning: crds::node::TuningReference { name: name.into(), uid: name.into(), revision: "1".into() },
            sysctls: vec![row.clone(); 100],
        };
        report.observe = vec![observed("web"); 10_000];
        hostile(report);
        assert_eq!((report.sysctls.len(), report.observe.len()), (SYSCTLS_MAX, OBSERVE_MAX));
        assert_eq!(report.observe[0].sysctls.len(), 1);
        assert_eq!(report.pods.as_ref().unwrap().most.len(), PODS_MAX);
    });
}

#[test]
fn a_status_that_cannot_be_decoded_leaves_the_rest_of_the_list_and_is_quoted_harmlessly() {
    let row = |state: Value| json!({ "sysctls": [{ "name": FIN.name(), "state": state }] });
    let object = |name: &str, status: Value| {
        let spec = json!({ "nodeUID": "u", "revision": "r", "reportIntervalSeconds": 20 });
        json!({ "metadata": { "name": name }, "spec": spec, "status": status })
    };
    let list = json!({ "metadata": {}, "items": [
        object("n1", json!({ "sockets": { "timeWait": -1 } })),
        object("n2", json!({ "sysctls": { "\u{1b}[2J": 1 } })),
        object("n3", json!({ "ports": { "most": [{ "state": "x", "side": "\u{1b}[2J\n", "port": 1, "sockets": 1 }] } })),
        object("n4", row(json!("Applied"))),
        object("n5", row(json!(30))),
    ] });
    let list: ObjectList<OrderObject> = serde_json::from_value(list).unwrap();
    let readable: Vec<_> = list.items.iter().map(|object| object.0.is_ok()).collect();
    assert_eq!(readable, [false, false, false, true, false]);
    let said = error(&list.items[2].0.as_ref().unwrap_err().error);
    assert!(said.contains("\\u{1b}[2J\\u{a}") && !said.contains(['\u{1b}', '\n']), "{said}");
}

#[test]
fn a_node_whose_object_cannot_be_read_is_named_and_blinds_nobody() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30)]);
    cluster.undecodable_order("n1");
    assert_eq!(
        cluster.message("web"),
        "in force on 1 of 2 nodes; waiting for 1 node (n1): its TcpCloseNode cannot be read (unknown variant): delete \
         it, and a new one is made"
    );
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(25)));
    cluster.assign();
    cluster.agent_reports("n2", |_| {});
    assert_eq!(cluster.spoken("n2"), ["tcp_fin_timeout Set 25 by web"]);
    assert_eq!(cluster.status("web").nodes.unwrap().updated, 1);
}
