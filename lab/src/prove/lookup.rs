//! One socket, looked up by its addresses through the kernel's sock_diag: unlike a dump, which walks the table of the
//! whole machine, it costs the same few microseconds however many sockets there are.

use std::{io, net::SocketAddrV4, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, recv, send, socket_with,
};
use tcp_close::sockets::State;

/// `SOCK_DIAG_BY_FAMILY`
const LOOK_UP: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// `INET_DIAG_NOCOOKIE`: whichever socket has these addresses.
const ANY_COOKIE: [u8; 8] = [0xff; 8];
/// `idiag_timer` of a mini-socket.
const TIMER_TIME_WAIT: u8 = 3;

/// `struct nlmsghdr`
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req_v2`: eight bytes and a `struct inet_diag_sockid` of 48.
const REQUEST_BYTES: usize = HEADER_BYTES + 8 + 48;
/// Where the sockid has the ports, the addresses and the cookie.
const SOCKID: usize = HEADER_BYTES + 8;
const LOCAL_ADDRESS: usize = SOCKID + 4;
const REMOTE_ADDRESS: usize = LOCAL_ADDRESS + 16;
const COOKIE: usize = SOCKID + 40;
/// More than one `struct inet_diag_msg` with its attributes.
const ANSWER_BYTES: usize = 4096;

/// The two addresses of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddrV4,
    pub(crate) remote: SocketAddrV4,
}

/// What the kernel says of a socket that closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) state: State,
    /// Whether all that is left is a mini-socket.
    pub(crate) mini: bool,
}

/// Looks sockets up in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Lookup {
    netlink: OwnedFd,
}

impl Lookup {
    pub(crate) fn open() -> io::Result<Self> {
        let netlink = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        connect(&netlink, &netlink::SocketAddrNetlink::new(0, 0))?;
        Ok(Self { netlink })
    }

    /// The socket with these ends; `None` where there is none, or where it does not close.
    pub(crate) fn closing(&self, ends: Ends) -> io::Result<Option<Closing>> {
        send(&self.netlink, &request(ends), SendFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES];
        let (_, length) = recv(&self.netlink, answer.as_mut_slice(), RecvFlags::empty())?;
        understand(answer.get(..length).unwrap_or(&answer))
    }
}

fn request(Ends { local, remote }: Ends) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    let mut put = |at: usize, bytes: &[u8]| request[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &u32::try_from(REQUEST_BYTES).unwrap_or_default().to_ne_bytes());
    put(4, &LOOK_UP.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(HEADER_BYTES, &[AF_INET, IPPROTO_TCP]);
    put(HEADER_BYTES + 4, &u32::MAX.to_ne_bytes());
    put(SOCKID, &local.port().to_be_bytes());
    put(SOCKID + 2, &remote.port().to_be_bytes());
    put(LOCAL_ADDRESS, &local.ip().octets());
    put(REMOTE_ADDRESS, &remote.ip().octets());
    put(COOKIE, &ANY_COOKIE);
    request
}

fn understand(answer: &[u8]) -> io::Result<Option<Closing>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut short");
    let header = answer.first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
    let body = &answer[HEADER_BYTES..];
    if u16::from_ne_bytes([header[4], header[5]]) == NLMSG_ERROR {
        let errno = body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or_else(short)?;
        let error = io::Error::from_raw_os_error(-errno);
        return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    }
    // `struct inet_diag_msg` begins with the family, the state and the timer.
    let [_, state, timer] = body.first_chunk::<3>().ok_or_else(short)?;
    let mini = *timer == TIMER_TIME_WAIT;
    Ok(State::from_number(*state).map(|state| Closing { state, mini }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; HEADER_BYTES];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer.extend_from_slice(body);
        answer
    }

    #[test]
    fn a_socket_that_is_not_there_is_none_and_any_other_error_is_an_error() {
        let said = |errno: i32| understand(&answer(NLMSG_ERROR, &(-errno).to_ne_bytes()));
        assert_eq!(said(rustix::io::Errno::NOENT.raw_os_error()).unwrap(), None);
        assert!(said(rustix::io::Errno::PERM.raw_os_error()).is_err());
        assert!(understand(&[0; 3]).is_err());
    }

    #[test]
    fn fin_wait2_after_close_is_told_from_one_with_an_owner() {
        let seen = |timer| understand(&answer(LOOK_UP, &[AF_INET, 5, timer])).unwrap();
        assert_eq!(seen(3), Some(Closing { state: State::FinWait2, mini: true }));
        assert_eq!(seen(2), Some(Closing { state: State::FinWait2, mini: false }));
    }

    #[test]
    fn an_open_connection_does_not_close() {
        assert_eq!(understand(&answer(LOOK_UP, &[AF_INET, 1, 0])).unwrap(), None);
    }
}
