//! The cgroups of a lab's containers. containerd makes them below one folder that it shares with every containerd of
//! the machine, so they are found by the ids of the lab's own containers and by nothing else. A runtime that is killed
//! leaves them behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    error::Result,
    files,
    report::{Seen, poll_until},
};

const ROOT: &str = "/sys/fs/cgroup";
/// containerd's namespace for Kubernetes, and its folder in each hierarchy.
const NAMESPACE: &str = "k8s.io";
/// Where containerd keeps one folder per running container, below a node's /run.
const TASKS: &str = "containerd/io.containerd.runtime.v2.task/k8s.io";
/// A cgroup can be removed a moment after its last process.
const GONE_DEADLINE: Duration = Duration::from_secs(20);

/// The ids of the containers that ran on a node, by its folder for /run.
pub(crate) fn containers(node_run: &Path) -> Result<BTreeSet<String>> {
    Ok(files::list(&node_run.join(TASKS))?.into_iter().collect())
}

/// Removes the cgroups of these containers.
pub(crate) fn remove(containers: &BTreeSet<String>) -> Result<()> {
    poll_until("the cgroups of the lab's containers are gone", GONE_DEADLINE, || {
        for cgroup in existing(containers) {
            remove_tree(&cgroup);
        }
        let left = existing(containers);
        Ok(Seen::when(left.is_empty(), || format!("{left:?}")))
    })?;
    // The shared folder goes only when it is empty: the kernel refuses otherwise.
    for hierarchy in hierarchies() {
        let _ = fs::remove_dir(hierarchy.join(NAMESPACE));
    }
    Ok(())
}

/// The cgroups of these containers that exist: one per hierarchy of version 1, one in all of version 2.
pub(crate) fn existing(containers: &BTreeSet<String>) -> Vec<PathBuf> {
    let folders = hierarchies().into_iter().map(|hierarchy| hierarchy.join(NAMESPACE));
    let all = folders.flat_map(|folder| containers.iter().map(move |id| folder.join(id)));
    all.filter(|cgroup| cgroup.is_dir()).collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let below = files::list(root).unwrap_or_default().into_iter().map(|name| root.join(name));
    // Version 1 has links beside its hierarchies (cpu -> cpu,cpuacct).
    std::iter::once(root.to_owned()).chain(below.filter(|path| path.is_dir() && !path.is_symlink())).collect()
}

/// The files in a cgroup are the kernel's and go with their folder, which refuses while it has processes.
fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
