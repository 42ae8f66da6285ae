//! A scene: a fresh network namespace with so many sockets, among so many other namespaces, over a table of some size; and
//! everything measured in it, turn by turn.
//!
//! It is played by a process of its own, which is the first one of a pid namespace: the agent's library reads
//! `/proc/self`, the agent finds namespaces by processes, and whatever happens, all that a scene started ends with it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{life::Life, stage::Stage, subject::Subject};
use crate::{
    bench::{
        cost::Cost,
        time_wait::{self, Maker},
    },
    debian::Peers,
    error::{Error, Result},
    namespace::NetNamespace,
    process::{on_path, run},
};

/// What is older is about to go: sockets are made anew.
const FRESH: Duration = Duration::from_secs(45);
/// How often something is measured before the machine is too busy for it.
const ATTEMPTS: u32 = 5;
/// So many sockets may be of what is measured.
const STRANGERS_MAX: u64 = 1000;

/// What a scene looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// Sockets in TIME_WAIT in the own namespace.
    pub time_waits: u32,
    /// Other network namespaces, each with one process.
    pub namespaces: u32,
    /// Buckets of the own namespace's table; none is the machine's, which all namespaces share.
    pub buckets: Option<u32>,
}

/// A scene, and what is done in it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Play {
    pub(crate) scene: Scene,
    pub(crate) act: Act,
}

/// What is done in a scene.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Act {
    /// Everything that belongs to the scene is measured, turn by turn, so often.
    Measure { programs: Programs, rounds: u32 },
    /// The agent's sampler lives through so many seconds, as fast as it can.
    Sample { seconds: u32 },
}

/// What came out of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Of [`Act::Measure`].
    Figures(Vec<Figure>),
    /// Of [`Act::Sample`].
    Life(Life),
}

/// The programs that are measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Programs {
    /// `tcpclose-agent`.
    pub(crate) agent: PathBuf,
    /// Our own instrument.
    pub(crate) reading: PathBuf,
    /// Others'.
    pub(crate) peers: Peers,
}

/// One subject in a scene, round by round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) subject: Subject,
    pub(crate) costs: Vec<Cost>,
}

impl Play {
    /// Has a process of its own play it.
    pub(crate) fn stage(&self) -> Result<Outcome> {
        let lab = std::env::current_exe().map_err(Error::file("find", "/proc/self/exe"))?;
        let mut command = Command::new("unshare");
        command.args(["--fork", "--pid", "--kill-child", "--mount-proc", "--net", "--"]).arg(lab);
        command.arg("scene").arg(serde_json::to_string(self).map_err(unclear("a scene"))?);
        serde_json::from_str(&run(&mut command)?).map_err(unclear("what came out of a scene"))
    }

    /// Plays it in this process, whose only thread this must be, and prints what came out.
    pub(crate) fn perform(text: &str) -> Result<()> {
        let Self { scene, act } = serde_json::from_str(text).map_err(unclear("a scene"))?;
        // Anywhere else the sysctls that a scene sets would be the machine's.
        if std::process::id() != 1 {
            return Err(Error::Missing {
                what:
                    "a scene is played in namespaces that were made for it, and this process is in no new one"
                        .into(),
                remedy: "run cargo lab bench count".into(),
            });
        }
        let others = scene.prepare()?;
        let mut sockets = Sockets::make(scene.time_waits)?;
        let outcome = match act {
            Act::Measure { programs, rounds } => {
                let stage = Stage::new(&scene, &programs, others.iter().map(Child::id).collect())?;
                Outcome::Figures(measure(&scene, stage, &mut sockets, rounds)?)
            }
            Act::Sample { seconds } => Outcome::Life(Life::live(seconds, || sockets.renew())?),
        };
        let text = serde_json::to_string(&outcome).map_err(unclear("what came out of a scene"))?;
        println!("{text}");
        Ok(())
    }
}

impl Scene {
    /// Makes this process's namespace look like it. Returns a process of each other namespace; they end with this one.
    fn prepare(&self) -> Result<Vec<Child>> {
        if let Some(buckets) = self.buckets {
            // A namespace gets a table of its own where the one that it is made in says so.
            write_sysctl("tcp_child_ehash_entries", buckets)?;
            NetNamespace::enter_new()?;
        }
        bring_loopback_up()?;
        write_sysctl("tcp_max_tw_buckets", 2 * self.time_waits.max(1000))?;
        (0..self.namespaces).map(|_| start_in_new_namespace()).collect()
    }
}

/// Measures everything that belongs to a scene, turn by turn.
fn measure(scene: &Scene, mut stage: Stage<'_>, sockets: &mut Sockets, rounds: u32) -> Result<Vec<Figure>> {
    let none_yet = |subject: &Subject| Figure { subject: *subject, costs: Vec::new() };
    let mut figures: Vec<_> = Subject::of(scene).iter().map(none_yet).collect();
    // The first round opens files and fills caches.
    for round in 0..=rounds {
        for figure in &mut figures {
            let cost = sockets.during(|| stage.measure(figure.subject))?;
            if round > 0 {
                figure.costs.push(cost);
            }
        }
    }
    Ok(figures)
}

/// The scene's sockets in TIME_WAIT.
struct Sockets {
    maker: Maker,
    wanted: u32,
    made: Instant,
}

impl Sockets {
    fn make(wanted: u32) -> Result<Self> {
        let mut maker = Maker::new()?;
        let made = Instant::now();
        maker.make(wanted)?;
        Ok(Self { maker, wanted, made })
    }

    /// Makes them anew where they are about to go.
    fn renew(&mut self) -> Result<()> {
        if self.wanted == 0 || self.made.elapsed() < FRESH {
            return Ok(());
        }
        time_wait::wait_until_none()?;
        self.made = Instant::now();
        self.maker.make(self.wanted)
    }

    /// Does something while they are there. On a busy machine they may end meanwhile: then it is done again.
    fn during<T>(&mut self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..ATTEMPTS {
            self.renew()?;
            let result = work()?;
            if self.are_there()? {
                return Ok(result);
            }
        }
        let why = format!("{} sockets in TIME_WAIT end before they are measured", self.wanted);
        Err(Error::Unclear { what: "a scene".into(), why })
    }

    /// Scrapes leave a few of their own.
    fn are_there(&self) -> Result<bool> {
        let seen = time_wait::sockstat()?.tw;
        Ok((u64::from(self.wanted)..=u64::from(self.wanted) + STRANGERS_MAX).contains(&seen))
    }
}

/// Starts a process in a network namespace of its own, which it keeps until this process ends.
fn start_in_new_namespace() -> Result<Child> {
    let spawn = || Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let started = NetNamespace::run_in_new(spawn)?;
    started.map_err(|source| Error::Start { program: "cat".into(), source })
}

/// For `map_err`: names the text.
fn unclear(what: &str) -> impl FnOnce(serde_json::Error) -> Error {
    move |error| Error::Unclear { what: what.into(), why: error.to_string() }
}

fn write_sysctl(file: &str, value: u32) -> Result<()> {
    // Of the namespace of this thread: never the machine's first, as it was entered or made.
    let path = Path::new("/proc/sys/net/ipv4").join(file);
    std::fs::write(&path, value.to_string()).map_err(Error::file("write", path))
}

fn bring_loopback_up() -> Result<()> {
    let ip = on_path("ip").ok_or_else(|| Error::Missing {
        what: "no program `ip` on the PATH".into(),
        remedy: "install iproute2".into(),
    })?;
    run(Command::new(ip).args(["link", "set", "lo", "up"])).map(drop)
}
