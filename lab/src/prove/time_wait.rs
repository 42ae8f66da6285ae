//! TIME_WAIT: what it is for, and tcp_max_tw_buckets.

use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

use rustix::fs::OFlags;
use tcp_close::{Sysctl, sockets::State};

use super::{
    experiment::{Expected, Experiment, Figure, Figures, Setting, Trial, Value, set},
    space::{Pair, RESETS, SETTLE, Space, TW, clients, counter, servers, sockstat, write_sysctl},
};
use crate::{
    error::{Error, Result},
    report::{Seen, poll_until},
    traffic::{drop_all, drop_nothing, shut_down},
};

const OVERFLOWS: &str = "TCPTimeWaitOverflow";
const LOG_LINES: &str = "lines about TCP in the kernel's log";
const RESET_PEERS: &str = "peers that saw a reset";

const CLOSED: u64 = 30;
const LIMIT: u32 = 10;
const OVER: u64 = CLOSED - LIMIT as u64;
const CLOSED_LATER: u64 = 7;
const LOST: u64 = 10;
/// Two ends that are both even: the kernel takes them, and says in its log that it would rather not.
const COMPLAINT: &str = "40000 40010";
/// The kernel hands out its log record by record, none longer than this.
const RECORD_BYTES: usize = 8192;

pub(super) fn experiments() -> Vec<Experiment> {
    vec![lost_ack(), overflow(), fin_wait2_counts(), lowered()]
}

fn limit(value: u32) -> Setting {
    set(Sysctl::MaxTwBuckets.file(), value)
}

fn lost_ack() -> Experiment {
    Experiment {
        id: "S7-lost-ack".into(),
        claim:
            "TIME_WAIT repairs a lost last ACK; where tcp_max_tw_buckets leaves none, the peer sees a reset"
                .into(),
        expected: vec![Expected::exactly(RESET_PEERS, LOST)],
        trial: Trial::with(&[limit(0)], lose_last_acks),
        control: Trial::at_default(lose_last_acks),
    }
}

fn overflow() -> Experiment {
    Experiment {
        id: "S8-overflow".into(),
        claim:
            "above tcp_max_tw_buckets TIME_WAIT ends at once: counted, without a reset and without a log line"
                .into(),
        expected: vec![
            Expected::exactly(TW, LIMIT.into()),
            Expected::exactly(OVERFLOWS, OVER),
            Expected::exactly(RESETS, 0),
            Expected::exactly(LOG_LINES, 0),
        ],
        trial: Trial::with(&[limit(LIMIT)], overflow_with_time_wait),
        control: Trial::at_default(overflow_with_time_wait),
    }
}

fn fin_wait2_counts() -> Experiment {
    Experiment {
        id: "S8-fin-wait2".into(),
        claim: "FIN_WAIT2 after close() counts towards tcp_max_tw_buckets; above it the peer's FIN is answered by a reset"
            .into(),
        expected: vec![
            Expected::exactly(TW, LIMIT.into()),
            Expected::exactly(OVERFLOWS, OVER),
            Expected::exactly(RESETS, OVER),
        ],
        trial: Trial::with(&[limit(LIMIT)], overflow_with_fin_wait2),
        control: Trial::at_default(overflow_with_fin_wait2),
    }
}

fn lowered() -> Experiment {
    Experiment {
        id: "S8-lowered".into(),
        claim: "lowering tcp_max_tw_buckets ends no socket that is there, and lets none in".into(),
        expected: vec![Expected::exactly(TW, CLOSED), Expected::exactly(OVERFLOWS, CLOSED_LATER)],
        trial: Trial::at_default(|space| {
            close_around(space, || write_sysctl(Sysctl::MaxTwBuckets.file(), "1"))
        })
        .named("lowered to 1 between 30 connections and 7 more"),
        control: Trial::at_default(|space| close_around(space, || Ok(()))),
    }
}

