//! The agent's life in a cluster: take orders, turn every second, report.
//!
//! What is in force stays while the API server is away; drift is put right against the last order that was read. No
//! request is waited for: the kernel is looked after while the API server is slow.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use crds::{TcpCloseNode, TcpCloseNodeStatus};
use futures::StreamExt;
use kube::runtime::utils::Backoff;
use kube::{Api, Client};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cluster::{self, Error, News};
use crate::journal::OrderMark;
use crate::node::{Moment, Node, Obstacle, Turn};
use crate::order::Order;
use crate::procfs::Procfs;
use crate::report::{self, Past, Surroundings};
use crate::rests::{Load, Rests};
use crate::sample::{Census, PodOptions, Sampler};
use crate::sentinel::Sentinel;
use crate::textfile::Textfile;
use crate::ticks::Ticks;
use crate::watchdog::Watchdog;

/// An agent looks at its kernel this often: a foreign change is noticed within this.
pub const TURN: Duration = Duration::from_secs(1);
/// While turns find the same and nothing is to be told, a status is made this often, to see whether counts are worth it.
const QUIET: Duration = Duration::from_secs(5);
/// Another agent that holds the journal and has missed this many reports leaves the report to this one.
const RIVAL_SILENT: u32 = 3;

/// How the agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often it looks at its kernel: each [`TURN`], unless so many agents share a machine that their turns alone would fill it.
    pub turn: Duration,
    /// The node's name, and so its object's.
    pub node: String,
    /// Where the kernel's files are.
    pub procfs: Procfs,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// The node's address, which its network namespace must have.
    pub node_address: Option<IpAddr>,
    /// How the pods' namespaces are counted; `None`: not at all.
    pub pods: Option<PodOptions>,
    /// The folder that node_exporter reads files from; `None`: it is told nothing.
    pub textfile_directory: Option<PathBuf>,
    /// Whether addresses of peers may be reported.
    pub report_peers: bool,
}

/// A turn whose status could wait, so that another one like it makes none for a while.
struct Quiet {
    turn: Turn,
    overflows: bool,
    until: Instant,
}

type Request = Pin<Box<dyn Future<Output = Answer>>>;

enum Answer {
    Written(Result<(), Error>, Box<TcpCloseNodeStatus>),
    Read(Box<Result<Option<TcpCloseNode>, Error>>),
}

/// One agent in a cluster.
pub struct Agent {
    settings: Settings,
    started: Instant,
    api: Api<TcpCloseNode>,
    node: Node,
    order: Option<Order>,
    /// The generation whose removals were confirmed by a quorum read.
    confirmed: Option<i64>,
    /// Whether an object was seen that is not the one known, and that a quorum read has to confirm.
    doubtful: bool,
    /// The status that is stored, as far as we know.
    stored: Option<TcpCloseNodeStatus>,
    /// The status of the last turn, stored or not: it knows what was written to the kernel and not reported yet.
    latest: Option<TcpCloseNodeStatus>,
    surroundings: Surroundings,
    /// What was so a moment ago: it shows which counts are at rest.
    past: Past,
    sampler: Sampler,
    textfile: Option<Textfile>,
    written: Option<Instant>,
    /// How long to rest after requests that failed.
    rests: Rests,
    load: Load,
    not_before: Instant,
    request: Option<Request>,
    /// A turn whose status could wait.
    quiet: Option<Quiet>,
    told_obstacle: Option<String>,
    /// When somebody else has reported for this node.
    rival_reported: Option<Instant>,
}

/// Runs until the process is asked to end. Values stay as they are then.
///
/// # Errors
/// Where signals or ticks of a timer cannot be received.
pub async fn run(settings: Settings, client: Client) -> std::io::Result<()> {
    let mut terminate = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let watchdog = Watchdog::start();
    let mut agent = Agent::new(settings, client);
    tokio::select! {
        () = any(&mut terminate) => {}
        ended = agent.live(|| watchdog.turned()) => match ended? {},
    }
    if let Some(textfile) = agent.textfile.take() {
        textfile.remove();
    }
    tracing::info!("ends; values stay as they are");
    Ok(())
}

/// Waits for one of two signals.
pub(crate) async fn any([first, second]: &mut [Signal; 2]) {
    tokio::select! { _ = first.recv() => {}, _ = second.recv() => {} }
}

async fn answered(request: &mut Option<Request>) -> Answer {
    let Some(running) = request else { return pending().await };
    let answer = running.await;
    *request = None;
    answer
}

