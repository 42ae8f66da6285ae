//! The cluster of a simulated fleet: etcd and API servers, the product's chart, the real operator, Nodes without machines,
//! and processes that simulate their agents.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt, api::PostParams};
use node_agent::run::TURN;
use rustix::process::Signal;

use crate::{
    bench::client::{api, client},
    checkout::Checkout,
    clear,
    cluster::Cluster,
    control_plane::Component,
    error::{Error, Result},
    files,
    install::{NAMESPACE, RELEASE},
    network,
    pki::{Authority, Subject},
    process::{self, Process},
    programs::OPERATOR,
    report::{during, say},
    sim::{AGENTS_MAX, Command, Crowd, kernel::Held},
    up,
};

/// Where the operator answers, in the control plane's namespace.
pub(super) const OPERATOR_ADDRESS: &str = "127.0.0.1:8081";
/// An API server has a watch of each agent and, for a while, the connection of each that has reported: with more it would run out
/// of descriptors, of which a process here has 20,000.
const AGENTS_PER_SERVER: usize = 10_000;
/// Nodes that are being created at once.
const CREATING: usize = 32;
/// The agents of a fleet do not all start in one second either. An API server on two busy cores can take no more than this.
const STARTS_PER_SECOND: usize = 30;
/// A simulated agent needs 0.1 ms for a turn. Those of so many nodes may take a third of a core; in a larger fleet they turn so rarely
/// that they take no more than that.
const TURN_EACH_SECOND_MAX: usize = 3000;
/// The local ports that connections to one API server are made from: by default fewer than a storm needs. None that anything here
/// listens on: who connects to a server that is away, from the server's own port, meets itself and keeps the server from its port.
const PORTS: &str = "10000 65535";

/// The cluster.
pub(super) struct Plane {
    pub(super) cluster: Cluster,
    authority: Authority,
    operator: PathBuf,
    ports: Vec<u16>,
    nodes: usize,
}

impl Plane {
    /// Starts API servers for so many agents, in a lab of its own beside the checkout's, and installs the chart there.
    pub(super) fn start(checkout: &Checkout, operator: &Path, nodes: usize) -> Result<Self> {
        let (cluster, authority) = up::api_server(checkout, lab(checkout)?)?;
        let servers = nodes.div_ceil(AGENTS_PER_SERVER).max(1);
        let ports = (network::API_PORT..).take(servers).collect();
        let plane = Self { cluster, authority, operator: operator.into(), ports, nodes };
        let range = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
        plane.cluster.net()?.run(|| std::fs::write(range, PORTS).map_err(Error::file("write", range)))??;
        plane.start_other_servers()?;
        let chart = checkout.root().join("charts").join(RELEASE).display().to_string();
        let install = ["install", RELEASE, &chart, "--namespace", NAMESPACE, "--create-namespace"];
        during("helm install", || plane.cluster.helm(&install))?;
        let user = operator_user();
        let subject = Subject { name: &user, group: None, serves: &[] };
        plane.authority.kubeconfig(&plane.operator_kubeconfig(), &network::api_url(), &subject)?;
        Ok(plane)
    }

    fn start_other_servers(&self) -> Result<()> {
        self.ports.iter().skip(1).try_for_each(|port| self.cluster.start_another_api_server(*port).map(drop))
    }

