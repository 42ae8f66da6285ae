//! A second API server that shows the past: on a copy of etcd, as a backup that somebody has restored, or a member that lost
//! its peers and does not know it. It has a network namespace and the same addresses; a node's route decides which one it meets.

use std::{path::PathBuf, process::Command};

use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    control_plane::{Component, READY_DEADLINE, wait_for_namespace},
    error::{Error, Result},
    namespace::NetNamespace,
    network,
    node::Node,
    process::{self, Process},
    report::{Seen, poll_until},
};

/// The name of the process that holds its namespace, and of its link to the bridge.
const HOLDER: &str = "stale";
/// Its address on the bridge.
const ADDRESS: &str = "10.90.0.9";

/// A copy of the control plane's store as it was when this was made, and an API server on it. It ends when this is dropped.
pub(crate) struct StaleApiServer<'a> {
    cluster: &'a Cluster,
    holder: Process,
}

impl<'a> StaleApiServer<'a> {
    /// Copies the store, and waits until an API server on the copy is ready.
    pub(crate) fn start(cluster: &'a Cluster) -> Result<Self> {
        let store = copy_store(cluster)?;
        let mut command = process::daemon("unshare", cluster.name());
        command.args(["--net", "sleep", "infinity"]);
        let holder = cluster.records().start(HOLDER, &mut command, &cluster.dir().join("log/stale.log"))?;
        wait_for_namespace(holder)?;
        let stale = Self { cluster, holder };
        stale.join()?;
        stale.run(Component::Etcd, &[format!("--data-dir={}", store.display())])?;
        let audit = format!("--audit-log-path={}", cluster.dir().join("log/stale-audit.log").display());
        stale.run(Component::ApiServer, &[audit, "--endpoint-reconciler-type=none".into()])?;
        poll_until("the stale API server is ready", READY_DEADLINE, || {
            let answer = stale.kubectl(&["get", "--raw", "/readyz"])?;
            Ok(Seen::when(answer.trim() == "ok", || answer.clone()))
        })?;
        Ok(stale)
    }

    fn net(&self) -> Result<NetNamespace> {
        NetNamespace::of(self.holder.pid)
    }

    fn join(&self) -> Result<()> {
        let pid = self.holder.pid;
        let outside = format!(
            "link add {HOLDER} type veth peer name eth0 netns {pid}\nlink set {HOLDER} master lab0 up\n"
        );
        self.cluster.ip(&self.cluster.net()?, &outside)?;
        let (api, gateway) = (network::API_ADDRESS, network::GATEWAY);
        // The gateway's address too: programs of the control plane name it.
        let inside = format!(
            "link set lo up\naddr add {api}/32 dev lo\naddr add {gateway}/32 dev lo\naddr add {ADDRESS}/24 dev eth0\nlink set eth0 up\n"
        );
        self.cluster.ip(&self.net()?, &inside)
    }

    /// Starts a program as the control plane runs it; the later of two options counts.
    fn run(&self, component: Component, more: &[String]) -> Result<()> {
        let name = format!("stale-{}", component.name());
        let log = self.cluster.dir().join("log").join(format!("{name}.log"));
        let mut command: Command = self.cluster.component_command(component);
        command.args(more);
        self.net()?.run(|| self.cluster.records().start(&name, &mut command, &log))?.map(drop)
    }

    /// Runs kubectl against it.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = self.cluster.client("kubectl");
        kubectl.args(arguments).args(["--server", &network::api_url()]);
        self.net()?.run(|| process::run(&mut kubectl))?
    }

    /// From now on a node meets this one under the API server's address, and has its connections reset.
    pub(crate) fn capture(&self, node: &'a Node) -> Result<Captured<'a>> {
        let route = format!("{}/32 via {ADDRESS}", network::API_ADDRESS);
        self.cluster.ip(&node.net()?, &format!("route add {route}\n"))?;
        Ok(Captured { cluster: self.cluster, node, route })
    }
}

impl Drop for StaleApiServer<'_> {
    fn drop(&mut self) {
        let names = [Component::ApiServer, Component::Etcd].map(|each| format!("stale-{}", each.name()));
        let running = names.iter().filter_map(|name| self.cluster.records().alive(name)).chain([self.holder]);
        // What is left is ended with the lab.
        running.for_each(|process| drop(process.kill()));
    }
}

/// A node that meets the stale API server, until this is dropped.
pub(crate) struct Captured<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    route: String,
}

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        let freed =
            self.node.net().and_then(|net| self.cluster.ip(&net, &format!("route del {}\n", self.route)));
        freed.unwrap_or_else(|error| crate::report::say(format!("{} is not freed: {error}", self.node.name)));
    }
}

/// etcd stands still meanwhile: what is copied is what a kill would leave.
fn copy_store(cluster: &Cluster) -> Result<PathBuf> {
    let copy = cluster.dir().join("stale-etcd");
    let etcd = cluster.records().alive(Component::Etcd.name()).ok_or(Error::NotUp)?;
    etcd.signal(Signal::STOP)?;
    let mut command = Command::new("cp");
    let copied = process::run(
        command.arg("--archive").arg("--no-target-directory").arg(cluster.dir().join("etcd")).arg(&copy),
    );
    etcd.signal(Signal::CONT)?;
    copied.map(|_| copy)
}