impl Agent {
    /// An agent that has not begun.
    pub fn new(settings: Settings, client: Client) -> Self {
        let sentinel = Sentinel::Proves { node_address: settings.node_address };
        let node = Node::new(settings.procfs.clone(), settings.state_dir.clone(), sentinel);
        let surroundings = Surroundings {
            kernel_release: settings.procfs.kernel_release().unwrap_or_default(),
            first_namespace: settings.procfs.in_first_namespace(),
            boot_id: settings.procfs.boot_id().ok(),
            census: Census::default(),
            report_peers: settings.report_peers,
        };
        let load = Load::default();
        Self {
            started: Instant::now(),
            api: Api::all(client),
            sampler: Sampler::new(&settings.procfs, settings.pods.as_ref()),
            textfile: settings.textfile_directory.clone().map(Textfile::new),
            settings,
            node,
            order: None,
            confirmed: None,
            doubtful: false,
            stored: None,
            latest: None,
            surroundings,
            past: Past::default(),
            written: None,
            rests: Rests::new(&load),
            load,
            not_before: Instant::now(),
            request: None,
            quiet: None,
            told_obstacle: None,
            rival_reported: None,
        }
    }

    /// Takes orders, turns and reports for ever; `turned` is told of each turn.
    ///
    /// # Errors
    /// Where ticks of a timer cannot be received.
    pub async fn live(&mut self, turned: impl Fn()) -> std::io::Result<Infallible> {
        let mut news =
            pin!(cluster::watch(Api::all(self.api.clone().into_client()), &self.settings.node, &self.load));
        let turns = Ticks::every(self.settings.turn)?;
        loop {
            tokio::select! {
                Some(news) = news.next() => self.take(news),
                answer = answered(&mut self.request) => self.take_answer(answer),
                tick = turns.next() => tick?,
            }
            self.turn(Moment::now());
            turned();
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Object(object) => self.take_seen(&object),
            News::Absent => {
                tracing::warn!(node = self.settings.node, "has no TcpCloseNode; what is in force stays");
            }
            News::Unknown(why) => tracing::warn!(why, "no news from the API server; what is in force stays"),
        }
    }

    /// What a watch shows may be old. A generation tells, but between two objects of this name only a quorum does.
    fn take_seen(&mut self, object: &TcpCloseNode) {
        let mark = OrderMark::of(object);
        let known = self.order.as_ref().map(|known| &known.mark);
        self.doubtful =
            known.is_none_or(|known| known.uid != mark.uid) && self.node.knows_another_object(&mark);
        if self.doubtful {
            tracing::warn!(
                uid = mark.uid,
                "this node's TcpCloseNode is another object now; it is read again"
            );
        } else {
            self.take_order(object);
        }
    }

    fn take_order(&mut self, object: &TcpCloseNode) {
        let (order, status) = report::decode(object);
        self.note_reporter(status.as_ref());
        let known = self.order.as_ref().map(|known| &known.mark);
        if known.is_some_and(|known| known.uid == order.mark.uid && known.generation >= order.mark.generation)
        {
            // The echo of our own report, or an older state from a server that lags behind.
            return;
        }
        tracing::info!(generation = order.mark.generation, revision = order.revision, "took an order");
        if self.order.as_ref().is_none_or(|known| known.mark.uid != order.mark.uid) {
            self.confirmed = None;
            self.latest.clone_from(&status);
            self.stored = status;
        }
        if let Some(status) = &self.stored
            && let Some(life) = &status.life
            && let Err(why) = self.node.adopt(life, &report::baselines(status))
        {
            tracing::warn!(%why, "baselines are not taken over");
        }
        self.load.note_interval(order.report_interval_seconds);
        self.order = Some(order);
        self.quiet = None;
        self.node.forget_failures();
        self.not_before = Instant::now();
    }

    /// A report that is not one of ours is another agent's.
    fn note_reporter(&mut self, status: Option<&TcpCloseNodeStatus>) {
        let ours = |status: &TcpCloseNodeStatus| {
            let mine = [self.stored.as_ref(), self.latest.as_ref()].into_iter().flatten();
            mine.into_iter().any(|mine| mine.reported_at >= status.reported_at)
        };
        if status.is_some_and(|status| !ours(status)) {
            self.rival_reported = Some(Instant::now());
        }
    }

