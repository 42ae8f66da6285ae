//! Without a cluster: a host is tuned from the same manifest, by the same rules and with the same journal.
//!
//! Results go to stdout, what went wrong to stderr, once, and the [`Exit`] says how it ended.

mod merge;
mod pods;
mod print;
mod source;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crds::manifest::Problem;
use crds::node::{NodeFacts, Sockets};
use crds::state::State;
use jiff::Timestamp;
use tcp_close::Sysctl;
use tcp_close::order::{Action, Entries, Entry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::journal;
use crate::life::life;
use crate::node::{Finding, Moment, Node, Obstacle, Turn};
use crate::order::Order;
use crate::procfs::Procfs;
use crate::report;
use crate::run::{TURN, any};
use crate::sample::{Census, Dated, own::Own};
use crate::sentinel::Sentinel;
use crate::watchdog::Watchdog;

use self::print::{Observation, Observed, Report, Row, Seen, print};
use self::source::Desired;

pub use self::pods::{Elsewhere, Whose};
pub use self::print::Format;
pub use self::source::Source;

/// How a command ended, from good to grave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Everything is as it should be.
    Done = 0,
    /// Something would be written.
    Change = 1,
    /// A rule forbids something.
    Refused = 2,
    /// The manifest is invalid.
    Invalid = 3,
    /// Something that should be in force is not, or could not be found out.
    Failed = 4,
    /// The command line is not understood: `EX_USAGE` of sysexits.h.
    Usage = 64,
}

impl Exit {
    /// What becomes of one sysctl.
    fn of(state: State) -> Self {
        match state {
            State::Applied
            | State::AtRisk
            | State::Unsupported
            | State::Held
            | State::Restored
            | State::RestoreSkipped
            | State::Released => Self::Done,
            State::WouldChange => Self::Change,
            State::Refused | State::WouldRefuse => Self::Refused,
            State::Pending | State::Drifted | State::Contended | State::Failed | State::Restoring => {
                Self::Failed
            }
        }
    }

    /// The gravest of all; tunings that only observe do not count.
    fn of_all(findings: &[Finding]) -> Self {
        findings.iter().map(|finding| Self::of(finding.state)).max().unwrap_or(Self::Done)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest could not be read.
    #[error("{name}: cannot be read: {source}")]
    Read {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The manifest is invalid.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
    /// What was written in this life of the namespace cannot be told.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// A network namespace that was asked for cannot be seen.
    #[error("{0}")]
    Unseen(String),
    /// The result could not be printed, or signals cannot be received.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Invalid(_) => Exit::Invalid,
            Self::Read { .. } | Self::Obstacle(_) | Self::Unseen(_) | Self::Io(_) => Exit::Failed,
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What is to be put back.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Everything that was written in this life of the namespace.
    All,
    /// Of that, these.
    Sysctls(Vec<Sysctl>),
    /// Of that, what a manifest orders.
    Manifest(Source),
}

/// A host outside any cluster, in whose network namespace this process is.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where the kernel's files are.
    pub procfs: Procfs,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// How results are printed.
    pub format: Format,
}

impl Host {
    /// Says what [`apply`](Self::apply) would do, and writes nothing at all.
    ///
    /// # Errors
    /// Where the manifest cannot be read.
    pub fn plan(&self, source: &Source) -> Result<Exit, Error> {
        let desired = source.load()?;
        let turn = self.node().foresee(&desired.order, Moment::now());
        tell_obstacle(turn.obstacle.as_ref());
        self.print(&turn, Some(&desired), Vec::new())?;
        Ok(Exit::of_all(&turn.findings))
    }

    /// Brings the kernel to what a manifest orders, as far as rules and the host allow.
    ///
    /// # Errors
    /// Where the manifest cannot be read. Nothing has been written then.
    pub fn apply(&self, source: &Source) -> Result<Exit, Error> {
        let desired = source.load()?;
        let mut node = self.node();
        let turn = node.turn(&desired.order, true, Moment::now());
        self.tell(&node, &turn, source, &desired)
    }

