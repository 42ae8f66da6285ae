use crds::node::{Conntrack, PairUse, PodCounts, Pods, Ports, Sockets, Sockstat};

use super::*;

/// A node that has answered its order, with nothing closing.
fn quiet() -> TcpCloseNodeStatus {
    TcpCloseNodeStatus {
        observed_generation: 2,
        sockets: Some(Sockets::default()),
        sockstat: Some(Sockstat::default()),
        rates: Some(Rates { overflows: Some(0), aborts_on_memory: Some(0), ..Rates::default() }),
        pods: Some(Pods::default()),
        ..TcpCloseNodeStatus::default()
    }
}

fn quiet_but(change: impl FnOnce(&mut TcpCloseNodeStatus)) -> TcpCloseNodeStatus {
    let mut status = quiet();
    change(&mut status);
    status
}

fn own_time_wait(time_wait: u64) -> TcpCloseNodeStatus {
    quiet_but(|status| status.sockets.as_mut().unwrap().states.time_wait = time_wait)
}

fn with_pods(pods: Vec<PodCounts>) -> TcpCloseNodeStatus {
    quiet_but(|status| status.pods.as_mut().unwrap().most = pods)
}

fn pod(name: &str, fast: u64) -> PodCounts {
    PodCounts {
        namespace: Some("shop".into()),
        name: Some(name.into()),
        time_wait_and_fin_wait2: fast,
        ..PodCounts::default()
    }
}

fn row(sysctl: Sysctl, state: &str, live: i64) -> SysctlStatus {
    let name = sysctl.name().into();
    SysctlStatus { name, state: state.into(), live: Some(live), ..SysctlStatus::default() }
}

/// While everything moves: nothing was so a moment ago.
fn of(written: &TcpCloseNodeStatus, status: &TcpCloseNodeStatus) -> Urgency {
    urgency(Some(written), None, status)
}

// What is worth a write.

#[test]
fn the_answer_to_an_order_is_urgent_and_so_is_the_first_report() {
    let older = quiet_but(|status| status.observed_generation = 1);
    assert_eq!(of(&older, &quiet()), Urgency::Now);
    assert_eq!(urgency(None, None, &quiet()), Urgency::Now);
}

#[test]
fn a_sysctl_that_changes_its_state_is_reported_soon() {
    let applied = quiet_but(|status| status.sysctls = vec![row(Sysctl::FinTimeout, "Applied", 30)]);
    let failed = quiet_but(|status| status.sysctls = vec![row(Sysctl::FinTimeout, "Failed", 30)]);
    assert_eq!((of(&applied, &failed), of(&applied, &applied)), (Urgency::Soon, Urgency::Heartbeat));
}

#[test]
fn a_number_that_moves_in_a_message_is_no_reason_to_write() {
    let saying = |words: &str| {
        let remarks = vec![Remark { rule: "a-rule".into(), message: words.into() }];
        let message = Some(words.into());
        let row = SysctlStatus { message, remarks, ..row(Sysctl::FinTimeout, "Refused", 60) };
        quiet_but(|status| status.sysctls = vec![row])
    };
    let written = saying("the machine has 40001 orphans now");
    assert_eq!(of(&written, &saying("the machine has 40002 orphans now")), Urgency::Heartbeat);
    let mut silent = saying("the machine has 40001 orphans now");
    silent.sysctls[0].remarks.clear();
    assert_eq!(of(&written, &silent), Urgency::Soon, "the remark is gone");
}

#[test]
fn a_count_is_material_beyond_a_tenth_and_a_hundred() {
    for (old, new, expected) in [
        (0, 100, Urgency::Heartbeat),
        (0, 101, Urgency::Counts),
        (10_000, 11_000, Urgency::Heartbeat),
        (10_000, 11_001, Urgency::Counts),
        (10_000, 8_999, Urgency::Counts),
    ] {
        assert_eq!(of(&own_time_wait(old), &own_time_wait(new)), expected, "{old} -> {new}");
    }
}

#[test]
fn the_pods_sum_and_each_listed_pods_own_figures_are_material() {
    let sum = |count| quiet_but(|status| status.pods.as_mut().unwrap().time_wait_and_fin_wait2 = Some(count));
    assert_eq!(of(&sum(5000), &sum(6000)), Urgency::Counts);
    // One gains what the other loses: the sum stands still.
    let (before, after) = (vec![pod("a", 900), pod("b", 100)], vec![pod("a", 100), pod("b", 900)]);
    assert_eq!(of(&with_pods(before.clone()), &with_pods(after)), Urgency::Counts);
    assert_eq!(of(&with_pods(before), &with_pods(vec![pod("b", 100), pod("a", 900)])), Urgency::Heartbeat);
}

