//! Keeps what this version packages and stores, so that later versions can be tested against it.

use std::{path::Path, time::Duration};

use crate::{
    clear::down,
    cluster::Cluster,
    error::{Error, Result},
    files,
    install::{RELEASE, install_from_checkout},
    report::{Seen, say, wait_until},
    up::{NODES, up},
};

/// The node that all examples match, and so the one with the fullest journal.
const NODE: &str = "node-3";
const DEADLINE: Duration = Duration::from_secs(90);

/// Installs this version, tunes the nodes from `examples/`, and writes `lab/fixtures/v<version>`: the packaged chart, the
/// journal of a node, and the objects of both kinds as the API server holds them.
pub(crate) fn keep() -> Result<()> {
    let cluster = up(NODES)?;
    install_from_checkout(&cluster)?;
    let root = cluster.checkout().root();
    let folder = root.join("lab/fixtures").join(concat!("v", env!("CARGO_PKG_VERSION")));
    cluster.kubectl(&["label", "node", NODE, "tcpclose.dev/example-role=client", "--overwrite"])?;
    cluster.kubectl(&[
        "apply",
        "--server-side",
        "--filename",
        &root.join("examples").display().to_string(),
    ])?;
    wait_until("the examples are Ready", DEADLINE, || {
        let path = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
        let seen = cluster.kubectl(&["get", "tct", "--output", path])?;
        Ok(Seen::when(seen == "True True True", || seen))
    })?;
    files::make_folder(&folder)?;
    let chart = root.join("charts").join(RELEASE).display().to_string();
    cluster.helm(&["package", &chart, "--destination", &folder.display().to_string()])?;
    keep_state(&cluster, &folder)?;
    say(format!("kept {}", folder.display()));
    down()
}

fn keep_state(cluster: &Cluster, folder: &Path) -> Result<()> {
    let journal = files::read(&cluster.node(NODE)?.path("/var/lib/tcp-close-tuning/journal"))?;
    write(&folder.join("journal"), &journal)?;
    let objects = cluster.kubectl(&["get", "tct,tcn", "--output", "json"])?;
    // The kernel's own version is part of the status; how its builder calls it is nobody's business.
    let release = files::read(Path::new("/proc/sys/kernel/osrelease"))?;
    let version = release.trim().split('-').next().unwrap_or_default();
    write(&folder.join("objects.json"), &objects.replace(release.trim(), version))
}

/// Unlike what else the lab writes, this is for everybody to read.
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::file("write", path))
}
