use std::convert::Infallible;
use std::sync::MutexGuard;

use futures::FutureExt;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

fn leadership(leads: bool, deadline: Option<Instant>) -> Leadership {
    Leadership { leads: watch::channel(leads).1, deadline: Arc::new(Mutex::new(deadline)) }
}

#[test]
fn a_leader_writes_until_its_deadline() {
    assert!(leadership(true, Some(Instant::now() + DURATION)).may_write());
}

#[test]
fn a_leader_whose_lease_has_run_out_unrenewed_writes_nothing() {
    let past = Instant::now().checked_sub(Duration::from_millis(1));
    assert!(!leadership(true, past).may_write());
    assert!(!leadership(true, None).may_write(), "and one that has never renewed it");
}

#[test]
fn a_standby_writes_nothing() {
    assert!(!leadership(false, Some(Instant::now() + DURATION)).may_write());
}

#[test]
fn a_write_that_is_under_way_when_its_leader_may_write_no_longer_goes_no_step_further() {
    let leadership = leadership(true, Some(Instant::now() + DURATION));
    let mut steps = 0;
    let write = poll_fn(|_| {
        steps += 1;
        Poll::<()>::Pending
    });
    let mut fenced = Box::pin(leadership.fence(write));
    assert_eq!(fenced.as_mut().now_or_never(), None);
    *leadership.deadline.lock().unwrap() = Some(Instant::now());
    assert_eq!(fenced.as_mut().now_or_never(), Some(None));
    drop(fenced);
    assert_eq!(steps, 1);
}

/// An API server in memory that knows one lease, and takes a write over the version that it holds only.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    lease: Option<Value>,
    version: u64,
    /// It answers nobody.
    hangs: bool,
    /// What it was asked, and when.
    asked: Vec<(Method, Instant)>,
}

impl Server {
    fn candidate(&self, identity: &str) -> (Candidate, Leadership) {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Candidate::new(&Client::new(service, "default"), "tcpclose-system", identity)
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        self.stored().asked.push((method.clone(), Instant::now()));
        if self.stored().hangs {
            std::future::pending::<()>().await;
        }
        let mut stored = self.stored();
        let (code, answer) = match (method, &stored.lease) {
            (Method::GET, Some(lease)) => (200, lease.clone()),
            (Method::POST, None) => (201, stored.take(&body)),
            (Method::PUT, Some(lease)) if version(lease) == version(&parsed(&body)) => {
                (200, stored.take(&body))
            }
            (_, None) => (404, failure(404)),
            (_, Some(_)) => (409, failure(409)),
        };
        Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }

    /// Somebody else writes its spec.
    fn write(&self, spec: &Value) {
        self.stored().take(json!({ "metadata": { "name": LEASE }, "spec": spec }).to_string().as_bytes());
    }

    fn holder(&self) -> Option<String> {
        let lease = self.stored().lease.clone()?;
        lease["spec"]["holderIdentity"].as_str().map(Into::into)
    }

    fn methods(&self) -> Vec<Method> {
        self.stored().asked.iter().map(|(method, _)| method.clone()).collect()
    }
}

