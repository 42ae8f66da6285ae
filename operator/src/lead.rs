//! Lead: one operator at a time writes. The others keep their caches warm.
//!
//! The lease alone is not enough: while the API server is away, a lease manager goes on saying that it leads after its
//! lease has run out. So every successful renewal moves a deadline on this process's own monotonic clock, and past
//! it nothing is written: a process may be frozen anywhere, also in the middle of a write, and wake when another leads.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::client::Body;
use kube_lease_manager::{LeaseCreateMode, LeaseManager, LeaseManagerError, LeaseParams};
use tokio::sync::watch;

/// The lease, in the operator's namespace.
const LEASE: &str = "tcp-close-tuning-operator";
/// A lease that is not renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// It is renewed when this much of it is left.
const GRACE: Duration = Duration::from_secs(10);
/// Writing stops this long before the lease runs out: a request that was allowed arrives a little later.
const MARGIN: Duration = Duration::from_secs(2);
/// How often one that stands by looks whether the lease has been released.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between attempts while the API server is away.
const RETRY: Duration = Duration::from_secs(1);
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Releasing the lease is a courtesy to the next one; shutting down does not wait longer for it.
const RELEASE: Duration = Duration::from_secs(2);

/// Whether this operator leads, and until when it may write.
#[derive(Clone)]
pub struct Leadership {
    leads: watch::Receiver<bool>,
    deadline: Arc<Mutex<Option<Instant>>>,
}

impl Leadership {
    /// Of a lease that nobody competes for.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self { leads: watch::channel(false).1, deadline: Arc::default() }
    }

    /// Asked before every write.
    pub fn may_write(&self) -> bool {
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        *self.leads.borrow() && deadline.is_some_and(|deadline| Instant::now() < deadline)
    }

    /// Does a write as long as it may, and no further: that is asked before each of its steps, the last of which sends it.
    /// `None` where it was let go.
    pub async fn fence<T>(&self, write: impl Future<Output = T>) -> Option<T> {
        let mut write = pin!(write);
        poll_fn(
            |context| {
                if self.may_write() { write.as_mut().poll(context).map(Some) } else { Poll::Ready(None) }
            },
        )
        .await
    }

    /// Returns when it may write, or may no longer.
    pub async fn changed(&mut self) {
        if self.leads.changed().await.is_err() {
            // Nobody competes for the lease any longer: the process is ending.
            std::future::pending::<()>().await;
        }
    }
}

/// Competes for the lease, and releases it in the end.
pub struct Candidate {
    client: Client,
    namespace: String,
    identity: String,
    leads: watch::Sender<bool>,
}

impl Candidate {
    /// A candidate that does not compete yet, and what others ask.
    pub fn new(client: &Client, namespace: &str, identity: &str) -> (Self, Leadership) {
        let (leads, receiver) = watch::channel(false);
        let deadline = Arc::new(Mutex::new(None));
        let client = noting_renewals(client.clone(), namespace, identity, deadline.clone());
        let candidate = Self { client, namespace: namespace.into(), identity: identity.into(), leads };
        (candidate, Leadership { leads: receiver, deadline })
    }

    /// Competes until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut complaint = Complaint::default();
        while !*stop.borrow() {
            let competing = self.compete(stop.clone(), &mut complaint).await;
            // Without a lease nobody leads.
            self.note(false);
            if let Err(error) = competing {
                complaint.log(&self.namespace, &error);
                let _ = tokio::time::timeout(RETRY, stop.wait_for(|stop| *stop)).await;
            }
        }
    }

    /// Until told to stop, or until it is worth to look at the lease anew.
    async fn compete(
        &self,
        mut stop: watch::Receiver<bool>,
        complaint: &mut Complaint,
    ) -> Result<(), LeaseManagerError> {
        let params = LeaseParams::new(self.identity.clone(), DURATION.as_secs(), GRACE.as_secs());
        let client = self.client.clone();
        let making = LeaseManager::new(client, LEASE, &self.namespace, params, LeaseCreateMode::AutoCreate);
        let manager = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            manager = making => manager?,
        };
        if !*self.leads.borrow() {
            // One that it held in an earlier life it takes anew: until a renewal it would not know how long it may write.
            manager.release().await?;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            result = self.follow(&manager, complaint) => return result,
        }
        if self.leads.send_replace(false) {
            let _ = tokio::time::timeout(RELEASE, manager.release()).await;
        }
        Ok(())
    }

    /// Notes who leads. A leader's errors pass: the manager renews, or loses, when it can again.
    async fn follow(
        &self,
        manager: &LeaseManager,
        complaint: &mut Complaint,
    ) -> Result<(), LeaseManagerError> {
        loop {
            // A manager that stands by sleeps until the lease that it saw runs out, and does not notice that it was
            // released long before.
            let patience = if *self.leads.borrow() { Duration::MAX } else { LOOK_AGAIN };
            match tokio::time::timeout(patience, manager.changed()).await {
                Err(_) => return Ok(()),
                Ok(Ok(leads)) => self.note(leads),
                Ok(Err(error)) if !*self.leads.borrow() => return Err(error),
                Ok(Err(error @ LeaseManagerError::NonexistentLease(_))) => return Err(error),
                Ok(Err(error)) => {
                    complaint.log(&self.namespace, &error);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn note(&self, leads: bool) {
        if self.leads.send_replace(leads) != leads {
            tracing::info!(identity = self.identity, "{}", if leads { "leads" } else { "stands by" });
        }
    }
}

/// Says that the lease cannot be had, once a minute: it is tried every second.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn log(&mut self, namespace: &str, error: &LeaseManagerError) {
        if self.0.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            tracing::warn!("lease {namespace}/{LEASE}: {}; retrying", crate::chain(error));
            self.0 = Some(Instant::now());
        }
    }
}

/// The same client, noting when a write to the lease was sent that the API server took.
fn noting_renewals(
    client: Client,
    namespace: &str,
    identity: &str,
    deadline: Arc<Mutex<Option<Instant>>>,
) -> Client {
    let identity = Arc::<str>::from(identity);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, identity, deadline) = (client.clone(), identity.clone(), deadline.clone());
        async move {
            let renews = request.method() == Method::PATCH;
            // The lease runs from when it was asked for, not from when the answer came.
            let asked = Instant::now();
            let (parts, body) = client.send(request).await?.into_parts();
            let answer = body.collect_bytes().await?;
            if renews && parts.status.is_success() && is_held_by(&identity, &answer) {
                let until = asked + DURATION.saturating_sub(MARGIN);
                *deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
            }
            Ok::<_, kube::Error>(Response::from_parts(parts, Body::from(answer)))
        }
    });
    Client::new(service, namespace)
}

/// Whether the lease that the API server answers with is this operator's: the manager's renewals do not name a holder, so one
/// that comes too late renews the lease of another.
fn is_held_by(identity: &str, answer: &[u8]) -> bool {
    let lease = serde_json::from_slice::<Lease>(answer).ok();
    lease.and_then(|lease| lease.spec?.holder_identity).is_some_and(|holder| holder == identity)
}

#[cfg(test)]
mod tests;
