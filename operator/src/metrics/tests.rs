use std::collections::BTreeMap;

use crds::node::{Pods, Rates, Sockstat};

use super::fleet::{TUNINGS_MAX, registry};
use super::*;
use crate::fixtures::{Cluster, counted, in_state, tuning};
use crate::summarise::fleet::fleet;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// What one that leads this cluster shows.
fn shown(cluster: &mut Cluster) -> String {
    let tunings = cluster.snapshot.tunings.clone();
    let summaries: Vec<_> = tunings.iter().map(|tuning| (tuning, cluster.status(&tuning.name))).collect();
    let fleet = fleet(&cluster.snapshot, &cluster.resolve(), &cluster.history, cluster.now.clock);
    let metrics = Metrics::default();
    metrics.note_switch(&cluster.snapshot.switch);
    metrics.note_write(Kind::Order, Fate::Taken);
    metrics.note_turn(Kind::Status, Duration::from_millis(3));
    metrics.show_guard("tcp-close-tuning-nodes", Some(true));
    metrics.show_fleet(registry(&fleet, &summaries));
    metrics.text(true).unwrap()
}

/// The lines are among those shown.
fn shows(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|shown| shown == *line), "{line} is not in\n{text}");
    }
}

/// Name and type of everything that is shown.
fn exposed(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE tcpclose_")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), kind.to_string())
        })
        .collect()
}

/// Name and type of everything that the document has for the operator.
fn documented() -> BTreeMap<String, String> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("The operator")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `tcpclose_"));
    rows.map(|row| {
        let mut cells = row.split(" | ");
        let name = cells.next().unwrap().split(['`', '{']).next().unwrap();
        (name.to_string(), cells.next().unwrap().to_string())
    })
    .collect()
}

/// Everything that can be known of a tuning is known.
fn everything() -> Cluster {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30)]);
    cluster.agent_reports("n1", in_state("Refused", "no"));
    cluster.agent_reports("n2", |status| {
        let minis = |time_wait_and_fin_wait2| Sockstat { time_wait_and_fin_wait2, measured_at: None };
        status.sockstat = Some(minis(100));
        status.pods = Some(Pods { time_wait_and_fin_wait2: Some(300), ..Pods::default() });
        status.rates = Some(Rates {
            seconds: 60,
            overflows: Some(7),
            aborts_on_close: Some(2),
            aborts_on_data: Some(1),
            resets_sent: Some(3),
            reused: Some(0),
            ..Rates::default()
        });
    });
    cluster
}

#[test]
fn the_document_names_what_the_operator_shows_and_nothing_else() {
    assert_eq!(exposed(&shown(&mut everything())), documented());
}

#[test]
fn names_and_units_follow_the_conventions() {
    let text = shown(&mut everything());
    assert!(text.ends_with("# EOF\n"));
    for (name, kind) in exposed(&text) {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(text.contains(&format!("# HELP tcpclose_{} ", name.trim_end_matches("_total"))), "{name}");
        let base = ["milli", "micro", "minutes", "percent", "hours"];
        assert!(base.iter().all(|unit| !name.contains(unit)), "{name} is not in base units");
    }
}

#[test]
fn nodes_and_conditions_are_those_of_the_status() {
    let text = shown(&mut everything());
    shows(
        &text,
        &[
            "tcpclose_nodes 2",
            "tcpclose_nodes_matched 2",
            "tcpclose_tuning_nodes{tuning=\"web\",state=\"updated\"} 1",
            "tcpclose_tuning_nodes{tuning=\"web\",state=\"refused\"} 1",
            "tcpclose_tuning_nodes{tuning=\"web\",state=\"failed\"} 0",
            "tcpclose_tuning_condition{tuning=\"web\",type=\"Ready\",status=\"false\"} 1",
            "tcpclose_tuning_condition{tuning=\"web\",type=\"Ready\",status=\"true\"} 0",
            "tcpclose_tuning_condition{tuning=\"web\",type=\"Stalled\",status=\"true\"} 1",
            "tcpclose_tuning_refused_nodes{tuning=\"web\",rule=\"out-of-bounds\"} 1",
        ],
    );
}

#[test]
fn sockets_are_added_up_once_for_the_fleet_and_once_for_each_tuning() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30).on("n1")]);
    cluster.agent_reports("n2", |status| {
        status.sockets = Some(counted(60_000, 0));
    });
    shows(
        &shown(&mut cluster),
        &[
            "tcpclose_fleet_sockets{state=\"time_wait\"} 61000",
            "tcpclose_fleet_counted_nodes 2",
            "tcpclose_fleet_orphans 1",
            "tcpclose_tuning_sockets{tuning=\"web\",state=\"time_wait\"} 1200",
            "tcpclose_tuning_counted_nodes{tuning=\"web\"} 1",
        ],
    );
}

