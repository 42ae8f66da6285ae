//! Objects of one kind, as their watch has shown them. It keeps one copy of each: after a watch broke off, everything is
//! listed anew, and a second copy of a large fleet would be most of the operator's memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;

/// Objects by name.
#[derive(Clone)]
pub struct Store<K> {
    objects: Arc<Mutex<BTreeMap<String, Arc<K>>>>,
    listed: watch::Receiver<bool>,
}

impl<K> Store<K> {
    /// An empty store, and who fills it.
    pub fn new() -> (Self, Writer<K>) {
        let objects = Arc::<Mutex<_>>::default();
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
    pub fn objects(&self) -> BTreeMap<String, Arc<K>> {
        locked(&self.objects).clone()
    }
}

/// Fills a store.
pub struct Writer<K> {
    objects: Arc<Mutex<BTreeMap<String, Arc<K>>>>,
    /// What a list that has not ended yet has shown.
    seen: BTreeSet<String>,
    listed: watch::Sender<bool>,
}

impl<K: Resource> Writer<K> {
    /// Takes an event in. Returns whether anything has changed that somebody may look at; while a list goes on, the answer
    /// waits for its end.
    pub fn take(&mut self, event: Event<K>, is_same: fn(&K, &K) -> bool) -> bool {
        let mut objects = locked(&self.objects);
        match event {
            Event::Apply(object) => put(&mut objects, object, is_same),
            Event::Delete(object) => objects.remove(&object.name_any()).is_some(),
            Event::Init => {
                self.seen.clear();
                false
            }
            Event::InitApply(object) => {
                self.seen.insert(object.name_any());
                put(&mut objects, object, is_same);
                false
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.seen);
                objects.retain(|name, _| seen.contains(name));
                self.listed.send_replace(true);
                true
            }
        }
    }
}

fn put<K: Resource>(objects: &mut BTreeMap<String, Arc<K>>, object: K, is_same: fn(&K, &K) -> bool) -> bool {
    let name = object.name_any();
    let is_known = objects.get(&name).is_some_and(|known| is_same(known, &object));
    if !is_known {
        objects.insert(name, Arc::new(object));
    }
    !is_known
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
        store.objects().into_keys().collect()
    }

    #[test]
    fn nothing_is_listed_until_the_first_list_has_ended() {
        let (store, mut writer) = Store::new();
        for event in [Event::Init, Event::InitApply(node("n1", "a"))] {
            assert!(!writer.take(event, Node::eq));
            assert_eq!(store.listed().now_or_never(), None);
        }
        assert!(writer.take(Event::InitDone, Node::eq));
        assert_eq!(store.listed().now_or_never(), Some(()));
    }

    #[test]
    fn a_new_list_keeps_what_is_the_same_and_forgets_what_is_gone() {
        let (store, mut writer) = Store::new();
        for event in [Event::Init, Event::InitApply(node("n1", "a")), Event::InitApply(node("n2", "a"))] {
            writer.take(event, Node::eq);
        }
        writer.take(Event::InitDone, Node::eq);
        let before = store.objects();
        for event in [Event::Init, Event::InitApply(node("n1", "a"))] {
            writer.take(event, Node::eq);
        }
        assert_eq!(names(&store), ["n1", "n2"], "a list that has not ended says of nobody that it is gone");
        writer.take(Event::InitDone, Node::eq);
        assert_eq!(names(&store), ["n1"]);
        assert!(Arc::ptr_eq(&before["n1"], &store.objects()["n1"]));
    }

    #[test]
    fn an_event_without_news_changes_nothing() {
        let (store, mut writer) = Store::new();
        assert!(writer.take(Event::Apply(node("n1", "a")), Node::eq));
        assert!(!writer.take(Event::Apply(node("n1", "a")), Node::eq));
        assert!(writer.take(Event::Apply(node("n1", "b")), Node::eq));
        assert!(writer.take(Event::Delete(node("n1", "b")), Node::eq));
        assert!(!writer.take(Event::Delete(node("n1", "b")), Node::eq));
        assert_eq!(names(&store), Vec::<String>::new());
    }
}
