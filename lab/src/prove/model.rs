//! How long a closing socket lives by the kernel's code (`net/ipv4/tcp_timer.c`, `net/ipv4/tcp.c`, read from 4.4 to 7.2).

use std::{ops::RangeInclusive, time::Duration};

/// The retransmission timeout between sockets of one machine, where tcp_rto_min_us has its default.
pub(crate) const RTO: Duration = Duration::from_millis(200);
/// `TCP_TIMEWAIT_LEN`
pub(crate) const TIME_WAIT: Duration = Duration::from_secs(60);
/// `TCP_RTO_MIN`: what the model of tcp_orphan_retries is made of, whatever the connection's own timeout.
const MODEL_RTO: Duration = Duration::from_millis(200);
/// On a busy machine an end is seen late.
const SEEN_LATE: Duration = Duration::from_millis(250);

/// How long tcp_orphan_retries lets a FIN be retransmitted, by the kernel's model, at least and at most.
///
/// The first retransmission comes after two timeouts at most. From then on the orphan is given up at the first retransmission
/// that finds `((2 << retries) - 1) x 0.2 s` elapsed. These come at doubling intervals, so the one before may have missed
/// it by little.
pub(crate) fn orphan(retries: u32, rto: Duration) -> RangeInclusive<Duration> {
    let least = MODEL_RTO * ((2 << retries) - 1);
    least..=2 * least + 4 * rto
}

/// How long FIN_WAIT2 lasts after close(). Above 60 the full socket is kept for what exceeds 60, and then a mini-socket
/// for the same time again.
pub(crate) fn fin_wait2(fin_timeout: u32) -> Duration {
    let seconds = Duration::from_secs(fin_timeout.into());
    seconds.checked_sub(TIME_WAIT).filter(|beyond| !beyond.is_zero()).map_or(seconds, |beyond| 2 * beyond)
}

/// What may be seen of something that the kernel ends within this time: its timers are up to an eighth late
/// (`kernel/time/timer.c`).
pub(crate) fn seen(window: RangeInclusive<Duration>) -> RangeInclusive<Duration> {
    let (start, end) = window.into_inner();
    start..=end * 9 / 8 + SEEN_LATE
}

/// [`seen`], of a timer that runs this long.
pub(crate) fn seen_after(time: Duration) -> RangeInclusive<Duration> {
    seen(time..=time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fin_wait2_is_not_monotonic_above_60() {
        let seconds = [5, 60, 61, 65, 90, 120].map(|timeout| fin_wait2(timeout).as_secs());
        assert_eq!(seconds, [5, 60, 2, 10, 60, 120]);
    }

    #[test]
    fn an_orphan_lives_by_a_span_of_time_and_not_by_a_count() {
        let millis = |retries| {
            let (least, most) = orphan(retries, RTO).into_inner();
            (least.as_millis(), most.as_millis())
        };
        assert_eq!(millis(1), (600, 2000));
        assert_eq!(millis(4), (6200, 13_200));
        assert_eq!(millis(8), (102_200, 205_200));
    }
}
