//! What can go wrong in the lab, in words for the person at the terminal: what failed, with which object, and what to
//! do. Printed once, at the edge, with its sources.

use std::{io, path::PathBuf, time::Duration};

/// Result of everything that touches the machine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One act that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the machine has to bring along.
    #[error("{what}\n      what to do: {remedy}")]
    Missing {
        /// What is missing, as a sentence.
        what: String,
        /// What the person can do about it.
        remedy: String,
    },
    /// A file could not be read, written, made or removed.
    #[error("cannot {act} {}", path.display())]
    File {
        /// The act, as a verb.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason of the kernel.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// The reason of the kernel.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}):\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// A system call failed.
    #[error("cannot {act}")]
    System {
        /// What was tried, with its object.
        act: String,
        /// The reason of the kernel.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot issue the certificate of {subject}")]
    Certificate {
        /// Whose certificate.
        subject: String,
        /// The reason of the library.
        source: rcgen::Error,
    },
    /// The API server was asked for something by the client library and said no.
    #[error("cannot {act}")]
    Api {
        /// What was asked.
        act: String,
        /// The reason.
        source: Box<kube::Error>,
    },
    /// A condition did not come true in time.
    #[error("{what}: not within {}; last seen: {last}", seconds(*waited))]
    Deadline {
        /// The condition that was awaited.
        what: String,
        /// How long.
        waited: Duration,
        /// The last observation.
        last: String,
    },
    /// A process of the cluster ended by itself.
    #[error("{name} has ended by itself; the end of {}:\n{tail}", log.display())]
    Ended {
        /// The process.
        name: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The lab took itself down and yet something is there.
    #[error("the lab is down, but this is left:\n{}\n      what to do: run `cargo lab down` again; if it stays, please report it", list.join("\n"))]
    LeftBehind {
        /// What is left, one line each.
        list: Vec<String>,
    },
    /// There is no cluster to talk to.
    #[error("the lab of this checkout is not up\n      what to do: cargo lab up")]
    NotUp,
    /// Tests ran, and not all of them passed.
    #[error("{failed} tests failed")]
    TestsFailed {
        /// How many.
        failed: usize,
    },
    /// Experiments ran, and not all of their claims hold.
    #[error("not proven about this kernel: {unproven} of the claims above")]
    NotProven {
        /// How many.
        unproven: usize,
    },
    /// The fuzzer has found an input on which a parser fails.
    #[error("{target} fails on {}:\n{said}\n      what to do: run `{} {}`, which fails the same way", input.display(), program.display(), input.display())]
    Finding {
        /// The fuzz target.
        target: String,
        /// What it said.
        said: String,
        /// The input, in a file.
        input: PathBuf,
        /// What runs the target on an input.
        program: PathBuf,
    },
    /// The fuzzer has not found what was planted for it.
    #[error("{target}: the planted bug was not found within {seconds} s")]
    PlantedNotFound {
        /// The fuzz target.
        target: String,
        /// The time it was given.
        seconds: u32,
    },
    /// A text that a program printed could not be understood.
    #[error("cannot understand {what}: {why}")]
    Unclear {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// What failed and all that caused it, in one line.
    pub fn chain(&self) -> String {
        let sources = std::iter::successors(std::error::Error::source(self), |source| source.source());
        sources.fold(self.to_string(), |text, source| format!("{text}: {source}"))
    }

    /// For `map_err`: names the file and the act.
    pub fn file(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { act, path, source }
    }

    /// For `map_err`: names what was asked of the kernel.
    pub fn system<E: Into<io::Error>>(act: impl Into<String>) -> impl FnOnce(E) -> Self {
        let act = act.into();
        move |source| Self::System { act, source: source.into() }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
