//! A lab: a control plane and its nodes. Opened by everything that talks to it; brought up by `up`, taken down by
//! `clear`.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    checkout::{Cache, Checkout},
    control_plane::Component,
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    node::Node,
    process::{self, Records},
    relay,
};

/// Written as the last act of `up`: holds the number of nodes.
const COMPLETE: &str = "nodes.count";

/// The lab of a checkout.
#[derive(Debug)]
pub struct Cluster {
    checkout: Checkout,
    cache: Cache,
    dir: PathBuf,
    records: Records,
    nodes: Vec<Node>,
}

impl Cluster {
    /// The lab of this checkout, whether it runs or not, with so many nodes.
    pub(crate) fn new(checkout: Checkout, nodes: u8) -> Result<Self> {
        let dir = checkout.state();
        let records = Records::new(dir.join("processes"));
        let nodes = (1..=nodes).map(|index| Node::new(index, &dir, records.clone())).collect();
        Ok(Self { cache: Cache::of_user()?, checkout, dir, records, nodes })
    }

    /// The running lab of this checkout.
    pub fn open() -> Result<Self> {
        let checkout = Checkout::current()?;
        let count = std::fs::read_to_string(checkout.state().join(COMPLETE)).map_err(|_| Error::NotUp)?;
        Self::new(checkout, count.trim().parse().map_err(|_| Error::NotUp)?)
    }

    /// Whether everything that `up` starts still runs.
    pub fn is_up(&self) -> bool {
        let control_plane = Component::ALL.iter().all(|part| self.records.alive(part.name()).is_some());
        control_plane && self.records.alive(relay::RELAY).is_some() && self.nodes.iter().all(Node::is_up)
    }

    pub(crate) fn set_complete(&self) -> Result<()> {
        files::write(&self.dir.join(COMPLETE), self.nodes.len().to_string())
    }

    /// The checkout it belongs to.
    pub fn checkout(&self) -> &Checkout {
        &self.checkout
    }

    /// The user's cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Its name: a short hash of the checkout's path.
    pub fn name(&self) -> &str {
        self.checkout.name()
    }

    /// The folder of everything that it keeps while it runs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its processes.
    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let names = self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::Missing {
                what: format!("there is no node {name}"),
                remedy: format!("use one of: {names}"),
            }
        })
    }

    /// Starts a node that was killed, on the disk it left, and in a new network namespace.
    pub fn start_node(&self, node: &Node) -> Result<()> {
        if node.is_up() { Ok(()) } else { node.start(self) }
    }

    /// The kubeconfig of a cluster administrator, for use on the machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// A program of the lab: `kubectl`, `helm`, `kstatus`, `etcd` and so on.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// The folder of the programs that run on nodes.
    pub(crate) fn node_programs(&self) -> PathBuf {
        self.dir.join("node-bin")
    }

    /// The folder of the CNI plugins.
    pub(crate) fn cni_plugins(&self) -> PathBuf {
        self.dir.join("cni")
    }

    /// The folder of libraries that unpacked programs need and the machine lacks, if it lacks any.
    pub(crate) fn libraries(&self) -> Option<PathBuf> {
        std::fs::read_link(self.dir.join("libraries")).ok()
    }

    /// A program of the lab that will talk to this cluster. What kubectl and helm cache belongs to the lab, not to the
    /// person.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        let cache = self.dir.join("client-cache");
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", cache.join("kubectl"));
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, cache.join(variable));
        }
        command
    }

    /// A program that came as a Debian package, with the libraries it needs.
    pub(crate) fn unpacked(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        if let Some(libraries) = self.libraries() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Runs a batch of `ip` commands, one per line, inside a network namespace.
    pub fn ip(&self, net: &NetNamespace, batch: &str) -> Result<()> {
        let mut command = self.unpacked("ip");
        command.args(["-batch", "-"]);
        net.run(|| process::run_with_input(&mut command, batch.as_bytes()))?.map(drop)
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        process::run(self.client("kubectl").args(arguments))
    }

    /// Runs `kubectl apply --filename -` on a text.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.apply_with(&[], manifest)
    }

    /// [`apply`](Self::apply) with more options, such as `--server-side`.
    pub fn apply_with(&self, options: &[&str], manifest: &str) -> Result<String> {
        let mut kubectl = self.client("kubectl");
        process::run_with_input(kubectl.args(["apply", "--filename", "-"]).args(options), manifest.as_bytes())
    }

    /// Puts an object in the place of the one of its name.
    pub(crate) fn replace(&self, manifest: &str) -> Result<String> {
        let mut kubectl = self.client("kubectl");
        process::run_with_input(kubectl.args(["replace", "--filename", "-"]), manifest.as_bytes())
    }

    /// Runs helm and returns what it printed.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        process::run(self.client("helm").args(arguments))
    }

    /// Judges an object as the library of Flux does: its status (`Current`, `InProgress`, `Failed`) and its message.
    pub fn kstatus(&self, object: &str) -> Result<(String, String)> {
        let answer = process::run_with_input(&mut Command::new(self.program("kstatus")), object.as_bytes())?;
        let (status, message) = answer.trim_end().split_once('\t').unwrap_or((answer.trim_end(), ""));
        Ok((status.to_owned(), message.to_owned()))
    }
}
