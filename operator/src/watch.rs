//! Watch: what the API server holds, kept in memory. The only step that reads from the cluster.

mod line;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crds::client::backoff;
use crds::node::{ObservedTuning, SysctlEntry};
use crds::shared::Shared;
use crds::{AGENT_MANAGER, OPERATOR_MANAGER, TcpCloseNode};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use line::Line;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::sanitize;
use crate::snapshot::{Node, OrderObject, RETRY_AT, Snapshot, Tuning, TuningObject};
use crate::store::{News, Store, Writer};
use crate::summarise::leaked;
use crate::switch::{self, Switch};

/// Reflections of the three kinds, and of the switch.
#[derive(Clone)]
pub struct Caches {
    nodes: Store<Node>,
    tunings: Store<TuningObject>,
    orders: Store<OrderObject>,
    control: Store<ConfigMap>,
    switch: Arc<Mutex<Switch>>,
    facts: watch::Receiver<u64>,
    counts: watch::Receiver<u64>,
    lines: Lines,
}

/// How the watch of each kind fares.
#[derive(Clone, Default)]
struct Lines {
    nodes: Arc<Mutex<Line>>,
    tunings: Arc<Mutex<Line>>,
    orders: Arc<Mutex<Line>>,
    control: Arc<Mutex<Line>>,
}

impl Caches {
    /// Starts to watch. The future does it, for ever; it has to be polled.
    pub fn start(client: &Client, namespace: &str) -> (Self, impl Future<Output = ()> + use<>) {
        // The operator may read no other ConfigMap.
        let one = watcher::Config::default().fields(&format!("metadata.name={}", switch::NAME));
        let control = events(Api::<ConfigMap>::namespaced(client.clone(), namespace), one);
        Self::fed_by(all(client), all(client), all(client), control)
    }

    /// Caches that are fed by these events. The future takes them in; it has to be polled.
    pub fn fed_by(
        of_nodes: impl Stream<Item = watcher::Result<Event<Node>>>,
        of_tunings: impl Stream<Item = watcher::Result<Event<TuningObject>>>,
        of_orders: impl Stream<Item = watcher::Result<Event<OrderObject>>>,
        of_control: impl Stream<Item = watcher::Result<Event<ConfigMap>>>,
    ) -> (Self, impl Future<Output = ()>) {
        let ((tell_facts, facts), (tell_counts, counts)) = (watch::channel(0), watch::channel(0));
        let wake = Wake { facts: tell_facts, counts: tell_counts };
        let (nodes, node_writer) = Store::new();
        let (tunings, tuning_writer) = Store::new();
        let (orders, order_writer) = Store::new();
        let (control, control_writer) = Store::new();
        let lines = Lines::default();
        let caches = Self {
            nodes,
            tunings,
            orders,
            control,
            switch: Arc::default(),
            facts,
            counts,
            lines: lines.clone(),
        };
        let watching = async move {
            let of_nodes = of_nodes.modify(Node::strip);
            let of_tunings = of_tunings.modify(strip_tuning);
            let mut contents = Contents::default();
            let of_orders = of_orders.modify(move |order| {
                strip_order(order);
                contents.share(order);
            });
            tokio::join!(
                reflect(of_nodes, node_writer, News::between, &wake, &lines.nodes),
                reflect(of_tunings, tuning_writer, news_of_tuning, &wake, &lines.tunings),
                reflect(of_orders, order_writer, news_of_order, &wake, &lines.orders),
                reflect(of_control, control_writer, News::between, &wake, &lines.control),
            );
        };
        (caches, watching)
    }

    /// Returns when each kind has been listed once. Nothing may be decided before.
    pub async fn listed(&self) {
        self.nodes.listed().await;
        self.tunings.listed().await;
        self.orders.listed().await;
        self.control.listed().await;
    }

    /// Changes whenever something does that an order may depend on, or that people are to know at once.
    pub fn facts(&self) -> watch::Receiver<u64> {
        self.facts.clone()
    }

    /// Changes whenever counts do.
    pub fn counts(&self) -> watch::Receiver<u64> {
        self.counts.clone()
    }

    /// For how long no report could be heard, since this was asked last: agents look silent then that are not.
    pub fn take_deaf(&self) -> Duration {
        locked(&self.lines.orders).take_deaf()
    }

