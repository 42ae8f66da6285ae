//! What the two programs may do in the cluster: the API server denies a node's token every write but that of its own
//! node's status, whatever the agent would like.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Failure, Outcome, SOON, Suite, Test,
    bearer::Bearer,
    ensure,
    helm::{objects, rendered},
    privilege::agent,
    said_no,
    toll::Toll,
};
use crate::{
    error::{Error, Result},
    install::{NAMESPACE, RELEASE},
    node::Node,
    process,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_nodes_token_writes_its_own_nodes_status_and_no_other", run: own_status_only },
    Test { name: "a_nodes_token_is_denied_every_other_write_and_read", run: nothing_else },
    Test { name: "an_agents_token_without_a_node_writes_no_status", run: token_without_node },
    Test { name: "an_agent_of_an_earlier_node_of_the_name_writes_no_status", run: token_of_an_earlier_node },
    Test { name: "an_administrator_writes_neither_orders_nor_statuses", run: administrator },
    Test { name: "the_rights_of_every_program_are_the_listed_ones", run: listed_rights },
    Test { name: "who_has_admin_writes_no_tunings_and_who_has_the_editors_role_does", run: editors },
];

/// What is denied, and reports of the agents meanwhile.
const MOST: usize = 60;

impl Bearer<'_> {
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

fn object(version: &str, kind: &str, name: &str, part: &str, content: &Value) -> String {
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
    let toll = Toll::begin(suite)?;
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
    toll.is(suite, |_| 0, MOST)?;
    let taken = toll.requests(suite)?.into_iter().find(|request| {
        request.user.ends_with("-agent")
            && request.is_write()
            && request.was_taken()
            && request.resource != "tcpclosenodes/status"
    });
    ensure(taken.is_none(), || format!("the API server took {taken:?}"))
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
    let bearer = Bearer::new(suite, &account_token(suite, "tcp-close-tuning-agent")?)?;
    let node = &suite.cluster.nodes()[0].name;
    is_denied(bearer.patch_status(node), "this token of the agent's names no node")
}

