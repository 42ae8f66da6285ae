//! Counts, sums and lists.

use crds::TcpCloseNodeStatus;
use crds::node::{PodCounts, Pods, Rates, Sockstat, States};
use crds::tuning::{Canary, Coverage, Gate, RateSums, Rollout, Safety, Sysctls};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::settled;
use crate::fixtures::{Cluster, counted, in_state, tuning};
use crate::summarise::some;

#[test]
fn every_matched_node_is_in_exactly_one_class() {
    let mut cluster = settled(&["n1", "n2", "n3", "n4", "n5"]);
    cluster.agent_reports("n1", in_state("Refused", "no"));
    cluster.agent_reports("n2", in_state("Failed", "io"));
    cluster.agent_reports("n3", in_state("Pending", "later"));
    cluster.node_is_down("n4");
    let nodes = cluster.status("web").nodes.unwrap();
    assert_eq!((nodes.updated, nodes.pending, nodes.refused, nodes.failed, nodes.stale), (1, 1, 1, 1, 1));
    assert_eq!((nodes.matched, nodes.summary.as_str()), (5, "1/5"));
}

#[test]
fn the_worst_nodes_come_by_what_is_wrong_and_then_by_sockets() {
    let mut cluster = settled(&["n1", "n2", "n3", "n4", "n5", "n6"]);
    cluster.agent_reports("n1", |status| status.sockets.as_mut().unwrap().states.time_wait = 5);
    cluster.agent_reports("n2", in_state("Pending", "later"));
    cluster.node_is_down("n3");
    cluster.agent_reports("n4", in_state("Refused", "no"));
    cluster.agent_reports("n5", in_state("Failed", "io"));
    let worst = cluster.status("web").worst;
    let spoken: Vec<_> = worst.iter().map(|worst| format!("{} {}", worst.name, worst.reason)).collect();
    assert_eq!(spoken, ["n5 Failed", "n4 Refused", "n3 Stale", "n2 Pending", "n6 Sockets", "n1 Sockets"]);
    assert_eq!(worst[4].message, "1200 TIME_WAIT");
}

/// Pods by name, so many in CLOSE_WAIT, so many of them not accepted.
fn pods(leaks: &[(&str, u64, u64)]) -> Pods {
    let most = leaks.iter().map(|&(name, close_wait, unaccepted)| PodCounts {
        namespace: Some("shop".into()),
        name: Some(name.into()),
        states: Some(States { close_wait, unaccepted: Some(unaccepted), ..States::default() }),
        ..PodCounts::default()
    });
    Pods { most: most.collect(), ..Pods::default() }
}

#[test]
fn the_pod_that_leaks_most_is_named_with_its_node() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.agent_reports("n1", |status| status.pods = Some(pods(&[("web-1", 812, 0), ("web-2", 700, 0)])));
    cluster.agent_reports("n2", |status| {
        (status.sockets, status.pods) = (None, Some(pods(&[("web-3", 100, 0)])));
    });
    let worst = cluster.status("web").worst;
    let messages: Vec<_> = worst.iter().map(|worst| worst.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "1200 TIME_WAIT; pod shop/web-1 leaks 810 CLOSE_WAIT: no sysctl helps",
            "pod shop/web-3 leaks 100 CLOSE_WAIT: no sysctl helps"
        ]
    );
}

#[test]
fn a_few_in_close_wait_and_those_that_wait_to_be_accepted_are_no_leak() {
    let mut cluster = settled(&["n1"]);
    cluster.agent_reports("n1", |status| status.pods = Some(pods(&[("web-1", 99, 0), ("web-2", 500, 401)])));
    assert_eq!(cluster.status("web").worst[0].message, "1200 TIME_WAIT");
}

