//! What tests are made of: nodes, tunings, orders and reports in a few words.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::node::{EntryAction, ObservedStatus, Sockets, States, SysctlEntry, SysctlStatus};
use crds::tuning::{Mode, NodeSelector, RemovalPolicy, Sysctls, TcpCloseTuningSpec};
use crds::{TcpCloseNode, TcpCloseNodeSpec, TcpCloseNodeStatus, TcpCloseTuningStatus, revision};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use tcp_close::Sysctl;

use crate::assign::{self, Write};
use crate::history::History;
use crate::resolve::{Contents, NodeOrder, Resolution, resolve};
use crate::run::resolve_now;
use crate::snapshot::{Node, NodeCondition, Snapshot, Tuning};
use crate::summarise::{Now, blind, class, summarise};

pub(crate) const FIN: Sysctl = Sysctl::FinTimeout;
pub(crate) const RETRIES: Sysctl = Sysctl::OrphanRetries;

/// What has not come to an end by then does not.
const ROUNDS_MAX: usize = 100;

/// A Ready Linux node, uid `NAME-uid`.
pub(crate) fn node(name: &str) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(name.into());
    node.metadata.uid = Some(format!("{name}-uid"));
    node.set_label("kubernetes.io/os", Some("linux"));
    node.set_label("name", Some(name));
    let ready = NodeCondition { type_: "Ready".into(), status: "True".into(), ..NodeCondition::default() };
    node.status.conditions = vec![ready];
    node
}

/// A tuning that enforces fin_timeout on every node, uid `NAME-uid`.
pub(crate) fn tuning(name: &str, fin_timeout: i64) -> Tuning {
    let spec = TcpCloseTuningSpec {
        node_selector: selector("kubernetes.io/os", "linux"),
        mode: Mode::Enforce,
        sysctls: Sysctls { tcp_fin_timeout_seconds: Some(fin_timeout), ..Sysctls::default() },
        priority: None,
        safety: None,
        drift_policy: None,
        removal_policy: None,
        max_failed_nodes: None,
        rollout: None,
    };
    let tuning = Tuning {
        name: name.into(),
        uid: format!("{name}-uid"),
        generation: 1,
        resource_version: "1".into(),
        created: Some(Timestamp::UNIX_EPOCH),
        deleting: false,
        spec: Ok(spec),
        revision: String::new(),
        retry_at: None,
        status: None,
    };
    tuning.with(|_| {})
}

pub(crate) fn selector(key: &str, value: &str) -> NodeSelector {
    NodeSelector { match_labels: [(key.to_string(), value.to_string())].into(), ..NodeSelector::default() }
}

impl Tuning {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut TcpCloseTuningSpec)) -> Self {
        if let Ok(spec) = &mut self.spec {
            change(spec);
            self.revision = revision::of_tuning(spec);
        }
        self
    }

    pub(crate) fn priority(self, priority: i32) -> Self {
        self.with(|spec| spec.priority = Some(priority))
    }

    pub(crate) fn observing(self) -> Self {
        self.with(|spec| spec.mode = Mode::Observe)
    }

    pub(crate) fn keeping(self) -> Self {
        self.with(|spec| spec.removal_policy = Some(RemovalPolicy::Keep))
    }

    pub(crate) fn on(self, node: &str) -> Self {
        self.with(|spec| spec.node_selector = selector("name", node))
    }

    pub(crate) fn created(mut self, second: i64) -> Self {
        self.created = Some(Timestamp::from_second(second).unwrap());
        self
    }

    pub(crate) fn undecodable(mut self) -> Self {
        self.spec = Err("unknown variant `Someday`".into());
        self.revision = String::new();
        self
    }
}

/// A cluster in which time passes, orders are written and agents report.
pub(crate) struct Cluster {
    pub(crate) snapshot: Snapshot,
    pub(crate) history: History,
    pub(crate) now: Now,
    /// The kind whose watch fails, and why.
    pub(crate) failing: Option<String>,
}

impl Cluster {
    pub(crate) fn new(nodes: &[&str], tunings: Vec<Tuning>) -> Self {
        let now = Now {
            wall: Timestamp::from_second(1_000_000).unwrap(),
            clock: Instant::now() + Duration::from_secs(9),
        };
        let snapshot = Snapshot {
            nodes: nodes.iter().map(|name| ((*name).to_string(), Arc::new(node(name)))).collect(),
            tunings,
            ..Snapshot::default()
        };
        Self { snapshot, history: History::default(), now, failing: None }
    }

