//! Textfile: the census as a file for node_exporter's textfile collector.
//!
//! What is unknown is left out, never 0, and counts carry the time when they were made: node_exporter shows a file for as
//! long as it is there. So it is removed when the agent ends.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tcp_close::metric;

use crate::sample::{Census, PodCensus};

/// The file's name; node_exporter reads `*.prom`.
pub const FILE: &str = "tcp_close_tuning.prom";
/// Becomes [`FILE`] once it is complete. node_exporter does not look at it.
const UNFINISHED: &str = ".tcp_close_tuning.prom.unfinished";
/// Scrapes are rarely closer together.
const EVERY: Duration = Duration::from_secs(15);
/// node_exporter is somebody else, and has to read it.
const READABLE: Mode = Mode::from_raw_mode(0o644);

/// Why a folder is not written to.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be opened as a directory.
    #[error(
        "{0} is no directory, or is a symbolic link: name the folder that node_exporter reads, with its real path"
    )]
    NotADirectory(PathBuf),
    /// There is nothing.
    #[error(
        "{0} does not exist: create it, owned by root, where node_exporter's --collector.textfile.directory is"
    )]
    Absent(PathBuf),
    /// Somebody else could replace what is written, or have it written elsewhere.
    #[error(
        "{path} {what}: others could put a file of theirs in place of this one (chown root:root, chmod 755)"
    )]
    WritableByOthers {
        /// The folder.
        path: PathBuf,
        /// What lets them.
        what: &'static str,
    },
    /// Writing there would change a kernel.
    #[error("{0} is in a procfs or sysfs, where files are the kernel's")]
    OfTheKernel(PathBuf),
    /// The system said no.
    #[error("{0}: {1}")]
    Failed(PathBuf, #[source] std::io::Error),
}

/// What decides whether a folder is written to.
#[derive(Clone, Copy, Debug)]
struct Facts {
    owner: u32,
    group: u32,
    mode: u32,
    /// `f_type` of statfs.
    filesystem: u64,
}

impl Facts {
    fn of(folder: &OwnedFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(folder)?;
        // The type of f_type differs between architectures.
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
        let filesystem = rustix::fs::fstatfs(folder)?.f_type as u64;
        Ok(Self { owner: stat.st_uid, group: stat.st_gid, mode: stat.st_mode, filesystem })
    }

    fn check(self, path: &Path) -> Result<(), Refused> {
        let by_others = |what| Err(Refused::WritableByOthers { path: path.into(), what });
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
        let kernels = [rustix::fs::PROC_SUPER_MAGIC as u64, libc::SYSFS_MAGIC as u64];
        if kernels.contains(&self.filesystem) {
            return Err(Refused::OfTheKernel(path.into()));
        }
        if self.owner != 0 {
            return by_others("is not owned by root");
        }
        if self.mode & 0o020 != 0 && self.group != 0 {
            return by_others("is writable by a group that is not root's");
        }
        if self.mode & 0o002 != 0 {
            return by_others("is writable by everybody");
        }
        Ok(())
    }
}

/// The file, written again from time to time.
#[derive(Debug)]
pub struct Textfile {
    folder: PathBuf,
    tried: Option<Instant>,
    told: Option<String>,
}

impl Textfile {
    /// One that is not written yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, tried: None, told: None }
    }

    /// Writes it where that is due. Says once why it cannot be written, and goes on.
    pub fn write_if_due(&mut self, census: &Census, now: Instant) {
        if self.tried.is_some_and(|tried| now.saturating_duration_since(tried) < EVERY) {
            return;
        }
        self.tried = Some(now);
        let told = open(&self.folder)
            .and_then(|folder| replace(&folder, &text(census)).map_err(|error| self.failed(error)))
            .err()
            .map(|error| error.to_string());
        if let Some(why) = &told
            && self.told != told
        {
            tracing::warn!(why, "the textfile for node_exporter is not written");
        }
        self.told = told;
    }

    /// Removes it: what nobody measures any longer is not shown.
    pub fn remove(self) {
        let removed =
            open(&self.folder).and_then(|folder| delete(&folder).map_err(|error| self.failed(error)));
        if let Err(why) = removed {
            tracing::warn!(%why, "the textfile for node_exporter is not removed");
        }
    }

    fn failed(&self, error: std::io::Error) -> Refused {
        Refused::Failed(self.folder.join(FILE), error)
    }
}

/// Opens a folder that nobody but root can write to. Whatever becomes of its path afterwards, writes go to what was checked.
fn open(path: &Path) -> Result<OwnedFd, Refused> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno: Errno| match errno {
        Errno::NOENT => Refused::Absent(path.into()),
        Errno::NOTDIR | Errno::LOOP => Refused::NotADirectory(path.into()),
        other => Refused::Failed(path.into(), other.into()),
    };
    let folder = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    Facts::of(&folder).map_err(failed)?.check(path)?;
    Ok(folder)
}

/// Writes a new file and puts it in the old one's place: a scrape sees one or the other, and never half of it.
fn replace(folder: &OwnedFd, text: &str) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, UNFINISHED, flags, READABLE)?;
    // Whatever the umask took away.
    rustix::fs::fchmod(&file, READABLE)?;
    File::from(file).write_all(text.as_bytes())?;
    Ok(rustix::fs::renameat(folder, UNFINISHED, folder, FILE)?)
}