#[test]
fn a_pod_that_leaks_is_material_although_it_has_no_time_wait() {
    let leaking = |close_wait| {
        let states = Some(States { close_wait, ..States::default() });
        with_pods(vec![PodCounts { states, ..pod("a", 0) }])
    };
    assert_eq!(of(&leaking(0), &leaking(101)), Urgency::Counts);
    assert_eq!(of(&leaking(500), &with_pods(vec![])), Urgency::Counts, "it has ended");
}

#[test]
fn pods_without_a_name_count_together() {
    let unnamed = |fast| PodCounts { namespace: None, name: None, ..pod("", fast) };
    let written = with_pods(vec![unnamed(600), unnamed(60)]);
    assert_eq!(of(&written, &with_pods(vec![unnamed(60), unnamed(600)])), Urgency::Heartbeat);
    assert_eq!(of(&written, &with_pods(vec![unnamed(600), unnamed(360)])), Urgency::Counts);
}

fn time(second: i64) -> Time {
    Time(jiff::Timestamp::from_second(second).unwrap())
}

/// So many in TIME_WAIT and in CLOSE_WAIT, counted in this second.
fn counted_at(at: i64, time_wait: u64, close_wait: u64) -> TcpCloseNodeStatus {
    quiet_but(|status| {
        let states = States { time_wait, close_wait, measured_at: Some(time(at)), ..States::default() };
        status.sockets.as_mut().unwrap().states = states;
    })
}

#[test]
fn a_small_difference_is_worth_a_write_once_it_rests() {
    let (written, earlier) = (counted_at(1, 1000, 0), counted_at(5, 1004, 0));
    let to = |present| urgency(Some(&written), Some(&earlier), &present);
    assert_eq!(to(counted_at(10, 1003, 0)), Urgency::Heartbeat, "it moves");
    assert_eq!(to(counted_at(10, 1004, 0)), Urgency::Counts);
    assert_eq!(to(counted_at(5, 1004, 0)), Urgency::Heartbeat, "it was not read again since");
    let (written, present) = (counted_at(5, 1004, 0), counted_at(10, 1004, 0));
    assert_eq!(urgency(Some(&written), Some(&earlier), &present), Urgency::Heartbeat, "it is written");
}

#[test]
fn a_difference_that_rests_is_seen_although_others_move() {
    let (written, earlier) = (counted_at(1, 500, 0), counted_at(5, 510, 3));
    let to = |present| urgency(Some(&written), Some(&earlier), &present);
    assert_eq!(to(counted_at(10, 520, 3)), Urgency::Counts);
    assert_eq!(to(counted_at(10, 520, 4)), Urgency::Heartbeat);
}

#[test]
fn each_pods_states_rest_by_their_own_age() {
    let leaking = |close_wait, at, pods_at| {
        let states = Some(States { close_wait, measured_at: Some(time(at)), ..States::default() });
        let mut leaking = with_pods(vec![PodCounts { states, ..pod("a", 0) }]);
        leaking.pods.as_mut().unwrap().measured_at = Some(time(pods_at));
        leaking
    };
    let (written, earlier) = (leaking(0, 1, 1), leaking(7, 60, 60));
    let to = |present| urgency(Some(&written), Some(&earlier), &present);
    assert_eq!(to(leaking(7, 60, 65)), Urgency::Heartbeat, "its turn has not come again");
    assert_eq!(to(leaking(7, 120, 120)), Urgency::Counts);
}

#[test]
fn an_overflow_that_begins_is_reported_at_once_and_one_that_goes_on_is_not() {
    let overflowing = |rate| quiet_but(|status| status.rates.as_mut().unwrap().overflows = Some(rate));
    let aborting = |rate| quiet_but(|status| status.rates.as_mut().unwrap().aborts_on_memory = Some(rate));
    let in_pod = |rate| with_pods(vec![PodCounts { overflows_per_minute: Some(rate), ..pod("a", 0) }]);
    for begins in [overflowing(1), aborting(1), in_pod(1)] {
        assert_eq!(of(&quiet(), &begins), Urgency::Now);
    }
    assert_eq!(of(&overflowing(1), &overflowing(9000)), Urgency::Heartbeat);
    assert_eq!(of(&in_pod(1), &in_pod(9000)), Urgency::Heartbeat);
    assert_eq!(of(&overflowing(1), &aborting(1)), Urgency::Now, "another kind begins");
    assert_eq!(of(&overflowing(1), &quiet()), Urgency::Heartbeat, "it has ended");
}

