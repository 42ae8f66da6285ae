//! Operators that a test runs itself, each behind a proxy of its own, in place of the chart's: so that it can end one, freeze
//! it, or keep its writes back, at any of them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Failure, Outcome, SOON, Suite, leader::scale};
use crate::{
    error::Result,
    files,
    install::{NAMESPACE, RELEASE},
    namespace::NetNamespace,
    process::{Process, Records, daemon},
    programs::OPERATOR,
    proxy::Proxy,
    report::{Seen, poll_until},
};

/// An operator's program, and its process. It is killed when this is dropped.
pub(super) struct OwnOperator {
    identity: &'static str,
    program: PathBuf,
    kubeconfig: PathBuf,
    log: PathBuf,
    lab: String,
    net: NetNamespace,
    records: Records,
    process: Mutex<Option<Process>>,
}

impl OwnOperator {
    /// One that does not run yet, and the proxy through which it will speak.
    pub(super) fn behind_proxy(suite: &Suite, identity: &'static str) -> Result<(Arc<Self>, Proxy)> {
        let cluster = &suite.cluster;
        let proxy = Proxy::start(cluster, &format!("{RELEASE}-operator"))?;
        let kubeconfig = cluster.dir().join(format!("{identity}.kubeconfig"));
        proxy.write_kubeconfig(&kubeconfig)?;
        let log = cluster.dir().join("log").join(format!("{identity}.log"));
        files::remove(&log)?;
        let operator = Self {
            identity,
            program: suite.images.operator.program.clone(),
            kubeconfig,
            log,
            lab: cluster.name().to_owned(),
            net: cluster.net()?,
            records: cluster.records().clone(),
            process: Mutex::default(),
        };
        Ok((Arc::new(operator), proxy))
    }

    /// Starts it.
    pub(super) fn start(&self) -> Result<()> {
        let mut command = daemon(&self.program, &self.lab);
        command
            .arg("run")
            .env("KUBECONFIG", &self.kubeconfig)
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", self.identity)
            .env("HEALTH_ADDRESS", "127.0.0.1:0");
        let process = self.net.run(|| self.records.start(self.identity, &mut command, &self.log))??;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// Kills it.
    pub(super) fn kill(&self) -> Result<()> {
        self.process().map_or(Ok(()), |process| process.kill())
    }

    /// Waits until it has logged something.
    pub(super) fn wait_until_it_says(&self, words: &str) -> Outcome {
        poll_until(&format!("{} says {words:?}", self.identity), SOON, || {
            let log = files::read(&self.log)?;
            Ok(Seen::when(log.contains(words), || files::last_lines(&log, 3)))
        })?;
        Ok(())
    }

    /// Its process, where it was started.
    pub(super) fn process(&self) -> Option<Process> {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnOperator {
    fn drop(&mut self) {
        // What is left is ended with the lab.
        let _ = self.kill();
    }
}

/// Takes the chart's operators away meanwhile.
pub(super) fn without_operators(suite: &Suite, work: impl FnOnce() -> Outcome) -> Outcome {
    scale(suite, 0)?;
    let outcome = gone(suite).and_then(|()| work());
    scale(suite, 1)?;
    outcome
}

/// One that still runs could still write.
fn gone(suite: &Suite) -> Result<(), Failure> {
    poll_until("no operator runs", SOON, || {
        let running = suite.cluster.nodes().iter().map(|node| Ok(node.processes(OPERATOR)?.len()));
        let running = running.sum::<Result<usize>>()?;
        Ok(Seen::when(running == 0, || format!("{running} run")))
    })?;
    Ok(())
}
