//! The kernel's files, but for those of other network namespaces. Every one of them is opened here, below two folders that
//! are values, so that tests and containers bring their own.

// Said, because the fuzz targets compile this file by its path, and look for its modules beside it.
#[path = "procfs/kernel.rs"]
mod kernel;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tcp_close::Sysctl;
use tcp_close::kernel::KernelVersion;
use tcp_close::order::Reading;

use crate::sock_diag::SockDiag;

pub use kernel::{Kernel, KernelFile, Running};

/// No file that is read here is longer; what is longer is not what we think it is.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// There is room for this much at first, so that most files are read at once.
const READ_BYTES: usize = 2 * 1024;
/// But for the list of mounts, which has a line for each of a node's thousands.
const MOUNTINFO_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A kernel file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Opening it for writing failed. Nothing has changed.
    #[error("{path}: cannot be opened for writing: {}", explain(source))]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Writing failed.
    #[error("{path}: the kernel did not take {value}: {}", explain(source))]
    Write {
        /// Which file.
        path: PathBuf,
        /// What was written.
        value: i64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("{path}: cannot be read: {}", explain(source))]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It does not hold what such a file holds.
    #[error("{path}: holds {text:?}, which is not {expected}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// The start of what it holds.
        text: String,
        /// What it should hold.
        expected: &'static str,
    },
}

impl Error {
    /// Whether the file is not there.
    pub fn is_absent(&self) -> bool {
        let (Self::Open { source, .. } | Self::Write { source, .. } | Self::Read { source, .. }) = self
        else {
            return false;
        };
        source.kind() == io::ErrorKind::NotFound
    }
}

/// What an error means on this path, for the two that people meet.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}; SELinux or AppArmor may forbid it, or the agent does not run as uid 0")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!(
                "{error}; in a pod the agent needs a writable hostPath volume of /proc/sys/net (see --sysctls), in a systemd \
                 unit no ProtectKernelTunables"
            )
        }
        _ => error.to_string(),
    }
}

/// Where the kernel's files are.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
    sysctls: PathBuf,
    kernel: Arc<dyn Kernel>,
}

/// A sysctl's file, open for writing. Opening changes nothing, and shows whether writing will be allowed.
#[derive(Debug)]
pub struct Writable {
    path: PathBuf,
    file: Box<dyn KernelFile>,
}

/// A file about the agent's own network namespace that is read time and again, and stays open for it. Never one of a pod's: an
/// open file keeps the namespace of a pod that has ended alive (measured on 6.18.44).
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    kernel: Arc<dyn Kernel>,
    file: Option<Box<dyn KernelFile>>,
    buffer: Vec<u8>,
}

impl Procfs {
    /// `root` is a procfs, `/proc`; `sysctls` is its folder `sys/net`, or a second, writable view of it.
    pub fn new(root: impl Into<PathBuf>, sysctls: Option<PathBuf>) -> Self {
        let root = root.into();
        let sysctls = sysctls.unwrap_or_else(|| root.join("sys/net"));
        Self { root, sysctls, kernel: Arc::new(Running) }
    }

    /// `/proc` of this kernel.
    pub fn of(kernel: Arc<dyn Kernel>) -> Self {
        Self { kernel, ..Self::new("/proc", None) }
    }

    fn path(&self, sysctl: Sysctl) -> PathBuf {
        self.folder().join(sysctl.file())
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder `sys/net/ipv4`, in which every file that is written lies.
    pub fn folder(&self) -> PathBuf {
        self.sysctls.join("ipv4")
    }

    /// The folder `sys/net` that is read and written.
    pub fn sysctls(&self) -> &Path {
        &self.sysctls
    }

    /// The file of every sysctl that this kernel has.
    pub fn sysctl_files(&self) -> impl Iterator<Item = PathBuf> {
        Sysctl::ALL.into_iter().map(|sysctl| self.path(sysctl)).filter(|path| self.kernel.has(path))
    }

    /// Whether a file or folder is a procfs's.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn is_procfs(&self, path: &Path) -> io::Result<bool> {
        self.kernel.is_procfs(path)
    }

    /// What dumps the sockets of the agent's own network namespace.
    pub fn sock_diag(&self) -> SockDiag {
        self.kernel.sock_diag()
    }

    /// What the kernel holds.
    pub fn read_sysctl(&self, sysctl: Sysctl) -> Reading {
        self.hold_sysctl(sysctl).reading()
    }

