use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use tcp_close::counters::Rates;
use tcp_close::sockets::{SocketCounts, Sockstat};

use super::*;
use crate::sample::{Conntrack, Dated, Pair, PodCounts, PodName, PortUse};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

fn dated<T>(value: T) -> Dated<T> {
    Dated { value, at: Timestamp::from_second(1_700_000_000).unwrap() }
}

/// Everything is known.
fn full() -> Census {
    let pair = Pair {
        source: IpAddr::from([192, 0, 2, 1]),
        destination: (IpAddr::from([192, 0, 2, 2]), 443),
        used: 14_116,
    };
    let pod = PodCounts {
        pod: Some(PodName { namespace: "shop".into(), name: "web-0".into() }),
        minis: 40,
        overflows_per_minute: Some(1),
        states: None,
    };
    let pods = PodCensus {
        at: Timestamp::from_second(1_700_000_001).unwrap(),
        namespaces: 110,
        unread: 2,
        minis: 41,
        most: vec![pod],
    };
    Census {
        sockstat: Some(dated(Sockstat { tw: 14, machine_orphans: 3 })),
        states: Some(dated(SocketCounts { time_wait: 12, fin_wait2: 2, ..SocketCounts::default() })),
        rates: Some(Rates { seconds: 60, overflows: Some(5), ..Rates::default() }),
        rates_since: None,
        rates_before: None,
        conntrack: Some(Conntrack { entries: 100, max: 262_144 }),
        ports: Some(dated(PortUse { behind: Vec::new(), pairs: vec![pair], available: 28_232 })),
        pods: Some(Ok(pods)),
        unattributed_orphans: Some(1),
    }
}

fn facts(owner: u32, group: u32, mode: u32) -> Result<(), String> {
    let facts = Facts { owner, group, mode: 0o040_000 | mode, filesystem: 0xef53 };
    facts.check(Path::new("/metrics")).map_err(|refused| refused.to_string())
}

/// What the document says is there, with its type.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("The textfile")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `tcpclose_"));
    rows.map(|row| {
        let mut cells = row.split(" | ");
        let name = cells.next().unwrap().split(['`', '{']).next().unwrap();
        (name, cells.next().unwrap())
    })
    .collect()
}

#[test]
fn the_document_names_what_the_file_has_and_nothing_else() {
    let text = text(&full());
    let exposed: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE tcpclose_")?.split_once(' ')).collect();
    assert_eq!(exposed, documented());
}

#[test]
fn every_sample_follows_its_help_and_type() {
    let text = text(&full());
    let mut head = None;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(words.len() > 10, "{line}");
            head = Some(name);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind.split_once(' '), head.map(|name| (name, "gauge")));
        } else {
            assert_eq!(line.split(['{', ' ']).next(), head);
        }
    }
}

#[test]
fn nobody_is_told_a_0_that_nobody_has_counted() {
    assert_eq!(text(&Census::default()), "");
    let unreadable = Census { pods: Some(Err("hidepid".into())), ..Census::default() };
    assert_eq!(text(&unreadable), "");
    let idle = Census { states: Some(dated(SocketCounts::default())), ..Census::default() };
    assert!(text(&idle).contains("tcpclose_node_sockets{state=\"time_wait\"} 0\n"));
}

#[test]
fn counts_carry_their_time_and_rates_their_span() {
    let text = text(&full());
    for line in [
        "tcpclose_node_sockets{state=\"time_wait\"} 12",
        "tcpclose_node_sockets_timestamp_seconds 1700000000",
        "tcpclose_node_events_per_minute{event=\"time_wait_overflow\"} 5",
        "tcpclose_node_events_window_seconds 60",
        "tcpclose_node_ports_used_ratio 0.5",
        "tcpclose_pods_mini_sockets 41",
        "tcpclose_pods_timestamp_seconds 1700000001",
    ] {
        assert!(text.lines().any(|seen| seen == line), "{line} is not in\n{text}");
    }
}

#[test]
fn no_pod_has_a_label() {
    let text = text(&full());
    assert!(!text.contains("web-0") && !text.contains("shop"), "{text}");
}

#[test]
fn a_folder_that_others_can_write_to_is_refused() {
    assert_eq!(facts(0, 0, 0o755), Ok(()));
    assert_eq!(facts(0, 0, 0o775), Ok(()), "root's group is root's");
    assert_eq!(facts(0, 1000, 0o755), Ok(()), "a group that may only read");
    for (owner, group, mode, what) in [
        (1000, 0, 0o755, "is not owned by root"),
        (0, 1000, 0o775, "is writable by a group that is not root's"),
        (0, 0, 0o1777, "is writable by everybody"),
    ] {
        assert_eq!(
            facts(owner, group, mode).unwrap_err(),
            format!(
                "/metrics {what}: others could put a file of theirs in place of this one (chown root:root, chmod 755)"
            )
        );
    }
}

#[test]
fn a_folder_of_the_kernels_is_refused() {
    for path in ["/proc/sys/net", "/sys/kernel"] {
        let refused = open(Path::new(path)).unwrap_err();
        assert!(matches!(refused, Refused::OfTheKernel(_)), "{refused}");
    }
}

#[test]
fn a_link_a_file_and_nothing_at_all_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (link, file) = (dir.path().join("link"), dir.path().join("file"));
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    std::fs::write(&file, "").unwrap();
    for path in [link, file] {
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused, Refused::NotADirectory(_)), "{refused}");
    }
    let refused = open(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(refused, Refused::Absent(_)), "{refused}");
}

#[test]
fn a_new_file_takes_the_old_ones_place_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = OwnedFd::from(File::open(dir.path()).unwrap());
    let path = dir.path().join(FILE);
    replace(&folder, "first, and longer\n").unwrap();
    // A scrape that has just opened it reads it to its end.
    let mut open = File::open(&path).unwrap();
    replace(&folder, "second\n").unwrap();
    assert_eq!(std::io::read_to_string(&mut open).unwrap(), "first, and longer\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(rustix::fs::stat(&path).unwrap().st_mode & 0o777, 0o644);
}

#[test]
fn a_file_that_is_removed_is_gone_and_one_that_never_was_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = OwnedFd::from(File::open(dir.path()).unwrap());
    replace(&folder, "").unwrap();
    delete(&folder).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    delete(&folder).unwrap();
}

#[test]
fn a_folder_that_is_refused_keeps_nobody_from_going_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut textfile = Textfile::new(dir.path().join("absent"));
    let now = Instant::now();
    textfile.write_if_due(&full(), now);
    assert!(textfile.told.as_ref().unwrap().contains("does not exist: create it"), "{:?}", textfile.told);
    textfile.remove();
}

#[test]
fn it_is_not_written_more_often_than_every_15_s() {
    let dir = tempfile::tempdir().unwrap();
    let mut textfile = Textfile::new(dir.path().join("absent"));
    let start = Instant::now();
    for (second, tried) in [(0, 0), (1, 0), (14, 0), (15, 15), (16, 15)] {
        textfile.write_if_due(&full(), start + Duration::from_secs(second));
        assert_eq!(textfile.tried, Some(start + Duration::from_secs(tried)), "after {second} s");
    }
}
