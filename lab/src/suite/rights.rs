//! What the two programs may do in the cluster: the API server denies a node's token every write but that of its own
//! node's status, whatever the agent would like.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::json;

use super::{Failure, Outcome, Suite, Test, ensure, privilege::agent, said_no};
use crate::{
    error::Result,
    files,
    install::NAMESPACE,
    node::Node,
    process::{self, Process},
    programs,
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_nodes_token_writes_its_own_nodes_status_and_no_other", run: own_status_only },
    Test { name: "a_nodes_token_is_denied_every_other_write_and_read", run: nothing_else },
    Test { name: "an_agents_token_without_a_node_writes_no_status", run: token_without_node },
    Test { name: "an_administrator_writes_neither_orders_nor_statuses", run: administrator },
    Test { name: "the_rights_of_agent_and_operator_are_the_listed_ones", run: listed_rights },
];

/// Somebody who has nothing but a token.
struct Bearer<'a> {
    suite: &'a Suite,
    server: String,
    authority: PathBuf,
    token: String,
}

impl<'a> Bearer<'a> {
    fn new(suite: &'a Suite, token: &str) -> Result<Self, Failure> {
        let query = "jsonpath={.clusters[0].cluster.server}";
        let server = suite.cluster.kubectl(&["config", "view", "--output", query])?;
        let token = token.trim().to_owned();
        Ok(Self { suite, server, authority: suite.cluster.pki().join("ca.crt"), token })
    }

    /// Whoever has taken the token out of a running pod.
    fn of_process(suite: &'a Suite, process: Process) -> Result<Self, Failure> {
        let folder = "root/var/run/secrets/kubernetes.io/serviceaccount";
        let token = files::read(&PathBuf::from(format!("/proc/{}/{folder}/token", process.pid)))?;
        Self::new(suite, &token)
    }

    /// Runs kubectl with the token and without the administrator's certificate.
    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut kubectl = self.suite.cluster.client("kubectl");
        kubectl.env("KUBECONFIG", "/dev/null").args(["--server", &self.server, "--token", &self.token]);
        kubectl.arg("--certificate-authority").arg(&self.authority).args(arguments);
        process::run_with_input(&mut kubectl, input.as_bytes())
    }

    /// Patches an object, or its status, without reading it first.
    fn patch(&self, object: &str, more: &[&str]) -> Result<String> {
        let patch = ["apply", "--server-side", "--force-conflicts", "--validate=false", "--filename", "-"];
        self.kubectl(&[&patch, more].concat(), object)
    }

    /// Patches a node's status; as a dry run, which is admitted or denied like any other.
    fn patch_status(&self, node: &str) -> Result<String> {
        self.patch(&node_with_status(node), &["--subresource=status", "--dry-run=server"])
    }
}

fn node_with_status(node: &str) -> String {
    object(
        "tcpclose.dev/v1alpha1",
        "TcpCloseNode",
        node,
        "status",
        &json!({ "summary": "written by a test" }),
    )
}

fn object(version: &str, kind: &str, name: &str, part: &str, content: &serde_json::Value) -> String {
    let object = json!({
        "apiVersion": version, "kind": kind, "metadata": { "name": name }, part: content,
    });
    object.to_string()
}

/// Finds that something was denied, for the right reason.
fn is_denied(result: Result<String>, words: &str) -> Outcome {
    let said = said_no(result).map_err(|Failure(why)| Failure(format!("not denied ({words}): {why}")))?;
    ensure(said.to_lowercase().contains("forbidden") && said.contains(words), || {
        format!("the answer lacks {words:?}: {said}")
    })
}

fn own_status_only(suite: &Suite) -> Outcome {
    for node in suite.cluster.nodes() {
        let bearer = Bearer::of_process(suite, agent(node)?)?;
        bearer.patch_status(&node.name)?;
        for other in suite.cluster.nodes().iter().filter(|other| other.name != node.name) {
            let words = format!("the agent on node {} may not write the status of {}", node.name, other.name);
            is_denied(bearer.patch_status(&other.name), &words)?;
        }
    }
    Ok(())
}

