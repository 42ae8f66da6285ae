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
    let patch = without_rollout(&tuning, None, &ready("OperatorError", "unreadable", status(1, 5)));
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

/// What was asked of an API server that gives these answers, one after the other.
async fn versions_named(answers: &'static [u16]) -> (bool, Vec<Option<Value>>) {
    let asked = Arc::<Mutex<Vec<Option<Value>>>>::default();
    let seen = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let seen = seen.clone();
        async move {
            let body = request.into_body().collect_bytes().await?;
            let patch: Value = serde_json::from_slice(&body).unwrap();
            let code = answers[seen.lock().unwrap().len()];
            seen.lock().unwrap().push(patch["metadata"].get("resourceVersion").cloned());
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code });
            let answer = if code == 200 { json!({ "metadata": {}, "spec": {} }) } else { status };
            let answer = Body::from(answer.to_string().into_bytes());
            Ok::<_, kube::Error>(Response::builder().status(code).body(answer).unwrap())
        }
    });
    let client = Client::new(service, "default");
    let (_, leadership) = Candidate::new(&client, "default", "one");
    let (events, _) = Events::start(client.clone(), "one", leadership);
    let reporter = Reporter::new(client, events, Metrics::default());
    let mut tuning = tuning("web", 30);
    tuning.resource_version = "7".into();
    let taken = reporter.write(&tuning, &status(1, 5)).await.unwrap();
    let asked = asked.lock().unwrap().clone();
    (taken, asked)
}

#[tokio::test]
async fn a_status_names_the_version_that_it_is_about() {
    assert_eq!(versions_named(&[200]).await, (true, vec![Some(json!("7"))]));
}

#[tokio::test]
async fn a_status_that_others_were_faster_than_goes_out_once_more_whatever_the_version() {
    assert_eq!(versions_named(&[409, 200]).await, (true, vec![Some(json!("7")), None]));
}

#[tokio::test]
async fn a_status_of_a_tuning_that_is_gone_or_made_anew_is_not_taken() {
    assert!(!versions_named(&[409, 409]).await.0);
    assert_eq!(versions_named(&[404]).await, (false, vec![Some(json!("7"))]));
}
