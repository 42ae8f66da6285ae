//! `tcpclose-operator`: reads its flags, makes a client, and works until it is told to stop; or helps an uninstall.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kube::Client;
use operator::run::Settings;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Turns TcpCloseTunings into one order for each node, and the nodes' reports into statuses.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Works until it is told to stop.
    Run(Run),
    /// Before an uninstall: asks the operator that runs to take every order back, waits until the nodes have put back
    /// what they held before, and says which have not.
    ///
    /// Exits 0 whatever it finds: an uninstall goes on.
    Release(Release),
}

#[derive(clap::Args)]
struct Run {
    /// The namespace that it runs in; its lease lives there.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Its name among its replicas.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// Where /healthz, /readyz and /metrics are answered.
    #[arg(long, env = "HEALTH_ADDRESS", default_value = "0.0.0.0:8081")]
    health_address: SocketAddr,
    /// Whether each Linux node gets the condition tcpclose.dev/Tuned, for people who keep work away from nodes that are not
    /// tuned yet. Needs the right to patch the status of nodes.
    #[arg(long, env = "NODE_CONDITION")]
    node_condition: bool,
    /// How it logs. RUST_LOG selects what; absent: info.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(clap::Args)]
struct Release {
    /// The namespace that the operator runs in; its switch lives there.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// How long nodes are waited for, in seconds.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout_seconds: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("find out where the API server is: set KUBECONFIG, or run it in a pod")]
    Configure(#[source] Box<kube::config::InferConfigError>),
    #[error("make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    #[error("listen on {1} (--health-address)")]
    Listen(#[source] std::io::Error, SocketAddr),
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run(args) => {
            log(args.log_format);
            exit(start(run(args)))
        }
        Command::Release(args) => {
            log(LogFormat::Text);
            let _ = exit(start(release(args)));
            ExitCode::SUCCESS
        }
    }
}

fn exit(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", operator::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn log(format: LogFormat) {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).finish().with(filter).init(),
        LogFormat::Json => log.json().finish().with(filter).init(),
    }
}

fn start(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(work)
}

async fn client() -> Result<Client, Error> {
    let config = kube::Config::infer().await.map_err(|error| Error::Configure(Box::new(error)))?;
    crds::client::client(&config, crds::client::IDLE_OF_FEW).map_err(|error| Error::Client(Box::new(error)))
}

async fn run(args: Run) -> Result<(), Error> {
    let Run { namespace, identity, health_address, node_condition, log_format: _ } = args;
    let stop = stop_on_signal().map_err(Error::Signals)?;
    let client = client().await?;
    let listener =
        TcpListener::bind(health_address).await.map_err(|error| Error::Listen(error, health_address))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace, identity, %health_address, "starts");
    let settings = Settings { namespace, identity, node_condition };
    Box::pin(operator::run::run(client, listener, settings, stop)).await;
    tracing::info!("stopped");
    Ok(())
}

async fn release(Release { namespace, timeout_seconds }: Release) -> Result<(), Error> {
    let client = client().await?;
    println!(
        "asks the operator to take back what it has ordered, and waits for the nodes: {timeout_seconds} s at most"
    );
    let patience = Duration::from_secs(timeout_seconds);
    print!("{}", operator::release::release(&client, &namespace, patience).await);
    Ok(())
}

/// Turns true on SIGTERM or SIGINT.
fn stop_on_signal() -> std::io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sender.send(true);
    });
    Ok(receiver)
}