    /// What the kernel holds, or why that cannot be read.
    ///
    /// # Errors
    /// Where the file is absent, unreadable, or holds no number.
    pub fn read_value(&self, sysctl: Sysctl) -> Result<i64, Error> {
        self.hold_sysctl(sysctl).read_number()
    }

    /// A sysctl, to be read often.
    pub fn hold_sysctl(&self, sysctl: Sysctl) -> Held {
        self.hold(self.path(sysctl))
    }

    /// Opens a sysctl for writing.
    ///
    /// # Errors
    /// Where the kernel does not allow it: read-only mount, no permission, no such file.
    pub fn open_for_writing(&self, sysctl: Sysctl) -> Result<Writable, Error> {
        let path = self.path(sysctl);
        match self.kernel.open_for_writing(&path) {
            Ok(file) => Ok(Writable { path, file }),
            Err(source) => Err(Error::Open { path, source }),
        }
    }

    /// Whether this network namespace is the first of its machine: only there the kernel shows machine-wide sysctls.
    pub fn in_first_namespace(&self) -> bool {
        self.kernel.has(&self.path(Sysctl::MaxOrphans))
    }

    /// The kernel's release, as `uname -r` prints it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn kernel_release(&self) -> Result<String, Error> {
        Ok(self.read(&self.root.join("sys/kernel/osrelease"))?.trim().to_string())
    }

    /// The kernel's version, where its release can be read and is one.
    pub fn kernel_version(&self) -> Option<KernelVersion> {
        KernelVersion::parse(&self.kernel_release().ok()?)
    }

    /// Names this run of the machine.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn boot_id(&self) -> Result<String, Error> {
        Ok(self.read(&self.root.join("sys/kernel/random/boot_id"))?.trim().to_string())
    }

    /// When process 1 of this procfs started, in ticks since boot, and the inode of the namespace's sockstat: what names a
    /// namespace's life on kernels without a cookie.
    ///
    /// # Errors
    /// Where either cannot be read.
    pub fn namespace_without_cookie(&self) -> Result<String, Error> {
        use std::os::unix::fs::MetadataExt;
        let path = self.root.join("1/stat");
        let text = self.read(&path)?;
        let started = start_time(&text).ok_or_else(|| content(path, &text, "a process's state"))?;
        let sockstat = self.root.join("self/net/sockstat");
        let inode = fs::metadata(&sockstat).map_err(|source| Error::Read { path: sockstat, source })?.ino();
        Ok(format!("{started}-{inode}"))
    }

    /// `net/netstat` of the agent's own network namespace.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn netstat(&self) -> Result<String, Error> {
        self.read(&self.root.join("self/net/netstat"))
    }

    /// `net/snmp` of the agent's own network namespace.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn snmp(&self) -> Result<String, Error> {
        self.read(&self.root.join("self/net/snmp"))
    }

    /// `net/sockstat` of the agent's own network namespace, to be read often.
    pub fn hold_sockstat(&self) -> Held {
        self.hold(self.root.join("self/net/sockstat"))
    }

    /// `net/netstat` of the agent's own network namespace, to be read often.
    pub fn hold_netstat(&self) -> Held {
        self.hold(self.root.join("self/net/netstat"))
    }

    /// `net/snmp` of the agent's own network namespace, to be read often.
    pub fn hold_snmp(&self) -> Held {
        self.hold(self.root.join("self/net/snmp"))
    }

    /// `nf_conntrack_count` and `nf_conntrack_max` of the agent's own network namespace.
    ///
    /// # Errors
    /// Where either cannot be read, as where no connection tracker is loaded.
    pub fn conntrack_use(&self) -> Result<(u64, u64), Error> {
        let number = |name| {
            let path = self.sysctls.join("netfilter").join(name);
            let text = self.read(&path)?;
            text.trim().parse().map_err(|_| content(path, &text, "a decimal number"))
        };
        Ok((number("nf_conntrack_count")?, number("nf_conntrack_max")?))
    }

    /// The name of a process's program.
    ///
    /// # Errors
    /// Where it cannot be read, as where the process has ended.
    pub fn program(&self, pid: u32) -> Result<String, Error> {
        Ok(self.read(&self.root.join(format!("{pid}/comm")))?.trim_end().to_string())
    }

    /// The machine's memory.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn meminfo(&self) -> Result<String, Error> {
        self.read(&self.root.join("meminfo"))
    }

    /// A sysctl beside those of the catalogue that a rule looks at; the name is one of this program's own. It is only read.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn tcp_setting(&self, name: &'static str) -> Result<String, Error> {
        self.read(&self.sysctls.join("ipv4").join(name))
    }

    /// The mounts that the agent sees.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn mountinfo(&self) -> Result<String, Error> {
        self.read_at_most(&self.root.join("self/mountinfo"), MOUNTINFO_BYTES_MAX)
    }

    /// At most so many lines of the connection tracker's table.
    ///
    /// # Errors
    /// Where it cannot be read, as where conntrack is not loaded.
    pub fn conntrack(&self, lines_max: usize) -> Result<Vec<String>, Error> {
        let path = self.root.join("self/net/nf_conntrack");
        let lines = File::open(&path).and_then(|file| BufReader::new(file).lines().take(lines_max).collect());
        lines.map_err(|source| Error::Read { path, source })
    }

    fn hold(&self, path: PathBuf) -> Held {
        Held { path, kernel: Arc::clone(&self.kernel), file: None, buffer: Vec::new() }
    }

    fn read(&self, path: &Path) -> Result<String, Error> {
        self.read_at_most(path, FILE_BYTES_MAX)
    }

    fn read_at_most(&self, path: &Path, bytes: u64) -> Result<String, Error> {
        self.kernel.read(path, bytes).map_err(|source| Error::Read { path: path.into(), source })
    }
}