    /// The kind whose watch fails for long, and in which words; `None`: none does. What came before `since` does not count.
    pub fn failing(&self, since: Instant, now: Instant) -> Option<String> {
        let Lines { nodes, tunings, orders, control } = &self.lines;
        let kinds = [
            ("nodes", nodes),
            ("tcpclosetunings", tunings),
            ("tcpclosenodes", orders),
            ("configmaps", control),
        ];
        kinds.into_iter().find_map(|(kind, line)| {
            let words = locked(line).failing(since, now)?.to_string();
            Some(format!("{kind}: {words}"))
        })
    }

    /// Everything as it stands now.
    pub fn snapshot(&self) -> Snapshot {
        let tunings = self.tunings.objects();
        let tunings = tunings.values().map(|object| Tuning::from(&**object)).collect();
        Snapshot {
            nodes: self.nodes.objects(),
            tunings,
            orders: self.orders.objects(),
            switch: self.switch(),
        }
    }

    fn switch(&self) -> Switch {
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Switch::read(self.control.objects().get(switch::NAME).map(|map| &**map), &switch);
        if *switch != now {
            tracing::warn!(state = now.label(), "the switch was turned");
            *switch = now;
        }
        switch.clone()
    }
}

fn strip<K: Resource>(object: &mut DeserializeGuard<K>) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
    if let Err(invalid) = &mut object.0 {
        invalid.error = sanitize::error(&invalid.error);
    }
}

fn strip_tuning(object: &mut TuningObject) {
    let mut annotations = object.meta_mut().annotations.take().unwrap_or_default();
    strip(object);
    annotations.retain(|name, _| name == RETRY_AT);
    object.meta_mut().annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
}

/// Who the API server may say has written a field of an order, where that were our own programs: besides their names what it calls
/// a program that gave none, as 0.1.0 did, and whoever had written what was there when somebody first applied, as 0.1.0's agents do.
const OUR_MANAGERS: [&str; 4] = [OPERATOR_MANAGER, AGENT_MANAGER, "unknown", "before-first-apply"];

/// Whether the API server notes who manages which field of an order, and only our own programs do. Nobody reads that, it is an
/// eighth of the object, and to keep it costs the API server with each report.
fn is_managed_by_us_alone(object: &OrderObject) -> bool {
    let ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref().is_some_and(|manager| OUR_MANAGERS.contains(&manager))
    };
    object.meta().managed_fields.as_ref().is_some_and(|entries| entries.iter().all(ours))
}

/// Drops what nothing here reads, thirty pods' figures first, and makes harmless what an agent may have written. Of who
/// manages which field an empty list is left, where nobody else does: what an order may have the API server forget.
fn strip_order(object: &mut OrderObject) {
    let ours = is_managed_by_us_alone(object);
    strip(object);
    object.meta_mut().managed_fields = ours.then(Vec::new);
    object.meta_mut().owner_references = None;
    let Ok(TcpCloseNode { status: Some(status), .. }) = &mut object.0 else { return };
    (status.life, status.agent_version) = (None, None);
    for row in &mut status.sysctls {
        (row.tuning, row.changed_by, row.remarks) = Default::default();
    }
    status.sysctls.shrink_to_fit();
    sanitize::status(status);
    if let Some(pods) = &mut status.pods {
        pods.most.retain(|pod| leaked(pod).is_some());
        pods.most.shrink_to_fit();
    }
}

/// What orders say, by revision: most nodes of a fleet have the same.
#[derive(Default)]
struct Contents(HashMap<String, Content>);

type Content = (Shared<Vec<SysctlEntry>>, Shared<Vec<ObservedTuning>>);

/// More than this are looked through for those that no order has any longer.
const CONTENTS: usize = 256;

impl Contents {
    /// Has an order share what it says with others that say the same.
    fn share(&mut self, order: &mut OrderObject) {
        let Ok(TcpCloseNode { spec, .. }) = &mut order.0 else { return };
        if self.0.len() >= CONTENTS && !self.0.contains_key(&spec.revision) {
            self.0.retain(|_, (sysctls, observe)| !sysctls.is_alone() || !observe.is_alone());
        }
        let own = || (spec.sysctls.clone(), spec.observe.clone());
        let known = self.0.entry(spec.revision.clone()).or_insert_with(own);
        // The revision is what somebody wrote; two orders may bear it.
        if (&known.0, &known.1) == (&spec.sysctls, &spec.observe) {
            (spec.sysctls, spec.observe) = known.clone();
        }
    }
}

/// What the API server says of all objects of one kind, for ever.
fn all<K>(client: &Client) -> impl Stream<Item = watcher::Result<Event<K>>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    events(Api::all(client.clone()), watcher::Config::default())
}

fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(api, config).backoff(backoff())
}

