use crds::tuning::{NodeCounts, RateSums, SocketSums};

use super::*;

fn status(updated: u32, time_wait: u64) -> TcpCloseTuningStatus {
    TcpCloseTuningStatus {
        nodes: Some(NodeCounts { updated, ..NodeCounts::default() }),
        sockets: Some(SocketSums { time_wait, ..SocketSums::default() }),
        worst: vec![worst("n1", SOCKETS, time_wait)],
        ..TcpCloseTuningStatus::default()
    }
}

fn worst(name: &str, reason: &str, time_wait: u64) -> WorstNode {
    WorstNode { name: name.into(), reason: reason.into(), message: format!("{time_wait} TIME_WAIT") }
}

/// Counts were written so many seconds ago.
fn written(
    stored: &TcpCloseTuningStatus,
    fresh: TcpCloseTuningStatus,
    ago: u64,
) -> Option<TcpCloseTuningStatus> {
    next_write(Some(stored), fresh, Some(Duration::from_secs(ago)))
}

#[test]
fn an_unchanged_status_is_not_patched() {
    assert_eq!(written(&status(1, 5), status(1, 5), 1000), None);
}

#[test]
fn a_first_status_is_written() {
    assert_eq!(next_write(None, status(1, 5), None), Some(status(1, 5)));
}

#[test]
fn socket_sums_alone_are_written_every_30_age() {
    assert_eq!(written(&status(1, 5), status(1, 6), 29), None);
    assert_eq!(written(&status(1, 5), status(1, 6), 30), Some(status(1, 6)));
}

#[test]
fn socket_sums_ride_along_every_5_age() {
    assert_eq!(written(&status(1, 5), status(2, 6), 4), Some(status(2, 5)));
    assert_eq!(written(&status(1, 5), status(2, 6), 5), Some(status(2, 6)));
}

#[test]
fn an_overflow_that_begins_is_written_within_5_seconds_and_one_that_goes_on_is_not() {
    let overflowing = |rate| {
        let mut status = status(1, 5);
        let rates = RateSums { overflows: Some(rate), ..RateSums::default() };
        status.sockets.as_mut().unwrap().rates = Some(rates);
        status
    };
    assert_eq!(written(&overflowing(0), overflowing(60), 4), None);
    assert_eq!(written(&overflowing(0), overflowing(60), 5), Some(overflowing(60)));
    assert_eq!(written(&status(1, 5), overflowing(60), 5), Some(overflowing(60)), "it was unknown");
    assert_eq!(written(&overflowing(60), overflowing(900), 29), None);
    assert_eq!(written(&overflowing(60), overflowing(0), 29), None);
}

#[test]
fn a_node_in_trouble_is_not_listed_for_its_sockets_as_well() {
    let mut fresh = status(2, 6);
    fresh.worst = vec![worst("n1", "Failed", 6), worst("n2", SOCKETS, 6)];
    let written = written(&status(1, 5), fresh, 1).unwrap();
    assert_eq!(written.worst, [worst("n1", "Failed", 6)]);
}

#[test]
fn sums_that_nobody_knows_any_longer_are_not_kept() {
    let unknown = TcpCloseTuningStatus { sockets: None, ..status(2, 6) };
    assert_eq!(written(&status(1, 5), unknown, 1).unwrap().sockets, None);
}
