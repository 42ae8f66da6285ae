//! Sample: how connections close on this node, in its own network namespace and in its pods'.
//!
//! What is not known is absent, and everything that is known has its age.

pub mod budget;
pub mod inside;
pub mod names;
pub mod namespaces;
pub mod own;
pub mod pods;
pub mod ports;
pub mod text;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tcp_close::counters::Rates;
use tcp_close::sockets::{SocketCounts, Sockstat, State};

use self::budget::{Pace, Schedule};
use self::own::Own;
use self::pods::Pods;
use crate::node::Moment;
use crate::procfs::Procfs;

pub use self::names::PodName;

/// Something that was found out, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated<T> {
    /// What.
    pub value: T,
    /// When.
    pub at: Timestamp,
}

/// Everything that is known of closing sockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// The node's own namespace, by what the kernel counts itself.
    pub sockstat: Option<Dated<Sockstat>>,
    /// The node's own namespace, state by state.
    pub states: Option<Dated<SocketCounts>>,
    /// What happens per minute in the node's own namespace, measured since a sysctl was last changed.
    pub rates: Option<Rates>,
    /// The same over the whole time since then, or since the agent started.
    pub rates_since: Option<Rates>,
    /// What happened per minute before that change.
    pub rates_before: Option<Rates>,
    /// The connection tracker's table in the node's own namespace; absent where it has none.
    pub conntrack: Option<Conntrack>,
    /// Ports in the node's own namespace.
    pub ports: Option<Dated<PortUse>>,
    /// The pods' namespaces; or why nothing is known of them, where they are to be counted and cannot be.
    pub pods: Option<Result<PodCensus, String>>,
    /// Orphans of the machine that are in no namespace that was looked at: their pods have ended, or belong to another
    /// node on the same machine. Unknown until every namespace that may hold some has been read.
    pub unattributed_orphans: Option<u64>,
}

impl Census {
    /// Whether connections skip TIME_WAIT, or orphans are reset for lack of memory, in the node's own namespace.
    pub fn overflows(&self) -> bool {
        let happens = |rate: Option<u64>| rate.is_some_and(|rate| rate > 0);
        self.rates.is_some_and(|rates| happens(rates.overflows) || happens(rates.aborts_on_memory))
    }
}

/// `nf_conntrack_count` and `nf_conntrack_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Connections that are tracked, those in its own TIME_WAIT (120 s) among them.
    pub entries: u64,
    /// Above it packets of new connections are dropped.
    pub max: u64,
}

/// Which ports closing sockets belong to, and how near connections come to running out of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortUse {
    /// The ports behind the most closing sockets, the largest first.
    pub behind: Vec<PortCount>,
    /// The (source, destination) pairs with the most ports taken, the largest first.
    pub pairs: Vec<Pair>,
    /// How many ports a pair has: `ip_local_port_range`, both ends included.
    pub available: u32,
}

/// Sockets of one state behind one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortCount {
    /// Which state.
    pub state: State,
    /// Whether the port is this end's (a server's) or the other end's (a client's).
    pub local: bool,
    /// The port.
    pub port: u16,
    /// At least so many.
    pub sockets: u64,
}

/// Connections from one address to one destination: each needs a local port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// This end.
    pub source: IpAddr,
    /// The other end.
    pub destination: (IpAddr, u16),
    /// Local ports taken, in any state. At least so many.
    pub used: u32,
}

/// The pods' network namespaces together.
#[derive(Clone, Debug, PartialEq)]
pub struct PodCensus {
    /// When they were counted last.
    pub at: Timestamp,
    /// Network namespaces on this node beside its own.
    pub namespaces: u32,
    /// Of them: could not be read the last time.
    pub unread: u32,
    /// The kernel's fast figure, TIME_WAIT and FIN_WAIT2 mini-sockets together, summed over those that were read.
    pub minis: u64,
    /// The ten with the most TIME_WAIT, the ten with the most CLOSE_WAIT, the ten with the most overflows: none twice.
    pub most: Vec<PodCounts>,
}

