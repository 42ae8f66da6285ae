//! The reader of the kernel's dump of sockets.

#![no_main]

use fuzz::sock_diag::{Progress, read_answer};
use libfuzzer_sys::fuzz_target;
use tcp_close::sockets::Tally;

fuzz_target!(|answer: &[u8]| {
    let (mut progress, mut tally) = (Progress::default(), Tally::default());
    // It answers the request that its first message names.
    let sequence = answer.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let end = read_answer(answer, sequence, &mut progress, &mut |connection| {
        let _ = (connection.source(), connection.source_port());
        let _ = (connection.destination(), connection.destination_port());
        if let Some(socket) = connection.closing() {
            tally.add(socket);
        }
    });
    match end {
        Ok(()) => {
            let Some(counts) = tally.with_tw(u64::MAX) else { panic!("no dump has so many sockets") };
            assert!(counts.orphans <= counts.fin_wait1 + counts.fin_wait2 + counts.closing + counts.last_ack);
            fuzz::planted(progress.done && counts.closing > 0);
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
