//! All Linux nodes together, tuned or not.

use std::time::{Duration, Instant};

use crds::tuning::SocketSums;

use super::{class, count, sums};
use crate::history::History;
use crate::resolve::Resolution;
use crate::snapshot::{Snapshot, in_step};

/// What is known of all Linux nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// How many there are.
    pub nodes: u32,
    /// Of them: at least one tuning is for them.
    pub matched: u32,
    /// Of them: their agent is not heard, because it has not reported yet or has missed reports, or they are not Ready.
    pub silent: u32,
    /// How long ago the node was heard that has been silent longest, on the operator's clock.
    pub oldest_report: Duration,
    /// Sums over those that are heard; `None` where no node's counts are known.
    pub sockets: Option<SocketSums>,
}

/// What is known of all Linux nodes.
pub fn fleet(snapshot: &Snapshot, resolution: &Resolution, history: &History, now: Instant) -> Fleet {
    let nodes: Vec<_> = snapshot.nodes_with_orders().filter(|(_, node, _)| node.is_linux()).collect();
    let orders = nodes.iter().filter_map(|(_, node, order)| Some((node, (*order)?)));
    let heard: Vec<_> =
        orders.filter(|(node, order)| class::is_heard(node, Some(order), history, now)).collect();
    let silence = nodes.iter().map(|(name, ..)| history.silence(name, now).of_reports);
    let wanted = in_step(nodes.iter().map(|(name, ..)| (*name, ())), &resolution.orders);
    let matched = wanted.filter(|(.., wanted)| {
        wanted.is_some_and(|order| !order.claims.is_empty() || !order.observe.is_empty())
    });
    Fleet {
        nodes: count(nodes.len()),
        matched: count(matched.count()),
        silent: count(nodes.len() - heard.len()),
        oldest_report: silence.max().unwrap_or_default(),
        sockets: sums::sums(heard.iter().filter_map(|(_, order)| order.status.as_ref())),
    }
}
