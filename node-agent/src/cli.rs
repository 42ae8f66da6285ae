//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use node_agent::procfs::Procfs;
use node_agent::sample::{PodName, PodOptions};
use node_agent::standalone::{Elsewhere, Format, Host, Scope, Source, Whose};
use tcp_close::{Sysctl, rule};

/// Applies on this node what TcpCloseTunings order, refuses what is unsafe, and reports how its connections close.
#[derive(Parser)]
#[command(name = "tcpclose-agent", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs on a node of a cluster until it is asked to end; values stay as they are then.
    Run(Run),
    /// Without a cluster: says what `apply` would do, and writes nothing at all.
    ///
    /// Exits 0 if there is nothing to do, 1 if something would change, 2 if a rule refuses something, 3 if the manifest is
    /// invalid, 4 if something went wrong, 64 if the command line is not understood.
    Plan(Plan),
    /// Without a cluster: brings this host to what a manifest orders.
    ///
    /// Exits 0 if it is in force, 2 if a rule refuses something, 3 if the manifest is invalid, 4 if something went wrong, 64 if
    /// the command line is not understood.
    Apply(Apply),
    /// Without a cluster: puts back what the kernel held before, where it still holds what was written.
    ///
    /// Exits 0 if nothing of ours is in force, 3 if the manifest is invalid, 4 if something went wrong, 64 if the command line
    /// is not understood.
    Restore(Restore),
    /// Without a cluster: shows the sysctls and how many sockets are closing, here and in the network namespaces of pods and
    /// other containers. Needs no manifest.
    Observe(Observe),
}

#[derive(Args)]
pub(crate) struct Run {
    /// The name of this node.
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: String,
    /// The node's address: nothing is written unless this network namespace has it.
    #[arg(long, env = "NODE_ADDRESS")]
    pub(crate) node_address: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) kernel: Kernel,
    #[command(flatten)]
    pub(crate) journal: Journal,
    #[command(flatten)]
    pub(crate) pods: PodArguments,
    /// Writes this node's figures for node_exporter's textfile collector. The folder must be root's alone.
    #[arg(long, value_name = "DIR")]
    pub(crate) textfile_directory: Option<PathBuf>,
    /// Reports the addresses of the connections that are about to run out of ports. Without it, only their ports are reported.
    #[arg(long, env = "TCPCLOSE_REPORT_PEERS")]
    pub(crate) report_peers: bool,
    /// How to log.
    #[arg(long, env = "TCPCLOSE_LOG_FORMAT", default_value = "json")]
    pub(crate) log_format: LogFormat,
}

