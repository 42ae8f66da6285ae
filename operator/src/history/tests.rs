use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::fixtures::{Cluster, tuning};

fn heard() -> (Cluster, History) {
    let cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    let mut history = History::default();
    history.note_reports(&cluster.snapshot, cluster.now.clock);
    (cluster, history)
}

#[test]
fn silence_is_measured_on_our_own_clock() {
    let (mut cluster, mut history) = heard();
    cluster.pass(40);
    // A report that claims to be from the past is a sign of life like any other.
    cluster.edit_order("n1", |order| {
        let status = order.status.as_mut().unwrap();
        status.reported_at.as_mut().unwrap().0 -= Duration::from_secs(5000);
    });
    assert_eq!(history.silence("n1", cluster.now.clock).of_reports, Duration::from_secs(40));
    history.note_reports(&cluster.snapshot, cluster.now.clock);
    assert_eq!(history.silence("n1", cluster.now.clock).of_reports, Duration::ZERO);
}

#[test]
fn an_order_is_no_report() {
    let (mut cluster, mut history) = heard();
    cluster.pass(40);
    cluster.edit_tuning("web", |tuning| tuning.priority(3).keeping());
    cluster.assign();
    history.note_reports(&cluster.snapshot, cluster.now.clock);
    assert_eq!(history.silence("n1", cluster.now.clock).of_reports, Duration::from_secs(40));
}

#[test]
fn a_broken_watch_is_nobodys_silence() {
    let (mut cluster, mut history) = heard();
    cluster.pass(4000);
    history.forgive(Duration::from_secs(3990), cluster.now.clock);
    assert_eq!(history.silence("n1", cluster.now.clock).of_reports, Duration::from_secs(10));
    assert_eq!(history.silence("n1", cluster.now.clock).while_ready, Duration::from_secs(10));
}

#[test]
fn who_was_silent_before_a_watch_broke_is_silent_after_it() {
    let (mut cluster, mut history) = heard();
    cluster.pass(100);
    history.forgive(Duration::from_secs(5), cluster.now.clock);
    assert_eq!(history.silence("n1", cluster.now.clock).of_reports, Duration::from_secs(95));
    history.forgive(Duration::from_secs(200), cluster.now.clock);
    assert_eq!(history.silence("n1", cluster.now.clock).of_reports, Duration::ZERO);
}

#[test]
fn a_node_made_anew_under_an_old_name_starts_anew() {
    let (mut cluster, mut history) = heard();
    cluster.pass(4000);
    cluster.edit_node("n1", |node| node.metadata.uid = Some("anew".into()));
    history.note_reports(&cluster.snapshot, cluster.now.clock);
    assert_eq!(history.silence("n1", cluster.now.clock).of_reports, Duration::ZERO);
}

/// Whether a report with so many foreign changes, the first of them `since`, is news; `None` is a report without the key.
fn tells(cluster: &mut Cluster, history: &mut History, report: Option<(u32, Option<&str>)>) -> bool {
    cluster.pass(20);
    cluster.agent_reports("n1", |status| match report {
        Some((count, since)) => {
            let row = &mut status.sysctls[0];
            row.drifts = Some(count).filter(|count| *count > 0);
            row.drifts_since = row.drifts.and(since).map(|since| Time(since.parse().unwrap()));
        }
        None => status.sysctls.clear(),
    });
    history.note_reports(&cluster.snapshot, cluster.now.clock);
    history.has_drifted("n1", "net.ipv4.tcp_fin_timeout")
}

const ONE_DAY: Option<&str> = Some("2026-01-01T10:00:00Z");
const ANOTHER_DAY: Option<&str> = Some("2026-01-02T10:00:00Z");

#[test]
fn a_restart_of_the_agent_is_no_drift() {
    let (mut cluster, mut history) = heard();
    let mut tells = |count, since| tells(&mut cluster, &mut history, Some((count, since)));
    assert!(tells(7, ONE_DAY));
    assert!(!tells(7, ONE_DAY));
    assert!(!tells(0, ONE_DAY));
    assert!(tells(1, ANOTHER_DAY), "the first that the new agent has seen");
}

#[test]
fn a_restarted_agent_of_0_1_0_is_heard_though_it_does_not_say_since_when_it_counts() {
    let (mut cluster, mut history) = heard();
    let mut tells = |count| tells(&mut cluster, &mut history, Some((count, None)));
    assert!(tells(7));
    assert!(!tells(7));
    assert!(tells(1), "the first that the new agent has seen");
}

#[test]
fn an_old_drift_is_no_news_when_its_key_is_ordered_again() {
    let (mut cluster, mut history) = heard();
    let mut tells = |report| tells(&mut cluster, &mut history, report);
    assert!(tells(Some((1, ONE_DAY))));
    assert!(!tells(None), "the key is not ordered");
    assert!(!tells(Some((1, ONE_DAY))), "it is ordered again");
    assert!(tells(Some((2, ONE_DAY))), "another drift");
}

#[test]
fn being_pending_again_starts_anew() {
    let (mut cluster, mut history) = heard();
    let long = Duration::from_secs(300);
    let mut note = |cluster: &Cluster, nodes: &[&str]| {
        history.note_pending("web-uid", nodes.iter().copied(), cluster.now.clock, long)
    };
    assert_eq!(note(&cluster, &["n1"]), 0);
    cluster.pass(300);
    assert_eq!(note(&cluster, &["n1"]), 1);
    assert_eq!(note(&cluster, &[]), 0);
    assert_eq!(note(&cluster, &["n1"]), 0);
}