    /// Nodes that carry out what these tunings order, to the end.
    pub(crate) fn settled(nodes: &[&str], tunings: Vec<Tuning>) -> Self {
        let mut cluster = Self::new(nodes, tunings);
        // Nodes report on an empty order before they are ordered anything new.
        for _ in 0..ROUNDS_MAX {
            cluster.assign();
            cluster.agents_apply();
            cluster.statuses();
            let rollouts = || cluster.snapshot.tunings.iter().filter_map(Tuning::rollout);
            if rollouts().all(|rollout| rollout.phase == "Completed") {
                break;
            }
            if rollouts().any(|rollout| rollout.phase == "Soaking") {
                cluster.pass(60);
            }
        }
        // Nothing but how far the rollouts are: conditions are what tests are about.
        for tuning in &mut cluster.snapshot.tunings {
            let rollout = tuning.rollout().cloned();
            tuning.status = Some(TcpCloseTuningStatus {
                observed_generation: -1,
                rollout,
                ..TcpCloseTuningStatus::default()
            });
        }
        cluster
    }

    /// The statuses of all tunings now; they are stored.
    pub(crate) fn statuses(&mut self) {
        let names: Vec<_> = self.snapshot.tunings.iter().map(|tuning| tuning.name.clone()).collect();
        for name in names {
            self.status(&name);
        }
    }

    /// What the specs want.
    pub(crate) fn resolve(&self) -> Resolution {
        resolve(&self.snapshot, &Contents::as_specified())
    }

    /// What is to be ordered now.
    pub(crate) fn resolve_now(&self) -> Resolution {
        let silent = class::silent(&self.snapshot, &self.history, self.now.clock);
        resolve_now(&self.snapshot, &silent, &BTreeSet::new())
    }

    pub(crate) fn order(&self, node: &str) -> NodeOrder {
        self.resolve().orders[node].clone()
    }

    /// The order of a node in its spoken form: `tcp_fin_timeout Set 30 by web`.
    pub(crate) fn spoken(&self, node: &str) -> Vec<String> {
        self.order(node).entries.iter().map(speak).collect()
    }

    /// Writes what was resolved, as the API server would.
    pub(crate) fn assign(&mut self) {
        self.write(&self.resolve_now());
    }

    /// Writes these orders, as the API server would.
    pub(crate) fn write(&mut self, resolution: &Resolution) {
        for write in assign::plan(&self.snapshot, resolution) {
            self.take(&write, resolution);
        }
    }

    /// Takes one write, as the API server would.
    pub(crate) fn take(&mut self, write: &Write, resolution: &Resolution) {
        let name = write.node().to_string();
        let mut object = match write {
            Write::Delete { .. } => {
                self.snapshot.orders.remove(&name);
                return;
            }
            Write::Create { object, .. } => {
                let status = TcpCloseNodeStatus { observed_generation: -1, ..TcpCloseNodeStatus::default() };
                TcpCloseNode { status: Some(status), ..(**object).clone() }
            }
            Write::Patch { .. } => self.snapshot.orders[&name].0.as_ref().unwrap().clone(),
        };
        let order = &resolution.orders[&name];
        object.spec = TcpCloseNodeSpec {
            node_uid: self.snapshot.nodes[&name].uid().into(),
            revision: revision::of_entries(&order.entries, &order.observe),
            report_interval_seconds: 20,
            counts_interval_seconds: None,
            sysctls: order.entries.clone(),
            observe: order.observe.clone(),
        };
        let generation = object.metadata.generation.unwrap_or_default() + 1;
        object.metadata.generation = Some(generation);
        object.metadata.uid.get_or_insert_with(|| format!("{name}-object"));
        object.metadata.resource_version = Some(generation.to_string());
        self.snapshot.orders.insert(name, Arc::new(DeserializeGuard(Ok(object))));
    }

    /// The agents of all nodes carry out their orders.
    pub(crate) fn agents_apply(&mut self) {
        let names: Vec<_> = self.snapshot.orders.keys().cloned().collect();
        for name in names {
            self.agent_reports(&name, |_| {});
        }
    }

    /// The agent of one node carries out its order, and reports what the change makes of it.
    pub(crate) fn agent_reports(&mut self, node: &str, change: impl FnOnce(&mut TcpCloseNodeStatus)) {
        let at = Time(self.now.wall);
        self.edit_order(node, |object| {
            let mut status = acknowledge(object);
            status.reported_at = Some(at);
            change(&mut status);
            object.status = Some(status);
        });
    }

    pub(crate) fn edit_order(&mut self, node: &str, change: impl FnOnce(&mut TcpCloseNode)) {
        let mut object = self.snapshot.orders[node].0.as_ref().unwrap().clone();
        change(&mut object);
        self.snapshot.orders.insert(node.into(), Arc::new(DeserializeGuard(Ok(object))));
    }

    pub(crate) fn edit_node(&mut self, node: &str, change: impl FnOnce(&mut Node)) {
        let mut object = (*self.snapshot.nodes[node]).clone();
        change(&mut object);
        self.snapshot.nodes.insert(node.into(), Arc::new(object));
    }

    pub(crate) fn node_is_down(&mut self, node: &str) {
        self.edit_node(node, |node| node.status.conditions[0].status = "Unknown".into());
    }

