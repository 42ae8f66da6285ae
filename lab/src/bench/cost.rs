//! What work costs: CPU time and wall time of a program from its start to its end, of a piece of work in this thread, and of
//! what another process does meanwhile; and the memory of a process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    files,
    process::{Process, shown},
};

/// What one run of something took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Of the CPUs; unknown where only the program itself has said what it took.
    pub(crate) cpu: Option<Duration>,
    /// Of the clock on the wall.
    pub(crate) wall: Duration,
}

impl Cost {
    /// Of a piece of work in this thread that is done so often: the mean.
    pub(crate) fn of_work(times: u32, mut work: impl FnMut() -> Result<()>) -> Result<Self> {
        let (cpu, wall) = (thread_time(), Instant::now());
        for _ in 0..times {
            work()?;
        }
        let (cpu, wall) = (thread_time().saturating_sub(cpu), wall.elapsed());
        Ok(Self { cpu: Some(cpu / times), wall: wall / times })
    }

    /// Of a whole program, or of two with a pipe between them: from the start to the end of both. Their output is dropped.
    pub(crate) fn of_programs(mut first: Command, second: Option<Command>) -> Result<Self> {
        let start = Instant::now();
        let output = if second.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut writer = spawn(first.stdin(Stdio::null()).stdout(output))?;
        let mut cpu = Duration::ZERO;
        if let (Some(mut second), Some(output)) = (second, writer.stdout.take()) {
            let reader = spawn(second.stdin(output).stdout(Stdio::null()))?;
            cpu += wait(&reader, &second)?;
        }
        cpu += wait(&writer, &first)?;
        Ok(Self { cpu: Some(cpu), wall: start.elapsed() })
    }

    /// Of what a process does while this thread waits for it.
    pub(crate) fn of_process(process: Process, wait: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (before, start) = (cpu_time(process)?, Instant::now());
        wait()?;
        let wall = start.elapsed();
        Ok(Self { cpu: Some(cpu_time(process)?.saturating_sub(before)), wall })
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|source| Error::Start { program: shown(command), source })
}

/// Waits for the end of a program, and returns the CPU time that it has taken.
fn wait(child: &Child, command: &Command) -> Result<Duration> {
    let pid = child.id().cast_signed();
    let mut status = 0;
    // SAFETY: a rusage is numbers alone, for which all zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to variables that live until the call returns. The child has not been waited for: its pid
    // is its own.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if waited != pid {
        return Err(Error::system(format!("wait for {}", shown(command)))(std::io::Error::last_os_error()));
    }
    if status != 0 {
        let status = std::os::unix::process::ExitStatusExt::from_raw(status);
        return Err(failed(command, status));
    }
    let time = |time: libc::timeval| {
        let (seconds, micros) = (time.tv_sec.unsigned_abs(), time.tv_usec.unsigned_abs());
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

fn failed(command: &Command, status: std::process::ExitStatus) -> Error {
    let output = "what it said was not kept: it is being measured".into();
    Error::Failed { command: shown(command), status: status.to_string(), output }
}

/// CPU time of this thread.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The CPU time of all threads, in nanoseconds: the ticks of `/proc/PID/stat` are 10 ms, more than an idle agent takes.
pub(crate) fn cpu_time(process: Process) -> Result<Duration> {
    let tasks = file(process, "task");
    let times = files::list(&tasks)?.into_iter().map(|task| {
        let path = tasks.join(task).join("schedstat");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap_or(0)),
            // A thread that has ended since the folder was listed; where the process has, there are none at all.
            Err(error) if is_gone(&error) => Ok(0),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    });
    times.sum::<Result<u64>>().map(Duration::from_nanos)
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// What a process holds in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The most since its start: `VmHWM`.
    pub peak: u64,
    /// What is neither a file's nor shared: `RssAnon`.
    pub anonymous: u64,
    /// What would be free without it, pages of its file that nobody else has mapped included: `Private_Clean` and
    /// `Private_Dirty`.
    pub private: u64,
    /// Of that, what it has written: `Private_Dirty`.
    pub dirty: u64,
    /// How many threads it has.
    pub threads: u64,
}

impl Memory {
    /// Of a process.
    pub(crate) fn of(process: Process) -> Result<Self> {
        let status = files::read(&file(process, "status"))?;
        let rollup = files::read(&file(process, "smaps_rollup"))?;
        let of = |text: &str, name: &str| {
            let why = || format!("process {} has none", process.pid);
            field(text, name).ok_or_else(|| Error::Unclear { what: name.into(), why: why() })
        };
        let dirty = of(&rollup, "Private_Dirty")? << 10;
        Ok(Self {
            peak: of(&status, "VmHWM")? << 10,
            anonymous: of(&status, "RssAnon")? << 10,
            private: dirty + (of(&rollup, "Private_Clean")? << 10),
            dirty,
            threads: of(&status, "Threads")?,
        })
    }
}

/// The size of a process's program, in bytes.
pub(crate) fn program_size(process: Process) -> Result<u64> {
    let binary = file(process, "exe");
    Ok(fs::metadata(&binary).map_err(Error::file("find", &binary))?.len())
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}

/// Bytes in MB.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1000.0
}

fn file(process: Process, name: &str) -> PathBuf {
    Path::new("/proc").join(process.pid.to_string()).join(name)
}

/// The number in a line `Name:   123 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Seen, poll_until};

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "VmHWMx:\t 1 kB\nVmHWM:\t    7264 kB\nThreads:\t1\n";
        assert_eq!(
            (field(text, "VmHWM"), field(text, "Threads"), field(text, "Vm")),
            (Some(7264), Some(1), None)
        );
    }

    #[test]
    fn a_process_that_works_has_cpu_time() {
        let own = Process::of_pid(std::process::id()).unwrap();
        // The scheduler accounts for a thread that has just started a tick later.
        let accounted = || Ok(Seen::when(cpu_time(own)? > Duration::ZERO, || "no time".into()));
        poll_until("this process has taken time", Duration::from_secs(10), accounted).unwrap();
    }

    #[test]
    fn a_pipe_costs_what_both_programs_take() {
        let mut writer = Command::new("seq");
        writer.arg("200000");
        let mut reader = Command::new("sort");
        reader.arg("--numeric-sort");
        let alone = Cost::of_programs(Command::new("true"), None).unwrap();
        let both = Cost::of_programs(writer, Some(reader)).unwrap();
        assert!(both.cpu.unwrap() > alone.cpu.unwrap(), "{both:?} {alone:?}");
    }

    #[test]
    fn a_program_that_fails_is_not_a_measurement() {
        let error = Cost::of_programs(Command::new("false"), None).unwrap_err();
        assert!(matches!(error, Error::Failed { .. }), "{error}");
    }
}
