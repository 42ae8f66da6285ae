//! The agent's sampler lives through hours in seconds: whether its memory grows, and what a second costs.

use std::time::Duration;

use jiff::SignedDuration;
use node_agent::{
    node::Moment,
    procfs::Procfs,
    sample::{Census, PODS_INTERVAL, PodOptions, Sampler},
};
use serde::{Deserialize, Serialize};

use crate::{
    bench::cost::{Memory, cpu_time},
    error::{Error, Result},
    process::Process,
};

/// By then every buffer has been filled once.
const SETTLED: u32 = 60;

/// What was seen of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Life {
    /// How many seconds of its own clock.
    pub seconds: u32,
    /// Memory of the process after the first minute.
    pub first: Memory,
    /// And in the end.
    pub last: Memory,
    /// CPU time of all but the first minute, or the first half of a shorter life.
    pub cpu: Duration,
    /// Other namespaces that it knows in the end.
    pub namespaces: u32,
}

impl Life {
    /// Lives it in this process. `tend` is called before each second.
    pub(super) fn live(seconds: u32, mut tend: impl FnMut() -> Result<()>) -> Result<Self> {
        let own = Process::of_pid(std::process::id());
        let own = own.ok_or_else(|| Error::Unclear {
            what: "/proc/self/stat".into(),
            why: "it is not there".into(),
        })?;
        let procfs = Procfs::new("/proc", None);
        // No container has a log here.
        let pods =
            PodOptions { processes: procfs.clone(), logs: "/nonexistent".into(), interval: PODS_INTERVAL };
        let (mut sampler, mut census) = (Sampler::new(&procfs, Some(&pods)), Census::default());
        let start = Moment::now();
        let mut settled = None;
        for second in 0..seconds {
            tend()?;
            if second == settled_at(seconds) {
                settled = Some((Memory::of(own)?, cpu_time(own)?));
            }
            sampler.update(&mut census, later(&start, second));
        }
        let (first, cpu) = settled.unwrap_or_default();
        let namespaces = census.pods.and_then(Result::ok).map_or(0, |pods| pods.namespaces);
        let cpu = cpu_time(own)?.saturating_sub(cpu);
        Ok(Self { seconds, first, last: Memory::of(own)?, cpu, namespaces })
    }

    /// The share of a core that it used, in percent, over the seconds whose CPU time was counted.
    pub fn percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / f64::from(self.seconds - settled_at(self.seconds))
    }
}

/// The second from which on CPU time counts.
fn settled_at(seconds: u32) -> u32 {
    SETTLED.min(seconds / 2)
}

fn later(start: &Moment, second: u32) -> Moment {
    let passed = Duration::from_secs(second.into());
    Moment { clock: start.clock + passed, wall: start.wall + SignedDuration::from_secs(second.into()) }
}
