use proptest::prelude::*;

use super::*;

const MIN: u32 = 1000;

/// A minute with so many connections in which nothing went wrong.
fn quiet(connections: u64) -> Rates {
    Rates {
        seconds: 60,
        overflows: Some(0),
        aborts_on_memory: Some(0),
        aborts_on_timeout: Some(0),
        aborts_on_close: Some(0),
        aborts_on_data: Some(0),
        aborts_on_linger: Some(0),
        aborts_failed: Some(0),
        resets_sent: Some(0),
        established_resets: Some(0),
        reused: Some(0),
        paws_rejected: Some(0),
        connects: Some(connections / 2),
        accepts: Some(connections - connections / 2),
        failed_connects: Some(0),
        retransmissions: Some(0),
    }
}

fn overflowing(overflows: u64, connections: u64) -> Rates {
    Rates { overflows: Some(overflows), ..quiet(connections) }
}

fn changed<'a>(node: &'a str, before: &'a Rates, since: &'a Rates) -> Changed<'a> {
    Changed { node, before: Some(before), since: Some(since) }
}

/// One canary among nodes that do not hold the change.
fn canary(before: &Rates, since: &Rates, unchanged: &Rates) -> Verdict {
    judge(&Evidence { changed: vec![changed("node-1", before, since)], unchanged: vec![unchanged] }, MIN)
}

fn failed(verdict: Verdict) -> String {
    if let Verdict::Failed(why) = verdict { why } else { panic!("not failed: {verdict:?}") }
}

fn inconclusive(verdict: Verdict) -> String {
    if let Verdict::Inconclusive(why) = verdict { why } else { panic!("not inconclusive: {verdict:?}") }
}

fn is_passed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Passed(_))
}

#[test]
fn a_failure_says_which_figure_went_from_what_to_what_and_where() {
    let verdict = canary(&quiet(2000), &overflowing(424, 2000), &quiet(60_000));
    assert_eq!(
        failed(verdict),
        "TIME_WAIT overflow went from 0 to 212 in 1,000 connections (limit 9.7; unchanged nodes 0) on node-1"
    );
}

#[test]
fn every_figure_can_fail_the_gate() {
    type Field = fn(&mut Rates) -> &mut Option<u64>;
    let worse: [(Field, &str); 11] = [
        (|rates| &mut rates.overflows, "TIME_WAIT overflow"),
        (|rates| &mut rates.aborts_on_memory, "aborts for want of memory"),
        (|rates| &mut rates.aborts_on_timeout, "aborts without an answer"),
        (|rates| &mut rates.aborts_on_close, "aborts by programs"),
        (|rates| &mut rates.aborts_on_data, "aborts by programs"),
        (|rates| &mut rates.aborts_on_linger, "aborts by programs"),
        (|rates| &mut rates.resets_sent, "resets sent"),
        (|rates| &mut rates.established_resets, "connections ended by a reset"),
        (|rates| &mut rates.paws_rejected, "segments that PAWS rejected"),
        (|rates| &mut rates.failed_connects, "failed connects"),
        (|rates| &mut rates.retransmissions, "retransmissions"),
    ];
    for figure in &FIGURES {
        assert!(worse.iter().any(|(_, name)| *name == figure.name), "{}", figure.name);
    }
    for (figure, name) in worse {
        let mut since = quiet(2000);
        *figure(&mut since) = Some(1000);
        let why = failed(canary(&quiet(2000), &since, &quiet(2000)));
        assert!(why.starts_with(&format!("{name} went from 0 to 500 in 1,000 connections")), "{why}");
    }
}

#[test]
fn of_several_figures_the_one_that_is_furthest_beyond_its_limit_is_told() {
    let since = Rates { resets_sent: Some(400), ..overflowing(800, 2000) };
    let why = failed(canary(&quiet(2000), &since, &quiet(2000)));
    assert!(why.starts_with("TIME_WAIT overflow") && why.ends_with("; also resets sent"), "{why}");
}

#[test]
fn connections_that_end_as_they_did_pass() {
    let verdict = canary(&quiet(2000), &quiet(3000), &quiet(60_000));
    let expected = "no figure has become worse since the change, on 1 node";
    assert_eq!(verdict, Verdict::Passed(expected.into()));
}

#[test]
fn an_event_in_a_thousand_connections_after_none_is_chance() {
    assert!(is_passed(&canary(&quiet(1000), &overflowing(1, 1000), &quiet(1000))));
    assert!(is_passed(&canary(&quiet(1000), &overflowing(9, 1000), &quiet(1000))));
    let rare = judge(
        &Evidence { changed: vec![changed("node-1", &quiet(200), &overflowing(9, 20))], unchanged: vec![] },
        1,
    );
    assert!(is_passed(&rare), "nine events are chance in however few connections: {rare:?}");
}

