//! TuneD, with a profile of five sysctls, as the node tuning operator of OpenShift runs it.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    checkout::Cache,
    debian,
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    process::{Process, shown},
    report::{Seen, poll_until},
};

/// It applies its profile within a second on an idle machine.
const START: Duration = Duration::from_secs(60);
/// One of the sysctls of its profile, and what it is set to.
const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";
const VALUE: &str = "30";
/// So much of its log is shown when it has ended.
const TAIL_LINES: usize = 10;

/// One that runs, until it is dropped.
pub(crate) struct Tuned {
    unshare: Child,
    /// TuneD itself.
    pub(crate) process: Process,
}

impl Drop for Tuned {
    fn drop(&mut self) {
        // `--kill-child`: what it runs ends with it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

impl Tuned {
    /// Starts it, what it says in a log, and waits until its profile is applied.
    pub(crate) fn start(log: &Path) -> Result<Self> {
        let packages = debian::tuned(&Cache::of_user()?)?;
        let said = File::create(log).map_err(Error::file("make", log))?;
        let mut command = Command::new("unshare");
        command.args(["--fork", "--pid", "--kill-child", "--mount-proc", "--mount", "--net", "--"]);
        command.args(["sh", "-c", include_str!("tuned.sh"), "tuned.sh"]).arg(packages);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let spawned = command.spawn();
        let unshare = spawned.map_err(|source| Error::Start { program: shown(&command), source })?;
        let parent = Process::of_pid(unshare.id())
            .ok_or_else(|| Error::Unclear { what: "TuneD".into(), why: "its process is not there".into() })?;
        let mut tuned = Self { unshare, process: parent };
        poll_until("TuneD has applied its profile", START, || {
            let Some(process) = parent.first_child() else { return has_ended(parent, log) };
            tuned.process = process;
            let net = NetNamespace::of(process.pid)?;
            let value = net.run(|| files::read(Path::new(SYSCTL)))??;
            Ok(Seen::when(value.trim() == VALUE, || format!("{SYSCTL} holds {}", value.trim())))
        })?;
        Ok(tuned)
    }
}

/// It has no child yet, or any more: then waiting is in vain.
fn has_ended(unshare: Process, log: &Path) -> Result<Seen> {
    if unshare.is_alive() {
        return Ok(Seen::NotYet("it has not started".into()));
    }
    let tail = files::tail(log, TAIL_LINES);
    Err(Error::Ended { name: "TuneD".into(), log: log.to_owned(), tail })
}