#[test]
fn each_threshold_of_each_limit_is_material_when_it_is_crossed() {
    let tw = |count: u64| {
        quiet_but(|status| {
            status.sockstat = Some(Sockstat { time_wait_and_fin_wait2: count, measured_at: None });
            status.sysctls = vec![row(Sysctl::MaxTwBuckets, "Applied", 1000)];
        })
    };
    let orphans = |count: u64| {
        quiet_but(|status| {
            status.sockets.as_mut().unwrap().machine_orphans = count;
            status.sysctls = vec![row(Sysctl::MaxOrphans, "Applied", 1000)];
        })
    };
    let conntrack = |entries| quiet_but(|status| status.conntrack = Some(Conntrack { entries, max: 1000 }));
    let ports = |count: u64| {
        let pair =
            |used| PairUse { source: None, destination: None, destination_port: 80, used, available: 1000 };
        let pairs = vec![pair(3), pair(u32::try_from(count).unwrap())];
        quiet_but(|status| status.ports = Some(Ports { pairs, ..Ports::default() }))
    };
    let of_count: [&dyn Fn(u64) -> TcpCloseNodeStatus; 4] = [&tw, &orphans, &conntrack, &ports];
    for (limit, with) in of_count.into_iter().enumerate() {
        for (old, new, expected) in [
            (799, 800, Urgency::Counts),
            (800, 799, Urgency::Counts),
            (999, 1000, Urgency::Counts),
            (800, 850, Urgency::Heartbeat),
            (1000, 1001, Urgency::Heartbeat),
        ] {
            assert_eq!(of(&with(old), &with(new)), expected, "limit {limit}: {old} -> {new}");
        }
    }
}

#[test]
fn a_limit_that_nobody_knows_is_not_crossed() {
    let conntrack = quiet_but(|status| status.conntrack = Some(Conntrack { entries: 9, max: 10 }));
    assert_eq!(of(&quiet(), &conntrack), Urgency::Heartbeat);
}

#[test]
fn rates_and_ages_tick_and_are_no_reason_to_write() {
    let ticking = |seconds: u32| {
        let second = Some(time(seconds.into()));
        let mut status = with_pods(vec![pod("a", 5)]);
        status.reported_at = second.clone();
        status.sockets.as_mut().unwrap().states.measured_at = second.clone();
        status.sockstat.as_mut().unwrap().measured_at = second.clone();
        status.pods.as_mut().unwrap().measured_at = second;
        status.rates = Some(Rates { seconds, connects: Some(seconds.into()), ..Rates::default() });
        status.conntrack = Some(Conntrack { entries: seconds.into(), max: 262_144 });
        status
    };
    let (written, present) = (ticking(1), ticking(5000));
    assert_eq!(urgency(Some(&written), Some(&present), &present), Urgency::Heartbeat);
}

#[test]
fn what_becomes_known_or_unknown_is_reported_soon() {
    assert_eq!(of(&quiet(), &quiet_but(|status| status.sockets = None)), Urgency::Soon);
    assert_eq!(of(&quiet(), &quiet_but(|status| status.sockstat = None)), Urgency::Soon);
    let unknown = quiet_but(|status| status.pods.as_mut().unwrap().unknown = Some("hidepid".into()));
    assert_eq!((of(&quiet(), &unknown), of(&unknown, &quiet())), (Urgency::Soon, Urgency::Soon));
}

// When it is written.

const INTERVAL: Duration = Duration::from_secs(20);

/// The pace of an order that says nothing of counts.
fn pace(interval: Duration, node: &str) -> Pace<'_> {
    Pace { interval, counts: if interval == INTERVAL { PAUSE } else { interval }, node }
}

/// Whether it is due so many seconds after a write, of an agent that has lived long.
fn due(urgency: Urgency, seconds: u64, pace: Pace<'_>) -> bool {
    let since = Duration::from_secs(seconds);
    pace.is_due(urgency, Duration::from_secs(1000) + since, since)
}

