use crds::TcpCloseTuningSpec;
use crds::node::SysctlEntry;
use crds::tuning::{Canary, Gate, Rollout, RolloutStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::fixtures::{Cluster, in_state, node, selector, speak, tuning};
use crate::snapshot::{HOLD_LABEL, Tuning};

mod back;
mod crash;
mod forward;
mod gated;
mod heirs;
mod overdue;
mod overridden;
mod slots;

/// So many Ready nodes, `n01`, `n02`.
fn names(many: usize) -> Vec<String> {
    (1..=many).map(|number| format!("n{number:02}")).collect()
}

/// Nodes that have completed `fin_timeout = 30` by a tuning `web` with this rollout.
fn completed(many: usize, rollout: Option<Rollout>) -> Cluster {
    let names = names(many);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut cluster = Cluster::settled(&names, vec![tuning("web", 30)]);
    cluster.change(|spec| spec.rollout = rollout);
    cluster
}

fn at_most(nodes: i32) -> Rollout {
    Rollout { max_concurrent: Some(IntOrString::Int(nodes)), ..Rollout::default() }
}

fn gated() -> Rollout {
    Rollout { gate: Some(Gate::default()), soak_seconds: Some(60), ..at_most(1) }
}

impl Cluster {
    /// Somebody changes the value that `web` orders.
    fn edit(&mut self, fin_timeout: i64) {
        self.change(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(fin_timeout));
    }

    fn change(&mut self, change: impl FnOnce(&mut TcpCloseTuningSpec)) {
        self.edit_tuning("web", |tuning| tuning.with(change));
    }

    /// Orders are written, agents carry them out, statuses are written.
    fn turn(&mut self) {
        self.assign();
        self.agents_apply();
        self.statuses();
    }

    fn turns(&mut self, many: usize) {
        for _ in 0..many {
            self.turn();
        }
    }

    fn rollout(&self) -> RolloutStatus {
        self.snapshot.tunings.iter().find_map(|tuning| tuning.rollout()).unwrap().clone()
    }

    fn phase(&self) -> String {
        self.rollout().phase
    }

    /// The nodes whose stored order says this value.
    fn ordered(&self, fin_timeout: i64) -> Vec<String> {
        let orders = self.snapshot.orders.iter().filter(|(_, order)| {
            order.0.as_ref().unwrap().spec.sysctls.iter().any(|entry| entry.value == Some(fin_timeout))
        });
        orders.map(|(name, _)| name.clone()).collect()
    }

    /// The stored order of a node in its spoken form.
    fn stored(&self, node: &str) -> Vec<String> {
        let order = self.snapshot.orders[node].0.as_ref().unwrap();
        let said = |entry: &SysctlEntry| {
            let back = if entry.rollback == Some(true) { " (rollback)" } else { "" };
            format!("{}{back}", speak(entry))
        };
        order.spec.sysctls.iter().map(said).collect()
    }

    fn join(&mut self, name: &str) {
        self.snapshot.nodes.insert(name.into(), std::sync::Arc::new(node(name)));
    }

    fn ready(&mut self, node: &str) {
        self.edit_node(node, |node| node.status.conditions[0].status = "True".into());
    }

    fn label(&mut self, node: &str, name: &str, value: &str) {
        self.edit_node(node, |node| node.set_label(name, Some(value)));
    }
}
