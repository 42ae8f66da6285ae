//! When a status is worth a write.
//!
//! Every write wakes everybody who watches, and a fleet has thousands of nodes. So what changes a decision is written soon,
//! counts that move are written at a measured pace, and what merely ticks waits for the heartbeat.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crds::TcpCloseNodeStatus;
use crds::node::{PodCounts, Rates, Remark, States, SysctlStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tcp_close::Sysctl;

/// Statuses are written no more often than this, but for the first answer to an order and an overflow that begins.
const PAUSE: Duration = Duration::from_secs(5);
/// Heartbeats are a twentieth of the interval further apart than it says: at the boundaries between intervals a fleet would
/// write exactly as often as it may, and what else it writes would be beyond that.
const HEARTBEAT_LATER: u32 = 20;
/// A heartbeat whose place comes this part of the interval after another write has nothing to add.
const HEARTBEAT_SKIPPED: u32 = 10;
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
    /// Counts have moved: in a small fleet written soon after the last write, in a large one with the heartbeat.
    Counts,
    /// A state has changed: written when the last write is 5 s ago.
    Soon,
    /// The answer to an order, or an overflow that begins: written at once. One that has begun lasts as long as a rate is
    /// measured over, so that it does not begin often.
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
        || overflow_begins(written, status)
    {
        return Urgency::Now;
    }
    if is_other(written, status) {
        return Urgency::Soon;
    }
    let crossed = LIMITS.iter().any(|limit| crosses(limit(written), limit(status)));
    if crossed || counts_moved(written, earlier, status) { Urgency::Counts } else { Urgency::Heartbeat }
}

/// When a status may be written.
#[derive(Clone, Copy, Debug)]
pub struct Pace<'a> {
    /// How often the node reports when nothing of note changes.
    pub interval: Duration,
    /// How often it reports counts that move.
    pub counts: Duration,
    /// The node. Each has its own place in the interval, so that the writes of a fleet are spread evenly whatever had them
    /// begin or report at once.
    pub node: &'a str,
}

impl Pace<'_> {
    /// Whether a status of this urgency goes out, so long after the agent's start and after its last write.
    pub fn is_due(self, urgency: Urgency, lived: Duration, since_written: Duration) -> bool {
        match urgency {
            Urgency::Now => true,
            Urgency::Soon => since_written >= PAUSE,
            Urgency::Counts if !self.keeps_its_place(urgency) => since_written >= self.counts.max(PAUSE),
            Urgency::Counts | Urgency::Heartbeat => self.has_come(lived, since_written),
        }
    }

    /// Whether a status of this urgency waits for the node's place in the interval.
    pub fn keeps_its_place(self, urgency: Urgency) -> bool {
        match urgency {
            Urgency::Heartbeat => true,
            Urgency::Counts => self.counts >= self.interval,
            Urgency::Soon | Urgency::Now => false,
        }
    }

    /// Whether the node's place has come since the last write, or rather since a little after it.
    fn has_come(self, lived: Duration, since_written: Duration) -> bool {
        let mut hasher = DefaultHasher::new();
        self.node.hash(&mut hasher);
        let interval = (self.interval + self.interval / HEARTBEAT_LATER).as_millis().max(1);
        let place = u128::from(hasher.finish()) % interval;
        let round = |at: Duration| (at.as_millis() + place) / interval;
        let Some(since) = since_written.checked_sub(self.interval / HEARTBEAT_SKIPPED) else { return false };
        lived.checked_sub(since).is_none_or(|written| round(written) != round(lived))
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
    own.into_iter().flatten().chain(pods.map(|pod| (Owner::Pod(name(pod)), "tw")))
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

/// Whether a count has moved by much, or has moved and is at rest again: it was read once more since, and was the same.
fn counts_moved(
    written: &TcpCloseNodeStatus,
    earlier: Option<&TcpCloseNodeStatus>,
    status: &TcpCloseNodeStatus,
) -> bool {
    let (written, present) = (counted(written), counted(status));
    let earlier = earlier.map(counted).unwrap_or_default();
    let mut owners = written.iter().chain(&present).map(|known| known.0);
    owners.any(|owner| {
        let [old, earlier, new] = [&written, &earlier, &present].map(|all| find(all, owner));
        let again = earlier.at.is_some() && earlier.at != new.at;
        (0..COUNTS).any(|at| {
            let moved = old.counts[at].abs_diff(new.counts[at]);
            let rests = again && earlier.counts[at] == new.counts[at];
            moved > (old.counts[at] / 10).max(MATERIAL_SOCKETS) || moved > 0 && rests
        })
    })
}

/// Whose counts. The kernel's own figures and the states are read at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner<'a> {
    /// The node's own namespace, and its machine.
    Node,
    /// The node's own namespace, state by state.
    NodeStates,
    /// All pods together.
    Pods,
    /// One pod; those that have no name count together.
    Pod(Option<(&'a str, &'a str)>),
    /// The same, state by state.
    PodStates(Option<(&'a str, &'a str)>),
}