#[test]
fn events_and_coverage_are_those_of_the_status() {
    shows(
        &shown(&mut everything()),
        &[
            "tcpclose_tuning_events_per_minute{tuning=\"web\",event=\"time_wait_overflow\"} 7",
            "tcpclose_tuning_events_per_minute{tuning=\"web\",event=\"abort\"} 3",
            "tcpclose_tuning_events_per_minute{tuning=\"web\",event=\"time_wait_reused\"} 0",
            "tcpclose_fleet_events_per_minute{event=\"reset_sent\"} 3",
            "tcpclose_tuning_coverage_ratio{tuning=\"web\"} 0.25",
            "tcpclose_tuning_pods_mini_sockets{tuning=\"web\"} 300",
            "tcpclose_fleet_nodes_mini_sockets 100",
            "tcpclose_fleet_coverage_ratio 0.25",
        ],
    );
}

#[test]
fn sockets_that_nobody_has_counted_are_left_out_and_not_0() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.agent_reports("n1", |status| status.sockets = None);
    let text = shown(&mut cluster);
    assert!(!text.contains("_sockets"), "{text}");
    assert!(!text.contains("_orphans"), "{text}");
}

#[test]
fn a_node_that_goes_silent_is_counted_and_its_age_grows() {
    let mut cluster = everything();
    shows(&shown(&mut cluster), &["tcpclose_nodes_silent 0", "tcpclose_oldest_report_age_seconds 0"]);
    cluster.pass(50);
    cluster.agent_reports("n1", |_| {});
    cluster.status("web");
    cluster.pass(11);
    shows(&shown(&mut cluster), &["tcpclose_nodes_silent 1", "tcpclose_oldest_report_age_seconds 61"]);
}

#[test]
fn a_tuning_that_cannot_be_decoded_has_its_conditions_and_no_made_up_nodes() {
    let mut cluster = Cluster::new(&["n1"], vec![tuning("web", 30).undecodable()]);
    let text = shown(&mut cluster);
    shows(&text, &["tcpclose_tuning_condition{tuning=\"web\",type=\"Ready\",status=\"true\"} 0"]);
    assert!(!text.contains("tcpclose_tuning_nodes"), "{text}");
}

#[test]
fn tunings_beyond_200_are_counted_and_have_no_series() {
    let tunings = (0..TUNINGS_MAX + 3).map(|at| tuning(&format!("t{at:04}"), 30)).collect();
    let text = shown(&mut Cluster::new(&["n1"], tunings));
    shows(&text, &["tcpclose_tunings 203", "tcpclose_tunings_left_out 3"]);
    assert!(text.contains("tuning=\"t0199\"") && !text.contains("tuning=\"t0200\""));
}

#[test]
fn no_series_is_about_one_node() {
    let text = shown(&mut everything());
    assert!(!text.contains("n1") && !text.contains("n2"), "{text}");
}

#[test]
fn a_standby_shows_itself_and_nothing_of_the_fleet() {
    let metrics = Metrics::default();
    metrics.show_fleet(registry(&crate::summarise::fleet::Fleet::default(), &[]));
    metrics.note_write(Kind::Status, Fate::Failed);
    let text = metrics.text(false).unwrap();
    shows(
        &text,
        &[
            "tcpclose_operator_leader 0",
            "tcpclose_operator_api_writes_total{kind=\"status\",result=\"failed\"} 1",
        ],
    );
    assert!(!text.contains("tcpclose_nodes"), "{text}");
    shows(&metrics.text(true).unwrap(), &["tcpclose_operator_leader 1", "tcpclose_nodes 0"]);
}

#[test]
fn a_policy_of_which_nothing_is_known_has_no_series() {
    let metrics = Metrics::default();
    let shown = || metrics.text(false).unwrap();
    metrics.show_guard("tcp-close-tuning-nodes", Some(false));
    shows(&shown(), &["tcpclose_operator_admission_policy{policy=\"tcp-close-tuning-nodes\"} 0"]);
    metrics.show_guard("tcp-close-tuning-nodes", None);
    assert!(!shown().contains("tcp-close-tuning-nodes"));
}

#[test]
fn a_turn_is_counted_under_its_loop() {
    let text = shown(&mut everything());
    shows(
        &text,
        &[
            "tcpclose_operator_turn_duration_seconds_bucket{le=\"0.001\",loop=\"status\"} 0",
            "tcpclose_operator_turn_duration_seconds_bucket{le=\"0.004\",loop=\"status\"} 1",
            "tcpclose_operator_turn_duration_seconds_count{loop=\"status\"} 1",
        ],
    );
}

#[test]
fn rules_that_nobody_knows_make_no_series_of_their_own() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30)]);
    for (node, rule) in [("n1", "made-up-1"), ("n2", "made-up-2")] {
        cluster.agent_reports(node, |status| {
            in_state("Refused", "no")(status);
            status.sysctls[0].rule = Some(rule.into());
        });
    }
    let text = shown(&mut cluster);
    assert!(text.contains("tcpclose_tuning_refused_nodes{tuning=\"web\",rule=\"unknown\"} 2"), "{text}");
    assert!(!text.contains("made-up"), "{text}");
}
