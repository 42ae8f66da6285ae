//! Tools that look at the code, built once into the user's cache.

use std::{path::PathBuf, process::Command};

use crate::{checkout::Cache, error::Result, process::run, report::during};

const CARGO_DENY: &str = "0.20.2";

/// cargo-deny, of the version that `deny.toml` is written for.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let root = Cache::of_user()?.bin().join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        let mut install = Command::new("cargo");
        install
            .args(["install", "cargo-deny", "--locked", "--quiet", "--version", CARGO_DENY, "--root"])
            .arg(&root);
        during("builds cargo-deny", || run(&mut install))?;
    }
    Ok(program)
}
