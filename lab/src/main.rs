//! `cargo lab`: see the commands in [`lab::cli`].

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    lab::cli::Arguments::parse().run()
}
