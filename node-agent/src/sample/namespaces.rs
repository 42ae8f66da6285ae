//! Finds the network namespaces of a node through the processes in them, and reads them, without a capability.
//!
//! The inode of `/proc/PID/net/sockstat` names the namespace: it is the same for all its processes and in every procfs
//! (measured on 6.18.44). Only a folder is ever held, and that as a path (`O_PATH`): an open file in it would keep the namespace of
//! a pod alive that has ended.

use std::fs;
use std::io::{self, ErrorKind};
use std::mem::{self, MaybeUninit};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, fstat, open, openat, statat};
use rustix::io::{Errno, read};

use super::text::{Line, Table};

/// The inode of its sockstat.
pub type Inode = u64;

/// A process is looked at twice: a container's runtime joins the namespace only after it has started.
const LOOKS: u8 = 2;
/// In so many looks every process is looked at once more, whatever it was before.
const LOOKS_FOR_ALL: u32 = 64;
/// A table is read by so much at a time; the kernel gives a page at most.
const PIECE_BYTES: usize = 4096;
/// While a long table is read it is open. After so many pieces, less than a millisecond, it is asked whether its process is there
/// still.
const PIECES_MAX: usize = 32;
/// A process that is not the agent's own, and never ends.
const FIRST_PROCESS: u32 = 1;

/// A process, and where it was when it was last looked at.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    looks: u8,
    /// The inode of its folder, as the list of processes shows it: a process that has got the pid of another one has another.
    folder: Inode,
    /// `None`: it has none any longer, or it could not be looked at.
    namespace: Option<Inode>,
}

/// A process that is in another namespace than the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which process.
    pub pid: u32,
    /// Where.
    pub namespace: Inode,
    /// Whether it was there before.
    pub stayed: bool,
}

/// The processes of a node.
#[derive(Debug)]
pub struct Processes {
    root: PathBuf,
    own: Result<Inode, String>,
    known: Vec<Process>,
    look: u32,
}

impl Processes {
    /// Looks through a procfs; processes in the namespace `own` do not count.
    pub fn new(root: PathBuf, own: Result<Inode, String>) -> Self {
        Self { root, own, known: Vec::new(), look: 0 }
    }

    /// The procfs that shows them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads the list of processes, and looks at those that are new. Returns whom it looked at and found in another namespace.
    ///
    /// # Errors
    /// In words, where the procfs does not show every process.
    pub fn look(&mut self) -> Result<Vec<Found>, String> {
        let own = self.own.clone()?;
        let listed = list(&self.root)
            .map_err(|error| format!("{}: processes cannot be listed: {error}", self.root.display()))?;
        self.look = self.look.wrapping_add(1);
        let mut before =
            mem::replace(&mut self.known, Vec::with_capacity(listed.len())).into_iter().peekable();
        let mut found = Vec::new();
        for (pid, folder) in listed {
            while before.next_if(|process| process.pid < pid).is_some() {}
            let known = before.next_if(|process| process.pid == pid && process.folder == folder);
            if let Some(settled) = known.filter(|known| !self.is_due(known)) {
                self.known.push(settled);
                continue;
            }
            let process = self.look_at(pid, folder, known);
            if let Some(namespace) = process.namespace.filter(|namespace| *namespace != own) {
                let stayed = known.is_some_and(|known| known.namespace == Some(namespace));
                found.push(Found { pid, namespace, stayed });
            }
            self.known.push(process);
        }
        self.is_complete().map(|()| found)
    }

    fn is_due(&self, process: &Process) -> bool {
        process.looks < LOOKS || process.pid % LOOKS_FOR_ALL == self.look % LOOKS_FOR_ALL
    }

    fn look_at(&self, pid: u32, folder: Inode, before: Option<Process>) -> Process {
        let namespace = namespace_of(&self.root, pid).ok();
        let looks = before.map_or(0, |before| before.looks).saturating_add(1);
        Process { pid, looks, folder, namespace }
    }

    /// A procfs with `hidepid` lists only processes of one's own, or shows nothing of the others.
    fn is_complete(&self) -> Result<(), String> {
        let first = self.known.first().filter(|process| process.pid == FIRST_PROCESS);
        if first.is_some_and(|process| process.namespace.is_some()) {
            return Ok(());
        }
        let root = self.root.display();
        Err(format!(
            "{root} does not show process 1, so it hides processes (mount option hidepid): mount it with hidepid=0, or give \
             the agent the group that its option gid= names (supplementalGroups); SELinux and AppArmor may hide them too"
        ))
    }

    /// Processes that were in one of these namespaces when they were last looked at.
    /// They are sorted.
    pub fn in_namespaces(&self, wanted: &[Inode]) -> impl Iterator<Item = (u32, Inode)> {
        let within = |process: &Process| process.namespace.filter(|it| wanted.binary_search(it).is_ok());
        self.known.iter().filter_map(move |process| Some((process.pid, within(process)?)))
    }

    /// `/proc/PID/cgroup`, if the process is in this namespace still when it has been read.
    pub fn cgroup(&self, found: Found) -> Option<String> {
        let text = fs::read_to_string(self.root.join(format!("{}/cgroup", found.pid))).ok()?;
        let same = namespace_of(&self.root, found.pid).is_ok_and(|namespace| namespace == found.namespace);
        same.then_some(text)
    }
}

/// The own network namespace, by the name that it has in every procfs.
///
/// # Errors
/// In words, where `/proc` does not show it.
pub fn own_namespace() -> Result<Inode, String> {
    let path = "/proc/self/net/sockstat";
    fs::metadata(path).map(|metadata| metadata.ino()).map_err(|error| format!("{path}: {error}"))
}