    /// Keeps in force what a manifest orders, until the process is asked to end; values stay as they are then. A manifest
    /// that changes is read again. Where it has become invalid, the last good one stays the order.
    ///
    /// # Errors
    /// Where the manifest cannot be read at the start.
    pub async fn watch(&self, source: &Source) -> Result<Exit, Error> {
        let mut terminate = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let mut stamp = source.stamp();
        let mut desired = source.load()?;
        let mut node = self.node();
        let mut told = None;
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watchdog = Watchdog::start();
        loop {
            tokio::select! { () = any(&mut terminate) => break, _ = turns.tick() => {} }
            if let Some(read) = source.load_changed(&mut stamp) {
                (desired, told) = (read, None);
                node.forget_failures();
            }
            let turn = node.turn(&desired.order, true, Moment::now());
            let news = Some(summary(&turn));
            if told != news {
                self.tell(&node, &turn, source, &desired)?;
                told = news;
            }
            watchdog.turned();
        }
        tracing::info!("ends; values stay as they are");
        Ok(Exit::Done)
    }

    /// Puts back what the kernel held before, where it still holds what was written; also where agents are held.
    ///
    /// # Errors
    /// Where the manifest or the journal cannot be read.
    pub fn restore(&self, scope: &Scope) -> Result<Exit, Error> {
        let life = life(&self.procfs).map_err(|error| Obstacle::Life(error.to_string()))?;
        let records = journal::saved(&self.state_dir, &life).map_err(Obstacle::Journal)?;
        let within = scope.load()?;
        let written = records.iter().filter(|(_, record)| !record.is_abandoned());
        let entries: Entries = written
            .filter(|(sysctl, _)| within.as_ref().is_none_or(|within| within.contains(sysctl)))
            .map(|(&sysctl, _)| (sysctl, Entry::new(Action::Restore, "")))
            .collect();
        if entries.is_empty() {
            let note =
                format!("nothing is left to put back, says the journal in {}", self.state_dir.display());
            self.print(&Turn::default(), None, vec![note])?;
            return Ok(Exit::Done);
        }
        let turn = self.node().for_person().turn(&Order::of_person(entries, Vec::new()), true, Moment::now());
        tell_obstacle(turn.obstacle.as_ref());
        self.print(&turn, None, Vec::new())?;
        Ok(exit(&turn))
    }

    /// Shows one other network namespace.
    ///
    /// # Errors
    /// Where it cannot be seen, or the result cannot be printed.
    pub fn observe_one(&self, elsewhere: &Elsewhere, whose: &Whose) -> Result<Exit, Error> {
        let inside = elsewhere.read(whose, Timestamp::now()).map_err(Error::Unseen)?;
        print(&inside, self.format)?;
        Ok(Exit::Done)
    }

    /// Shows what the kernel holds and how many sockets are closing, here and in other network namespaces.
    ///
    /// # Errors
    /// Where the result cannot be printed.
    pub fn observe(&self, elsewhere: &Elsewhere) -> Result<Exit, Error> {
        let sockets = sockets(&mut Own::new(&self.procfs));
        let observation = Observation {
            node: self.facts(),
            sysctls: Sysctl::ALL.into_iter().map(|sysctl| self.seen(sysctl)).collect(),
            sockets: sockets.as_ref().ok().cloned(),
            pods: elsewhere.count(Timestamp::now()),
        };
        print(&observation, self.format)?;
        if let Err(error) = sockets {
            eprintln!("closing sockets cannot be counted: {error}");
            return Ok(Exit::Failed);
        }
        Ok(Exit::Done)
    }

    /// Nobody but the person knows which namespace is meant, so that no address proves it.
    fn node(&self) -> Node {
        Node::new(self.procfs.clone(), self.state_dir.clone(), Sentinel::Proves { node_address: None })
    }

    fn facts(&self) -> NodeFacts {
        NodeFacts {
            kernel_release: self.procfs.kernel_release().unwrap_or_default(),
            first_network_namespace: self.procfs.in_first_namespace(),
        }
    }

