//! The control plane: etcd, API server, controller manager and scheduler, as processes in the lab's network namespace.
//! There is no kube-proxy: the address of the `kubernetes` Service is one of the lab's bridge, and the API server
//! listens there itself.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    cluster::Cluster,
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    network,
    process::{self, Process},
    report::{Seen, poll_until},
};

/// A control plane answers after about 7 s on two idle cores; a loaded machine may take much longer.
pub(crate) const READY_DEADLINE: Duration = Duration::from_mins(2);
/// So much of a log is shown when its process has ended.
const TAIL_LINES: usize = 15;

/// A process of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The store of all objects.
    Etcd,
    /// The API server.
    ApiServer,
    /// Node lifecycle, DaemonSets, Deployments, garbage collection.
    ControllerManager,
    /// The scheduler.
    Scheduler,
}

impl Component {
    /// All of them, in the order in which they start.
    pub const ALL: [Self; 4] = [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Scheduler];

    /// The program's name, which is also the name of its record and its log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    fn arguments(self, cluster: &Cluster) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        match self {
            Self::Etcd => etcd_arguments(&path(cluster.dir().join("etcd"))),
            Self::ApiServer => {
                let mut arguments = api_server_arguments(&path(cluster.pki()), network::API_PORT);
                arguments.extend(audit_arguments(&path(cluster.audit_policy()), &path(cluster.audit_log())));
                arguments
            }
            Self::ControllerManager => {
                let kubeconfig = path(cluster.component_kubeconfig(self));
                controller_manager_arguments(&path(cluster.pki()), &kubeconfig)
            }
            Self::Scheduler => {
                let kubeconfig = path(cluster.component_kubeconfig(self));
                vec![format!("--kubeconfig={kubeconfig}"), "--leader-elect=false".into()]
            }
        }
    }
}

fn etcd_arguments(data: &str) -> Vec<String> {
    let client = "http://127.0.0.1:2379";
    let peer = "http://127.0.0.1:2380";
    vec![
        format!("--data-dir={data}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // The lab's objects do not outlive the machine; waiting for its disk would only blur what is measured.
        "--unsafe-no-fsync".into(),
    ]
}

fn api_server_arguments(pki: &str, port: u16) -> Vec<String> {
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--advertise-address={}", network::GATEWAY),
        format!("--secure-port={port}"),
        format!("--service-cluster-ip-range={}", network::SERVICES),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        format!("--client-ca-file={pki}/ca.crt"),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--kubelet-certificate-authority={pki}/ca.crt"),
        format!("--kubelet-client-certificate={pki}/kubelet-client.crt"),
        format!("--kubelet-client-key={pki}/kubelet-client.key"),
        // Nothing resolves the names of nodes.
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={pki}/service-accounts.pub"),
        format!("--service-account-signing-key-file={pki}/service-accounts.key"),
    ]
}

fn audit_arguments(policy: &str, log: &str) -> [String; 3] {
    [
        format!("--audit-policy-file={policy}"),
        format!("--audit-log-path={log}"),
        // In MB. It is read while it is written, and goes with the lab.
        "--audit-log-maxsize=4096".into(),
    ]
}

fn controller_manager_arguments(pki: &str, kubeconfig: &str) -> Vec<String> {
    vec![
        format!("--kubeconfig={kubeconfig}"),
        "--leader-elect=false".into(),
        "--use-service-account-credentials=true".into(),
        format!("--service-account-private-key-file={pki}/service-accounts.key"),
        format!("--root-ca-file={pki}/ca.crt"),
        format!("--cluster-signing-cert-file={pki}/ca.crt"),
        format!("--cluster-signing-key-file={pki}/ca.key"),
    ]
}

impl Cluster {
    /// Starts a process of the control plane. One that runs already stays as it is.
    pub fn start(&self, component: Component) -> Result<Process> {
        if let Some(running) = self.records().alive(component.name()) {
            return Ok(running);
        }
        if component == Component::ApiServer {
            files::write(&self.audit_policy(), include_str!("control_plane/audit.yaml"))?;
        }
        let mut command = self.component_command(component);
        let log = self.component_log(component);
        self.net()?.run(|| self.records().start(component.name(), &mut command, &log))?
    }

    /// The command line of a process of the control plane.
    pub(crate) fn component_command(&self, component: Component) -> Command {
        let mut command = process::daemon(self.program(component.name()), self.name());
        command.args(component.arguments(self)).current_dir(self.dir());
        command
    }

