//! A whole run of an agent in the cluster, from its start to its end, and all that it has changed.
//!
//! The agent is one of the chart's in all but that strace runs it, which needs no privilege either, and that its pod is not
//! made again when it ends.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    FIN_TIMEOUT, Failure, Outcome, RETRIES, SOON, Suite, Test, ensure,
    faults::{BACK, select_agents},
    misplaced::{ExtraAgent, STATE_FOLDER},
    privilege::agent,
    strace::{self, Trace},
};
use crate::{
    files,
    node::Node,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "a_whole_run_of_the_agent_writes_to_the_keys_ordered_and_to_its_journal_and_to_nothing_else",
    run: whole_run,
}];

/// Where the agent has the sysctls of its node: `/proc/sys/net`.
const SYSCTLS: &str = "/host/proc-sys-net";
/// A folder of the node, where what strace sees is written.
const TRACES: &str = "/var/log/lab/strace";
/// The node's strace, and the libraries that it may need.
const LAB: &str = "/run/lab";
/// Where a machine's programs find their libraries; not every machine has all of them.
const LIBRARIES: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];

fn whole_run(suite: &Suite) -> Outcome {
    let [node, ..] = suite.cluster.nodes() else {
        return Err(Failure("the lab has no node".into()));
    };
    files::make_folder(&node.path(TRACES))?;
    let outcome = select_agents(suite, r#"{"nowhere": "true"}"#, 0).and_then(|()| traced(suite, node));
    select_agents(suite, r#"{"nowhere": null}"#, suite.cluster.nodes().len())?;
    let trace = Trace::take(&node.path(TRACES))?;
    outcome?;

    let file = |key: &str| Path::new(SYSCTLS).join(key.trim_start_matches("net.").replace('.', "/"));
    let own = ["", "lock", "journal.new", "journal", "earlier.new", "earlier"];
    let own = own.map(|name| Path::new(STATE_FOLDER).join(name));
    let allowed: BTreeSet<PathBuf> = [FIN_TIMEOUT, RETRIES].map(file).into_iter().chain(own).collect();
    let touched: BTreeSet<PathBuf> = trace.touched().into_iter().collect();
    ensure(touched == allowed, || format!("it touched {touched:?} and not {allowed:?}"))?;
    // 30, 25, 25 again, 60; 5, and what was there before.
    let writes = [FIN_TIMEOUT, RETRIES].map(|key| trace.writes_to(&file(key)));
    ensure(writes == [4, 2], || format!("{writes:?} writes to the kernel"))
}

/// An order, another one, a foreign write and a removal; then the agent is asked to end.
fn traced(suite: &Suite, node: &Node) -> Outcome {
    let _pod = ExtraAgent::start(suite, node, under_strace)?;
    let before = node.read_sysctl(RETRIES)?;
    let spec = |seconds| {
        format!(
            "  nodeSelector:\n    matchLabels: {{kubernetes.io/hostname: {}}}\n  mode: Enforce\n  sysctls:\n    \
             tcpFinTimeoutSeconds: {seconds}\n    tcpOrphanRetries: 5",
            node.name
        )
    };
    for seconds in [30, 25] {
        suite.tune("web", &spec(seconds))?;
        suite.wait_for_condition("web", "Ready", ("True", "Applied"), BACK)?;
        let live = node.read_sysctl(FIN_TIMEOUT)?;
        ensure(live == seconds.to_string(), || format!("{} holds {live}", node.name))?;
    }
    node.write_sysctl(FIN_TIMEOUT, "45")?;
    suite.wait_for_value(&node.name, FIN_TIMEOUT, "25")?;
    suite.clear()?;
    for (key, value) in [(FIN_TIMEOUT, "60"), (RETRIES, before.as_str())] {
        let live = node.read_sysctl(key)?;
        ensure(live == value, || format!("{key} is {live}, not {value}"))?;
    }
    let agent = agent(node)?;
    agent.signal(Signal::TERM)?;
    poll_until("the agent has ended", SOON, || Ok(Seen::when(!agent.is_alive(), || "it runs".into())))?;
    Ok(())
}

/// Lets strace run the agent.
fn under_strace(spec: &mut Value) {
    let libraries = LIBRARIES.into_iter().filter(|folder| Path::new(folder).is_dir());
    for (number, folder) in libraries.chain([LAB, TRACES]).enumerate() {
        let name = format!("strace-{number}");
        let mount = json!({ "name": name, "mountPath": folder, "readOnly": folder != TRACES });
        push(spec, "/volumes", json!({ "name": name, "hostPath": { "path": folder } }));
        push(spec, "/containers/0/volumeMounts", mount);
    }
    let libraries = json!({ "name": "LD_LIBRARY_PATH", "value": format!("{LAB}/lib") });
    push(spec, "/containers/0/env", libraries);
    let mut command = vec![format!("{LAB}/bin/strace")];
    command.extend(strace::options(Path::new(TRACES)));
    command.push("/tcpclose-agent".into());
    spec["containers"][0]["command"] = json!(command);
    // What the chart gives is meant for the agent alone.
    spec["containers"][0]["resources"] = json!({});
    spec["restartPolicy"] = json!("Never");
    // For now the chart's own agents are selected nowhere.
    spec["nodeSelector"] = json!({});
}

fn push(spec: &mut Value, list: &str, item: Value) {
    if let Some(Value::Array(list)) = spec.pointer_mut(list) {
        list.push(item);
    }
}