fn is_same_version<K: Resource>(one: &K, other: &K) -> bool {
    let version = |object: &K| (object.meta().uid.clone(), object.meta().resource_version.clone());
    one.meta().resource_version.is_some() && version(one) == version(other)
}

fn news_of_tuning(known: &TuningObject, fresh: &TuningObject) -> News {
    if is_same_version(known, fresh) { News::None } else { News::Facts }
}

/// Most reports of a large fleet are heartbeats.
fn news_of_order(known: &OrderObject, fresh: &OrderObject) -> News {
    match (&known.0, &fresh.0) {
        _ if is_same_version(known, fresh) => News::None,
        (Ok(one), Ok(other)) if one.spec == other.spec && facts(one) == facts(other) => News::Counts,
        _ => News::Facts,
    }
}

/// What a report says besides counts, and whether connections skip TIME_WAIT there.
fn facts(order: &TcpCloseNode) -> impl PartialEq {
    let TcpCloseNode { metadata, status, .. } = order;
    let facts = status.as_ref().map(|status| {
        let overflows = status.rates.as_ref().and_then(|rates| rates.overflows);
        (
            (status.observed_generation, &status.observed_revision, &status.node_uid, &status.boot_id),
            (&status.conditions, &status.node, &status.sysctls, &status.observe),
            overflows.is_some_and(|rate| rate > 0),
        )
    });
    ((&metadata.uid, metadata.generation, &metadata.deletion_timestamp), facts)
}

/// Whom news wake.
struct Wake {
    facts: watch::Sender<u64>,
    counts: watch::Sender<u64>,
}

async fn reflect<K: Resource<DynamicType = ()>>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    mut writer: Writer<K>,
    compare: fn(&K, &K) -> News,
    wake: &Wake,
    line: &Mutex<Line>,
) {
    let kind = <K as Resource>::plural(&()).into_owned();
    let mut events = std::pin::pin!(without_errors(events, kind, line));
    while let Some(event) = events.next().await {
        match writer.take(event, compare) {
            News::None => {}
            News::Counts => wake.counts.send_modify(|count| *count += 1),
            News::Facts => wake.facts.send_modify(|count| *count += 1),
        }
    }
}

/// The events alone. Errors are told once, until something is shown again.
fn without_errors<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    kind: String,
    line: &Mutex<Line>,
) -> impl Stream<Item = Event<K>> {
    events.filter_map(move |event| {
        match &event {
            // Somebody is about to ask, and nothing has been answered yet.
            Ok(Event::Init) => {}
            Ok(_) => {
                if locked(line).note_shown(Instant::now()) {
                    tracing::info!("watch {kind}: works again");
                }
            }
            Err(error) => {
                let words = crate::chain(error);
                if locked(line).note_error(sanitize::error(&words), Instant::now()) {
                    tracing::warn!("watch {kind}: {words}; retrying");
                }
            }
        }
        std::future::ready(event.ok())
    })
}

