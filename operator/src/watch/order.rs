//! What is kept in memory of a node's order and report.

use std::collections::HashMap;

use crds::node::{ObservedTuning, SysctlEntry};
use crds::shared::Shared;
use crds::{AGENT_MANAGER, OPERATOR_MANAGER, TcpCloseNode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Resource;

use super::{is_same_version, strip};
use crate::sanitize;
use crate::snapshot::OrderObject;
use crate::store::{News, Stored};
use crate::summarise::leaked;

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
pub(super) fn strip_order(object: &mut OrderObject) {
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
pub(super) struct Contents(HashMap<String, Content>);

type Content = (Shared<Vec<SysctlEntry>>, Shared<Vec<ObservedTuning>>);

/// More than this are looked through for those that no order has any longer.
const CONTENTS: usize = 256;

impl Contents {
    /// Has an order share what it says with others that say the same.
    pub(super) fn share(&mut self, order: &mut OrderObject) {
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

impl Stored for OrderObject {
    /// Most reports of a large fleet are heartbeats.
    fn news(&self, known: &Self) -> News {
        match (&known.0, &self.0) {
            _ if is_same_version(known, self) => News::None,
            (Ok(one), Ok(other)) if one.spec == other.spec && facts(one) == facts(other) => {
                if overflows(one) == overflows(other) { News::Counts } else { News::Alarm }
            }
            _ => News::Facts,
        }
    }

    fn take_over(&mut self, known: &mut Self) {
        let (Ok(fresh), Ok(known)) = (&mut self.0, &mut known.0) else { return };
        take_over_equal(&mut fresh.metadata.name, &mut known.metadata.name);
        take_over_equal(&mut fresh.metadata.uid, &mut known.metadata.uid);
        take_over_equal(&mut fresh.spec.node_uid, &mut known.spec.node_uid);
        take_over_equal(&mut fresh.spec.revision, &mut known.spec.revision);
        let (Some(fresh), Some(known)) = (&mut fresh.status, &mut known.status) else { return };
        take_over_equal(&mut fresh.observed_revision, &mut known.observed_revision);
        take_over_equal(&mut fresh.node_uid, &mut known.node_uid);
        take_over_equal(&mut fresh.boot_id, &mut known.boot_id);
        take_over_equal(&mut fresh.summary, &mut known.summary);
        take_over_equal(&mut fresh.conditions, &mut known.conditions);
        take_over_equal(&mut fresh.node, &mut known.node);
        take_over_equal(&mut fresh.sysctls, &mut known.sysctls);
        take_over_equal(&mut fresh.observe, &mut known.observe);
    }
}

/// Swaps two that are equal.
fn take_over_equal<T: PartialEq>(fresh: &mut T, known: &mut T) {
    if fresh == known {
        std::mem::swap(fresh, known);
    }
}

/// What a report says besides counts.
fn facts(order: &TcpCloseNode) -> impl PartialEq {
    let TcpCloseNode { metadata, status, .. } = order;
    let facts = status.as_ref().map(|status| {
        (
            (status.observed_generation, &status.observed_revision, &status.node_uid, &status.boot_id),
            (&status.conditions, &status.node, &status.sysctls, &status.observe),
        )
    });
    ((&metadata.uid, metadata.generation, &metadata.deletion_timestamp), facts)
}

/// Whether a report says that connections skip TIME_WAIT.
fn overflows(order: &TcpCloseNode) -> bool {
    let rates = order.status.as_ref().and_then(|status| status.rates.as_ref());
    rates.and_then(|rates| rates.overflows).is_some_and(|rate| rate > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crds::TcpCloseNodeStatus;
    use crds::node::{PodCounts, Pods, Ports, Rates, Sockets, States};
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::fixtures::{Cluster, tuning};
    use crate::store::Store;

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
            let news = fresh.news(&known);
            cluster.snapshot.orders.insert("n1".into(), known);
            news
        };
        assert_eq!(report(&|status| status.reported_at = None), News::Counts);
        assert_eq!(report(&|status| status.sockets = None), News::Counts);
        let rates = |overflows| Some(Rates { overflows: Some(overflows), ..Rates::default() });
        assert_eq!(report(&|status| status.rates = rates(0)), News::Counts);
        assert_eq!(report(&|status| status.rates = rates(1)), News::Alarm);
        assert_eq!(report(&|status| status.sysctls.clear()), News::Facts);
        assert_eq!(report(&|status| status.observed_generation += 1), News::Facts);
    }

    #[test]
    fn what_a_report_repeats_stays_where_it_is_unless_somebody_looks_at_it() {
        let cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
        let report = |version: &str, orphans| {
            let mut object = (*cluster.snapshot.orders["n1"]).clone();
            object.meta_mut().resource_version = Some(version.into());
            let status = object.0.as_mut().unwrap().status.as_mut().unwrap();
            status.sockets = Some(Sockets { machine_orphans: orphans, ..Sockets::default() });
            Event::Apply(object)
        };
        let (store, mut writer) = Store::new();
        let status = |objects: &BTreeMap<String, Arc<OrderObject>>| {
            let status = objects["n1"].0.as_ref().unwrap().status.as_ref().unwrap();
            (status.sysctls.as_ptr(), status.sockets.as_ref().unwrap().machine_orphans)
        };
        writer.take(report("1", 1));
        let (place, _) = status(&store.objects());
        writer.take(report("2", 2));
        assert_eq!(status(&store.objects()), (place, 2));
        let looked_at = store.objects();
        writer.take(report("3", 3));
        assert_eq!(status(&looked_at), (place, 2));
        assert_eq!(status(&store.objects()).1, 3);
    }
}
