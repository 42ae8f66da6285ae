//! From sending a changed tuning to the value in the nodes' kernels, and to Ready for that generation; beside it the bare
//! two-hop floor, interleaved and at the same pace, so that both meet the same machine.
//!
//! There are two paces. After a rest, what an API server needs is no longer in the processor's caches: others have taken
//! them meanwhile, on a virtual machine its neighbours, too. One after another, change and floor in turn, each as soon as
//! the last has arrived, it is still there.
//!
//! The kernels are not asked through the API: a thread reads the files, which it has opened inside each node's network
//! namespace, 5,000 times a second.

use std::{
    fmt,
    fs::File,
    ops::RangeInclusive,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use crds::{TcpCloseTuning, condition::ConditionStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    Machine,
    aim::{Aim, at_most},
    client::{Inside, api, follow},
    floor, with_tuning,
};
use crate::{
    audit::Request,
    cluster::Cluster,
    error::{Error, Result},
};

const TUNING: &str = "lab-bench-latency";
const FILE: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";
/// Between two looks at the kernels.
const LOOK: Duration = Duration::from_micros(200);
/// A change that has not arrived by then never does.
const DEADLINE: Duration = Duration::from_secs(60);
/// Before each change and each floor of the first pace; uneven, so that they meet every phase of an interval.
const REST: Duration = Duration::from_millis(300);
const REST_STEP: Duration = Duration::from_millis(37);
/// What the project aims at, in milliseconds: a node's kernel in the median and at worst, and Ready in the median.
const KERNEL_AIM: f64 = 15.0;
const KERNEL_WORST_AIM: f64 = 150.0;
const READY_AIM: f64 = 1000.0;
/// The paces, in print.
const REST_NAME: &str = "after a rest";
const ROW_NAME: &str = "one after another";

/// Something was seen somewhere at some time.
pub(super) enum Sighting {
    /// A node's kernel holds another value.
    Kernel { node: usize, value: i64, at: Instant },
    /// The tuning is Ready for this generation.
    Ready { generation: i64, at: Instant },
    /// Object B of the floor holds another value.
    Floor { value: String, at: Instant },
}

/// Times of one kind, sorted.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, time: Duration) {
        let place = self.0.partition_point(|other| *other < time);
        self.0.insert(place, time);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many percent of all do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    fn milliseconds(&self, percent: usize) -> f64 {
        self.percentile(percent).as_secs_f64() * 1000.0
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for percent in [0, 25, 50, 75, 90, 100] {
            write!(f, "{:>9.1}", self.milliseconds(percent))?;
        }
        Ok(())
    }
}

/// What was measured at one pace.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Until the kernel of a node holds the value: one time for each node and change.
    pub one_kernel: Times,
    /// Until the kernels of all do.
    pub every_kernel: Times,
    /// The floor.
    pub floor: Times,
}

impl Pace {
    fn add(&mut self, kernels: Vec<Duration>, floor: Duration) {
        self.every_kernel.add(kernels.iter().copied().max().unwrap_or_default());
        for time in kernels {
            self.one_kernel.add(time);
        }
        self.floor.add(floor);
    }

    fn rows(&self) -> [(&'static str, &Times); 3] {
        [
            ("a node's kernel holds the value", &self.one_kernel),
            ("every node's kernel holds the value", &self.every_kernel),
            ("the bare floor: watch, patch, watch", &self.floor),
        ]
    }

    fn against_floor(&self, times: &Times) -> f64 {
        times.milliseconds(50) / self.floor.milliseconds(50)
    }

    fn aims(&self, pace: &str) -> [Aim; 2] {
        let (median, worst) = (self.one_kernel.milliseconds(50), self.one_kernel.milliseconds(100));
        [
            at_most(format!("{pace}: a kernel, ms in the median"), median, KERNEL_AIM),
            at_most(format!("{pace}: a kernel, ms at worst"), worst, KERNEL_WORST_AIM),
        ]
    }
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// Changes that each follow a rest.
    pub rested: Pace,
    /// Changes that each follow the floor as soon as it is there, as the floor follows the change.
    pub in_a_row: Pace,
    /// Until the API server has answered, after a rest.
    pub answered: Times,
    /// Until the tuning is Ready, after a rest.
    pub ready: Times,
    /// How long the API server took for the writes of the tuning, by its audit log, after a rest.
    pub tuning_write: Times,
    /// The same for the writes of orders.
    pub order_write: Times,
    machine: String,
    nodes: usize,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (changes, nodes) = (self.ready.count(), self.nodes);
        writeln!(f, "latency of {changes} changes at each pace, on {nodes} node(s); {}", self.machine)?;
        let heads = "     best      p25      p50      p75      p90    worst";
        writeln!(f, "{:<50}{heads}", format!("ms from sending a change, {REST_NAME}, until"))?;
        let api_server = [
            ("the tuning is Ready", &self.ready),
            ("the API server has answered", &self.answered),
            ("the API server's own part: the tuning's write", &self.tuning_write),
            ("the API server's own part: an order's write", &self.order_write),
        ];
        for (what, times) in self.rested.rows().into_iter().chain(api_server) {
            writeln!(f, "  {what:<48}{times}")?;
        }
        writeln!(f, "{ROW_NAME}, until")?;
        for (what, times) in self.in_a_row.rows() {
            writeln!(f, "  {what:<48}{times}")?;
        }
        for (pace, name) in [(&self.rested, REST_NAME), (&self.in_a_row, ROW_NAME)] {
            let (one, every) = (pace.against_floor(&pace.one_kernel), pace.against_floor(&pace.every_kernel));
            writeln!(
                f,
                "{name}: medians against the floor: a kernel {one:.1} times, every kernel {every:.1} times"
            )?;
        }
        let ready =
            at_most(format!("{REST_NAME}: Ready, ms in the median"), self.ready.milliseconds(50), READY_AIM);
        let kernels = self.rested.aims(REST_NAME).into_iter().chain(self.in_a_row.aims(ROW_NAME));
        kernels.chain([ready]).try_for_each(|aim| writeln!(f, "{aim}"))
    }
}

