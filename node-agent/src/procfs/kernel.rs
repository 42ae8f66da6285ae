//! What stands behind a procfs: the running kernel, or, for a fleet that is simulated, values in memory.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::READ_BYTES;
use crate::sock_diag::SockDiag;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// All that the agent asks of a kernel about its own network namespace.
pub trait Kernel: Debug + Send + Sync {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// Where that is not allowed, or there is no such file.
    fn open(&self, path: &Path) -> io::Result<Box<dyn KernelFile>>;

    /// Opens a file for writing, which changes nothing yet.
    ///
    /// # Errors
    /// Where that is not allowed, or there is no such file.
    fn open_for_writing(&self, path: &Path) -> io::Result<Box<dyn KernelFile>>;

    /// Reads a file once, up to so many bytes.
    ///
    /// # Errors
    /// Where it cannot be read, or is no text.
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<String>;

    /// Whether there is such a file.
    fn has(&self, path: &Path) -> bool;

    /// Whether a file or folder is a procfs's.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    fn is_procfs(&self, path: &Path) -> io::Result<bool>;

    /// What dumps its sockets.
    fn sock_diag(&self) -> SockDiag;
}

/// An open file of a kernel. It is read and written at its start alone.
pub trait KernelFile: Debug + Send {
    /// What it holds now, as far as there is room for it.
    ///
    /// # Errors
    /// What the kernel says.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of it.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&self, text: &[u8]) -> io::Result<()>;
}

/// The kernel that this process runs on.
#[derive(Debug)]
pub struct Running;

impl Kernel for Running {
    fn open(&self, path: &Path) -> io::Result<Box<dyn KernelFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<Box<dyn KernelFile>> {
        Ok(Box::new(OpenOptions::new().write(true).open(path)?))
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<String> {
        let mut text = String::with_capacity(READ_BYTES);
        File::open(path)?.take(bytes_max).read_to_string(&mut text)?;
        Ok(text)
    }

    fn has(&self, path: &Path) -> bool {
        path.exists()
    }

    fn is_procfs(&self, path: &Path) -> io::Result<bool> {
        let magic = rustix::fs::statfs(path)?.f_type;
        Ok(u64::try_from(magic).is_ok_and(|magic| magic == PROC_SUPER_MAGIC))
    }

    fn sock_diag(&self) -> SockDiag {
        SockDiag::default()
    }
}

impl KernelFile for File {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_at(buffer, 0)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        self.write_all_at(text, 0)
    }
}
