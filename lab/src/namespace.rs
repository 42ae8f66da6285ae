//! Work inside the network namespace of another process. A network namespace belongs to a thread, so each piece of work
//! gets a thread of its own, which enters, works and ends; the lab itself never leaves the machine's first namespace.

use std::{fs::File, io, process::Command};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    error::{Error, Result},
    process,
};
use std::os::fd::AsFd;

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

    /// Moves the calling thread, for good, into this namespace. What it starts from then on lives there too.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(Error::system("enter a network namespace"))
    }

    /// Runs work on a thread inside this namespace. A socket made there stays there wherever it is used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || self.enter().map(|()| work());
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|_| {
            let broken = io::Error::other("the work inside it panicked");
            Err(Error::system("work in a network namespace")(broken))
        })
    }

    /// Runs a batch of `ip` commands, one per line, inside this namespace.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let program = process::on_path("ip").ok_or_else(|| Error::Missing {
            what: "`ip` is not on this machine".into(),
            remedy: "install iproute2".into(),
        })?;
        let mut command = Command::new(program);
        command.args(["-batch", "-"]);
        self.run(|| process::run_with_input(&mut command, batch.as_bytes()))?.map(drop)
    }
}