    /// Starts one more API server, on the same etcd and another port: where one alone would run out of descriptors. One that runs
    /// already stays as it is.
    pub(crate) fn start_another_api_server(&self, port: u16) -> Result<Process> {
        let name = format!("{}-{port}", Component::ApiServer.name());
        if let Some(running) = self.records().alive(&name) {
            return Ok(running);
        }
        let mut command = process::daemon(self.program(Component::ApiServer.name()), self.name());
        let arguments = api_server_arguments(&self.pki().display().to_string(), port);
        command.args(arguments).current_dir(self.dir());
        let log = self.dir().join("log").join(format!("{name}.log"));
        self.net()?.run(|| self.records().start(&name, &mut command, &log))?
    }

    /// Ends a process of the control plane in order (SIGTERM).
    pub fn stop(&self, component: Component) -> Result<()> {
        self.records().alive(component.name()).map_or(Ok(()), |process| process.stop())
    }

    /// Ends a process of the control plane at once (SIGKILL).
    pub fn kill(&self, component: Component) -> Result<()> {
        self.records().alive(component.name()).map_or(Ok(()), |process| process.kill())
    }

    /// Ends the API server in order, starts it again and waits until it is ready.
    pub fn restart_api_server(&self) -> Result<Duration> {
        self.stop(Component::ApiServer)?;
        self.start(Component::ApiServer)?;
        self.wait_for_api_server()
    }

    /// Waits until the API server says that it is ready, and returns how long that took.
    pub fn wait_for_api_server(&self) -> Result<Duration> {
        poll_until("the API server is ready", READY_DEADLINE, || {
            self.check_component(Component::Etcd)?;
            self.check_component(Component::ApiServer)?;
            let answer = self.kubectl(&["get", "--raw", "/readyz"])?;
            Ok(Seen::when(answer.trim() == "ok", || answer.clone()))
        })
    }

    /// An error with the end of its log when a process of the control plane has ended.
    pub fn check_component(&self, component: Component) -> Result<()> {
        if self.records().alive(component.name()).is_some() {
            return Ok(());
        }
        let log = self.component_log(component);
        let tail = files::tail(&log, TAIL_LINES);
        Err(Error::Ended { name: component.name().to_owned(), log, tail })
    }

    /// The log of a process of the control plane.
    pub fn component_log(&self, component: Component) -> PathBuf {
        self.dir().join("log").join(format!("{}.log", component.name()))
    }

    pub(crate) fn component_kubeconfig(&self, component: Component) -> PathBuf {
        self.dir().join(format!("{}.kubeconfig", component.name()))
    }

    fn audit_policy(&self) -> PathBuf {
        self.dir().join("audit-policy.yaml")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.dir().join("pki")
    }

    /// The network namespace of the control plane.
    pub fn net(&self) -> Result<NetNamespace> {
        let holder = self.records().alive(network::HOLDER).ok_or(Error::NotUp)?;
        NetNamespace::of(holder.pid)
    }

    /// Makes the network namespace in which the control plane runs, with the bridge that joins the nodes.
    pub(crate) fn start_network(&self) -> Result<()> {
        let mut command = process::daemon("unshare", self.name());
        // Nothing of this process matters but its namespace, which lives as long as it does.
        command.args(["--net", "sleep", "infinity"]);
        let log = self.dir().join("log/network.log");
        let holder = self.records().start(network::HOLDER, &mut command, &log)?;
        wait_for_namespace(holder)?;
        let net = self.net()?;
        self.ip(&net, &network::bridge_batch())?;
        // /proc/sys/net shows the namespace of the thread that opens it.
        let forward = Path::new("/proc/sys/net/ipv4/ip_forward");
        net.run(|| std::fs::write(forward, "1").map_err(Error::file("write", forward)))?
    }
}

/// Waits until a process that was just started has left the machine's network namespace: until then, what is done in
/// "its" namespace would be done to the machine.
pub(crate) fn wait_for_namespace(process: Process) -> Result<()> {
    let machine = namespace_id("self")?;
    let what = format!("process {} has a network namespace of its own", process.pid);
    poll_until(&what, READY_DEADLINE, || {
        let own = namespace_id(&process.pid.to_string())?;
        Ok(Seen::when(own != machine, || "it is in the machine's".into()))
    })
    .map(drop)
    .map_err(|_| Error::Missing {
        what: "a process could not be given a network namespace of its own".into(),
        remedy:
            "run as root on a kernel with network, mount, pid and uts namespaces; in a container, give it \
                 CAP_SYS_ADMIN and CAP_NET_ADMIN"
                .into(),
    })
}

fn namespace_id(process: &str) -> Result<PathBuf> {
    let path = PathBuf::from(format!("/proc/{process}/ns/net"));
    std::fs::read_link(&path).map_err(Error::file("read", path))
}

/// Runs `unshare` once to see whether this machine gives namespaces at all.
pub(crate) fn probe_namespaces() -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--fork", "--pid", "--kill-child", "--mount-proc", "--net", "--mount", "--uts", "true"]);
    process::run(&mut command).map(drop)
}
