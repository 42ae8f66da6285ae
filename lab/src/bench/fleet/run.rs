//! One size: bring a fleet up, put it through its phases, and note what they cost.

use std::time::{Duration, Instant};

use crds::{TcpCloseNode, TcpCloseTuning, TcpCloseTuningStatus, condition::ConditionStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    Extent,
    gauge::{Reading, Usage, are_ready, operators_page, writes},
    plane::{Agents, Plane, starting, turn},
    table::Figures,
};
use crate::{
    bench::{
        client::{Inside, api},
        cost::{Memory, cpu_time},
    },
    error::Result,
    process::Process,
    report::{Seen, poll_resting, say},
    sim::{Command, kernel::monotonic},
};

const TUNING: &str = "bench-fleet";
/// Tunings of one node each: the nodes that overflow.
const PROBE: &str = "bench-fleet-probe";
/// Values of `tcp_fin_timeout`: at first, after the edit, and after the API server has come back.
const VALUES: [i64; 3] = [30, 31, 32];
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks where many of them would be work for the API server that counts as the fleet's.
const SPARING_LOOK: Duration = Duration::from_millis(500);
/// What has not happened by then, and a time that grows with the fleet, never does.
const DEADLINE: Duration = Duration::from_mins(2);
/// In the naive design every node writes this often.
const NAIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two overflows: uneven, so that they meet every phase of an agent's sampling.
const BETWEEN: Duration = Duration::from_millis(2300);

/// All nodes at once: what is measured is how fast orders travel, not how careful a rollout is.
fn rollout() -> Value {
    json!({ "maxConcurrent": "100%", "soakSeconds": 0 })
}

/// A fleet of one size, seen from the control plane's network namespace.
pub(super) struct Run<'a> {
    plane: &'a Plane,
    extent: &'a Extent,
    nodes: usize,
    inside: Inside,
    clients: Vec<Client>,
    operator: Process,
    agents: Vec<Agents>,
    figures: Figures,
}

impl<'a> Run<'a> {
    /// Brings the fleet up, until every node holds what is ordered.
    pub(super) fn start(plane: &'a Plane, extent: &'a Extent, nodes: usize) -> Result<Self> {
        let inside = Inside::enter(&plane.cluster)?;
        let clients = inside.runtime.block_on(plane.clients())?;
        let start = Instant::now();
        inside.runtime.block_on(plane.create_nodes(&clients[0]))?;
        say(format!("{nodes} Nodes: {:.1} s", start.elapsed().as_secs_f64()));
        inside.runtime.block_on(tune(&clients[0], VALUES[0]))?;
        for probe in 0..extent.overflows.min(nodes) {
            inside.runtime.block_on(observe(&clients[0], probe))?;
        }
        let operator = plane.start_operator()?;
        let agents = plane.start_agents(extent.overflows, None)?;
        let figures = Figures { nodes, servers: clients.len(), turn: turn(nodes), ..Figures::default() };
        let mut run = Self { plane, extent, nodes, inside, clients, operator, agents, figures };
        run.wait_sparingly_for("every node is in force", |run| run.is_in_force())?;
        run.figures.start = start.elapsed();
        let interval = run.read_node(0)?.spec.report_interval_seconds;
        run.figures.interval = Duration::from_secs(interval.into());
        Ok(run)
    }

    /// All phases.
    pub(super) fn carry_out(mut self) -> Result<Figures> {
        self.figures.idle = self.usage_of_window()?;
        self.note_status()?;
        self.tell_all(Command::Churn(true))?;
        std::thread::sleep(self.extent.settling);
        self.figures.churn = self.usage_of_window()?;
        self.note_status()?;
        self.tell_all(Command::Churn(false))?;
        let probes = 0..self.extent.overflows.min(self.nodes);
        self.figures.overflows = probes.map(|probe| self.overflow(probe)).collect::<Result<_>>()?;
        self.edit()?;
        self.storm()?;
        self.restart_operator()?;
        self.restart_servers()?;
        self.note_memory()?;
        self.plane.stop_operator()?;
        self.naive()?;
        Ok(self.figures)
    }