/// One pod's namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct PodCounts {
    /// Which pod; absent where no process in it belongs to a container with a log.
    pub pod: Option<PodName>,
    /// The kernel's fast figure, TIME_WAIT and FIN_WAIT2 mini-sockets together.
    pub minis: u64,
    /// `TCPTimeWaitOverflow` per minute; unknown at first.
    pub overflows_per_minute: Option<u64>,
    /// State by state; unknown until its turn has come.
    pub states: Option<Dated<SocketCounts>>,
}

/// How the pods' namespaces are counted.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// A procfs that shows the node's processes.
    pub processes: Procfs,
    /// The kubelet's `/var/log/containers`.
    pub logs: PathBuf,
    /// How often they are counted.
    pub interval: Duration,
}

/// How often pods are counted by default.
pub const PODS_INTERVAL: Duration = Duration::from_secs(5);

/// What is found out in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Sockstat,
    Counters,
    LookForPods,
    CountPods,
    CountPodsEvents,
    States,
    PodStates,
    Ports,
}

/// Takes the census, each part at its own interval, within one budget of CPU time.
pub struct Sampler {
    own: Own,
    pods: Option<Pods>,
    schedule: Schedule<Task>,
    started: Instant,
    told: Option<String>,
}

impl Sampler {
    /// Reads of the node's own namespace below `procfs`, and of the pods' where they are to be counted.
    pub fn new(procfs: &Procfs, pods: Option<&PodOptions>) -> Self {
        Self {
            own: Own::new(procfs),
            pods: pods.map(|options| Pods::new(&options.processes, options.logs.clone())),
            schedule: schedule(pods.map(|options| options.interval)),
            started: Instant::now(),
            told: None,
        }
    }

    /// Brings the census up to date, as far as it is time for it and the budget allows.
    pub fn update(&mut self, census: &mut Census, now: Moment) {
        let clock = now.clock.saturating_duration_since(self.started);
        let mut changed = false;
        while let Some(task) = self.schedule.next(clock) {
            let before = cpu_time();
            self.run(task, census, clock, now.wall);
            self.schedule.ran(task, clock, cpu_time().saturating_sub(before));
            changed = true;
        }
        if changed {
            census.unattributed_orphans = unattributed(census, self.pods.as_ref().and_then(Pods::orphans));
        }
    }

    /// A sysctl has just been changed: how connections ended so far, and how they end from now on, are kept apart.
    pub fn note_change(&mut self, census: &mut Census, now: Moment) {
        census.rates_before = census.rates.take();
        census.rates_since = None;
        self.own.forget_rates(now.clock.saturating_duration_since(self.started));
    }

    fn run(&mut self, task: Task, census: &mut Census, clock: Duration, at: Timestamp) {
        match task {
            Task::Sockstat => census.sockstat = self.own.sockstat().ok().map(|value| Dated { value, at }),
            Task::Counters => {
                census.rates = self.own.rates(clock);
                census.rates_since = self.own.rates_since();
                census.conntrack = self.own.conntrack();
            }
            Task::States => {
                let states = self.own.states();
                self.tell(states.as_ref().err().map(ToString::to_string));
                census.states = states.ok().map(|value| Dated { value, at });
            }
            Task::Ports => census.ports = self.own.ports().ok().map(|value| Dated { value, at }),
            Task::LookForPods => self.of_pods(census, Pods::look),
            Task::CountPods => self.of_pods(census, |pods| pods.count(at)),
            Task::CountPodsEvents => self.of_pods(census, |pods| pods.count_events(clock)),
            Task::PodStates => self.of_pods(census, |pods| _ = pods.read_next_states(at)),
        }
    }

    fn of_pods(&mut self, census: &mut Census, find_out: impl FnOnce(&mut Pods)) {
        if let Some(pods) = &mut self.pods {
            find_out(pods);
            census.pods = Some(pods.census());
        }
    }