#[test]
fn no_more_than_ten_nodes_are_the_worst() {
    let names: Vec<_> = (0..20).map(|n| format!("n{n:02}")).collect();
    let mut cluster = settled(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(cluster.status("web").worst.len(), 10);
}

#[test]
fn sums_have_two_digits_and_skip_what_is_unknown() {
    let mut cluster = settled(&["n1", "n2", "n3", "n4"]);
    cluster.agent_reports("n2", |status| {
        status.sockets = Some(counted(99_999, 0));
    });
    cluster.agent_reports("n3", |status| status.sockets = None);
    cluster.node_is_down("n4");
    let sums = cluster.status("web").sockets.unwrap();
    assert_eq!((sums.time_wait, sums.highest.time_wait, sums.nodes), (100_000, 100_000, 2));
    assert_eq!((sums.orphans, sums.highest.orphans), (1, 1));
}

#[test]
fn counts_that_nobody_knows_are_absent_not_zero() {
    let mut cluster = settled(&["n1"]);
    cluster.node_is_down("n1");
    assert_eq!(cluster.status("web").sockets, None);
}

#[test]
fn aborts_of_every_kind_are_one_sum_and_what_no_node_can_tell_is_absent() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    cluster.agent_reports("n1", |status| {
        status.rates = Some(Rates {
            overflows: Some(0),
            aborts_on_memory: Some(1),
            aborts_on_timeout: Some(2),
            aborts_on_close: Some(4),
            aborts_on_data: Some(8),
            aborts_on_linger: Some(16),
            aborts_failed: Some(1000),
            resets_sent: Some(1234),
            ..Rates::default()
        });
    });
    cluster.agent_reports("n2", |status| {
        status.rates = Some(Rates { aborts_on_close: Some(9), ..Rates::default() });
    });
    let rates = cluster.status("web").sockets.unwrap().rates.unwrap();
    let expected =
        RateSums { overflows: Some(0), aborts: Some(40), resets_sent: Some(1200), reused: None, nodes: 2 };
    assert_eq!(rates, expected);
}

#[test]
fn rates_that_nobody_knows_are_absent_not_zero() {
    assert_eq!(settled(&["n1"]).status("web").sockets.unwrap().rates, None);
}

/// So many mini-sockets in the node's own namespace, and in its pods'.
fn closing(own: u64, pods: Option<u64>) -> impl FnOnce(&mut TcpCloseNodeStatus) {
    move |status| {
        status.sockstat = Some(Sockstat { time_wait_and_fin_wait2: own, measured_at: None });
        status.pods = Some(Pods { time_wait_and_fin_wait2: pods, ..Pods::default() });
    }
}

#[test]
fn coverage_is_the_share_of_the_nodes_that_know_their_pods() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    cluster.agent_reports("n1", closing(1000, Some(60_000)));
    cluster.agent_reports("n2", closing(239, Some(1)));
    cluster.agent_reports("n3", closing(70_000, None));
    let coverage = cluster.status("web").sockets.unwrap().coverage.unwrap();
    assert_eq!(coverage, Coverage { percent: 2, in_nodes: 1200, in_pods: 60_000, nodes: 2 });
}

#[test]
fn coverage_is_absent_where_pods_are_not_counted_and_where_nothing_closes() {
    let mut cluster = settled(&["n1"]);
    cluster.agent_reports("n1", closing(1000, None));
    assert_eq!(cluster.status("web").sockets.unwrap().coverage, None);
    cluster.agent_reports("n1", closing(0, Some(0)));
    assert_eq!(cluster.status("web").sockets.unwrap().coverage, None);
}

