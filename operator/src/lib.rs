//! The cluster side of tcp-close-tuning: it turns all tunings into one order for each node, and all reports into one
//! status for each tuning. It never touches a kernel, and of a Node it writes one condition, where the chart asks for it.
//!
//! `watch -> resolve -> roll out -> limit -> assign`, and beside it `watch -> resolve -> summarise -> report`. Steps that
//! only compute take values and return values; the clock is one of the values.

pub mod assign;
pub mod event;
pub mod guard;
pub mod history;
pub mod lead;
pub mod limit;
pub mod metrics;
pub mod node_condition;
pub mod pace;
pub mod release;
pub mod report;
pub mod resolve;
pub mod rollout;
pub mod run;
pub mod sanitize;
pub mod serve;
pub mod snapshot;
pub mod store;
pub mod summarise;
pub mod switch;
pub mod watch;

#[cfg(test)]
mod fixtures;

use std::error::Error;
use std::fmt::Write as _;

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

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("order TcpCloseNode n1")]
    struct Order(#[source] kube::Error);

    #[test]
    fn an_answer_of_the_api_server_is_said_once_and_in_its_own_words() {
        let status = Status::failure("nodes is forbidden", "Forbidden").with_code(403);
        let error = Order(kube::Error::Api(Box::new(status)));
        assert_eq!(chain(&error), "order TcpCloseNode n1: nodes is forbidden");
    }

    #[test]
    fn a_source_that_an_error_repeats_is_said_once() {
        let error = Order(kube::Error::ReadEvents(std::io::Error::other("reset by peer")));
        assert_eq!(chain(&error).matches("reset by peer").count(), 1);
    }
}
