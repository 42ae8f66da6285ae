//! What the text files of a network namespace say: `/proc/PID/net/tcp` and `tcp6`, `sockstat` and `sockstat6`.
//!
//! A line that is not what the kernel writes makes a whole file unknown: a count that leaves it out would be wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcp_close::sockets::{Socket, State};

/// The columns that are read, and those before them: where a kernel puts another one among them, nothing is read.
const COLUMNS: [&[u8]; 12] = [
    b"sl",
    b"local_address",
    b"rem_address",
    b"st",
    b"tx_queue",
    b"rx_queue",
    b"tr",
    b"tm->when",
    b"retrnsmt",
    b"uid",
    b"timeout",
    b"inode",
];
/// What `tcp6` calls the third column.
const REMOTE_OF_TCP6: &[u8] = b"remote_address";
/// The kernel's longest line, of `tcp6`, has about 200.
const LINE_BYTES_MAX: usize = 1024;
/// Of a 32-bit kernel.
const POINTER_DIGITS: usize = 8;
/// The number of LISTEN in `include/net/tcp_states.h`.
const LISTEN: u8 = 10;

/// A file does not hold what the kernel writes into such a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not what the kernel writes there")]
pub struct Malformed {
    /// Which line, from 1.
    pub line: usize,
}

/// A socket as a line shows it. What is not needed of each is kept as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    local: &'a [u8],
    remote: &'a [u8],
    state: u8,
    timer: u8,
    unacknowledged: u32,
    inode: u32,
}

impl Line<'_> {
    /// The socket, if it closes.
    pub fn closing(&self) -> Option<Socket> {
        let Self { timer, unacknowledged, inode, .. } = *self;
        Some(Socket { state: State::from_number(self.state)?, timer, unacknowledged, inode })
    }

    /// Whether it waits for connections.
    pub fn listens(&self) -> bool {
        self.state == LISTEN
    }

    /// This end.
    pub fn local(&self) -> Option<(IpAddr, u16)> {
        end(self.local)
    }

    /// The other end.
    pub fn remote(&self) -> Option<(IpAddr, u16)> {
        end(self.remote)
    }
}

/// Reads `tcp` or `tcp6` piece by piece, wherever the pieces end.
#[derive(Debug, Default)]
pub struct Table {
    /// The start of a line whose end is in the next piece.
    begun: Vec<u8>,
    lines: usize,
}

impl Table {
    /// Reads the next piece, and hands out each line that it completes.
    ///
    /// # Errors
    /// At the first line that is not what the kernel writes.
    pub fn read(&mut self, mut piece: &[u8], each: &mut impl FnMut(&Line<'_>)) -> Result<(), Malformed> {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            if self.begun.is_empty() {
                self.line(line, each)?;
            } else {
                let mut begun = std::mem::take(&mut self.begun);
                begun.extend_from_slice(line);
                self.line(&begun, each)?;
            }
        }
        self.begun.extend_from_slice(piece);
        if self.begun.len() > LINE_BYTES_MAX { Err(self.malformed()) } else { Ok(()) }
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// Where the last line has no end, or there was none.
    pub fn end(self) -> Result<(), Malformed> {
        if self.lines > 0 && self.begun.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(&Line<'_>)) -> Result<(), Malformed> {
        if line.len() > LINE_BYTES_MAX || (self.lines == 0 && !is_head(line)) {
            return Err(self.malformed());
        }
        if self.lines > 0 {
            each(&parse(line).ok_or_else(|| self.malformed())?);
        }
        self.lines += 1;
        Ok(())
    }

    /// The line after those that were understood.
    fn malformed(&self) -> Malformed {
        Malformed { line: self.lines + 1 }
    }
}

fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ').filter(|field| !field.is_empty())
}

fn is_head(line: &[u8]) -> bool {
    let mut fields = fields(line);
    let mut is_next = |expected: &[u8]| {
        let known = |field| field == expected || (expected == COLUMNS[2] && field == REMOTE_OF_TCP6);
        fields.next().is_some_and(known)
    };
    // A later kernel may add columns; the numbers of a line show that the end of the head is lost.
    let is_name = |field: &[u8]| field.iter().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_digit());
    COLUMNS.into_iter().all(&mut is_next) && fields.all(is_name)
}

