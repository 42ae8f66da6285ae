//! Sums of closing sockets over the nodes that are heard. A count that is unknown adds nothing and is not 0.

use crds::node::Sockets;
use crds::tuning::{SocketMaxima, SocketSums};
use tcp_close::sockets::two_digits;

use super::count;

/// Sums and maxima, to two significant digits; `None` where no node's counts are known.
pub(super) fn sums<'a>(counted: impl Iterator<Item = &'a Sockets>) -> Option<SocketSums> {
    let counted: Vec<_> = counted.collect();
    if counted.is_empty() {
        return None;
    }
    macro_rules! sum {
        ($field:ident) => {
            two_digits(counted.iter().fold(0, |sum, sockets| sockets.$field.saturating_add(sum)))
        };
    }
    macro_rules! highest {
        ($field:ident) => {
            two_digits(counted.iter().map(|sockets| sockets.$field).max().unwrap_or_default())
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
    })
}
