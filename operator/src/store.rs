//! Objects of one kind, as their watch has shown them. It keeps one copy of each: after a watch broke off, everything is
//! listed anew, and a second copy of a large fleet would be most of the operator's memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crds::shared::Shared;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;

/// Objects by name. Who has them need not fear that they change: the store copies them before it does.
pub type Objects<K> = Shared<BTreeMap<String, Arc<K>>>;

/// What a watch has shown.
#[derive(Clone)]
pub struct Store<K> {
    objects: Arc<Mutex<Objects<K>>>,
    listed: watch::Receiver<bool>,
}

impl<K> Store<K> {
    /// An empty store, and who fills it.
    pub fn new() -> (Self, Writer<K>) {
        let objects = Arc::<Mutex<Objects<K>>>::default();
        let (tell, listed) = watch::channel(false);
        (Self { objects: objects.clone(), listed }, Writer { objects, seen: BTreeSet::new(), listed: tell })
    }

    /// Returns when everything has been listed once; never, where nobody does that any longer.
    pub async fn listed(&self) {
        if self.listed.clone().wait_for(|listed| *listed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Everything as it is now.
    pub fn objects(&self) -> Objects<K> {
        locked(&self.objects).clone()
    }
}

/// What an event tells somebody who knows what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// That counts have moved, on which no order depends.
    Counts,
    /// What people are to know at once, though no order depends on it.
    Alarm,
    /// Something that an order may depend on.
    Facts,
}

impl News {
    /// Facts, unless both are the same.
    pub fn between<K: PartialEq>(known: &K, fresh: &K) -> Self {
        if known == fresh { Self::None } else { Self::Facts }
    }
}

/// What a store keeps.
pub trait Stored: Resource {
    /// What it tells somebody who knows what came before it.
    fn news(&self, known: &Self) -> News;

    /// Takes over from what came before it, and will be dropped, what it only repeats: what stays in memory where it is leaves
    /// no holes there.
    fn take_over(&mut self, _known: &mut Self) {}
}

/// Fills a store.
pub struct Writer<K> {
    objects: Arc<Mutex<Objects<K>>>,
    /// What a list that has not ended yet has shown.
    seen: BTreeSet<String>,
    listed: watch::Sender<bool>,
}

impl<K: Stored> Writer<K> {
    /// Takes an event in, and returns what it tells; while a list goes on, that waits for its end.
    pub fn take(&mut self, event: Event<K>) -> News {
        let mut objects = locked(&self.objects);
        match event {
            Event::Apply(object) => put(&mut objects, object),
            Event::Delete(object) => match objects.remove(&object.name_any()) {
                Some(_) => News::Facts,
                None => News::None,
            },
            Event::Init => {
                self.seen.clear();
                News::None
            }
            Event::InitApply(object) => {
                self.seen.insert(object.name_any());
                put(&mut objects, object);
                News::None
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.seen);
                objects.retain(|name, _| seen.contains(name));
                self.listed.send_replace(true);
                News::Facts
            }
        }
    }
}

fn put<K: Stored>(objects: &mut Objects<K>, mut object: K) -> News {
    let name = object.name_any();
    let news = objects.get(&name).map_or(News::Facts, |known| object.news(known));
    if news == News::None {
        return news;
    }
    // In its place, unless somebody is looking at what was known.
    match objects.get_mut(&name).and_then(Arc::get_mut) {
        Some(known) => {
            object.take_over(known);
            *known = object;
        }
        None => {
            objects.insert(name, Arc::new(object));
        }
    }
    news
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::snapshot::Node;

    fn node(name: &str, label: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.set_label("pool", Some(label));
        node
    }

    fn names(store: &Store<Node>) -> Vec<String> {
        store.objects().keys().cloned().collect()
    }

    #[test]
    fn nothing_is_listed_until_the_first_list_has_ended() {
        let (store, mut writer) = Store::new();
        for event in [Event::Init, Event::InitApply(node("n1", "a"))] {
            assert_eq!(writer.take(event), News::None);
            assert_eq!(store.listed().now_or_never(), None);
        }
        assert_eq!(writer.take(Event::InitDone), News::Facts);
        assert_eq!(store.listed().now_or_never(), Some(()));
    }

    #[test]
    fn a_new_list_keeps_what_is_the_same_and_forgets_what_is_gone() {
        let (store, mut writer) = Store::new();
        for event in [Event::Init, Event::InitApply(node("n1", "a")), Event::InitApply(node("n2", "a"))] {
            writer.take(event);
        }
        writer.take(Event::InitDone);
        let before = store.objects();
        for event in [Event::Init, Event::InitApply(node("n1", "a"))] {
            writer.take(event);
        }
        assert_eq!(names(&store), ["n1", "n2"], "a list that has not ended says of nobody that it is gone");
        writer.take(Event::InitDone);
        assert_eq!(names(&store), ["n1"]);
        assert!(Arc::ptr_eq(&before["n1"], &store.objects()["n1"]));
    }

    #[test]
    fn an_event_without_news_changes_nothing() {
        let (store, mut writer) = Store::new();
        let mut take = |event| writer.take(event);
        assert_eq!(take(Event::Apply(node("n1", "a"))), News::Facts);
        assert_eq!(take(Event::Apply(node("n1", "a"))), News::None);
        assert_eq!(take(Event::Apply(node("n1", "b"))), News::Facts);
        assert_eq!(take(Event::Delete(node("n1", "b"))), News::Facts);
        assert_eq!(take(Event::Delete(node("n1", "b"))), News::None);
        assert_eq!(names(&store), Vec::<String>::new());
    }
}
