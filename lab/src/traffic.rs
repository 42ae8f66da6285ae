//! Real connections between two nodes, made to close in a way that somebody wants to see, and to stay there.
//!
//! Packets are dropped at their receiver, by a filter on its socket: dropped at the sender, the kernel would know, and
//! retransmit on another schedule.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, SockFilter, Socket, Type};

use crate::{
    error::{Error, Result},
    node::Node,
    report::{Seen, poll_until},
    sockets,
};

/// Flags of a TCP header.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;
/// Where a TCP header has them; that is where a filter on a TCP socket begins to count.
const FLAGS_OFFSET: u32 = 13;
/// Steps of a classic filter: `BPF_LD | BPF_B | BPF_ABS`, `BPF_JMP | BPF_JSET | BPF_K`, `BPF_RET | BPF_K`.
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Connections of one kind reach their state within milliseconds; a loaded machine may take longer.
const SETTLE: Duration = Duration::from_secs(15);

/// Sockets that stay as they are until this is dropped; then both sides end at once, by reset.
#[must_use = "sockets end when this is dropped"]
#[derive(Default)]
pub struct Held(Vec<Socket>);

impl Drop for Held {
    fn drop(&mut self) {
        for socket in &self.0 {
            // A socket that cannot be told to end at once ends like any other.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

impl Held {
    /// Holds these as well.
    pub fn and(mut self, mut other: Self) -> Self {
        self.0.append(&mut other.0);
        self
    }
}

/// TIME_WAIT on the client, which closes first. Nothing needs to be held: they last 60 s.
pub fn time_wait(client: &Node, server: &Node, count: usize) -> Result<()> {
    for (client, mut server) in connect(client, server, count)? {
        drop(client);
        // The end of the stream: the server closes second.
        server.read(&mut [0]).map_err(Error::system("read to the end of a connection"))?;
    }
    Ok(())
}

/// FIN_WAIT1 without an owner on the client: it has closed, and the server drops everything it sends.
pub fn fin_wait1_orphans(client: &Node, server: &Node, count: usize) -> Result<Held> {
    let mut held = Held::default();
    for (client, server) in connect(client, server, count)? {
        drop_all(&server)?;
        drop(client);
        held.0.push(server);
    }
    Ok(held)
}

/// FIN_WAIT2 after close() on the client, and CLOSE_WAIT on the server, whose program never closes.
pub fn fin_wait2_orphans(client: &Node, server: &Node, count: usize) -> Result<Held> {
    Ok(Held(connect(client, server, count)?.into_iter().map(|(_, server)| server).collect()))
}

/// FIN_WAIT2 with an owner on the client, which has only shut down, and CLOSE_WAIT on the server.
pub fn fin_wait2_held(client: &Node, server: &Node, count: usize) -> Result<Held> {
    let mut held = Held::default();
    for (client, server) in connect(client, server, count)? {
        shut_down(&client)?;
        held.0.extend([client, server]);
    }
    Ok(held)
}

/// LAST_ACK without an owner on the server: the client shut down, then dropped everything that the server sent when it
/// closed. On the client the sockets stay in FIN_WAIT2, with an owner.
pub fn last_ack(client: &Node, server: &Node, count: usize) -> Result<Held> {
    let pairs = connect(client, server, count)?;
    let before = sockets::listed(client)?.fin_wait2;
    for (client, _) in &pairs {
        shut_down(client)?;
    }
    let wanted = before + u64::try_from(count).unwrap_or(u64::MAX);
    poll_until("the clients are in FIN_WAIT2", SETTLE, || {
        let seen = sockets::listed(client)?.fin_wait2;
        Ok(Seen::when(seen >= wanted, || format!("{seen} of {wanted}")))
    })?;
    let mut held = Held::default();
    for (client, server) in pairs {
        drop_all(&client)?;
        drop(server);
        held.0.push(client);
    }
    Ok(held)
}

/// CLOSING without an owner on the server: both sides have sent their FIN before they saw the other's, and the client sees
/// nothing any more. On the client the sockets stay in FIN_WAIT1, with an owner.
pub fn closing(client: &Node, server: &Node, count: usize) -> Result<Held> {
    let mut held = Held::default();
    for (client, server) in connect(client, server, count)? {
        drop_all(&client)?;
        shut_down(&server)?;
        shut_down(&client)?;
        held.0.push(client);
    }
    Ok(held)
}

/// FIN_WAIT1 without an owner on the client, whose data cannot leave: the server is alive, does not read, and has closed its
/// window.
pub fn zero_window_orphans(client: &Node, server: &Node, count: usize) -> Result<Held> {
    let pairs = connect(client, server, count)?;
    let wanted = sockets::probing(client)? + count;
    poll_until("the clients ask whether the window has opened", SETTLE, || {
        pairs.iter().try_for_each(|(client, _)| fill(client))?;
        let seen = sockets::probing(client)?;
        Ok(Seen::when(seen >= wanted, || format!("{seen} of {wanted}")))
    })?;
    Ok(Held(pairs.into_iter().map(|(_, server)| server).collect()))
}

/// Sends until the socket takes no more.
fn fill(mut socket: &Socket) -> Result<()> {
    let act = "fill a connection";
    socket.set_nonblocking(true).map_err(Error::system(act))?;
    loop {
        match socket.write(&[0; 16 * 1024]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(Error::system(act)(error)),
        }
    }
}

/// Connections that the client closed before the server accepted them: CLOSE_WAIT without an owner on the server, and yet
/// no orphans.
pub fn never_accepted(client: &Node, server: &Node, count: usize) -> Result<Held> {
    let (listener, address) = listen(server)?;
    client.net()?.run(|| (0..count).try_for_each(|_| connect_to(address).map(drop)))??;
    Ok(Held(vec![listener]))
}

/// Makes connections, each as its client's and its server's end.
fn connect(client: &Node, server: &Node, count: usize) -> Result<Vec<(Socket, Socket)>> {
    let (listener, address) = listen(server)?;
    client.net()?.run(|| {
        let pair = |_| {
            let client = connect_to(address)?;
            let (server, _) = listener.accept().map_err(Error::system("accept a connection"))?;
            Ok((client, server))
        };
        (0..count).map(pair).collect()
    })?
}

fn listen(node: &Node) -> Result<(Socket, SocketAddr)> {
    let ip: IpAddr = node.ip.parse().map_err(|_| Error::Unclear {
        what: format!("the address of {}", node.name),
        why: format!("{} is none", node.ip),
    })?;
    node.net()?.run(|| {
        let listener = listen_on(SocketAddr::new(ip, 0))?;
        let address = listener.local_addr().map_err(Error::system("read the address of a listener"))?;
        let address = address.as_socket().ok_or_else(|| Error::Unclear {
            what: format!("the address of a listener on {}", node.name),
            why: "it is none of IP".into(),
        })?;
        Ok((listener, address))
    })?
}

/// Listens in the network namespace of the calling thread.
pub(crate) fn listen_on(address: SocketAddr) -> Result<Socket> {
    let act = || format!("listen on {address}");
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(Error::system(act()))?;
    listener.bind(&address.into()).map_err(Error::system(act()))?;
    listener.listen(4096).map_err(Error::system(act()))?;
    Ok(listener)
}

/// Connects from the network namespace of the calling thread.
pub(crate) fn connect_to(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(Error::system("make a socket"))?;
    socket.connect(&address.into()).map_err(Error::system(format!("connect to {address}")))?;
    Ok(socket)
}

/// Sends the FIN and keeps the socket.
pub(crate) fn shut_down(socket: &Socket) -> Result<()> {
    socket.shutdown(std::net::Shutdown::Write).map_err(Error::system("shut a connection down"))
}

/// From now on the kernel drops whatever arrives for this socket, unseen and unacknowledged.
pub(crate) fn drop_all(socket: &Socket) -> Result<()> {
    attach(socket, &[accept(0)])
}

/// From now on only what carries one of these TCP flags arrives.
pub(crate) fn drop_all_but(socket: &Socket, flags: u8) -> Result<()> {
    let load_flags = SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_OFFSET);
    let has_one = SockFilter::new(JUMP_IF_SET, 0, 1, flags.into());
    attach(socket, &[load_flags, has_one, accept(u32::MAX), accept(0)])
}

/// From now on everything arrives again.
pub(crate) fn drop_nothing(socket: &Socket) -> Result<()> {
    socket.detach_filter().map_err(Error::system("take a filter off a socket"))
}

/// Accepts so many bytes of a packet; with none it is dropped.
fn accept(bytes: u32) -> SockFilter {
    SockFilter::new(RETURN, 0, 0, bytes)
}

fn attach(socket: &Socket, filter: &[SockFilter]) -> Result<()> {
    socket.attach_filter(filter).map_err(Error::system("attach a filter to a socket"))
}