#[test]
fn what_happens_to_all_nodes_is_not_the_changes_doing() {
    let outage = Rates { failed_connects: Some(900), ..quiet(3000) };
    assert!(is_passed(&canary(&quiet(3000), &outage, &outage)));
    failed(canary(&quiet(3000), &outage, &quiet(3000)));
}

/// Honest nodes, one of which reports something else.
fn among<'a>(honest: &'a Rates, many: usize, other: &'a Rates) -> Vec<&'a Rates> {
    std::iter::repeat_n(honest, many).chain([other]).collect()
}

#[test]
fn one_node_that_lies_neither_hides_a_bad_change_nor_fails_a_good_one() {
    let (quiet, outage) = (quiet(2000), Rates { failed_connects: Some(300), ..quiet(2000) });
    let bad = overflowing(424, 2000);
    let most = Some(u64::from(u32::MAX));
    let sick = Rates { overflows: most, failed_connects: most, connects: Some(200), ..quiet };
    let idle = Rates { connects: most, ..quiet };
    let sicker = Rates { connects: most, ..sick };
    for many in [2, 3, 4, 10, 50] {
        for lie in [&sick, &idle, &sicker] {
            let canary = |since, honest| {
                let unchanged = among(honest, many, lie);
                judge(&Evidence { changed: vec![changed("node-1", &quiet, since)], unchanged }, MIN)
            };
            failed(canary(&bad, &quiet));
            failed(canary(&outage, &quiet));
            for (since, honest) in [(&quiet, &quiet), (&outage, &outage)] {
                let verdict = canary(since, honest);
                assert!(is_passed(&verdict), "{many} honest nodes and {lie:?}: {verdict:?}");
            }
        }
    }
}

#[test]
fn two_of_ten_nodes_may_lie() {
    let (honest, bad) = (quiet(2000), overflowing(424, 2000));
    let lie = overflowing(u64::from(u32::MAX), 2000);
    let mut unchanged = among(&honest, 8, &lie);
    unchanged.push(&lie);
    failed(judge(&Evidence { changed: vec![changed("node-1", &honest, &bad)], unchanged }, MIN));
}

#[test]
fn many_nodes_that_fare_alike_are_compared_with_as_one_with_all_their_connections() {
    let (past, since) = (overflowing(4, 2000), overflowing(424, 2000));
    let against = |unchanged: Vec<Rates>| {
        let changed = vec![changed("node-1", &past, &since)];
        failed(judge(&Evidence { changed, unchanged: unchanged.iter().collect() }, MIN))
    };
    let together = against(vec![overflowing(600, 60_000)]);
    for many in [3, 10, 30] {
        let each = overflowing(600 / many, 60_000 / many);
        assert_eq!(against((0..many).map(|_| each).collect()), together, "{many} nodes");
    }
}

#[test]
fn a_node_that_always_did_worse_than_the_others_does_not_fail_for_that() {
    let noisy = Rates { resets_sent: Some(1500), ..quiet(3000) };
    assert!(is_passed(&canary(&noisy, &noisy, &quiet(60_000))));
}

#[test]
fn nine_good_nodes_do_not_hide_a_bad_one() {
    let (good, bad) = (quiet(30_000), overflowing(60, 1000));
    let names: Vec<String> = (0..9).map(|number| format!("good-{number}")).collect();
    let mut nodes: Vec<_> = names.iter().map(|name| changed(name, &good, &good)).collect();
    let past = quiet(1000);
    nodes.push(changed("bad", &past, &bad));
    let why = failed(judge(&Evidence { changed: nodes, unchanged: vec![&good] }, MIN));
    assert!(why.starts_with("TIME_WAIT overflow went from 0 to 60 in"), "{why}");
    assert!(why.ends_with("on bad"), "{why}");
}

#[test]
fn nodes_that_are_each_a_little_worse_fail_together_and_three_are_named() {
    let (past, since) = (quiet(1000), overflowing(10, 1000));
    let names: Vec<String> = (0..9).map(|number| format!("node-{number}")).collect();
    let nodes: Vec<_> = names.iter().map(|name| changed(name, &past, &since)).collect();
    assert!(is_passed(&canary(&past, &since, &past)), "one alone may be chance");
    let why = failed(judge(&Evidence { changed: nodes, unchanged: vec![&past] }, MIN));
    assert!(why.ends_with("on node-0, node-1, node-2 and 6 more"), "{why}");
}

