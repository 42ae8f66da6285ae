//! Programs that the lab runs, and the records by which it finds its own again: a pid alone is not enough, the kernel
//! hands it out anew.

use std::{
    ffi::OsStr,
    fs::OpenOptions,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    error::{Error, Result},
    files,
    report::{Seen, poll_until},
};

/// Every process of a lab carries this variable with the lab's name: so a lab that was killed before it wrote a pid
/// down still finds what it started.
const MARK: &str = "TCPCLOSE_LAB";
/// A process gets this long to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// The kernel gets this long to carry a SIGKILL out; containers with much memory take a moment.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// So many lines of a failed program are shown.
const SHOWN_LINES: usize = 30;

/// A process of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its pid in the machine's first pid namespace.
    pub pid: u32,
    /// Its start in clock ticks since boot: with the pid, its identity.
    start: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of_pid(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start: Stat::parse(&stat)?.start })
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| Stat::parse(&stat))
            .is_some_and(|stat| stat.start == self.start && !stat.is_dead)
    }

    /// Sends a signal to this process and no other: the descriptor is taken first, then the identity is checked.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let act = || format!("send {signal:?} to process {}", self.pid);
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(descriptor, signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(Error::system(act())(error)),
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let what = format!("process {} is gone", self.pid);
        poll_until(&what, KILL_DEADLINE, || Ok(Seen::when(!self.is_alive(), || "it runs".into()))).map(drop)
    }

    /// SIGTERM, and SIGKILL for one that does not follow.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let gone = || Ok(Seen::when(!self.is_alive(), || "it runs".into()));
        poll_until("it has stopped", GRACE, gone).map(drop).or_else(|_| self.kill())
    }

    /// Its first child: what `unshare --fork` runs as pid 1 of the new namespace.
    pub fn first_child(&self) -> Option<Self> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let children = std::fs::read_to_string(path).ok()?;
        Self::of_pid(children.split_whitespace().next()?.parse().ok()?)
    }
}

/// The parts of `/proc/PID/stat` that tell a process from another.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    start: u64,
    is_dead: bool,
}

impl Stat {
    /// The name in parentheses may hold anything, blanks and parentheses too: fields are counted from the last one.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        // A first thread may end before the others, which keep what the process holds.
        let is_dead = matches!(*fields.first()?, "Z" | "X") && matches!(*fields.get(17)?, "0" | "1");
        Some(Self { start: fields.get(19)?.parse().ok()?, is_dead })
    }
}

/// The folder in which a lab records its processes, one file each.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Records in this folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Starts a program that outlives this one, its output in a log, and records it under a name.
    pub(crate) fn start(&self, name: &str, command: &mut Command, log: &Path) -> Result<Process> {
        if let Some(parent) = log.parent() {
            files::make_folder(parent)?;
        }
        let output =
            OpenOptions::new().create(true).append(true).open(log).map_err(Error::file("open", log))?;
        let errors = output.try_clone().map_err(Error::file("open", log))?;
        // A group of its own: Ctrl-C at the terminal is for the lab, which then takes the rest down in order.
        command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(|source| Error::Start { program: shown(command), source })?;
        let process = Process::of_pid(child.id()).ok_or_else(|| Error::Unclear {
            what: format!("/proc/{}/stat", child.id()),
            why: format!("{name} is not there"),
        })?;
        files::write(&self.folder.join(name), format!("{} {}\n", process.pid, process.start))?;
        Ok(process)
    }

    /// The process that was recorded under a name, dead or alive.
    pub(crate) fn get(&self, name: &str) -> Option<Process> {
        let text = std::fs::read_to_string(self.folder.join(name)).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Process { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    /// The process that was recorded under a name, if it runs.
    pub(crate) fn alive(&self, name: &str) -> Option<Process> {
        self.get(name).filter(Process::is_alive)
    }

    /// All that was recorded.
    pub(crate) fn all(&self) -> Result<Vec<(String, Process)>> {
        let names = files::list(&self.folder)?;
        Ok(names.into_iter().filter_map(|name| self.get(&name).map(|process| (name, process))).collect())
    }
}

/// The pids of all processes, in no useful order.
pub(crate) fn pids() -> Result<Vec<u32>> {
    let names = files::list(Path::new("/proc"))?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Every live process that carries the mark of a lab in its environment, but for this one.
pub(crate) fn marked(lab: &str) -> Result<Vec<Process>> {
    let wanted = format!("{MARK}={lab}");
    let is_ours = |pid: u32| {
        // A process that ends meanwhile has no environment any more; then it needs no end either.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    Ok(pids()?
        .into_iter()
        .filter(|pid| *pid != std::process::id() && is_ours(*pid))
        .filter_map(Process::of_pid)
        .filter(Process::is_alive)
        .collect())
}

/// Runs a program to its end and returns what it printed; an error holds the end of what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(command, &output))
}

/// Runs a program to its end, however it ends.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.output().map_err(|source| Error::Start { program: shown(command), source })
}

/// [`run`] with a text for its stdin.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| Error::Start { program: shown(command), source })?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // Beside reading: a program that answers while it reads would wait for us, and we for it.
        // One that ends early breaks the pipe; its own words say why, so they are the error.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    });
    let output = output.map_err(|source| Error::Start { program: shown(command), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(command, &output))
}

fn failed(command: &Command, output: &Output) -> Error {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    Error::Failed {
        command: shown(command),
        status: output.status.to_string(),
        output: files::last_lines(said.join("\n").trim(), SHOWN_LINES),
    }
}

/// A program that outlives this one, with the mark of its lab and nothing of the person's environment but the PATH: a
/// proxy that is set for the browser must not stand between a kubelet and its API server.
pub(crate) fn daemon(program: impl AsRef<OsStr>, lab: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env(MARK, lab);
    command
}

/// Waits until the person at the terminal, or whoever started this, asks for the end.
pub(crate) fn wait_for_interrupt() -> Result<()> {
    let act = || Error::system("wait for Ctrl-C");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(act())?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(act())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result.map_err(act()),
            _ = terminate.recv() => Ok(()),
        }
    })
}

/// A command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The first program of this name on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Root's PATH often lacks the sbin folders, where ip and runc live.
    let folders =
        std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(Stat::parse(stat), Some(Stat { start: 4711, is_dead: false }));
    }

    #[test]
    fn a_process_is_dead_when_its_last_thread_is() {
        let is_dead = |threads| {
            let stat = format!("7 (a) Z 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 {threads} 0 4711 0 0");
            Stat::parse(&stat).map(|stat| stat.is_dead)
        };
        assert_eq!((is_dead(9), is_dead(1)), (Some(false), Some(true)));
    }

    #[test]
    fn a_recycled_pid_is_not_our_process() {
        let own = Process::of_pid(std::process::id()).unwrap();
        assert!(own.is_alive());
        let earlier = Process { start: own.start - 1, ..own };
        assert!(!earlier.is_alive());
        // Would end this very test if the identity were not checked.
        earlier.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = Process::of_pid(child.id()).unwrap();
        poll_until("it has ended", GRACE, || Ok(Seen::when(!process.is_alive(), String::new))).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_failed_program_is_named_with_its_last_words() {
        let error =
            run(Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no such luck") && error.contains('3'), "{error}");
    }
}
