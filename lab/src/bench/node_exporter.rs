//! Prometheus' node_exporter, which a test asks as Prometheus would.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    error::{Error, Result},
    process::shown,
    report::{Seen, poll_until},
};

/// It answers within a second on an idle machine.
const START: Duration = Duration::from_secs(30);
/// Longer than any scrape here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// One that runs, until it is dropped.
pub(crate) struct NodeExporter {
    child: Child,
    port: u16,
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        // One that has ended by itself needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl NodeExporter {
    /// Starts one, whose arguments the command has but for the port. It must run in the network namespace of this thread.
    pub(crate) fn start(mut command: Command, port: u16) -> Result<Self> {
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = command.spawn();
        let child = spawned.map_err(|source| Error::Start { program: shown(&command), source })?;
        let exporter = Self { child, port };
        poll_until("node_exporter answers", START, || exporter.scrape(&[]).map(|_| Seen::Yes))?;
        Ok(exporter)
    }

    /// The pid of what was started.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its metrics: those of some collectors, or all.
    pub(crate) fn scrape(&self, collectors: &[&str]) -> Result<String> {
        let act = || Error::system("scrape node_exporter");
        let query: Vec<_> = collectors.iter().map(|name| format!("collect[]={name}")).collect();
        let mut stream =
            TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)).map_err(act())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(act())?;
        let request = format!("GET /metrics?{} HTTP/1.0\r\nHost: localhost\r\n\r\n", query.join("&"));
        stream.write_all(request.as_bytes()).map_err(act())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(act())?;
        if answer.lines().next().is_some_and(|status| status.contains(" 200 ")) {
            return Ok(answer);
        }
        let why = answer.lines().next().unwrap_or("nothing").to_owned();
        Err(Error::Unclear { what: "node_exporter's answer".into(), why })
    }
}

/// The value of a metric, given with its labels.
pub(crate) fn metric(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name_and_labels() {
        let text = "# TYPE a gauge\na{b=\"c\"} 2.5e-3\na{b=\"cc\"} 7\n";
        assert_eq!(metric(text, "a{b=\"c\"}"), Some(0.0025));
        assert_eq!(metric(text, "a"), None);
    }
}
