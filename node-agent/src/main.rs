//! `tcpclose-agent`: the node side of tcp-close-tuning.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use kube::Config;
use node_agent::procfs::Procfs;
use node_agent::run::{Settings, run};
use tracing_subscriber::EnvFilter;

/// Applies on this node what TcpCloseTunings order, refuses what is unsafe, and reports how its connections close.
#[derive(Parser)]
#[command(name = "tcpclose-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs on a node of a cluster until it is asked to end; values stay as they are then.
    Run(Run),
}

#[derive(clap::Args)]
struct Run {
    /// The name of this node.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// The node's address: nothing is written unless this network namespace has it.
    #[arg(long, env = "NODE_ADDRESS")]
    node_address: Option<IpAddr>,
    /// A procfs in whose network namespace this process is.
    #[arg(long, env = "TCPCLOSE_PROC", default_value = "/proc")]
    proc: PathBuf,
    /// A writable view of that procfs's folder sys/net [default: sys/net below --proc].
    #[arg(long, env = "TCPCLOSE_SYSCTLS")]
    sysctls: Option<PathBuf>,
    /// Where the journal is kept: what the kernel held before, and what was written.
    #[arg(long, env = "TCPCLOSE_STATE", default_value = "/var/lib/tcp-close-tuning")]
    state: PathBuf,
    /// How to log.
    #[arg(long, env = "TCPCLOSE_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

fn main() -> ExitCode {
    let Command::Run(arguments) = Cli::parse().command;
    start_log(arguments.log_format);
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_ansi(false).init(),
    }
}

fn start(arguments: Run) -> Result<(), String> {
    let Run { node_name, node_address, proc, sysctls, state, log_format: _ } = arguments;
    let procfs = Procfs::new(proc, sysctls);
    let settings = Settings { node: node_name, procfs, state_dir: state, node_address };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = settings.node, "starts");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot be started: {error}"))?
        .block_on(async {
            let config = Config::infer()
                .await
                .map_err(|error| format!("no way to the API server is configured: {error}"))?;
            let client = crds::client::client(&config)
                .map_err(|error| format!("the credentials for the API server cannot be used: {error}"))?;
            run(settings, client).await.map_err(|error| format!("signals cannot be received: {error}"))
        })
}
