//! The pods' network namespaces. No file of theirs is held open between two calls: that would keep a dead pod's namespace alive.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tcp_close::sockets::{SocketCounts, Sockstat, Tally};

use super::names::Names;
use super::namespaces::{Found, Inode, Processes, Unread, Way, own_namespace};
use super::text::in_sockstat;
use super::{Dated, PodCensus, PodCounts, PodName};
use crate::procfs::{Procfs, counter};

/// How long each list of the largest is.
const LARGEST: usize = 10;
/// The states of a namespace are not read more often.
const STATES_AGE_MIN: Duration = Duration::from_secs(10);
/// So long a count of orphans is good where sockets have come or gone since.
const ORPHANS_AGE_MAX: Duration = Duration::from_secs(300);
/// Overflows are read again after this long even where they are not to be expected.
const OVERFLOWS_AGE_MAX: Duration = Duration::from_secs(300);
/// Descriptors that are left to the rest of the program.
const DESCRIPTORS_LEFT: usize = 256;
/// No small file of a namespace is longer.
const FILE_BYTES_MAX: usize = 16 * 1024;

/// Every network namespace on this node beside its own.
pub struct Pods {
    processes: Processes,
    names: Names,
    namespaces: BTreeMap<Inode, Pod>,
    /// Why nothing is known.
    blind: Option<String>,
    counted: Option<Timestamp>,
    /// The machine's, as a pod's namespace showed it last.
    machine_orphans: u64,
    /// Whether the next states are read for the orphans, if those of any are wanted.
    is_turn_of_orphans: bool,
    descriptors_max: usize,
    buffer: Vec<u8>,
}

/// What is known of a namespace, as long as the process lives through which it is seen: an inode's number goes on to another
/// namespace when its own is gone.
struct Pod {
    way: Way,
    name: Option<PodName>,
    /// `None`: could not be read the last time.
    minis: Option<u64>,
    bounds: Option<Bounds>,
    overflows: Option<Overflows>,
    states: Option<States>,
    /// When the states were last asked for.
    tried: Option<Timestamp>,
}

/// What is not dearer to read than the counters are, and cannot be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    /// In ESTABLISHED or CLOSE_WAIT: `CurrEstab`.
    established: u64,
    /// Full sockets in other states, those that listen and orphans among them.
    others: u64,
}

/// `TCPTimeWaitOverflow`.
struct Overflows {
    total: u64,
    clock: Duration,
    per_minute: Option<u64>,
}

struct States {
    dated: Dated<SocketCounts>,
    /// What bounded them then.
    bounds: Option<Bounds>,
}

/// A pod, and a process of it in the procfs that was looked through.
pub struct Seen {
    /// The process.
    pub pid: u32,
    /// What is known.
    pub counts: PodCounts,
}

impl Pods {
    /// Looks through `procfs`, which must show the node's processes; `logs` is the kubelet's `/var/log/containers`.
    pub fn new(procfs: &Procfs, logs: PathBuf) -> Self {
        Self::beside(own_namespace(), procfs, logs)
    }

    fn beside(own: Result<Inode, String>, procfs: &Procfs, logs: PathBuf) -> Self {
        Self {
            processes: Processes::new(procfs.root().into(), own),
            names: Names::new(logs),
            namespaces: BTreeMap::new(),
            blind: Some("nobody has looked yet".into()),
            counted: None,
            machine_orphans: 0,
            is_turn_of_orphans: false,
            descriptors_max: raise_descriptor_limit().saturating_sub(DESCRIPTORS_LEFT),
            buffer: vec![0; FILE_BYTES_MAX],
        }
    }

    /// Looks for namespaces that are new: reads the list of processes, and looks at new ones, twice. Those that are gone show when
    /// they are counted.
    pub fn look(&mut self) {
        self.names.allow_reading();
        match self.processes.look() {
            Err(why) => self.blind = Some(why),
            Ok(found) => {
                self.blind = None;
                for found in found {
                    self.note(found);
                }
            }
        }
    }

    /// Takes note of a process in another namespace: it may be the first one there, or tell the pod's name.
    fn note(&mut self, found: Found) {
        if !self.namespaces.contains_key(&found.namespace) {
            let way = self.way(found.pid, found.namespace);
            self.namespaces.insert(found.namespace, Pod::new(way));
        }
        // A process that has just come may only be passing through.
        if found.stayed {
            self.name(found);
        }
    }

