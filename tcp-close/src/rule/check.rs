//! Rules that look at the node: each takes a value with the node's facts, and answers with the numbers that decide.

use crate::Sysctl;
use crate::kernel::{KernelVersion, Nat, Peak, RTO_MAX_MS_DEFAULT};
use crate::order::Reading;

use super::{Answer, Case};

/// What one TIME_WAIT socket of a connecting node takes at most, bytes: a mini-socket of 256 and two port buckets of 128.
/// Measured on 6.18.44; on the accepting side it is 256.
const TIME_WAIT_BYTES: u64 = 512;
/// What an orphan can hold, bytes. The figure of the kernel's own documentation; 120 KB were seen once.
const ORPHAN_BYTES: u64 = 64 * 1024;
/// An orphan that retransmits into nothing is compared with a quarter of tcp_max_orphans.
const ORPHAN_HEADROOM: u64 = 4;
/// A node that opened less than one connection for each so many that it accepted only accepts ...
const ACCEPTS_PER_OPEN: u64 = 100;
/// ... once it has accepted this many.
const ACCEPTS_MIN: u64 = 1000;
/// The first kernel for which 2 means "between loopback addresses only".
const TW_REUSE_LOOPBACK_SINCE: KernelVersion = KernelVersion::new(4, 19);
/// How long a port is in TIME_WAIT, seconds, in every kernel.
const TIME_WAIT_SECONDS: u64 = 60;

pub(super) fn orphan_retries_0_with_low_rto_max(case: &Case<'_>) -> Answer {
    match case.facts.rto_max_ms {
        _ if case.value != 0 => Answer::Kept,
        None => unknown("tcp_rto_max_ms cannot be read"),
        Some(ms) if ms >= RTO_MAX_MS_DEFAULT => Answer::Kept,
        Some(ms) => Answer::Broken(format!(
            "0 means 8 only while tcp_rto_max_ms has its default of {RTO_MAX_MS_DEFAULT}; it is {ms} here, and an orphan whose \
             retransmission timeout has grown to that is given up at once"
        )),
    }
}

pub(super) fn max_orphans_below_peak(case: &Case<'_>) -> Answer {
    below_peak(case.value, case.facts.orphans.peak, |peak| {
        let least = peak.count.saturating_mul(ORPHAN_HEADROOM);
        (least, format!("{ORPHAN_HEADROOM} x {peak}, the peak of the machine's orphans, is {least}"))
    })
}

pub(super) fn max_orphans_below_current(case: &Case<'_>) -> Answer {
    match case.facts.orphans.now {
        None => unknown("the machine's orphans cannot be counted"),
        Some(now) if number(case.value) < now => {
            Answer::Broken(format!("the machine has {now} orphans now, and those above the limit are reset"))
        }
        Some(_) => Answer::Kept,
    }
}

pub(super) fn max_tw_buckets_below_peak(case: &Case<'_>) -> Answer {
    below_peak(case.value, case.facts.time_wait.peak, |peak| {
        let least = peak.count.saturating_mul(5).div_ceil(4);
        (least, format!("1.25 x {peak}, the peak of sockets that this limit counts, is {least}"))
    })
}

/// No peak, no rule: an agent that has just started must be able to tune.
fn below_peak(value: i64, peak: Option<Peak>, least: impl Fn(Peak) -> (u64, String)) -> Answer {
    let Some((least, evidence)) = peak.map(least) else { return Answer::Kept };
    if number(value) < least { Answer::Broken(evidence) } else { Answer::Kept }
}

pub(super) fn below_quarter_of_default(case: &Case<'_>) -> Answer {
    compare_with_default(case, |value, default| {
        (value < default / 4)
            .then(|| format!("a quarter of this node's default of {default} is {}", default / 4))
    })
}

pub(super) fn below_default(case: &Case<'_>) -> Answer {
    compare_with_default(case, |value, default| {
        let noted = value < default && value >= default / 4;
        noted.then(|| format!("this node's default is {default}"))
    })
}

pub(super) fn max_orphans_above_default(case: &Case<'_>) -> Answer {
    compare_with_default(case, |value, default| {
        (value > default).then(|| format!("this node's default is {default}"))
    })
}

pub(super) fn max_tw_buckets_above_default(case: &Case<'_>) -> Answer {
    let ports = case.facts.local_ports.map(|(low, high)| u64::from(high.saturating_sub(low)) + 1);
    compare_with_default(case, |value, default| {
        let rate = ports.map(|ports| {
            format!(
                "; {ports} local ports allow {} a second towards one destination",
                ports / TIME_WAIT_SECONDS
            )
        });
        (value > default).then(|| format!("this node's default is {default}{}", rate.unwrap_or_default()))
    })
}

/// Compares with what the kernel of this node starts with, which follows its memory.
fn compare_with_default(case: &Case<'_>, broken: impl Fn(i64, i64) -> Option<String>) -> Answer {
    let facts = case.facts;
    let default = facts.kernel.zip(facts.memory_bytes);
    match default.and_then(|(kernel, memory)| case.sysctl.default_on(kernel, memory)) {
        None => unknown("the node's memory or kernel version cannot be read"),
        Some(default) => broken(case.value, default).map_or(Answer::Kept, Answer::Broken),
    }
}

