//! Somebody who has nothing but a token.

use std::{path::PathBuf, process::Command};

use super::{Failure, Suite};
use crate::{
    error::Result,
    files,
    process::{self, Process},
};

/// Somebody who has nothing but a token.
pub(super) struct Bearer<'a> {
    suite: &'a Suite,
    server: String,
    authority: PathBuf,
    token: String,
}

impl<'a> Bearer<'a> {
    pub(super) fn new(suite: &'a Suite, token: &str) -> Result<Self, Failure> {
        let query = "jsonpath={.clusters[0].cluster.server}";
        let server = suite.cluster.kubectl(&["config", "view", "--output", query])?;
        let token = token.trim().to_owned();
        Ok(Self { suite, server, authority: suite.cluster.pki().join("ca.crt"), token })
    }

    /// Whoever has taken the token out of a running pod.
    pub(super) fn of_process(suite: &'a Suite, process: Process) -> Result<Self, Failure> {
        let folder = "root/var/run/secrets/kubernetes.io/serviceaccount";
        let token = files::read(&PathBuf::from(format!("/proc/{}/{folder}/token", process.pid)))?;
        Self::new(suite, &token)
    }

    /// Runs kubectl with the token and without the administrator's certificate.
    pub(super) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        process::run_with_input(&mut self.command(arguments), input.as_bytes())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut kubectl = self.suite.cluster.client("kubectl");
        kubectl.env("KUBECONFIG", "/dev/null").args(["--server", &self.server, "--token", &self.token]);
        kubectl.arg("--certificate-authority").arg(&self.authority).args(arguments);
        kubectl
    }

    /// A header of the answer to a read, whether it was granted or denied.
    pub(super) fn header(&self, path: &str, name: &str) -> Result<String, Failure> {
        let output = process::output(&mut self.command(&["get", "--raw", path, "--v=8"]))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        let value = line.map(|value| value.trim().to_owned());
        value.ok_or_else(|| Failure(format!("the answer to {path} has no {name}: {said}")))
    }

    /// Patches an object, or its status, without reading it first.
    pub(super) fn patch(&self, object: &str, more: &[&str]) -> Result<String> {
        let patch = ["apply", "--server-side", "--force-conflicts", "--validate=false", "--filename", "-"];
        self.kubectl(&[&patch, more].concat(), object)
    }
}
