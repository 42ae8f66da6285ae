//! Whether the operator's memory grows with the reports that it takes in: a million through its caches and its summaries, in
//! this process, and some ten thousands through a real API server.

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{TcpCloseNode, TcpCloseNodeSpec, TcpCloseTuningStatus};
use futures::{Stream, stream::poll_fn};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::watcher::{Event, Result as Watched};
use operator::{
    assign,
    history::History,
    metrics,
    resolve::{Contents, resolve},
    run::resolve_now,
    snapshot::{Node, OrderObject, Snapshot, Tuning, TuningObject},
    summarise::{Now, fleet::fleet, summarise},
    watch::Caches,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{Extent, with_run};
use crate::{
    bench::{
        Machine,
        aim::at_most,
        cost::{Memory, mebibytes, thread_time},
    },
    checkout::Checkout,
    error::{Error, Result},
    process::Process,
};

/// The objects of the fleet, as an API server sends them.
const TUNING: &str = include_str!("tuning.json");
const NODE: &str = include_str!("node.json");
const REPORT: &str = include_str!("report.json");
/// A count in the report that differs from one to the next.
const COUNT: &str = ":4711";
/// The operator computes once in so many reports here; at every second of a million reports it would take hours.
const REPORTS_PER_TURN: u64 = 5000;
/// Memory is looked at so often.
const MARKS: u64 = 10;
/// More than this is growth: an allocator rounds up.
const GROWTH_AIM: f64 = 2.0;

/// Memory while reports come in.
#[derive(Clone, Debug)]
pub struct Growth {
    /// How many nodes report.
    pub nodes: usize,
    /// After so many reports: what the process had written to memory, in bytes.
    pub marks: Vec<(u64, u64)>,
    /// Where that can be told: CPU time of a turn (to resolve, to plan and to summarise for all nodes), and of a report, from its
    /// text to the cache.
    pub costs: Option<[Duration; 2]>,
    machine: String,
}

impl Growth {
    /// By how much it grew after the first mark, in bytes.
    pub fn grown(&self) -> u64 {
        let first = self.marks.first().map(|mark| mark.1).unwrap_or_default();
        self.marks.iter().map(|mark| mark.1).max().unwrap_or_default().saturating_sub(first)
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory of the operator's caches and summaries, {} nodes; {}", self.nodes, self.machine)?;
        for (reports, bytes) in &self.marks {
            writeln!(f, "{reports:>10} reports{:>9.1} MiB", mebibytes(*bytes))?;
        }
        if let Some(costs) = self.costs {
            let [turn, report] = costs.map(|time| time.as_secs_f64() * 1e6);
            writeln!(f, "a turn over all nodes takes {turn:.0} µs of CPU, a report {report:.1} µs")?;
        }
        let grown = mebibytes(self.grown());
        writeln!(f, "{}", at_most("growth after the first mark, in MiB", grown, GROWTH_AIM))
    }
}

/// Feeds so many reports of so many nodes to the operator's own code.
pub fn measure(nodes: usize, reports: u64) -> Result<Growth> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::system("start a runtime"))?.block_on(feed(nodes, reports))
}

/// The same through a real API server: what the operator's process holds.
pub(super) fn measure_process(
    checkout: &Checkout,
    operator: &Path,
    nodes: usize,
    reports: u64,
) -> Result<Growth> {
    let machine = Machine::look()?;
    let extent = Extent::of(&[nodes]);
    let marks = with_run(checkout, operator, &extent, nodes, |run| run.grow(reports, MARKS))?;
    Ok(Growth { nodes, marks, costs: None, machine: machine.told()? })
}

/// What goes into a cache.
struct Feed<K>(mpsc::Sender<Watched<Event<K>>>);

impl<K: DeserializeOwned> Feed<K> {
    fn new() -> (Self, impl Stream<Item = Watched<Event<K>>>) {
        let (sender, mut receiver) = mpsc::channel(64);
        (Self(sender), poll_fn(move |context| receiver.poll_recv(context)))
    }

    async fn send(&self, event: Event<K>) -> Result<()> {
        self.0.send(Ok(event)).await.map_err(|_| unclear("nobody takes events in any longer".into()))
    }

    /// As a watch begins: everything is listed.
    async fn list(&self, texts: impl Iterator<Item = String>) -> Result<()> {
        self.send(Event::Init).await?;
        for text in texts {
            self.send(Event::InitApply(decoded(&text)?)).await?;
        }
        self.send(Event::InitDone).await
    }
}

fn decoded<K: DeserializeOwned>(text: &str) -> Result<K> {
    serde_json::from_str(text).map_err(|error| unclear(error.to_string()))
}

fn unclear(why: String) -> Error {
    Error::Unclear { what: "an object of the fleet".into(), why }
}

