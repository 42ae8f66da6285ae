//! The agent without a cluster, as a person runs it on a node: on the kernel of a network namespace that is made for the
//! test, with a folder of its own on the machine's disk.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::Duration,
};

use rustix::process::Signal;

use super::{Failure, Outcome, Suite, ensure, everywhere, strace::Strace, tuning};
use crate::{
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    process::{Process, output, shown},
    report::{Seen, poll_until},
};

/// How the agent ends where all is in force.
pub(super) const IN_FORCE: i32 = 0;
/// How it ends where something could not be written.
pub(super) const FAILED: i32 = 4;

/// An agent that nobody runs yet.
pub(super) struct Alone {
    agent: PathBuf,
    /// Looks at its system calls.
    pub(super) strace: Strace,
    /// All that the test keeps on disk.
    pub(super) folder: PathBuf,
}

impl Alone {
    fn new(suite: &Suite) -> Self {
        let folder = suite.cluster.dir().join("alone");
        let strace =
            Strace { program: suite.cluster.program("strace"), libraries: suite.cluster.libraries() };
        Self { agent: suite.images.agent.program.clone(), strace, folder }
    }

    /// Runs a test in the machine's first network namespace, with an empty folder that goes afterwards.
    pub(super) fn here(suite: &Suite, test: impl FnOnce(&Self) -> Outcome) -> Outcome {
        let alone = Self::new(suite);
        remove_folder(&alone.folder)?;
        files::make_folder(&alone.folder)?;
        let outcome = test(&alone);
        remove_folder(&alone.folder)?;
        outcome
    }

    /// Runs a test in a new network namespace, with an empty folder that goes afterwards.
    pub(super) fn apart(suite: &Suite, test: impl FnOnce(&Self) -> Outcome + Send) -> Outcome {
        Self::here(suite, |alone| NetNamespace::run_in_new(|| test(alone))?)
    }

    /// Where its journal is.
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// An agent that has never run.
    pub(super) fn forget(&self) -> Outcome {
        Ok(remove_folder(&self.state())?)
    }

    /// Puts another tuning, each line `field: value`, in the place of the present one, at once.
    pub(super) fn tune(&self, sysctls: &[&str]) -> Outcome {
        let (new, file) = (self.folder.join("tuning.new"), self.tuning());
        files::write(&new, tuning("web", &everywhere(sysctls)))?;
        Ok(fs::rename(&new, &file).map_err(Error::file("replace", &file))?)
    }

    /// The file that it is tuned from.
    pub(super) fn tuning(&self) -> PathBuf {
        self.folder.join("tuning.yaml")
    }

    /// The command line that puts the tuning into force.
    pub(super) fn apply(&self) -> Vec<String> {
        self.line(&["apply"])
    }

    /// The command line that puts back what was there before.
    pub(super) fn restore(&self) -> Vec<String> {
        self.line(&["restore"])
    }

    /// The agent's command line for a verb and what belongs to it.
    pub(super) fn line(&self, words: &[&str]) -> Vec<String> {
        let [agent, tuning, state] = [&self.agent, &self.tuning(), &self.state()].map(|path| text(path));
        let file: &[&str] = if words[0] == "restore" { &[] } else { &["--filename", &tuning] };
        [&[agent.as_str()], words, &["--state", &state], file]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// Starts an agent that goes on until it is dropped.
    pub(super) fn watch(&self) -> Result<Watching> {
        let log = self.folder.join("log");
        let file = File::create(&log).map_err(Error::file("make", &log))?;
        let errors = file.try_clone().map_err(Error::file("open", &log))?;
        let mut command = command(&self.line(&["apply", "--watch"]));
        command.stdout(file).stderr(errors);
        let child = command.spawn().map_err(|source| Error::Start { program: shown(&command), source })?;
        Ok(Watching { child, log })
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A command line, to be run as it is: no variable of the person's sets an option.
pub(super) fn command(line: &[String]) -> Command {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env_clear();
    command
}

/// A command line, to be run with mounts of its own, which a script makes.
pub(super) fn with_mounts(script: &str, line: &[String]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-e", "-c", &format!("{script}\nexec \"$@\""), "sh"]).args(line);
    command
}

/// Runs a command, which must end with this code, and returns all that it said.
pub(super) fn ends(command: &mut Command, code: i32) -> Result<String, Failure> {
    ended(&output(command)?, code)
}

/// All that a command said, which must have ended with this code.
pub(super) fn ended(output: &Output, code: i32) -> Result<String, Failure> {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let said = format!("{stdout}{stderr}");
    ensure(output.status.code() == Some(code), || format!("{}, not {code}:\n{said}", output.status))?;
    Ok(said)
}

/// Fails where a text does not hold another.
pub(super) fn says(said: &str, wanted: &str) -> Outcome {
    ensure(said.contains(wanted), || format!("{wanted:?} is not in:\n{said}"))
}

/// An agent that goes on until it is asked to end, or until this is dropped: then its end is a kill.
pub(super) struct Watching {
    child: Child,
    log: PathBuf,
}

impl Watching {
    /// Waits until it has said something.
    pub(super) fn wait_until_it_says(&self, what: &str, deadline: Duration) -> Result<Duration> {
        poll_until(&format!("the agent says {what}"), deadline, || {
            let log = files::read(&self.log)?;
            Ok(Seen::when(log.contains(what), || files::last_lines(&log, 5)))
        })
    }

    /// Asks it to end; returns how it did, and all that it said.
    pub(super) fn end(mut self) -> Result<(Option<i32>, String)> {
        if let Some(process) = Process::of_pid(self.child.id()) {
            process.signal(Signal::TERM)?;
        }
        let status = self.child.wait().map_err(Error::system("wait for the agent"))?;
        Ok((status.code(), files::read(&self.log)?))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file of a key in the network namespace of the caller.
pub(super) fn file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

/// What the kernel holds in the network namespace of the caller.
pub(super) fn live(key: &str) -> Result<String> {
    Ok(files::read(&file(key))?.trim().to_owned())
}

/// Writes as another program would.
pub(super) fn set(key: &str, value: &str) -> Result<()> {
    fs::write(file(key), value).map_err(Error::file("write", file(key)))
}

/// Fails where the kernel does not hold these values.
pub(super) fn holds(values: &[(&str, &str)]) -> Outcome {
    values.iter().try_for_each(|(key, value)| {
        let live = live(key)?;
        ensure(live == *value, || format!("{key} is {live}, not {value}"))
    })
}

/// Waits until the kernel holds a value.
pub(super) fn wait_until_it_holds(key: &str, value: &str, deadline: Duration) -> Result<Duration> {
    poll_until(&format!("{key} is {value}"), deadline, || {
        let live = live(key)?;
        Ok(Seen::when(live == value, || live.clone()))
    })
}
