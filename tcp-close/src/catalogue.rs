//! One row of facts for each sysctl: bounds, unit, default, scope, life, meaning.
//!
//! Sources are named per row. "Measured" is Linux 6.18.44, x86_64, HZ=250, in private network namespaces; "read" is the
//! kernel source of the versions named. The kernel's own `ip-sysctl.rst` is wrong in several places (it gives 8 as the
//! default of tcp_orphan_retries, and a warning on TIME_WAIT overflow that no kernel since 4.4 prints).

use std::ops::RangeInclusive;

use crate::Sysctl;
use crate::kernel::KernelVersion;

/// What one step of a value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Called retries by the kernel, and really a span of time: see the row.
    Retries,
    /// Sockets.
    Sockets,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// A choice between numbered meanings.
    Choice,
}

/// What the kernel starts a namespace with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// Always this.
    Fixed(i64),
    /// The first before the version, the second since.
    Changed(i64, KernelVersion, i64),
    /// Half the buckets of the TCP hash table: memory / 128 KiB, rounded up to a power of two, at most 524288, halved.
    /// `thash_entries=` on the kernel's command line overrides it, and for tcp_max_tw_buckets so does a namespace
    /// that was made with tcp_child_ehash_entries.
    HalfOfHashTable,
}

/// Whose value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each network namespace has its own since this version; before, the machine had one, visible in the first
    /// namespace only. A new namespace starts with the kernel's defaults, never with its parent's values.
    Namespace(KernelVersion),
    /// One for the machine in every version, visible in its first network namespace only.
    Machine,
}

/// The facts about one sysctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What may be ordered. Outside of it a value is never meaningful: this is the bound in the schema.
    pub orderable: RangeInclusive<i64>,
    /// What is ordinary: nothing needs to be said about a value in here.
    pub sensible: RangeInclusive<i64>,
    /// What `write(2)` takes (6.18). The difference to `orderable` is what a person can do wrong with `sysctl -w`.
    pub kernel: RangeInclusive<i64>,
    /// What one step stands for.
    pub unit: Unit,
    /// What the kernel starts with.
    pub default: DefaultValue,
    /// Whose value it is.
    pub scope: Scope,
    /// The first version that has it; `None`: older than 3.10.
    pub since: Option<KernelVersion>,
    /// The first version that no longer has it; `None`: all have it.
    pub removed: Option<KernelVersion>,
    /// What it does, in two or three sentences.
    pub does: &'static str,
    /// What people believe of it, and why that is wrong.
    pub misbelief: &'static str,
    /// Where the facts come from.
    pub source: &'static str,
}

const INT: RangeInclusive<i64> = i32::MIN as i64..=i32::MAX as i64;
const INT_MAX: i64 = i32::MAX as i64;
const U8: RangeInclusive<i64> = 0..=255;
/// Seconds are kept as ticks in an int, so the largest is INT_MAX / HZ; at HZ=1000, the smallest such bound, this.
pub(crate) const SECONDS_MAX: i64 = i32::MAX as i64 / 1000;
const ANY_VERSION: Option<KernelVersion> = None;
/// The largest default of [`DefaultValue::HalfOfHashTable`].
const HALF_OF_HASH_TABLE_MAX: i64 = 262_144;

const fn version(major: u16, minor: u16) -> KernelVersion {
    KernelVersion::new(major, minor)
}

impl Sysctl {
    /// The row of the catalogue.
    pub fn facts(self) -> Facts {
        match self {
            Self::OrphanRetries => orphan_retries(),
            Self::MaxOrphans => max_orphans(),
            Self::FinTimeout => fin_timeout(),
            Self::MaxTwBuckets => max_tw_buckets(),
            Self::TwReuse => tw_reuse(),
            Self::TwReuseDelay => tw_reuse_delay(),
            Self::Timestamps => timestamps(),
            Self::TwRecycle => tw_recycle(),
        }
    }

    /// What the kernel starts with on such a machine; `None` where this version has no such file.
    pub fn default_on(self, kernel: KernelVersion, memory_bytes: u64) -> Option<i64> {
        let facts = self.facts();
        if facts.absent_from(kernel) {
            return None;
        }
        Some(match facts.default {
            DefaultValue::Fixed(value) => value,
            DefaultValue::Changed(before, since, after) => {
                if kernel < since {
                    before
                } else {
                    after
                }
            }
            DefaultValue::HalfOfHashTable => {
                let buckets = (memory_bytes.div_ceil(128 * 1024)).next_power_of_two();
                i64::try_from(buckets / 2).unwrap_or(i64::MAX).min(HALF_OF_HASH_TABLE_MAX)
            }
        })
    }