    fn turn(&mut self, moment: Moment) {
        let now = moment.clock;
        self.sampler.update(&mut self.surroundings.census, moment);
        if let Some(textfile) = &mut self.textfile {
            textfile.write_if_due(&self.surroundings.census, now);
        }
        if self.doubtful && self.request.is_none() && now >= self.not_before {
            self.read_again();
        }
        let Some(order) = &self.order else { return };
        let confirmed = !order.removes() || self.confirmed == Some(order.mark.generation);
        let turn = self.node.turn(order, confirmed, moment);
        if turn.has_changed_something() {
            self.sampler.note_change(&mut self.surroundings.census, moment);
        }
        let overflows = self.surroundings.census.overflows();
        let is_like = |last: &Quiet| last.turn.found_the_same_as(&turn) && last.overflows == overflows;
        if self.quiet.as_ref().is_some_and(|last| now < last.until && is_like(last)) {
            return;
        }
        self.quiet = None;
        let status = report::status(order, &turn, &self.surroundings, self.latest.as_ref(), moment.wall);
        self.latest = Some(status.clone());
        self.past.note(&status, now);
        self.tell_obstacle(turn.obstacle.as_ref());
        let waits = self.request.is_some() || now < self.not_before;
        if waits || self.is_spoken_for(turn.obstacle.as_ref(), now) {
            return;
        }
        if confirmed {
            if self.report(status, now) && self.request.is_none() {
                self.quiet = Some(Quiet { turn, overflows, until: now + QUIET });
            }
        } else {
            self.read_again();
        }
    }

    /// Says once why nothing is written, and once that it is over.
    fn tell_obstacle(&mut self, obstacle: Option<&Obstacle>) {
        let told = obstacle.map(ToString::to_string);
        if self.told_obstacle != told {
            if let Some(why) = &told {
                tracing::warn!(why, "nothing is written");
            } else {
                tracing::info!("what is ordered is written again");
            }
            self.told_obstacle = told;
        }
    }

    /// Whether another agent holds the journal, and reports for this node: two that report would contradict each other.
    fn is_spoken_for(&self, obstacle: Option<&Obstacle>, now: Instant) -> bool {
        let interval = self.order.as_ref().map_or(0, |order| order.report_interval_seconds);
        let silent = Duration::from_secs(interval.into()) * RIVAL_SILENT;
        let rival = obstacle.is_some_and(Obstacle::is_rival);
        rival && self.rival_reported.is_some_and(|at| now.duration_since(at) < silent)
    }

    fn read_again(&mut self) {
        let (api, node) = (self.api.clone(), self.settings.node.clone());
        self.request =
            Some(Box::pin(async move { Answer::Read(Box::new(cluster::read_again(&api, &node).await)) }));
    }

    /// Writes the status if it is time. Returns whether it is one that can wait.
    fn report(&mut self, status: TcpCloseNodeStatus, now: Instant) -> bool {
        let urgency = report::urgency(self.written.and(self.stored.as_ref()), self.past.earlier(), &status);
        let Some(order) = &self.order else { return false };
        let since = self.written.map_or(Duration::MAX, |written| now.duration_since(written));
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let pace = report::Pace {
            interval: seconds(order.report_interval_seconds),
            counts: seconds(order.counts_interval_seconds),
            node: &self.settings.node,
        };
        if pace.is_due(urgency, now.saturating_duration_since(self.started), since) {
            let (api, node, uid) = (self.api.clone(), self.settings.node.clone(), order.mark.uid.clone());
            self.request = Some(Box::pin(async move {
                let result = cluster::write_status(&api, &node, &uid, &status).await;
                Answer::Written(result, Box::new(status))
            }));
        }
        pace.keeps_its_place(urgency)
    }

    fn take_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Written(Ok(()), status) => {
                self.stored = Some(*status);
                self.written = Some(Instant::now());
                self.rests.reset();
            }
            Answer::Written(Err(error), _) => {
                self.wait(&format!("the status was not written: {error}"), error.is_overload());
            }
            Answer::Read(result) => match *result {
                Ok(Some(object)) => self.take_read(&object),
                Ok(None) => {
                    self.wait("this node's TcpCloseNode is gone; nothing is restored on its absence", false);
                }
                Err(error) => {
                    self.wait(&format!("the order was not read again: {error}"), error.is_overload());
                }
            },
        }
    }

    fn take_read(&mut self, object: &TcpCloseNode) {
        let mark = OrderMark::of(object);
        let known = self.order.as_ref().map(|known| &known.mark).filter(|known| known.uid == mark.uid);
        if let Some(known) = known.filter(|known| known.generation > mark.generation) {
            let (known, read) = (known.generation, mark.generation);
            let why = format!("the order was read again at generation {read}, and {known} is known already");
            return self.wait(&why, false);
        }
        self.doubtful = false;
        self.take_order(object);
        self.confirmed = Some(mark.generation);
        self.rests.reset();
    }

    fn wait(&mut self, why: &str, is_overload: bool) {
        self.load.note_failure(is_overload);
        let rest = self.rests.next().unwrap_or_default();
        tracing::warn!(why, ?rest, "will try again");
        self.not_before = Instant::now() + rest;
    }
}

#[cfg(test)]
mod tests;
