use super::*;

const KERNEL_4_4: Option<KernelVersion> = Some(KernelVersion::new(4, 4));

#[test]
fn orphan_retries_0_with_low_rto_max() {
    let says = |value, rto_max_ms| {
        let facts = NodeFacts { rto_max_ms, ..node() };
        node_rule("orphan-retries-0-with-low-rto-max", Sysctl::OrphanRetries, value, facts)
    };
    assert_eq!(
        says(0, Some(119_999)),
        refused(
            "net.ipv4.tcp_orphan_retries = 0: 0 means 8 only while tcp_rto_max_ms has its default of 120000; it is 119999 here, \
             and an orphan whose retransmission timeout has grown to that is given up at once: order 8, which does not depend \
             on it. To accept it, add orphan-retries-0-with-low-rto-max to safety.acknowledge"
        )
    );
    assert_eq!(says(0, Some(120_000)), Said::Nothing);
    assert_eq!(says(8, Some(1000)), Said::Nothing);
    assert_eq!(
        says(0, None),
        remarked("net.ipv4.tcp_orphan_retries = 0: not judged, because tcp_rto_max_ms cannot be read")
    );
}

#[test]
fn max_orphans_below_4x_peak() {
    let says = |value| {
        let facts = NodeFacts { orphans: peak(20_000), ..node() };
        node_rule("max-orphans-below-4x-peak", Sysctl::MaxOrphans, value, facts)
    };
    assert_eq!(
        says(79_999),
        refused(
            "net.ipv4.tcp_max_orphans = 79999: 4 x 20000 (in 3 h), the peak of the machine's orphans, is 80000: order that or \
             more, because an orphan that retransmits is reset at a quarter of the limit already; under attack the peak is the \
             attacker's, and you may mean it. To accept it, add max-orphans-below-4x-peak to safety.acknowledge"
        )
    );
    assert_eq!(says(80_000), Said::Nothing);
    assert_eq!(
        node_rule("max-orphans-below-4x-peak", Sysctl::MaxOrphans, 1024, node()),
        Said::Nothing,
        "no peak"
    );
}

#[test]
fn max_orphans_below_current() {
    let says = |now| {
        let facts = NodeFacts { orphans: Watched { now, peak: None }, ..node() };
        node_rule("max-orphans-below-current", Sysctl::MaxOrphans, 40_000, facts)
    };
    assert_eq!(
        says(Some(40_001)),
        refused(
            "net.ipv4.tcp_max_orphans = 40000: the machine has 40001 orphans now, and those above the limit are reset: order \
             more, or find which program leaves them. To accept it, add max-orphans-below-current to safety.acknowledge"
        )
    );
    assert_eq!(says(Some(40_000)), Said::Nothing);
    assert!(matches!(says(None), Said::Remarked(_)));
}

#[test]
fn below_a_quarter_of_the_default() {
    let says = |rule, sysctl, value| node_rule(rule, sysctl, value, node());
    assert_eq!(
        says("max-orphans-below-quarter-of-default", Sysctl::MaxOrphans, 32_767),
        refused(
            "net.ipv4.tcp_max_orphans = 32767: a quarter of this node's default of 131072 is 32768: order that or more: above \
             the limit closing connections are reset. To accept it, add max-orphans-below-quarter-of-default to \
             safety.acknowledge"
        )
    );
    assert_eq!(says("max-orphans-below-quarter-of-default", Sysctl::MaxOrphans, 32_768), Said::Nothing);
    assert_eq!(
        says("max-tw-buckets-below-quarter-of-default", Sysctl::MaxTwBuckets, 5000),
        refused(
            "net.ipv4.tcp_max_tw_buckets = 5000: a quarter of this node's default of 131072 is 32768: order that or more: a lower \
             limit frees no ports that TIME_WAIT holds now, and takes away its protection. To accept it, add \
             max-tw-buckets-below-quarter-of-default to safety.acknowledge"
        )
    );
    assert_eq!(says("max-tw-buckets-below-quarter-of-default", Sysctl::MaxTwBuckets, 32_768), Said::Nothing);
}

#[test]
fn below_the_default() {
    let says = |value| node_rule("max-tw-buckets-below-default", Sysctl::MaxTwBuckets, value, node());
    assert_eq!(
        says(131_071),
        remarked(
            "net.ipv4.tcp_max_tw_buckets = 131071: this node's default is 131072: it frees no ports that TIME_WAIT holds now"
        )
    );
    assert_eq!(says(131_072), Said::Nothing);
    assert_eq!(says(32_767), Said::Nothing, "the caution has said it");
}