    /// The addresses of the API servers.
    pub(super) fn servers(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("https://{}:{port}", network::API_ADDRESS)).collect()
    }

    /// Clients of the API servers, for who is inside already.
    pub(super) async fn clients(&self) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for server in self.servers() {
            clients.push(client(&self.cluster, &server).await?);
        }
        Ok(clients)
    }

    /// The processes of the API servers.
    pub(super) fn server_processes(&self) -> Vec<Process> {
        let mut all = self.cluster.records().all().unwrap_or_default();
        all.retain(|(name, process)| name.starts_with(Component::ApiServer.name()) && process.is_alive());
        all.into_iter().map(|(_, process)| process).collect()
    }

    /// The process of etcd.
    pub(super) fn etcd(&self) -> Result<Process> {
        self.cluster.records().alive(Component::Etcd.name()).ok_or(Error::NotUp)
    }

    /// Kills the API servers and starts them again; does not wait until they answer.
    pub(super) fn restart_servers(&self) -> Result<()> {
        for server in self.server_processes() {
            server.kill()?;
        }
        self.cluster.start(Component::ApiServer)?;
        self.start_other_servers()
    }

    /// Starts those API servers that do not run, as a kubelet would: one that meets a slow etcd when it starts gives up.
    pub(super) fn start_servers(&self) -> Result<()> {
        if let Err(ended) = self.cluster.check_component(Component::ApiServer) {
            say(ended.chain());
        }
        self.cluster.start(Component::ApiServer)?;
        self.start_other_servers()
    }

    fn operator_kubeconfig(&self) -> PathBuf {
        self.cluster.dir().join("operator.kubeconfig")
    }

    /// Starts the operator, as its pod would: the same program, the same rights.
    pub(super) fn start_operator(&self) -> Result<Process> {
        let mut command = process::daemon(&self.operator, self.cluster.name());
        command
            .arg("run")
            .env("KUBECONFIG", self.operator_kubeconfig())
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", "bench-fleet")
            .env("HEALTH_ADDRESS", OPERATOR_ADDRESS)
            .current_dir(self.cluster.dir());
        let log = self.cluster.dir().join("log/operator.log");
        self.cluster.net()?.run(|| self.cluster.records().start(OPERATOR, &mut command, &log))?
    }

    /// Ends the operator in order, as an upgrade does.
    pub(super) fn stop_operator(&self) -> Result<()> {
        self.cluster.records().alive(OPERATOR).map_or(Ok(()), |process| process.stop())
    }

    /// Creates the Nodes, and writes down their names and uids for the processes that simulate their agents.
    pub(super) async fn create_nodes(&self, client: &Client) -> Result<()> {
        let nodes = Api::<Node>::all(client.clone());
        let create = async |index| {
            let node = node(index)?;
            let created = nodes.create(&PostParams::default(), &node).await.map_err(api("create a Node"))?;
            Ok::<_, Error>(format!("{} {}\n", created.name_any(), created.uid().unwrap_or_default()))
        };
        let created = futures::stream::iter(0..self.nodes).map(create).buffered(CREATING);
        let lines: Vec<_> = created.try_collect().await?;
        for (crowd, lines) in lines.chunks(self.agents_per_process()).enumerate() {
            files::write(&self.nodes_file(crowd), lines.concat())?;
        }
        Ok(())
    }

    fn agents_per_process(&self) -> usize {
        // As many processes for each API server.
        let crowds = self.nodes.div_ceil(AGENTS_MAX).next_multiple_of(self.ports.len());
        self.nodes.div_ceil(crowds)
    }

    fn nodes_file(&self, crowd: usize) -> PathBuf {
        self.cluster.dir().join(format!("nodes-{crowd}"))
    }

    /// Starts the processes that simulate agents, of which the first ones are timed, or writers of the naive design that each write
    /// so often.
    pub(super) fn start_agents(&self, timed: usize, naive: Option<Duration>) -> Result<Vec<Agents>> {
        let servers = self.servers();
        let crowds = self.nodes.div_ceil(self.agents_per_process());
        let start = |at: usize| {
            let crowd = Crowd {
                kubeconfig: self.cluster.kubeconfig(),
                server: servers[at % servers.len()].clone(),
                user: agent_user(),
                nodes: self.nodes_file(at),
                journals: self.cluster.dir().join(format!("journals-{at}")),
                turn: turn(self.nodes),
                timed,
                starts_per_second: u32::try_from(STARTS_PER_SECOND / crowds).unwrap_or(1).max(1),
                naive,
            };
            self.cluster.net()?.run(|| Agents::start(&self.cluster, &crowd))?
        };
        (0..crowds).map(start).collect()
    }

    /// Ends everything.
    pub(super) fn end(self) -> Result<()> {
        clear::clear(self.cluster.checkout())?;
        say("took the simulated fleet down");
        Ok(())
    }
}

