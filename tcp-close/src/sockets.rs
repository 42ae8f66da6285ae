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

    /// What the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Closing => "CLOSING",
        }
    }

    /// The bit that selects it in a dump by sock_diag.
    pub const fn mask(self) -> u32 {
        1 << self as u8
    }
}

/// `idiag_timer` of a mini-socket: TIME_WAIT, or FIN_WAIT2 whose program has closed it.
const TIMER_TIME_WAIT: u8 = 3;
/// `idiag_timer` of a socket that asks whether the peer's window has opened.
const TIMER_PROBE: u8 = 4;

/// A closing socket as a dump or `/proc/net/tcp` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its state.
    pub state: State,
    /// Which timer runs: `idiag_timer`, or the column `tr`.
    pub timer: u8,
    /// Bytes that the peer has not acknowledged, its FIN among them: `idiag_wqueue`, or the column `tx_queue`.
    pub unacknowledged: u32,
    /// The inode of its file; 0: no program has it.
    pub inode: u32,
}

impl Socket {
    fn is_mini(self) -> bool {
        self.timer == TIMER_TIME_WAIT
    }

    /// Whether no program has it any longer. Inode 0 alone does not say so: a connection that waits to be accepted has none
    /// either, in ESTABLISHED or CLOSE_WAIT (measured on 6.18.44).
    fn is_orphan(self) -> bool {
        let closed_here =
            matches!(self.state, State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck);
        closed_here && self.inode == 0 && !self.is_mini()
    }

    /// Whether it is an orphan whose peer has closed its window: its data and its FIN wait to be sent.
    fn is_zero_window_orphan(self) -> bool {
        let waits = self.state == State::FinWait1 && self.timer == TIMER_PROBE && self.unacknowledged > 1;
        waits && self.is_orphan()
    }
}

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
    /// Among the orphans: in FIN_WAIT1 with data that the peer's closed window keeps from being sent.
    pub zero_window_orphans: u64,
    /// Of those in FIN_WAIT2: a program still has them, because it called shutdown() and not close(). tcp_fin_timeout does
    /// not end them.
    pub fin_wait2_held: u64,
    /// Of those in CLOSE_WAIT: no program has accepted them yet.
    pub unaccepted: u64,
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
            zero_window_orphans: self.zero_window_orphans + other.zero_window_orphans,
            fin_wait2_held: self.fin_wait2_held + other.fin_wait2_held,
            unaccepted: self.unaccepted + other.unaccepted,
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
    /// Counts a socket.
    pub fn add(&mut self, socket: Socket) {
        let counts = &mut self.counts;
        counts.orphans += u64::from(socket.is_orphan());
        counts.zero_window_orphans += u64::from(socket.is_zero_window_orphan());
        match socket.state {
            State::TimeWait => counts.time_wait += 1,
            State::FinWait1 => counts.fin_wait1 += 1,
            State::FinWait2 => {
                counts.fin_wait2 += 1;
                counts.fin_wait2_held += u64::from(socket.inode != 0);
                self.fin_wait2_minis += u64::from(socket.is_mini());
            }
            State::CloseWait => {
                counts.close_wait += 1;
                counts.unaccepted += u64::from(socket.inode == 0);
            }
            State::LastAck => counts.last_ack += 1,
            State::Closing => counts.closing += 1,
        }
    }

    /// The counts of a dump or a file that left nothing out.
    pub fn counts(self) -> SocketCounts {
        self.counts
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
        let field = |name: &str| {
            let mut words = line.split_ascii_whitespace();
            words.find(|word| *word == name).and_then(|_| words.next()?.parse().ok())
        };
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
        for &(state, timer, inode) in sockets {
            tally.add(Socket { state, timer, unacknowledged: 1, inode });
        }
        tally
    }

    #[test]
    fn an_orphan_whose_peer_has_closed_its_window_is_told_from_one_whose_fin_is_lost() {
        let orphan = |timer, unacknowledged| {
            let mut tally = Tally::default();
            tally.add(Socket { state: State::FinWait1, timer, unacknowledged, inode: 0 });
            let counts = tally.counts();
            (counts.orphans, counts.zero_window_orphans)
        };
        assert_eq!(orphan(TIMER_PROBE, 120_001), (1, 1));
        assert_eq!(orphan(1, 120_001), (1, 0), "it retransmits: the window is open");
        assert_eq!(orphan(TIMER_PROBE, 1), (1, 0), "only the FIN is left");
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
                unaccepted: 1,
                ..SocketCounts::default()
            })
        );
    }

    #[test]
    fn a_socket_with_an_owner_is_no_orphan() {
        let counts =
            tally(&[(State::FinWait1, 1, 77), (State::FinWait2, 0, 78), (State::LastAck, 1, 79)]).with_tw(0);
        assert_eq!(counts.map(|counts| (counts.orphans, counts.fin_wait2_held)), Some((0, 1)));
    }

    #[test]
    fn fin_wait2_after_close_is_told_from_time_wait() {
        let counts = tally(&[(State::FinWait2, 3, 0), (State::FinWait2, 0, 5)]).with_tw(11);
        assert_eq!(
            counts,
            Some(SocketCounts { time_wait: 10, fin_wait2: 2, fin_wait2_held: 1, ..SocketCounts::default() })
        );
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
