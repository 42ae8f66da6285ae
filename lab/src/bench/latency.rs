//! From sending a changed tuning to the value in the nodes' kernels, and to Ready for that generation; beside it the bare
//! two-hop floor, interleaved, so that both meet the same machine.
//!
//! The kernels are not asked through the API: a thread reads the files, which it has opened inside each node's network
//! namespace, 5,000 times a second.

use std::{
    fmt,
    fs::File,
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
    aim::at_most,
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
/// Between two changes, so that each meets a cluster at rest; uneven, so that it meets every phase of an interval.
const REST: Duration = Duration::from_millis(300);
const REST_STEP: Duration = Duration::from_millis(37);
/// What the project aims at, in milliseconds: a node's kernel in the median and at worst, and Ready in the median.
const KERNEL_AIM: f64 = 15.0;
const KERNEL_WORST_AIM: f64 = 150.0;
const READY_AIM: f64 = 1000.0;

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
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for percent in [0, 25, 50, 75, 90, 100] {
            write!(f, "{:>9.1}", self.percentile(percent).as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Until the API server has answered.
    pub answered: Times,
    /// Until the kernel of a node holds the value: one time for each node and change.
    pub one_kernel: Times,
    /// Until the kernels of all do.
    pub every_kernel: Times,
    /// Until the tuning is Ready.
    pub ready: Times,
    /// The floor.
    pub floor: Times,
    /// How long the API server took for the writes of the tuning, by its audit log.
    pub tuning_write: Times,
    /// The same for the writes of orders.
    pub order_write: Times,
    machine: String,
    nodes: usize,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "latency of {} changes on {} node(s); {}", self.ready.count(), self.nodes, self.machine)?;
        writeln!(
            f,
            "{:<50}     best      p25      p50      p75      p90    worst",
            "ms from sending a change until"
        )?;
        for (what, times) in [
            ("the API server has answered", &self.answered),
            ("a node's kernel holds the value", &self.one_kernel),
            ("every node's kernel holds the value", &self.every_kernel),
            ("the tuning is Ready", &self.ready),
            ("the bare floor: watch, patch, watch", &self.floor),
            ("the API server's own part: the tuning's write", &self.tuning_write),
            ("the API server's own part: an order's write", &self.order_write),
        ] {
            writeln!(f, "  {what:<48}{times}")?;
        }
        let median = |times: &Times| times.percentile(50).as_secs_f64();
        let ratio = |times| median(times) / median(&self.floor);
        writeln!(
            f,
            "medians against the floor: a kernel {:.1} times, every kernel {:.1} times, Ready {:.1} times",
            ratio(&self.one_kernel),
            ratio(&self.every_kernel),
            ratio(&self.ready)
        )?;
        let at = |times: &Times, percent| times.percentile(percent).as_secs_f64() * 1000.0;
        for aim in [
            at_most("a kernel, ms in the median", at(&self.one_kernel, 50), KERNEL_AIM),
            at_most("a kernel, ms at worst", at(&self.one_kernel, 100), KERNEL_WORST_AIM),
            at_most("Ready, ms in the median", at(&self.ready, 50), READY_AIM),
        ] {
            writeln!(f, "{aim}")?;
        }
        Ok(())
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

/// When a change arrived where.
struct Arrival {
    answered: Duration,
    kernels: Vec<Duration>,
    ready: Duration,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster, sightings: Receiver<Sighting>) -> Result<Self> {
        Ok(Self { cluster, inside: Inside::enter(cluster)?, machine: Machine::look()?, sightings })
    }

    fn carry_out(self, changes: u32) -> Result<Latency> {
        let mut latency = Latency {
            answered: Times::default(),
            one_kernel: Times::default(),
            every_kernel: Times::default(),
            ready: Times::default(),
            floor: Times::default(),
            tuning_write: Times::default(),
            order_write: Times::default(),
            machine: String::new(),
            nodes: self.cluster.nodes().len(),
        };
        // The first change makes the objects, opens connections and fills caches.
        self.change(0)?;
        self.floor(0)?;
        let mark = self.cluster.audit_mark()?;
        for change in 1..=changes {
            thread::sleep(REST + REST_STEP * (change % 10));
            let arrival = self.change(change)?;
            latency.answered.add(arrival.answered);
            latency.every_kernel.add(arrival.kernels.iter().copied().max().unwrap_or_default());
            arrival.kernels.into_iter().for_each(|time| latency.one_kernel.add(time));
            latency.ready.add(arrival.ready);
            latency.floor.add(self.floor(change)?);
        }
        for request in self.cluster.audited_since(mark)?.into_iter().filter(Request::was_taken) {
            match (request.verb.as_str(), request.resource.as_str()) {
                ("patch", "tcpclosetunings") => latency.tuning_write.add(request.took),
                ("patch", "tcpclosenodes") => latency.order_write.add(request.took),
                _ => {}
            }
        }
        self.inside.runtime.block_on(floor::clear(&self.inside.client))?;
        Ok(Latency { machine: self.machine.told()?, ..latency })
    }

    fn change(&self, change: u32) -> Result<Arrival> {
        // Never what the kernel holds already, and never 60, from which every node starts.
        let value = i64::from(15 + change % 40);
        let start = Instant::now();
        let generation = self.inside.runtime.block_on(tune(&self.inside.client, value))?;
        let answered = start.elapsed();
        let mut kernels = vec![None; self.cluster.nodes().len()];
        let mut ready = None;
        while ready.is_none() || kernels.contains(&None) {
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
        Ok(Arrival {
            answered,
            kernels: kernels.into_iter().flatten().collect(),
            ready: ready.unwrap_or_default(),
        })
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