/// As many as there are of states.
const COUNTS: usize = 10;

/// Counts that were read together.
#[derive(Clone, Copy, Debug, Default)]
struct Counted<'a> {
    at: Option<&'a Time>,
    counts: [u64; COUNTS],
}

/// Every count that a write may be for. Rates tick, and are not among them.
fn counted(status: &TcpCloseNodeStatus) -> Vec<(Owner<'_>, Counted<'_>)> {
    let mut all = Vec::new();
    if let Some(sockstat) = &status.sockstat {
        let machine = status.sockets.as_ref().map_or([0; 2], |sockets| {
            [sockets.machine_orphans, sockets.unattributed_orphans.unwrap_or_default()]
        });
        let figures = [sockstat.time_wait_and_fin_wait2, machine[0], machine[1]];
        add(&mut all, Owner::Node, few(sockstat.measured_at.as_ref(), figures));
    }
    if let Some(sockets) = &status.sockets {
        add(&mut all, Owner::NodeStates, by_state(&sockets.states));
    }
    let Some(pods) = &status.pods else { return all };
    let at = pods.measured_at.as_ref();
    let sum = pods.time_wait_and_fin_wait2.unwrap_or_default();
    let namespaces = [pods.namespaces, pods.unread].map(|count| count.unwrap_or_default().into());
    add(&mut all, Owner::Pods, few(at, [sum, namespaces[0], namespaces[1]]));
    for pod in &pods.most {
        add(&mut all, Owner::Pod(name(pod)), few(at, [pod.time_wait_and_fin_wait2, 0, 0]));
        if let Some(states) = &pod.states {
            add(&mut all, Owner::PodStates(name(pod)), by_state(states));
        }
    }
    all
}

fn name(pod: &PodCounts) -> Option<(&str, &str)> {
    pod.namespace.as_deref().zip(pod.name.as_deref())
}

fn few(at: Option<&Time>, [first, second, third]: [u64; 3]) -> Counted<'_> {
    Counted { at, counts: [first, second, third, 0, 0, 0, 0, 0, 0, 0] }
}

fn by_state(states: &States) -> Counted<'_> {
    let counts = [
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
    ];
    Counted { at: states.measured_at.as_ref(), counts }
}

fn add<'a>(all: &mut Vec<(Owner<'a>, Counted<'a>)>, owner: Owner<'a>, more: Counted<'a>) {
    match all.iter_mut().find(|known| known.0 == owner) {
        Some((_, sum)) => {
            sum.counts = std::array::from_fn(|at| sum.counts[at].saturating_add(more.counts[at]));
        }
        None => all.push((owner, more)),
    }
}

/// A pod that is not listed has too few to tell.
fn find<'a>(all: &[(Owner<'_>, Counted<'a>)], owner: Owner<'_>) -> Counted<'a> {
    all.iter().find(|known| known.0 == owner).map(|known| known.1).unwrap_or_default()
}

#[cfg(test)]
mod tests;
