use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use crds::tuning::{NodeCounts, RateSums, SocketSums};
use http::{Request, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::client::Body;

use super::*;
use crate::fixtures::tuning;
use crate::lead::Candidate;

fn status(updated: u32, time_wait: u64) -> TcpCloseTuningStatus {
    TcpCloseTuningStatus {
        nodes: Some(NodeCounts { updated, ..NodeCounts::default() }),
        sockets: Some(SocketSums { time_wait, ..SocketSums::default() }),
        worst: vec![worst("n1", SOCKETS, time_wait)],
        ..TcpCloseTuningStatus::default()
    }
}

fn worst(name: &str, reason: &str, time_wait: u64) -> WorstNode {
    WorstNode { name: name.into(), reason: reason.into(), message: format!("{time_wait} TIME_WAIT") }
}

/// Counts were written so many seconds ago.
fn written(
    stored: &TcpCloseTuningStatus,
    fresh: TcpCloseTuningStatus,
    ago: u64,
) -> Option<TcpCloseTuningStatus> {
    let ago = Some(Duration::from_secs(ago));
    next_write(Some(stored), fresh, Ages { any: ago, sockets: ago })
}

fn ready(reason: &str, message: &str, status: TcpCloseTuningStatus) -> TcpCloseTuningStatus {
    let condition = Condition {
        type_: "Ready".into(),
        status: false.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        observed_generation: 1,
    };
    TcpCloseTuningStatus { conditions: vec![condition], ..status }
}

fn rolling(phase: &str, settled: u32) -> TcpCloseTuningStatus {
    let rollout = RolloutStatus { phase: phase.into(), settled, ..RolloutStatus::default() };
    let words = format!("rolled out to {settled} of 50 nodes");
    ready("RollingOut", &words, TcpCloseTuningStatus { rollout: Some(rollout), ..status(settled, 5) })
}

#[test]
fn nodes_that_settle_one_after_the_other_are_counted_every_5_seconds() {
    assert_eq!(written(&rolling("RollingOut", 1), rolling("RollingOut", 2), 4), None);
    assert_eq!(
        written(&rolling("RollingOut", 1), rolling("RollingOut", 2), 5),
        Some(rolling("RollingOut", 2))
    );
}

#[test]
fn a_phase_and_a_condition_are_written_at_once() {
    let (canary, soaking) = (rolling("Canary", 1), rolling("Soaking", 1));
    assert_eq!(written(&canary, soaking.clone(), 0), Some(soaking));
    let (before, after) = (ready("Progressing", "a", status(1, 5)), ready("Applied", "b", status(2, 5)));
    assert_eq!(written(&before, after.clone(), 0), Some(after));
}

#[test]
fn a_tuning_that_cannot_be_decoded_keeps_how_far_its_rollout_is() {
    let tuning = tuning("web", 30).undecodable();
    let patch = without_rollout(&tuning, "7", &ready("OperatorError", "unreadable", status(1, 5)));
    assert_eq!(patch["metadata"]["uid"], "web-uid");
    assert_eq!(patch["status"]["conditions"][0]["reason"], "OperatorError");
    assert!(patch["status"].as_object().unwrap().get("rollout").is_none(), "{patch}");
    assert!(patch["status"]["nodes"].is_null());
}

#[test]
fn an_unchanged_status_is_not_patched() {
    assert_eq!(written(&status(1, 5), status(1, 5), 1000), None);
}

#[test]
fn a_first_status_is_written() {
    assert_eq!(next_write(None, status(1, 5), Ages::default()), Some(status(1, 5)));
}

#[test]
fn socket_sums_alone_are_written_every_30_age() {
    assert_eq!(written(&status(1, 5), status(1, 6), 29), None);
    assert_eq!(written(&status(1, 5), status(1, 6), 30), Some(status(1, 6)));
}

#[test]
fn socket_sums_ride_along_every_5_age() {
    let refused = |time_wait| ready("Refused", "no", status(2, time_wait));
    assert_eq!(written(&status(1, 5), refused(6), 4), Some(refused(5)));
    assert_eq!(written(&status(1, 5), refused(6), 5), Some(refused(6)));
}

#[test]
fn an_overflow_that_begins_is_written_at_once_and_one_that_goes_on_is_not() {
    let overflowing = |rate| {
        let mut status = status(1, 5);
        let rates = RateSums { overflows: Some(rate), ..RateSums::default() };
        status.sockets.as_mut().unwrap().rates = Some(rates);
        status
    };
    assert_eq!(written(&overflowing(0), overflowing(60), 0), Some(overflowing(60)));
    assert_eq!(written(&status(1, 5), overflowing(60), 0), Some(overflowing(60)), "it was unknown");
    assert_eq!(written(&overflowing(60), overflowing(900), 29), None);
    assert_eq!(written(&overflowing(60), overflowing(0), 29), None);
}

#[test]
fn a_node_in_trouble_is_not_listed_for_its_sockets_as_well() {
    let mut fresh = ready("WriteFailed", "no", status(2, 6));
    fresh.worst = vec![worst("n1", "Failed", 6), worst("n2", SOCKETS, 6)];
    let written = written(&status(1, 5), fresh, 1).unwrap();
    assert_eq!(written.worst, [worst("n1", "Failed", 6)]);
}

#[test]
fn sums_that_nobody_knows_any_longer_are_not_kept() {
    let unknown = TcpCloseTuningStatus { sockets: None, ..ready("Refused", "no", status(2, 6)) };
    assert_eq!(written(&status(1, 5), unknown, 1).unwrap().sockets, None);
}

/// An API server in memory that holds one tuning, and takes a status over the version that it is at only.
#[derive(Clone)]
struct Server(Arc<Mutex<Stored>>);

struct Stored {
    version: u64,
    uid: &'static str,
    /// `None`: it is gone.
    status: Option<Value>,
    /// So many reads are followed by a write of somebody else.
    storm: usize,
    /// The versions that statuses named.
    named: Vec<Value>,
}

impl Server {
    fn at(version: u64, status: &TcpCloseTuningStatus) -> Self {
        let status = Some(json!(status));
        Self(Arc::new(Mutex::new(Stored { version, uid: "web-uid", status, storm: 0, named: Vec::new() })))
    }

    fn with(self, change: impl FnOnce(&mut Stored)) -> Self {
        change(&mut self.0.lock().unwrap());
        self
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let body = request.into_body().collect_bytes().await.unwrap();
        let patch = serde_json::from_slice::<Value>(&body).ok();
        let (code, answer) = self.0.lock().unwrap().answer(patch);
        Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }

    /// Whether a status of a tuning at version 7 that was computed from this one was taken, and the versions that were named.
    async fn takes(&self, before: &TcpCloseTuningStatus) -> (bool, Vec<Value>) {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let client = Client::new(service, "default");
        let (_, leadership) = Candidate::new(&client, "default", "one");
        let (events, _) = Events::start(client.clone(), "one", leadership);
        let reporter = Reporter::new(client, events, Metrics::default());
        let mut tuning = tuning("web", 30);
        tuning.resource_version = "7".into();
        let taken = reporter.write(&tuning, Some(before), &rolling("RollingOut", 2)).await.unwrap();
        (taken, self.0.lock().unwrap().named.clone())
    }
}

impl Stored {
    fn answer(&mut self, patch: Option<Value>) -> (u16, Value) {
        let Some(status) = &self.status else { return (404, failure(404)) };
        let spec = tuning("web", 30).spec.unwrap();
        let metadata = json!({ "name": "web", "uid": self.uid, "resourceVersion": self.version.to_string() });
        let Some(patch) = patch else {
            let object = json!({ "metadata": metadata, "spec": spec, "status": status });
            if let Some(left) = self.storm.checked_sub(1) {
                (self.storm, self.version) = (left, self.version + 1);
            }
            return (200, object);
        };
        let named = &patch["metadata"];
        self.named.push(named["resourceVersion"].clone());
        if named["uid"] != metadata["uid"] || named["resourceVersion"] != metadata["resourceVersion"] {
            return (409, failure(409));
        }
        (200, json!({ "metadata": metadata, "spec": spec, "status": patch["status"] }))
    }
}

fn failure(code: u16) -> Value {
    let reason = if code == 404 { "NotFound" } else { "Conflict" };
    json!({ "kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code })
}

#[tokio::test]
async fn a_status_names_the_version_that_it_is_about() {
    let before = rolling("RollingOut", 1);
    assert_eq!(Server::at(7, &before).takes(&before).await, (true, vec![json!("7")]));
}

#[tokio::test]
async fn a_status_that_others_were_faster_than_goes_out_over_what_they_wrote() {
    let before = rolling("RollingOut", 1);
    assert_eq!(Server::at(9, &before).takes(&before).await, (true, vec![json!("7"), json!("9")]));
    let (taken, named) = Server::at(9, &before).with(|stored| stored.storm = 3).takes(&before).await;
    assert!(taken);
    assert_eq!(named, ["7", "9", "10", "11", "12"]);
}

#[tokio::test]
async fn a_status_that_others_are_always_faster_than_waits_for_the_next_turn() {
    let before = rolling("RollingOut", 1);
    let (taken, named) = Server::at(9, &before).with(|stored| stored.storm = 100).takes(&before).await;
    assert_eq!((taken, named.len()), (false, ATTEMPTS));
}

#[tokio::test]
async fn a_superseded_leaders_status_leaves_its_successors_rollout_alone() {
    let before = rolling("RollingOut", 1);
    let mut successors = rolling("RolledBack", 1);
    successors.rollout.as_mut().unwrap().failed_revision = Some("abc".into());
    let named_once = (false, vec![json!("7")]);
    assert_eq!(Server::at(9, &successors).takes(&before).await, named_once);
    assert_eq!(Server::at(9, &rolling("RollingOut", 2)).takes(&before).await, named_once);
}

#[tokio::test]
async fn a_status_that_was_just_written_is_known_again_though_what_is_stored_has_no_fractions_of_seconds() {
    let mut before = ready("RollingOut", "a", status(1, 5));
    before.conditions[0].last_transition_time = Time("2026-01-02T03:04:05.678Z".parse().unwrap());
    let stored = Server::at(9, &before);
    assert!(stored.takes(&before).await.0);
}

#[tokio::test]
async fn a_status_of_a_tuning_that_is_gone_or_made_anew_is_not_taken() {
    let (before, once) = (rolling("RollingOut", 1), (false, vec![json!("7")]));
    let anew = Server::at(7, &before).with(|stored| stored.uid = "another");
    assert_eq!(anew.takes(&before).await, once);
    let gone = Server::at(7, &before).with(|stored| stored.status = None);
    assert_eq!(gone.takes(&before).await, (false, Vec::new()));
}

#[test]
fn a_tuning_that_can_be_decoded_no_longer_or_again_has_another_status() {
    let (good, bad) = (tuning("web", 30), tuning("web", 30).undecodable());
    assert!(is_current(&bad, &bad, Some(&status(1, 5))), "nothing is said of its rollout");
    assert!(!is_current(&bad, &good, None));
    assert!(!is_current(&good, &bad, None));
}
