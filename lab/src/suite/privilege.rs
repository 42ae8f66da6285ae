//! What the two programs may do on a node: their pods ask for nothing more than they need, and the live processes have
//! nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Failure, Outcome, Suite, Test, ensure,
    helm::{objects, rendered},
    said_no,
};
use crate::{
    error::{Error, Result},
    files,
    install::NAMESPACE,
    node::Node,
    process::{self, Process},
    programs,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "each_node_runs_one_agent_from_the_image_just_built", run: agents_are_ours },
    Test { name: "the_operator_runs_from_the_image_just_built", run: operator_is_ours },
    Test { name: "the_agents_pod_asks_for_no_privilege", run: pod_asks_for_nothing },
    Test { name: "the_live_agent_has_no_capability_and_can_get_none", run: no_capability },
    Test { name: "the_live_agent_can_write_two_folders_of_its_node", run: writable_mounts },
    Test { name: "the_live_agent_listens_nowhere", run: no_listener },
    Test { name: "the_operators_pods_are_admitted_where_restricted_is_enforced", run: restricted },
];

/// Pods of an earlier generation take their grace to go.
const SETTLED: Duration = Duration::from_secs(60);

/// What the agent sees of its node: the sysctls, its journal, and for pods the processes and the names of their logs.
const HOST_PATHS: [&str; 4] = ["/proc/sys/net", "/var/lib/tcp-close-tuning", "/proc", "/var/log/containers"];

/// A list or an object in the namespace of the release.
pub(crate) fn in_namespace(suite: &Suite, arguments: &[&str]) -> Result<Value> {
    let get = ["get", "--namespace", NAMESPACE, "--output", "json"];
    let text = suite.cluster.kubectl(&[&get, arguments].concat())?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Unclear { what: arguments.join(" "), why: error.to_string() })
}

/// The pods of a component, each with the name of its node.
fn pods(suite: &Suite, component: &str) -> Result<BTreeMap<String, Value>> {
    let selector = format!("--selector=app.kubernetes.io/component={component}");
    let list = in_namespace(suite, &["pods", &selector])?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let node = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    Ok(pods.into_iter().map(|pod| (node(&pod), pod)).collect())
}

/// The one agent that runs on a node.
pub(super) fn agent(node: &Node) -> Result<Process, Failure> {
    only_process(node, programs::AGENT)?.ok_or_else(|| Failure(format!("{} runs no agent", node.name)))
}

fn only_process(node: &Node, program: &str) -> Result<Option<Process>, Failure> {
    match node.processes(program)?[..] {
        [] => Ok(None),
        [process] => Ok(Some(process)),
        ref more => Err(Failure(format!("{} runs {} of {program}", node.name, more.len()))),
    }
}

/// Whether a process is this pod's, started from this program byte for byte.
fn is_of_pod(process: Process, pod: &Value, program: &Path) -> Outcome {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    let id = id.strip_prefix("containerd://").filter(|id| id.len() == 64);
    let id = id.ok_or_else(|| Failure(format!("the pod has no container: {}", pod["status"])))?;
    let groups = files::read(Path::new(&format!("/proc/{}/cgroup", process.pid)))?;
    ensure(groups.contains(id), || format!("process {} is not in container {id}: {groups}", process.pid))?;
    let read = |path: &Path| std::fs::read(path).map_err(Error::file("read", path));
    let (built, runs) = (read(program)?, read(Path::new(&format!("/proc/{}/exe", process.pid)))?);
    ensure(built == runs, || {
        format!(
            "process {} runs another program ({} bytes) than the one built ({})",
            process.pid,
            runs.len(),
            built.len()
        )
    })
}

fn agents_are_ours(suite: &Suite) -> Outcome {
    let wanted: BTreeSet<_> = suite.cluster.nodes().iter().map(|node| node.name.clone()).collect();
    poll_until("one agent pod runs on each node", SETTLED, || {
        let pods = pods(suite, "agent")?;
        let all = in_namespace(suite, &["pods", "--selector=app.kubernetes.io/component=agent"])?;
        let count = all["items"].as_array().map_or(0, Vec::len);
        let nodes: BTreeSet<_> = pods.keys().cloned().collect();
        Ok(Seen::when(nodes == wanted && count == wanted.len(), || format!("{count} pods on {nodes:?}")))
    })?;
    let pods = pods(suite, "agent")?;
    for node in suite.cluster.nodes() {
        let pod = &pods[&node.name];
        ensure(pod["status"]["hostIP"] == *node.ip, || pod["status"].to_string())?;
        is_of_pod(agent(node)?, pod, &suite.images.agent.program)?;
    }
    Ok(())
}