#[test]
fn above_the_default() {
    let says = |rule, sysctl, value| node_rule(rule, sysctl, value, node());
    assert_eq!(
        says("max-orphans-above-default", Sysctl::MaxOrphans, 131_073),
        remarked(
            "net.ipv4.tcp_max_orphans = 131073: this node's default is 131072: an orphan can hold 64 KB, so find first why there \
             are so many"
        )
    );
    assert_eq!(says("max-orphans-above-default", Sysctl::MaxOrphans, 131_072), Said::Nothing);
    assert_eq!(
        says("max-tw-buckets-above-default", Sysctl::MaxTwBuckets, 131_073),
        remarked(
            "net.ipv4.tcp_max_tw_buckets = 131073: this node's default is 131072; 28232 local ports allow 470 a second towards \
             one destination: more of them do not allow more connections per second"
        )
    );
    assert_eq!(says("max-tw-buckets-above-default", Sysctl::MaxTwBuckets, 131_072), Said::Nothing);
}

#[test]
fn max_orphans_above_tcp_mem() {
    let says = |value| {
        let facts = NodeFacts { tcp_mem_bytes: Some(2 * GIB), ..node() };
        node_rule("max-orphans-above-tcp-mem", Sysctl::MaxOrphans, value, facts)
    };
    assert_eq!(
        says(32_769),
        remarked(
            "net.ipv4.tcp_max_orphans = 32769: at 64 KB each they take 2048 MiB, and tcp_mem admits 2048 MiB: tcp_mem will be \
             reached first, and orphans are reset then too"
        )
    );
    assert_eq!(says(32_768), Said::Nothing);
}

#[test]
fn max_tw_buckets_below_peak() {
    let says = |value| {
        let facts = NodeFacts { time_wait: peak(60_000), ..node() };
        node_rule("max-tw-buckets-below-peak", Sysctl::MaxTwBuckets, value, facts)
    };
    assert_eq!(
        says(74_999),
        refused(
            "net.ipv4.tcp_max_tw_buckets = 74999: 1.25 x 60000 (in 3 h), the peak of sockets that this limit counts, is 75000: \
             order that or more: above the limit connections end without TIME_WAIT's protection, and no log line says so. To \
             accept it, add max-tw-buckets-below-peak to safety.acknowledge"
        )
    );
    assert_eq!(says(75_000), Said::Nothing);
    assert_eq!(
        node_rule("max-tw-buckets-below-peak", Sysctl::MaxTwBuckets, 1, node()),
        Said::Nothing,
        "no peak"
    );
}

#[test]
fn max_tw_buckets_and_memory() {
    let says = |rule, value| {
        let facts = NodeFacts { memory_bytes: Some(GIB), ..node() };
        node_rule(rule, Sysctl::MaxTwBuckets, value, facts)
    };
    assert_eq!(
        says("max-tw-buckets-over-quarter-of-memory", 524_289),
        refused(
            "net.ipv4.tcp_max_tw_buckets = 524289: at 512 bytes each they take 256 MiB, 26 % of 1024 MiB: order less; each \
             network namespace has this limit for itself. To accept it, add max-tw-buckets-over-quarter-of-memory to \
             safety.acknowledge"
        )
    );
    assert_eq!(says("max-tw-buckets-over-quarter-of-memory", 524_288), Said::Nothing);
    assert_eq!(
        says("max-tw-buckets-share-of-memory", 524_288),
        remarked(
            "net.ipv4.tcp_max_tw_buckets = 524288: at 512 bytes each they take 256 MiB, 25 % of 1024 MiB: that is what it may \
             come to, not what it takes"
        )
    );
    assert_eq!(says("max-tw-buckets-share-of-memory", 524_289), Said::Nothing, "the caution has said it");
    assert_eq!(says("max-tw-buckets-share-of-memory", 20_971), Said::Nothing);
}

#[test]
fn tw_reuse_2_on_old_kernel() {
    let says = |value, minor| {
        let facts = NodeFacts { kernel: Some(KernelVersion::new(4, minor)), ..node() };
        node_rule("tw-reuse-2-on-old-kernel", Sysctl::TwReuse, value, facts)
    };
    assert_eq!(
        says(2, 18),
        refused(
            "net.ipv4.tcp_tw_reuse = 2: before Linux 4.19 2 does not mean loopback addresses only but, as 1 does, every address; \
             this node runs 4.18: order 1 where that is meant, else 0. To accept it, add tw-reuse-2-on-old-kernel to \
             safety.acknowledge"
        )
    );
    assert_eq!((says(2, 19), says(1, 18)), (Said::Nothing, Said::Nothing));
}