#[test]
fn traffic_that_moves_to_a_node_that_always_did_worse_fails_nothing() {
    let resets = |resets, connections| Rates { resets_sent: Some(resets), ..quiet(connections) };
    let (calm, calmer) = (resets(10, 10_000), resets(1, 1000));
    let (rough, rougher) = (resets(50, 1000), resets(500, 10_000));
    let nodes = vec![changed("calm", &calm, &calmer), changed("rough", &rough, &rougher)];
    assert!(is_passed(&judge(&Evidence { changed: nodes, unchanged: vec![] }, MIN)));
}

#[test]
fn a_node_without_a_past_is_compared_with_nodes_without_the_change() {
    let (since, others) = (overflowing(200, 2000), quiet(2000));
    let first = |since| Evidence {
        changed: vec![Changed { node: "node-1", before: None, since: Some(since) }],
        unchanged: vec![&others],
    };
    let why = failed(judge(&first(&since), MIN));
    assert!(why.starts_with("TIME_WAIT overflow went from unknown to 100 in"), "{why}");
    assert!(is_passed(&judge(&first(&quiet(2000)), MIN)));
}

#[test]
fn where_every_node_is_changed_their_past_is_enough() {
    let past = quiet(2000);
    let all = |since: &Rates| {
        judge(&Evidence { changed: vec![changed("node-1", &past, since)], unchanged: vec![] }, MIN)
    };
    assert!(is_passed(&all(&quiet(2000))));
    let why = failed(all(&overflowing(200, 2000)));
    assert!(why.contains("unchanged nodes unknown"), "{why}");
}

#[test]
fn without_anything_to_compare_with_it_is_inconclusive() {
    let (few, many) = (quiet(20), overflowing(500, 5000));
    let nodes = vec![changed("node-1", &few, &many)];
    let why = inconclusive(judge(&Evidence { changed: nodes, unchanged: vec![&few] }, MIN));
    assert_eq!(
        why,
        "TIME_WAIT overflow: too few connections before the change and on unchanged nodes to compare with"
    );
}

#[test]
fn too_few_connections_are_inconclusive_however_bad_they_look() {
    let why = inconclusive(canary(&quiet(2000), &overflowing(900, 999), &quiet(2000)));
    assert_eq!(why, "too few connections since the change: 99 % of 1000");
}

#[test]
fn connections_add_up_over_the_time_since_the_change() {
    let slow = Rates { seconds: 600, ..quiet(120) };
    assert!(is_passed(&canary(&quiet(120), &slow, &quiet(2000))), "1180 at least in ten minutes");
    inconclusive(canary(&quiet(120), &Rates { seconds: 300, ..slow }, &quiet(2000)));
}

#[test]
fn a_rate_that_was_rounded_up_over_a_long_time_is_not_taken_for_many_events() {
    // Three events in an hour are one per minute, rounded up.
    let hour = Rates { seconds: 3600, ..overflowing(1, 40) };
    assert!(is_passed(&canary(&quiet(200), &hour, &quiet(2000))));
}

#[test]
fn no_figures_are_inconclusive() {
    let past = quiet(2000);
    let unknown = Evidence {
        changed: vec![Changed { node: "node-1", before: Some(&past), since: None }],
        unchanged: vec![&past],
    };
    assert_eq!(inconclusive(judge(&unknown, MIN)), "no figures since the change from node-1");
    assert_eq!(inconclusive(judge(&unknown, 0)), "no figures since the change from node-1");
    assert_eq!(inconclusive(judge(&Evidence::default(), 0)), "the change is in force on no node");
}

#[test]
fn a_changed_node_without_figures_keeps_good_ones_from_passing_and_bad_ones_from_nothing() {
    let past = quiet(2000);
    let with = |since| Evidence {
        changed: vec![
            changed("node-1", &past, since),
            Changed { node: "node-2", before: Some(&past), since: None },
        ],
        unchanged: vec![&past],
    };
    assert_eq!(inconclusive(judge(&with(&past), MIN)), "no figures since the change from node-2");
    failed(judge(&with(&overflowing(500, 2000)), MIN));
}

#[test]
fn a_counter_that_cannot_be_read_is_not_0() {
    let since = Rates { paws_rejected: None, ..quiet(2000) };
    let why = inconclusive(canary(&quiet(2000), &since, &quiet(2000)));
    assert_eq!(why, "segments that PAWS rejected: not counted on node-1");
    let since = Rates { paws_rejected: None, ..overflowing(500, 2000) };
    failed(canary(&quiet(2000), &since, &quiet(2000)));
}

