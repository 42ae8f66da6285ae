//! A node: one process with pid, mount, network and uts namespaces of its own, in which a containerd and a kubelet run
//! as they would on a machine. One SIGKILL ends all of it and leaves no mount behind.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::{
    cgroup,
    cluster::Cluster,
    control_plane::wait_for_namespace,
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    network,
    pki::{Authority, Subject},
    process::{self, Process, Records},
    report::{Seen, poll_until},
};

/// The image of the process that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "tcpclose.dev/pause:1";
/// Namespaces appear and containerd answers within a second on an idle machine.
const START_DEADLINE: Duration = Duration::from_mins(1);
/// So much of a log is shown when a node has ended.
const TAIL_LINES: usize = 10;

/// A node of a running lab.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in Kubernetes, `node-1` and so on.
    pub name: String,
    /// Its address.
    pub ip: String,
    index: u8,
    folder: PathBuf,
    records: Records,
}

impl Node {
    pub(crate) fn new(index: u8, state: &Path, records: Records) -> Self {
        let name = format!("node-{index}");
        let folder = state.join("nodes").join(&name);
        Self { ip: network::node_address(index), name, index, folder, records }
    }

    /// The pid of the node's first process, as the machine sees it.
    pub fn pid(&self) -> Result<u32> {
        let init = self.records.alive(&self.name).and_then(|unshare| unshare.first_child());
        init.map(|init| init.pid).ok_or(Error::NotUp)
    }

    /// Whether the node runs.
    pub fn is_up(&self) -> bool {
        self.pid().is_ok()
    }

