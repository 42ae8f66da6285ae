//! Sums over the nodes that are heard: closing sockets, how they end, and how many a tuning reaches. A count that is unknown
//! adds nothing and is not 0.

use crds::TcpCloseNodeStatus;
use crds::node::{Rates, Sockets};
use crds::tuning::{Coverage, RateSums, SocketMaxima, SocketSums};
use tcp_close::reach::Reach;
use tcp_close::sockets::two_digits;

use super::count;

/// Sums and maxima, to two significant digits; `None` where no node's counts are known.
pub(super) fn sums<'a>(reports: impl Iterator<Item = &'a TcpCloseNodeStatus>) -> Option<SocketSums> {
    let reports: Vec<_> = reports.collect();
    let counted: Vec<&Sockets> = reports.iter().filter_map(|report| report.sockets.as_ref()).collect();
    if counted.is_empty() {
        return None;
    }
    macro_rules! sum {
        ($field:ident) => {
            two_digits(counted.iter().fold(0, |sum, sockets| sockets.states.$field.saturating_add(sum)))
        };
    }
    macro_rules! highest {
        ($field:ident) => {
            two_digits(counted.iter().map(|sockets| sockets.states.$field).max().unwrap_or_default())
        };
    }
    Some(SocketSums {
        time_wait: sum!(time_wait),
        orphans: sum!(orphans),
        fin_wait1: sum!(fin_wait1),
        fin_wait2: sum!(fin_wait2),
        closing: sum!(closing),
        close_wait: sum!(close_wait),
        last_ack: sum!(last_ack),
        nodes: count(counted.len()),
        highest: SocketMaxima {
            time_wait: highest!(time_wait),
            orphans: highest!(orphans),
            fin_wait1: highest!(fin_wait1),
            fin_wait2: highest!(fin_wait2),
            closing: highest!(closing),
            close_wait: highest!(close_wait),
            last_ack: highest!(last_ack),
        },
        rates: rates(&reports),
        coverage: coverage(&reports),
    })
}

fn rates(reports: &[&TcpCloseNodeStatus]) -> Option<RateSums> {
    let known: Vec<&Rates> = reports.iter().filter_map(|report| report.rates.as_ref()).collect();
    let sum = |of: fn(&Rates) -> Option<u64>| added(known.iter().map(|rates| of(rates))).map(two_digits);
    (!known.is_empty()).then(|| RateSums {
        overflows: sum(|rates| rates.overflows),
        aborts: sum(aborts),
        resets_sent: sum(|rates| rates.resets_sent),
        reused: sum(|rates| rates.reused),
        nodes: count(known.len()),
    })
}

/// Every kind together. A reset that could not be sent (`abortsFailed`) belongs to a connection that is counted already.
fn aborts(rates: &Rates) -> Option<u64> {
    added([
        rates.aborts_on_memory,
        rates.aborts_on_timeout,
        rates.aborts_on_close,
        rates.aborts_on_data,
        rates.aborts_on_linger,
    ])
}

/// The sum of what is known; `None` where nothing is.
fn added(counts: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    counts.into_iter().flatten().reduce(u64::saturating_add)
}

/// How much of what closes is in the nodes' own namespaces, by the kernel's fast figure; `None` where no node knows both, and
/// where nothing closes.
fn coverage(reports: &[&TcpCloseNodeStatus]) -> Option<Coverage> {
    let both = |report: &&TcpCloseNodeStatus| {
        let in_pods = report.pods.as_ref()?.time_wait_and_fin_wait2?;
        Some(Reach { in_nodes: report.sockstat.as_ref()?.time_wait_and_fin_wait2, in_pods })
    };
    let known: Vec<Reach> = reports.iter().filter_map(both).collect();
    let reach = known.iter().copied().reduce(|sum, reach| Reach {
        in_nodes: sum.in_nodes.saturating_add(reach.in_nodes),
        in_pods: sum.in_pods.saturating_add(reach.in_pods),
    })?;
    Some(Coverage {
        percent: reach.percent()?,
        in_nodes: two_digits(reach.in_nodes),
        in_pods: two_digits(reach.in_pods),
        nodes: count(known.len()),
    })
}