/// Measures so many changes of one tuning.
pub fn measure(cluster: &Cluster, changes: u32) -> Result<Latency> {
    with_tuning(cluster, TUNING, || {
        let (stop, stopped) = watch::channel(false);
        let (sender, sightings) = channel();
        thread::scope(|scope| {
            let kernels = open_kernels(cluster)?;
            let (stop_one, stop_two, stop_three) = (stopped.clone(), stopped.clone(), stopped);
            let to_main = sender.clone();
            scope.spawn(move || watch_kernels(&kernels, &stop_one, &to_main));
            let relay = scope.spawn(move || floor::relay(cluster, stop_two));
            let watching = scope.spawn(move || watch_objects(cluster, stop_three, &sender));
            let result = scope.spawn(move || Run::new(cluster, sightings)?.carry_out(changes)).join();
            stop.send_replace(true);
            // What broke a helper is the cause of a deadline: it comes first.
            for helper in [relay, watching] {
                helper.join().unwrap_or_else(|_| Err(panicked()))?;
            }
            result.unwrap_or_else(|_| Err(panicked()))
        })
    })
}

fn panicked() -> Error {
    Error::Unclear { what: "the bench".into(), why: "one of its threads panicked".into() }
}

/// The file of each node, opened in its namespace, to which it stays bound.
fn open_kernels(cluster: &Cluster) -> Result<Vec<File>> {
    let open = || File::open(FILE).map_err(Error::file("open", FILE));
    cluster.nodes().iter().map(|node| node.net()?.run(open)?).collect()
}

fn watch_kernels(kernels: &[File], stop: &watch::Receiver<bool>, sightings: &Sender<Sighting>) {
    let mut held = vec![None; kernels.len()];
    while !*stop.borrow() {
        for (node, file) in kernels.iter().enumerate() {
            let value = read(file);
            if value.is_some() && value != held[node] {
                held[node] = value;
                let at = Instant::now();
                let _ = sightings.send(Sighting::Kernel { node, value: value.unwrap_or_default(), at });
            }
        }
        thread::sleep(LOOK);
    }
}

fn read(file: &File) -> Option<i64> {
    let mut text = [0; 24];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

fn watch_objects(cluster: &Cluster, stop: watch::Receiver<bool>, sightings: &Sender<Sighting>) -> Result<()> {
    let inside = Inside::enter(cluster)?;
    let tunings = Api::<TcpCloseTuning>::all(inside.client.clone());
    let ready = follow(tunings, TUNING, stop.clone(), |tuning, at| {
        if let Some(generation) = ready_generation(&tuning) {
            let _ = sightings.send(Sighting::Ready { generation, at });
        }
        std::future::ready(())
    });
    let floor = floor::witness(&inside.client, stop, sightings);
    inside.runtime.block_on(async { tokio::join!(ready, floor) });
    Ok(())
}

/// The generation for which a tuning is Ready.
fn ready_generation(tuning: &TcpCloseTuning) -> Option<i64> {
    let status = tuning.status.as_ref()?;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    let holds =
        ready.status == ConditionStatus::True && ready.observed_generation == status.observed_generation;
    holds.then_some(status.observed_generation)
}

/// One run, on a thread of its own in the control plane's network namespace.
struct Run<'a> {
    cluster: &'a Cluster,
    inside: Inside,
    machine: Machine,
    sightings: Receiver<Sighting>,
}

/// Up to where a change is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Kernels,
    Ready,
}