pub(super) fn max_orphans_above_tcp_mem(case: &Case<'_>) -> Answer {
    match case.facts.tcp_mem_bytes {
        None => unknown("tcp_mem cannot be read"),
        Some(tcp_mem) if number(case.value).saturating_mul(ORPHAN_BYTES) > tcp_mem => {
            Answer::Broken(format!(
                "at {} KB each they take {}, and tcp_mem admits {}",
                ORPHAN_BYTES / 1024,
                mebibytes(number(case.value).saturating_mul(ORPHAN_BYTES)),
                mebibytes(tcp_mem)
            ))
        }
        Some(_) => Answer::Kept,
    }
}

pub(super) fn max_tw_buckets_over_quarter_of_memory(case: &Case<'_>) -> Answer {
    share_of_memory(case, |percent| percent > 25)
}

pub(super) fn max_tw_buckets_share_of_memory(case: &Case<'_>) -> Answer {
    share_of_memory(case, |percent| (2..=25).contains(&percent))
}

fn share_of_memory(case: &Case<'_>, broken: impl Fn(u64) -> bool) -> Answer {
    let Some(memory) = case.facts.memory_bytes.filter(|bytes| *bytes > 0) else {
        return unknown("the node's memory cannot be read");
    };
    let bytes = number(case.value).saturating_mul(TIME_WAIT_BYTES);
    // Rounded up: 25.1 % is more than a quarter.
    let percent = bytes.saturating_mul(100).div_ceil(memory);
    let evidence = || {
        let (bytes, memory) = (mebibytes(bytes), mebibytes(memory));
        format!("at {TIME_WAIT_BYTES} bytes each they take {bytes}, {percent} % of {memory}")
    };
    if broken(percent) { Answer::Broken(evidence()) } else { Answer::Kept }
}

pub(super) fn tw_reuse_2_on_old_kernel(case: &Case<'_>) -> Answer {
    match case.facts.kernel {
        _ if case.value != 2 => Answer::Kept,
        None => unknown("the kernel's version cannot be read"),
        Some(kernel) if kernel < TW_REUSE_LOOPBACK_SINCE => Answer::Broken(format!(
            "before Linux {TW_REUSE_LOOPBACK_SINCE} 2 does not mean loopback addresses only but, as 1 does, every address; \
             this node runs {kernel}"
        )),
        Some(_) => Answer::Kept,
    }
}

pub(super) fn tw_reuse_on_node_without_timestamps(case: &Case<'_>) -> Answer {
    let ordered = case.ordered.get(&Sysctl::Timestamps).copied();
    let timestamps = ordered.or_else(|| case.live.get(&Sysctl::Timestamps).and_then(Reading::value));
    match timestamps {
        _ if case.value != 1 => Answer::Kept,
        None => unknown("tcp_timestamps cannot be read"),
        Some(0) => {
            Answer::Broken("tcp_timestamps is 0 on this node, and without timestamps it has no effect".into())
        }
        Some(_) => Answer::Kept,
    }
}

pub(super) fn tw_reuse_on_accepting_node(case: &Case<'_>) -> Answer {
    match case.facts.connections {
        _ if case.value != 1 => Answer::Kept,
        None => unknown("the connections of this node cannot be counted"),
        Some(made) if made.accepted >= ACCEPTS_MIN && made.opened < made.accepted / ACCEPTS_PER_OPEN => {
            Answer::Broken(format!(
                "this node has accepted {} connections and opened {}, and only connect() reuses a port",
                made.accepted, made.opened
            ))
        }
        Some(_) => Answer::Kept,
    }
}

/// The user's word has been judged by another rule.
pub(super) fn tw_recycle_removed(case: &Case<'_>) -> Answer {
    if case.value == 0 || *case.reading() != Reading::Absent {
        return Answer::Kept;
    }
    Answer::Broken(Sysctl::TwRecycle.why_absent(case.facts.kernel, case.facts.first_namespace))
}

pub(super) fn tw_recycle_nat_seen(case: &Case<'_>) -> Answer {
    match &case.facts.nat {
        Nat::Seen(evidence) if recycles(case) => Answer::Broken(format!(
            "clients are behind NAT, and all but one of them behind each address would time out ({evidence})"
        )),
        _ => Answer::Kept,
    }
}

pub(super) fn tw_recycle_nat_unknown(case: &Case<'_>) -> Answer {
    match &case.facts.nat {
        Nat::Unknown(why) if recycles(case) => Answer::Broken(format!(
            "whether clients are behind NAT is unknown ({why}), and unknown counts as unsafe"
        )),
        _ => Answer::Kept,
    }
}

pub(super) fn tw_recycle_nothing_seen(case: &Case<'_>) -> Answer {
    match &case.facts.nat {
        Nat::NotSeen if recycles(case) => Answer::Broken(
            "no client of this node is declared or seen to be behind NAT, but a NAT that is far from the node cannot be seen \
             from it, and one that comes later cuts off clients without a trace"
                .into(),
        ),
        _ => Answer::Kept,
    }
}

/// Whether the kernel would do it.
fn recycles(case: &Case<'_>) -> bool {
    case.value != 0 && *case.reading() != Reading::Absent
}

fn unknown(what: &str) -> Answer {
    Answer::Unknown(what.into())
}

/// Bounds of the catalogue have kept negative values out.
fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}