impl Held {
    /// What it says now. After an error it is opened anew.
    ///
    /// # Errors
    /// Where it cannot be read, or is no text.
    pub fn read(&mut self) -> Result<&str, Error> {
        match self.fill() {
            Ok(length) => {
                let text = self.buffer.get(..length).unwrap_or_default();
                str::from_utf8(text).map_err(|_| content(self.path.clone(), "", "text"))
            }
            Err(source) => {
                self.file = None;
                Err(Error::Read { path: self.path.clone(), source })
            }
        }
    }

    /// The number that it holds now, if any.
    pub fn reading(&mut self) -> Reading {
        match self.read_number() {
            Ok(value) => Reading::Value(value),
            Err(error) if error.is_absent() => Reading::Absent,
            Err(error) => Reading::Unreadable(error.to_string()),
        }
    }

    /// The number that it holds now.
    ///
    /// # Errors
    /// Where it is absent, unreadable, or holds no number.
    pub fn read_number(&mut self) -> Result<i64, Error> {
        let text = self.read()?;
        if let Ok(number) = text.trim().parse() {
            return Ok(number);
        }
        let text = text.to_string();
        Err(content(self.path.clone(), &text, "a decimal number"))
    }

    /// The kernel writes such a file anew for each read at its start, and as a whole where there is room for it.
    fn fill(&mut self) -> io::Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.kernel.open(&self.path)?,
        };
        let file = self.file.insert(file);
        if self.buffer.is_empty() {
            self.buffer.resize(READ_BYTES, 0);
        }
        loop {
            let length = file.read(&mut self.buffer)?;
            if length < self.buffer.len() {
                return Ok(length);
            }
            if self.buffer.len() as u64 >= FILE_BYTES_MAX {
                return Err(io::Error::other("it is longer than such a file is"));
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}

impl Writable {
    /// Writes one canonical decimal line. The kernel's parser takes octal, hexadecimal and trailing text; none of that
    /// can be reached from a number.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn write(&self, value: i64) -> Result<(), Error> {
        // At offset 0 also the second time: the kernel ignores a number that is written anywhere else, without an error.
        let line = format!("{value}\n");
        self.file.write(line.as_bytes()).map_err(|source| Error::Write {
            path: self.path.clone(),
            value,
            source,
        })
    }
}

/// When a process started, of its `/proc/<pid>/stat`: the 20th field after its command, which is in parentheses and may
/// hold blanks.
pub fn start_time(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19))
}

/// A counter of `/proc/net/snmp` or `/proc/net/netstat`: they have a line of names, then one of numbers, both of the same
/// prefix.
pub fn counter(text: &str, prefix: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let position = names.split(' ').position(|field| field == name)?;
    numbers.split(' ').nth(position)?.parse().ok()
}

fn content(path: PathBuf, text: &str, expected: &'static str) -> Error {
    Error::Content { path, text: text.chars().take(40).collect(), expected }
}

#[cfg(test)]
pub(crate) mod tests;