    fn seen(&self, sysctl: Sysctl) -> Seen {
        let name = sysctl.name().into();
        match self.procfs.read_value(sysctl) {
            Ok(value) => Seen { name, live: Some(value), message: None },
            Err(error) if error.is_absent() => {
                let why = sysctl.why_absent(self.procfs.kernel_version(), self.procfs.in_first_namespace());
                Seen { name, live: None, message: Some(why) }
            }
            Err(error) => Seen { name, live: None, message: Some(error.to_string()) },
        }
    }

    fn tell(&self, node: &Node, turn: &Turn, source: &Source, desired: &Desired) -> Result<Exit, Error> {
        tell_obstacle(turn.obstacle.as_ref());
        self.print(turn, Some(desired), self.left(node, &desired.order, source))?;
        Ok(exit(turn))
    }

    /// What was written once and is ordered no longer. Absence is never an order: it stays, and a person hears of it.
    fn left(&self, node: &Node, order: &Order, source: &Source) -> Vec<String> {
        let ours = node.records().iter().filter_map(|(sysctl, record)| {
            let live = self.procfs.read_sysctl(*sysctl).value()?;
            let left = !order.entries.contains_key(sysctl) && record.is_ours(live) && live != record.baseline;
            left.then_some((sysctl, live, record.baseline))
        });
        let state = self.state_dir.display();
        let said = ours.map(|(sysctl, live, baseline)| {
            format!(
                "{sysctl} stays {live}, which {source} does not order; to put back {baseline}: \
                 tcpclose-agent restore --state {state} {sysctl}"
            )
        });
        said.collect()
    }

    fn print(&self, turn: &Turn, desired: Option<&Desired>, notes: Vec<String>) -> io::Result<()> {
        let now = Timestamp::now();
        let row = |finding: &Finding, tuning: &str| Row {
            at: desired.and_then(|desired| desired.place(&finding.name, tuning)),
            status: report::sysctl(finding, &Census::default(), None, now),
        };
        let observed = turn.observed.iter().map(|(tuning, findings)| Observed {
            tuning: tuning.name.clone(),
            sysctls: findings.iter().map(|finding| row(finding, &tuning.name)).collect(),
        });
        let said = desired.into_iter().flat_map(|desired| desired.notes.iter().cloned());
        let report = Report {
            node: self.facts(),
            sysctls: turn.findings.iter().map(|finding| row(finding, &finding.tuning)).collect(),
            observe: observed.collect(),
            obstacle: turn.obstacle.as_ref().map(ToString::to_string),
            notes: notes.into_iter().chain(said).collect(),
        };
        print(&report, self.format)
    }
}

impl Scope {
    /// The sysctls that it names; `None` for all.
    fn load(&self) -> Result<Option<Vec<Sysctl>>, Error> {
        Ok(match self {
            Self::All => None,
            Self::Sysctls(sysctls) => Some(sysctls.clone()),
            Self::Manifest(source) => Some(source.load()?.order.entries.into_keys().collect()),
        })
    }
}

/// Closing sockets in the network namespace of this process.
fn sockets(own: &mut Own) -> io::Result<Sockets> {
    let (states, sockstat) = (own.states()?, own.sockstat()?);
    Ok(Sockets {
        states: report::census::states(Dated { value: states, at: Timestamp::now() }),
        machine_orphans: sockstat.machine_orphans,
        unattributed_orphans: None,
    })
}

fn tell_obstacle(obstacle: Option<&Obstacle>) {
    if let Some(why) = obstacle {
        eprintln!("nothing is written: {why}");
    }
}

/// What may not be written is not looked after, even where all is well now.
fn exit(turn: &Turn) -> Exit {
    if turn.obstacle.is_some() { Exit::Failed } else { Exit::of_all(&turn.findings) }
}

/// What must change to be worth another word.
fn summary(turn: &Turn) -> Vec<String> {
    let states = turn.findings.iter().map(|it| format!("{} {} {:?}", it.name, it.state, it.desired));
    states.chain(turn.obstacle.as_ref().map(ToString::to_string)).collect()
}
