//! The kernel's counters of how connections end, and what they say per minute.

/// Events per minute in one network namespace. A counter that the kernel does not have is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Over how many seconds.
    pub seconds: u32,
    /// `TCPTimeWaitOverflow`: a connection skipped TIME_WAIT because tcp_max_tw_buckets was reached.
    pub overflows: Option<u64>,
    /// `TCPAbortOnMemory`: an orphan was reset because of tcp_max_orphans or tcp_mem.
    pub aborts_on_memory: Option<u64>,
    /// `TCPAbortOnTimeout`: given up without an answer from the peer, orphans among them; no reset is sent.
    pub aborts_on_timeout: Option<u64>,
    /// `TCPAbortOnClose`: closed with unread data, so reset.
    pub aborts_on_close: Option<u64>,
    /// `TCPAbortOnData`: data came after close(), or SO_LINGER 0; reset.
    pub aborts_on_data: Option<u64>,
    /// `TCPAbortOnLinger`: closed with a negative TCP_LINGER2.
    pub aborts_on_linger: Option<u64>,
    /// `TCPAbortFailed`: a reset that should have been sent was not.
    pub aborts_failed: Option<u64>,
    /// `OutRsts`: resets sent.
    pub resets_sent: Option<u64>,
    /// `EstabResets`: connections that a reset ended.
    pub established_resets: Option<u64>,
    /// `TWRecycled`: connect() took over a port in TIME_WAIT (tcp_tw_reuse; not tcp_tw_recycle).
    pub reused: Option<u64>,
    /// Segments that PAWS rejected: every counter of it that this kernel has, added up.
    pub paws_rejected: Option<u64>,
    /// `ActiveOpens`: connect().
    pub connects: Option<u64>,
    /// `PassiveOpens`: connections that came in.
    pub accepts: Option<u64>,
    /// `AttemptFails`: connections that did not come about.
    pub failed_connects: Option<u64>,
    /// `RetransSegs`: segments sent again.
    pub retransmissions: Option<u64>,
}