#[derive(Args)]
pub(crate) struct PodArguments {
    /// Counts closing sockets in the pods' network namespaces as well.
    #[arg(long)]
    count_pods: bool,
    /// A procfs that shows the node's processes [default: --proc].
    #[arg(long, value_name = "DIR", requires = "count_pods")]
    processes: Option<PathBuf>,
    /// The kubelet's links to the logs of containers, which name the pods.
    #[arg(long, default_value = "/var/log/containers", value_name = "DIR", requires = "count_pods")]
    container_logs: PathBuf,
    /// How often pods are counted. Below 5 counting may use 0.08 % of a core instead of 0.03 %.
    #[arg(long, default_value = "5", value_name = "N", value_parser = value_parser!(u64).range(1..=60), requires = "count_pods")]
    pods_seconds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

#[derive(Args)]
pub(crate) struct Kernel {
    /// A procfs in whose network namespace this process is.
    #[arg(long, env = "TCPCLOSE_PROC", default_value = "/proc", value_name = "DIR")]
    proc: PathBuf,
    /// A writable view of that procfs's folder sys/net [default: sys/net below --proc].
    #[arg(long, env = "TCPCLOSE_SYSCTLS", value_name = "DIR")]
    sysctls: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Journal {
    /// Where the journal is kept: what the kernel held before, and what was written.
    #[arg(long, env = "TCPCLOSE_STATE", default_value = "/var/lib/tcp-close-tuning", value_name = "DIR")]
    pub(crate) state: PathBuf,
}

#[derive(Args)]
struct Output {
    /// How to print the result.
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

#[derive(Args)]
struct Manifest {
    /// A file of TcpCloseTunings, the same as for a cluster; - reads stdin. Several tunings merge by priority.
    #[arg(short, long, value_name = "FILE")]
    filename: PathBuf,
    /// Accepts a caution in every tuning, as safety.acknowledge does in one.
    #[arg(long, value_name = "ID", value_parser = PossibleValuesParser::new(rule::cautions()), hide_possible_values = true)]
    acknowledge: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    manifest: Manifest,
    #[command(flatten)]
    host: HostArguments,
}

#[derive(Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    manifest: Manifest,
    /// Keeps it in force until asked to end, and reads the file again when it changes.
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    host: HostArguments,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// Only these sysctls, such as net.ipv4.tcp_fin_timeout; none means all.
    #[arg(value_name = "SYSCTL", value_parser = PossibleValuesParser::new(Sysctl::ALL.map(Sysctl::name)))]
    keys: Vec<String>,
    /// Only the sysctls that this manifest orders; - reads stdin.
    #[arg(short, long, value_name = "FILE", conflicts_with = "keys")]
    filename: Option<PathBuf>,
    #[command(flatten)]
    host: HostArguments,
}

#[derive(Args)]
pub(crate) struct Observe {
    #[command(flatten)]
    kernel: Kernel,
    /// Only this pod's sockets, and the ports behind them.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "pid")]
    pod: Option<PodName>,
    /// Only the sockets of the network namespace that this process is in, and the ports behind them.
    #[arg(long)]
    pid: Option<u32>,
    /// A procfs that shows the node's processes [default: --proc].
    #[arg(long, value_name = "DIR")]
    processes: Option<PathBuf>,
    /// The kubelet's links to the logs of containers, which name the pods.
    #[arg(long, default_value = "/var/log/containers", value_name = "DIR")]
    container_logs: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct HostArguments {
    #[command(flatten)]
    kernel: Kernel,
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    output: Output,
}

impl From<Kernel> for Procfs {
    fn from(Kernel { proc, sysctls }: Kernel) -> Self {
        Self::new(proc, sysctls)
    }
}

impl PodArguments {
    /// How the pods are counted; `None` where they are not. Without a procfs of their own they are seen through the kernel's.
    pub(crate) fn options(self, kernel: &Procfs) -> Option<PodOptions> {
        let processes = self.processes.map_or_else(|| kernel.clone(), |root| Procfs::new(root, None));
        let interval = Duration::from_secs(self.pods_seconds);
        self.count_pods.then_some(PodOptions { processes, logs: self.container_logs, interval })
    }
}

impl From<HostArguments> for Host {
    fn from(HostArguments { kernel, journal, output }: HostArguments) -> Self {
        Self { procfs: kernel.into(), state_dir: journal.state, format: output.output }
    }
}

impl From<Manifest> for Source {
    fn from(Manifest { filename, acknowledge }: Manifest) -> Self {
        Self { path: filename, acknowledged: acknowledge }
    }
}

impl From<Plan> for (Host, Source) {
    fn from(Plan { manifest, host }: Plan) -> Self {
        (host.into(), manifest.into())
    }
}

impl From<Apply> for (Host, Source) {
    fn from(Apply { manifest, watch: _, host }: Apply) -> Self {
        (host.into(), manifest.into())
    }
}

impl From<Restore> for (Host, Scope) {
    fn from(Restore { keys, filename, host }: Restore) -> Self {
        let scope = match filename {
            Some(path) => Scope::Manifest(Source { path, acknowledged: Vec::new() }),
            None if keys.is_empty() => Scope::All,
            None => Scope::Sysctls(keys.iter().filter_map(|name| Sysctl::from_name(name)).collect()),
        };
        (host.into(), scope)
    }
}

impl From<Observe> for (Host, Elsewhere, Option<Whose>) {
    fn from(Observe { kernel, pod, pid, processes, container_logs, output }: Observe) -> Self {
        let procfs = Procfs::from(kernel);
        let processes = processes.map_or_else(|| procfs.clone(), |root| Procfs::new(root, None));
        let host = Host { procfs, state_dir: PathBuf::new(), format: output.output };
        let whose = pod.map(Whose::Pod).or(pid.map(Whose::Process));
        (host, Elsewhere { processes, logs: container_logs }, whose)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_two_arguments_of_a_command_collide() {
        Cli::command().debug_assert();
    }
}
