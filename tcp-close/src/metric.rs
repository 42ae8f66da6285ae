//! What metrics call states and events. The operator's metrics of a fleet and the agent's of a node mean the same by the
//! same label.

use crate::counters::Rates;
use crate::sockets::{SocketCounts, State};

/// An `event`: a connection skipped TIME_WAIT because the table of them was full.
pub const OVERFLOW: &str = "time_wait_overflow";
/// An `event`: a reset was sent.
pub const RESET_SENT: &str = "reset_sent";
/// An `event`: connect() took over a port in TIME_WAIT.
pub const REUSED: &str = "time_wait_reused";

/// The value of the label `state`.
pub const fn state(state: State) -> &'static str {
    match state {
        State::FinWait1 => "fin_wait1",
        State::FinWait2 => "fin_wait2",
        State::TimeWait => "time_wait",
        State::CloseWait => "close_wait",
        State::LastAck => "last_ack",
        State::Closing => "closing",
    }
}

/// Sockets by the label `state`. Each is in one state, so they add up.
pub fn states(counts: &SocketCounts) -> [(&'static str, u64); 6] {
    State::ALL.map(|of| {
        let sockets = match of {
            State::FinWait1 => counts.fin_wait1,
            State::FinWait2 => counts.fin_wait2,
            State::TimeWait => counts.time_wait,
            State::CloseWait => counts.close_wait,
            State::LastAck => counts.last_ack,
            State::Closing => counts.closing,
        };
        (state(of), sockets)
    })
}

/// Events per minute by the label `event`; a counter that the kernel does not have is absent.
pub fn events(rates: &Rates) -> impl Iterator<Item = (&'static str, u64)> {
    let events = [
        (OVERFLOW, rates.overflows),
        ("abort_on_memory", rates.aborts_on_memory),
        ("abort_on_timeout", rates.aborts_on_timeout),
        ("abort_on_close", rates.aborts_on_close),
        ("abort_on_data", rates.aborts_on_data),
        ("abort_on_linger", rates.aborts_on_linger),
        ("abort_failed", rates.aborts_failed),
        (RESET_SENT, rates.resets_sent),
        ("established_reset", rates.established_resets),
        (REUSED, rates.reused),
        ("paws_rejected", rates.paws_rejected),
        ("connect", rates.connects),
        ("accept", rates.accepts),
        ("failed_connect", rates.failed_connects),
        ("retransmission", rates.retransmissions),
    ];
    events.into_iter().filter_map(|(event, rate)| Some((event, rate?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_counted_under_its_own_label() {
        let counts = SocketCounts {
            fin_wait1: 1,
            fin_wait2: 2,
            time_wait: 3,
            close_wait: 4,
            last_ack: 5,
            closing: 6,
            orphans: 7,
            ..SocketCounts::default()
        };
        assert_eq!(
            states(&counts),
            [
                ("fin_wait1", 1),
                ("fin_wait2", 2),
                ("time_wait", 3),
                ("close_wait", 4),
                ("last_ack", 5),
                ("closing", 6)
            ]
        );
    }

    #[test]
    fn a_counter_that_the_kernel_does_not_have_is_absent_and_not_0() {
        let rates = Rates { overflows: Some(0), reused: Some(7), ..Rates::default() };
        assert_eq!(events(&rates).collect::<Vec<_>>(), [("time_wait_overflow", 0), ("time_wait_reused", 7)]);
    }
}
