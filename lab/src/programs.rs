//! The project's two programs as static binaries, for images that hold nothing else.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    checkout::Checkout,
    error::{Error, Result},
    files,
    process::{on_path, run},
    report::{during, say},
    shared_build::SharedBuild,
};

/// The operator's program.
pub(crate) const OPERATOR: &str = "tcpclose-operator";
/// The agent's.
pub(crate) const AGENT: &str = "tcpclose-agent";
/// The packages and the binaries they make.
const PROGRAMS: [(&str, &str); 2] = [("operator", OPERATOR), ("node-agent", AGENT)];

/// The static binaries of a build.
#[derive(Debug, Clone)]
pub(crate) struct StaticPrograms {
    /// `tcpclose-operator`.
    pub operator: PathBuf,
    /// `tcpclose-agent`.
    pub agent: PathBuf,
}

/// How this machine links statically.
struct Linking {
    target: String,
    flags: Option<&'static str>,
}

/// Builds both programs. Finished binaries go into a folder of this lab, what is compiled on the way into the build
/// folder that all checkouts share.
pub(crate) fn build(checkout: &Checkout, into: &Path) -> Result<StaticPrograms> {
    let linking = linking(checkout)?;
    let shared = SharedBuild::take(checkout)?;
    let mut command = cargo(&shared, checkout, &linking);
    command.arg("--target-dir").arg(into);
    for (package, _) in PROGRAMS {
        command.args(["--package", package]);
    }
    during("builds the operator and the agent as static programs", || run(&mut command))?;
    let [operator, agent] =
        PROGRAMS.map(|(_, binary)| into.join(&linking.target).join("release").join(binary));
    for program in [&operator, &agent] {
        program.metadata().map_err(Error::file("find", program))?;
    }
    Ok(StaticPrograms { operator, agent })
}

fn cargo(shared: &SharedBuild, checkout: &Checkout, linking: &Linking) -> Command {
    let mut command = shared.cargo();
    command.current_dir(checkout.root()).args(["build", "--release"]);
    // What `cargo lab` was given about its own package would make build scripts (ring's) run again in every checkout.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_MANIFEST") || text.starts_with("CARGO_PKG_") || text == "LD_LIBRARY_PATH" {
            command.env_remove(name);
        }
    }
    link(&mut command, linking);
    command
}

/// Has cargo link as both programs are linked, which also decides on their allocator.
pub(crate) fn link_alike(command: &mut Command, checkout: &Checkout) -> Result<()> {
    link(command, &linking(checkout)?);
    Ok(())
}

fn link(command: &mut Command, linking: &Linking) {
    command.args(["--target", &linking.target]);
    if let Some(flags) = linking.flags {
        command.env("RUSTFLAGS", flags);
    }
    // C code of dependencies (ring) compiles for musl with the machine's own gcc; musl's is rarely there.
    let compiler = format!("CC_{}", linking.target.replace('-', "_"));
    if std::env::var_os(&compiler).is_none() && on_path("musl-gcc").is_none() {
        command.env(compiler, "gcc");
    }
}

/// musl, which rustup adds in seconds; where it cannot be had, glibc linked statically, which is larger.
fn linking(checkout: &Checkout) -> Result<Linking> {
    let architecture = std::env::consts::ARCH;
    let musl = format!("{architecture}-unknown-linux-musl");
    if has_target(checkout, &musl)? {
        return Ok(Linking { target: musl, flags: None });
    }
    say(format!("adds the Rust target {musl}"));
    let added = run(Command::new("rustup").current_dir(checkout.root()).args(["target", "add", &musl]));
    if added.is_ok() && has_target(checkout, &musl)? {
        return Ok(Linking { target: musl, flags: None });
    }
    say(format!("the Rust target {musl} cannot be had here: links glibc statically instead"));
    let flags = Some("-C target-feature=+crt-static");
    Ok(Linking { target: format!("{architecture}-unknown-linux-gnu"), flags })
}

/// Whether the toolchain of this checkout has the standard library of a target.
fn has_target(checkout: &Checkout, target: &str) -> Result<bool> {
    let mut rustc = Command::new("rustc");
    let folder =
        run(rustc.current_dir(checkout.root()).args(["--print", "target-libdir", "--target", target]))?;
    Ok(!files::list(Path::new(folder.trim()))?.is_empty())
}
