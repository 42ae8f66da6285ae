//! Ends the process when its loop stands still, so that the kubelet starts it anew. It stands in for a liveness probe,
//! which would need a listener.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A loop that has not turned for this long is stuck.
const STUCK: Duration = Duration::from_secs(60);
const CHECK: Duration = Duration::from_secs(5);
/// `EX_SOFTWARE` of sysexits.h.
const EXIT_CODE: i32 = 70;

/// Counts the turns of the loop.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    /// Starts to watch.
    pub fn start() -> Self {
        let watchdog = Self::default();
        let turns = Arc::clone(&watchdog.0);
        thread::spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            loop {
                thread::sleep(CHECK);
                let now = turns.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                } else if since.elapsed() > STUCK {
                    tracing::error!("the loop has not turned for {} s; the process ends", STUCK.as_secs());
                    process::exit(EXIT_CODE);
                }
            }
        });
        watchdog
    }

    /// The loop has turned.
    pub fn turned(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