fn operator_is_ours(suite: &Suite) -> Outcome {
    let mut found = 0;
    poll_until("one operator pod runs", SETTLED, || {
        let pods = pods(suite, "operator")?;
        Ok(Seen::when(pods.len() == 1, || format!("{:?}", pods.keys())))
    })?;
    let pods = pods(suite, "operator")?;
    for node in suite.cluster.nodes() {
        if let Some(process) = only_process(node, programs::OPERATOR)? {
            let pod =
                pods.get(&node.name).ok_or_else(|| Failure(format!("its pod is not on {}", node.name)))?;
            is_of_pod(process, pod, &suite.images.operator.program)?;
            found += 1;
        }
    }
    ensure(found == 1, || format!("{found} operators run"))
}

fn pod_asks_for_nothing(suite: &Suite) -> Outcome {
    for (node, pod) in pods(suite, "agent")? {
        let spec = &pod["spec"];
        let container = &spec["containers"][0];
        let volumes = spec["volumes"].as_array().into_iter().flatten();
        let paths: Vec<_> = volumes.filter_map(|volume| volume.pointer("/hostPath/path")).collect();
        // The token is read-only whatever is asked for.
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        let writable: Vec<_> =
            mounts.filter(|mount| mount["readOnly"] != true).map(|mount| &mount["name"]).collect();
        for (what, seen, expected) in [
            ("containers", &json!(spec["containers"].as_array().map(Vec::len)), json!(1)),
            ("init containers", &spec["initContainers"], Value::Null),
            (
                "the pod's securityContext",
                &spec["securityContext"],
                json!({
                    "runAsUser": 0, "runAsGroup": 0, "seccompProfile": { "type": "RuntimeDefault" },
                }),
            ),
            (
                "the container's securityContext",
                &container["securityContext"],
                json!({
                    "privileged": false,
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                }),
            ),
            ("hostPath", &json!(paths), json!(HOST_PATHS)),
            ("writable mounts", &json!(writable), json!(["sysctls", "state"])),
            ("hostNetwork", &spec["hostNetwork"], json!(true)),
            ("hostPID", &spec["hostPID"], Value::Null),
            ("hostIPC", &spec["hostIPC"], Value::Null),
            ("ports", &container["ports"], Value::Null),
            ("livenessProbe", &container["livenessProbe"], Value::Null),
            ("readinessProbe", &container["readinessProbe"], Value::Null),
            ("startupProbe", &container["startupProbe"], Value::Null),
        ] {
            ensure(*seen == expected, || format!("{node}: {what}: {seen}, not {expected}"))?;
        }
    }
    Ok(())
}

/// The lines `Name:\tvalue` of `/proc/PID/status`.
fn process_status(process: Process) -> Result<BTreeMap<String, String>> {
    let text = files::read(Path::new(&format!("/proc/{}/status", process.pid)))?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

fn no_capability(suite: &Suite) -> Outcome {
    for node in suite.cluster.nodes() {
        let status = process_status(agent(node)?)?;
        let none = "0000000000000000";
        for (name, expected) in [
            ("CapInh", none),
            ("CapPrm", none),
            ("CapEff", none),
            ("CapBnd", none),
            ("CapAmb", none),
            ("NoNewPrivs", "1"),
            // 2 is a filter: the runtime's default profile.
            ("Seccomp", "2"),
        ] {
            let seen = status.get(name).map(String::as_str);
            ensure(seen == Some(expected), || format!("{}: {name} is {seen:?}", node.name))?;
        }
    }
    Ok(())
}

/// The mount points that a process may write to. A mount point and its own options are fields 5 and 6 of a line.
fn writable(process: Process) -> Result<BTreeSet<String>> {
    let text = files::read(Path::new(&format!("/proc/{}/mountinfo", process.pid)))?;
    let mounts = text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        Some((fields.next()?, fields.next()?))
    });
    let writable = mounts.filter(|(_, options)| options.split(',').any(|option| option == "rw"));
    Ok(writable.map(|(point, _)| point.to_owned()).collect())
}

