//! What to write over the lease that was read. It computes only: what was read, and the time, come in.
//!
//! Nobody's wall clock decides. The times in a lease are for people; whether its holder lives shows in that the lease
//! changes, which is measured on this process's own monotonic clock. Every claim is a write over the version that was
//! read, so that of two claims one is refused.

use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;

use super::{DURATION, LEASE};

/// One who competes for the lease, and what it has seen of it.
pub(super) struct Claimant {
    identity: String,
    /// The last sign of life of whoever holds it, and when it was first seen.
    seen: Option<(Sign, Instant)>,
}

/// What changes as long as a holder lives.
#[derive(PartialEq)]
struct Sign {
    /// Empty: nobody.
    holder: String,
    renewed: Option<MicroTime>,
    version: Option<String>,
}

impl Claimant {
    pub(super) fn new(identity: &str) -> Self {
        Self { identity: identity.into(), seen: None }
    }

    /// The lease as it is to be written, where it is this one's already, nobody's, or of somebody who has not renewed it for as
    /// long as it lasts; `None` while it is another's. `now` is when the answer was there.
    pub(super) fn claim(&mut self, read: Option<&Lease>, now: Instant, wall: Timestamp) -> Option<Lease> {
        let sign = self.sign(read);
        let is_open = sign.holder.is_empty() || sign.holder == self.identity;
        let since = match &self.seen {
            Some((seen, since)) if *seen == sign => *since,
            Some(_) | None => {
                self.seen = Some((sign, now));
                now
            }
        };
        let is_abandoned = now.saturating_duration_since(since) >= DURATION;
        (is_open || is_abandoned).then(|| self.claimed(read, MicroTime(wall)))
    }

    fn sign(&self, read: Option<&Lease>) -> Sign {
        let Some(lease) = read else {
            // Somebody deleted it. Who held it does not know yet, and may write for as long as it lasts.
            let holder = self.seen.as_ref().map(|(seen, _)| seen.holder.clone());
            return Sign { holder: holder.unwrap_or_default(), renewed: None, version: None };
        };
        Sign {
            holder: holder(lease).into(),
            renewed: lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()),
            version: lease.metadata.resource_version.clone(),
        }
    }

    fn claimed(&self, read: Option<&Lease>, now: MicroTime) -> Lease {
        let before = read.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let renews = read.is_some_and(|lease| holder(lease) == self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        let (acquired, transitions) = match read {
            Some(_) if renews => (before.acquire_time.or_else(|| Some(now.clone())), transitions),
            Some(_) => (Some(now.clone()), transitions.saturating_add(1)),
            None => (Some(now.clone()), 0),
        };
        let named = || ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() };
        Lease {
            metadata: read.map_or_else(named, |lease| lease.metadata.clone()),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: acquired,
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..before
            }),
        }
    }

    /// The lease without a holder; `None` where it is another's, or nobody's already.
    pub(super) fn released(&self, read: &Lease) -> Option<Lease> {
        (holder(read) == self.identity).then(|| {
            let before = read.spec.clone().unwrap_or_default();
            // An operator of 0.1.0 does not take a lease whose fields somebody else has set; the count it takes as it is.
            let spec = LeaseSpec {
                holder_identity: None,
                lease_duration_seconds: None,
                acquire_time: None,
                renew_time: None,
                ..before
            };
            Lease { metadata: read.metadata.clone(), spec: Some(spec) }
        })
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
