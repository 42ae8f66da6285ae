//! The kernel's own dump of TCP sockets, through a netlink socket: what `ss` uses. It needs no capability.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, recv, send, socket_with,
};
use tcp_close::sockets::{Socket, SocketCounts, Sockstat, State, Tally};

use crate::procfs::Procfs;

/// `TCPDIAG_GETSOCK`: dumps IPv4 and IPv6 in one walk of the table, where `SOCK_DIAG_BY_FAMILY` needs two (measured on
/// 6.18.44: 1.05 ms against 2.85).
const TCPDIAG_GETSOCK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;

/// `struct nlmsghdr`
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req` begins with four bytes and a `struct inet_diag_sockid` of 48.
const STATES_OFFSET: usize = HEADER_BYTES + 4 + 48;
const REQUEST_BYTES: usize = STATES_OFFSET + 8;
/// Where `struct inet_diag_msg` has the state, the timer, and, after a sockid and four numbers, the inode.
const STATE_OFFSET: usize = 1;
const TIMER_OFFSET: usize = 2;
const QUEUE_OFFSET: usize = 4 + 48 + 8;
const INODE_OFFSET: usize = 4 + 48 + 16;
const MESSAGE_BYTES: usize = INODE_OFFSET + 4;
/// The kernel fills at most this much at a time.
const BUFFER_BYTES: usize = 32 * 1024;

/// How often two readings that contradict each other are taken anew.
const ATTEMPTS: usize = 3;

/// The counts of the agent's own network namespace, and the machine's orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Of the own namespace.
    pub counts: SocketCounts,
    /// Of the machine.
    pub machine_orphans: u64,
}

/// Counts closing sockets.
///
/// TIME_WAIT is not dumped, which keeps a sample cheap however many there are: it is sockstat's `tw` less the mini-sockets in
/// FIN_WAIT2.
///
/// # Errors
/// Where the kernel gives no dump (module inet_diag missing) or no sockstat: then the counts are unknown.
pub fn sample(procfs: &Procfs) -> io::Result<Sample> {
    for _ in 0..ATTEMPTS {
        let tally = dump()?;
        let text = procfs.sockstat().map_err(io::Error::other)?;
        let sockstat =
            Sockstat::parse(&text).ok_or_else(|| io::Error::other("sockstat has no line for TCP"))?;
        if let Some(counts) = tally.with_tw(sockstat.tw) {
            return Ok(Sample { counts, machine_orphans: sockstat.machine_orphans });
        }
    }
    Err(io::Error::other("sockets change faster than they can be counted"))
}

/// Adds up every closing socket but those in TIME_WAIT.
fn dump() -> io::Result<Tally> {
    let socket = open()?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut tally = Tally::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if add_messages(&buffer[..length.min(BUFFER_BYTES)], &mut tally)? == Progress::Done {
            return Ok(tally);
        }
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

fn request() -> [u8; REQUEST_BYTES] {
    let states: u32 =
        State::ALL.iter().filter(|state| **state != State::TimeWait).map(|state| state.mask()).sum();
    let mut request = [0; REQUEST_BYTES];
    let length = u32::try_from(REQUEST_BYTES).unwrap_or_default();
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&TCPDIAG_GETSOCK.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[STATES_OFFSET..STATES_OFFSET + 4].copy_from_slice(&states.to_ne_bytes());
    request
}

/// Whether a dump goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another answer follows.
    More,
    /// This was the last one.
    Done,
}

/// Adds the messages of one answer, which may hold many.
///
/// # Errors
/// Where the kernel says that it gives no dump, or a message is cut short.
pub fn add_messages(mut answer: &[u8], tally: &mut Tally) -> io::Result<Progress> {
    while let Some(header) = answer.first_chunk::<HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = answer.get(HEADER_BYTES..length) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's dump is cut short"));
        };
        match kind {
            NLMSG_DONE => return Ok(Progress::Done),
            NLMSG_ERROR => return Err(error_of(body)),
            _ => add_socket(body, tally),
        }
        // Messages start at multiples of four.
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Progress::More)
}

fn error_of(body: &[u8]) -> io::Error {
    let errno = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(errno.saturating_neg())
}

fn add_socket(body: &[u8], tally: &mut Tally) {
    let Some(message) = body.first_chunk::<MESSAGE_BYTES>() else { return };
    let number =
        |offset: usize| message[offset..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    if let Some(state) = State::from_number(message[STATE_OFFSET]) {
        tally.add(Socket {
            state,
            timer: message[TIMER_OFFSET],
            unacknowledged: number(QUEUE_OFFSET),
            inode: number(INODE_OFFSET),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER_BYTES];
        message.extend_from_slice(body);
        let length = u32::try_from(message.len()).unwrap();
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn socket(state: State, timer: u8, inode: u32) -> Vec<u8> {
        let mut body = vec![0; MESSAGE_BYTES];
        body[STATE_OFFSET] = state as u8;
        body[TIMER_OFFSET] = timer;
        body[INODE_OFFSET..].copy_from_slice(&inode.to_ne_bytes());
        message(TCPDIAG_GETSOCK, &body)
    }

    #[test]
    fn an_answer_with_many_messages_is_added_up() {
        let answer =
            [socket(State::FinWait1, 1, 0), socket(State::CloseWait, 0, 9), message(NLMSG_DONE, &[0; 4])]
                .concat();
        let mut tally = Tally::default();
        assert_eq!(add_messages(&answer, &mut tally).unwrap(), Progress::Done);
        let counts = tally.with_tw(0).unwrap();
        assert_eq!((counts.fin_wait1, counts.close_wait, counts.orphans), (1, 1, 1));
    }

    #[test]
    fn an_error_of_the_kernel_is_an_error_not_a_zero() {
        let answer = message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes());
        let error = add_messages(&answer, &mut Tally::default()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn an_error_number_that_has_no_opposite_is_an_error() {
        let answer = message(NLMSG_ERROR, &i32::MIN.to_ne_bytes());
        assert!(add_messages(&answer, &mut Tally::default()).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        let mut answer = socket(State::FinWait1, 1, 0);
        answer.truncate(answer.len() - 4);
        assert!(add_messages(&answer, &mut Tally::default()).is_err());
        assert!(add_messages(&[0; HEADER_BYTES], &mut Tally::default()).is_err());
    }

    #[test]
    fn the_running_kernel_answers() {
        sample(&Procfs::new("/proc", None)).unwrap();
    }
}
