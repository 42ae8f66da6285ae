//! The commands of `cargo lab`.

use std::{os::unix::process::CommandExt, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    bench::{self, bench},
    clear::down,
    cluster::Cluster,
    demo::demo,
    error::{Error, Result},
    fixture,
    fuzz::fuzz,
    install::install_from_checkout,
    network,
    prove::prove,
    relay, sim,
    skew::{OLDER, skew},
    suite::{self, Tally},
    up::{self, up},
};

/// A real Kubernetes cluster on one machine, for the demo, the tests and the benches of tcp-close-tuning.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Start a control plane and real nodes, or find them running.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = up::NODES, value_parser = clap::value_parser!(u8).range(1..=i64::from(network::NODES_MAX)))]
        nodes: u8,
        /// Build the images, load them and install the chart, or put newly built ones in their place.
        #[arg(long)]
        install: bool,
    },
    /// End everything, and check that nothing is left.
    Down,
    /// Say whether the lab of this checkout is up.
    Status,
    /// Run kubectl against the lab.
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Arguments of kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm against the lab.
    #[command(disable_help_flag = true)]
    Helm {
        /// Arguments of helm.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a program in the namespaces of a node: `cargo lab exec node-1 -- ss -tan`.
    Exec {
        /// The node.
        node: String,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show the main job: nodes tuned, closing sockets reported, what is unsafe refused, everything put back.
    Demo {
        /// End, and take everything down, instead of staying up for exploring.
        #[arg(long)]
        once: bool,
    },
    /// Keep what this version packages and stores under lab/fixtures, for tests of later upgrades.
    Fixture,
    /// Measure something, and print it beside what it is aimed at.
    Bench {
        /// What.
        #[command(subcommand)]
        what: bench::What,
    },
    /// Run the tests: those that need no cluster, then those of a real one.
    Test {
        /// Also what takes long: the state of the code, and the long tests.
        #[arg(long)]
        all: bool,
        /// Run only tests of the cluster whose names contain this.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Show on the running kernel, in about two minutes, that it closes connections as this project says.
    Prove {
        /// Write docs/kernel.md from what was measured, if every claim holds.
        #[arg(long, conflicts_with = "filter")]
        write_docs: bool,
        /// Run only experiments whose ids contain this.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Put every parser of what the kernel, the journal or a person has written to libFuzzer, starting from real captures.
    Fuzz {
        /// For how many seconds each target runs.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// Plant a bug in each target, and fail unless it is found.
        #[arg(long)]
        planted: bool,
        /// Run only targets whose names contain this.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Run an older version's operator and agents beside those of this one, in both directions, in about six minutes.
    Skew {
        /// The commit of the older version; by default the last one of 0.1.0.
        #[arg(default_value = OLDER)]
        revision: String,
    },
    /// Play one scene of `bench count`, in namespaces that were made for it.
    #[command(hide = true)]
    Scene {
        /// What it looks like and what is measured, as JSON.
        play: String,
    },
    /// Simulate agents, for `bench fleet`.
    #[command(hide = true)]
    Sim {
        /// Which, as JSON.
        crowd: String,
    },
    /// Pass connections from the machine to the API server.
    #[command(hide = true)]
    Relay {
        /// A process in the lab's network namespace.
        holder: u32,
        /// Where to write the port.
        port_file: PathBuf,
    },
}

impl Arguments {
    /// Carries the command out, and prints an error once, with all that caused it.
    pub fn run(self) -> ExitCode {
        match self.carry_out() {
            Ok(()) => ExitCode::SUCCESS,
            // The last line of the tests has said it.
            Err(Error::TestsFailed { .. }) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("lab: {}", error.chain());
                ExitCode::FAILURE
            }
        }
    }

    fn carry_out(self) -> Result<()> {
        match self.command {
            Subject::Up { nodes, install } => {
                let cluster = up(nodes)?;
                if install {
                    install_from_checkout(&cluster)?;
                }
                print_exports(&cluster);
                Ok(())
            }
            Subject::Down => down(),
            Subject::Status => status(),
            Subject::Kubectl { arguments } => become_client(&Cluster::open()?, "kubectl", &arguments),
            Subject::Helm { arguments } => become_client(&Cluster::open()?, "helm", &arguments),
            Subject::Exec { node, command } => {
                let (program, arguments) = command.split_first().ok_or(Error::NotUp)?;
                Err(Cluster::open()?.node(&node)?.become_program(program, arguments))
            }
            Subject::Bench { what } => bench(&what),
            Subject::Demo { once } => demo(once),
            Subject::Fixture => fixture::keep(),
            Subject::Test { all, filter } => match suite::test(all, &filter)? {
                Tally { passed: 1.., failed: 0 } => Ok(()),
                Tally { failed, .. } => Err(Error::TestsFailed { failed }),
            },
            Subject::Prove { write_docs, filter } => prove(&filter, write_docs),
            Subject::Fuzz { seconds, planted, filter } => fuzz(&filter, seconds, planted),
            Subject::Skew { revision } => skew(&revision),
            Subject::Scene { play } => bench::count::play(&play),
            Subject::Sim { crowd } => sim::simulate(&crowd),
            Subject::Relay { holder, port_file } => relay::serve(holder, &port_file),
        }
    }
}

fn print_exports(cluster: &Cluster) {
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
}

fn status() -> Result<()> {
    let cluster = Cluster::open()?;
    if !cluster.is_up() {
        return Err(Error::NotUp);
    }
    print!("{}", cluster.kubectl(&["get", "nodes", "--output", "wide"])?);
    print_exports(&cluster);
    Ok(())
}

/// Becomes the program: its terminal, its signals and its exit code are the person's.
fn become_client(cluster: &Cluster, program: &str, arguments: &[String]) -> Result<()> {
    let mut command = cluster.client(program);
    let source = command.args(arguments).exec();
    Err(Error::Start { program: program.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_follows_kubectl_is_passed_on_as_it_is() {
        let arguments = Arguments::parse_from(["lab", "kubectl", "get", "-n", "kube-system", "--help"]);
        let Subject::Kubectl { arguments } = arguments.command else { panic!("not kubectl") };
        assert_eq!(arguments, ["get", "-n", "kube-system", "--help"]);
    }

    #[test]
    fn an_error_is_printed_once_with_its_cause() {
        let error = Error::File {
            act: "read",
            path: "/nowhere".into(),
            source: std::io::Error::from_raw_os_error(2),
        };
        assert_eq!(error.chain(), "cannot read /nowhere: No such file or directory (os error 2)");
    }
}
