//! Connections as a busy server has them: most end well, some have peers that close late, read late, or are gone.

use std::{
    io::{ErrorKind, Read},
    mem, thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use crate::{
    error::{Error, Result},
    prove::space::{Pair, Space, reset_on_close},
    traffic::{drop_all, fill},
};

/// Connections in a second, one after another.
pub(super) const PER_SECOND: u32 = 60;
/// Of so many connections, two have a peer that closes late, one has a peer that reads late, one has a peer that is gone.
pub(super) const CYCLE: u64 = 20;
/// So long a peer that closes late keeps its side open.
pub(super) const CLOSES_AFTER: Duration = Duration::from_secs(14);
/// So long a peer that reads late keeps its window closed.
pub(super) const READS_AFTER: Duration = Duration::from_secs(3);
/// By then it has got everything, if it was still there.
const HAS_READ_AFTER: Duration = Duration::from_secs(2);
/// What is sent to it: more than its window, and little enough for the machine.
const SEND_BUFFER: usize = 64 * 1024;

/// The address of the first peer that is gone: 127.1.0.0. Each has its own.
const GONE: u32 = 0x7f01_0000;

/// A load, and the peers that are not done.
pub(super) struct Load<'a> {
    space: &'a Space,
    made: u64,
    late: Vec<Late>,
    gone: Vec<Socket>,
}

/// A peer that does something later.
struct Late {
    peer: Socket,
    reads: bool,
    from: Instant,
}

impl<'a> Load<'a> {
    pub(super) fn new(space: &'a Space) -> Self {
        Self { space, made: 0, late: Vec::new(), gone: Vec::new() }
    }

    /// Goes on for so long.
    pub(super) fn run(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = Instant::now() + Duration::from_secs(1) / PER_SECOND;
            self.connect()?;
            self.attend()?;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Makes a connection, which this end closes first.
    fn connect(&mut self) -> Result<()> {
        self.made += 1;
        match self.made % CYCLE {
            0 => {
                // A peer that is gone still has the connection when its orphan has ended: the ports of both must not be met again.
                let number = u32::try_from(self.gone.len()).unwrap_or_default();
                let Pair { client, server, .. } = self.space.connect_to((GONE + number).into())?;
                drop_all(&server)?;
                drop(client);
                self.gone.push(server);
            }
            1 => {
                let Pair { client, server, .. } = self.space.connect()?;
                client.set_send_buffer_size(SEND_BUFFER).map_err(Error::system("set SO_SNDBUF"))?;
                fill(&client)?;
                drop(client);
                server.set_nonblocking(true).map_err(Error::system("set O_NONBLOCK"))?;
                self.late.push(Late { peer: server, reads: true, from: Instant::now() + READS_AFTER });
            }
            2 | 3 => {
                let from = Instant::now() + CLOSES_AFTER;
                self.late.push(Late { peer: self.space.connect()?.server, reads: false, from });
            }
            _ => self.space.connect()?.close_in_turn()?,
        }
        Ok(())
    }

    /// Lets those peers act whose time has come.
    fn attend(&mut self) -> Result<()> {
        let now = Instant::now();
        let (due, waiting) = mem::take(&mut self.late).into_iter().partition(|late: &Late| late.from <= now);
        self.late = waiting;
        for late in due {
            if late.reads && now < late.from + HAS_READ_AFTER && !read_to_end(&late.peer)? {
                self.late.push(late);
            }
        }
        Ok(())
    }
}

impl Drop for Load<'_> {
    /// Orphans must not outlive their namespace's purpose.
    fn drop(&mut self) {
        for peer in self.gone.iter().chain(self.late.iter().map(|late| &late.peer)) {
            // What cannot be cut short ends by itself.
            let _ = reset_on_close(peer);
        }
    }
}

/// Whether the peer has got everything, or knows that it never will.
fn read_to_end(mut peer: &Socket) -> Result<bool> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(true),
            Err(error) => return Err(Error::system("read from a connection")(error)),
        }
    }
}
