//! Evidence of NAT on this node, gathered only where tcp_tw_recycle exists and is ordered.
//!
//! A node cannot see a NAT device that is far away; what it can see is its own connection tracker, and SYNs that
//! tcp_tw_recycle itself has dropped.

use tcp_close::kernel::Nat;

use crate::procfs::{Procfs, counter};

/// The tracker's table can hold hundreds of thousands of lines; the first hit ends the search.
const LINES_MAX: usize = 4096;

/// What this node knows of NAT.
pub fn evidence(procfs: &Procfs) -> Nat {
    if let Some(dropped) =
        procfs.netstat().ok().and_then(|text| passive_rejects(&text)).filter(|count| *count > 0)
    {
        return Nat::Seen(format!(
            "{dropped} SYNs were dropped because of their timestamps, counter PAWSPassive"
        ));
    }
    match procfs.conntrack(LINES_MAX) {
        Ok(lines) if lines.is_empty() => Nat::Unknown("the connection tracker's table is empty".into()),
        Ok(lines) => lines.iter().find_map(|line| translated(line)).map_or(Nat::NotSeen, Nat::Seen),
        Err(error) if error.is_absent() => Nat::Unknown("no connection tracker is loaded".into()),
        Err(error) => Nat::Unknown(error.to_string()),
    }
}

/// The evidence in a line of the table, if it is a connection whose addresses are rewritten: its reply is not the mirror
/// image of its request.
pub fn translated(line: &str) -> Option<String> {
    let values = |name: &str| {
        line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(name)).collect::<Vec<_>>()
    };
    let (sources, destinations) = (values("src="), values("dst="));
    let ([source, reply_source], [destination, reply_destination]) =
        (sources.as_slice(), destinations.as_slice())
    else {
        return None;
    };
    if source != reply_destination {
        return Some(format!("connection tracker: source {source} is rewritten to {reply_destination}"));
    }
    (destination != reply_source)
        .then(|| format!("connection tracker: destination {destination} is rewritten to {reply_source}"))
}

/// `PAWSPassive` of `/proc/net/netstat`: SYNs dropped by tcp_tw_recycle.
pub fn passive_rejects(text: &str) -> Option<u64> {
    counter(text, "TcpExt: ", "PAWSPassive")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::procfs::tests::tree;

    /// A line of a masquerading node, captured on 6.18.44.
    const MASQUERADED: &str = "ipv4     2 tcp      6 119 TIME_WAIT src=10.77.0.50 dst=10.77.0.2 sport=40000 dport=80 \
                               src=10.77.0.2 dst=10.77.0.1 sport=80 dport=40000 [ASSURED] mark=0 zone=0 use=2";
    const PLAIN: &str = "ipv4     2 tcp      6 119 TIME_WAIT src=10.77.0.1 dst=10.77.0.2 sport=40000 dport=80 \
                         src=10.77.0.2 dst=10.77.0.1 sport=80 dport=40000 [ASSURED] mark=0 zone=0 use=2";

    fn with_conntrack(text: &str) -> Nat {
        let (dir, procfs) = tree(&[]);
        fs::write(dir.path().join("self/net/nf_conntrack"), text).unwrap();
        evidence(&procfs)
    }

    #[test]
    fn a_rewritten_address_is_evidence() {
        let expected = "connection tracker: source 10.77.0.50 is rewritten to 10.77.0.1".to_string();
        assert_eq!(with_conntrack(&format!("{PLAIN}\n{MASQUERADED}\n")), Nat::Seen(expected));
    }

    #[test]
    fn connections_that_are_not_rewritten_are_no_evidence() {
        assert_eq!(with_conntrack(PLAIN), Nat::NotSeen);
    }

    #[test]
    fn an_empty_or_absent_table_is_unknown_not_clean() {
        assert!(matches!(with_conntrack(""), Nat::Unknown(_)));
        assert!(matches!(evidence(&tree(&[]).1), Nat::Unknown(_)));
    }

    #[test]
    fn dropped_syns_are_evidence() {
        let (dir, procfs) = tree(&[]);
        let text = "TcpExt: SyncookiesSent PAWSPassive PAWSActive\nTcpExt: 0 7 0\n";
        fs::write(dir.path().join("self/net/netstat"), text).unwrap();
        assert!(matches!(evidence(&procfs), Nat::Seen(text) if text.starts_with("7 SYNs")));
    }
}
