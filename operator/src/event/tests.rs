use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use crds::tuning::{Gate, Rollout};
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::fixtures::{Cluster, in_state, tuning};

/// What is told when a tuning goes from one status to the next: `Warning Refused`.
fn told(cluster: &mut Cluster, name: &str) -> Vec<String> {
    let tuning = cluster.snapshot.tunings.iter().find(|tuning| tuning.name == name).unwrap();
    let before = tuning.status.clone();
    let after = cluster.status(name);
    let spoken = transitions(before.as_ref(), &after).into_iter().map(|transition| {
        format!("{} {}", if transition.warning { "Warning" } else { "Normal" }, transition.reason)
    });
    spoken.collect()
}

fn settled() -> Cluster {
    Cluster::settled(&["n1", "n2"], vec![tuning("web", 30)])
}

#[test]
fn a_state_that_lasts_is_told_once() {
    let mut cluster = settled();
    assert_eq!(told(&mut cluster, "web"), ["Normal Applied"]);
    assert!(told(&mut cluster, "web").is_empty());
}

#[test]
fn nodes_that_come_and_go_are_no_news() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.node_is_down("n2");
    assert!(told(&mut cluster, "web").is_empty());
    cluster.edit_node("n2", |node| node.status.conditions[0].status = "True".into());
    assert!(told(&mut cluster, "web").is_empty());
}

#[test]
fn a_refusal_and_its_end_are_told() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.agent_reports("n1", in_state("Refused", "no"));
    assert_eq!(told(&mut cluster, "web"), ["Warning Refused"]);
    cluster.agent_reports("n1", |_| {});
    assert_eq!(told(&mut cluster, "web"), ["Normal Applied"]);
}

#[test]
fn each_generation_that_gets_in_force_is_told() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    cluster.assign();
    cluster.agents_apply();
    assert_eq!(told(&mut cluster, "web"), ["Normal Applied"]);
}

#[test]
fn the_steps_of_a_rollout_are_told_and_its_end() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.edit_tuning("web", |tuning| {
        tuning.with(|spec| {
            spec.rollout = Some(Rollout { soak_seconds: Some(30), ..Rollout::default() });
            spec.sysctls.tcp_fin_timeout_seconds = Some(31);
        })
    });
    assert_eq!(told(&mut cluster, "web"), ["Normal Canary"]);
    cluster.assign();
    cluster.agents_apply();
    assert_eq!(told(&mut cluster, "web"), ["Normal Soaking"]);
    cluster.pass(30);
    assert_eq!(told(&mut cluster, "web"), ["Normal RollingOut"]);
    cluster.assign();
    cluster.agents_apply();
    assert_eq!(told(&mut cluster, "web"), ["Normal Applied", "Normal RolloutCompleted"]);
    assert!(told(&mut cluster, "web").is_empty());
}

#[test]
fn a_revision_that_is_taken_back_is_a_warning_with_the_reason() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.edit_tuning("web", |tuning| {
        tuning.with(|spec| {
            spec.rollout = Some(Rollout { gate: Some(Gate::default()), ..Rollout::default() });
            spec.sysctls.tcp_fin_timeout_seconds = Some(31);
        })
    });
    told(&mut cluster, "web");
    cluster.assign();
    for node in ["n1", "n2"] {
        cluster.agent_reports(node, |status| {
            if status.sysctls[0].desired == Some(31) {
                in_state("Failed", "no space left")(status);
            }
        });
    }
    assert_eq!(told(&mut cluster, "web"), ["Warning RollingBack"]);
    cluster.assign();
    cluster.agents_apply();
    assert_eq!(told(&mut cluster, "web"), ["Warning RolledBack"]);
    assert!(cluster.message("web").contains("no space left"));
}

#[test]
fn work_under_way_is_no_news() {
    let mut cluster = Cluster::new(&["n1"], vec![tuning("web", 30)]);
    assert!(told(&mut cluster, "web").is_empty(), "NoReports");
}

#[test]
fn a_selector_that_matches_nothing_is_a_warning() {
    let mut cluster = Cluster::new(&["n1"], vec![tuning("web", 30).on("nowhere")]);
    assert_eq!(told(&mut cluster, "web"), ["Warning NoMatchingNodes"]);
}

#[test]
fn a_lost_tie_is_a_warning() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("base", 20), tuning("web", 30)]);
    assert_eq!(told(&mut cluster, "web"), ["Warning Conflict"]);
    cluster.pass(20);
    assert!(told(&mut cluster, "web").is_empty(), "stalled, and still the same tie");
}

#[test]
fn drift_is_a_warning() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.agent_reports("n1", |status| status.sysctls[0].live = Some(1));
    assert_eq!(told(&mut cluster, "web"), ["Warning Drifted"]);
}

