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

/// A count that moves, as the agent has watched it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// What it is; `None` where it cannot be read.
    pub now: Option<u64>,
    /// The highest in a while; `None` until it has been watched for [`PEAK_SECONDS_MIN`].
    pub peak: Option<Peak>,
}

/// The highest value of a count, and in how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// The highest value.
    pub count: u64,
    /// For how long it has been watched, in seconds; at most [`PEAK_SECONDS_MAX`].
    pub seconds: u64,
}

/// A count that was watched for less says nothing of its peak.
pub const PEAK_SECONDS_MIN: u64 = 60;
/// What was longer ago does not count.
pub const PEAK_SECONDS_MAX: u64 = 24 * 3600;

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, seconds } = self;
        match seconds {
            0..120 => write!(f, "{count} (in {seconds} s)"),
            120..7200 => write!(f, "{count} (in {} min)", seconds / 60),
            _ => write!(f, "{count} (in {} h)", seconds / 3600),
        }
    }
}

/// Connections since the namespace was made, of `/proc/net/snmp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// `ActiveOpens`: connect().
    pub opened: u64,
    /// `PassiveOpens`: accepted by a listening socket.
    pub accepted: u64,
}

/// What tcp_rto_max_ms is unless somebody changes it, and what kernels without the file do (6.12 has none, 6.17 has it).
pub const RTO_MAX_MS_DEFAULT: i64 = 120_000;

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
    /// The machine's memory, `MemTotal`.
    pub memory_bytes: Option<u64>,
    /// `tcp_rto_max_ms`; [`RTO_MAX_MS_DEFAULT`] where the kernel has no such file.
    pub rto_max_ms: Option<i64>,
    /// What TCP may hold altogether, the third number of `tcp_mem`. It exists in the first namespace only.
    pub tcp_mem_bytes: Option<u64>,
    /// `ip_local_port_range`, both ends included.
    pub local_ports: Option<(u16, u16)>,
    /// Orphans of the whole machine, which tcp_max_orphans is compared with.
    pub orphans: Watched,
    /// Mini-sockets of the namespace (TIME_WAIT, and FIN_WAIT2 after close()), which tcp_max_tw_buckets is compared with.
    pub time_wait: Watched,
    /// Which side of its connections the node is.
    pub connections: Option<Connections>,
}

impl NodeFacts {
    /// A node of which nothing is known.
    pub fn unknown() -> Self {
        Self {
            kernel: None,
            first_namespace: false,
            nat: Nat::Unknown("nobody looked".into()),
            memory_bytes: None,
            rto_max_ms: None,
            tcp_mem_bytes: None,
            local_ports: None,
            orphans: Watched::default(),
            time_wait: Watched::default(),
            connections: None,
        }
    }
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