/// The network namespace of a process.
///
/// # Errors
/// Where the process is not there, has ended, or may not be looked at.
pub fn namespace_of(root: &Path, pid: u32) -> io::Result<Inode> {
    Ok(statat(CWD, root.join(format!("{pid}/net/sockstat")), AtFlags::empty())?.st_ino)
}

/// Every pid with the inode of its folder, in the order of pids.
fn list(root: &Path) -> io::Result<Vec<(u32, Inode)>> {
    let folder = open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 4 * PIECE_BYTES];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut listed = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let pid = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        listed.extend(pid.map(|pid| (pid, entry.ino())));
    }
    // A procfs lists them in order; then this costs nothing.
    listed.sort_unstable();
    Ok(listed)
}

/// Why a namespace was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The process is not in it any longer.
    #[error("its process has ended or left it")]
    Gone,
    /// The process may be there, but a file could not be read.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl Unread {
    /// A file does not hold what such a file holds.
    pub fn not_understood(file: &str) -> Self {
        Self::Failed(io::Error::new(
            ErrorKind::InvalidData,
            format!("{file} is not what the kernel writes there"),
        ))
    }
}

impl From<Errno> for Unread {
    fn from(error: Errno) -> Self {
        Self::Failed(error.into())
    }
}

/// A way into a namespace: through one process in it.
#[derive(Debug)]
pub struct Way {
    /// The process.
    pub pid: u32,
    namespace: Inode,
    net: PathBuf,
    /// `/proc/PID/net` as a path only, bound to the process and not to its number; `None` where descriptors are scarce.
    folder: Option<OwnedFd>,
}

impl Way {
    /// A way through a process into the namespace that it was found in.
    pub fn through(root: &Path, pid: u32, namespace: Inode, hold: bool) -> Self {
        let net = root.join(format!("{pid}/net"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = if hold { open(&net, flags, Mode::empty()).ok() } else { None };
        Self { pid, namespace, net, folder }
    }

    /// The namespace's sockstat.
    ///
    /// # Errors
    /// Where the process has ended or left, or the file cannot be read.
    pub fn sockstat<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a str, Unread> {
        let file = self.open("sockstat").map_err(|error| match error.kind() {
            _ if is_end(&error) => Unread::Gone,
            _ => Unread::Failed(error),
        })?;
        if fstat(&file)?.st_ino != self.namespace {
            return Err(Unread::Gone);
        }
        whole(&file, buffer)
    }

    /// Another small file of the namespace, whole; `None` where the kernel has no such file. Ask afterwards whether the process
    /// [has stayed](Self::has_stayed).
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn file<'a>(&self, name: &str, buffer: &'a mut [u8]) -> Result<Option<&'a str>, Unread> {
        match self.open(name) {
            Ok(file) => whole(&file, buffer).map(Some),
            Err(error) if is_end(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process is in the namespace: what was read through it just before was read there.
    ///
    /// # Errors
    /// [`Unread::Gone`] where it is not.
    pub fn has_stayed(&self) -> Result<(), Unread> {
        let stat = match &self.folder {
            Some(folder) => statat(folder, "sockstat", AtFlags::empty()),
            None => statat(CWD, self.net.join("sockstat"), AtFlags::empty()),
        };
        if stat.is_ok_and(|stat| stat.st_ino == self.namespace) { Ok(()) } else { Err(Unread::Gone) }
    }

    /// Every socket of the namespace, of both families.
    ///
    /// # Errors
    /// Where a table cannot be read whole: then nothing is known of the sockets.
    pub fn sockets(&self, mut each: impl FnMut(&Line<'_>)) -> Result<(), Unread> {
        self.table(&self.open("tcp")?, &mut each)?;
        match self.open("tcp6") {
            Ok(file) => self.table(&file, &mut each)?,
            // A kernel without IPv6 has none.
            Err(error) if is_end(&error) => {}
            Err(error) => return Err(error.into()),
        }
        self.has_stayed()
    }

    fn table(&self, file: &OwnedFd, each: &mut impl FnMut(&Line<'_>)) -> Result<(), Unread> {
        let malformed = |error| io::Error::new(ErrorKind::InvalidData, error);
        let (mut table, mut piece) = (Table::default(), [0; PIECE_BYTES]);
        for count in 1.. {
            match read(file, &mut piece)? {
                0 => break,
                length => table.read(&piece[..length], each).map_err(malformed)?,
            }
            if count % PIECES_MAX == 0 {
                self.has_stayed()?;
            }
        }
        Ok(table.end().map_err(malformed)?)
    }

    fn open(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(match &self.folder {
            Some(folder) => openat(folder, name, flags, Mode::empty())?,
            None => open(self.net.join(name), flags, Mode::empty())?,
        })
    }
}

/// What the kernel says of the files of a process that has ended.
fn is_end(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

/// A small file in one piece, which is how the kernel gives it.
fn whole<'a>(file: &OwnedFd, buffer: &'a mut [u8]) -> Result<&'a str, Unread> {
    let length = read(file, &mut *buffer)?;
    let is_whole = length < buffer.len() && buffer[..length].ends_with(b"\n");
    let text = std::str::from_utf8(&buffer[..length]).ok().filter(|_| is_whole);
    text.ok_or_else(|| Unread::Failed(io::Error::new(ErrorKind::InvalidData, "it is cut short")))
}
