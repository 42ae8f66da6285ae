//! Instances of inotify: the kernel lets each user have 128 unless somebody has raised the limit, and a node's programs
//! take some of them. A kubelet or containerd that gets none ends with words about open files, over and over.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::{error::Error, files, process::pids};

const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";
/// What containerd (2) and kubelet (6) of a node take.
const PER_NODE: usize = 8;
/// Enough for many labs; an instance that nobody makes costs nothing.
const ENOUGH: usize = 1024;

/// Says so where something did not come up in time and instances may be what it lacked.
pub(crate) fn explain(error: Error) -> Error {
    let limit = files::read(Path::new(LIMIT)).ok().and_then(|text| text.trim().parse().ok());
    match limit {
        Some(limit) => with_hint(error, in_use(), limit),
        None => error,
    }
}

fn with_hint(error: Error, used: usize, limit: usize) -> Error {
    if !matches!(error, Error::Deadline { .. }) || used + PER_NODE <= limit {
        return error;
    }
    Error::Missing {
        what: format!(
            "{error}\n      what may be missing: {used} of the {limit} inotify instances that this user may have are in \
             use, and a node needs {PER_NODE}"
        ),
        remedy: format!(
            "end other labs (`cargo lab down` in their checkouts), or raise the limit with \
             `sysctl fs.inotify.max_user_instances={ENOUGH}`"
        ),
    }
}

/// The instances of this user, as far as this process may see.
fn in_use() -> usize {
    let own = rustix::process::geteuid().as_raw();
    let is_own = |pid: &u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|folder| folder.uid() == own);
    pids().unwrap_or_default().into_iter().filter(is_own).map(of_process).sum()
}

fn of_process(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|each| fs::read_link(each.path()).ok());
    targets.filter(|target| target.as_os_str() == "anon_inode:inotify").count()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::fs::inotify;

    use super::*;

    fn deadline() -> Error {
        let what = "every node is Ready".into();
        Error::Deadline { what, waited: Duration::from_mins(3), last: "node-1=False".into() }
    }

    #[test]
    fn a_node_that_is_not_ready_while_instances_run_out_comes_with_a_hint() {
        assert_eq!(
            with_hint(deadline(), 121, 128).to_string(),
            "every node is Ready: not within 180.0 s; last seen: node-1=False\n      \
             what may be missing: 121 of the 128 inotify instances that this user may have are in use, and a node \
             needs 8\n      \
             what to do: end other labs (`cargo lab down` in their checkouts), or raise the limit with \
             `sysctl fs.inotify.max_user_instances=1024`"
        );
    }

    #[test]
    fn with_room_for_another_node_instances_are_not_the_reason() {
        assert_eq!(with_hint(deadline(), 128 - PER_NODE, 128).to_string(), deadline().to_string());
    }

    #[test]
    fn an_error_of_another_kind_stays_as_it_is() {
        assert!(matches!(with_hint(Error::NotUp, 128, 128), Error::NotUp));
    }

    #[test]
    fn an_instance_is_counted_while_it_lives() {
        let own = std::process::id();
        let before = of_process(own);
        let instance = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(of_process(own), before + 1);
        assert!(in_use() > before);
        drop(instance);
        assert_eq!(of_process(own), before);
    }
}
