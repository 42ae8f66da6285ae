//! When a status is worth a write.
//!
//! Every write wakes everybody who watches, and a fleet has thousands of nodes. So what changes a decision is written soon,
//! counts that move are written at a measured pace, and what merely ticks waits for the heartbeat.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crds::TcpCloseNodeStatus;
use crds::node::{Rates, Remark, States, SysctlStatus};
use tcp_close::Sysctl;

/// Statuses are written no more often than this, but for the first answer to an order.
const PAUSE: Duration = Duration::from_secs(5);
/// For counts alone a status is written no more often than so many times in a report interval.
const COUNTS_PER_INTERVAL: u32 = 4;
/// A count is material when it has moved by a tenth, or by so many sockets, whichever is more.
const MATERIAL_SOCKETS: u64 = 100;
/// A count that is the same after this long, the interval at which sockets are counted, is at rest.
const AT_REST_AFTER: Duration = Duration::from_secs(5);
/// Shares of a limit, in percent, whose crossing is material.
const THRESHOLDS: [u64; 2] = [80, 100];

/// How the present differs from what was last written, from nothing to what cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Written when the interval is over.
    Heartbeat,
    /// Counts have moved: written when the last write is a quarter of the interval ago.
    Counts,
    /// A state has changed, or an overflow begun: written when the last write is 5 s ago.
    Soon,
    /// The answer to an order: written at once.
    Now,
}

/// How urgent it is to write a status, given the one that was written last and one of [`AT_REST_AFTER`] ago or more.
pub fn urgency(
    written: Option<&TcpCloseNodeStatus>,
    earlier: Option<&TcpCloseNodeStatus>,
    status: &TcpCloseNodeStatus,
) -> Urgency {
    let Some(written) = written else { return Urgency::Now };
    if written.observed_generation != status.observed_generation
        || written.observed_revision != status.observed_revision
    {
        return Urgency::Now;
    }
    if is_other(written, status) || overflow_begins(written, status) {
        return Urgency::Soon;
    }
    let crossed = LIMITS.iter().any(|limit| crosses(limit(written), limit(status)));
    if crossed || counts_moved(written, earlier, status) { Urgency::Counts } else { Urgency::Heartbeat }
}

/// Whether so much time has passed since the last write that a status of this urgency goes out.
///
/// Heartbeats of a fleet spread over the last tenth of the interval, each node at its own place.
pub fn is_due(urgency: Urgency, since_written: Duration, interval: Duration, node: &str) -> bool {
    match urgency {
        Urgency::Now => true,
        Urgency::Soon => since_written >= PAUSE,
        Urgency::Counts => since_written >= PAUSE.max(interval / COUNTS_PER_INTERVAL),
        Urgency::Heartbeat => {
            let mut hasher = DefaultHasher::new();
            node.hash(&mut hasher);
            let early = interval / 10 * u32::try_from(hasher.finish() % 100).unwrap_or_default() / 100;
            since_written >= interval.saturating_sub(early)
        }
    }
}

/// Remembers a status until it is old enough to show which counts are at rest.
#[derive(Debug, Default)]
pub struct Past {
    old: Option<TcpCloseNodeStatus>,
    young: Option<(Instant, TcpCloseNodeStatus)>,
}

impl Past {
    /// Takes note of the present.
    pub fn note(&mut self, status: &TcpCloseNodeStatus, now: Instant) {
        let is_old = |(noted, _): &(Instant, _)| now.saturating_duration_since(*noted) >= AT_REST_AFTER;
        if self.young.as_ref().is_none_or(is_old) {
            self.old = self.young.replace((now, status.clone())).map(|(_, status)| status);
        }
    }

    /// A status of [`AT_REST_AFTER`] ago or more.
    pub fn earlier(&self) -> Option<&TcpCloseNodeStatus> {
        self.old.as_ref()
    }
}

/// Whether something differs that is no count.
fn is_other(written: &TcpCloseNodeStatus, status: &TcpCloseNodeStatus) -> bool {
    without_words(written) != without_words(status)
        || written.life != status.life
        || known(written) != known(status)
}

/// What is known at all.
fn known(status: &TcpCloseNodeStatus) -> [bool; 4] {
    let pods = status.pods.as_ref();
    [
        status.sockets.is_some(),
        status.sockstat.is_some(),
        pods.is_some(),
        pods.is_some_and(|pods| pods.unknown.is_some()),
    ]
}

/// What a status says of sysctls and conditions, less the words: numbers in them move all the time, and a write for each
/// would be a storm.
fn without_words(
    status: &TcpCloseNodeStatus,
) -> (Vec<SysctlStatus>, Vec<SysctlStatus>, Vec<(String, String)>) {
    let plain = |row: &SysctlStatus| SysctlStatus {
        message: None,
        remarks: row
            .remarks
            .iter()
            .map(|remark| Remark { message: String::new(), ..remark.clone() })
            .collect(),
        ..row.clone()
    };
    let observed = status.observe.iter().flat_map(|observed| observed.sysctls.iter().map(plain));
    let conditions = status.conditions.iter();
    (
        status.sysctls.iter().map(plain).collect(),
        observed.collect(),
        conditions.map(|condition| (condition.type_.clone(), condition.reason.clone())).collect(),
    )
}

/// Whether something overflows now, in the node's namespace or in a listed pod's, that did not when the status was written.
fn overflow_begins(written: &TcpCloseNodeStatus, status: &TcpCloseNodeStatus) -> bool {
    let before: Vec<_> = overflows(written).collect();
    overflows(status).any(|overflow| !before.contains(&overflow))
}