/// `0: 0100007F:1F90 0100007F:C350 06 00000000:00000000 03:00000176 00000000 0 0 0 3 00000000a1b2c3d4`
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = fields(line);
    decimal(fields.next()?.strip_suffix(b":")?)?;
    let [local, remote] = [fields.next()?, fields.next()?];
    let state = hexadecimal(fields.next().filter(|field| field.len() == 2)?)?;
    let (unacknowledged, received) = halves(fields.next()?)?;
    let (timer, when) = halves(fields.next()?)?;
    let retransmits = hexadecimal(fields.next()?);
    let [user, timeout, inode] = [fields.next()?, fields.next()?, fields.next()?].map(decimal);
    // Two more are in every line: they show that nothing is missing before them, and nothing too many.
    let [references, address] = [fields.next()?, fields.next()?];
    let known = is_end(local) && is_end(remote) && decimal(references).is_some();
    let numbers = [hexadecimal(received), hexadecimal(when), retransmits, user, timeout];
    let is_whole = known && numbers.iter().all(Option::is_some) && address.len() >= POINTER_DIGITS;
    // The start of another line would have a colon.
    (is_whole && !fields.any(|field| field.contains(&b':'))).then_some(())?;
    Some(Line {
        local,
        remote,
        state: u8::try_from(state).ok()?,
        timer: u8::try_from(hexadecimal(timer)?).ok()?,
        unacknowledged: u32::try_from(hexadecimal(unacknowledged)?).ok()?,
        inode: u32::try_from(inode?).unwrap_or(u32::MAX),
    })
}

fn halves(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    Some((&field[..colon], &field[colon + 1..]))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    number(digits, 10)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    number(digits, 16)
}

/// Digits and nothing else; the standard library would take a sign.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let digit = char::from(*digit).to_digit(radix)?;
        number.checked_mul(radix.into())?.checked_add(digit.into())
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// `0100007F:1F90`, and for IPv6 four times as many digits before the colon.
fn is_end(text: &[u8]) -> bool {
    let (address, port) = match text.len() {
        13 | 37 => text.split_at(text.len() - 5),
        _ => return false,
    };
    port[0] == b':' && address.iter().chain(&port[1..]).all(u8::is_ascii_hexdigit)
}

fn end(text: &[u8]) -> Option<(IpAddr, u16)> {
    let (address, port) = halves(text)?;
    // Each 32 bits are one number in the order of this machine.
    let word = |digits: &[u8]| Some(u32::try_from(hexadecimal(digits)?).ok()?.to_ne_bytes());
    let ip = if address.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(address)?))
    } else {
        let mut bytes = [0; 16];
        for (four, digits) in bytes.chunks_exact_mut(4).zip(address.chunks(8)) {
            four.copy_from_slice(&word(digits)?);
        }
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some((ip, u16::try_from(hexadecimal(port)?).ok()?))
}

