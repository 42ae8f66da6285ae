//! What other programs change: put right, reported only, or fought for.

use crds::condition::ConditionStatus;

use super::settled;
use crate::fixtures::in_state;

const FIND: &str = "find the program: often a sysctl.d file, or another node tuner";

#[test]
fn drift_that_is_put_right_is_shown_and_is_no_fault() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.status("web");
    cluster.pass(1);
    cluster.agent_reports("n2", |status| status.sysctls[0].drifts = Some(1));
    assert_eq!(cluster.verdict("web"), "True Applied");
    let status = cluster.status("web");
    assert_eq!(status.conditions[4].status, ConditionStatus::True);
    assert_eq!(
        status.conditions[4].message,
        format!(
            "another program changes net.ipv4.tcp_fin_timeout on 1 node (n2): the agent puts it right; {FIND}"
        )
    );
    assert_eq!(status.worst[0].reason, "Drifted");
    cluster.pass(20);
    cluster.agent_reports("n2", |status| status.sysctls[0].drifts = Some(1));
    assert_eq!(cluster.status("web").conditions[4].status, ConditionStatus::False, "and then is over");
}

#[test]
fn a_key_that_is_fought_for_is_stalled_and_says_what_the_agent_does() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    cluster.agent_reports("n2", in_state("Contended", "set to 60 again, left alone until 12:05"));
    assert_eq!(cluster.verdict("web"), "False Contended Stalled");
    let status = cluster.status("web");
    assert_eq!(
        status.conditions[2].message,
        format!("set to 60 again, left alone until 12:05 (contended on 1 of 3 nodes: n2); {FIND}")
    );
    assert_eq!(status.conditions[4].status, ConditionStatus::True);
    assert_eq!(status.conditions[4].reason, "Drifted");
    assert_eq!(
        status.conditions[4].message,
        format!(
            "another program changes net.ipv4.tcp_fin_timeout on 1 node (n2): set to 60 again, left alone until 12:05; \
             {FIND}"
        )
    );
    let nodes = status.nodes.unwrap();
    assert_eq!((nodes.updated, nodes.failed, nodes.drifted, nodes.summary.as_str()), (2, 1, 1, "2/3"));
    assert_eq!((status.worst[0].name.as_str(), status.worst[0].reason.as_str()), ("n2", "Contended"));
}

#[test]
fn drift_that_is_only_reported_is_stalled() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.agent_reports("n2", in_state("Drifted", "another program set it to 60"));
    assert_eq!(cluster.verdict("web"), "False Drifted Stalled");
    assert_eq!(
        cluster.message("web"),
        format!("another program set it to 60 (drifted on 1 of 2 nodes: n2); {FIND}")
    );
    let status = cluster.status("web");
    assert!(status.conditions[4].message.contains("(n2): another program set it to 60;"));
    assert_eq!(status.worst[0].reason, "Drifted");
    assert_eq!(status.worst[0].message, "another program set it to 60");
    let nodes = status.nodes.unwrap();
    assert_eq!((nodes.failed, nodes.drifted), (1, 1));
}

#[test]
fn what_is_left_alone_is_said_before_what_is_put_right() {
    let mut cluster = settled(&["n1", "n2"]);
    cluster.status("web");
    cluster.pass(1);
    cluster.agent_reports("n1", |status| status.sysctls[0].drifts = Some(1));
    cluster.agent_reports("n2", in_state("Contended", "left alone until 12:05"));
    let message = cluster.status("web").conditions[4].message.clone();
    assert!(message.contains("on 2 nodes (n1, n2): left alone until 12:05;"), "{message}");
}

#[test]
fn a_fight_that_is_over_is_applied_again() {
    let mut cluster = settled(&["n1"]);
    cluster.agent_reports("n1", in_state("Contended", "left alone"));
    assert_eq!(cluster.verdict("web"), "False Contended Stalled");
    cluster.agent_reports("n1", |_| {});
    assert_eq!(cluster.verdict("web"), "True Applied");
    assert_eq!(cluster.status("web").conditions[4].status, ConditionStatus::False);
}

#[test]
fn of_equally_many_the_earlier_in_the_table_gives_the_reason() {
    let mut cluster = settled(&["n1", "n2", "n3", "n4"]);
    for (node, state, reason) in [
        ("n1", "Drifted", "Drifted"),
        ("n2", "Contended", "Contended"),
        ("n3", "Failed", "WriteFailed"),
        ("n4", "Refused", "Refused"),
    ] {
        cluster.agent_reports(node, in_state(state, "why"));
        assert_eq!(cluster.verdict("web"), format!("False {reason} Stalled"));
    }
}

#[test]
fn a_fight_gives_the_reason_where_it_is_the_largest_group() {
    let mut cluster = settled(&["n1", "n2", "n3"]);
    cluster.agent_reports("n1", in_state("Refused", "no"));
    for node in ["n2", "n3"] {
        cluster.agent_reports(node, in_state("Contended", "left alone"));
    }
    assert_eq!(cluster.verdict("web"), "False Contended Stalled");
}
