//! Watch: what the API server holds, kept in memory. The only step that reads from the cluster.

mod line;
mod order;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crds::client::backoff;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use line::Line;
use order::{Contents, strip_order};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::sanitize;
use crate::snapshot::{Node, OrderObject, RETRY_AT, Snapshot, Tuning, TuningObject};
use crate::store::{News, Store, Stored, Writer};
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
    alarms: watch::Receiver<u64>,
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
        let (wake, [facts, alarms, counts]) = Wake::new();
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
            alarms,
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
                reflect(of_nodes, node_writer, &wake, &lines.nodes),
                reflect(of_tunings, tuning_writer, &wake, &lines.tunings),
                reflect(of_orders, order_writer, &wake, &lines.orders),
                reflect(of_control, control_writer, &wake, &lines.control),
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

    /// Changes whenever something does that an order may depend on.
    pub fn facts(&self) -> watch::Receiver<u64> {
        self.facts.clone()
    }

    /// Changes whenever something does that people are to know at once: what an order may depend on, and more.
    pub fn alarms(&self) -> watch::Receiver<u64> {
        self.alarms.clone()
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

/// So many objects come at once where all are listed. A Node has 7 KB and more as it comes, and for a moment a page is there as text
/// and as objects, beside what is kept: of 500, the library's default, that is megabytes.
const PAGE: u32 = 100;

/// What the API server says of all objects of one kind, for ever.
fn all<K>(client: &Client) -> impl Stream<Item = watcher::Result<Event<K>>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    events(Api::all(client.clone()), watcher::Config::default().page_size(PAGE))
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

impl Stored for Node {
    fn news(&self, known: &Self) -> News {
        News::between(known, self)
    }
}

impl Stored for ConfigMap {
    fn news(&self, known: &Self) -> News {
        News::between(known, self)
    }
}

impl Stored for TuningObject {
    fn news(&self, known: &Self) -> News {
        if is_same_version(known, self) { News::None } else { News::Facts }
    }
}

/// Whom news wake.
struct Wake {
    facts: watch::Sender<u64>,
    alarms: watch::Sender<u64>,
    counts: watch::Sender<u64>,
}

impl Wake {
    /// And what hears of facts, of alarms, and of counts.
    fn new() -> (Self, [watch::Receiver<u64>; 3]) {
        let (facts, of_facts) = watch::channel(0);
        let (alarms, of_alarms) = watch::channel(0);
        let (counts, of_counts) = watch::channel(0);
        (Self { facts, alarms, counts }, [of_facts, of_alarms, of_counts])
    }

    fn tell(&self, news: News) {
        let wake = |who: &watch::Sender<u64>| who.send_modify(|count| *count += 1);
        match news {
            News::None => {}
            News::Counts => wake(&self.counts),
            News::Alarm => wake(&self.alarms),
            News::Facts => {
                wake(&self.facts);
                wake(&self.alarms);
            }
        }
    }
}

async fn reflect<K: Stored<DynamicType = ()>>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    mut writer: Writer<K>,
    wake: &Wake,
    line: &Mutex<Line>,
) {
    let kind = <K as Resource>::plural(&()).into_owned();
    let mut events = std::pin::pin!(without_errors(events, kind, line));
    while let Some(event) = events.next().await {
        wake.tell(writer.take(event));
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
    use kube::runtime::watcher::Error;

    use super::*;

    #[tokio::test]
    async fn only_what_changes_what_is_known_wakes_the_loops() {
        let line = Mutex::default();
        let (wake, [mut facts, mut alarms, _counts]) = Wake::new();
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
        reflect(futures::stream::iter(events), writer, &wake, &line).await;
        assert_eq!(*facts.borrow_and_update(), 2, "the end of a list, and a Node that is gone");
        assert_eq!(*alarms.borrow_and_update(), 2, "people are to know of these at once, too");
    }

    #[test]
    fn an_alarm_wakes_the_loop_that_tells_and_not_the_one_that_orders() {
        let (wake, [facts, alarms, counts]) = Wake::new();
        let woken = |news| {
            let mut all = [facts.clone(), alarms.clone(), counts.clone()];
            all.iter_mut().for_each(watch::Receiver::mark_unchanged);
            wake.tell(news);
            all.map(|receiver| receiver.has_changed().unwrap())
        };
        assert_eq!(woken(News::None), [false, false, false]);
        assert_eq!(woken(News::Counts), [false, false, true]);
        assert_eq!(woken(News::Alarm), [false, true, false]);
        assert_eq!(woken(News::Facts), [true, true, false]);
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
