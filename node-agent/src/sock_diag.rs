//! The kernel's own dump of TCP sockets, through a netlink socket: what `ss` uses. It needs no capability.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, recv, send, socket_with,
};
use tcp_close::sockets::{Socket, SocketCounts, Sockstat, State, Tally};

use crate::procfs;

/// `TCPDIAG_GETSOCK`: dumps IPv4 and IPv6 in one walk of the table, where `SOCK_DIAG_BY_FAMILY` needs two (measured on
/// 6.18.44: 1.05 ms against 2.85).
const TCPDIAG_GETSOCK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

/// `struct nlmsghdr`
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req` begins with four bytes and a `struct inet_diag_sockid` of 48.
const STATES_OFFSET: usize = HEADER_BYTES + 4 + 48;
const REQUEST_BYTES: usize = STATES_OFFSET + 8;
/// Where `struct inet_diag_msg` has the family, the state, the timer, a sockid (ports, addresses), and, after four numbers,
/// the inode.
const FAMILY_OFFSET: usize = 0;
const STATE_OFFSET: usize = 1;
const TIMER_OFFSET: usize = 2;
const SOURCE_PORT_OFFSET: usize = 4;
const DESTINATION_PORT_OFFSET: usize = 6;
const SOURCE_OFFSET: usize = 8;
const DESTINATION_OFFSET: usize = 24;
const QUEUE_OFFSET: usize = 4 + 48 + 8;
const INODE_OFFSET: usize = 4 + 48 + 16;
const MESSAGE_BYTES: usize = INODE_OFFSET + 4;
/// The kernel fills at most this much at a time.
const BUFFER_BYTES: usize = 32 * 1024;

/// Every closing state but TIME_WAIT: what a dump copies is then little, however many sockets are in TIME_WAIT.
const CLOSING: u32 = State::FinWait1.mask()
    | State::FinWait2.mask()
    | State::CloseWait.mask()
    | State::LastAck.mask()
    | State::Closing.mask();
/// Every state in which a socket has a peer: `TCP_ESTABLISHED` and `TCP_SYN_SENT` beside the closing ones.
const CONNECTED: u32 = CLOSING | State::TimeWait.mask() | 1 << 1 | 1 << 2;

/// How often a dump that the kernel interrupted, or two readings that contradict each other, are taken anew.
const ATTEMPTS: usize = 3;

/// The counts of a sockstat that was read.
pub(crate) fn sockstat(read: Result<&str, procfs::Error>) -> io::Result<Sockstat> {
    Sockstat::parse(read.map_err(io::Error::other)?)
        .ok_or_else(|| io::Error::other("sockstat has no line for TCP, or not its fields orphan and tw"))
}

/// A connected socket of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection<'a>(pub(crate) &'a [u8; MESSAGE_BYTES]);

impl Connection<'_> {
    /// The socket, if it is in a closing state.
    pub fn closing(self) -> Option<Socket> {
        Some(Socket {
            state: State::from_number(self.0[STATE_OFFSET])?,
            timer: self.0[TIMER_OFFSET],
            unacknowledged: u32::from_ne_bytes(self.bytes(QUEUE_OFFSET)),
            inode: u32::from_ne_bytes(self.bytes(INODE_OFFSET)),
        })
    }

    /// This end's port.
    pub fn source_port(self) -> u16 {
        u16::from_be_bytes(self.bytes(SOURCE_PORT_OFFSET))
    }

    /// The other end's port.
    pub fn destination_port(self) -> u16 {
        u16::from_be_bytes(self.bytes(DESTINATION_PORT_OFFSET))
    }

    /// This end's address.
    pub fn source(self) -> IpAddr {
        self.address(SOURCE_OFFSET)
    }

    /// The other end's address.
    pub fn destination(self) -> IpAddr {
        self.address(DESTINATION_OFFSET)
    }

    /// An IPv4 address that an IPv6 socket uses is one all the same: both take ports from the same pair.
    fn address(self, offset: usize) -> IpAddr {
        if u16::from(self.0[FAMILY_OFFSET]) == AddressFamily::INET6.as_raw() {
            Ipv6Addr::from(self.bytes::<16>(offset)).to_canonical()
        } else {
            Ipv4Addr::from(self.bytes::<4>(offset)).into()
        }
    }

    /// Every offset here lies within the message.
    fn bytes<const N: usize>(self, offset: usize) -> [u8; N] {
        self.0.get(offset..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }
}

/// Gives sockets, one by one.
pub trait Dump: fmt::Debug + Send {
    /// Gives every socket in one of these states, a mask as [`State::mask`] makes them, to `add`.
    ///
    /// # Errors
    /// Where the kernel gives no dump.
    fn dump(&mut self, states: u32, add: &mut dyn FnMut(Connection<'_>)) -> io::Result<Progress>;
}

/// Dumps sockets of the agent's own network namespace.
#[derive(Debug)]
pub struct SockDiag(Box<dyn Dump>);

impl Default for SockDiag {
    fn default() -> Self {
        Self(Box::<Netlink>::default())
    }
}

impl SockDiag {
    /// Counts what this one gives.
    pub fn of(dump: impl Dump + 'static) -> Self {
        Self(Box::new(dump))
    }

    /// Counts closing sockets; `sockstat` is read after each dump.
    ///
    /// TIME_WAIT is not dumped, which keeps this cheap however many there are: it is sockstat's `tw` less the mini-sockets in
    /// FIN_WAIT2.
    ///
    /// # Errors
    /// Where the kernel gives no dump (module inet_diag missing) or no sockstat, or both contradict each other each time.
    pub fn closing(
        &mut self,
        mut sockstat: impl FnMut() -> io::Result<Sockstat>,
    ) -> io::Result<SocketCounts> {
        for _ in 0..ATTEMPTS {
            let tally: Tally = self.dump(CLOSING, &mut add_closing)?;
            if let Some(counts) = tally.with_tw(sockstat()?.tw) {
                return Ok(counts);
            }
        }
        Err(io::Error::other("sockets change faster than they can be counted"))
    }

    /// Adds up every socket that has a peer, with `add`. This copies 96 bytes for each.
    ///
    /// # Errors
    /// Where the kernel gives no dump (module inet_diag missing).
    pub fn connected<T: Default>(&mut self, mut add: impl FnMut(&mut T, Connection<'_>)) -> io::Result<T> {
        self.dump(CONNECTED, &mut add)
    }

    /// A dump that the kernel interrupted, because its table changed, is taken anew.
    fn dump<T: Default>(
        &mut self,
        states: u32,
        add: &mut impl FnMut(&mut T, Connection<'_>),
    ) -> io::Result<T> {
        for _ in 0..ATTEMPTS {
            let mut sum = T::default();
            let dumped = self.0.dump(states, &mut |connection| add(&mut sum, connection));
            let progress = dumped.map_err(explained)?;
            if !progress.interrupted {
                return Ok(sum);
            }
        }
        Err(io::Error::other("the kernel interrupted each dump of its sockets"))
    }
}

/// The running kernel's dump, again and again through one netlink socket.
#[derive(Debug, Default)]
struct Netlink {
    socket: Option<OwnedFd>,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Dump for Netlink {
    fn dump(&mut self, states: u32, add: &mut dyn FnMut(Connection<'_>)) -> io::Result<Progress> {
        // The rest of a dump that failed would be taken for the start of the next one.
        self.dump_once(states, add).inspect_err(|_| self.socket = None)
    }
}

impl Netlink {
    fn dump_once(&mut self, states: u32, add: &mut dyn FnMut(Connection<'_>)) -> io::Result<Progress> {
        self.sequence = self.sequence.wrapping_add(1);
        self.buffer.resize(BUFFER_BYTES, 0);
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open()?,
        };
        let socket = &*self.socket.insert(socket);
        send(socket, &request(states, self.sequence), SendFlags::empty())?;
        let mut progress = Progress::default();
        while !progress.done {
            let (_, length) = recv(socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let answer = self.buffer.get(..length).ok_or_else(cut_short)?;
            read_answer(answer, self.sequence, &mut progress, add)?;
        }
        Ok(progress)
    }
}

fn add_closing(tally: &mut Tally, connection: Connection<'_>) {
    if let Some(socket) = connection.closing() {
        tally.add(socket);
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

fn request(states: u32, sequence: u32) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    let length = u32::try_from(REQUEST_BYTES).unwrap_or_default();
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&TCPDIAG_GETSOCK.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[8..12].copy_from_slice(&sequence.to_ne_bytes());
    request[STATES_OFFSET..STATES_OFFSET + 4].copy_from_slice(&states.to_ne_bytes());
    request
}

/// How far a dump is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nothing follows.
    pub done: bool,
    /// The table changed meanwhile, so that sockets may be missing or twice in it.
    pub interrupted: bool,
}

/// Reads the messages of one answer, which may hold many, and gives each socket to `add`. What belongs to an earlier request
/// is passed over.
///
/// # Errors
/// Where the kernel says that it gives no dump, or a message is cut short.
pub fn read_answer(
    mut answer: &[u8],
    sequence: u32,
    progress: &mut Progress,
    add: &mut dyn FnMut(Connection<'_>),
) -> io::Result<()> {
    while !answer.is_empty() && !progress.done {
        let header = answer.first_chunk::<HEADER_BYTES>().ok_or_else(cut_short)?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = answer.get(HEADER_BYTES..length).ok_or_else(cut_short)?;
        // Messages start at multiples of four.
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
        if u32::from_ne_bytes([s0, s1, s2, s3]) != sequence {
            continue;
        }
        progress.interrupted |= u16::from_ne_bytes([f0, f1]) & NLM_F_DUMP_INTR != 0;
        match u16::from_ne_bytes([k0, k1]) {
            NLMSG_DONE => {
                progress.done = true;
                // A dump that fails on its way ends with the reason.
                errno_of(body).filter(|errno| *errno != 0).map_or(Ok(()), |errno| Err(error_of(errno)))?;
            }
            NLMSG_ERROR => return Err(error_of(errno_of(body).unwrap_or_default())),
            _ => add(Connection(body.first_chunk().ok_or_else(cut_short)?)),
        }
    }
    Ok(())
}

fn errno_of(body: &[u8]) -> Option<i32> {
    body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

fn error_of(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno.saturating_neg())
}

/// An error, with what is missing where the kernel gives no dump at all.
fn explained(error: io::Error) -> io::Error {
    let missing = [Errno::NOENT, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT];
    if missing.into_iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        let why = "the kernel gives no dump of sockets: is module tcp_diag there?";
        return io::Error::new(error.kind(), format!("{why} ({error})"));
    }
    error
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's dump is cut short")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SEQUENCE: u32 = 7;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER_BYTES];
        message.extend_from_slice(body);
        let length = u32::try_from(message.len()).unwrap();
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message[8..12].copy_from_slice(&SEQUENCE.to_ne_bytes());
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn socket(state: State, timer: u8, inode: u32) -> Vec<u8> {
        let mut body = vec![0; MESSAGE_BYTES];
        body[STATE_OFFSET] = state as u8;
        body[TIMER_OFFSET] = timer;
        body[INODE_OFFSET..].copy_from_slice(&inode.to_ne_bytes());
        message(TCPDIAG_GETSOCK, 0, &body)
    }

    /// A dump's message of an IPv4 or IPv6 connection.
    pub(crate) fn connection(
        state: u8,
        (source, source_port): (IpAddr, u16),
        (destination, destination_port): (IpAddr, u16),
    ) -> [u8; MESSAGE_BYTES] {
        let mut body = [0; MESSAGE_BYTES];
        body[STATE_OFFSET] = state;
        body[SOURCE_PORT_OFFSET..][..2].copy_from_slice(&source_port.to_be_bytes());
        body[DESTINATION_PORT_OFFSET..][..2].copy_from_slice(&destination_port.to_be_bytes());
        for (offset, address) in [(SOURCE_OFFSET, source), (DESTINATION_OFFSET, destination)] {
            let (family, octets) = match address {
                IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
                IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
            };
            body[FAMILY_OFFSET] = u8::try_from(family.as_raw()).unwrap();
            body[offset..offset + octets.len()].copy_from_slice(&octets);
        }
        body
    }

    fn tally(answer: &[u8]) -> io::Result<(Progress, SocketCounts)> {
        let (mut progress, mut tally) = (Progress::default(), Tally::default());
        read_answer(answer, SEQUENCE, &mut progress, &mut |connection| add_closing(&mut tally, connection))?;
        Ok((progress, tally.counts()))
    }

    #[test]
    fn an_answer_with_many_messages_is_added_up() {
        let answer =
            [socket(State::FinWait1, 1, 0), socket(State::CloseWait, 0, 9), message(NLMSG_DONE, 0, &[0; 4])]
                .concat();
        let (progress, counts) = tally(&answer).unwrap();
        assert_eq!(progress, Progress { done: true, interrupted: false });
        assert_eq!((counts.fin_wait1, counts.close_wait, counts.orphans), (1, 1, 1));
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_passed_over() {
        let mut late = socket(State::FinWait1, 1, 0);
        late[8] = 6;
        let (_, counts) = tally(&[late, socket(State::LastAck, 1, 5)].concat()).unwrap();
        assert_eq!((counts.fin_wait1, counts.last_ack), (0, 1));
    }

    #[test]
    fn a_dump_that_the_kernel_interrupted_is_told_from_a_whole_one() {
        let whole = [socket(State::FinWait1, 1, 0), message(NLMSG_DONE, 0, &[0; 4])].concat();
        let marked = message(NLMSG_DONE, NLM_F_DUMP_INTR, &[0; 4]);
        assert!(!tally(&whole).unwrap().0.interrupted);
        assert!(tally(&marked).unwrap().0.interrupted);
    }

    #[test]
    fn an_error_of_the_kernel_is_an_error_not_a_zero() {
        let error = tally(&message(NLMSG_ERROR, 0, &(-libc::EPERM).to_ne_bytes())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let error = tally(&message(NLMSG_DONE, 0, &(-libc::EBUSY).to_ne_bytes())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "also where it comes at the end");
    }

    #[test]
    fn a_kernel_that_gives_no_dump_is_told_from_one_that_failed_to() {
        let words = |errno| explained(io::Error::from_raw_os_error(errno)).to_string();
        for errno in [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT] {
            assert!(words(errno).contains("module tcp_diag"), "{}", words(errno));
        }
        assert!(!words(libc::ENOBUFS).contains("module tcp_diag"));
    }

    #[test]
    fn an_error_number_that_has_no_opposite_is_an_error() {
        assert!(tally(&message(NLMSG_ERROR, 0, &i32::MIN.to_ne_bytes())).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        let whole = socket(State::FinWait1, 1, 0);
        for length in 1..whole.len() {
            assert!(tally(&whole[..length]).is_err(), "{length}");
        }
        assert!(tally(&[0; HEADER_BYTES]).is_err());
    }

    #[test]
    fn a_message_too_short_for_a_socket_is_an_error_not_a_missing_socket() {
        assert!(tally(&message(TCPDIAG_GETSOCK, 0, &[State::FinWait1 as u8; 40])).is_err());
    }

    #[test]
    fn both_ends_of_a_connection_are_read() {
        let (near, far) = ([10, 0, 0, 1].into(), [192, 0, 2, 7].into());
        let body = connection(1, (near, 40_000), (far, 443));
        let it = Connection(&body);
        assert_eq!((it.source(), it.source_port()), (near, 40_000));
        assert_eq!((it.destination(), it.destination_port()), (far, 443));
        assert_eq!(it.closing(), None, "it is established");
    }

    #[test]
    fn an_ipv4_address_that_an_ipv6_socket_uses_is_the_same_address() {
        let mapped = |octets: [u8; 4]| IpAddr::from(Ipv4Addr::from(octets).to_ipv6_mapped());
        let body = connection(6, (mapped([10, 0, 0, 1]), 1), (mapped([10, 0, 0, 2]), 2));
        let it = Connection(&body);
        assert_eq!((it.source(), it.destination()), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
    }

    #[test]
    fn the_running_kernel_answers_again_and_again() {
        let mut sock_diag = SockDiag::default();
        for _ in 0..2 {
            sock_diag.closing(|| Ok(Sockstat { tw: u64::MAX, machine_orphans: 0 })).unwrap();
            sock_diag.connected(|count: &mut u64, _| *count += 1).unwrap();
        }
    }
}