    fn way(&self, pid: u32, namespace: Inode) -> Way {
        // Each holds one at most.
        Way::through(self.processes.root(), pid, namespace, self.namespaces.len() < self.descriptors_max)
    }

    fn name(&mut self, found: Found) {
        let Some(pod) = self.namespaces.get_mut(&found.namespace).filter(|pod| pod.name.is_none()) else {
            return;
        };
        pod.name = self.processes.cgroup(found).and_then(|cgroup| self.names.of(&cgroup));
    }

    /// Reads what the kernel counts itself in every namespace: `sockstat`.
    pub fn count(&mut self, at: Timestamp) {
        let mut ended = Vec::new();
        for (namespace, pod) in &mut self.namespaces {
            match pod.count(&mut self.buffer) {
                Ok(machine_orphans) => self.machine_orphans = machine_orphans,
                Err(Unread::Gone) => ended.push(*namespace),
                Err(Unread::Failed(_)) => {}
            }
        }
        self.namespaces.retain(|namespace, _| ended.binary_search(namespace).is_err());
        self.find_again(&ended);
        self.counted = Some(at);
    }

    /// A namespace whose process has ended may have others; what is known of it begins anew.
    fn find_again(&mut self, ended: &[Inode]) {
        if ended.is_empty() {
            return;
        }
        let others: Vec<_> = self.processes.in_namespaces(ended).collect();
        for (pid, namespace) in others {
            if self.namespaces.contains_key(&namespace) {
                continue;
            }
            let mut pod = Pod::new(self.way(pid, namespace));
            if !matches!(pod.count(&mut self.buffer), Err(Unread::Gone)) {
                self.namespaces.insert(namespace, pod);
                self.name(Found { pid, namespace, stayed: true });
            }
        }
    }

    /// Reads every namespace's counters: established connections, overflows. `clock` never goes back.
    pub fn count_events(&mut self, clock: Duration) {
        for pod in self.namespaces.values_mut() {
            pod.count_events(clock, &mut self.buffer);
        }
    }

    /// Reads the states of the one namespace whose turn it is; `false` where none needs it.
    pub fn read_next_states(&mut self, at: Timestamp) -> bool {
        let for_lists = Self::next(at, self.list_candidates());
        let for_orphans = Self::next(at, self.orphan_candidates());
        let [first, second] =
            if self.is_turn_of_orphans { [for_orphans, for_lists] } else { [for_lists, for_orphans] };
        self.is_turn_of_orphans = !self.is_turn_of_orphans;
        let Some(pod) = first.or(second).and_then(|namespace| self.namespaces.get_mut(&namespace)) else {
            return false;
        };
        pod.read_states(at);
        true
    }