    /// A command that will run in the node's namespaces (mount, network, pid, uts).
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.pid()?.to_string(),
            "--mount",
            "--net",
            "--pid",
            "--uts",
            "--",
            program,
        ]);
        command.env("PATH", "/run/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // Empty on a machine that has all libraries.
        command.env("LD_LIBRARY_PATH", "/run/lab/lib");
        Ok(command)
    }

    /// Runs a program in the node's namespaces to its end, however it ends.
    pub fn exec(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        process::output(self.command(program)?.args(arguments))
    }

    /// Becomes a program in the node's namespaces; returns only when that fails.
    pub(crate) fn become_program(&self, program: &str, arguments: &[String]) -> Error {
        match self.command(program) {
            Err(error) => error,
            Ok(mut command) => {
                Error::Start { program: program.into(), source: command.args(arguments).exec() }
            }
        }
    }

    /// The node's network namespace: `node.net()?.run(|| TcpListener::bind(...))` makes a socket that lives there.
    pub fn net(&self) -> Result<NetNamespace> {
        NetNamespace::of(self.pid()?)
    }

    /// The value that the node's kernel holds, for a key such as `net.ipv4.tcp_fin_timeout`, read in its namespace.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.net()?.run(|| files::read(&path))?.map(|text| text.trim().to_owned())
    }

    /// Writes a value as another program on that node would, behind the back of the agent.
    pub fn write_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.net()?.run(|| std::fs::write(&path, value).map_err(Error::file("write", &path)))?
    }

    /// The text of a file such as `/proc/net/sockstat` that shows the network namespace of its reader.
    pub fn read_proc_net(&self, file: &str) -> Result<String> {
        // /proc/net is a link to the process; the thread's own folder is the one that follows the thread.
        let path = Path::new("/proc/thread-self/net").join(file);
        self.net()?.run(|| files::read(&path))?
    }

    /// The live processes below this node whose program has this file name, in containers too.
    pub fn processes(&self, program: &str) -> Result<Vec<Process>> {
        let init = self.pid()?;
        let found =
            process::pids()?.into_iter().filter(|pid| runs(*pid, program) && descends_from(*pid, init));
        Ok(found.filter_map(Process::of_pid).filter(Process::is_alive).collect())
    }

    /// A path on the node, as the machine sees it. Only below /var/lib, /var/log and /run; elsewhere the two agree.
    pub fn path(&self, path: &str) -> PathBuf {
        let own = [("/var/lib/", "var-lib"), ("/var/log/", "var-log"), ("/run/", "run")];
        let inside = own.iter().find_map(|(prefix, folder)| Some((folder, path.strip_prefix(prefix)?)));
        inside.map_or_else(|| PathBuf::from(path), |(folder, rest)| self.folder.join(folder).join(rest))
    }

    /// Imports an image from an OCI archive.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        let image = std::fs::File::open(archive).map_err(Error::file("open", archive))?;
        let mut command = self.command("ctr")?;
        // The archive comes by stdin: its path may be hidden on the node.
        command.args(["--namespace", "k8s.io", "images", "import", "--local", "-"]).stdin(image);
        process::run(&mut command).map(drop)
    }

    /// Ends the node at once, as a loss of power would. What it wrote to its disk stays.
    pub fn kill(&self) -> Result<()> {
        let Some(unshare) = self.records.alive(&self.name) else { return Ok(()) };
        let init = unshare.first_child();
        unshare.kill()?;
        // The kernel ends everything in a pid namespace before its first process is gone.
        init.map_or(Ok(()), |init| init.kill())
    }

    /// Writes what the node's programs read when they start.
    pub(crate) fn prepare(&self, authority: &Authority) -> Result<()> {
        let own = self.folder.join("var-lib");
        let kubelet = own.join("kubelet");
        let serves = Subject { name: &self.name, group: None, serves: &[&self.ip, &self.name, "127.0.0.1"] };
        authority.issue(&kubelet.join("pki"), "kubelet", &serves)?;
        files::write(&kubelet.join("pki/ca.crt"), files::read(authority.certificate())?)?;
        let user = format!("system:node:{}", self.name);
        let client = Subject { name: &user, group: Some("system:nodes"), serves: &[] };
        authority.kubeconfig(&kubelet.join("kubeconfig"), &network::api_url(), &client)?;
        files::write(&kubelet.join("config.yaml"), include_str!("node/kubelet.yaml"))?;
        let containerd = include_str!("node/containerd.toml")
            .replace("@SNAPSHOTTER@", snapshotter(&self.folder))
            .replace("@PAUSE@", PAUSE_IMAGE);
        files::write(&own.join("lab/containerd.toml"), containerd)?;
        let cni = include_str!("node/cni.json").replace("@SUBNET@", &network::pod_subnet(self.index));
        files::write(&own.join("lab/cni/10-lab.conflist"), cni)
    }

    /// Starts the node's first process, joins its network to the lab's and lets its programs start.
    pub(crate) fn start(&self, cluster: &Cluster) -> Result<()> {
        let run = self.folder.join("run");
        if run.exists() {
            cgroup::remove(&cgroup::containers(&run)?)?;
            std::fs::remove_dir_all(&run).map_err(Error::file("empty", &run))?;
        }
        let script = self.folder.join("init.sh");
        files::write(&script, include_str!("node/init.sh"))?;
        let mut command = process::daemon("unshare", cluster.name());
        command
            .args([
                "--fork",
                "--pid",
                "--kill-child",
                "--mount-proc",
                "--net",
                "--mount",
                "--uts",
                "--",
                "sh",
            ])
            .arg(&script)
            .env("LAB_NODE_FOLDER", &self.folder)
            .env("LAB_NODE_NAME", &self.name)
            .env("LAB_NODE_ADDRESS", &self.ip)
            .env("LAB_PROGRAMS", cluster.node_programs())
            .env("LAB_CNI_PLUGINS", cluster.cni_plugins())
            .env("LAB_LIBRARIES", cluster.libraries().unwrap_or_default());
        let unshare =
            self.records.start(&self.name, &mut command, &self.folder.join("var-log/lab/init.log"))?;
        wait_for_namespace(unshare)?;
        // A node without a network would pass for one that runs.
        self.join(cluster).inspect_err(|_| drop(self.kill()))
    }

    fn join(&self, cluster: &Cluster) -> Result<()> {
        let what = format!("{} has its first process", self.name);
        let init = || self.check().map(|()| Seen::when(self.is_up(), || "it has none".into()));
        poll_until(&what, START_DEADLINE, init)?;
        self.remove_old_link(cluster)?;
        cluster.ip(&cluster.net()?, &network::join_batch(&self.name, self.index, self.pid()?))?;
        cluster.ip(&self.net()?, &network::node_batch(self.index))?;
        let folder = self.folder.join("run/lab");
        let ready = || self.check().map(|()| Seen::when(folder.is_dir(), || "no folder for the lab".into()));
        poll_until(&what, START_DEADLINE, ready)?;
        files::write(&folder.join("network-is-up"), "")
    }

    /// The link of an earlier life goes with its namespace, which anything may hold: a socket that a test left open.
    fn remove_old_link(&self, cluster: &Cluster) -> Result<()> {
        let net = cluster.net()?;
        let link = format!("{}:", self.name);
        poll_until("the old link is gone", START_DEADLINE, || {
            let links = net.run(|| files::read(Path::new("/proc/thread-self/net/dev")))??;
            if links.contains(&link) {
                cluster.ip(&net, &format!("link del {}\n", self.name))?;
            }
            Ok(Seen::when(!links.contains(&link), || "it was there".into()))
        })
        .map(drop)
    }

    /// Waits until containerd answers.
    pub(crate) fn wait_for_containerd(&self) -> Result<()> {
        let what = format!("containerd of {} answers", self.name);
        let look = || {
            self.check()?;
            process::run(self.command("ctr")?.arg("version")).map(|_| Seen::Yes)
        };
        poll_until(&what, START_DEADLINE, look).map(drop)
    }

    /// An error with the end of its log when the node's first process has ended.
    fn check(&self) -> Result<()> {
        if self.records.alive(&self.name).is_some() {
            return Ok(());
        }
        let log = self.path("/var/log/lab/init.log");
        let tail = files::tail(&log, TAIL_LINES);
        Err(Error::Ended { name: self.name.clone(), log, tail })
    }
}

/// overlayfs, but where the lab's folder is itself on one (a container): there it refuses to stack.
fn snapshotter(folder: &Path) -> &'static str {
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    let is_overlay = rustix::fs::statfs(folder).is_ok_and(|stat| stat.f_type == OVERLAYFS_SUPER_MAGIC);
    if is_overlay { "native" } else { "overlayfs" }
}

fn runs(pid: u32, program: &str) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
    Path::new(&*String::from_utf8_lossy(first)).file_name().is_some_and(|name| name == program)
}

fn descends_from(pid: u32, ancestor: u32) -> bool {
    let mut current = pid;
    while current > 1 {
        if current == ancestor {
            return true;
        }
        let stat = std::fs::read_to_string(format!("/proc/{current}/stat")).unwrap_or_default();
        let parent =
            stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1)?.parse().ok());
        current = parent.unwrap_or(0);
    }
    false
}
