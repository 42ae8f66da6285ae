//! A crowded node: many sockets in TIME_WAIT in its network namespace, and many processes in namespaces of their own. Both
//! go when it is dropped.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::time_wait::{LIFETIME, Maker};
use crate::{
    error::{Error, Result},
    node::Node,
    process::shown,
};

/// Between two small heaps of new sockets.
const PACE: Duration = Duration::from_millis(20);

/// How crowded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// About so many sockets in TIME_WAIT: as many are made in each minute as end in it.
    pub time_waits: u32,
    /// Network namespaces, each with one process.
    pub namespaces: u32,
}

/// The crowd on a node.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    maker: Option<JoinHandle<Result<()>>>,
    others: Vec<Child>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for mut other in self.others.drain(..) {
            // It reads until nobody can write to it any more.
            drop(other.stdin.take());
            let _ = other.wait();
        }
        if let Some(maker) = self.maker.take() {
            let _ = maker.join();
        }
    }
}

impl Crowd {
    /// Brings it to a node. Sockets come at the pace at which they go, so that all are there after a minute.
    pub(crate) fn bring(node: &Node, size: Size) -> Result<Self> {
        let mut crowd = Self { stop: Arc::default(), maker: None, others: Vec::new() };
        for _ in 0..size.namespaces {
            crowd.others.push(other(node)?);
        }
        let (net, stop) = (node.net()?, crowd.stop.clone());
        crowd.maker = Some(thread::spawn(move || net.run(|| keep_making(size.time_waits, &stop))?));
        Ok(crowd)
    }

    /// Fails where sockets are not made any more.
    pub(crate) fn check(&self) -> Result<()> {
        if self.maker.as_ref().is_some_and(JoinHandle::is_finished) {
            let why = "what makes sockets has ended".into();
            return Err(Error::Unclear { what: "a crowded node".into(), why });
        }
        Ok(())
    }
}

/// Makes as many in a minute as shall be there, evenly.
fn keep_making(count: u32, stop: &AtomicBool) -> Result<()> {
    let mut maker = Maker::new()?;
    let (start, mut made) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_secs_f64() / LIFETIME.as_secs_f64() * f64::from(count);
        // A float that is too large becomes the largest integer: nothing that a bench lives to see.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let due = due as u32;
        maker.make(due.saturating_sub(made))?;
        made = due.max(made);
        thread::sleep(PACE);
    }
    Ok(())
}

/// A process on the node, in a network namespace of its own.
fn other(node: &Node) -> Result<Child> {
    let mut command: Command = node.command("unshare")?;
    command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().map_err(|source| Error::Start { program: shown(&command), source })
}
