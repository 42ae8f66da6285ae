//! Watch: what the API server holds, kept in memory. The only step that reads from the cluster.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crds::TcpCloseNode;
use crds::client::backoff;
use futures::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector::store::Writer};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::snapshot::{Node, OrderObject, RETRY_AT, Snapshot, Tuning, TuningObject};
use crate::summarise::leaked;

/// Reflections of the three kinds.
#[derive(Clone)]
pub struct Caches {
    nodes: Store<Node>,
    tunings: Store<TuningObject>,
    orders: Store<OrderObject>,
    changes: watch::Receiver<u64>,
    interrupted: Arc<AtomicBool>,
}

impl Caches {
    /// Starts to watch. The future does it, for ever; it has to be polled.
    pub fn start(client: &Client) -> (Self, impl Future<Output = ()> + use<>) {
        let (wake, changes) = watch::channel(0);
        let (nodes, node_writer) = reflector::store();
        let (tunings, tuning_writer) = reflector::store();
        let (orders, order_writer) = reflector::store();
        let interrupted = Arc::<AtomicBool>::default();
        let caches = Self { nodes, tunings, orders, changes, interrupted: interrupted.clone() };
        let client = client.clone();
        let watching = async move {
            tokio::join!(
                reflect(&client, node_writer, Node::strip, &wake, &interrupted),
                reflect(&client, tuning_writer, strip_tuning, &wake, &interrupted),
                reflect(&client, order_writer, strip_order, &wake, &interrupted),
            );
        };
        (caches, watching)
    }

    /// Returns when each kind has been listed once. Nothing may be decided before.
    pub async fn listed(&self) {
        let all = async {
            self.nodes.wait_until_ready().await?;
            self.tunings.wait_until_ready().await?;
            self.orders.wait_until_ready().await
        };
        if all.await.is_err() {
            // The watches are gone: the process is ending.
            std::future::pending::<()>().await;
        }
    }

    /// Changes whenever anything does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Whether a watch broke off since this was asked last. While it is broken, agents look silent that are not.
    pub fn was_interrupted(&self) -> bool {
        self.interrupted.swap(false, Ordering::Relaxed)
    }

    /// Everything as it stands now.
    pub fn snapshot(&self) -> Snapshot {
        let mut tunings: Vec<_> = self.tunings.state().iter().map(|object| Tuning::from(&**object)).collect();
        tunings.sort_by(|one, other| one.name.cmp(&other.name));
        Snapshot { nodes: by_name(&self.nodes), tunings, orders: by_name(&self.orders) }
    }
}

fn by_name<K>(store: &Store<K>) -> BTreeMap<String, Arc<K>>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    store.state().into_iter().map(|object| (object.name_any(), object)).collect()
}

fn strip<K: Resource>(object: &mut DeserializeGuard<K>) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
}

fn strip_tuning(object: &mut TuningObject) {
    let mut annotations = object.meta_mut().annotations.take().unwrap_or_default();
    strip(object);
    annotations.retain(|name, _| name == RETRY_AT);
    object.meta_mut().annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
}

/// Drops what nothing here reads: the figures of ports and of thirty pods take more memory than all the rest of a node.
fn strip_order(object: &mut OrderObject) {
    strip(object);
    let Ok(TcpCloseNode { status: Some(status), .. }) = &mut object.0 else { return };
    status.ports = None;
    if let Some(pods) = &mut status.pods {
        pods.most.retain(|pod| leaked(pod).is_some());
        pods.most.shrink_to_fit();
    }
}

async fn reflect<K>(
    client: &Client,
    writer: Writer<K>,
    strip: fn(&mut K),
    wake: &watch::Sender<u64>,
    interrupted: &AtomicBool,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = <K as Resource>::plural(&()).into_owned();
    let api = Api::<K>::all(client.clone());
    let events = watcher(api, watcher::Config::default()).backoff(backoff()).modify(strip);
    let mut events = std::pin::pin!(log_first_errors(events.reflect(writer), kind, interrupted));
    while let Some(wakes) = events.next().await {
        if wakes {
            wake.send_modify(|count| *count += 1);
        }
    }
}

/// Whether each event changes what is known. Errors are told once, until something succeeds again.
fn log_first_errors<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    kind: String,
    interrupted: &AtomicBool,
) -> impl Stream<Item = bool> {
    let mut told = false;
    events.map(move |event| match event {
        Ok(event) => {
            if told {
                tracing::info!("watch {kind}: works again");
            }
            told = false;
            match event {
                Event::Apply(_) | Event::Delete(_) | Event::InitDone => true,
                Event::Init | Event::InitApply(_) => false,
            }
        }
        Err(error) => {
            interrupted.store(true, Ordering::Relaxed);
            if !told {
                tracing::warn!("watch {kind}: {}; retrying", crate::chain(&error));
            }
            told = true;
            false
        }
    })
}

#[cfg(test)]
mod tests {
    use crds::node::{PodCounts, Pods, Ports, States};
    use futures::FutureExt;
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
    fn only_what_changes_what_is_known_wakes_the_loops() {
        let interrupted = AtomicBool::new(false);
        let node = Node::default;
        let events = [
            Ok(Event::Init),
            Ok(Event::InitApply(node())),
            Ok(Event::InitDone),
            Err(Error::NoResourceVersion),
            Ok(Event::Apply(node())),
            Ok(Event::Delete(node())),
        ];
        let wakes = log_first_errors(futures::stream::iter(events), "nodes".into(), &interrupted);
        let wakes = wakes.collect::<Vec<_>>().now_or_never().unwrap();
        assert_eq!(wakes, [false, false, true, false, true, true]);
        assert!(interrupted.into_inner());
    }
}
