//! The two loops. One turns what changed into orders, at once; the other turns it into statuses, a moment later.

use std::collections::BTreeSet;
use std::time::Instant;

use crds::TcpCloseNode;
use jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::assign::{self, Sent};
use crate::event::Events;
use crate::guard;
use crate::history::History;
use crate::lead::{Candidate, Leadership};
use crate::limit::{HeldBack, Limiter, confirm};
use crate::metrics::{self, Kind, Metrics};
use crate::node_condition::NodeConditions;
use crate::pace::{Pace, Stopwatch};
use crate::report::Reporter;
use crate::resolve::{Contents, Resolution, resolve};
use crate::rollout::place;
use crate::serve::{Health, serve};
use crate::snapshot::{Node, Snapshot};
use crate::summarise::{Now, blind, class, fleet::fleet, summarise};
use crate::watch::Caches;

/// Who this operator is.
pub struct Settings {
    /// Its namespace, where the lease lives.
    pub namespace: String,
    /// Its name among its replicas.
    pub identity: String,
    /// Whether it says on each Node that it has been tuned.
    pub node_condition: bool,
}

/// Works until `stop` turns true.
pub async fn run(client: Client, listener: TcpListener, settings: Settings, stop: watch::Receiver<bool>) {
    let (health, metrics) = (Health::default(), Metrics::default());
    let (caches, watching) = Caches::start(&client, &settings.namespace);
    let (candidate, leadership) = Candidate::new(&client, &settings.namespace, &settings.identity);
    let mut stopping = stop.clone();
    let (events, telling) = Events::start(client.clone(), &settings.identity, leadership.clone());
    let (holding, held) = watch::channel(HeldBack::default());
    let (finding, found) = watch::channel(None);
    let cluster = Cluster {
        caches: caches.clone(),
        leadership: leadership.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
    };
    let orders = order(client.clone(), events.clone(), cluster.clone(), found, holding);
    let guarding = guard::watch_over(client.clone(), leadership.clone(), events.clone(), metrics.clone());
    let conditions = settings.node_condition.then(|| NodeConditions::new(client.clone()));
    let reporter = Reporter::new(client, events, metrics.clone());
    let statuses = status(reporter, conditions, cluster, finding, held);
    let serving = serve(listener, health.clone(), metrics, leadership, stop.clone());
    let listed = async {
        caches.listed().await;
        health.note_listed();
        std::future::pending::<()>().await;
    };
    let work = async {
        tokio::join!(watching, orders, statuses, guarding, telling, listed);
    };
    let until_stopped = async {
        tokio::select! {
            () = work => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    };
    // Work ends first, then the lease is released: nobody else starts while this one still writes.
    let (served, (), ()) = tokio::join!(serving, until_stopped, candidate.run(stop));
    if let Err(error) = served {
        tracing::warn!("health endpoints: {error}");
    }
}

/// What both loops look at, and ask before they write.
#[derive(Clone)]
struct Cluster {
    caches: Caches,
    leadership: Leadership,
    health: Health,
    metrics: Metrics,
}

/// What the loop that tells has found, and the loop that orders has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// Nodes whose agents are silent.
    silent: BTreeSet<String>,
    /// Whether a watch fails, so that what is known of the cluster is old.
    blind: bool,
}

/// Turns changes into orders. Hears what the other loop has found, and says what it holds back.
async fn order(
    client: Client,
    events: Events,
    cluster: Cluster,
    mut found: watch::Receiver<Option<Found>>,
    holding: watch::Sender<HeldBack>,
) {
    let Cluster { caches, leadership, health, metrics } = cluster;
    let mut sent = Sent::default();
    let mut limiter = Limiter::default();
    let mut pace = Pace::of_orders(caches.facts(), &leadership);
    loop {
        tokio::select! {
            () = pace.next(&health) => {}
            _ = found.changed() => {}
        }
        // Who is lost has to be known before the first order.
        let found = found.borrow_and_update().clone().filter(|found| !found.blind);
        let Some(Found { silent, .. }) = found.filter(|_| health.is_ready() && leadership.may_write()) else {
            // What waits, waits anew when it may order again.
            limiter = Limiter::default();
            continue;
        };
        let (started, stopwatch) = (Instant::now(), Stopwatch::start());
        let snapshot = caches.snapshot();
        let now = Now { wall: Timestamp::now(), clock: started };
        let unseen = sent.unseen(&snapshot, started);
        let decide = |snapshot: &Snapshot| resolve_now(snapshot, &silent, &unseen);
        let allowed = confirm::limit(&mut limiter, &client, &snapshot, decide, now).await;
        pace.wake_after(allowed.wake);
        events.tell_of_undoing(allowed.news);
        holding.send_replace(allowed.held);
        let mut writes = sent.without_sent(assign::plan(&snapshot, &allowed.resolution), started);
        writes.truncate(assign::TURN_MAX);
        // Sending takes long, and needs none of it.
        drop((snapshot, allowed.resolution));
        let computed = stopwatch.spent().less(allowed.looked);
        pace.worked(computed);
        metrics.note_turn(Kind::Order, computed.time);
        sent.note_tried(&writes, Instant::now());
        let taken = assign::carry_out(&client, writes, &leadership, &health, &metrics).await;
        events.tell_of_writes(&taken);
        for write in taken {
            sent.note(write, Instant::now());
        }
    }
}

