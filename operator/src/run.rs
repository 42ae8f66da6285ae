//! The two loops. One turns what changed into orders, at once; the other turns it into statuses, a moment later.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::assign::{self, Sent};
use crate::event::Events;
use crate::guard;
use crate::history::History;
use crate::lead::{Candidate, Leadership};
use crate::metrics::{self, Kind, Metrics};
use crate::report::Reporter;
use crate::resolve::{Contents, Resolution, resolve};
use crate::rollout::place;
use crate::serve::{Health, serve};
use crate::snapshot::{Node, Snapshot};
use crate::summarise::{Now, class, fleet::fleet, summarise};
use crate::watch::Caches;

/// Every loop turns at least this often: silence has to be noticed, and what failed is tried again.
const TICK: Duration = Duration::from_secs(5);
/// Changes that come together lead to one order. Long enough for the rest of a burst that has already been received.
const ORDER_AFTER: Duration = Duration::from_millis(2);
/// Orders and reports of one change come within this time, and lead to one status.
const STATUS_AFTER: Duration = Duration::from_millis(150);
/// A loop waits this many times as long as its last turn computed, so that it takes at most a fifth of a core.
const REST: u32 = 4;

/// Who this operator is.
pub struct Settings {
    /// Its namespace, where the lease lives.
    pub namespace: String,
    /// Its name among its replicas.
    pub identity: String,
}

/// Works until `stop` turns true.
pub async fn run(client: Client, listener: TcpListener, settings: Settings, stop: watch::Receiver<bool>) {
    let (health, metrics) = (Health::default(), Metrics::default());
    let (caches, watching) = Caches::start(&client);
    let (candidate, leadership) = Candidate::new(&client, &settings.namespace, &settings.identity);
    let mut stopping = stop.clone();
    let (events, telling) = Events::start(client.clone(), &settings.identity, leadership.clone());
    let (silence, silent) = watch::channel(BTreeSet::new());
    let orders = order(
        client.clone(),
        events.clone(),
        caches.clone(),
        leadership.clone(),
        silent,
        health.clone(),
        metrics.clone(),
    );
    let guarding = guard::watch_over(client.clone(), leadership.clone(), events.clone(), metrics.clone());
    let reporter = Reporter::new(client, events, metrics.clone());
    let statuses =
        status(reporter, caches.clone(), leadership.clone(), silence, health.clone(), metrics.clone());
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

/// Turns changes into orders.
async fn order(
    client: Client,
    events: Events,
    caches: Caches,
    leadership: Leadership,
    mut silent: watch::Receiver<BTreeSet<String>>,
    health: Health,
    metrics: Metrics,
) {
    let mut sent = Sent::default();
    let mut pace = Pace::new(&caches, &leadership, ORDER_AFTER);
    loop {
        tokio::select! {
            () = pace.next(&health) => {}
            _ = silent.changed() => {}
        }
        if !health.is_ready() || !leadership.may_write() {
            continue;
        }
        let started = Instant::now();
        let snapshot = caches.snapshot();
        let unseen = sent.unseen(&snapshot, started);
        let resolution = resolve_now(&snapshot, &silent.borrow(), &unseen);
        let mut writes = sent.without_sent(assign::plan(&snapshot, &resolution), started);
        writes.truncate(assign::TURN_MAX);
        // Sending takes long, and needs none of it.
        drop((snapshot, resolution));
        pace.worked(started.elapsed());
        metrics.note_turn(Kind::Order, started.elapsed());
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
    let is_reachable = |node: &Node| snapshot.is_reporting(node) && !silent.contains(&node.name_any());
    let contents = place(snapshot, &wants, &is_reachable, unseen);
    if contents.are_as_specified() { wants } else { resolve(snapshot, &contents) }
}

/// Turns changes into statuses.
async fn status(
    mut reporter: Reporter,
    caches: Caches,
    leadership: Leadership,
    silence: watch::Sender<BTreeSet<String>>,
    health: Health,
    metrics: Metrics,
) {
    let mut history = History::default();
    let mut pace = Pace::new(&caches, &leadership, STATUS_AFTER);
    loop {
        pace.next(&health).await;
        if !health.is_ready() {
            continue;
        }
        let now = Now { wall: Timestamp::now(), clock: Instant::now() };
        let snapshot = caches.snapshot();
        // A standby listens too: it must not think, when it takes over, that everybody has just been heard.
        history.note_reports(&snapshot, now.clock);
        if caches.was_interrupted() {
            history.forgive(now.clock);
        }
        let silent = class::silent(&snapshot, &history, now.clock);
        silence.send_if_modified(|before| std::mem::replace(before, silent.clone()) != silent);
        if !leadership.may_write() {
            continue;
        }
        let resolution = resolve(&snapshot, &Contents::as_specified());
        let alive = snapshot.tunings.iter().filter(|tuning| !tuning.deleting);
        let statuses: Vec<_> = alive
            .map(|tuning| {
                let stored = reporter.stored(tuning);
                (tuning, summarise(tuning, stored, &snapshot, &resolution, &mut history, now))
            })
            .collect();
        metrics.show_fleet(metrics::fleet::registry(
            &fleet(&snapshot, &resolution, &history, now.clock),
            &statuses,
        ));
        drop(resolution);
        pace.worked(now.clock.elapsed());
        metrics.note_turn(Kind::Status, now.clock.elapsed());
        for (tuning, status) in statuses {
            reporter.report(tuning, status, &leadership).await;
            health.beat();
        }
        reporter.forget(&snapshot);
    }
}

/// When a loop turns.
struct Pace {
    changes: watch::Receiver<u64>,
    leadership: Leadership,
    after: Duration,
    rest: Duration,
}

impl Pace {
    fn new(caches: &Caches, leadership: &Leadership, after: Duration) -> Self {
        Self { changes: caches.changes(), leadership: leadership.clone(), after, rest: Duration::ZERO }
    }

    /// Waits for a change, or a tick. What changes from here on is for the next turn.
    async fn next(&mut self, health: &Health) {
        tokio::select! {
            _ = self.changes.changed() => tokio::time::sleep(self.after.max(self.rest)).await,
            () = self.leadership.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        self.changes.mark_unchanged();
        health.beat();
    }

    /// The computing of this turn took so long.
    fn worked(&mut self, took: Duration) {
        self.rest = took * REST;
    }
}