/// When a change arrived where.
struct Arrival {
    answered: Duration,
    kernels: Vec<Duration>,
    ready: Option<Duration>,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster, sightings: Receiver<Sighting>) -> Result<Self> {
        Ok(Self { cluster, inside: Inside::enter(cluster)?, machine: Machine::look()?, sightings })
    }

    fn carry_out(self, changes: u32) -> Result<Latency> {
        let mut latency = Latency { nodes: self.cluster.nodes().len(), ..Latency::default() };
        // The first change makes the objects, opens connections and fills caches.
        self.change(0, Until::Ready)?;
        self.floor(0)?;
        self.carry_out_rested(1..=changes, &mut latency)?;
        for change in changes + 1..=2 * changes {
            let arrival = self.change(change, Until::Kernels)?;
            latency.in_a_row.add(arrival.kernels, self.floor(change)?);
        }
        self.inside.runtime.block_on(floor::clear(&self.inside.client))?;
        Ok(Latency { machine: self.machine.told()?, ..latency })
    }

    fn carry_out_rested(&self, changes: RangeInclusive<u32>, latency: &mut Latency) -> Result<()> {
        let mark = self.cluster.audit_mark()?;
        for change in changes {
            let rest = REST + REST_STEP * (change % 10);
            thread::sleep(rest);
            let arrival = self.change(change, Until::Ready)?;
            thread::sleep(rest);
            latency.rested.add(arrival.kernels, self.floor(change)?);
            latency.answered.add(arrival.answered);
            if let Some(ready) = arrival.ready {
                latency.ready.add(ready);
            }
        }
        for request in self.cluster.audited_since(mark)?.into_iter().filter(Request::was_taken) {
            match (request.verb.as_str(), request.resource.as_str(), request.name.as_str()) {
                ("patch", "tcpclosetunings", TUNING) => latency.tuning_write.add(request.took),
                ("patch", "tcpclosenodes", _) => latency.order_write.add(request.took),
                _ => {}
            }
        }
        Ok(())
    }

    fn change(&self, change: u32, until: Until) -> Result<Arrival> {
        // Never what the kernel holds already, and never 60, from which every node starts.
        let value = i64::from(15 + change % 40);
        let start = Instant::now();
        let generation = self.inside.runtime.block_on(tune(&self.inside.client, value))?;
        let answered = start.elapsed();
        let mut kernels = vec![None; self.cluster.nodes().len()];
        let mut ready = None;
        while kernels.contains(&None) || (until == Until::Ready && ready.is_none()) {
            match self.next(start, DEADLINE)? {
                Sighting::Kernel { node, value: seen, at } if seen == value && at >= start => {
                    kernels[node] = Some(at.duration_since(start));
                }
                Sighting::Ready { generation: seen, at } if seen >= generation => {
                    ready = ready.or(Some(at.duration_since(start)));
                }
                _ => {}
            }
        }
        Ok(Arrival { answered, kernels: kernels.into_iter().flatten().collect(), ready })
    }

    fn floor(&self, change: u32) -> Result<Duration> {
        let value = floor::value(change);
        let start = Instant::now();
        self.inside.runtime.block_on(floor::start(&self.inside.client, &value))?;
        loop {
            match self.next(start, floor::DEADLINE)? {
                Sighting::Floor { value: seen, at } if seen == value => return Ok(at.duration_since(start)),
                _ => {}
            }
        }
    }

    fn next(&self, start: Instant, deadline: Duration) -> Result<Sighting> {
        let left = deadline.saturating_sub(start.elapsed());
        self.sightings.recv_timeout(left).map_err(|_| Error::Deadline {
            what: "a change has arrived everywhere".into(),
            waited: start.elapsed(),
            last: "it has not".into(),
        })
    }
}

/// Applies the tuning with another value, and returns its generation.
async fn tune(client: &Client, value: i64) -> Result<i64> {
    let tuning = json!({
        "apiVersion": format!("{}/{}", crds::GROUP, crds::VERSION),
        "kind": "TcpCloseTuning",
        "metadata": { "name": TUNING },
        "spec": {
            "nodeSelector": { "matchLabels": { "kubernetes.io/os": "linux" } },
            "mode": "Enforce",
            "sysctls": { "tcpFinTimeoutSeconds": value },
        },
    });
    let tunings = Api::<TcpCloseTuning>::all(client.clone());
    let applied = tunings.patch(TUNING, &PatchParams::apply("lab-bench"), &Patch::Apply(&tuning)).await;
    let applied = applied.map_err(api("apply a tuning"))?;
    Ok(applied.metadata.generation.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: &[u64]) -> Times {
        let mut times = Times::default();
        for time in milliseconds {
            times.add(Duration::from_millis(*time));
        }
        times
    }

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times = times(&[50, 10, 40, 30, 20]);
        let of = |percent| times.percentile(percent).as_millis();
        assert_eq!((of(0), of(50), of(90), of(100)), (10, 30, 50, 50));
    }

    #[test]
    fn no_measurement_has_no_percentile_above_zero() {
        assert_eq!((times(&[]).count(), times(&[]).percentile(50)), (0, Duration::ZERO));
    }
}