    /// What the fleet costs while it is left alone.
    fn usage_of_window(&mut self) -> Result<Usage> {
        let window = self.figures.interval.min(self.extent.window);
        let before = self.read()?;
        std::thread::sleep(window);
        let usage = self.read()?.since(&before);
        say(format!(
            "{:.1} writes/s over {:.0} s: {usage:?}",
            usage.writes_per_second(),
            window.as_secs_f64()
        ));
        Ok(usage)
    }

    /// From connections of one node that skip TIME_WAIT to the status of a tuning that says so.
    fn overflow(&mut self, probe: usize) -> Result<Duration> {
        std::thread::sleep(BETWEEN * u32::try_from(probe % 3).unwrap_or(0) + BETWEEN);
        let start = Instant::now();
        self.agents[0].tell(Command::Overflow(probe))?;
        self.wait_for("an overflow is in the node's status", |run| {
            let rates = run.read_node(probe)?.status.and_then(|status| status.rates);
            Ok(rates.is_some_and(|rates| overflows(rates.overflows)))
        })?;
        let told = start.elapsed();
        let name = format!("{PROBE}-{probe}");
        self.wait_for("an overflow is in the tuning's status", |run| {
            let rates = run.status_of(&name)?.and_then(|status| status.sockets?.rates);
            Ok(rates.is_some_and(|rates| overflows(rates.overflows)))
        })?;
        let summed = start.elapsed();
        say(format!(
            "overflow: the node's status after {:.2} s, the tuning's after {:.2} s",
            told.as_secs_f64(),
            summed.as_secs_f64()
        ));
        Ok(summed)
    }

    /// From an edit to the last node that holds the value, and to Ready.
    fn edit(&mut self) -> Result<()> {
        let before = self.read()?;
        let (start, clock) = (Instant::now(), monotonic());
        let generation = self.inside.runtime.block_on(tune(&self.clients[0], VALUES[1]))?;
        let last = self.wait_until_held(VALUES[1])?;
        self.figures.edit = Duration::from_nanos(last.saturating_sub(clock));
        self.wait_for("the edit is Ready", |run| run.is_ready(generation))?;
        self.figures.ready = start.elapsed();
        self.figures.edit_usage = self.read()?.since(&before);
        say(format!("edit: last node {:?}, Ready {:?}", self.figures.edit, self.figures.ready));
        Ok(())
    }

    /// Every node changes at once: counts jump, and another program writes a sysctl. Until there are as many reports as nodes.
    fn storm(&mut self) -> Result<()> {
        // What the edit has left to be reported is over then.
        std::thread::sleep(self.extent.settling);
        let before = self.read()?;
        let base = self.inside.runtime.block_on(writes(&self.clients))?.reports;
        self.tell_all(Command::Storm)?;
        let wanted = base + self.nodes as u64;
        self.wait_sparingly_for("every node has reported a storm", |run| {
            Ok(run.inside.runtime.block_on(writes(&run.clients))?.reports >= wanted)
        })?;
        self.figures.storm = self.read()?.since(&before);
        say(format!("storm: {:?}", self.figures.storm));
        self.note_status()
    }

    /// From the start of an operator, after another has ended in order, until it shows every node.
    fn restart_operator(&mut self) -> Result<()> {
        self.note_memory()?;
        self.plane.stop_operator()?;
        let start = Instant::now();
        self.operator = self.plane.start_operator()?;
        self.wait_for("the operator sees every node", |run| Ok(run.is_in_full_view()))?;
        self.figures.operator_restart = start.elapsed();
        self.figures.operator_restart_cpu = cpu_time(self.operator)?;
        say(format!("operator restart: {:?}", self.figures.operator_restart));
        Ok(())
    }