/// What the token of a pod says of its Node, said by an administrator in its place: with the Node's uid it passes, with another
/// it does not.
fn token_of_an_earlier_node(suite: &Suite) -> Outcome {
    let node = &suite.cluster.nodes()[0].name;
    let uid = suite.cluster.kubectl(&["get", "node", node, "--output=jsonpath={.metadata.uid}"])?;
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-agent");
    let extra =
        |key: &str, value: &str| format!("--as-user-extra=authentication.kubernetes.io/{key}={value}");
    let write = |uid: &str| {
        let of_node = [extra("node-name", node), extra("node-uid", uid)];
        let status = ["--subresource=status", "--dry-run=server", "--validate=false", &user];
        let options =
            [&status[..], &["--server-side", "--force-conflicts", &of_node[0], &of_node[1]]].concat();
        suite.cluster.apply_with(&options, &node_with_status(node))
    };
    write(&uid)?;
    is_denied(write("made-up"), "the object was made for another Node of that name")
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
    // A spec has one owner: who applies it says the whole of it.
    let uid = suite.cluster.kubectl(&["get", "tcpclosenode", node, "--output=jsonpath={.spec.nodeUID}"])?;
    let spec = json!({ "nodeUID": uid, "revision": "x", "reportIntervalSeconds": 300 });
    is_denied(
        apply(&object(ours, "TcpCloseNode", node, "spec", &spec), &[]),
        "may not change the spec of a TcpCloseNode: only the operator does; to change something, write a TcpCloseTuning",
    )?;
    is_denied(
        apply(&object(ours, "TcpCloseNode", "made-up", "spec", &spec), &[]),
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

/// A token of a ServiceAccount, of no pod and no node.
pub(super) fn account_token(suite: &Suite, account: &str) -> Result<String> {
    suite.cluster.kubectl(&["create", "token", account, "--namespace", NAMESPACE])
}

/// What the bearer may do in a namespace, one right per line, without the widths of the columns.
fn rights(bearer: &Bearer<'_>, namespace: &str) -> Result<BTreeSet<String>, Failure> {
    let said = bearer.kubectl(&["auth", "can-i", "--list", "--namespace", namespace], "")?;
    Ok(said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

/// The programs, each with what it may do: the ServiceAccount's name is the release's with this.
const LISTED: [(&str, &str); 3] = [
    ("agent", include_str!("../../fixtures/rbac-agent.txt")),
    ("operator", include_str!("../../fixtures/rbac-operator.txt")),
    ("uninstall", include_str!("../../fixtures/rbac-uninstall.txt")),
];

fn listed_rights(suite: &Suite) -> Outcome {
    let chart = objects(suite, &rendered(suite, &[])?)?;
    let hook: Vec<_> = chart.iter().filter(|object| is_right_of_uninstall(object)).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": hook }).to_string();
    suite.cluster.apply(&list)?;
    let compared = LISTED.iter().try_for_each(|(name, listed)| compare_rights(suite, &chart, name, listed));
    let mut delete = suite.cluster.client("kubectl");
    process::run_with_input(delete.args(["delete", "--filename", "-"]), list.as_bytes())?;
    compared
}

/// The hook of an uninstall brings its rights with it.
fn is_right_of_uninstall(object: &Value) -> bool {
    object["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete" && object["kind"] != "Job"
}

/// What the chart asks for, what the cluster's bindings grant, and what the API server says that a token may do, are what is
/// listed.
fn compare_rights(suite: &Suite, chart: &[Value], name: &str, listed: &str) -> Outcome {
    let account = format!("{RELEASE}-{name}");
    let listed: BTreeSet<_> = listed.lines().map(str::to_owned).collect();
    let asked = granted(chart, &account);
    ensure(asked == listed, || format!("for {name} the chart asks {asked:#?}\nlisted: {listed:#?}"))?;
    let bound = granted(&bindings_and_roles(suite)?, &account);
    ensure(bound == listed, || format!("{name} is bound to {bound:#?}\nlisted: {listed:#?}"))?;
    let anybody = Bearer::new(suite, &account_token(suite, "default")?)?;
    let bearer = Bearer::new(suite, &account_token(suite, &account)?)?;
    for namespace in [NAMESPACE, "default"] {
        let everybodys = rights(&anybody, namespace)?;
        let own: BTreeSet<_> = rights(&bearer, namespace)?.difference(&everybodys).cloned().collect();
        let there: BTreeSet<_> = listed.iter().filter_map(|right| right_in(right, namespace)).collect();
        ensure(own == there, || format!("in {namespace} {name} may {own:#?}\nlisted: {there:#?}"))?;
    }
    Ok(())
}

/// A right without the namespace that it is limited to, where it holds in this one.
fn right_in(right: &str, namespace: &str) -> Option<String> {
    match right.split_once(" in ") {
        None => Some(right.to_owned()),
        Some((right, only)) => (only == namespace).then(|| right.to_owned()),
    }
}

fn bindings_and_roles(suite: &Suite) -> Result<Vec<Value>> {
    let kinds = "clusterrolebindings,rolebindings,clusterroles,roles";
    let text = suite.cluster.kubectl(&["get", kinds, "--all-namespaces", "--output", "json"])?;
    let list: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Unclear { what: kinds.into(), why: error.to_string() })?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// What an account may do by all of these bindings, but those that every cluster has.
fn granted(objects: &[Value], account: &str) -> BTreeSet<String> {
    let bindings = objects.iter().filter(|binding| !is_default(binding) && reaches(binding, account));
    bindings.flat_map(|binding| granted_by(binding, objects)).collect()
}

fn is_default(binding: &Value) -> bool {
    binding["metadata"]["labels"]["kubernetes.io/bootstrapping"] == "rbac-defaults"
}

/// Whether a binding is about the account, by its name or by a group that it is in.
fn reaches(binding: &Value, account: &str) -> bool {
    let groups =
        ["system:authenticated", "system:serviceaccounts", &format!("system:serviceaccounts:{NAMESPACE}")];
    let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
    binding["subjects"].as_array().into_iter().flatten().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("ServiceAccount") => name == account && subject["namespace"] == NAMESPACE,
            Some("Group") => groups.contains(&name),
            _ => name == user,
        }
    })
}

/// The rules of a binding's role, each with the namespace that a RoleBinding limits it to.
fn granted_by(binding: &Value, objects: &[Value]) -> Vec<String> {
    let (role, namespace) = (&binding["roleRef"], &binding["metadata"]["namespace"]);
    let is_it = |object: &&Value| {
        object["kind"] == role["kind"]
            && object["metadata"]["name"] == role["name"]
            && (role["kind"] == "ClusterRole" || object["metadata"]["namespace"] == *namespace)
    };
    let limit = namespace.as_str().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    let rules = objects.iter().find(is_it).map(spoken).unwrap_or_default();
    rules.into_iter().map(|rule| rule + &limit).collect()
}

/// The rules of a role as `kubectl auth can-i --list` prints them: `leases.coordination.k8s.io [] [name] [get update]`.
fn spoken(role: &Value) -> Vec<String> {
    fn words<'a>(rule: &'a Value, list: &str) -> Vec<&'a str> {
        rule[list].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
    let mut lines = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let (names, verbs) = (words(rule, "resourceNames"), words(rule, "verbs").join(" "));
        let names = if names.is_empty() { vec![""] } else { names };
        for resource in words(rule, "resources") {
            for group in words(rule, "apiGroups") {
                let resource = qualified(resource, group);
                lines.extend(names.iter().map(|name| format!("{resource} [] [{name}] [{verbs}]")));
            }
        }
    }
    lines
}

