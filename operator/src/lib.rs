//! The cluster side of tcp-close-tuning: it turns all tunings into one order for each node, and all reports into one
//! status for each tuning. It never touches a kernel, and it never writes to a Node.
//!
//! `watch -> resolve -> assign`, and beside it `watch -> resolve -> summarise -> report`. Steps that only compute take
//! values and return values; the clock is one of the values.

pub mod assign;
pub mod event;
pub mod history;
pub mod lead;
pub mod report;
pub mod resolve;
pub mod run;
pub mod serve;
pub mod snapshot;
pub mod summarise;
pub mod watch;

#[cfg(test)]
mod fixtures;

use std::error::Error;
use std::fmt::Write as _;

/// Who the API server says has written a field.
pub const FIELD_MANAGER: &str = "tcp-close-operator";

/// An error and what led to it, each said once: some errors repeat their source in their own text.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = words(error);
    let mut source = error.source();
    while let Some(error) = source {
        let next = words(error);
        if !text.contains(&next) {
            let _ = write!(text, ": {next}");
        }
        // What the API server answered is the end of the story; its source says the same once more, as a debug print.
        source = error.source().filter(|_| !error.is::<kube::Error>());
    }
    text
}

fn words(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if !status.message.is_empty() => status.message.clone(),
        _ => error.to_string(),
    }
}