    /// Why there is no such file on this node, in words for a person.
    pub fn why_absent(self, kernel: Option<KernelVersion>, first_namespace: bool) -> String {
        let facts = self.facts();
        let Some(kernel) = kernel else {
            return format!("{self} does not exist on this node, and its kernel's version could not be read");
        };
        if let Some(since) = facts.since.filter(|since| kernel < *since) {
            return format!("{self} exists since Linux {since}; this node runs {kernel}");
        }
        if let Some(removed) = facts.removed.filter(|removed| kernel >= *removed) {
            return format!("{self} was removed from Linux in {removed}; this node runs {kernel}");
        }
        let machine_wide = match facts.scope {
            Scope::Machine => true,
            Scope::Namespace(since) => kernel < since,
        };
        if machine_wide && !first_namespace {
            return format!(
                "{self} is one value for the whole machine and exists in its first network namespace only; \
                 this node runs in another one (a node that is a container, such as kind's)"
            );
        }
        format!("{self} does not exist on this node, although Linux {kernel} should have it")
    }
}

impl Facts {
    /// Whether no kernel of this version has the file.
    pub fn absent_from(&self, kernel: KernelVersion) -> bool {
        self.since.is_some_and(|since| kernel < since)
            || self.removed.is_some_and(|removed| kernel >= removed)
    }
}

fn orphan_retries() -> Facts {
    Facts {
        orderable: U8,
        sensible: 4..=8,
        kernel: U8,
        unit: Unit::Retries,
        default: DefaultValue::Fixed(0),
        scope: Scope::Namespace(version(4, 6)),
        since: ANY_VERSION,
        removed: None,
        does: "How long a connection that its program has closed waits for the peer to acknowledge the FIN (FIN_WAIT1, \
               CLOSING, LAST_ACK). N gives up after between ((2<<N)-1) x 0.2 s and about twice that: 1 is 0.6 to 2.2 s, \
               2 is 1.4 to 3.7 s, 3 is 3 to 6.8 s, 4 is 6.2 to 13.5 s, 8 is 102 to 205 s. 0 means 8 while \
               tcp_rto_max_ms has its default. It acts on sockets that wait already.",
        misbelief: "It is not a count of retransmissions but a span of time, and the default that a file shows is 0, \
                    not 8. With 1, a peer that is alive but has closed its window loses everything queued in 0.8 s.",
        source: "measured on 6.18.44; read in net/ipv4/tcp_timer.c of 6.17; per namespace since c402d9beffb6",
    }
}

fn max_orphans() -> Facts {
    Facts {
        orderable: 1024..=INT_MAX,
        sensible: 16_384..=HALF_OF_HASH_TABLE_MAX,
        kernel: INT,
        unit: Unit::Sockets,
        default: DefaultValue::HalfOfHashTable,
        scope: Scope::Machine,
        since: ANY_VERSION,
        removed: None,
        does: "How many orphans (closed by their program, not yet by the peer) the machine keeps, all its namespaces \
               together. Above it, and above a half or a quarter of it for an orphan that retransmits, an orphan is \
               reset.",
        misbelief: "It exists in the machine's first network namespace only; a pod or a node that is a container cannot \
                    have its own. tcp_mem usually trips first: an orphan can hold 64 KB.",
        source: "read in net/ipv4/tcp.c and sysctl_net_ipv4.c of 4.4 to 7.2; absence in namespaces measured on 6.18.44",
    }
}

fn fin_timeout() -> Facts {
    Facts {
        orderable: 1..=SECONDS_MAX,
        sensible: 10..=60,
        kernel: -SECONDS_MAX..=SECONDS_MAX,
        unit: Unit::Seconds,
        default: DefaultValue::Fixed(60),
        scope: Scope::Namespace(version(4, 6)),
        since: ANY_VERSION,
        removed: None,
        does: "How long a connection that its program has closed waits in FIN_WAIT2 for the peer's FIN. A socket that was \
               only shut down, not closed, is not touched by it.",
        misbelief: "It does not shorten TIME_WAIT, which is 60 s in every kernel. Above 60 it is not monotonic: x gives \
                    2(x-60) s, so 61 is 2 s and 90 is 60 s, and the full socket is kept for half of it.",
        source: "measured on 6.18.44; read in net/ipv4/tcp.c, tcp_timer.c of 4.4 to 7.2; per namespace since 1e579caa18b9",
    }
}

fn max_tw_buckets() -> Facts {
    Facts {
        orderable: 1..=INT_MAX,
        sensible: 16_384..=HALF_OF_HASH_TABLE_MAX,
        kernel: INT,
        unit: Unit::Sockets,
        default: DefaultValue::HalfOfHashTable,
        scope: Scope::Namespace(version(4, 11)),
        since: ANY_VERSION,
        removed: None,
        does: "How many sockets a namespace keeps in TIME_WAIT, those that wait in FIN_WAIT2 after close() included. Above \
               it a connection ends at once, without protection against late segments. One takes 256 to 512 bytes.",
        misbelief: "Raising it does not allow more connections per second: that is ports / 60 s per destination. An overflow \
                    prints no log line; only TCPTimeWaitOverflow counts it. Lowering it ends none that \
                    exist.",
        source: "measured on 6.18.44; read in net/ipv4/inet_timewait_sock.c of 4.4 to 7.2; per namespace since 1946e672c173",
    }
}

