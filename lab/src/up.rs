//! Brings a lab up: checks what the machine has, clears what a killed run left, and starts everything.

use std::time::Duration;

use crate::{
    checkout::Checkout,
    clear,
    cluster::Cluster,
    control_plane::{Component, probe_namespaces},
    debian,
    error::{Error, Result},
    files, images, inotify, network,
    node::Node,
    pieces,
    pki::{self, Authority, Subject},
    process::on_path,
    relay,
    report::{Seen, poll_until, say},
};

/// A kubelet registers within seconds of the API server; a loaded machine may take much longer.
const NODES_DEADLINE: Duration = Duration::from_mins(3);
/// How many nodes a lab has if nobody says otherwise.
pub(crate) const NODES: u8 = 3;

/// Brings the lab of this checkout up, or finds it up.
pub fn up(nodes: u8) -> Result<Cluster> {
    let checkout = Checkout::current()?;
    let _lock = checkout.lock()?;
    if let Some(running) = Cluster::open().ok().filter(Cluster::is_up) {
        let has = running.nodes().len();
        say(format!("the lab of this checkout is already up (nodes: {has})"));
        if has != usize::from(nodes) {
            say(format!("to have {nodes} instead, run `cargo lab down` first"));
        }
        return Ok(running);
    }
    preflight()?;
    clear::clear(&checkout)?;
    let cluster = Cluster::new(checkout, nodes)?;
    if let Err(missing) = provide(&cluster, cluster.checkout()) {
        // Nothing has started yet: nothing to look at either.
        clear::clear(cluster.checkout())?;
        return Err(missing);
    }
    // What has started stays for the person to look at; the next `up` or `down` clears it.
    start(&cluster).map_err(inotify::explain).inspect_err(|_| keep_logs(&cluster))?;
    cluster.set_complete()?;
    say(format!("up: every node is Ready ({})", cluster.nodes().len()));
    Ok(cluster)
}

/// Says what the machine lacks before anything is started.
fn preflight() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Missing {
            what: "the lab makes network namespaces and mounts, and this is not root".into(),
            remedy: "sudo --preserve-env=PATH,HOME env \"PATH=$PATH\" cargo lab up".into(),
        });
    }
    for (program, package) in [("unshare", "util-linux"), ("nsenter", "util-linux"), ("mount", "mount")] {
        if on_path(program).is_none() {
            return Err(Error::Missing {
                what: format!("`{program}` is not on this machine"),
                remedy: format!("install the package {package}"),
            });
        }
    }
    probe_namespaces().map_err(|error| Error::Missing {
        what: format!("this machine gives no pid, network, mount and uts namespaces: {error}"),
        remedy:
            "in a container, run it with CAP_SYS_ADMIN and CAP_NET_ADMIN and without a seccomp profile that \
                 forbids unshare and mount"
                .into(),
    })
}

/// The programs, linked into the lab's folder.
fn provide(cluster: &Cluster, sources: &Checkout) -> Result<()> {
    let programs = cluster.dir().join("bin");
    pieces::provide(sources, cluster.cache(), &programs)?;
    let debian = debian::provide(cluster.cache())?;
    for (name, program) in [
        ("runc", &debian.runc),
        ("buildah", &debian.buildah),
        ("ip", &debian.ip),
        ("ss", &debian.ss),
        ("strace", &debian.strace),
    ] {
        files::link(program, &programs.join(name))?;
    }
    files::link(&debian.cni, &cluster.cni_plugins())?;
    if let Some(libraries) = &debian.libraries {
        files::link(libraries, &cluster.dir().join("libraries"))?;
    }
    let on_nodes = cluster.node_programs();
    files::make_folder(&on_nodes)?;
    for name in ["kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip", "ss", "strace"] {
        files::link(&programs.join(name), &on_nodes.join(name))?;
    }
    Ok(())
}

/// Brings up etcd and an API server in a lab of their own, without nodes and without controllers, in place of what was there.
pub(crate) fn api_server(programs: &Checkout, lab: Checkout) -> Result<(Cluster, Authority)> {
    preflight()?;
    clear::clear(&lab)?;
    let cluster = Cluster::new(lab, 0)?;
    provide(&cluster, programs)?;
    let authority = start_api_server(&cluster)?;
    cluster.wait_for_api_server()?;
    Ok((cluster, authority))
}

fn start_api_server(cluster: &Cluster) -> Result<Authority> {
    cluster.start_network()?;
    cluster.start(Component::Etcd)?;
    let authority = certificates(cluster)?;
    cluster.start(Component::ApiServer)?;
    let port = relay::start(cluster)?;
    let admin = Subject { name: "kubernetes-admin", group: Some("system:masters"), serves: &[] };
    authority.kubeconfig(&cluster.kubeconfig(), &format!("https://127.0.0.1:{port}"), &admin)?;
    Ok(authority)
}

fn start(cluster: &Cluster) -> Result<()> {
    let pause = images::pause(cluster)?;
    let authority = start_api_server(cluster)?;
    // Nodes start beside the control plane; their kubelets wait for it.
    for node in cluster.nodes() {
        node.prepare(&authority)?;
        node.start(cluster)?;
    }
    say(format!("started the control plane and the nodes ({})", cluster.nodes().len()));
    cluster.wait_for_api_server()?;
    say("the API server is ready");
    cluster.start(Component::ControllerManager)?;
    cluster.start(Component::Scheduler)?;
    for node in cluster.nodes() {
        node.wait_for_containerd()?;
        node.import_image(&pause)?;
    }
    wait_for_nodes(cluster, NODES_DEADLINE)
}

fn certificates(cluster: &Cluster) -> Result<Authority> {
    let folder = cluster.pki();
    let authority = Authority::create(&folder)?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let addresses = ["localhost", "127.0.0.1", network::API_ADDRESS, network::GATEWAY];
    let serves = [names.as_slice(), addresses.as_slice()].concat();
    authority.issue(
        &folder,
        "apiserver",
        &Subject { name: "kube-apiserver", group: None, serves: &serves },
    )?;
    let kubelets =
        Subject { name: "kube-apiserver-kubelet-client", group: Some("system:masters"), serves: &[] };
    authority.issue(&folder, "kubelet-client", &kubelets)?;
    pki::bare_key(&folder, "service-accounts")?;
    for (component, user) in [
        (Component::ControllerManager, "system:kube-controller-manager"),
        (Component::Scheduler, "system:kube-scheduler"),
    ] {
        let client = Subject { name: user, group: None, serves: &[] };
        authority.kubeconfig(&cluster.component_kubeconfig(component), &network::api_url(), &client)?;
    }
    Ok(authority)
}

/// Waits until every node is Ready.
pub fn wait_for_nodes(cluster: &Cluster, deadline: Duration) -> Result<()> {
    let query =
        "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status} {end}";
    poll_until("every node is Ready", deadline, || {
        for component in Component::ALL {
            cluster.check_component(component)?;
        }
        let answer = cluster.kubectl(&["get", "nodes", "--output", query])?;
        let is_ready =
            |node: &Node| answer.split_whitespace().any(|seen| seen == format!("{}=True", node.name));
        Ok(Seen::when(cluster.nodes().iter().all(is_ready), || answer.clone()))
    })
    .map(drop)
}

fn keep_logs(cluster: &Cluster) {
    say(format!(
        "it did not come up; its logs stay in {} until the next `cargo lab up` or `down`",
        cluster.dir().display()
    ));
}
