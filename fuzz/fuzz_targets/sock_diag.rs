//! The reader of the kernel's dump of sockets.

#![no_main]

use fuzz::sock_diag::{Progress, add_messages};
use libfuzzer_sys::fuzz_target;
use tcp_close::sockets::Tally;

fuzz_target!(|answer: &[u8]| {
    let mut tally = Tally::default();
    match add_messages(answer, &mut tally) {
        Ok(progress) => {
            let Some(counts) = tally.with_tw(u64::MAX) else { panic!("no dump has so many sockets") };
            assert!(counts.orphans <= counts.fin_wait1 + counts.fin_wait2 + counts.closing + counts.last_ack);
            fuzz::planted(progress == Progress::Done && counts.closing >= 2);
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
