//! The closed set of sysctls that this project may touch.

use std::fmt;

/// A sysctl of the catalogue. Nothing else can ever become a path below `/proc/sys`: no text that a person or a
/// server sent is used to build one.
///
/// The order of the variants is the order in which people see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sysctl {
    /// `net.ipv4.tcp_orphan_retries`
    OrphanRetries,
    /// `net.ipv4.tcp_max_orphans`
    MaxOrphans,
    /// `net.ipv4.tcp_fin_timeout`
    FinTimeout,
    /// `net.ipv4.tcp_max_tw_buckets`
    MaxTwBuckets,
    /// `net.ipv4.tcp_tw_reuse`
    TwReuse,
    /// `net.ipv4.tcp_tw_reuse_delay`
    TwReuseDelay,
    /// `net.ipv4.tcp_timestamps`
    Timestamps,
    /// `net.ipv4.tcp_tw_recycle`
    TwRecycle,
}

impl Sysctl {
    /// Every sysctl of the catalogue.
    pub const ALL: [Self; 8] = [
        Self::OrphanRetries,
        Self::MaxOrphans,
        Self::FinTimeout,
        Self::MaxTwBuckets,
        Self::TwReuse,
        Self::TwReuseDelay,
        Self::Timestamps,
        Self::TwRecycle,
    ];

    /// Keys that only make sense together: a refusal of one holds back the others of the same order.
    pub const DEPENDENT: [Self; 4] = [Self::TwReuse, Self::TwReuseDelay, Self::Timestamps, Self::TwRecycle];

    /// The name as `sysctl(8)` and a pod's `securityContext.sysctls` write it, `net.ipv4.tcp_fin_timeout`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OrphanRetries => "net.ipv4.tcp_orphan_retries",
            Self::MaxOrphans => "net.ipv4.tcp_max_orphans",
            Self::FinTimeout => "net.ipv4.tcp_fin_timeout",
            Self::MaxTwBuckets => "net.ipv4.tcp_max_tw_buckets",
            Self::TwReuse => "net.ipv4.tcp_tw_reuse",
            Self::TwReuseDelay => "net.ipv4.tcp_tw_reuse_delay",
            Self::Timestamps => "net.ipv4.tcp_timestamps",
            Self::TwRecycle => "net.ipv4.tcp_tw_recycle",
        }
    }

    /// The name of the file below `/proc/sys/net/ipv4`, `tcp_fin_timeout`.
    pub fn file(self) -> &'static str {
        self.name().trim_start_matches("net.ipv4.")
    }

    /// The name of the field in a `TcpCloseTuning`, with its unit, `tcpFinTimeoutSeconds`.
    pub const fn field(self) -> &'static str {
        match self {
            Self::OrphanRetries => "tcpOrphanRetries",
            Self::MaxOrphans => "tcpMaxOrphans",
            Self::FinTimeout => "tcpFinTimeoutSeconds",
            Self::MaxTwBuckets => "tcpMaxTwBuckets",
            Self::TwReuse => "tcpTwReuse",
            Self::TwReuseDelay => "tcpTwReuseDelayMilliseconds",
            Self::Timestamps => "tcpTimestamps",
            Self::TwRecycle => "tcpTwRecycle",
        }
    }

    /// The sysctl of this [`name`](Self::name), if the catalogue has it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sysctl| sysctl.name() == name)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_sysctl() {
        for sysctl in Sysctl::ALL {
            assert_eq!(Sysctl::from_name(sysctl.name()), Some(sysctl));
        }
    }

    #[test]
    fn a_path_is_not_a_name() {
        for text in
            ["", "tcp_fin_timeout", "net/ipv4/tcp_fin_timeout", "net.ipv4.tcp_fin_timeout\n", "kernel.panic"]
        {
            assert_eq!(Sysctl::from_name(text), None, "{text:?}");
        }
    }
}