#[test]
fn drift_that_is_only_reported_is_one_warning_not_two() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.agent_reports("n1", in_state("Drifted", "set to 60"));
    assert_eq!(told(&mut cluster, "web"), ["Warning Drifted"]);
    assert!(told(&mut cluster, "web").is_empty());
}

#[test]
fn a_fight_and_its_end_are_told() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    cluster.agent_reports("n1", |status| status.sysctls[0].live = Some(1));
    assert_eq!(told(&mut cluster, "web"), ["Warning Drifted"]);
    cluster.agent_reports("n1", in_state("Contended", "left alone"));
    assert_eq!(told(&mut cluster, "web"), ["Warning Contended"]);
    cluster.agent_reports("n1", |_| {});
    assert_eq!(told(&mut cluster, "web"), ["Normal Applied"]);
}

#[test]
fn the_first_value_at_risk_is_a_warning_and_the_next_is_none() {
    let mut cluster = settled();
    told(&mut cluster, "web");
    for (node, expected) in [("n1", &["Warning AtRisk"][..]), ("n2", &[])] {
        cluster.agent_reports(node, |status| {
            (status.sysctls[0].state, status.sysctls[0].message) = ("AtRisk".into(), Some("unsafe".into()));
        });
        assert_eq!(told(&mut cluster, "web"), expected);
    }
    cluster.agents_apply();
    assert!(told(&mut cluster, "web").is_empty(), "that it is over is a condition's business");
}

#[test]
fn a_write_that_drops_entries_tells_what_became_of_them() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.delete_tuning("web");
    cluster.assign();
    cluster.agents_apply();
    let writes = crate::assign::plan(&cluster.snapshot, &cluster.resolve());
    let transition = of_write(&writes[0]).unwrap();
    assert_eq!(transition.message, "net.ipv4.tcp_fin_timeout is put back: tuning web orders it no longer");
    assert!(!transition.warning);
}

#[test]
fn what_was_left_to_another_program_is_a_warning_with_both_values() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.delete_tuning("web");
    cluster.assign();
    cluster
        .agent_reports("n1", in_state("RestoreSkipped", "another program set it to 45; before us it was 60"));
    let writes = crate::assign::plan(&cluster.snapshot, &cluster.resolve());
    let transition = of_write(&writes[0]).unwrap();
    assert_eq!((transition.warning, transition.reason.as_str()), (true, "RestoreSkipped"));
    assert_eq!(
        transition.message,
        "net.ipv4.tcp_fin_timeout is not put back (another program set it to 45; before us it was 60): tuning web orders it \
         no longer"
    );
}

#[test]
fn an_order_is_no_news_of_the_node() {
    let mut cluster = settled();
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    let writes = crate::assign::plan(&cluster.snapshot, &cluster.resolve());
    assert!(writes.iter().all(|write| of_write(write).is_none()));
}

#[test]
fn a_node_that_goes_without_having_restored_is_told_and_a_warning_where_it_was_asked_to() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.delete_tuning("web");
    cluster.assign();
    let mut in_force = settled();
    for (cluster, warning) in [(&mut cluster, true), (&mut in_force, false)] {
        cluster.snapshot.nodes.clear();
        let writes = crate::assign::plan(&cluster.snapshot, &cluster.resolve());
        let transition = of_write(&writes[0]).unwrap();
        assert_eq!((transition.warning, transition.reason.as_str()), (warning, "NotRestored"));
        assert_eq!(
            transition.message,
            "Node n1 is gone and never said that it had put back net.ipv4.tcp_fin_timeout: if the machine lives on, it keeps \
             our values until it boots"
        );
    }
}

/// The role of the operator allows no more.
#[tokio::test]
async fn every_event_is_created_in_namespace_default_and_none_is_counted_up() {
    let asked = Arc::<Mutex<Vec<(Method, String)>>>::default();
    let seen = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let request = (request.method().clone(), request.uri().path().to_owned());
        seen.lock().unwrap().push(request);
        let event = json!({ "metadata": {}, "eventTime": null }).to_string();
        async move { Ok::<_, Infallible>(Response::new(Body::from(event.into_bytes()))) }
    });
    let client = Client::new(service, "default");
    let reporter = Reporter { controller: OPERATOR_MANAGER.into(), instance: None };
    for _ in 0..2 {
        let transition = Transition { warning: true, reason: "Refused".into(), message: "no".into() };
        let news = News { about: reference::<TcpCloseTuning>("web", Some("web-uid")), transition };
        tell(&client, &reporter, news).await;
    }
    let create = (Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events".to_owned());
    assert_eq!(*asked.lock().unwrap(), [create.clone(), create]);
}