#[test]
fn a_status_of_large_numbers_and_long_words_takes_8_kilobytes_at_most() {
    let names: Vec<_> = (0..12).map(|n| format!("n{n:062}")).collect();
    let mut cluster = settled(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let most = u64::MAX / 100;
    for name in &names {
        cluster.agent_reports(name, |status| {
            in_state("Failed", &"long ".repeat(100))(status);
            let rates = Rates { overflows: Some(most), reused: Some(most), ..Rates::default() };
            status.rates = Some(Rates { aborts_on_close: Some(most), resets_sent: Some(most), ..rates });
            closing(most, Some(most))(status);
            status.sockets.as_mut().unwrap().states = States {
                time_wait: most,
                orphans: most,
                fin_wait1: most,
                fin_wait2: most,
                closing: most,
                close_wait: most,
                last_ack: most,
                ..States::default()
            };
        });
    }
    let status = cluster.status("web");
    assert_eq!((status.worst.len(), status.sockets.is_some()), (10, true));
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(bytes <= 8 * 1024, "{bytes}");
}

#[test]
fn a_status_of_a_rollout_that_failed_for_many_words_takes_8_kilobytes_at_most() {
    let names: Vec<_> = (0..12).map(|n| format!("n{n:062}")).collect();
    let web = tuning("web", 30).with(|spec| {
        let acknowledge = tcp_close::rule::cautions().map(Into::into).collect();
        spec.safety = Some(Safety { acknowledge, ..Safety::default() });
    });
    let mut cluster = Cluster::settled(&names.iter().map(String::as_str).collect::<Vec<_>>(), vec![web]);
    let change = |cluster: &mut Cluster, retries| {
        cluster.edit_tuning("web", |tuning| {
            tuning.with(|spec| {
                let canary = Canary { nodes: Some(10), ..Canary::default() };
                let (canary, gate) = (Some(canary), Some(Gate::default()));
                let max_concurrent = Some(IntOrString::Int(10));
                spec.rollout = Some(Rollout { canary, gate, max_concurrent, ..Rollout::default() });
                spec.sysctls.tcp_orphan_retries = Some(retries);
            })
        });
        cluster.status("web");
    };
    for retries in 0..12 {
        change(&mut cluster, retries);
    }
    cluster.assign();
    for name in &names {
        cluster.agent_reports(name, |status| {
            in_state("Failed", &"long ".repeat(100))(status);
            status.sockets = Some(counted(u64::MAX / 100, u64::MAX / 100));
        });
    }
    assert_eq!(cluster.verdict("web"), "False RollingBack Reconciling");
    let status = cluster.status("web");
    let rollout = status.rollout.as_ref().unwrap();
    assert_eq!((rollout.canaries.len(), rollout.attempted.len(), status.worst.len()), (10, 10, 10));
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(bytes <= 8 * 1024, "{bytes}");
}

/// Each key of the catalogue.
fn everything() -> Sysctls {
    Sysctls {
        tcp_orphan_retries: Some(4),
        tcp_max_orphans: Some(65_536),
        tcp_fin_timeout_seconds: Some(30),
        tcp_max_tw_buckets: Some(65_536),
        tcp_tw_reuse: Some(1),
        tcp_tw_reuse_delay_milliseconds: Some(1000),
        tcp_timestamps: Some(1),
        tcp_tw_recycle: Some(0),
    }
}

/// Twelve nodes with the longest names, which refuse eight keys for eight reasons while another program changes them, in the
/// canaries of a gated rollout, and another tuning of the same priority wants other values.
fn worst_of_all() -> Cluster {
    let names: Vec<_> = (0..12).map(|n| format!("n{n:0252}")).collect();
    let long = |letter: &str| letter.repeat(253);
    let with =
        |name: String, second| tuning(&name, 30).created(second).with(|spec| spec.sysctls = everything());
    let mut cluster =
        Cluster::settled(&names.iter().map(String::as_str).collect::<Vec<_>>(), vec![with("web".into(), 1)]);
    let rival = with(long("r"), 2).with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31));
    cluster.snapshot.tunings.push(rival);
    cluster.edit_tuning("web", |tuning| {
        tuning.with(|spec| {
            spec.sysctls.tcp_fin_timeout_seconds = Some(32);
            let canary = Some(Canary { nodes: Some(10), ..Canary::default() });
            let gate = Some(Gate::default());
            let max_concurrent = Some(IntOrString::Int(10));
            spec.rollout = Some(Rollout { canary, gate, max_concurrent, ..Rollout::default() });
        })
    });
    cluster.assign();
    cluster.status("web");
    cluster.pass(1);
    let message = "evidence ".repeat(57);
    for (at, name) in names.iter().enumerate() {
        cluster.agent_reports(name, |status| {
            for (rule, row) in status.sysctls.iter_mut().enumerate() {
                let (state, drifts) = if at % 6 == 0 { ("Contended", Some(9)) } else { ("Refused", None) };
                (row.state, row.drifts) = (state.into(), drifts);
                row.rule = Some(format!("{rule}{}", "-rule".repeat(12)));
                row.message = Some(message.clone());
            }
            status.sockets = Some(counted(u64::from(u32::MAX), u64::from(u32::MAX)));
        });
    }
    cluster
}