/// Whose, and which: an overflow that goes on.
fn overflows(status: &TcpCloseNodeStatus) -> impl Iterator<Item = (Owner<'_>, &'static str)> {
    let own = |of: fn(&Rates) -> Option<u64>, what| {
        let rate = status.rates.as_ref().and_then(of);
        rate.filter(|rate| *rate > 0).map(|_| (Owner::Node, what))
    };
    let own = [own(|rates| rates.overflows, "tw"), own(|rates| rates.aborts_on_memory, "memory")];
    let pods = status.pods.iter().flat_map(|pods| &pods.most);
    let pods = pods.filter(|pod| pod.overflows_per_minute.is_some_and(|rate| rate > 0));
    own.into_iter().flatten().chain(pods.map(|pod| (Owner::of_pod(pod), "tw")))
}

/// What is in use of something, and how much of it there is.
type Limit = fn(&TcpCloseNodeStatus) -> Option<(u64, u64)>;

/// Everything whose thresholds are watched. What is not known crosses nothing.
const LIMITS: [Limit; 4] = [
    |status| Some((status.sockstat.as_ref()?.time_wait_and_fin_wait2, live(status, Sysctl::MaxTwBuckets)?)),
    |status| Some((status.sockets.as_ref()?.machine_orphans, live(status, Sysctl::MaxOrphans)?)),
    |status| status.conntrack.as_ref().map(|table| (table.entries, table.max)),
    |status| {
        let pairs = status.ports.iter().flat_map(|ports| &ports.pairs);
        pairs.map(|pair| (pair.used.into(), pair.available.into())).max_by_key(|(used, _)| *used)
    },
];

fn live(status: &TcpCloseNodeStatus, sysctl: Sysctl) -> Option<u64> {
    let row = status.sysctls.iter().find(|row| row.name == sysctl.name())?;
    row.live?.try_into().ok()
}

fn crosses(written: Option<(u64, u64)>, present: Option<(u64, u64)>) -> bool {
    let reached = |(used, limit): (u64, u64)| {
        let share = |percent: u64| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
        THRESHOLDS.into_iter().filter(|percent| share(*percent)).count()
    };
    written.is_some_and(|written| present.is_some_and(|present| reached(written) != reached(present)))
}

/// Whether a count has moved by much, or has moved and is at rest again.
fn counts_moved(
    written: &TcpCloseNodeStatus,
    earlier: Option<&TcpCloseNodeStatus>,
    status: &TcpCloseNodeStatus,
) -> bool {
    let (written, present) = (counts(written), counts(status));
    let earlier = earlier.map(counts);
    let owners = written.iter().chain(&present).map(|counted| counted.0);
    owners.into_iter().any(|owner| {
        let (old, new) = (find(&written, owner), find(&present, owner));
        let rested = earlier.as_ref().map(|earlier| find(earlier, owner));
        (0..COUNTS).any(|at| {
            let moved = old[at].abs_diff(new[at]);
            let rests = rested.is_some_and(|rested| rested[at] == new[at]);
            moved > (old[at] / 10).max(MATERIAL_SOCKETS) || moved > 0 && rests
        })
    })
}

/// Whose counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner<'a> {
    /// The node's own namespace, and its machine.
    Node,
    /// All pods together.
    Pods,
    /// One pod; those that have no name count together.
    Pod(Option<(&'a str, &'a str)>),
}

impl<'a> Owner<'a> {
    fn of_pod(pod: &'a crds::node::PodCounts) -> Self {
        Self::Pod(pod.namespace.as_deref().zip(pod.name.as_deref()))
    }
}

/// Ten states, and three more that depend on the owner.
const COUNTS: usize = 13;
type Counts = [u64; COUNTS];

/// Every count that a write may be for. Rates and ages tick, and are not among them.
fn counts(status: &TcpCloseNodeStatus) -> Vec<(Owner<'_>, Counts)> {
    let sockets = status.sockets.as_ref();
    let own = [
        status.sockstat.as_ref().map_or(0, |sockstat| sockstat.time_wait_and_fin_wait2),
        sockets.map_or(0, |sockets| sockets.machine_orphans),
        sockets.and_then(|sockets| sockets.unattributed_orphans).unwrap_or_default(),
    ];
    let mut all = vec![(Owner::Node, with_states(own, sockets.map(|sockets| &sockets.states)))];
    let Some(pods) = &status.pods else { return all };
    let together = [
        pods.time_wait_and_fin_wait2.unwrap_or_default(),
        pods.namespaces.unwrap_or_default().into(),
        pods.unread.unwrap_or_default().into(),
    ];
    all.push((Owner::Pods, with_states(together, None)));
    for pod in &pods.most {
        let (owner, fast) = (Owner::of_pod(pod), [pod.time_wait_and_fin_wait2, 0, 0]);
        let counts = with_states(fast, pod.states.as_ref());
        match all.iter_mut().find(|known| known.0 == owner) {
            Some((_, sum)) => *sum = std::array::from_fn(|at| sum[at].saturating_add(counts[at])),
            None => all.push((owner, counts)),
        }
    }
    all
}

fn with_states([first, second, third]: [u64; 3], states: Option<&States>) -> Counts {
    let absent = States::default();
    let states = states.unwrap_or(&absent);
    [
        first,
        second,
        third,
        states.time_wait,
        states.orphans,
        states.zero_window_orphans.unwrap_or_default(),
        states.fin_wait1,
        states.fin_wait2,
        states.fin_wait2_held.unwrap_or_default(),
        states.closing,
        states.close_wait,
        states.unaccepted.unwrap_or_default(),
        states.last_ack,
    ]
}

/// A pod that is not listed has too few to tell.
fn find(all: &[(Owner<'_>, Counts)], owner: Owner<'_>) -> Counts {
    all.iter().find(|counted| counted.0 == owner).map_or([0; COUNTS], |counted| counted.1)
}

#[cfg(test)]
mod tests;