async fn feed(nodes: usize, reports: u64) -> Result<Growth> {
    let machine = Machine::look()?;
    let own = Process::of_pid(std::process::id()).ok_or_else(|| unclear("/proc/self/stat".into()))?;
    let (of_nodes, node_events) = Feed::<Node>::new();
    let (of_tunings, tuning_events) = Feed::<TuningObject>::new();
    let (of_orders, order_events) = Feed::<OrderObject>::new();
    let no_switch = futures::stream::iter([Ok(Event::Init), Ok(Event::InitDone)]);
    let (caches, taking) = Caches::fed_by(node_events, tuning_events, order_events, no_switch);
    let feeding = async {
        let object = settled(nodes)?;
        let text_of = |node, report| text(&object, node, report);
        of_nodes.list((0..nodes).map(|node| text(NODE, node, 0))).await?;
        of_tunings.list([TUNING.to_owned()].into_iter()).await?;
        of_orders.list((0..nodes).map(|node| text_of(node, 0))).await?;
        caches.listed().await;
        let mut index = Index::default();
        let mut marks = Vec::new();
        let start = thread_time();
        for report in 1..=reports {
            let node = usize::try_from(report).unwrap_or_default() % nodes;
            of_orders.send(Event::Apply(decoded(&text_of(node, report))?)).await?;
            if report % REPORTS_PER_TURN == 0 {
                index.turn(&caches);
            }
            if report % (reports / MARKS).max(1) == 0 {
                marks.push((report, Memory::of(own)?.anonymous));
            }
        }
        let all = thread_time().saturating_sub(start);
        Ok::<_, Error>((index, marks, all))
    };
    let (index, marks, all) = tokio::select! {
        fed = feeding => fed?,
        () = taking => return Err(unclear("the caches have ended".into())),
    };
    let turn = index.spent / index.turns.max(1);
    let report =
        all.saturating_sub(index.spent).as_secs_f64() / u32::try_from(reports).map_or(1.0, f64::from);
    let report = Duration::from_secs_f64(report);
    Ok(Growth { nodes, marks, costs: Some([turn, report]), machine: machine.told()? })
}

/// What the operator's two loops remember from turn to turn.
#[derive(Default)]
struct Index {
    history: History,
    stored: Option<TcpCloseTuningStatus>,
    turns: u32,
    spent: Duration,
}

impl Index {
    /// What both loops compute in a turn.
    fn turn(&mut self, caches: &Caches) {
        let start = thread_time();
        let now = Now { wall: Timestamp::now(), clock: Instant::now() };
        let snapshot = caches.snapshot();
        self.history.note_reports(&snapshot, now.clock);
        let (none, resolution) = (BTreeSet::new(), resolve(&snapshot, &Contents::as_specified()));
        drop(resolve_now(&snapshot, &none, &none));
        let writes = assign::plan(&snapshot, &resolution);
        let tunings = snapshot.tunings.iter();
        let statuses: Vec<_> = tunings
            .map(|tuning| {
                let stored = self.stored.as_ref();
                (tuning, summarise(tuning, stored, &snapshot, &resolution, &mut self.history, now))
            })
            .collect();
        let fleet = fleet(&snapshot, &resolution, &self.history, now.clock);
        let page = metrics::fleet::registry(&fleet, &statuses);
        self.stored = statuses.first().map(|(_, status)| status.clone());
        drop((writes, page));
        self.turns += 1;
        self.spent += thread_time().saturating_sub(start);
    }
}

/// A node's object, with the order that the operator makes of the tuning: nothing is left to be written.
fn settled(nodes: usize) -> Result<String> {
    let mut node: Node = decoded(NODE)?;
    node.strip();
    let name = node.name_any();
    let snapshot = Snapshot {
        nodes: [(name, Arc::new(node))].into_iter().collect(),
        tunings: vec![Tuning::from(&decoded::<TuningObject>(TUNING)?)],
        ..Snapshot::default()
    };
    let mut object: TcpCloseNode = decoded(REPORT)?;
    for write in assign::plan(&snapshot, &resolve(&snapshot, &Contents::as_specified())) {
        if let assign::Write::Create { object: planned, .. } = write {
            object.spec = TcpCloseNodeSpec {
                report_interval_seconds: assign::report_interval_seconds(nodes),
                ..planned.spec
            };
        }
    }
    if let Some(status) = &mut object.status {
        status.observed_revision = Some(object.spec.revision.clone());
    }
    serde_json::to_string(&object).map_err(|error| unclear(error.to_string()))
}

fn text(template: &str, node: usize, report: u64) -> String {
    let index = format!("{node:05}");
    let count = format!(":{}", 1000 + report % 977);
    template.replace("@INDEX@", &index).replace("@VERSION@", &report.to_string()).replace(COUNT, &count)
}