/// Verb of kubectl, verb of the API, path, resource; `OWN` is the token's own node.
const DENIED: &[(&str, &str, &str, &str)] = &[
    ("create", "create", "/apis/tcpclose.dev/v1alpha1/tcpclosenodes", "tcpclosenodes"),
    ("replace", "update", "/apis/tcpclose.dev/v1alpha1/tcpclosenodes/OWN", "tcpclosenodes"),
    ("replace", "update", "/apis/tcpclose.dev/v1alpha1/tcpclosenodes/OWN/status", "tcpclosenodes/status"),
    ("delete", "delete", "/apis/tcpclose.dev/v1alpha1/tcpclosenodes/OWN", "tcpclosenodes"),
    ("delete", "deletecollection", "/apis/tcpclose.dev/v1alpha1/tcpclosenodes", "tcpclosenodes"),
    ("get", "list", "/apis/tcpclose.dev/v1alpha1/tcpclosetunings", "tcpclosetunings"),
    ("create", "create", "/apis/tcpclose.dev/v1alpha1/tcpclosetunings", "tcpclosetunings"),
    ("replace", "update", "/apis/tcpclose.dev/v1alpha1/tcpclosetunings/web", "tcpclosetunings"),
    ("replace", "update", "/apis/tcpclose.dev/v1alpha1/tcpclosetunings/web/status", "tcpclosetunings/status"),
    ("delete", "delete", "/apis/tcpclose.dev/v1alpha1/tcpclosetunings/web", "tcpclosetunings"),
    ("get", "get", "/api/v1/nodes/OWN", "nodes"),
    ("replace", "update", "/api/v1/nodes/OWN", "nodes"),
    ("replace", "update", "/api/v1/nodes/OWN/status", "nodes/status"),
    ("delete", "delete", "/api/v1/nodes/OWN", "nodes"),
    ("get", "list", "/api/v1/pods", "pods"),
    ("create", "create", "/api/v1/namespaces/tcpclose-system/pods", "pods"),
    ("create", "create", "/api/v1/namespaces/tcpclose-system/pods/any/exec", "pods/exec"),
    ("delete", "delete", "/api/v1/namespaces/tcpclose-system/pods/any", "pods"),
    ("get", "list", "/api/v1/namespaces/tcpclose-system/secrets", "secrets"),
    ("create", "create", "/api/v1/namespaces/tcpclose-system/secrets", "secrets"),
    ("get", "list", "/api/v1/namespaces/tcpclose-system/configmaps", "configmaps"),
    ("create", "create", "/api/v1/namespaces/tcpclose-system/configmaps", "configmaps"),
    ("create", "create", "/api/v1/namespaces/default/events", "events"),
    ("create", "create", "/apis/events.k8s.io/v1/namespaces/default/events", "events"),
    ("create", "create", "/apis/coordination.k8s.io/v1/namespaces/tcpclose-system/leases", "leases"),
    (
        "delete",
        "delete",
        "/apis/apps/v1/namespaces/tcpclose-system/daemonsets/tcp-close-tuning-agent",
        "daemonsets",
    ),
    (
        "create",
        "create",
        "/api/v1/namespaces/tcpclose-system/serviceaccounts/tcp-close-tuning-operator/token",
        "serviceaccounts/token",
    ),
    ("create", "create", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "clusterrolebindings"),
    (
        "delete",
        "delete",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/tcp-close-tuning-nodes",
        "validatingadmissionpolicies",
    ),
];

fn nothing_else(suite: &Suite) -> Outcome {
    let node = &suite.cluster.nodes()[0];
    let bearer = Bearer::of_process(suite, agent(node)?)?;
    // That it can do this shows that the token is good.
    bearer.kubectl(&["get", "--raw", "/apis/tcpclose.dev/v1alpha1/tcpclosenodes"], "")?;
    for (verb, api_verb, path, resource) in DENIED {
        let path = path.replace("OWN", &node.name);
        let arguments = [*verb, "--raw", &path, "--filename", "-"];
        // Only what has a body takes a file.
        let arguments = if matches!(*verb, "get" | "delete") { &arguments[..3] } else { &arguments };
        is_denied(bearer.kubectl(arguments, "{}"), &format!("cannot {api_verb} resource \"{resource}\""))?;
    }
    let patches = patches(node);
    for (object, options, resource) in &patches {
        is_denied(bearer.patch(object, options), &format!("cannot patch resource \"{resource}\""))?;
    }
    println!("    {} denied", DENIED.len() + patches.len());
    Ok(())
}