/// What is to be ordered now: what the specs want, as far as their rollouts have come.
pub fn resolve_now(snapshot: &Snapshot, silent: &BTreeSet<String>, unseen: &BTreeSet<String>) -> Resolution {
    let wants = resolve(snapshot, &Contents::as_specified());
    let is_reachable =
        |node: &Node, order: Option<&TcpCloseNode>| node.is_reporting(order) && !silent.contains(node.name());
    let contents = place(snapshot, &wants, &is_reachable, unseen);
    if contents.are_as_specified() { wants } else { resolve(snapshot, &contents) }
}

/// Turns changes into statuses. Says what it has found, and hears what is held back.
async fn status(
    mut reporter: Reporter,
    mut conditions: Option<NodeConditions>,
    cluster: Cluster,
    finding: watch::Sender<Option<Found>>,
    held: watch::Receiver<HeldBack>,
) {
    let Cluster { caches, leadership, health, metrics } = cluster;
    let mut history = History::default();
    let mut pace = Pace::of_statuses(caches.alarms(), caches.counts(), &leadership);
    let mut leads_since = None;
    loop {
        pace.next(&health).await;
        let (now, stopwatch) = (Now { wall: Timestamp::now(), clock: Instant::now() }, Stopwatch::start());
        // Who leads is answered by the API server: a watch that fails then fails by itself.
        leads_since = leadership.may_write().then(|| leads_since.unwrap_or(now.clock));
        let failing = leads_since.and_then(|since| caches.failing(since, now.clock));
        if !health.is_ready() && failing.is_none() {
            continue;
        }
        let snapshot = caches.snapshot();
        metrics.note_switch(&snapshot.switch);
        // A standby listens too: it must not think, when it takes over, that everybody has just been heard.
        history.note_reports(&snapshot, now.clock);
        history.forgive(caches.take_deaf(), now.clock);
        let silent = class::silent(&snapshot, &history, now.clock);
        let fresh = Some(Found { silent: silent.clone(), blind: failing.is_some() });
        finding.send_if_modified(|before| std::mem::replace(before, fresh.clone()) != fresh);
        if !leadership.may_write() {
            continue;
        }
        history.note_held_back(held.borrow().clone());
        let resolution = resolve(&snapshot, &Contents::as_specified());
        let alive = snapshot.tunings.iter().filter(|tuning| !tuning.deleting);
        let statuses: Vec<_> = alive
            .map(|tuning| {
                let stored = reporter.stored(tuning);
                let status = match &failing {
                    Some(watch) => blind(tuning, stored, watch, now.wall),
                    None => summarise(tuning, stored, &snapshot, &resolution, &mut history, now),
                };
                (tuning, status)
            })
            .collect();
        metrics.show_fleet(metrics::fleet::registry(
            &fleet(&snapshot, &resolution, &history, now.clock),
            &statuses,
        ));
        drop(resolution);
        let computed = stopwatch.spent();
        pace.worked(computed);
        metrics.note_turn(Kind::Status, computed.time);
        for (tuning, status) in statuses {
            reporter.report(tuning, status, &leadership).await;
            health.beat();
        }
        reporter.forget(&snapshot);
        if let Some(conditions) = conditions.as_mut().filter(|_| failing.is_none()) {
            let decide = || resolve_now(&snapshot, &silent, &BTreeSet::new());
            conditions.write(&snapshot, decide, now, &leadership).await;
        }
    }
}