    /// Of these, the one that was not asked for longest.
    fn next<'a>(at: Timestamp, pods: impl Iterator<Item = (&'a Inode, &'a Pod)>) -> Option<Inode> {
        let due = pods.filter(|(_, pod)| pod.tried.is_none_or(|tried| age(tried, at) >= STATES_AGE_MIN));
        due.min_by_key(|(_, pod)| pod.tried).map(|(namespace, _)| *namespace)
    }

    /// Namespaces that are in one of the lists, or whose bound could place them there.
    fn list_candidates(&self) -> impl Iterator<Item = (&Inode, &Pod)> {
        let minis = self.tenth(Pod::minis);
        let close_wait = self.tenth(Pod::close_wait);
        self.namespaces.iter().filter(move |(_, pod)| {
            let established = pod.bounds.map_or(0, |bounds| bounds.established);
            let is_in = |count: u64, tenth: u64| count > 0 && count >= tenth;
            is_in(pod.minis(), minis) || is_in(pod.close_wait(), close_wait) || established > close_wait
        })
    }

    /// Namespaces that may hold orphans, which are not known.
    fn orphan_candidates(&self) -> impl Iterator<Item = (&Inode, &Pod)> {
        let wanted = self.machine_orphans > 0;
        let now = self.counted.filter(|_| wanted);
        let unknown =
            move |pod: &Pod| now.is_some_and(|now| pod.bounds.is_some() && pod.orphans(now).is_none());
        self.namespaces.iter().filter(move |(_, pod)| unknown(pod))
    }

    /// The tenth largest figure; 0 where fewer have any.
    fn tenth(&self, figure: impl Fn(&Pod) -> u64) -> u64 {
        self.largest(figure).nth(LARGEST - 1).map_or(0, |(count, _)| count)
    }

    /// The namespaces that have any, those with the most first.
    fn largest(&self, figure: impl Fn(&Pod) -> u64) -> impl Iterator<Item = (u64, Inode)> {
        let figures = self.namespaces.iter().map(|(namespace, pod)| (figure(pod), *namespace));
        let mut figures: Vec<_> = figures.filter(|(count, _)| *count > 0).collect();
        figures.sort_unstable_by_key(|(count, namespace)| (Reverse(*count), *namespace));
        figures.into_iter()
    }

    /// What is known; `Err` says why nothing is.
    ///
    /// # Errors
    /// Where `/proc` shows no other process.
    pub fn census(&self) -> Result<PodCensus, String> {
        if let Some(why) = &self.blind {
            return Err(why.clone());
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(PodCensus {
            at: self.counted.ok_or("nobody has counted yet")?,
            namespaces: number(self.namespaces.len()),
            unread: number(self.namespaces.values().filter(|pod| pod.minis.is_none()).count()),
            minis: self.namespaces.values().map(Pod::minis).fold(0, u64::saturating_add),
            most: self.most().into_iter().map(|seen| seen.counts).collect(),
        })
    }

    /// The ten with the most TIME_WAIT, the ten with the most CLOSE_WAIT, the ten with the most overflows: none twice, by name.
    pub fn most(&self) -> Vec<Seen> {
        let largest = |figure: fn(&Pod) -> u64| self.largest(figure).take(LARGEST);
        let all =
            largest(Pod::minis).chain(largest(Pod::close_wait)).chain(largest(Pod::overflows_per_minute));
        let chosen: BTreeSet<Inode> = all.map(|(_, namespace)| namespace).collect();
        let mut most: Vec<Seen> =
            chosen.iter().filter_map(|it| self.namespaces.get(it)).map(Pod::seen).collect();
        most.sort_by(|one, other| {
            let key = |seen: &Seen| (seen.counts.pod.is_none(), seen.counts.pod.clone());
            key(one).cmp(&key(other))
        });
        most
    }

    /// Orphans in all namespaces together, once every one that may hold some has been read.
    pub fn orphans(&self) -> Option<u64> {
        let now = self.counted.filter(|_| self.blind.is_none())?;
        if self.machine_orphans == 0 {
            return Some(0);
        }
        self.namespaces.values().map(|pod| pod.orphans(now)).sum()
    }

    /// Why nothing is known.
    pub fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// A way into the namespace of a pod.
    pub fn way_into(&self, name: &PodName) -> Option<&Way> {
        self.namespaces.values().find(|pod| pod.name.as_ref() == Some(name)).map(|pod| &pod.way)
    }

    /// The pods that have a name, in the order of names.
    pub fn names(&self) -> BTreeSet<&PodName> {
        self.namespaces.values().filter_map(|pod| pod.name.as_ref()).collect()
    }
}

impl Pod {
    fn new(way: Way) -> Self {
        Self { way, name: None, minis: None, bounds: None, overflows: None, states: None, tried: None }
    }

    /// Reads the fast figure; returns the machine's orphans.
    fn count(&mut self, buffer: &mut [u8]) -> Result<u64, Unread> {
        self.minis = None;
        let text = self.way.sockstat(buffer)?;
        let sockstat = Sockstat::parse(text);
        self.minis = sockstat.map(|sockstat| sockstat.tw);
        sockstat.map(|sockstat| sockstat.machine_orphans).ok_or_else(|| Unread::not_understood("sockstat"))
    }