/// A number of `sockstat` or `sockstat6`: `inuse` on the line `TCP6: inuse 3`.
pub fn in_sockstat(text: &str, line: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))?;
    let mut words = line.split_ascii_whitespace();
    while let (Some(field), Some(value)) = (words.next(), words.next()) {
        if field == name {
            return value.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcp_close::sockets::{SocketCounts, Tally};

    use super::*;

    /// Captured from 6.18.44: listeners, and sockets in each state that closes but CLOSING.
    const TCP: &str = include_str!("../../../fuzz/seeds/kernel_text/tcp");
    const TCP6: &str = include_str!("../../../fuzz/seeds/kernel_text/tcp6");
    /// What `ss` listed of the first at the same moment; of the second it listed twice as many each.
    const LISTED: SocketCounts = SocketCounts {
        time_wait: 3,
        fin_wait1: 3,
        fin_wait2: 5,
        closing: 0,
        close_wait: 4,
        last_ack: 1,
        orphans: 4,
        zero_window_orphans: 1,
        fin_wait2_held: 2,
        unaccepted: 1,
    };

    fn counts(text: &str, piece: usize) -> Result<SocketCounts, Malformed> {
        let mut tally = Tally::default();
        let mut each = |line: &Line<'_>| line.closing().into_iter().for_each(|socket| tally.add(socket));
        let mut table = Table::default();
        text.as_bytes().chunks(piece).try_for_each(|piece| table.read(piece, &mut each))?;
        table.end()?;
        Ok(tally.counts())
    }

    #[test]
    fn the_counts_of_both_families_are_those_of_ss() {
        assert_eq!(counts(TCP, 4096), Ok(LISTED));
        assert_eq!(counts(TCP6, 4096), Ok(LISTED + LISTED));
    }

    #[test]
    fn it_does_not_matter_where_a_piece_ends() {
        for piece in [1, 7, 149, 150, 151] {
            assert_eq!(counts(TCP, piece), Ok(LISTED), "{piece}");
        }
    }

    #[test]
    fn a_socket_in_closing_is_counted() {
        let counts = counts(&TCP.replacen(" 09 00000001:", " 0B 00000001:", 1), 4096).unwrap();
        assert_eq!((counts.closing, counts.last_ack, counts.orphans), (1, 0, 4));
    }

    #[test]
    fn a_line_that_lacks_a_field_makes_the_whole_file_unknown() {
        let line = TCP.lines().nth(8).unwrap();
        for field in fields(line.as_bytes()).take(COLUMNS.len()) {
            let text = TCP.replacen(line, &line.replacen(std::str::from_utf8(field).unwrap(), "", 1), 1);
            assert_eq!(counts(&text, 4096), Err(Malformed { line: 9 }), "without {field:?}");
        }
    }

    #[test]
    fn a_line_with_another_field_before_the_inode_makes_the_whole_file_unknown() {
        let line = TCP.lines().nth(8).unwrap();
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        for at in 0..10 {
            let wider = [&fields[..at], &["7"], &fields[at..]].concat().join(" ");
            assert_eq!(counts(&TCP.replacen(line, &wider, 1), 4096), Err(Malformed { line: 9 }), "{wider}");
        }
        let longer = format!("{line} 7");
        assert_eq!(counts(&TCP.replacen(line, &longer, 1), 4096), Ok(LISTED), "at the end it is harmless");
    }

    #[test]
    fn a_kernel_with_another_column_is_not_read_at_all() {
        for (before, after) in [(" timeout", " mark timeout"), (" st ", " "), ("tr tm->when", "tm->when tr")]
        {
            assert_eq!(counts(&TCP.replacen(before, after, 1), 4096), Err(Malformed { line: 1 }));
        }
        assert_eq!(
            counts(&TCP.replacen("inode ", "inode new ", 1), 4096),
            Ok(LISTED),
            "at the end it is harmless"
        );
    }

    #[test]
    fn a_file_that_ends_in_the_middle_is_unknown() {
        for text in ["", &TCP[..60], &TCP[..TCP.len() - 1], &TCP[..TCP.len() - 80]] {
            assert!(counts(text, 4096).is_err(), "{}", text.len());
        }
    }

    #[test]
    fn a_line_without_end_needs_no_memory_without_end() {
        let mut table = Table::default();
        assert!(table.read(&[b'0'; 2 * LINE_BYTES_MAX], &mut |_| {}).is_err());
    }

    #[test]
    fn both_ends_are_understood_in_both_families() {
        let ends = |text: &str, line: usize| {
            let line = parse(text.lines().nth(line).unwrap().as_bytes()).unwrap();
            (line.local().unwrap(), line.remote().unwrap())
        };
        let [v4, v6]: [IpAddr; 2] = ["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap());
        assert_eq!(ends(TCP, 9), ((v4, 33918), (v4, 8083)));
        assert_eq!(ends(TCP6, 8).0.0, v6);
    }

    #[test]
    fn sockstat_is_read_by_line_and_field() {
        let text = "TCP: inuse 20 orphan 12\nTCP6: inuse 33\n";
        assert_eq!(
            (in_sockstat(text, "TCP", "inuse"), in_sockstat(text, "TCP6", "inuse")),
            (Some(20), Some(33))
        );
        for text in ["", "TCP6: inuse", "TCP6: inuse x", "TCP: inuse 1"] {
            assert_eq!(in_sockstat(text, "TCP6", "inuse"), None, "{text:?}");
        }
    }

    /// Whether the table with this byte in that place is no table, or shows every socket.
    fn hides_nothing_with(at: usize, byte: u8) -> bool {
        let mut text = TCP.as_bytes().to_vec();
        text[at] = byte;
        let (mut table, mut seen) = (Table::default(), 0);
        let read = table.read(&text, &mut |_| seen += 1).and_then(|()| table.end());
        read.is_err() || seen == TCP.lines().count() - 1
    }

    #[test]
    fn a_lost_end_of_a_line_never_hides_a_socket() {
        for (at, _) in TCP.match_indices('\n') {
            for byte in 0..=u8::MAX {
                assert!(hides_nothing_with(at, byte), "{byte} at {at}");
            }
        }
    }

    proptest! {
        /// A changed byte may change what a line says, not how many sockets there are.
        #[test]
        fn a_changed_byte_never_hides_a_socket(at in 0..TCP.len(), byte in any::<u8>()) {
            prop_assert!(hides_nothing_with(at, byte));
        }
    }
}
