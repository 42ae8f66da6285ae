//! Lead: one operator at a time writes. The others keep their caches warm.
//!
//! The lease alone is not enough: a process may be frozen anywhere, also in the middle of a write, and wake when another
//! leads. So every renewal moves a deadline on this process's own monotonic clock, and past it nothing is written.
//! [`claim`] decides what is written to the lease; [`Candidate`] talks to the API server.

mod claim;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use claim::Claimant;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

use crds::OPERATOR_MANAGER;

/// The lease, in the operator's namespace.
const LEASE: &str = "tcp-close-tuning-operator";
/// A lease that is not renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// Writing stops this long before the lease runs out: a request that was allowed arrives a little later.
const MARGIN: Duration = Duration::from_secs(2);
/// How often one that stands by looks whether the lease has been released, or is renewed no longer.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between attempts while the API server is away, or somebody else writes to the lease.
const RETRY: Duration = Duration::from_secs(1);
/// An attempt that has no answer by then is given up: there is time for another before the lease runs out.
const TIMEOUT: Duration = Duration::from_secs(5);
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
        *self.leads.borrow() && is_before(&self.deadline)
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
    leases: Api<Lease>,
    namespace: String,
    identity: String,
    claimant: Claimant,
    /// What the API server answered to the last write. `None`: it has to be read.
    known: Option<Lease>,
    leads: watch::Sender<bool>,
    deadline: Arc<Mutex<Option<Instant>>>,
    complaint: Complaint,
}

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// The lease is this one's.
    Holds,
    /// It is another's.
    StandsBy,
    /// Somebody has written to it meanwhile: it has to be read again.
    Outrun,
}

/// A lease that cannot be had.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("it cannot be read")]
    Read(#[source] kube::Error),
    #[error("it cannot be written")]
    Write(#[source] kube::Error),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

impl Candidate {
    /// A candidate that does not compete yet, and what others ask.
    pub fn new(client: &Client, namespace: &str, identity: &str) -> (Self, Leadership) {
        let (leads, receiver) = watch::channel(false);
        let deadline = Arc::new(Mutex::new(None));
        let candidate = Self {
            leases: Api::namespaced(client.clone(), namespace),
            namespace: namespace.into(),
            identity: identity.into(),
            claimant: Claimant::new(identity),
            known: None,
            leads,
            deadline: deadline.clone(),
            complaint: Complaint::default(),
        };
        (candidate, Leadership { leads: receiver, deadline })
    }

    /// Competes until told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.compete() => {}
        }
        // First: another leads as soon as the lease is free.
        self.note(false);
        let _ = tokio::time::timeout(RELEASE, self.release()).await;
    }

    async fn compete(&mut self) {
        loop {
            let turn = tokio::time::timeout(TIMEOUT, self.turn()).await;
            let rest = self.rest_after(turn.unwrap_or(Err(Error::Timeout)));
            tokio::time::sleep(rest).await;
        }
    }

    /// Notes whether it leads, and says when to try again.
    fn rest_after(&mut self, turn: Result<Turn, Error>) -> Duration {
        match turn {
            Ok(Turn::Holds) => {
                self.note(true);
                RENEW
            }
            Ok(Turn::StandsBy) => {
                self.note(false);
                LOOK_AGAIN
            }
            // The lease lasts a while without being renewed.
            Ok(Turn::Outrun) | Err(_) => {
                let leads = *self.leads.borrow();
                self.note(leads && is_before(&self.deadline));
                if let Err(error) = turn {
                    self.complaint.log(&self.namespace, &error);
                }
                RETRY
            }
        }
    }

    /// Takes or renews the lease, where it may be had.
    async fn turn(&mut self) -> Result<Turn, Error> {
        let read = self.read().await?;
        let Some(claim) = self.claimant.claim(read.as_ref(), Instant::now(), Timestamp::now()) else {
            return Ok(Turn::StandsBy);
        };
        // The lease runs from when it was asked for, not from when the answer came.
        let until = Instant::now() + DURATION.saturating_sub(MARGIN);
        self.known = self.write(&claim).await?;
        if self.known.is_none() {
            return Ok(Turn::Outrun);
        }
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        Ok(Turn::Holds)
    }

    /// Lets the next one have what is this one's.
    async fn release(&mut self) -> Result<(), Error> {
        while let Some(lease) = self.read().await? {
            let Some(released) = self.claimant.released(&lease) else { break };
            if self.write(&released).await?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// The lease as the last write has left it, or else as the API server has it.
    async fn read(&mut self) -> Result<Option<Lease>, Error> {
        match self.known.take() {
            Some(known) => Ok(Some(known)),
            None => self.leases.get_opt(LEASE).await.map_err(Error::Read),
        }
    }

    /// Writes over the version that was read, and returns what is stored; `None` where somebody was faster.
    async fn write(&self, lease: &Lease) -> Result<Option<Lease>, Error> {
        let params = PostParams { field_manager: Some(OPERATOR_MANAGER.into()), ..PostParams::default() };
        let exists = lease.metadata.resource_version.is_some();
        let written = if exists {
            self.leases.replace(LEASE, &params, lease).await
        } else {
            self.leases.create(&params, lease).await
        };
        match written {
            Ok(stored) => Ok(Some(stored)),
            Err(kube::Error::Api(status)) if status.code == 409 || (exists && status.code == 404) => Ok(None),
            Err(error) => Err(Error::Write(error)),
        }
    }

    fn note(&self, leads: bool) {
        let has_changed = self.leads.send_if_modified(|before| std::mem::replace(before, leads) != leads);
        if has_changed {
            tracing::info!(identity = self.identity, "{}", if leads { "leads" } else { "stands by" });
        }
    }
}

fn is_before(deadline: &Mutex<Option<Instant>>) -> bool {
    let deadline = *deadline.lock().unwrap_or_else(PoisonError::into_inner);
    deadline.is_some_and(|deadline| Instant::now() < deadline)
}

/// Says that the lease cannot be had, once a minute: it is tried every second.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn log(&mut self, namespace: &str, error: &Error) {
        if self.0.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            tracing::warn!("lease {namespace}/{LEASE}: {}; retrying", crate::chain(error));
            self.0 = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