#[test]
fn whatever_is_wrong_and_however_long_its_words_a_status_takes_8_kilobytes_at_most() {
    let mut cluster = worst_of_all();
    for (turn, ready) in [(0, "False RollingBack"), (1, "False RollingBack")] {
        let verdict = cluster.verdict("web");
        assert!(verdict.starts_with(ready), "{turn}: {verdict}");
        let status = cluster.status("web");
        let bytes = serde_json::to_vec(&status).unwrap().len();
        assert!((4 * 1024..=8 * 1024).contains(&bytes), "{bytes}");
        let kinds: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(kinds, ["Ready", "Reconciling", "Stalled", "Conflicted", "Drifted"]);
        assert!(status.conditions.iter().all(|condition| !condition.message.is_empty()));
        assert_eq!(status.rollout.unwrap().canaries.len(), 10);
        cluster.assign();
    }
}

#[test]
fn a_status_that_is_too_long_loses_words_before_it_loses_nodes() {
    let names: Vec<_> = (0..12).map(|n| format!("n{n:043}")).collect();
    let web = tuning("web", 30).with(|spec| spec.sysctls = everything());
    let mut cluster = Cluster::settled(&names.iter().map(String::as_str).collect::<Vec<_>>(), vec![web]);
    for name in &names {
        cluster.agent_reports(name, |status| {
            for row in &mut status.sysctls {
                (row.state, row.rule) = ("Refused".into(), Some(row.name.clone()));
                row.message = Some("evidence ".repeat(57));
            }
            status.sockets = Some(counted(u64::from(u32::MAX), u64::from(u32::MAX)));
        });
    }
    let status = cluster.status("web");
    assert!(serde_json::to_vec(&status).unwrap().len() <= 8 * 1024);
    assert_eq!((status.worst.len(), status.refusals.len()), (10, 8));
    assert!(status.worst[0].message.ends_with('…'), "{}", status.worst[0].message);
    assert!(!status.conditions[0].message.ends_with('…'), "{}", status.conditions[0].message);
}

#[test]
fn refusals_are_summed_up_by_rule() {
    let mut cluster = settled(&["n1", "n2", "n3", "n4", "n5"]);
    for node in ["n2", "n3", "n4", "n5"] {
        cluster.agent_reports(node, in_state("Refused", &format!("on {node}")));
    }
    let refusals = cluster.status("web").refusals;
    assert_eq!(refusals.len(), 1);
    assert_eq!((refusals[0].rule.as_str(), refusals[0].nodes), ("out-of-bounds", 4));
    assert_eq!(refusals[0].message, "on n2");
    assert_eq!(refusals[0].names, ["n2", "n3", "n4"]);
}

#[test]
fn a_node_that_breaks_a_rule_twice_counts_once() {
    let web = tuning("web", 30).with(|spec| spec.sysctls.tcp_orphan_retries = Some(4));
    let mut cluster = Cluster::settled(&["n1", "n2", "n3", "n4"], vec![web]);
    for node in ["n1", "n2", "n3", "n4"] {
        cluster.agent_reports(node, |status| {
            for row in &mut status.sysctls {
                (row.state, row.rule) = ("Refused".into(), Some("out-of-bounds".into()));
            }
        });
    }
    assert_eq!(cluster.status("web").refusals[0].nodes, 4);
}

#[test]
fn names_are_few_and_the_rest_is_counted() {
    assert_eq!(some(["a", "b", "c"]), "a, b, c");
    assert_eq!(some(["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
}