    /// From the start of the API servers, after they were killed, until an edit made then is in force on every node and Ready.
    fn restart_servers(&mut self) -> Result<()> {
        self.plane.restart_servers()?;
        let start = Instant::now();
        self.wait_for("the API servers are ready", |run| {
            run.plane.start_servers()?;
            run.inside.runtime.block_on(are_ready(&run.clients))
        })?;
        self.figures.server_ready = start.elapsed();
        let mut edited = None;
        self.wait_for("the API server takes an edit", |run| {
            edited = run.inside.runtime.block_on(tune(&run.clients[0], VALUES[2])).ok();
            Ok(edited.is_some())
        })?;
        self.wait_until_held(VALUES[2])?;
        let generation = edited.unwrap_or_default();
        self.wait_for("the edit is Ready", |run| run.is_ready(generation))?;
        self.figures.server_restart = start.elapsed();
        say(format!("API server restart: {:?}", self.figures.server_restart));
        Ok(())
    }

    /// The same nodes in the naive design: each writes every 10 s.
    fn naive(&mut self) -> Result<()> {
        self.agents.clear();
        self.agents = self.plane.start_agents(0, Some(NAIVE_INTERVAL))?;
        std::thread::sleep(starting(self.nodes) + self.extent.settling);
        let before = Reading::take(self.plane, &self.clients, None, &self.agents);
        let before = self.inside.runtime.block_on(before)?;
        std::thread::sleep(self.extent.naive);
        let after = Reading::take(self.plane, &self.clients, None, &self.agents);
        self.figures.naive = self.inside.runtime.block_on(after)?.since(&before);
        say(format!("naive: {:?}", self.figures.naive));
        self.agents.clear();
        Ok(())
    }

    /// What the operator has written to memory, in bytes, after so many reports of writers that write often, `marks` times.
    pub(super) fn grow(mut self, reports: u64, marks: u64) -> Result<Vec<(u64, u64)>> {
        self.agents.clear();
        self.agents = self.plane.start_agents(0, Some(NAIVE_INTERVAL / 4))?;
        let base = self.inside.runtime.block_on(writes(&self.clients))?.reports;
        let mut seen = Vec::new();
        for mark in 1..=marks {
            let wanted = reports * mark / marks;
            self.wait_sparingly_for("enough reports were written", |run| {
                Ok(run.inside.runtime.block_on(writes(&run.clients))?.reports >= base + wanted)
            })?;
            seen.push((wanted, Memory::of(self.operator)?.anonymous));
            say(format!("{wanted} reports"));
        }
        Ok(seen)
    }

    fn read(&self) -> Result<Reading> {
        let reading = Reading::take(self.plane, &self.clients, Some(self.operator), &self.agents);
        self.inside.runtime.block_on(reading)
    }

    fn read_node(&self, index: usize) -> Result<TcpCloseNode> {
        let nodes = Api::<TcpCloseNode>::all(self.clients[0].clone());
        self.inside
            .runtime
            .block_on(nodes.get(&format!("sim-{index:05}")))
            .map_err(api("read a TcpCloseNode"))
    }

    fn tell_all(&mut self, command: Command) -> Result<()> {
        self.agents.iter_mut().try_for_each(|agents| agents.tell(command))
    }

    fn note_memory(&mut self) -> Result<()> {
        let peak = Memory::of(self.operator)?.peak;
        self.figures.operator_peak = self.figures.operator_peak.max(peak);
        let servers = self.plane.server_processes().into_iter();
        let servers = servers.map(|server| Ok(Memory::of(server)?.peak)).sum::<Result<u64>>()?;
        self.figures.servers_peak = self.figures.servers_peak.max(servers);
        Ok(())
    }

    fn note_status(&mut self) -> Result<()> {
        let status = self.status_of(TUNING)?;
        let bytes = serde_json::to_vec(&status).map(|json| json.len()).unwrap_or_default();
        self.figures.status_bytes = self.figures.status_bytes.max(bytes);
        Ok(())
    }

