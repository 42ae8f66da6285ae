//! What rules say: of values in force, of keys that are held back, and in mode Observe.

use crds::TcpCloseNodeStatus;
use crds::node::Remark;

use super::settled;
use crate::fixtures::{Cluster, tuning};

/// The value of the first sysctl is in force, and a rule would refuse it now.
fn at_risk(status: &mut TcpCloseNodeStatus) {
    let row = &mut status.sysctls[0];
    (row.state, row.rule) = ("AtRisk".into(), Some("a-rule".into()));
    row.message = Some("fin_timeout = 30: now unsafe".into());
}

#[test]
fn a_value_at_risk_is_in_force_and_said() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    cluster.agent_reports("n2", at_risk);
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(
        cluster.message("web"),
        "in force on 3 nodes; at risk on 1 node (n2): fin_timeout = 30: now unsafe"
    );
    let status = cluster.status("web");
    assert_eq!(status.nodes.unwrap().summary, "3/3");
    let worst = &status.worst[0];
    assert_eq!((worst.name.as_str(), worst.reason.as_str()), ("n2", "AtRisk"));
    assert_eq!(worst.message, "fin_timeout = 30: now unsafe");
    assert!(status.refusals.is_empty(), "nothing is kept from being in force");
}

#[test]
fn a_value_at_risk_may_drift_as_any_other() {
    let mut cluster = settled(&["n1"]);
    cluster.status("web");
    cluster.pass(1);
    cluster.agent_reports("n1", |status| {
        at_risk(status);
        status.sysctls[0].drifts = Some(1);
    });
    let status = cluster.status("web");
    assert_eq!(status.nodes.unwrap().drifted, 1);
    assert_eq!(status.worst[0].reason, "AtRisk", "the risk is said first");
}

#[test]
fn the_words_are_those_of_the_key_that_is_refused_not_of_one_that_is_held_back() {
    let web = tuning("web", 75).with(|spec| spec.sysctls.tcp_orphan_retries = Some(4));
    let mut cluster = Cluster::settled(&["n1"], vec![web]);
    cluster.agent_reports("n1", |status| {
        let [retries, fin_timeout] = &mut status.sysctls[..] else { panic!("{:?}", status.sysctls) };
        retries.state = "Refused".into();
        retries.message = Some("orphan_retries is held back with fin_timeout".into());
        fin_timeout.state = "Refused".into();
        fin_timeout.message = Some("fin_timeout = 75: order 30".into());
        fin_timeout.rule = Some("a-rule".into());
    });
    assert_eq!(cluster.verdict("web"), "False Refused Stalled");
    assert_eq!(cluster.message("web"), "fin_timeout = 75: order 30 (refused on 1 of 1 node: n1)");
    let status = cluster.status("web");
    assert_eq!(status.worst[0].message, "fin_timeout = 75: order 30");
    assert_eq!(status.refusals.len(), 1);
    assert_eq!(status.refusals[0].message, "fin_timeout = 75: order 30");
}

#[test]
fn remarks_change_nothing() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30), tuning("eye", 9).observing()]);
    let before = (cluster.status("web"), cluster.status("eye"));
    cluster.agent_reports("n1", |status| {
        let remark = Remark { rule: "a-note".into(), message: "by the way".into() };
        status.sysctls[0].remarks.push(remark.clone());
        status.observe[0].sysctls[0].remarks.push(remark);
    });
    assert_eq!((cluster.status("web"), cluster.status("eye")), before);
}

#[test]
fn observe_counts_a_node_once_however_many_keys_would_be_refused() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("eye", 75).observing()]);
    cluster.agent_reports("n1", |status| {
        let rows = &mut status.observe[0].sysctls;
        rows[0].state = "WouldRefuse".into();
        rows.push(rows[0].clone());
        (rows[0].rule, rows[0].message) = (Some("a-rule".into()), Some("order 30".into()));
    });
    assert_eq!(cluster.verdict("eye"), "True Observed");
    assert!(cluster.message("eye").contains("be refused on 1;"), "{}", cluster.message("eye"));
    let refusals = cluster.status("eye").refusals;
    assert_eq!((refusals.len(), refusals[0].nodes, refusals[0].message.as_str()), (1, 1, "order 30"));
}
