//! Ticks of a timer of the kernel.
//!
//! The process wakes once for each. A timer of tokio is moved from wheel to wheel until it is due, which wakes it two or three
//! times: more than a quiet turn costs.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::read;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer that ticks for ever.
#[derive(Debug)]
pub struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    /// The first tick comes after one interval. Must be called within a runtime of tokio.
    ///
    /// # Errors
    /// Where the kernel gives no timer, or not such an interval.
    pub fn every(interval: Duration) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let interval = interval.try_into().map_err(io::Error::other)?;
        let period = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &period)?;
        // SAFETY: an OwnedFd keeps the same file open under the same number until it is dropped, with the AsyncFd that owns it.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self(timer?))
    }

    /// Waits for the next one. Those that came while nobody waited are one.
    ///
    /// # Errors
    /// Where the timer cannot be waited for.
    pub async fn next(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        // How many came; the next one wakes again.
        read(ready.get_inner(), &mut [0; size_of::<u64>()])?;
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(20);

    fn elapsed(ticks: impl AsyncFnOnce(&Ticks)) -> Duration {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let timer = Ticks::every(INTERVAL).unwrap();
            let start = Instant::now();
            ticks(&timer).await;
            start.elapsed()
        })
    }

    #[test]
    fn it_ticks_once_in_each_interval() {
        let took = elapsed(async |timer| {
            for _ in 0..3 {
                timer.next().await.unwrap();
            }
        });
        assert!(took >= INTERVAL * 5 / 2, "{took:?}");
    }

    #[test]
    fn ticks_that_nobody_waited_for_are_one() {
        let took = elapsed(async |timer| {
            // A turn that takes long.
            thread::sleep(INTERVAL * 5 + INTERVAL / 2);
            timer.next().await.unwrap();
            timer.next().await.unwrap();
        });
        assert!(took >= INTERVAL * 23 / 4, "{took:?}");
    }
}