impl Stored {
    fn take(&mut self, body: &[u8]) -> Value {
        self.version += 1;
        let mut lease = parsed(body);
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.lease.insert(lease).clone()
    }
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn version(lease: &Value) -> Option<&str> {
    lease["metadata"]["resourceVersion"].as_str()
}

fn failure(code: u16) -> Value {
    let reason = if code == 404 { "NotFound" } else { "Conflict" };
    json!({ "kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code })
}

/// One attempt, and when the next one is due.
async fn attempt(candidate: &mut Candidate) -> Duration {
    let turn = candidate.turn().await;
    candidate.rest_after(turn)
}

#[tokio::test]
async fn a_candidate_alone_makes_the_lease_leads_and_renews_it_every_5_seconds() {
    let server = Server::default();
    let (mut candidate, leadership) = server.candidate("one");
    assert!(!leadership.may_write());
    assert_eq!(attempt(&mut candidate).await, Duration::from_secs(5));
    assert!(leadership.may_write());
    assert_eq!(attempt(&mut candidate).await, Duration::from_secs(5));
    assert_eq!(server.methods(), [Method::GET, Method::POST, Method::PUT]);
    let lease = server.stored().lease.clone().unwrap();
    assert_eq!(lease["metadata"]["name"], LEASE);
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
}

#[tokio::test]
async fn the_deadline_counts_from_before_the_lease_was_asked_for() {
    let server = Server::default();
    let (mut candidate, leadership) = server.candidate("one");
    attempt(&mut candidate).await;
    let (_, arrived) = server.stored().asked[1];
    let deadline = leadership.deadline.lock().unwrap().unwrap();
    assert!(deadline <= arrived + DURATION.checked_sub(MARGIN).unwrap());
}

#[tokio::test]
async fn a_late_renewal_is_not_accepted() {
    let server = Server::default();
    let (mut candidate, leadership) = server.candidate("one");
    attempt(&mut candidate).await;
    server.write(&json!({ "holderIdentity": "another" }));
    *leadership.deadline.lock().unwrap() = Some(Instant::now());
    attempt(&mut candidate).await;
    assert_eq!(server.holder().as_deref(), Some("another"));
    assert!(!leadership.may_write());
    assert_eq!(attempt(&mut candidate).await, LOOK_AGAIN, "it reads who leads, and stands by");
    assert!(!*leadership.leads.borrow());
}

#[tokio::test]
async fn a_leader_whose_lease_somebody_has_annotated_renews_it_a_second_later() {
    let server = Server::default();
    let (mut candidate, leadership) = server.candidate("one");
    attempt(&mut candidate).await;
    server.write(&json!({ "holderIdentity": "one" }));
    assert_eq!(attempt(&mut candidate).await, RETRY);
    assert!(leadership.may_write(), "the lease lasts a while");
    assert_eq!(attempt(&mut candidate).await, RENEW);
}

#[tokio::test]
async fn of_two_candidates_one_leads_and_the_other_follows_when_it_has_ended() {
    let server = Server::default();
    let ((mut one, first), (mut two, second)) = (server.candidate("one"), server.candidate("two"));
    attempt(&mut one).await;
    assert_eq!(attempt(&mut two).await, LOOK_AGAIN);
    assert_eq!((first.may_write(), second.may_write()), (true, false));
    one.run(watch::channel(true).1).await;
    assert_eq!((first.may_write(), server.holder()), (false, None));
    assert_eq!(attempt(&mut two).await, RENEW);
    assert!(second.may_write());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_asked_again_before_the_lease_runs_out() {
    let server = Server::default();
    let (mut candidate, _) = server.candidate("one");
    attempt(&mut candidate).await;
    server.stored().hangs = true;
    let until = DURATION.checked_sub(MARGIN + RENEW).unwrap();
    assert!(tokio::time::timeout(until, candidate.compete()).await.is_err());
    assert_eq!(server.methods()[2..], [Method::PUT, Method::GET]);
}

#[tokio::test(start_paused = true)]
async fn to_end_does_not_wait_for_an_api_server_that_does_not_answer() {
    let server = Server::default();
    let (mut candidate, leadership) = server.candidate("one");
    attempt(&mut candidate).await;
    server.stored().hangs = true;
    let ending = candidate.run(watch::channel(true).1);
    assert!(tokio::time::timeout(RELEASE * 2, ending).await.is_ok());
    assert!(!leadership.may_write());
}

#[tokio::test]
async fn a_leader_that_cannot_renew_says_that_it_leads_no_longer_when_its_lease_has_run_out() {
    let server = Server::default();
    let (mut candidate, mut leadership) = server.candidate("one");
    attempt(&mut candidate).await;
    leadership.leads.mark_unchanged();
    assert_eq!(candidate.rest_after(Err(Error::Timeout)), RETRY);
    assert_eq!(leadership.changed().now_or_never(), None);
    *leadership.deadline.lock().unwrap() = Some(Instant::now());
    candidate.rest_after(Err(Error::Timeout));
    assert_eq!(leadership.changed().now_or_never(), Some(()));
}
