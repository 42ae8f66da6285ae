//! `tcpclose-operator`: reads its flags, makes a client, and works until it is told to stop.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use operator::run::{self, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Turns TcpCloseTunings into one order for each node, and the nodes' reports into statuses.
#[derive(Parser)]
#[command(version)]
struct Args {
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
    let args = Args::parse();
    log(args.log_format);
    match start(args) {
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

fn start(args: Args) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(work(args))
}

async fn work(args: Args) -> Result<(), Error> {
    let Args { namespace, identity, health_address, node_condition, log_format: _ } = args;
    let stop = stop_on_signal().map_err(Error::Signals)?;
    let config = kube::Config::infer().await.map_err(|error| Error::Configure(Box::new(error)))?;
    let client = crds::client::client(&config).map_err(|error| Error::Client(Box::new(error)))?;
    let listener =
        TcpListener::bind(health_address).await.map_err(|error| Error::Listen(error, health_address))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace, identity, %health_address, "starts");
    Box::pin(run::run(client, listener, Settings { namespace, identity, node_condition }, stop)).await;
    tracing::info!("stopped");
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