/// The lab of the fleet: a folder whose path names it, and which goes with the lab of the checkout.
fn lab(checkout: &Checkout) -> Result<Checkout> {
    let folder = checkout.made_by_tests().join("fleet");
    files::make_folder(&folder)?;
    Checkout::at(&folder)
}

fn operator_user() -> String {
    format!("system:serviceaccount:{NAMESPACE}:{RELEASE}-operator")
}

fn agent_user() -> String {
    format!("system:serviceaccount:{NAMESPACE}:{RELEASE}-agent")
}

/// A Node of the size of a real one.
fn node(index: usize) -> Result<Node> {
    let text = include_str!("node.json").replace("@INDEX@", &format!("{index:05}"));
    let node = serde_json::from_str::<Node>(&text);
    let mut node =
        node.map_err(|error| Error::Unclear { what: "node.json".into(), why: error.to_string() })?;
    // The API server's to give.
    (node.metadata.uid, node.metadata.resource_version) = (None, None);
    Ok(node)
}

/// A process that simulates agents. It ends when this is dropped.
pub(super) struct Agents {
    child: Child,
    /// `None`: it has been told to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Agents {
    fn start(cluster: &Cluster, crowd: &Crowd) -> Result<Self> {
        let unclear = |why: String| Error::Unclear { what: "a process that simulates agents".into(), why };
        let json = serde_json::to_string(crowd).map_err(|error| unclear(error.to_string()))?;
        // This very program, even if its file has been built anew meanwhile.
        let mut command = process::daemon("/proc/self/exe", cluster.name());
        command.args(["sim", &json]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let failed = |source| Error::Start { program: "the simulation".into(), source };
        let mut child = command.spawn().map_err(failed)?;
        let commands = child.stdin.take();
        let answers = child.stdout.take().ok_or_else(|| unclear("it has no stdout".into()))?;
        Ok(Self { child, commands, answers: BufReader::new(answers) })
    }

    /// Its process.
    pub(super) fn process(&self) -> Option<Process> {
        Process::of_pid(self.child.id())
    }

    /// Has its nodes do something.
    pub(super) fn tell(&mut self, command: Command) -> Result<()> {
        let act = || Error::system("talk to a process that simulates agents");
        let line = serde_json::to_string(&command).unwrap_or_default();
        let commands = self.commands.as_mut().ok_or(Error::NotUp)?;
        writeln!(commands, "{line}").map_err(act())
    }

    /// How many of its nodes hold this value of `tcp_fin_timeout`.
    pub(super) fn held(&mut self, value: i64) -> Result<Held> {
        self.tell(Command::Held(value))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(Error::system("listen to a simulation"))?;
        let unclear = |why| Error::Unclear { what: "the answer of a simulation".into(), why };
        serde_json::from_str(&line).map_err(|error| unclear(error.to_string()))
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        drop(self.commands.take());
        // It has nothing to finish.
        let _ = self.process().map(|process| process.signal(Signal::KILL));
        let _ = self.child.wait();
    }
}

/// How often the simulated agents of so many nodes look at their kernels.
pub(super) fn turn(nodes: usize) -> Duration {
    TURN * u32::try_from(nodes.div_ceil(TURN_EACH_SECOND_MAX).max(1)).unwrap_or(u32::MAX)
}

/// How long agents take to start, for deadlines.
pub(super) fn starting(nodes: usize) -> Duration {
    Duration::from_secs((nodes / STARTS_PER_SECOND) as u64)
}