    /// Says once why sockets cannot be counted, and once that they can again.
    fn tell(&mut self, why: Option<String>) {
        if self.told != why {
            if let Some(why) = &why {
                tracing::warn!(why, "closing sockets cannot be counted; they are reported as unknown");
            } else {
                tracing::info!("closing sockets are counted again");
            }
            self.told = why;
        }
    }
}

/// Every step with its part of the budget, which is 0.03 % of a core, and 0.08 % where somebody wants the pods counted more often
/// than by default. With its turns and reports the whole agent is meant to need 0.05 % and 0.1 %; `cargo lab bench agent`
/// measures it. What walks the kernel's table is dear: about 1 ms, and 5 ms beside 60,000 sockets; a pod's states, read as
/// text, cost more than that. The longest intervals are those at which such a node keeps the budget on a slow machine.
fn schedule(pods_interval: Option<Duration>) -> Schedule<Task> {
    let pace = |share, interval: u64, longest| Pace {
        share: Duration::from_micros(share),
        interval: Duration::from_secs(interval),
        longest: Duration::from_secs(longest),
    };
    let own = [
        (Task::Sockstat, pace(10, 1, 1)),
        // An overflow is a tuning's news within 5 s, the way there included.
        (Task::Counters, pace(25, 2, 4)),
        (Task::States, pace(60, 5, 120)),
        (Task::Ports, pace(20, 60, 600)),
    ];
    let pods = pods_interval.map(|interval| {
        let often = interval < PODS_INTERVAL;
        let count = Pace { interval, ..pace(if often { 500 } else { 70 }, 5, 60) };
        [
            (Task::LookForPods, pace(20, 5, 30)),
            (Task::CountPods, count),
            (Task::CountPodsEvents, pace(30, 30, 300)),
            (Task::PodStates, pace(40, 5, 600)),
        ]
    });
    Schedule::new(own.into_iter().chain(pods.into_iter().flatten()))
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// What the machine has beyond what was found in the namespaces that were looked at. The machine's count is newer than the
/// others, so that it may be lower for a moment.
fn unattributed(census: &Census, pods_orphans: Option<u64>) -> Option<u64> {
    let machine = census.sockstat?.value.machine_orphans;
    if machine == 0 {
        return Some(0);
    }
    let found = census.states?.value.orphans.saturating_add(pods_orphans?);
    Some(machine.saturating_sub(found))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::procfs::tests::tree;

    fn census(machine_orphans: u64, own: Option<u64>) -> Census {
        let at = Timestamp::UNIX_EPOCH;
        let counts = |orphans| SocketCounts { orphans, ..SocketCounts::default() };
        Census {
            sockstat: Some(Dated { value: Sockstat { tw: 0, machine_orphans }, at }),
            states: own.map(|orphans| Dated { value: counts(orphans), at }),
            ..Census::default()
        }
    }

    #[test]
    fn orphans_in_no_namespace_that_was_looked_at_are_what_the_machine_has_more() {
        assert_eq!(unattributed(&census(10, Some(3)), Some(5)), Some(2));
        assert_eq!(unattributed(&census(6, Some(3)), Some(5)), Some(0), "some ended meanwhile");
    }

    #[test]
    fn such_orphans_are_unknown_until_every_namespace_was_read() {
        assert_eq!(unattributed(&census(10, Some(3)), None), None);
        assert_eq!(unattributed(&census(10, None), Some(5)), None);
        assert_eq!(unattributed(&Census::default(), Some(5)), None);
        assert_eq!(
            unattributed(&census(0, None), None),
            Some(0),
            "a machine without orphans has none anywhere"
        );
    }

    /// Costs as measured on a slow machine, beside 60,000 TIME_WAIT and 110 namespaces.
    fn cost(task: Task) -> Duration {
        Duration::from_micros(match task {
            Task::Sockstat => 25,
            Task::Counters => 55,
            Task::LookForPods => 100,
            Task::CountPods => 1000,
            Task::CountPodsEvents => 6000,
            Task::States => 5000,
            Task::PodStates => 23_000,
            Task::Ports => 16_000,
        })
    }

    #[test]
    fn all_of_it_needs_a_bounded_share_of_a_core_on_a_slow_machine_and_nothing_is_left_out() {
        for (interval, share) in [(5, Duration::from_micros(300)), (1, Duration::from_micros(800))] {
            let mut schedule = schedule(Some(Duration::from_secs(interval)));
            let (mut cpu, mut ran) = (Duration::ZERO, [0; 8]);
            for clock in (0..3600).map(Duration::from_secs) {
                while let Some(task) = schedule.next(clock) {
                    cpu += cost(task);
                    ran[task as usize] += 1;
                    schedule.ran(task, clock, cost(task));
                }
            }
            assert!(cpu <= share * 3600, "{cpu:?} in an hour, {ran:?}");
            assert!(ran.iter().all(|times| *times >= 6), "{ran:?}");
        }
    }

    #[test]
    fn a_census_is_kept_up_to_date() {
        let (dir, procfs) = tree(&[]);
        let (mut sampler, mut census) = (Sampler::new(&procfs, None), Census::default());
        for (second, tw) in [(0, 7), (1, 8)] {
            let text = format!("TCP: inuse 1 orphan 0 tw {tw} alloc 1 mem 1\n");
            fs::write(dir.path().join("self/net/sockstat"), text).unwrap();
            let clock = sampler.started + Duration::from_secs(second);
            sampler.update(&mut census, Moment { clock, wall: Timestamp::UNIX_EPOCH });
            assert_eq!(census.sockstat.unwrap().value, Sockstat { tw, machine_orphans: 0 });
        }
        assert_eq!(census.pods, None, "nobody wants pods counted");
    }

    #[test]
    fn how_connections_end_before_and_after_a_change_is_kept_apart() {
        let (dir, procfs) = tree(&[]);
        let (mut sampler, mut census) = (Sampler::new(&procfs, None), Census::default());
        let start = sampler.started;
        let mut live = |census: &mut Census, seconds: std::ops::RangeInclusive<u64>, changed: bool| {
            for second in seconds {
                let text = format!("Tcp: OutRsts\nTcp: {}\n", second.min(60));
                fs::write(dir.path().join("self/net/snmp"), text).unwrap();
                let clock = start + Duration::from_secs(second);
                sampler.update(census, Moment { clock, wall: Timestamp::UNIX_EPOCH });
                if changed {
                    sampler.note_change(census, Moment { clock, wall: Timestamp::UNIX_EPOCH });
                }
            }
        };
        let resets = |rates: Option<Rates>| rates.and_then(|rates| rates.resets_sent);
        live(&mut census, 0..=60, false);
        assert_eq!((resets(census.rates), resets(census.rates_since)), (Some(60), Some(60)));
        live(&mut census, 61..=61, true);
        assert_eq!((census.rates, census.rates_since, resets(census.rates_before)), (None, None, Some(60)));
        live(&mut census, 62..=75, false);
        assert_eq!((resets(census.rates), resets(census.rates_since)), (Some(0), Some(0)));
        assert_eq!(resets(census.rates_before), Some(60));
        live(&mut census, 76..=76, true);
        live(&mut census, 77..=77, true);
        assert_eq!(census.rates_before, None, "a second was too short to measure");
    }

    #[test]
    fn what_can_no_longer_be_read_is_unknown_again() {
        let (dir, procfs) = tree(&[]);
        let (mut sampler, mut census) = (Sampler::new(&procfs, None), census(5, None));
        fs::write(dir.path().join("self/net/sockstat"), "garbage").unwrap();
        sampler.update(&mut census, Moment::now());
        assert_eq!((census.sockstat, census.states, census.unattributed_orphans), (None, None, None));
    }
}
