//! How closing sockets are counted.

use std::ops::Add;

/// TCP states that a closing connection passes through, with the kernel's numbers (`include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Our FIN is not acknowledged.
    FinWait1 = 4,
    /// Our FIN is acknowledged, the peer's has not come.
    FinWait2 = 5,
    /// Both have closed; kept against late segments.
    TimeWait = 6,
    /// The peer has closed, our program has not.
    CloseWait = 8,
    /// The peer has closed, then we; our FIN is not acknowledged.
    LastAck = 9,
    /// Both have closed at once; our FIN is not acknowledged.
    Closing = 11,
}

impl State {
    /// Every closing state.
    pub const ALL: [Self; 6] =
        [Self::FinWait1, Self::FinWait2, Self::TimeWait, Self::CloseWait, Self::LastAck, Self::Closing];

    /// The state of this kernel number, if it is a closing one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// The bit that selects it in a dump by sock_diag.
    pub const fn mask(self) -> u32 {
        1 << self as u8
    }
}

/// `idiag_timer` of a mini-socket: TIME_WAIT, or FIN_WAIT2 whose program has closed it.
const TIMER_TIME_WAIT: u8 = 3;

/// Counts of one network namespace at one moment, IPv4 and IPv6 together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounts {
    /// In TIME_WAIT; those in FIN_WAIT2 are not among them, although sockstat's `tw` counts both.
    pub time_wait: u64,
    /// In FIN_WAIT1.
    pub fin_wait1: u64,
    /// In FIN_WAIT2: those that still have an owner, and those that wait after close().
    pub fin_wait2: u64,
    /// In CLOSING.
    pub closing: u64,
    /// In CLOSE_WAIT, those that no program has accepted yet among them.
    pub close_wait: u64,
    /// In LAST_ACK.
    pub last_ack: u64,
    /// Full sockets without an owner, in FIN_WAIT1, CLOSING, LAST_ACK or FIN_WAIT2. Mini-sockets hold no such
    /// memory and are not orphans to the kernel either.
    pub orphans: u64,
}

impl Add for SocketCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            time_wait: self.time_wait + other.time_wait,
            fin_wait1: self.fin_wait1 + other.fin_wait1,
            fin_wait2: self.fin_wait2 + other.fin_wait2,
            closing: self.closing + other.closing,
            close_wait: self.close_wait + other.close_wait,
            last_ack: self.last_ack + other.last_ack,
            orphans: self.orphans + other.orphans,
        }
    }
}

/// Adds up a dump, one socket at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    counts: SocketCounts,
    fin_wait2_minis: u64,
}

impl Tally {
    /// Counts a socket by what a dump says of it: its state, its timer, and the inode of its file (0: none).
    ///
    /// Inode 0 alone does not make an orphan: a connection that waits to be accepted has none either, in ESTABLISHED or
    /// CLOSE_WAIT (measured on 6.18.44).
    pub fn add(&mut self, state: State, timer: u8, inode: u32) {
        let counts = &mut self.counts;
        let mini = timer == TIMER_TIME_WAIT;
        let orphan = inode == 0 && !mini;
        match state {
            State::TimeWait => counts.time_wait += 1,
            State::CloseWait => counts.close_wait += 1,
            State::FinWait1 => {
                counts.fin_wait1 += 1;
                counts.orphans += u64::from(orphan);
            }
            State::FinWait2 => {
                counts.fin_wait2 += 1;
                counts.orphans += u64::from(orphan);
                self.fin_wait2_minis += u64::from(mini);
            }
            State::LastAck => {
                counts.last_ack += 1;
                counts.orphans += u64::from(orphan);
            }
            State::Closing => {
                counts.closing += 1;
                counts.orphans += u64::from(orphan);
            }
        }
    }

    /// The counts of a dump that left TIME_WAIT out, which is what makes it cheap: TIME_WAIT is then `tw` of sockstat less
    /// the mini-sockets in FIN_WAIT2. `None` where the two readings contradict each other, because sockets
    /// changed between them: read both again.
    pub fn with_tw(self, tw: u64) -> Option<SocketCounts> {
        let time_wait = tw.checked_sub(self.fin_wait2_minis)?;
        Some(SocketCounts { time_wait, ..self.counts })
    }
}

