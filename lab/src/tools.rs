//! Tools that look at the code, built once into the user's cache.

use std::{path::PathBuf, process::Command};

use crate::{checkout::Cache, error::Result, process::run, report::during};

/// cargo-deny, of the version that `deny.toml` is written for.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    tool("cargo-deny", "0.20.2")
}

/// cargo-fuzz, which knows how a program is compiled for libFuzzer.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    tool("cargo-fuzz", "0.13.2")
}

fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let root = Cache::of_user()?.bin().join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if !program.is_file() {
        let mut install = Command::new("cargo");
        install.args(["install", name, "--locked", "--quiet", "--version", version, "--root"]).arg(&root);
        during(&format!("builds {name}"), || run(&mut install))?;
    }
    Ok(program)
}