fn locked(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use crds::TcpCloseNodeStatus;
    use crds::node::{PodCounts, Pods, Ports, Rates, States};
    use kube::runtime::watcher::Error;

    use super::*;
    use crate::fixtures::{Cluster, tuning};

    #[test]
    fn of_thirty_pods_those_that_leak_are_kept_in_memory() {
        let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
        cluster.agent_reports("n1", |status| {
            let leaking = |close_wait| {
                let states = Some(States { close_wait, ..States::default() });
                PodCounts { states, ..PodCounts::default() }
            };
            let most = [812, 99, 0].map(leaking).to_vec();
            status.pods = Some(Pods { most, time_wait_and_fin_wait2: Some(7), ..Pods::default() });
            status.ports = Some(Ports::default());
        });
        let mut object = (*cluster.snapshot.orders["n1"]).clone();
        strip_order(&mut object);
        let status = object.0.unwrap().status.unwrap();
        let pods = status.pods.unwrap();
        assert_eq!((pods.most.len(), pods.time_wait_and_fin_wait2, status.ports), (1, Some(7), None));
        assert!(status.sockets.is_some());
    }

    #[test]
    fn who_manages_which_field_is_kept_in_mind_only_where_the_api_server_may_forget_it() {
        let kept = |managers: Option<&[&str]>| {
            let cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
            let mut object = (*cluster.snapshot.orders["n1"]).clone();
            let entry = |manager: &&str| ManagedFieldsEntry {
                manager: Some((*manager).into()),
                ..ManagedFieldsEntry::default()
            };
            object.meta_mut().managed_fields = managers.map(|managers| managers.iter().map(entry).collect());
            strip_order(&mut object);
            object.meta().managed_fields.clone()
        };
        assert_eq!(kept(Some(&["tcp-close-operator", "tcp-close-agent"])), Some(Vec::new()));
        assert_eq!(kept(Some(&["unknown", "before-first-apply", "tcp-close-agent"])), Some(Vec::new()));
        assert_eq!(kept(Some(&["tcp-close-operator", "kubectl-annotate"])), None);
        assert_eq!(kept(None), None);
    }

    #[test]
    fn a_report_is_news_by_what_it_says() {
        let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
        let mut report = |change: &dyn Fn(&mut TcpCloseNodeStatus)| {
            let known = cluster.snapshot.orders["n1"].clone();
            cluster.agent_reports("n1", |status| change(status));
            let mut fresh = (*cluster.snapshot.orders["n1"]).clone();
            fresh.meta_mut().resource_version = Some("fresh".into());
            let news = news_of_order(&known, &fresh);
            cluster.snapshot.orders.insert("n1".into(), known);
            news
        };
        assert_eq!(report(&|status| status.reported_at = None), News::Counts);
        assert_eq!(report(&|status| status.sockets = None), News::Counts);
        let rates = |overflows| Some(Rates { overflows: Some(overflows), ..Rates::default() });
        assert_eq!(report(&|status| status.rates = rates(0)), News::Counts);
        assert_eq!(report(&|status| status.rates = rates(1)), News::Facts);
        assert_eq!(report(&|status| status.sysctls.clear()), News::Facts);
        assert_eq!(report(&|status| status.observed_generation += 1), News::Facts);
    }

    #[tokio::test]
    async fn only_what_changes_what_is_known_wakes_the_loops() {
        let line = Mutex::default();
        let ((facts, mut woken), (counts, _)) = (watch::channel(0), watch::channel(0));
        let (_, writer) = Store::new();
        let events = [
            Ok(Event::Init),
            Ok(Event::InitApply(Node::default())),
            Ok(Event::InitDone),
            Err(Error::NoResourceVersion),
            // A heartbeat of its kubelet.
            Ok(Event::Apply(Node::default())),
            Ok(Event::Delete(Node::default())),
        ];
        let wake = Wake { facts, counts };
        reflect(futures::stream::iter(events), writer, News::between, &wake, &line).await;
        assert_eq!(*woken.borrow_and_update(), 2, "the end of a list, and a Node that is gone");
    }

    /// For how long reports could not be heard where the watches come to this, each after it has listed.
    async fn deaf(
        nodes: Vec<watcher::Result<Event<Node>>>,
        orders: Vec<watcher::Result<Event<OrderObject>>>,
    ) -> Duration {
        fn listed<K>(then: Vec<watcher::Result<Event<K>>>) -> impl Stream<Item = watcher::Result<Event<K>>> {
            futures::stream::iter([Ok(Event::Init), Ok(Event::InitDone)].into_iter().chain(then))
        }
        let (caches, watching) =
            Caches::fed_by(listed(nodes), listed(Vec::new()), listed(orders), listed(Vec::new()));
        Box::pin(watching).await;
        caches.take_deaf()
    }

    #[tokio::test]
    async fn reports_are_missed_by_the_watch_of_orders_and_by_no_other() {
        assert_eq!(deaf(vec![Err(Error::NoResourceVersion)], Vec::new()).await, Duration::ZERO);
        assert_ne!(deaf(Vec::new(), vec![Err(Error::NoResourceVersion)]).await, Duration::ZERO);
    }

    #[test]
    fn the_kind_whose_watch_fails_is_named_with_the_api_servers_words() {
        let (caches, _watching) = Caches::fed_by(
            futures::stream::empty(),
            futures::stream::empty(),
            futures::stream::empty(),
            futures::stream::empty(),
        );
        let (start, long) = (Instant::now(), Duration::from_secs(60));
        for at in [start, start + long] {
            assert_eq!(caches.failing(start, at), None);
            locked(&caches.lines.orders).note_error("forbidden".into(), at);
        }
        assert_eq!(caches.failing(start, start + long), Some("tcpclosenodes: forbidden".into()));
    }

    #[tokio::test]
    async fn a_list_that_is_asked_for_and_denied_again_and_again_has_shown_nothing() {
        let denied = || Err(Error::NoResourceVersion);
        let line = Mutex::default();
        let events = [Ok(Event::<Node>::Init), denied(), Ok(Event::Init)];
        without_errors(futures::stream::iter(events), "nodes".into(), &line).count().await;
        let is_first = locked(&line).note_error("forbidden".into(), Instant::now());
        assert!(!is_first, "it was told before");
    }
}