/// What `/proc/net/sockstat` says on its line `TCP:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sockstat {
    /// Mini-sockets of this namespace (since 4.11; before, of the machine), in TIME_WAIT and FIN_WAIT2.
    pub tw: u64,
    /// Orphans of the whole machine, whichever namespace reads it.
    pub machine_orphans: u64,
}

impl Sockstat {
    /// Finds the line `TCP: inuse 138 orphan 0 tw 14 alloc 145 mem 182`; `None` where it is not there or has
    /// no such fields.
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let field = |name: &str| words.chunks_exact(2).find(|pair| pair[0] == name)?[1].parse().ok();
        Some(Self { tw: field("tw")?, machine_orphans: field("orphan")? })
    }
}

/// Rounds to two significant digits, the precision of sums over a fleet: 28123 is 28000, 99 is 99.
pub fn two_digits(count: u64) -> u64 {
    let Some(scale) = count.checked_ilog10().map(|digits| 10_u64.pow(digits.saturating_sub(1))) else {
        return 0;
    };
    (count.saturating_add(scale / 2)) / scale * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(sockets: &[(State, u8, u32)]) -> Tally {
        let mut tally = Tally::default();
        for (state, timer, inode) in sockets {
            tally.add(*state, *timer, *inode);
        }
        tally
    }

    #[test]
    fn a_socket_without_owner_is_an_orphan_only_while_it_closes() {
        let counts = tally(&[
            (State::FinWait1, 1, 0),
            (State::Closing, 1, 0),
            (State::LastAck, 1, 0),
            (State::FinWait2, 2, 0),
            (State::CloseWait, 0, 0),
        ])
        .with_tw(0);
        assert_eq!(
            counts,
            Some(SocketCounts {
                fin_wait1: 1,
                closing: 1,
                last_ack: 1,
                fin_wait2: 1,
                close_wait: 1,
                orphans: 4,
                time_wait: 0
            })
        );
    }

    #[test]
    fn a_socket_with_an_owner_is_no_orphan() {
        let counts =
            tally(&[(State::FinWait1, 1, 77), (State::FinWait2, 0, 78), (State::LastAck, 1, 79)]).with_tw(0);
        assert_eq!(counts.map(|counts| counts.orphans), Some(0));
    }

    #[test]
    fn fin_wait2_after_close_is_told_from_time_wait() {
        let counts = tally(&[(State::FinWait2, 3, 0), (State::FinWait2, 0, 5)]).with_tw(11);
        assert_eq!(counts, Some(SocketCounts { time_wait: 10, fin_wait2: 2, ..SocketCounts::default() }));
    }

    #[test]
    fn readings_that_contradict_each_other_give_no_count() {
        assert_eq!(tally(&[(State::FinWait2, 3, 0)]).with_tw(0), None);
    }

    #[test]
    fn sockstat_is_read_by_field_name() {
        let text = "sockets: used 251\nTCP: inuse 138 orphan 3 tw 14 alloc 145 mem 182\nUDP: inuse 1 mem 0\n";
        assert_eq!(Sockstat::parse(text), Some(Sockstat { tw: 14, machine_orphans: 3 }));
    }

    #[test]
    fn a_sockstat_that_lacks_a_field_is_unknown_not_zero() {
        for text in ["", "TCP: inuse 1", "TCP: orphan x tw 1", "TCP: orphan 1 tw", "TCP6: orphan 1 tw 1"] {
            assert_eq!(Sockstat::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn sums_have_two_significant_digits() {
        for (count, rounded) in
            [(0, 0), (7, 7), (99, 99), (104, 100), (105, 110), (28_123, 28_000), (99_900, 100_000)]
        {
            assert_eq!(two_digits(count), rounded, "{count}");
        }
        assert!(two_digits(u64::MAX) > 0);
    }
}
