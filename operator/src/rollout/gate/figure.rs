//! What the gate compares, and how much worse a change may make it.

use crds::node::Rates;

/// Something that happens to connections and should not happen more often.
pub struct Figure {
    /// Its name for people.
    pub name: &'static str,
    /// How often per minute; `None` where any part of it is unknown.
    pub(super) rate: fn(&Rates) -> Option<u64>,
    /// It may become so many times as frequent.
    pub ratio: f64,
    /// So many in 1,000 connections are no harm, however few there were.
    pub harmless: f64,
    /// What a good change sets free comes at once: it is judged when so many seconds have passed since the change.
    pub settles_after: u32,
}

/// Every figure. `docs/gate.md` says how the limits were found; `cargo lab bench gate` measures them anew.
pub const FIGURES: [Figure; 9] = [
    Figure {
        name: "TIME_WAIT overflow",
        rate: |rates| rates.overflows,
        ratio: 2.0,
        harmless: 5.0,
        settles_after: 0,
    },
    Figure {
        name: "aborts for want of memory",
        rate: |rates| rates.aborts_on_memory,
        ratio: 2.0,
        harmless: 5.0,
        settles_after: 0,
    },
    // A lower tcp_orphan_retries ends at once what the higher one has piled up: by the kernel's default, orphans of up to
    // 205 s. After half a minute that is less than eight times what ends in it anyway.
    Figure {
        name: "aborts without an answer",
        rate: |rates| rates.aborts_on_timeout,
        ratio: 8.0,
        harmless: 10.0,
        settles_after: 30,
    },
    Figure {
        name: "aborts by programs",
        rate: aborts_by_programs,
        ratio: 2.0,
        harmless: 20.0,
        settles_after: 0,
    },
    Figure {
        name: "resets sent",
        rate: |rates| rates.resets_sent,
        ratio: 2.0,
        harmless: 10.0,
        settles_after: 0,
    },
    Figure {
        name: "connections ended by a reset",
        rate: |rates| rates.established_resets,
        ratio: 2.0,
        harmless: 10.0,
        settles_after: 0,
    },
    Figure {
        name: "segments that PAWS rejected",
        rate: |rates| rates.paws_rejected,
        ratio: 2.0,
        harmless: 5.0,
        settles_after: 0,
    },
    Figure {
        name: "failed connects",
        rate: |rates| rates.failed_connects,
        ratio: 2.0,
        harmless: 20.0,
        settles_after: 0,
    },
    // How much is sent in a connection, and over which network, moves it more than any sysctl of closing.
    Figure {
        name: "retransmissions",
        rate: |rates| rates.retransmissions,
        ratio: 4.0,
        harmless: 200.0,
        settles_after: 0,
    },
];

/// Connections that a program closed with data unread, with more data to come, or with SO_LINGER 0.
fn aborts_by_programs(rates: &Rates) -> Option<u64> {
    let kinds = [rates.aborts_on_close?, rates.aborts_on_data?, rates.aborts_on_linger?];
    Some(kinds.into_iter().fold(0, u64::saturating_add))
}