/// What a node's token must not patch, its own spec first.
fn patches(node: &Node) -> Vec<(String, &'static [&'static str], &'static str)> {
    let (own, ours) = (&node.name, "tcpclose.dev/v1alpha1");
    let status: &[&str] = &["--subresource=status"];
    let (spec, summary) = (json!({ "reportIntervalSeconds": 300 }), json!({ "observedGeneration": 1 }));
    let (taint, condition) = (json!({ "unschedulable": true }), json!({ "phase": "Running" }));
    vec![
        (object(ours, "TcpCloseNode", own, "spec", &spec), &[], "tcpclosenodes"),
        (object(ours, "TcpCloseTuning", "web", "spec", &json!({})), &[], "tcpclosetunings"),
        (object(ours, "TcpCloseTuning", "web", "status", &summary), status, "tcpclosetunings/status"),
        (object("v1", "Node", own, "spec", &taint), &[], "nodes"),
        (object("v1", "Node", own, "status", &condition), status, "nodes/status"),
    ]
}

fn token_without_node(suite: &Suite) -> Outcome {
    let account = "tcp-close-tuning-agent";
    let token = suite.cluster.kubectl(&["create", "token", account, "--namespace", NAMESPACE])?;
    let bearer = Bearer::new(suite, &token)?;
    let node = &suite.cluster.nodes()[0].name;
    is_denied(bearer.patch_status(node), "this token of the agent's names no node")
}

fn administrator(suite: &Suite) -> Outcome {
    let node = &suite.cluster.nodes()[0].name;
    let web = super::everywhere(&["tcpFinTimeoutSeconds: 30"]);
    suite.tune("web", &web)?;
    let ours = "tcpclose.dev/v1alpha1";
    let apply = |object: &str, more: &[&str]| {
        let options = ["--server-side", "--force-conflicts", "--validate=false", "--dry-run=server"];
        suite.cluster.apply_with(&[&options, more].concat(), object)
    };
    let status: &[&str] = &["--subresource=status"];
    let spec = object(ours, "TcpCloseNode", node, "spec", &json!({ "reportIntervalSeconds": 300 }));
    is_denied(
        apply(&spec, &[]),
        "may not change the spec of a TcpCloseNode: only the operator does; to change something, write a TcpCloseTuning",
    )?;
    let made = json!({ "nodeUID": "x", "revision": "x", "reportIntervalSeconds": 20 });
    is_denied(
        apply(&object(ours, "TcpCloseNode", "made-up", "spec", &made), &[]),
        "may not create TcpCloseNodes: only the operator does",
    )?;
    is_denied(
        apply(&node_with_status(node), status),
        "may not write the status of a TcpCloseNode: only the agent on that node does",
    )?;
    is_denied(
        apply(&object(ours, "TcpCloseTuning", "web", "status", &json!({ "observedGeneration": 7 })), status),
        "may not write the status of a TcpCloseTuning: only the operator does",
    )
}

/// What the bearer may do, one right per line, without the widths of the columns.
fn rights(bearer: &Bearer<'_>) -> Result<BTreeSet<String>, Failure> {
    let said = bearer.kubectl(&["auth", "can-i", "--list", "--namespace", NAMESPACE], "")?;
    Ok(said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

fn listed_rights(suite: &Suite) -> Outcome {
    let nobody = suite.cluster.kubectl(&["create", "token", "default", "--namespace", NAMESPACE])?;
    let everybodys = rights(&Bearer::new(suite, &nobody)?)?;
    let mut operators = Vec::new();
    for node in suite.cluster.nodes() {
        operators.extend(node.processes(programs::OPERATOR)?);
    }
    let agent = agent(&suite.cluster.nodes()[0])?;
    for (name, process, listed) in [
        ("agent", Some(agent), include_str!("../../fixtures/rbac-agent.txt")),
        ("operator", operators.first().copied(), include_str!("../../fixtures/rbac-operator.txt")),
    ] {
        let process = process.ok_or_else(|| Failure(format!("no {name} runs")))?;
        let rights = rights(&Bearer::of_process(suite, process)?)?;
        let own: Vec<_> = rights.difference(&everybodys).map(String::as_str).collect();
        let listed: Vec<_> = listed.lines().collect();
        ensure(own == listed, || format!("{name}: {own:#?}\nlisted: {listed:#?}"))?;
    }
    Ok(())
}
