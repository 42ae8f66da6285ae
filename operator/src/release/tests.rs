use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use crds::TcpCloseNode;
use crds::state::State;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::Value;

use super::*;
use crate::fixtures::{Cluster, tuning};

/// Long enough for answers that are in memory.
const PATIENCE: Duration = Duration::from_millis(300);
const TUNING: &str = "web";

/// An API server in memory: what it holds, what it denies, and what it was asked to write.
#[derive(Clone, Default)]
struct Server {
    nodes: Vec<TcpCloseNode>,
    /// What a watch shows after the list, one event a line.
    events: Vec<Value>,
    not_ready: Vec<&'static str>,
    /// It never answers a list.
    hangs: bool,
    refusals: Vec<(&'static str, u16)>,
    written: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (path, query) = (request.uri().path().to_string(), request.uri().query().unwrap_or_default());
        if let Some((_, code)) = self.refusals.iter().find(|(part, _)| path.contains(part)) {
            let status = json!({ "kind": "Status", "status": "Failure", "message": "no", "code": code });
            return response(*code, &status);
        }
        if query.contains("watch=true") {
            if self.events.is_empty() {
                std::future::pending::<()>().await;
            }
            let lines = self.events.iter().flat_map(|event| [event.to_string(), "\n".into()]);
            return Response::new(Body::from(lines.collect::<String>().into_bytes()));
        }
        if request.method() == Method::PATCH {
            let body = request.into_body().collect_bytes().await.unwrap();
            let written: Value = serde_json::from_slice(&body).unwrap();
            self.written.lock().unwrap().push(written.clone());
            return response(200, &written);
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        match path.strip_prefix("/api/v1/nodes/") {
            Some(name) => response(200, &self.node(name)),
            None => response(200, &json!({ "metadata": { "resourceVersion": "1" }, "items": self.nodes })),
        }
    }

    fn node(&self, name: &str) -> Value {
        let ready = if self.not_ready.contains(&name) { "Unknown" } else { "True" };
        let conditions = json!([{ "type": "Ready", "status": ready }]);
        json!({ "metadata": { "name": name }, "status": { "conditions": conditions } })
    }

    async fn release(&self) -> Outcome {
        release(&self.client(), "tcpclose-system", PATIENCE).await
    }
}

fn response(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
}

/// Nodes that hold what a tuning orders.
fn tuned(names: &[&str]) -> Cluster {
    Cluster::settled(names, vec![tuning(TUNING, 30)])
}

/// What the operator makes of that when it is asked to release.
fn asked(names: &[&str]) -> Cluster {
    let mut cluster = tuned(names);
    cluster.delete_tuning(TUNING);
    cluster.assign();
    cluster
}

fn objects(cluster: &Cluster) -> Vec<TcpCloseNode> {
    cluster.snapshot.orders.values().map(|object| object.0.as_ref().unwrap().clone()).collect()
}

fn modified(object: &TcpCloseNode) -> Value {
    json!({ "type": "MODIFIED", "object": object })
}

#[tokio::test]
async fn it_asks_the_operator_by_the_switch() {
    let server = Server::default();
    assert_eq!(server.release().await, Outcome::default());
    let written = server.written.lock().unwrap().clone();
    assert_eq!(written[0]["metadata"], json!({ "name": NAME, "namespace": "tcpclose-system" }));
    assert_eq!(written[0]["data"], json!({ "state": "Release" }));
}

#[tokio::test]
async fn it_ends_as_soon_as_every_node_has_answered() {
    let mut cluster = asked(&["n1", "n2"]);
    let nodes = objects(&cluster);
    cluster.agents_apply();
    let events = objects(&cluster).iter().map(modified).collect();
    let server = Server { nodes, events, ..Server::default() };
    let outcome = release(&server.client(), "tcpclose-system", Duration::from_secs(3600)).await;
    assert_eq!(outcome, Outcome { nodes: 2, ..Outcome::default() });
    assert_eq!(outcome.to_string(), "put back on every node that held a value of a tuning: 2\n");
}

#[tokio::test]
async fn nodes_that_do_not_answer_are_listed_with_the_reason() {
    let mut cluster = asked(&["n1", "n2", "n3", "n4"]);
    cluster.agent_reports("n1", |_| {});
    cluster.edit_order("n4", |object| {
        let row = &mut object.status.as_mut().unwrap().sysctls[0];
        (row.state, row.message) = (State::Failed.as_str().into(), Some("write: \u{1b}[31mEIO".into()));
    });
    let server = Server { nodes: objects(&cluster), not_ready: vec!["n2"], ..Server::default() };
    assert_eq!(
        server.release().await.not_restored,
        [
            "n2: net.ipv4.tcp_fin_timeout: its Node is not Ready",
            "n3: net.ipv4.tcp_fin_timeout: its agent has not answered; it last reported at 1970-01-12T13:46:40Z",
            "n4: net.ipv4.tcp_fin_timeout: write: \\u{1b}[31mEIO",
        ]
    );
}

#[tokio::test]
async fn an_operator_that_does_not_act_is_named_as_the_reason() {
    let server = Server { nodes: objects(&tuned(&["n1"])), ..Server::default() };
    let said = server.release().await.to_string();
    assert!(
        said.contains("n1: net.ipv4.tcp_fin_timeout: the operator has not taken the order back"),
        "{said}"
    );
    assert!(said.contains("keep their values until they boot"), "{said}");
}

#[tokio::test]
async fn what_another_program_has_changed_is_listed_though_nobody_waits_for_it() {
    let mut cluster = asked(&["n1"]);
    let nodes = objects(&cluster);
    cluster.agent_reports("n1", |status| {
        let row = &mut status.sysctls[0];
        (row.state, row.message) =
            (State::RestoreSkipped.as_str().into(), Some("it holds 45, not our 30".into()));
    });
    let skipped = objects(&cluster);
    // The operator drops the entry at once.
    cluster.assign();
    let events = [skipped, objects(&cluster)].concat().iter().map(modified).collect();
    let outcome = Server { nodes, events, ..Server::default() }.release().await;
    assert_eq!(outcome.not_restored, ["n1: net.ipv4.tcp_fin_timeout: it holds 45, not our 30"]);
}

#[tokio::test]
async fn a_node_whose_object_goes_meanwhile_is_listed() {
    let nodes = objects(&asked(&["n1"]));
    let events = vec![json!({ "type": "DELETED", "object": nodes[0] })];
    let outcome = Server { nodes, events, ..Server::default() }.release().await;
    assert_eq!(
        outcome.not_restored,
        ["n1: net.ipv4.tcp_fin_timeout: its TcpCloseNode was deleted before its agent had answered"]
    );
}

#[tokio::test]
async fn without_definitions_it_ends_at_once_and_claims_nothing() {
    let server = Server { refusals: vec![("tcpclosenodes", 404)], ..Server::default() };
    let outcome = server.release().await;
    assert!(outcome.problems[0].contains("not defined in this cluster any longer"), "{outcome}");
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_given_up_and_nothing_is_claimed() {
    let said = Server { hangs: true, ..Server::default() }.release().await.to_string();
    assert!(said.contains("what the nodes hold is not known"), "{said}");
    assert!(!said.contains("no node"), "{said}");
}

#[tokio::test]
async fn where_the_api_server_denies_the_switch_it_lists_what_is_in_force_and_does_not_wait() {
    let nodes = objects(&tuned(&["n1"]));
    let server = Server { nodes, refusals: vec![("configmaps", 403)], ..Server::default() };
    let outcome = release(&server.client(), "tcpclose-system", Duration::from_secs(3600)).await;
    assert!(outcome.problems[0].contains("ConfigMap tcpclose-system/tcpclose-control"), "{outcome}");
    assert_eq!(outcome.not_restored.len(), 1);
}

#[tokio::test]
async fn a_list_for_people_names_a_hundred_nodes_and_how_many_more() {
    let names: Vec<_> = (0..LISTED_MAX + 5).map(|n| format!("n{n:03}")).collect();
    let cluster = tuned(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let outcome = Server { nodes: objects(&cluster), ..Server::default() }.release().await;
    assert_eq!((outcome.not_restored.len(), outcome.more), (LISTED_MAX, 5));
}
