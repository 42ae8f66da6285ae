//! Kernel versions, as far as facts about sysctls depend on them.

use std::fmt;

/// A kernel version, major and minor. Patch levels never decide anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 of 6.18
    pub major: u16,
    /// 18 of 6.18
    pub minor: u16,
}

impl KernelVersion {
    /// The version `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Reads the start of a release such as `6.18.44-fc` or `5.15.0-1051-azure`; `None` where it is not one.
    pub fn parse(release: &str) -> Option<Self> {
        let mut parts = release.trim().splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        Some(Self { major, minor: minor[..digits].parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What is known of NAT between this node and its clients.
///
/// No node can see a NAT device that is far away, so there is no value for "there is none".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Something on this node shows it; the text is the evidence.
    Seen(String),
    /// Evidence was looked for where it would show, and none was found.
    NotSeen,
    /// Nobody looked, or what would show it cannot be read; the text says which.
    Unknown(String),
}

/// What the rules need to know of a node, gathered by its agent just before it judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// `None` where the release is not a version: then whatever depends on it is unknown.
    pub kernel: Option<KernelVersion>,
    /// Whether the node's network namespace is the first of its machine. A node that is a container (kind, a lab) is
    /// not, and the kernel shows it no machine-wide sysctl.
    pub first_namespace: bool,
    /// Gathered only where tcp_tw_recycle exists and 1 is ordered.
    pub nat: Nat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        for (release, version) in [
            ("6.18.44-cloud-amd64\n", (6, 18)),
            ("5.15.0-1051-azure", (5, 15)),
            ("3.10.0-1160.el7.x86_64", (3, 10)),
            ("4.4-rc1", (4, 4)),
            ("7.2", (7, 2)),
        ] {
            assert_eq!(
                KernelVersion::parse(release),
                Some(KernelVersion::new(version.0, version.1)),
                "{release}"
            );
        }
    }

    #[test]
    fn what_is_no_release_is_unknown() {
        for text in ["", "6", "six.one", "6.", "6.x", ".1"] {
            assert_eq!(KernelVersion::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(KernelVersion::new(4, 12) > KernelVersion::new(4, 9));
    }
}
