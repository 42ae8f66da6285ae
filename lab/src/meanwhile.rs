//! Something that goes on in another thread while work is done.

use std::{
    panic,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Work, as who goes on meanwhile sees it.
#[derive(Default)]
pub(crate) struct Work {
    is_over: AtomicBool,
}

impl Work {
    /// Whether it is not over yet.
    pub(crate) fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

/// Says that work is over, however it ends.
struct Ends<'a>(&'a Work);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Does work while another thread does something until that is over. Returns what both returned, the other one first; where
/// one panicked, that panic goes on once both have ended.
pub(crate) fn meanwhile<O: Send, W>(
    other: impl FnOnce(&Work) -> O + Send,
    work: impl FnOnce() -> W,
) -> (O, W) {
    let seen = Work::default();
    thread::scope(|scope| {
        let other = scope.spawn(|| other(&seen));
        let worked = {
            let _ends = Ends(&seen);
            work()
        };
        (other.join().unwrap_or_else(|panic| panic::resume_unwind(panic)), worked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until_it_is_over(work: &Work) -> &'static str {
        while work.goes_on() {
            thread::yield_now();
        }
        "over"
    }

    #[test]
    fn who_goes_on_meanwhile_ends_with_the_work() {
        assert_eq!(meanwhile(until_it_is_over, || "done"), ("over", "done"));
    }

    #[test]
    fn a_panic_of_either_ends_both() {
        let of_work = || meanwhile(until_it_is_over, || panic!("the work"));
        assert!(panic::catch_unwind(of_work).is_err());
        let of_other = || meanwhile(|_| panic!("the other"), || "done");
        assert!(panic::catch_unwind(of_other).is_err());
    }
}
