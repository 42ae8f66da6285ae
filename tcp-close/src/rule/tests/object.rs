use super::*;

#[test]
fn out_of_bounds() {
    let said = refused("net.ipv4.tcp_fin_timeout = 0: outside of what may be ordered, 1 to 2147483");
    object_rule("out-of-bounds", Sysctl::FinTimeout, &[0, -1, 2_147_484], &[1, 60, 2_147_483], &said);
    for (sysctl, fires, silent) in [
        (Sysctl::OrphanRetries, [-1, 256], [0, 255]),
        (Sysctl::MaxOrphans, [1023, 1 << 31], [1024, i64::from(i32::MAX)]),
        (Sysctl::MaxTwBuckets, [0, 1 << 31], [1, i64::from(i32::MAX)]),
        (Sysctl::TwReuse, [-1, 3], [0, 2]),
        (Sysctl::TwReuseDelay, [0, 60_001], [1, 60_000]),
        (Sysctl::Timestamps, [-1, 3], [0, 2]),
        (Sysctl::TwRecycle, [-1, 2], [0, 1]),
    ] {
        for value in fires {
            assert!(
                matches!(scene(sysctl, value).says("out-of-bounds", sysctl), Said::Refused(_)),
                "{sysctl} {value}"
            );
        }
        for value in silent {
            assert_eq!(scene(sysctl, value).says("out-of-bounds", sysctl), Said::Nothing, "{sysctl} {value}");
        }
    }
}

#[test]
fn fin_timeout_61_to_89() {
    let said = refused(
        "net.ipv4.tcp_fin_timeout = 61: from 61 to 89 the kernel keeps FIN_WAIT2 for 2 x (value - 60) seconds, less than 60: \
         order those seconds directly (1 to 60), or 90 and more",
    );
    object_rule("fin-timeout-61-to-89", Sysctl::FinTimeout, &[61, 89], &[60, 90], &said);
}

#[test]
fn fin_timeout_below_5() {
    let said = refused(
        "net.ipv4.tcp_fin_timeout = 4: a peer that takes longer than this to close its side is answered with a reset, and \
         loses what it still sends: order 5 or more; 10 to 60 is ordinary. To accept it, add fin-timeout-below-5 to \
         safety.acknowledge",
    );
    object_rule("fin-timeout-below-5", Sysctl::FinTimeout, &[4, 1], &[5, 0], &said);
}

#[test]
fn fin_timeout_above_120() {
    let said = refused(
        "net.ipv4.tcp_fin_timeout = 121: the full socket is kept for (value - 60) s as an orphan, which counts against \
         tcp_max_orphans, and a mini-socket for as long again: order 120 or less; 10 to 60 is ordinary. To accept it, add \
         fin-timeout-above-120 to safety.acknowledge",
    );
    object_rule("fin-timeout-above-120", Sysctl::FinTimeout, &[121, 2_147_483], &[120], &said);
}

#[test]
fn fin_timeout_5_to_9() {
    let said = remarked(
        "net.ipv4.tcp_fin_timeout = 5: peers that need longer to close their side are answered with a reset: 10 to 60 is \
         ordinary",
    );
    object_rule("fin-timeout-5-to-9", Sysctl::FinTimeout, &[5, 9], &[4, 10], &said);
}

#[test]
fn fin_timeout_is_not_time_wait() {
    let said = remarked(
        "net.ipv4.tcp_fin_timeout = 9: it does not shorten TIME_WAIT, which is 60 s in every kernel; it ends FIN_WAIT2, where \
         the peer has not closed: where ports run out on a connecting node, tcpTwReuse 1 helps",
    );
    object_rule("fin-timeout-is-not-time-wait", Sysctl::FinTimeout, &[9, 1], &[10, 60], &said);
}

#[test]
fn fin_timeout_90_to_120() {
    let said = remarked(
        "net.ipv4.tcp_fin_timeout = 90: above 60 FIN_WAIT2 lasts 2 x (value - 60) s, and half of that the full socket is kept \
         as an orphan: 10 to 60 is ordinary",
    );
    object_rule("fin-timeout-90-to-120", Sysctl::FinTimeout, &[90, 120], &[89, 121], &said);
}

#[test]
fn orphan_retries_1() {
    let said = refused(
        "net.ipv4.tcp_orphan_retries = 1: a peer that is alive but has closed its window for a moment loses everything that is \
         queued for it, after 0.8 s: order 4 to 8; from 2 on that peer loses nothing. To accept it, add orphan-retries-1 to \
         safety.acknowledge",
    );
    object_rule("orphan-retries-1", Sysctl::OrphanRetries, &[1], &[0, 2], &said);
}

#[test]
fn orphan_retries_2() {
    let said = refused(
        "net.ipv4.tcp_orphan_retries = 2: an orphan is given up after 1.4 to 3.7 s, so that one lost packet on a slow path \
         loses what was queued, and the peer hangs without a reset: order 4 to 8. To accept it, add orphan-retries-2 to \
         safety.acknowledge",
    );
    object_rule("orphan-retries-2", Sysctl::OrphanRetries, &[2], &[1, 3], &said);
}