/// What is not there is removed already.
fn delete(folder: &OwnedFd) -> std::io::Result<()> {
    match rustix::fs::unlinkat(folder, FILE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The metrics of a census.
pub fn text(census: &Census) -> String {
    let mut page = Page::default();
    own_namespace(&mut page, census);
    happenings(&mut page, census);
    if let Some(Ok(pods)) = &census.pods {
        of_pods(&mut page, pods);
    }
    let unattributed = census.unattributed_orphans;
    page.one(
        "tcpclose_machine_unattributed_orphans",
        "Orphans of the machine in no network namespace that was looked at",
        unattributed,
    );
    page.0
}

fn own_namespace(page: &mut Page, census: &Census) {
    let counts = census.states.map(|states| states.value);
    page.each(
        "tcpclose_node_sockets",
        "Closing TCP sockets in the node's own network namespace, pods not among them; each is in one state",
        "state",
        counts.iter().flat_map(metric::states),
    );
    for (name, help, count) in [
        (
            "tcpclose_node_orphans",
            "Closing sockets without a program, without mini-sockets, in the node's own network namespace",
            counts.map(|counts| counts.orphans),
        ),
        (
            "tcpclose_node_zero_window_orphans",
            "Orphans whose peer has closed its window, in the node's own network namespace",
            counts.map(|counts| counts.zero_window_orphans),
        ),
        (
            "tcpclose_node_held_fin_wait2_sockets",
            "Sockets in FIN_WAIT2 that a program still holds, in the node's own network namespace",
            counts.map(|counts| counts.fin_wait2_held),
        ),
        (
            "tcpclose_node_unaccepted_sockets",
            "Sockets in CLOSE_WAIT that no program has accepted yet, in the node's own network namespace",
            counts.map(|counts| counts.unaccepted),
        ),
    ] {
        page.one(name, help, count);
    }
    page.one(
        "tcpclose_node_sockets_timestamp_seconds",
        "When the sockets of the node's own network namespace were counted by state",
        census.states.map(|states| states.at.as_second()),
    );
    let sockstat = census.sockstat.map(|sockstat| sockstat.value);
    page.one(
        "tcpclose_node_mini_sockets",
        "TIME_WAIT and FIN_WAIT2 mini-sockets together in the node's own network namespace, as the kernel counts them",
        sockstat.map(|sockstat| sockstat.tw),
    );
    page.one(
        "tcpclose_machine_orphans",
        "Orphans of the whole machine, all network namespaces together; not to be added up over nodes of one machine",
        sockstat.map(|sockstat| sockstat.machine_orphans),
    );
    page.one(
        "tcpclose_node_mini_sockets_timestamp_seconds",
        "When the kernel's own counts of mini-sockets and of the machine's orphans were read",
        census.sockstat.map(|sockstat| sockstat.at.as_second()),
    );
}

fn happenings(page: &mut Page, census: &Census) {
    page.each(
        "tcpclose_node_events_per_minute",
        "How often connections end in which way, in the node's own network namespace",
        "event",
        census.rates.iter().flat_map(metric::events),
    );
    page.one(
        "tcpclose_node_events_window_seconds",
        "Over how long the events were counted",
        census.rates.map(|rates| rates.seconds),
    );
    let conntrack = census.conntrack;
    page.one(
        "tcpclose_node_conntrack_entries",
        "Connections that are tracked in the node's own network namespace, those in TIME_WAIT among them",
        conntrack.map(|conntrack| conntrack.entries),
    );
    page.one(
        "tcpclose_node_conntrack_entries_limit",
        "Above it packets of new connections are dropped, in the node's own network namespace",
        conntrack.map(|conntrack| conntrack.max),
    );
    let ports = census.ports.as_ref();
    let fullest = ports.and_then(|ports| {
        let used = ports.value.pairs.iter().map(|pair| pair.used).max()?;
        (ports.value.available > 0).then(|| f64::from(used) / f64::from(ports.value.available))
    });
    page.one(
        "tcpclose_node_ports_used_ratio",
        "Local ports taken by the (source, destination) pair with the most, of ip_local_port_range; at least so many, in \
         the node's own network namespace",
        fullest,
    );
    page.one(
        "tcpclose_node_ports_timestamp_seconds",
        "When ports were counted",
        ports.map(|ports| ports.at.as_second()),
    );
}

/// Sums only: a label for each pod would have no bound.
fn of_pods(page: &mut Page, pods: &PodCensus) {
    page.one(
        "tcpclose_pods_network_namespaces",
        "Network namespaces on this node beside its own",
        Some(pods.namespaces),
    );
    page.one(
        "tcpclose_pods_network_namespaces_unread",
        "Network namespaces on this node beside its own that could not be read; nothing of them is in any sum",
        Some(pods.unread),
    );
    page.one(
        "tcpclose_pods_mini_sockets",
        "TIME_WAIT and FIN_WAIT2 mini-sockets together, summed over the pods' network namespaces that were read",
        Some(pods.minis),
    );
    page.one(
        "tcpclose_pods_timestamp_seconds",
        "When the pods' network namespaces were counted",
        Some(pods.at.as_second()),
    );
}

/// Prometheus's text format. Everything in it is a gauge.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}.\n# TYPE {name} gauge\n");
    }

    /// A metric without labels; absent where it is unknown.
    fn one(&mut self, name: &str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.head(name, help);
            let _ = writeln!(self.0, "{name} {value}");
        }
    }

    /// A metric with one label; absent where nothing is known.
    fn each(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_some() {
            self.head(name, help);
        }
        for (of, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{of}\"}} {value}");
        }
    }
}

#[cfg(test)]
mod tests;