    fn count_events(&mut self, clock: Duration, buffer: &mut [u8]) {
        // What cannot be read is unknown. Whether the namespace is gone shows when it is counted.
        self.bounds = self.read_bounds(buffer).ok().flatten();
        if self.may_overflow(clock) {
            let total = self.read_overflows(buffer).ok().flatten();
            self.overflows = total.map(|total| Overflows::new(total, clock, self.overflows.as_ref()));
        }
        if self.way.has_stayed().is_err() {
            (self.bounds, self.overflows) = (None, None);
        }
    }

    /// Where nothing is in TIME_WAIT nothing overflows, unless tcp_max_tw_buckets is 0: such a namespace is read seldom, as
    /// the file with that counter is the dearest.
    fn may_overflow(&self, clock: Duration) -> bool {
        let Some(known) = &self.overflows else { return true };
        let is_old = clock.saturating_sub(known.clock) >= OVERFLOWS_AGE_MAX;
        self.minis != Some(0) || known.per_minute > Some(0) || is_old
    }

    fn read_overflows(&self, buffer: &mut [u8]) -> Result<Option<u64>, Unread> {
        let text = self.way.file("netstat", buffer)?;
        Ok(text.and_then(|text| counter(text, "TcpExt: ", "TCPTimeWaitOverflow")))
    }

    fn read_bounds(&self, buffer: &mut [u8]) -> Result<Option<Bounds>, Unread> {
        let established = self.way.file("snmp", buffer)?.and_then(|text| counter(text, "Tcp: ", "CurrEstab"));
        let v4 = in_sockstat(self.way.sockstat(buffer)?, "TCP", "inuse");
        // A kernel without IPv6 has no such file.
        let v6 =
            self.way.file("sockstat6", buffer)?.map_or(Some(0), |text| in_sockstat(text, "TCP6", "inuse"));
        let bounds =
            |established, full: u64| Bounds { established, others: full.saturating_sub(established) };
        Ok(established
            .zip(v4)
            .zip(v6)
            .map(|((established, v4), v6)| bounds(established, v4.saturating_add(v6))))
    }

    fn read_states(&mut self, at: Timestamp) {
        self.tried = Some(at);
        let mut tally = Tally::default();
        let read = self.way.sockets(|line| line.closing().into_iter().for_each(|socket| tally.add(socket)));
        let dated = Dated { value: tally.counts(), at };
        self.states = read.ok().map(|()| States { dated, bounds: self.bounds });
    }

    /// 0 where it is not known: nothing places it in a list then.
    fn minis(&self) -> u64 {
        self.minis.unwrap_or_default()
    }

    fn close_wait(&self) -> u64 {
        self.states.as_ref().map_or(0, |states| states.dated.value.close_wait)
    }

    fn overflows_per_minute(&self) -> u64 {
        self.overflows.as_ref().and_then(|overflows| overflows.per_minute).unwrap_or_default()
    }

    /// None can be where only established sockets are. What was read once stays true while the number of the others stays.
    fn orphans(&self, now: Timestamp) -> Option<u64> {
        let bounds = self.bounds?;
        if bounds.others == 0 {
            return Some(0);
        }
        let states = self.states.as_ref()?;
        let is_good = states.bounds.is_some_and(|then| then.others == bounds.others)
            || age(states.dated.at, now) <= ORPHANS_AGE_MAX;
        is_good.then_some(states.dated.value.orphans)
    }

    fn seen(&self) -> Seen {
        let counts = PodCounts {
            pod: self.name.clone(),
            minis: self.minis(),
            overflows_per_minute: self.overflows.as_ref().and_then(|overflows| overflows.per_minute),
            states: self.states.as_ref().map(|states| states.dated),
        };
        Seen { pid: self.way.pid, counts }
    }
}

impl Overflows {
    /// A counter that went back belongs to another life of the namespace, and gives no rate.
    fn new(total: u64, clock: Duration, before: Option<&Self>) -> Self {
        let per_minute = before.and_then(|before| {
            let milliseconds = clock.saturating_sub(before.clock).as_millis().try_into().ok()?;
            let events = total.checked_sub(before.total)?;
            // Rounded up: a single one is not none.
            (milliseconds > 0_u64).then(|| events.saturating_mul(60_000).div_ceil(milliseconds))
        });
        Self { total, clock, per_minute }
    }
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}

/// Raises the limit of open descriptors to what the process may have; returns it.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = if raised.is_ok() { limit.maximum } else { limit.current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests;