#[test]
fn orphan_retries_above_15() {
    let said = refused(
        "net.ipv4.tcp_orphan_retries = 16: an orphan holds its memory for a quarter of an hour and more: order 4 to 8; the \
         kernel's own default means 8. To accept it, add orphan-retries-above-15 to safety.acknowledge",
    );
    object_rule("orphan-retries-above-15", Sysctl::OrphanRetries, &[16, 255], &[15], &said);
}

#[test]
fn orphan_retries_3() {
    let said = remarked(
        "net.ipv4.tcp_orphan_retries = 3: it is a span of time, not a count: 3 to 6.8 s, and at a round trip of 10 ms the same \
         as 2: 4 to 8 is ordinary",
    );
    object_rule("orphan-retries-3", Sysctl::OrphanRetries, &[3], &[2, 4], &said);
}

#[test]
fn orphan_retries_0() {
    let said = remarked(
        "net.ipv4.tcp_orphan_retries = 0: 0 is the kernel's default and means 8: an orphan is given up after 102 to 205 s, not \
         at once: say 8 where that is meant",
    );
    object_rule("orphan-retries-0", Sysctl::OrphanRetries, &[0], &[1], &said);
}

#[test]
fn orphan_retries_9_to_15() {
    let said = remarked(
        "net.ipv4.tcp_orphan_retries = 9: each step doubles the time: 9 is at least 204 s, 15 is at least 924 s by the kernel's \
         table of time-outs: 4 to 8 is ordinary",
    );
    object_rule("orphan-retries-9-to-15", Sysctl::OrphanRetries, &[9, 15], &[8, 16], &said);
}

#[test]
fn tw_reuse_without_timestamps() {
    let with = |timestamps| {
        let mut scene = scene(Sysctl::TwReuse, 1);
        scene.ordered.insert(Sysctl::Timestamps, timestamps);
        scene.says("tw-reuse-without-timestamps", Sysctl::TwReuse)
    };
    assert_eq!(
        with(0),
        refused(
            "net.ipv4.tcp_tw_reuse = 1: tcpTwReuse 1 has no effect while tcpTimestamps is 0: set tcpTimestamps to 1, or \
             tcpTwReuse to 0. To accept it, add tw-reuse-without-timestamps to safety.acknowledge"
        )
    );
    assert_eq!(with(1), Said::Nothing);
    assert_eq!(scene(Sysctl::TwReuse, 1).says("tw-reuse-without-timestamps", Sysctl::TwReuse), Said::Nothing);
}

#[test]
fn tw_reuse_delay_below_1000() {
    let said = refused(
        "net.ipv4.tcp_tw_reuse_delay = 999: shorter than the tick of the peer's timestamp clock (1 to 1000 ms) late segments \
         cannot be told from new ones: order 1000, which is the default. To accept it, add tw-reuse-delay-below-1000 to \
         safety.acknowledge",
    );
    object_rule("tw-reuse-delay-below-1000", Sysctl::TwReuseDelay, &[999, 1], &[1000], &said);
}

#[test]
fn tw_reuse_delay_above_1000() {
    let said = remarked(
        "net.ipv4.tcp_tw_reuse_delay = 1001: a port can be reused that much later only, so fewer connections a second towards \
         one destination: 1000 is the default",
    );
    object_rule("tw-reuse-delay-above-1000", Sysctl::TwReuseDelay, &[1001, 60_000], &[1000], &said);
}

#[test]
fn timestamps_off() {
    let said = refused(
        "net.ipv4.tcp_timestamps = 0: without timestamps there is no protection against wrapped sequence numbers, no \
         tcp_tw_reuse, and no exact round-trip time: order 1, which is the default; 12 bytes per segment is all that 0 saves. To \
         accept it, add timestamps-off to safety.acknowledge",
    );
    object_rule("timestamps-off", Sysctl::Timestamps, &[0], &[1, 2], &said);
}

#[test]
fn timestamps_2() {
    let said = remarked(
        "net.ipv4.tcp_timestamps = 2: timestamps without a random offset tell everybody how long the machine has been up: 1 is \
         the default; 2 is for peers that still run tcp_tw_recycle",
    );
    object_rule("timestamps-2", Sysctl::Timestamps, &[2], &[0, 1], &said);
}

#[test]
fn tw_recycle_without_word() {
    let said = refused(
        "net.ipv4.tcp_tw_recycle = 1: tcpTwRecycle 1 cuts off clients behind NAT: remove it (tcpTwReuse is the safe relative), \
         or, for kernels before 4.12 whose clients are never behind NAT, set safety.clientsBehindNat to Never",
    );
    object_rule("tw-recycle-without-word", Sysctl::TwRecycle, &[1], &[0], &said);
    let never = Scene { word: ClientsBehindNat::Never, ..scene(Sysctl::TwRecycle, 1) };
    assert_eq!(never.says("tw-recycle-without-word", Sysctl::TwRecycle), Said::Nothing);
}