/// Connections whose last ACK is lost once: does the FIN that is sent again find a TIME_WAIT that answers it?
fn lose_last_acks(space: &Space) -> Result<Figures> {
    let pairs = space.connect_many(LOST)?;
    let (clients, servers) = (clients(&pairs), servers(&pairs));
    pairs.iter().try_for_each(|pair| shut_down(&pair.client))?;
    space.wait_for_all(&clients, State::FinWait2)?;
    for Pair { server, .. } in &pairs {
        drop_all(server)?;
        shut_down(server)?;
    }
    space.wait_for_none(&clients, State::FinWait2)?;
    pairs.iter().try_for_each(|pair| drop_nothing(&pair.server))?;
    space.wait_for_none(&servers, State::LastAck)?;
    let mut resets = 0;
    for Pair { server, .. } in &pairs {
        let error = server.take_error().map_err(Error::system("read SO_ERROR"))?;
        resets += u64::from(error.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    Ok(vec![Figure::count(RESET_PEERS, resets)])
}

fn overflow_with_time_wait(space: &Space) -> Result<Figures> {
    let log = KernelLog::from_now();
    close_in_turn(space, CLOSED)?;
    let mut figures = wait_for_buckets(CLOSED)?;
    figures.push(Figure::count(RESETS, counter(RESETS)?));
    let lines = log.and_then(KernelLog::lines_about_tcp);
    figures.push(Figure { what: LOG_LINES, value: lines.map_or_else(Value::Unknown, Value::Count) });
    Ok(figures)
}

fn overflow_with_fin_wait2(space: &Space) -> Result<Figures> {
    let pairs = space.connect_many(CLOSED)?;
    let ends = servers(&pairs);
    let servers: Vec<_> = pairs.into_iter().map(|pair| pair.server).collect();
    let mut figures = wait_for_buckets(CLOSED)?;
    drop(servers);
    space.wait_for_none(&ends, State::CloseWait)?;
    space.wait_for_none(&ends, State::LastAck)?;
    figures.push(Figure::count(RESETS, counter(RESETS)?));
    Ok(figures)
}

fn close_around(space: &Space, between: impl Fn() -> Result<()>) -> Result<Figures> {
    close_in_turn(space, CLOSED)?;
    wait_for_buckets(CLOSED)?;
    between()?;
    close_in_turn(space, CLOSED_LATER)?;
    wait_for_buckets(CLOSED + CLOSED_LATER)
}

fn close_in_turn(space: &Space, count: u64) -> Result<()> {
    space.connect_many(count)?.into_iter().try_for_each(Pair::close_in_turn)
}

/// Waits until every connection that was closed has found a bucket or none.
fn wait_for_buckets(closed: u64) -> Result<Figures> {
    let look = || Ok((sockstat()?.tw, counter(OVERFLOWS)?));
    poll_until("every connection is closed", SETTLE, || {
        let (tw, overflows) = look()?;
        Ok(Seen::when(tw + overflows == closed, || format!("{tw} in tw, {overflows} overflows")))
    })?;
    let (tw, overflows) = look()?;
    Ok(vec![Figure::count(TW, tw), Figure::count(OVERFLOWS, overflows)])
}

/// The kernel's log from a moment on.
struct KernelLog(File);

impl KernelLog {
    /// Says in words where the log cannot be read.
    fn from_now() -> Result<Self, String> {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let open = File::options().read(true).custom_flags(nonblocking).open("/dev/kmsg");
        let mut log = open.map_err(|error| format!("/dev/kmsg cannot be opened: {error}"))?;
        log.seek(SeekFrom::End(0)).map_err(|error| format!("/dev/kmsg cannot be read: {error}"))?;
        Ok(Self(log))
    }

    /// How many lines since then name TCP or TIME_WAIT.
    fn lines_about_tcp(mut self) -> Result<u64, String> {
        let lines = self.lines()?;
        // No line must be told from a log that shows none.
        write_sysctl("ip_local_port_range", COMPLAINT).map_err(|error| error.chain())?;
        if !self.lines()?.iter().any(|line| line.contains("ip_local_port_range")) {
            return Err("/dev/kmsg does not even show what the kernel was made to say".into());
        }
        let about_tcp = |line: &&String| line.contains("tcp") || line.contains("time wait");
        Ok(lines.iter().filter(about_tcp).count() as u64)
    }

    /// What is new, in small letters.
    fn lines(&mut self) -> Result<Vec<String>, String> {
        let mut record = vec![0; RECORD_BYTES];
        let mut lines = Vec::new();
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(lines),
                Ok(length) => lines.push(String::from_utf8_lossy(&record[..length]).to_lowercase()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // Overwritten before it was read: the next read goes on with what is there.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(format!("/dev/kmsg cannot be read: {error}")),
            }
        }
    }
}