    pub(crate) fn edit_tuning(&mut self, name: &str, change: impl FnOnce(Tuning) -> Tuning) {
        let tuning = self.snapshot.tunings.iter_mut().find(|tuning| tuning.name == name).unwrap();
        *tuning = change(tuning.clone());
        tuning.generation += 1;
    }

    pub(crate) fn delete_tuning(&mut self, name: &str) {
        self.snapshot.tunings.retain(|tuning| tuning.name != name);
    }

    pub(crate) fn undecodable_order(&mut self, node: &str) {
        let metadata = self.snapshot.orders[node].0.as_ref().unwrap().metadata.clone();
        let invalid = InvalidObject { error: "unknown variant".into(), metadata };
        self.snapshot.orders.insert(node.into(), Arc::new(DeserializeGuard(Err(invalid))));
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now.clock += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
    }

    /// The status of a tuning now; it is stored as the API server would.
    pub(crate) fn status(&mut self, name: &str) -> TcpCloseTuningStatus {
        let status = self.next_status(name);
        let tuning = self.snapshot.tunings.iter_mut().find(|tuning| tuning.name == name).unwrap();
        tuning.status = Some(status.clone());
        status
    }

    /// The status of a tuning now; nobody stores it.
    pub(crate) fn next_status(&mut self, name: &str) -> TcpCloseTuningStatus {
        let resolution = self.resolve();
        self.history.note_reports(&self.snapshot, self.now.clock);
        let tuning = self.snapshot.tunings.iter().find(|tuning| tuning.name == name).unwrap();
        let stored = tuning.status.as_ref();
        if let Some(watch) = &self.failing {
            return blind(tuning, stored, watch, self.now.wall);
        }
        summarise(tuning, stored, &self.snapshot, &resolution, &mut self.history, self.now)
    }

    /// Ready, its reason, and whether it is Reconciling or Stalled: `False Refused Stalled`.
    pub(crate) fn verdict(&mut self, name: &str) -> String {
        let status = self.status(name);
        let is_true = |at: usize| status.conditions[at].status == crds::condition::ConditionStatus::True;
        let ready = &status.conditions[0];
        let work = match (is_true(1), is_true(2)) {
            (false, false) => "",
            (true, false) => " Reconciling",
            (false, true) => " Stalled",
            (true, true) => panic!("Reconciling and Stalled"),
        };
        format!("{:?} {}{work}", ready.status, ready.reason)
    }

    pub(crate) fn message(&mut self, name: &str) -> String {
        self.status(name).conditions[0].message.clone()
    }
}

fn acknowledge(object: &TcpCloseNode) -> TcpCloseNodeStatus {
    let rows = object.spec.sysctls.iter().map(|entry| SysctlStatus {
        state: match entry.action {
            EntryAction::Set => "Applied",
            EntryAction::Hold => "Held",
            EntryAction::Restore => "Restored",
            EntryAction::Release => "Released",
        }
        .into(),
        live: Some(entry.value.unwrap_or(60)),
        baseline: (entry.action != EntryAction::Release).then_some(60),
        desired: entry.value,
        ..row(&entry.name)
    });
    let observe = object.spec.observe.iter().map(|observed| ObservedStatus {
        tuning: observed.tuning.clone(),
        sysctls: vec![SysctlStatus { state: "WouldChange".into(), ..row(FIN.name()) }],
    });
    TcpCloseNodeStatus {
        observed_generation: object.metadata.generation.unwrap(),
        observed_revision: Some(object.spec.revision.clone()),
        sysctls: rows.collect(),
        observe: observe.collect(),
        sockets: Some(counted(1234, 1)),
        ..TcpCloseNodeStatus::default()
    }
}

/// What an agent counted.
pub(crate) fn counted(time_wait: u64, orphans: u64) -> Sockets {
    Sockets { states: States { time_wait, orphans, ..States::default() }, ..Sockets::default() }
}

fn row(name: &str) -> SysctlStatus {
    SysctlStatus { name: name.into(), ..SysctlStatus::default() }
}

/// The first row of a report in this state, with words.
pub(crate) fn in_state(state: &str, message: &str) -> impl FnOnce(&mut TcpCloseNodeStatus) {
    let (state, message) = (state.to_string(), message.to_string());
    move |status| {
        let row = &mut status.sysctls[0];
        row.rule = (state == "Refused").then(|| "out-of-bounds".into());
        (row.state, row.message, row.live) = (state, Some(message), Some(60));
    }
}

pub(crate) fn speak(entry: &SysctlEntry) -> String {
    let name = entry.name.trim_start_matches("net.ipv4.");
    let value = entry.value.map(|value| format!(" {value}")).unwrap_or_default();
    format!("{name} {:?}{value} by {}", entry.action, entry.tuning.name)
}