    fn status_of(&self, tuning: &str) -> Result<Option<TcpCloseTuningStatus>> {
        let tunings = Api::<TcpCloseTuning>::all(self.clients[0].clone());
        let read = self.inside.runtime.block_on(tunings.get_status(tuning)).map_err(api("read a tuning"))?;
        Ok(read.status)
    }

    fn is_in_force(&self) -> Result<bool> {
        let counts = self.status_of(TUNING)?.and_then(|status| status.nodes);
        Ok(counts.is_some_and(|counts| counts.updated as usize == self.nodes))
    }

    fn is_ready(&self, generation: i64) -> Result<bool> {
        let Some(status) = self.status_of(TUNING)? else { return Ok(false) };
        let mut conditions = status.conditions.iter();
        let ready = conditions.any(|known| known.type_ == "Ready" && known.status == ConditionStatus::True);
        Ok(ready && status.observed_generation >= generation)
    }

    fn is_in_full_view(&self) -> bool {
        let wanted =
            format!("tcpclose_tuning_nodes{{tuning=\"{TUNING}\",state=\"updated\"}} {}\n", self.nodes);
        self.inside.runtime.block_on(operators_page()).contains(&wanted)
    }

    /// When the last node took this value, in nanoseconds of the machine's clock.
    fn wait_until_held(&mut self, value: i64) -> Result<u64> {
        let mut last = 0;
        self.wait_for("every node holds the value", |run| {
            let mut nodes = 0;
            for agents in &mut run.agents {
                let held = agents.held(value)?;
                nodes += held.nodes;
                last = last.max(held.last);
            }
            Ok(nodes == run.nodes)
        })?;
        Ok(last)
    }

    fn wait_for(&mut self, what: &str, look: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        self.look_each(LOOK, what, look)
    }

    fn wait_sparingly_for(&mut self, what: &str, look: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        self.look_each(SPARING_LOOK, what, look)
    }

    fn look_each(
        &mut self,
        rest: Duration,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = DEADLINE + 4 * starting(self.nodes);
        let look = || Ok(Seen::when(look(self)?, || "it is not so".into()));
        poll_resting(rest..=rest, what, deadline, look).map(drop)
    }
}

fn overflows(rate: Option<u64>) -> bool {
    rate.is_some_and(|rate| rate > 0)
}

/// Orders this `tcp_fin_timeout` everywhere, and returns the generation.
async fn tune(client: &Client, value: i64) -> Result<i64> {
    let spec = json!({
        "nodeSelector": { "matchLabels": { "kubernetes.io/os": "linux" } },
        "mode": "Enforce",
        "sysctls": { "tcpFinTimeoutSeconds": value, "tcpOrphanRetries": 5, "tcpTwReuse": 1 },
        "rollout": rollout(),
    });
    apply(client, TUNING, &spec).await
}

async fn observe(client: &Client, probe: usize) -> Result<()> {
    let label = format!("{probe:05}");
    let spec = json!({
        "nodeSelector": { "matchLabels": { "kubernetes.io/os": "linux", "tcpclose.dev/lab-probe": label } },
        "mode": "Observe",
        "sysctls": { "tcpFinTimeoutSeconds": 40 },
    });
    apply(client, &format!("{PROBE}-{probe}"), &spec).await.map(drop)
}

async fn apply(client: &Client, name: &str, spec: &Value) -> Result<i64> {
    let tuning = json!({
        "apiVersion": format!("{}/{}", crds::GROUP, crds::VERSION),
        "kind": "TcpCloseTuning",
        "metadata": { "name": name },
        "spec": spec,
    });
    let tunings = Api::<TcpCloseTuning>::all(client.clone());
    let applied = tunings.patch(name, &PatchParams::apply("lab-bench"), &Patch::Apply(&tuning)).await;
    Ok(applied.map_err(api("apply a tuning"))?.metadata.generation.unwrap_or_default())
}