fn writable_mounts(suite: &Suite) -> Outcome {
    for node in suite.cluster.nodes() {
        let agent = agent(node)?;
        let points = writable(agent)?;
        ensure(!points.contains("/proc/sys"), || "its own /proc/sys is writable".into())?;
        // What every container gets, of its own: /dev, /proc, /sys/fs/cgroup and the file of host names.
        let given = |point: &&String| {
            ["/dev", "/proc", "/sys/fs/cgroup"].iter().any(|folder| Path::new(point).starts_with(folder))
                || *point == "/etc/hosts"
        };
        let own: Vec<_> = points.iter().filter(|point| !given(point)).collect();
        let expected = ["/host/proc-sys-net", "/var/lib/tcp-close-tuning"];
        ensure(own == expected, || format!("{}: {own:?}", node.name))?;
    }
    Ok(())
}

/// The sockets of a process that others could reach: TCP and Unix ones that listen, and all of the kinds that need not.
fn reachable_sockets(process: Process) -> Result<Vec<String>> {
    let folder = format!("/proc/{}", process.pid);
    let descriptors = files::list(Path::new(&folder).join("fd").as_path())?;
    let own: BTreeSet<String> = descriptors
        .iter()
        .filter_map(|number| std::fs::read_link(format!("{folder}/fd/{number}")).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut reachable = Vec::new();
    // The position of the inode, and of the state with the value that means listening; for udp and raw any state does.
    for (file, inode, listens) in [
        ("tcp", 9, Some((3, "0A"))),
        ("tcp6", 9, Some((3, "0A"))),
        ("unix", 6, Some((3, "00010000"))),
        ("udp", 9, None),
        ("udp6", 9, None),
        ("raw", 9, None),
        ("raw6", 9, None),
        ("packet", 8, None),
    ] {
        // No IPv6, no file.
        let table = std::fs::read_to_string(format!("{folder}/net/{file}")).unwrap_or_default();
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is_own = |row: &Vec<&str>| {
            row.get(inode).is_some_and(|inode| own.contains(*inode))
                && listens.is_none_or(|(at, state)| row.get(at) == Some(&state))
        };
        reachable.extend(rows.filter(is_own).map(|row| format!("{file} {}", row.join(" "))));
    }
    Ok(reachable)
}

fn no_listener(suite: &Suite) -> Outcome {
    for node in suite.cluster.nodes() {
        // The kubelet beside it shows that listeners are found.
        let kubelet = only_process(node, "kubelet")?;
        let kubelet = kubelet.ok_or_else(|| Failure(format!("{} runs no kubelet", node.name)))?;
        let found = reachable_sockets(kubelet)?;
        ensure(found.iter().any(|socket| socket.starts_with("tcp")), || format!("the kubelet's: {found:?}"))?;
        let own = reachable_sockets(agent(node)?)?;
        ensure(own.is_empty(), || format!("{}: {own:#?}", node.name))?;
    }
    Ok(())
}

/// The pod of a workload's template, without the service account, which the other namespace does not have.
fn pod_of(workload: &Value) -> String {
    let template = &workload["spec"]["template"];
    let mut spec = template["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("serviceAccount");
        spec.remove("serviceAccountName");
    }
    let metadata = json!({ "name": "trial", "labels": template["metadata"]["labels"] });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }).to_string()
}

fn restricted(suite: &Suite) -> Outcome {
    // A name of its own: the last run's may still be on its way out.
    let name = format!("lab-restricted-{}", std::process::id());
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
    });
    suite.cluster.apply(&namespace.to_string())?;
    let admitted = admission(suite, &name);
    suite.cluster.kubectl(&["delete", "namespace", &name, "--wait=false"])?;
    admitted
}

fn admission(suite: &Suite, namespace: &str) -> Outcome {
    let create = |pod: &str| {
        let mut kubectl = suite.cluster.client("kubectl");
        let arguments = ["create", "--namespace", namespace, "--dry-run=server", "--filename", "-"];
        process::run_with_input(kubectl.args(arguments), pod.as_bytes())
    };
    create(&pod_of(&in_namespace(suite, &["deployment/tcp-close-tuning-operator"])?))?;
    let chart = objects(suite, &rendered(suite, &[])?)?;
    let hook = chart.iter().find(|object| object["kind"] == "Job");
    create(&pod_of(hook.ok_or_else(|| Failure("the chart has no Job".into()))?))?;
    // It is enforced there: the agent's pod is not admitted.
    let said = said_no(create(&pod_of(&in_namespace(suite, &["daemonset/tcp-close-tuning-agent"])?)))?;
    ensure(said.contains("violates PodSecurity \"restricted:latest\""), || said.clone())
}