/// `tcpclosenodes.tcpclose.dev/status`
fn qualified(resource: &str, group: &str) -> String {
    let (resource, sub) = resource.split_once('/').map_or((resource, None), |(all, sub)| (all, Some(sub)));
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let sub = sub.map(|sub| format!("/{sub}")).unwrap_or_default();
    format!("{resource}{group}{sub}")
}

/// A person with `admin`, the strongest of the roles that are handed out, and then with the chart's own.
fn editors(suite: &Suite) -> Outcome {
    let binding = |role: &str| format!("lab-{role}");
    let bind = |role: &str| {
        let (name, role) = (binding(role), format!("--clusterrole={role}"));
        suite.cluster.kubectl(&["create", "clusterrolebinding", &name, &role, "--user=lab-person"])
    };
    let may = |verb: &str| {
        suite.cluster.kubectl(&["auth", "can-i", verb, "tcpclosetunings.tcpclose.dev", "--as=lab-person"])
    };
    let editor = format!("{RELEASE}-editor");
    let steps = || {
        bind("admin")?;
        poll_until("who has admin reads tunings", SOON, || may("list").map(|_| Seen::Yes))?;
        for verb in ["create", "update", "patch", "delete"] {
            ensure(may(verb).is_err(), || format!("who has admin may {verb} tunings"))?;
        }
        bind(&editor)?;
        poll_until("who has the editor's role writes tunings", SOON, || may("create").map(|_| Seen::Yes))?;
        Ok(())
    };
    let outcome = steps();
    for role in ["admin", &editor] {
        let delete = ["delete", "clusterrolebinding", &binding(role), "--ignore-not-found"];
        suite.cluster.kubectl(&delete)?;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, namespace: Option<&str>, more: &Value) -> Value {
        let mut object = json!({ "kind": kind, "metadata": { "name": "writer", "namespace": namespace } });
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    }

    fn binding(namespace: &str, role: &str, subject: &Value) -> Value {
        let more = json!({ "roleRef": { "kind": role, "name": "writer" }, "subjects": [subject] });
        object("RoleBinding", Some(namespace), &more)
    }

    #[test]
    fn whatever_reaches_an_account_is_seen_in_whatever_namespace() {
        let rules =
            |verb: &str| json!({ "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": [verb] }] });
        let account = json!({ "kind": "ServiceAccount", "name": "one", "namespace": NAMESPACE });
        let other = json!({ "kind": "ServiceAccount", "name": "one", "namespace": "other" });
        let group = json!({ "kind": "Group", "name": format!("system:serviceaccounts:{NAMESPACE}") });
        let mut of_every_cluster = binding("kube-public", "Role", &group);
        of_every_cluster["metadata"]["labels"] = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
        let objects = [
            binding("kube-system", "Role", &account),
            binding("default", "ClusterRole", &group),
            binding("other", "Role", &other),
            of_every_cluster,
            object("Role", Some("kube-system"), &rules("get")),
            object("Role", Some("other"), &rules("list")),
            object("Role", Some("kube-public"), &rules("watch")),
            object("ClusterRole", None, &rules("create")),
        ];
        let wanted = ["pods [] [] [create] in default", "pods [] [] [get] in kube-system"];
        assert_eq!(granted(&objects, "one"), wanted.map(str::to_owned).into());
        assert_eq!(right_in(wanted[0], "default").as_deref(), Some("pods [] [] [create]"));
        assert_eq!(right_in(wanted[0], NAMESPACE), None);
    }
}