#[test]
fn tw_reuse_on_node_without_timestamps() {
    let says = |timestamps| {
        let mut scene = scene(Sysctl::TwReuse, 1);
        scene.live.insert(Sysctl::Timestamps, timestamps);
        scene.says("tw-reuse-on-node-without-timestamps", Sysctl::TwReuse)
    };
    assert_eq!(
        says(Reading::Value(0)),
        remarked(
            "net.ipv4.tcp_tw_reuse = 1: tcp_timestamps is 0 on this node, and without timestamps it has no effect: order \
             tcpTimestamps 1 with it"
        )
    );
    assert_eq!(says(Reading::Value(1)), Said::Nothing);
    assert!(matches!(says(Reading::Absent), Said::Remarked(_)));
    let mut with = scene(Sysctl::TwReuse, 1);
    with.live.insert(Sysctl::Timestamps, Reading::Value(0));
    with.ordered.insert(Sysctl::Timestamps, 1);
    assert_eq!(with.says("tw-reuse-on-node-without-timestamps", Sysctl::TwReuse), Said::Nothing);
}

#[test]
fn tw_reuse_on_accepting_node() {
    let says = |opened, accepted| {
        let facts = NodeFacts { connections: Some(Connections { opened, accepted }), ..node() };
        node_rule("tw-reuse-on-accepting-node", Sysctl::TwReuse, 1, facts)
    };
    assert_eq!(
        says(9, 1000),
        remarked(
            "net.ipv4.tcp_tw_reuse = 1: this node has accepted 1000 connections and opened 9, and only connect() reuses a port: \
             it does no harm there, and does not lower TIME_WAIT"
        )
    );
    assert_eq!((says(10, 1000), says(0, 999)), (Said::Nothing, Said::Nothing));
}

fn recycle(rule: &str, kernel: Option<KernelVersion>, live: Reading, nat: Nat) -> Said {
    let mut scene = scene(Sysctl::TwRecycle, 1);
    scene.word = ClientsBehindNat::Never;
    scene.facts = NodeFacts { kernel, nat, ..node() };
    scene.live.insert(Sysctl::TwRecycle, live);
    scene.says(rule, Sysctl::TwRecycle)
}

#[test]
fn tw_recycle_removed() {
    let modern = recycle("tw-recycle-removed", node().kernel, Reading::Absent, Nat::NotSeen);
    assert_eq!(
        modern,
        refused(
            "net.ipv4.tcp_tw_recycle = 1: net.ipv4.tcp_tw_recycle was removed from Linux in 4.12; this node runs 6.18: remove it \
             from the tuning; tcpTwReuse is the safe relative for nodes that connect"
        )
    );
    assert_eq!(recycle("tw-recycle-removed", KERNEL_4_4, Reading::Value(0), Nat::NotSeen), Said::Nothing);
}

#[test]
fn tw_recycle_nat_seen() {
    let seen = Nat::Seen("connection tracker: source 10.77.0.50 is rewritten to 10.77.0.1".into());
    assert_eq!(
        recycle("tw-recycle-nat-seen", KERNEL_4_4, Reading::Value(0), seen),
        refused(
            "net.ipv4.tcp_tw_recycle = 1: clients are behind NAT, and all but one of them behind each address would time out \
             (connection tracker: source 10.77.0.50 is rewritten to 10.77.0.1): remove it from the tuning, whatever \
             safety.clientsBehindNat says"
        )
    );
    assert_eq!(recycle("tw-recycle-nat-seen", KERNEL_4_4, Reading::Value(0), Nat::NotSeen), Said::Nothing);
}

#[test]
fn tw_recycle_nat_unknown() {
    let unknown = Nat::Unknown("no connection tracker is loaded".into());
    assert_eq!(
        recycle("tw-recycle-nat-unknown", KERNEL_4_4, Reading::Value(0), unknown),
        refused(
            "net.ipv4.tcp_tw_recycle = 1: whether clients are behind NAT is unknown (no connection tracker is loaded), and \
             unknown counts as unsafe: remove it from the tuning"
        )
    );
    assert_eq!(recycle("tw-recycle-nat-unknown", KERNEL_4_4, Reading::Value(0), Nat::NotSeen), Said::Nothing);
}

#[test]
fn tw_recycle_nothing_seen() {
    assert_eq!(
        recycle("tw-recycle-nothing-seen", KERNEL_4_4, Reading::Value(0), Nat::NotSeen),
        refused(
            "net.ipv4.tcp_tw_recycle = 1: no client of this node is declared or seen to be behind NAT, but a NAT that is far from \
             the node cannot be seen from it, and one that comes later cuts off clients without a trace: remove it from the \
             tuning; tcpTwReuse is the safe relative for nodes that connect. To accept it, add tw-recycle-nothing-seen to \
             safety.acknowledge"
        )
    );
    assert_eq!(
        recycle("tw-recycle-nothing-seen", node().kernel, Reading::Absent, Nat::NotSeen),
        Said::Nothing
    );
}
