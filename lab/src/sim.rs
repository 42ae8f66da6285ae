//! agent-sim: thousands of agents in one process, each the agent's own code on a kernel that is values in memory.
//!
//! A bench starts such processes and talks to them: one [`Command`] a line on stdin, one answer a line on stdout. A process
//! ends with its stdin.

mod agents;
pub(crate) mod kernel;

use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde::{Deserialize, Serialize};
use tcp_close::Sysctl;
use tokio::{sync::mpsc, task::LocalSet};

use self::kernel::{Board, Memory, TIME_WAITS};
use crate::{
    error::{Error, Result},
    files,
};

/// A process with more would run out of descriptors: an agent has a watch, a timer, a lock on its journal, and at times a
/// connection for a report.
pub(crate) const AGENTS_MAX: usize = 4000;

/// What one process simulates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    /// Credentials that may impersonate the agent's service account.
    pub(crate) kubeconfig: PathBuf,
    /// The API server that it talks to.
    pub(crate) server: String,
    /// The agent's user name.
    pub(crate) user: String,
    /// Its nodes: a file with a name and a uid in each line.
    pub(crate) nodes: PathBuf,
    /// A folder for the journals; a file system in memory is mounted on it that nobody else sees.
    pub(crate) journals: PathBuf,
    /// How often an agent looks at its kernel, but for the first ones.
    pub(crate) turn: Duration,
    /// How many look as often as real agents do: those whose nodes are timed.
    pub(crate) timed: usize,
    /// How many agents start in a second.
    pub(crate) starts_per_second: u32,
    /// Instead of agents: writers of the naive design, each of which writes so often.
    pub(crate) naive: Option<Duration>,
}

/// What a bench has the nodes of a process do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Counts of all nodes move each second, or rest.
    Churn(bool),
    /// The counts of all nodes jump, and another program changes a sysctl on each.
    Storm,
    /// Connections of one node skip TIME_WAIT.
    Overflow(usize),
    /// Who holds this value of `tcp_fin_timeout`? Answered with a [`kernel::Held`].
    Held(i64),
}

/// Simulates until stdin ends.
pub(crate) fn simulate(crowd: &str) -> Result<()> {
    let crowd: Crowd = serde_json::from_str(crowd)
        .map_err(|error| Error::Unclear { what: "what to simulate".into(), why: error.to_string() })?;
    lift_limit()?;
    mount_journals(&crowd.journals)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Error::system("start a runtime"))?;
    runtime.block_on(LocalSet::new().run_until(work(crowd)))
}

/// As many descriptors as the machine allows.
fn lift_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(Error::system("raise the limit of descriptors"))
}

/// Journals are synced to a disk with each write; thousands of nodes have thousands of disks.
fn mount_journals(folder: &Path) -> Result<()> {
    files::make_folder(folder)?;
    // SAFETY: only UnshareFlags::FILES is unsafe, and it is not among these.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(Error::system("make a mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(Error::system("make mounts private"))?;
    mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None).map_err(Error::system("mount a tmpfs"))
}

async fn work(crowd: Crowd) -> Result<()> {
    let board = Arc::<Board>::default();
    let nodes = agents::nodes(&files::read(&crowd.nodes)?);
    let kernels: Vec<_> =
        nodes.iter().map(|node| Memory::new(node.uid.clone(), Arc::clone(&board))).collect();
    let starting = tokio::task::spawn_local(agents::start(crowd, nodes, kernels.clone()));
    let mut commands = read_commands();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut churn = Churn::default();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => churn.obey(command, &kernels, &board)?,
                None => break,
            },
            _ = seconds.tick() => churn.tick(&kernels),
        }
    }
    starting.abort();
    Ok(())
}

/// stdin can be read by a thread of its own alone.
fn read_commands() -> mpsc::UnboundedReceiver<Command> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
            let Ok(command) = serde_json::from_str(&line) else { break };
            if sender.send(command).is_err() {
                break;
            }
        }
    });
    receiver
}

/// How the nodes' counts move.
#[derive(Debug, Default)]
struct Churn {
    moves: bool,
    seconds: u64,
}

impl Churn {
    fn obey(&mut self, command: Command, kernels: &[Memory], board: &Board) -> Result<()> {
        match command {
            Command::Churn(moves) => self.moves = moves,
            Command::Storm => {
                for kernel in kernels {
                    kernel.set_time_waits(TIME_WAITS * 5);
                    kernel.meddle(Sysctl::OrphanRetries, 7);
                }
            }
            Command::Overflow(node) => {
                if let Some(kernel) = kernels.get(node) {
                    kernel.overflow(6000);
                }
            }
            Command::Held(value) => answer(&board.held(value))?,
        }
        Ok(())
    }

    /// Each second every node has another count, which differs from the last by more than a tenth.
    fn tick(&mut self, kernels: &[Memory]) {
        if !self.moves {
            return;
        }
        self.seconds += 1;
        for (at, kernel) in (0..).zip(kernels) {
            let step = (self.seconds + at) % 10;
            kernel.set_time_waits(TIME_WAITS + 400 * step);
        }
    }
}

fn answer(answer: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(answer)
        .map_err(|error| Error::Unclear { what: "an answer".into(), why: error.to_string() })?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Error::system("answer"))
}