fn tw_reuse() -> Facts {
    Facts {
        orderable: 0..=2,
        sensible: 0..=2,
        kernel: 0..=2,
        unit: Unit::Choice,
        default: DefaultValue::Changed(0, version(4, 19), 2),
        scope: Scope::Namespace(version(4, 11)),
        since: ANY_VERSION,
        removed: None,
        does: "Whether connect() may take over a port pair that is in TIME_WAIT: 0 never, 1 always, 2 (since 4.19) only \
               between loopback addresses. Both sides must use TCP timestamps.",
        misbelief: "It helps the side that connects only; a server's TIME_WAIT is not touched by it. It is not \
                    tcp_tw_recycle. The counter TWRecycled counts it.",
        source: "measured on 6.18.44; read in net/ipv4/tcp_ipv4.c of 4.15 to 6.17; 2 since 79e9fed46038",
    }
}

fn tw_reuse_delay() -> Facts {
    Facts {
        orderable: 1..=60_000,
        sensible: 1000..=1000,
        kernel: 1..=60_000,
        unit: Unit::Milliseconds,
        default: DefaultValue::Fixed(1000),
        scope: Scope::Namespace(version(6, 14)),
        since: Some(version(6, 14)),
        removed: None,
        does: "How long a socket must have been in TIME_WAIT before tcp_tw_reuse may take it over.",
        misbelief: "Before 6.14 it is fixed at the next full second. Shorter than the tick of the peer's timestamp clock \
                    (1 to 1000 ms), late segments can no longer be told from new ones.",
        source: "measured on 6.18.44; ca6a6f93867a",
    }
}

fn timestamps() -> Facts {
    Facts {
        orderable: 0..=2,
        sensible: 1..=1,
        kernel: U8,
        unit: Unit::Choice,
        default: DefaultValue::Fixed(1),
        scope: Scope::Namespace(version(4, 13)),
        since: ANY_VERSION,
        removed: None,
        does: "Whether connections carry TCP timestamps: 0 no, 1 with a random offset for each connection, 2 without the \
               offset. New connections only.",
        misbelief: "0 saves nothing worth having and loses protection against wrapped sequence numbers, tcp_tw_reuse, and \
                    exact round-trip times.",
        source: "measured on 6.18.44; headers of 4.11 and 4.13",
    }
}

fn tw_recycle() -> Facts {
    Facts {
        orderable: 0..=1,
        sensible: 0..=0,
        kernel: INT,
        unit: Unit::Choice,
        default: DefaultValue::Fixed(0),
        scope: Scope::Namespace(version(4, 11)),
        since: ANY_VERSION,
        removed: Some(version(4, 12)),
        does: "Ends TIME_WAIT after a few round trips, and in exchange drops every SYN whose timestamp is behind the last one \
               seen from that address.",
        misbelief: "It is no faster tcp_tw_reuse: clients behind one NAT address have different clocks, and all but one of \
                    them time out now and then. Linux removed it in 4.12.",
        source: "read in net/ipv4/tcp_input.c of 4.4.6; removed by 4396e46187ca",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_ordered_is_taken_by_the_kernel_and_holds_what_is_sensible() {
        for sysctl in Sysctl::ALL {
            let facts = sysctl.facts();
            assert!(facts.kernel.contains(facts.orderable.start()), "{sysctl}");
            assert!(facts.kernel.contains(facts.orderable.end()), "{sysctl}");
            assert!(facts.orderable.contains(facts.sensible.start()), "{sysctl}");
            assert!(facts.orderable.contains(facts.sensible.end()), "{sysctl}");
        }
    }

    #[test]
    fn defaults_follow_the_memory() {
        let gib = 1 << 30;
        for (memory, default) in
            [(4, 16_384), (8, 32_768), (16, 65_536), (24, 131_072), (32, 131_072), (256, 262_144)]
        {
            let on = Sysctl::MaxTwBuckets.default_on(KernelVersion::new(6, 18), memory * gib);
            assert_eq!(on, Some(default), "{memory} GiB");
        }
    }

    #[test]
    fn the_default_of_tw_reuse_changed_with_4_19() {
        assert_eq!(Sysctl::TwReuse.default_on(KernelVersion::new(4, 18), 0), Some(0));
        assert_eq!(Sysctl::TwReuse.default_on(KernelVersion::new(4, 19), 0), Some(2));
    }

    #[test]
    fn an_absent_file_is_explained_by_version_then_by_namespace() {
        let modern = Some(KernelVersion::new(6, 18));
        assert_eq!(
            Sysctl::TwRecycle.why_absent(modern, true),
            "net.ipv4.tcp_tw_recycle was removed from Linux in 4.12; this node runs 6.18"
        );
        assert_eq!(
            Sysctl::TwReuseDelay.why_absent(Some(KernelVersion::new(6, 12)), true),
            "net.ipv4.tcp_tw_reuse_delay exists since Linux 6.14; this node runs 6.12"
        );
        assert!(Sysctl::MaxOrphans.why_absent(modern, false).contains("first network namespace only"));
        assert!(
            Sysctl::FinTimeout.why_absent(Some(KernelVersion::new(4, 4)), false).contains("first network")
        );
        assert!(Sysctl::FinTimeout.why_absent(modern, false).ends_with("although Linux 6.18 should have it"));
    }
}