#[test]
fn an_answer_goes_out_at_once_and_a_changed_state_after_a_pause() {
    for interval in [INTERVAL, Duration::from_secs(300)] {
        let due = |urgency, seconds| due(urgency, seconds, pace(interval, "node-1"));
        assert!(due(Urgency::Now, 0));
        assert_eq!((due(Urgency::Soon, 4), due(Urgency::Soon, 5)), (false, true));
    }
}

#[test]
fn counts_are_written_soon_in_a_small_fleet_and_with_the_heartbeat_in_a_large_one() {
    let small = |seconds| due(Urgency::Counts, seconds, pace(INTERVAL, "node-1"));
    assert_eq!((small(4), small(5)), (false, true));
    let of_many = Pace { counts: INTERVAL, ..pace(INTERVAL, "node-1") };
    for large in [of_many, pace(Duration::from_secs(60), "node-1")] {
        for seconds in 0..600 {
            let large = |urgency| due(urgency, seconds, large);
            assert_eq!(large(Urgency::Counts), large(Urgency::Heartbeat), "after {seconds} s");
        }
    }
}

/// How many of so many nodes write in each second, all of which have begun at once and always have news of this urgency.
fn writes(nodes: usize, interval: u64, counts: u64, urgency: Urgency) -> Vec<usize> {
    let names: Vec<_> = (0..nodes).map(|node| format!("node-{node}")).collect();
    let mut written = vec![Duration::ZERO; nodes];
    let seconds = (1..=2 * interval).map(Duration::from_secs);
    let write = |now: Duration| {
        let due = names.iter().zip(&mut written).filter_map(|(node, written)| {
            let [interval, counts] = [interval, counts].map(Duration::from_secs);
            let pace = Pace { interval, counts, node };
            pace.is_due(urgency, now, now.saturating_sub(*written)).then(|| *written = now)
        });
        due.count()
    };
    seconds.map(write).collect()
}

#[test]
fn a_fleet_that_begins_at_once_spreads_its_writes_whether_counts_move_or_not() {
    for (nodes, interval) in [(251, 20), (1000, 20), (1001, 60), (3000, 60), (3001, 120)] {
        for urgency in [Urgency::Counts, Urgency::Heartbeat] {
            let writes = writes(nodes, interval, interval, urgency);
            let most = writes.iter().max().copied().unwrap_or_default();
            assert!(most <= 80, "{nodes} {urgency:?}: {writes:?}");
            let apart = interval + interval / u64::from(HEARTBEAT_LATER);
            let round: usize = writes.iter().rev().zip(0..apart).map(|(writes, _)| writes).sum();
            assert_eq!(round, nodes, "{urgency:?}: {writes:?}");
        }
    }
}

#[test]
fn a_fleet_of_up_to_250_nodes_whose_counts_always_move_writes_50_times_a_second() {
    let writes = writes(250, 20, 5, Urgency::Counts);
    assert_eq!(writes.iter().sum::<usize>(), 50 * writes.len(), "{writes:?}");
}

#[test]
fn no_node_is_silent_for_much_longer_than_an_interval() {
    let interval = Duration::from_secs(60);
    for node in 0..100 {
        let name = format!("node-{node}");
        let pace = pace(interval, &name);
        for written in (0..60).map(|second| Duration::from_secs(1000 + second)) {
            let is_due = |since: &u64| {
                let since = Duration::from_secs(*since);
                pace.is_due(Urgency::Heartbeat, written + since, since)
            };
            let first = (0..=120).find(is_due).unwrap();
            assert!((6..=69).contains(&first), "{first} s");
        }
    }
}

#[test]
fn a_status_shows_what_rests_only_after_an_interval_of_counting() {
    let start = Instant::now();
    let mut past = Past::default();
    let mut earlier_at = |second, time_wait| {
        past.note(&own_time_wait(time_wait), start + Duration::from_secs(second));
        past.earlier().map(|status| status.sockets.as_ref().unwrap().states.time_wait)
    };
    assert_eq!((earlier_at(0, 1), earlier_at(1, 2), earlier_at(4, 3)), (None, None, None));
    assert_eq!((earlier_at(5, 4), earlier_at(9, 5), earlier_at(10, 6)), (Some(1), Some(1), Some(4)));
}
