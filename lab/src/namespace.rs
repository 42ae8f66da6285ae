//! Work inside another network namespace. A network namespace belongs to a thread, so each piece of work
//! gets a thread of its own, which enters, works and ends; the lab itself never leaves the machine's first namespace.

use std::{fs::File, io, os::fd::AsFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};

/// A network namespace, held open.
#[derive(Debug)]
pub struct NetNamespace {
    file: File,
}

impl NetNamespace {
    /// The network namespace of a process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        File::open(&path).map(|file| Self { file }).map_err(Error::file("open", path))
    }

    /// The network namespace of the calling thread.
    pub(crate) fn of_this_thread() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        File::open(path).map(|file| Self { file }).map_err(Error::file("open", path))
    }

    /// Moves the calling thread, for good, into this namespace. What it starts from then on lives there too.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(Error::system("enter a network namespace"))
    }

    /// Runs work on a thread inside this namespace. A socket made there stays there wherever it is used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| self.enter().map(|()| work()))
    }

    /// Runs work on a thread inside a new namespace, which lasts as long as that thread and the sockets made there.
    pub(crate) fn run_in_new<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| Self::enter_new().map(|()| work()))
    }

    /// Moves the calling thread, for good, into a new namespace.
    pub(crate) fn enter_new() -> Result<()> {
        // SAFETY: only UnshareFlags::FILES is unsafe, and it is not among these.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .map_err(Error::system("make a network namespace (are you root?)"))
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| {
        let broken = io::Error::other("the work inside it panicked");
        Err(Error::system("work in a network namespace")(broken))
    })
}
