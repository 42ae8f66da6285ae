//! What a phase costs: writes to the API server by kind, and CPU time of each part.

use std::time::{Duration, Instant};

use kube::Client;

use super::plane::{Agents, OPERATOR_ADDRESS, Plane};
use crate::{
    bench::{client::api, cost::cpu_time},
    error::{Error, Result},
    process::Process,
};

/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(10);

/// Writes of the product that the API servers have taken since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Writes {
    /// Statuses of nodes, by agents.
    pub(super) reports: u64,
    /// Orders for nodes, by the operator.
    pub(super) orders: u64,
    /// Statuses of tunings, by the operator.
    pub(super) statuses: u64,
}

impl Writes {
    /// All kinds together.
    pub(super) fn all(self) -> u64 {
        self.reports + self.orders + self.statuses
    }

    fn less(self, before: Self) -> Self {
        Self {
            reports: self.reports.saturating_sub(before.reports),
            orders: self.orders.saturating_sub(before.orders),
            statuses: self.statuses.saturating_sub(before.statuses),
        }
    }

    fn more(self, other: Self) -> Self {
        Self {
            reports: self.reports + other.reports,
            orders: self.orders + other.orders,
            statuses: self.statuses + other.statuses,
        }
    }

    /// Those in the text of an API server's metrics.
    fn parse(metrics: &str) -> Self {
        let samples = metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{"));
        let ours = samples.filter(|sample| sample.contains(r#"group="tcpclose.dev""#));
        let taken = ours.filter(|sample| sample.contains(r#"code="2"#));
        let mut writes = Self::default();
        for sample in taken {
            let has = |label: &str| sample.contains(label);
            if !["APPLY", "PATCH", "POST", "PUT"].iter().any(|verb| has(&format!(r#"verb="{verb}""#))) {
                continue;
            }
            let count = sample.rsplit_once(' ').and_then(|(_, count)| count.parse::<f64>().ok());
            // A counter: a whole number that fits.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = count.unwrap_or_default() as u64;
            let of_status = has(r#"subresource="status""#);
            match (has(r#"resource="tcpclosenodes""#), of_status) {
                (true, true) => writes.reports += count,
                (true, false) => writes.orders += count,
                (false, true) => writes.statuses += count,
                // A tuning that the bench itself writes.
                (false, false) => {}
            }
        }
        writes
    }
}

/// What was written so far, over all API servers.
pub(super) async fn writes(clients: &[Client]) -> Result<Writes> {
    let mut sum = Writes::default();
    for client in clients {
        sum = sum.more(Writes::parse(&get(client, "/metrics").await?));
    }
    Ok(sum)
}

/// Whether all API servers say that they are ready.
pub(super) async fn are_ready(clients: &[Client]) -> Result<bool> {
    for client in clients {
        if get(client, "/readyz").await? != "ok" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A page of an API server. One that is being restarted may never answer.
async fn get(client: &Client, path: &str) -> Result<String> {
    let unclear = |why: String| Error::Unclear { what: path.into(), why };
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| unclear(error.to_string()))?;
    let answer = tokio::time::timeout(ANSWER, client.request_text(request)).await;
    answer.map_err(|_| unclear("no answer".into()))?.map_err(api("read a page of the API server"))
}

/// Everything that is measured at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    at: Instant,
    writes: Writes,
    servers: Duration,
    etcd: Duration,
    operator: Duration,
    agents: Duration,
}

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// For how long.
    pub wall: Duration,
    /// Writes of the product.
    pub(super) writes: Writes,
    /// CPU time of the API servers.
    pub servers: Duration,
    /// Of etcd.
    pub etcd: Duration,
    /// Of the operator.
    pub operator: Duration,
    /// Of the simulation itself.
    pub agents: Duration,
}

impl Usage {
    /// Writes in a second.
    pub fn writes_per_second(&self) -> f64 {
        per_second(self.writes.all(), self.wall)
    }

    /// Writes of agents in a second.
    pub fn reports_per_second(&self) -> f64 {
        per_second(self.writes.reports, self.wall)
    }

    /// The part of a core, in percent, that so much CPU time was.
    pub fn percent(&self, cpu: Duration) -> f64 {
        100.0 * cpu.as_secs_f64() / self.wall.as_secs_f64()
    }
}

fn per_second(count: u64, wall: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / wall.as_secs_f64()
}

impl Reading {
    /// Now.
    pub(super) async fn take(
        plane: &Plane,
        clients: &[Client],
        operator: Option<Process>,
        agents: &[Agents],
    ) -> Result<Self> {
        let writes = writes(clients).await?;
        let sum =
            |processes: &mut dyn Iterator<Item = Process>| processes.map(cpu_time).sum::<Result<Duration>>();
        Ok(Self {
            at: Instant::now(),
            writes,
            servers: sum(&mut plane.server_processes().into_iter())?,
            etcd: cpu_time(plane.etcd()?)?,
            operator: operator.map_or(Ok(Duration::ZERO), cpu_time)?,
            agents: sum(&mut agents.iter().filter_map(Agents::process))?,
        })
    }

    /// What was used since an earlier one.
    pub(super) fn since(&self, before: &Self) -> Usage {
        Usage {
            wall: self.at - before.at,
            writes: self.writes.less(before.writes),
            servers: self.servers.saturating_sub(before.servers),
            etcd: self.etcd.saturating_sub(before.etcd),
            operator: self.operator.saturating_sub(before.operator),
            agents: self.agents.saturating_sub(before.agents),
        }
    }
}

/// The samples that the operator shows, as text; none where it does not answer.
pub(super) async fn operators_page() -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let read = async {
        let mut stream = tokio::net::TcpStream::connect(OPERATOR_ADDRESS).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.map(|_| page)
    };
    read.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_by_who_makes_them() {
        let text = r#"
apiserver_request_total{code="200",component="apiserver",dry_run="",group="tcpclose.dev",resource="tcpclosenodes",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 7
apiserver_request_total{code="409",component="apiserver",dry_run="",group="tcpclose.dev",resource="tcpclosenodes",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 5
apiserver_request_total{code="201",component="apiserver",dry_run="",group="tcpclose.dev",resource="tcpclosenodes",scope="resource",subresource="",verb="POST",version="v1alpha1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="tcpclose.dev",resource="tcpclosenodes",scope="resource",subresource="",verb="PATCH",version="v1alpha1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="",group="tcpclose.dev",resource="tcpclosenodes",scope="cluster",subresource="",verb="LIST",version="v1alpha1"} 9
apiserver_request_total{code="200",component="apiserver",dry_run="",group="tcpclose.dev",resource="tcpclosetunings",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 4
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="status",verb="PATCH",version="v1"} 8
"#;
        assert_eq!(Writes::parse(text), Writes { reports: 7, orders: 5, statuses: 4 });
    }
}
