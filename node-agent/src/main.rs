//! `tcpclose-agent`: the node side of tcp-close-tuning.

mod cli;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use kube::Config;
use node_agent::run::{Settings, TURN, run};
use node_agent::standalone::{Error, Exit, Host, Source};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::cli::{Apply, Cli, Command, LogFormat, Run};

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli { command }) => command,
        Err(error) => return not_a_command(&error),
    };
    let result = match command {
        Command::Run(arguments) => return run_in_cluster(arguments),
        Command::Plan(arguments) => {
            let (host, source) = arguments.into();
            host.plan(&source)
        }
        Command::Apply(arguments) => apply(arguments),
        Command::Restore(arguments) => {
            log_to_stderr();
            let (host, scope) = arguments.into();
            host.restore(&scope)
        }
        Command::Observe(arguments) => {
            let (host, elsewhere, whose) = arguments.into();
            whose.map_or_else(|| host.observe(&elsewhere), |whose| host.observe_one(&elsewhere, &whose))
        }
    };
    let exit = result.unwrap_or_else(|error| {
        eprintln!("{error}");
        error.exit()
    });
    exit.into()
}

/// Help that was asked for is no mistake.
fn not_a_command(error: &clap::Error) -> ExitCode {
    // Where even that cannot be printed, the exit code still says it.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

fn apply(arguments: Apply) -> Result<Exit, Error> {
    log_to_stderr();
    let watch = arguments.watch;
    let (host, source): (Host, Source) = arguments.into();
    if watch { runtime()?.block_on(host.watch(&source)) } else { host.apply(&source) }
}

/// What `RUST_LOG` selects: levels by target, such as `debug,kube=info`.
fn filter() -> Targets {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or_else(|| {
        Targets::new().with_default(LevelFilter::INFO).with_target("kube", LevelFilter::WARN)
    })
}

fn log_to_stderr() {
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_target(false);
    log.with_ansi(false).with_writer(io::stderr).finish().with(filter()).init();
}

fn log_to_stdout(format: LogFormat) {
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_target(false);
    match format {
        LogFormat::Json => log.json().flatten_event(true).finish().with(filter()).init(),
        LogFormat::Text => log.with_ansi(false).finish().with(filter()).init(),
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn run_in_cluster(arguments: Run) -> ExitCode {
    log_to_stdout(arguments.log_format);
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Run) -> Result<(), String> {
    let Run {
        node_name,
        node_address,
        kernel,
        journal,
        pods,
        textfile_directory,
        report_peers,
        log_format: _,
    } = arguments;
    let procfs = kernel.into();
    let pods = pods.options(&procfs);
    let settings = Settings {
        turn: TURN,
        node: node_name,
        procfs,
        state_dir: journal.state,
        node_address,
        pods,
        textfile_directory,
        report_peers,
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = settings.node, "starts");
    runtime().map_err(|error| format!("the runtime cannot be started: {error}"))?.block_on(async {
        // It runs in a pod; a reader of kubeconfigs would only make the program larger.
        let config =
            Config::incluster().map_err(|error| format!("this is no pod with a service account: {error}"))?;
        let client = crds::client::client(&config, crds::client::IDLE_OF_MANY)
            .map_err(|error| format!("the credentials for the API server cannot be used: {error}"))?;
        run(settings, client).await.map_err(|error| format!("it could not go on: {error}"))
    })
}
