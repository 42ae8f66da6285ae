//! The sentinel: proves that what the agent writes reaches its node, before it writes anything.
//!
//! Three mistakes would change another namespace than the node's, or none, without an error: a folder that is no procfs, a
//! bind mount of `/proc/sys/net/ipv4` (which belongs for ever to the namespace that mounted it, measured on 6.18.44), and a
//! pod without hostNetwork. Each is told by a sign that needs no privilege.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use crate::procfs::Procfs;

/// What is to be proven.
#[derive(Clone, Debug)]
pub enum Sentinel {
    /// That the files are a procfs's, not pinned to another namespace; and, where the node's address is known, that it is an
    /// address of this namespace.
    Proves {
        /// The node's address, from the kubelet; `None` outside a cluster, where the user has chosen the namespace.
        node_address: Option<IpAddr>,
    },
    /// Nothing: the tests' trees are no procfs.
    #[cfg(test)]
    Trusts,
}

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// There is no procfs there.
    #[error(
        "{0} is not a procfs, so writing there would change no kernel: mount /proc/sys/net of the node there (hostPath), or say \
         where it is with --sysctls"
    )]
    NotProcfs(PathBuf),
    /// It cannot be looked at.
    #[error(
        "{path} cannot be looked at: {why}; SELinux or AppArmor may forbid it, or nothing is mounted there"
    )]
    Unknown {
        /// Which folder.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// The mount belongs to the namespace that made it.
    #[error(
        "{path} is a mount of {root} of a procfs, which belongs to the network namespace of whoever mounted it, not to the \
         node's: mount /proc/sys/net, not a folder below it"
    )]
    Pinned {
        /// The mount point.
        path: PathBuf,
        /// What of the procfs is mounted there.
        root: String,
    },
    /// The node's address is not one of this namespace.
    #[error(
        "the node's address {0} is not an address of this network namespace, so this is not the node's: the agent's pod needs \
         hostNetwork: true"
    )]
    OtherNamespace(IpAddr),
}

impl Sentinel {
    /// Looks for a reason not to write.
    ///
    /// # Errors
    /// The first reason that is found.
    pub fn check(&self, procfs: &Procfs) -> Result<(), Doubt> {
        match self {
            Self::Proves { node_address } => {
                is_procfs(procfs, procfs.sysctls())?;
                let mounts = procfs.mountinfo().map_err(|error| Doubt::Unknown {
                    path: procfs.sysctls().into(),
                    why: error.to_string(),
                })?;
                // Not `sys/net`: a mount on the folder below would hide behind a good one.
                is_not_pinned(&procfs.folder(), &mounts)?;
                // Another mount may lie over a single file.
                for file in procfs.sysctl_files() {
                    is_procfs(procfs, &file)?;
                    is_not_pinned(&file, &mounts)?;
                }
                node_address.map_or(Ok(()), is_of_this_namespace)
            }
            #[cfg(test)]
            Self::Trusts => Ok(()),
        }
    }
}

fn is_procfs(procfs: &Procfs, path: &Path) -> Result<(), Doubt> {
    match procfs.is_procfs(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Doubt::NotProcfs(path.into())),
        Err(error) => Err(Doubt::Unknown { path: path.into(), why: error.to_string() }),
    }
}

/// Only mounts of a procfs, its `sys`, or its `sys/net` follow the reader's namespace.
fn is_not_pinned(path: &Path, mountinfo: &str) -> Result<(), Doubt> {
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    match mount_of(&path, mountinfo) {
        Some((root, _)) if ["/", "/sys", "/sys/net"].contains(&root.as_str()) => Ok(()),
        Some((root, point)) => Err(Doubt::Pinned { path: point, root }),
        None => Err(Doubt::Unknown { path, why: "no mount in /proc/self/mountinfo holds it".into() }),
    }
}

/// What of its file system is mounted where a path is, and at which mount point: the fourth and fifth field of the line of
/// `/proc/self/mountinfo` whose mount point is the longest that holds the path. A later mount hides an earlier one.
pub fn mount_of(path: &Path, mountinfo: &str) -> Option<(String, PathBuf)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        Some((unescaped(fields.next()?), PathBuf::from(unescaped(fields.next()?))))
    });
    let holding = mounts.filter(|(_, point)| path.starts_with(point));
    holding.max_by_key(|(_, point)| point.components().count())
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_string(), |text, (escaped, plain)| text.replace(escaped, plain))
}

/// Only an address of this namespace can be bound; nothing is sent.
fn is_of_this_namespace(address: IpAddr) -> Result<(), Doubt> {
    UdpSocket::bind(SocketAddr::new(address, 0)).map(drop).map_err(|_| Doubt::OtherNamespace(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::tests::tree;

    const IN_A_POD: &str = "\
2309 2212 0:215 / / ro,relatime - overlay overlay rw\n\
2310 2309 0:218 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
2319 2309 0:22 /sys/net /host/proc/sys/net rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
2320 2310 0:218 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw\n\
2321 2309 0:22 /sys/net/ipv4 /host/pinned/net/ipv4 rw,relatime - proc proc rw\n\
2322 2309 0:22 /sys/net /host/with\\040blank rw,relatime - proc proc rw\n";

    fn root(path: &str) -> Option<String> {
        mount_of(Path::new(path), IN_A_POD).map(|(root, _)| root)
    }

    fn proves(node_address: Option<IpAddr>) -> Sentinel {
        Sentinel::Proves { node_address }
    }

    #[test]
    fn the_mount_that_holds_a_path_is_the_longest() {
        assert_eq!(root("/host/proc/sys/net").as_deref(), Some("/sys/net"));
        assert_eq!(root("/proc/sys/net").as_deref(), Some("/sys"));
        assert_eq!(root("/host/pinned/net/ipv4").as_deref(), Some("/sys/net/ipv4"));
        assert_eq!(root("/host/with blank").as_deref(), Some("/sys/net"));
    }

    #[test]
    fn a_folder_that_is_pinned_to_another_namespace_is_refused() {
        let doubt = is_not_pinned(Path::new("/host/pinned/net/ipv4"), IN_A_POD).unwrap_err();
        assert_eq!(
            doubt.to_string(),
            "/host/pinned/net/ipv4 is a mount of /sys/net/ipv4 of a procfs, which belongs to the network namespace of whoever \
             mounted it, not to the node's: mount /proc/sys/net, not a folder below it"
        );
    }

    #[test]
    fn a_folder_that_is_no_procfs_is_refused() {
        let (_dir, procfs) = tree(&[]);
        let doubt = proves(None).check(&procfs).unwrap_err();
        assert!(matches!(&doubt, Doubt::NotProcfs(path) if path.ends_with("sys/net")), "{doubt}");
    }

    #[test]
    fn a_procfs_is_accepted() {
        assert_eq!(proves(None).check(&Procfs::new("/proc", None)), Ok(()));
    }

    #[test]
    fn a_namespace_that_has_not_the_nodes_address_is_refused() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(proves(Some(loopback)).check(&Procfs::new("/proc", None)), Ok(()));
        // 192.0.2.0/24 is nobody's.
        let nobodys = IpAddr::from([192, 0, 2, 77]);
        assert_eq!(
            proves(Some(nobodys)).check(&Procfs::new("/proc", None)),
            Err(Doubt::OtherNamespace(nobodys))
        );
    }
}