#[test]
fn piled_up_orphans_that_a_lower_retry_ends_at_once_do_not_fail_it() {
    let aborts = |aborts, seconds| Rates { seconds, aborts_on_timeout: Some(aborts), ..quiet(6000) };
    // 100 per minute die of silence; with 205 s each, 342 are there when the value is lowered.
    let past = aborts(100, 60);
    let why = inconclusive(canary(&past, &aborts((17 + 342) * 6, 10), &quiet(6000)));
    assert_eq!(why, "aborts without an answer: not judged until 30 s after the change on node-1");
    assert!(is_passed(&canary(&past, &aborts((50 + 342) * 2, 30), &quiet(6000))));
    failed(canary(&past, &aborts(1500, 60), &quiet(6000)));
}

#[test]
fn figures_of_no_kernel_are_judged_without_a_panic() {
    let absurd = Rates {
        seconds: u32::MAX,
        overflows: Some(u64::MAX),
        aborts_on_close: Some(u64::MAX),
        aborts_on_data: Some(u64::MAX),
        ..quiet(u64::MAX)
    };
    for (before, since) in [(&absurd, &absurd), (&quiet(0), &absurd), (&absurd, &quiet(0))] {
        canary(before, since, before);
    }
    let stopped = Rates { seconds: 0, ..absurd };
    canary(&stopped, &stopped, &stopped);
}

prop_compose! {
    fn minute(most: u64)(connections in 100..most, events in 0..1000u64, resets in 0..1000u64) -> Rates {
        Rates {
            resets_sent: Some(connections * resets / 1000),
            failed_connects: Some(connections * resets / 2000),
            ..overflowing(connections * events / 1000, connections)
        }
    }
}

fn times(rates: &Rates, factor: u64) -> Rates {
    let more = |rate: Option<u64>| rate.map(|rate| rate * factor);
    Rates {
        overflows: more(rates.overflows),
        resets_sent: more(rates.resets_sent),
        failed_connects: more(rates.failed_connects),
        connects: more(rates.connects),
        accepts: more(rates.accepts),
        ..*rates
    }
}

proptest! {
    #[test]
    fn without_traffic_it_never_passes(before in minute(100_000), others in minute(100_000), min in 1..5000u32) {
        let idle = Rates { connects: Some(0), accepts: Some(0), ..before };
        let verdict = judge(
            &Evidence { changed: vec![changed("node-1", &before, &idle)], unchanged: vec![&others] },
            min,
        );
        prop_assert!(matches!(verdict, Verdict::Inconclusive(_)), "{verdict:?}");
    }

    #[test]
    fn what_is_as_it_was_never_fails(before in minute(100_000), others in minute(100_000), factor in 1..50u64) {
        let verdict = canary(&before, &times(&before, factor), &others);
        prop_assert!(!matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
    }

    #[test]
    fn the_same_with_more_connections_says_no_less(
        before in minute(20_000),
        since in minute(20_000),
        others in minute(20_000),
        factor in 1..50u64,
    ) {
        let more = |rates| times(rates, factor);
        let (few, many) =
            (canary(&before, &since, &others), canary(&more(&before), &more(&since), &more(&others)));
        if let Verdict::Failed(_) = few {
            prop_assert!(matches!(many, Verdict::Failed(_)), "{few:?}, then {many:?}");
        }
    }

    #[test]
    fn what_is_worse_on_other_nodes_helps_no_node_to_fail(before in minute(20_000), since in minute(20_000)) {
        let others = quiet(20_000);
        let worse = Rates { overflows: Some(20_000), resets_sent: Some(20_000), failed_connects: Some(20_000), ..others };
        if let Verdict::Failed(_) = canary(&before, &since, &worse) {
            prop_assert!(matches!(canary(&before, &since, &others), Verdict::Failed(_)));
        }
    }
}

#[test]
fn the_document_has_every_figure_with_its_limits() {
    let document = include_str!("../../../../docs/gate.md");
    let row = |line: &'static str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        Some((*cells.get(1)?, *cells.get(3)?, *cells.get(4)?))
    };
    let told: Vec<_> = document.lines().filter(|line| line.ends_with(" times |")).filter_map(row).collect();
    let limits: Vec<_> = FIGURES
        .iter()
        .map(|figure| (figure.name, figure.harmless.to_string(), format!("{} times", figure.ratio)))
        .collect();
    let limits: Vec<_> =
        limits.iter().map(|(name, most, times)| (*name, most.as_str(), times.as_str())).collect();
    assert_eq!(told, limits);
}
