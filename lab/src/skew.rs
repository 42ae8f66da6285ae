//! Programs of an older version beside those of this one, in both directions, on a real cluster: what a fleet goes
//! through while an upgrade, or its way back, is under way.
//!
//! The older programs are built from their own commit and run as their own chart had them; definitions, roles and
//! policies are those of this version, as in an upgrade, where the API server gets them first.

use std::{
    collections::BTreeSet,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    checkout::Checkout,
    clear::down,
    cluster::Cluster,
    error::{Error, Result},
    files, images,
    install::{NAMESPACE, RELEASE, install_chart, install_or_upgrade},
    meanwhile::{Work, meanwhile},
    node::Node,
    process::run,
    report::{during, say},
    suite::{FIN_TIMEOUT, Failure, SOON, Suite, ensure, everywhere, in_namespace, wait_until_all_hold},
    up::{NODES, up},
};

/// The last commit of 0.1.0.
pub(crate) const OLDER: &str = "2d6804a3b19d3889896b1009ac5d6f113028a1c1";
/// Tells the older images from those of this version in the nodes' containerd.
const TAG: &str = "older";
const TUNING: &str = "skew";
/// Two looks at the kernels are so far apart.
const LOOK: Duration = Duration::from_millis(5);
/// What the nodes hold before anybody tunes them.
const BASELINE: &str = "60";

/// Shows that this version's operator works with another version's agents, and the other way round. Fails at the first
/// thing that does not hold, and leaves the lab up to look at.
///
/// # Errors
/// Where the revision is not in this repository, its programs do not build, or something does not hold.
pub(crate) fn skew(revision: &str) -> Result<()> {
    if Cluster::open().is_ok_and(|cluster| cluster.is_up()) {
        return Err(Error::Missing {
            what: "a lab of this checkout is up, and another version is to be installed first".into(),
            remedy: "end it with `cargo lab down`".into(),
        });
    }
    let cluster = up(NODES)?;
    let newer = images::build(&cluster)?;
    let checkout = unpack(&cluster, revision)?;
    let older = images::build_of(&cluster, &checkout, TAG)?;
    images::load(&cluster, &newer)?;
    images::load(&cluster, &older)?;
    install_chart(&cluster, &checkout, &older, &[])?;
    let suite = Suite { cluster, images: newer };
    carry_out(&suite).map_err(|Failure(why)| Error::Unclear { what: "what holds".into(), why })?;
    down()
}

/// The files of a revision, in a folder of the lab.
fn unpack(cluster: &Cluster, revision: &str) -> Result<Checkout> {
    let folder = cluster.dir().join("older");
    let archive = cluster.dir().join("older.tar");
    let root = cluster.checkout().root();
    files::make_folder(&folder)?;
    run(Command::new("git")
        .current_dir(root)
        .args(["archive", "--format=tar", "--output"])
        .arg(&archive)
        .arg(revision))?;
    run(Command::new("tar").arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(&folder))?;
    Checkout::at(&folder)
}

/// The operator and the agents of a version, as its chart had them.
struct Version {
    name: &'static str,
    operator: Value,
    agents: Value,
}

impl Version {
    fn installed(suite: &Suite, name: &'static str) -> Result<Self> {
        let get = |kind: &str, component: &str| {
            let mut object = in_namespace(suite, &[kind, &format!("{RELEASE}-{component}")])?;
            // Of another time: an object that names it is refused.
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            Ok::<_, Error>(object)
        };
        Ok(Self { name, operator: get("deployment", "operator")?, agents: get("daemonset", "agent")? })
    }
}

fn carry_out(suite: &Suite) -> Result<(), Failure> {
    let older = Version::installed(suite, "older")?;
    tune(suite, 30)?;
    suite.wait_until_applied(TUNING)?;
    under_watch(suite, "upgrade", &["30"], || {
        // As the docs have people do it.
        Ok(install_or_upgrade(&suite.cluster, &suite.images, &["--reset-then-reuse-values"]).map(drop)?)
    })?;
    let newer = Version::installed(suite, "this")?;
    for (operator, agents) in [(&newer, &older), (&older, &newer), (&older, &older), (&newer, &newer)] {
        stand_beside(suite, operator, agents)?;
    }
    suite.clear()
}

/// One pair of versions, from its start under a tuning to an edit, a refusal, a removal and a new tuning.
fn stand_beside(suite: &Suite, operator: &Version, agents: &Version) -> Result<(), Failure> {
    let name = format!("operator: {}, agents: {}", operator.name, agents.name);
    under_watch(suite, &format!("{name}: started"), &["30"], || replace(suite, operator, agents))?;
    say(format!("{name}: agents say that they are {:?}", agent_versions(suite)?));
    under_watch(suite, &format!("{name}: an edit is Ready"), &["25", "30"], || {
        tune(suite, 25)?;
        suite.wait_until_applied(TUNING).map(drop)
    })?;
    under_watch(suite, &format!("{name}: tcp_tw_recycle is refused"), &["25"], || {
        let recycle = everywhere(&["tcpTwRecycle: 1"]);
        suite.tune("refused", &format!("{recycle}\n  safety:\n    clientsBehindNat: Never"))?;
        suite.wait_for_condition("refused", "Ready", ("False", "Refused"), SOON)?;
        suite.cluster.kubectl(&["delete", "tcpclosetuning", "refused"])?;
        Ok(())
    })?;
    under_watch(suite, &format!("{name}: removed, and restored"), &["25", BASELINE], || {
        suite.cluster.kubectl(&["delete", "tcpclosetuning", TUNING])?;
        wait_until_all_hold(suite, FIN_TIMEOUT, BASELINE).map(drop)
    })?;
    tune(suite, 30)?;
    suite.wait_until_applied(TUNING).map(drop)
}

fn tune(suite: &Suite, seconds: u32) -> Result<(), Failure> {
    suite.tune(TUNING, &everywhere(&[&format!("tcpFinTimeoutSeconds: {seconds}")]))
}

/// Puts the programs of two versions in place, and waits until they run.
fn replace(suite: &Suite, operator: &Version, agents: &Version) -> Result<(), Failure> {
    for object in [&operator.operator, &agents.agents] {
        suite.cluster.replace(&object.to_string())?;
    }
    for name in [format!("deployment/{RELEASE}-operator"), format!("daemonset/{RELEASE}-agent")] {
        let rollout = ["rollout", "status", &name, "--namespace", NAMESPACE, "--timeout=3m"];
        during(&format!("waits for {name}"), || suite.cluster.kubectl(&rollout))?;
    }
    Ok(())
}

/// What the nodes' reports say of who wrote them.
fn agent_versions(suite: &Suite) -> Result<BTreeSet<String>, Failure> {
    let nodes = suite.get("tcpclosenodes", "")?;
    let items = nodes["items"].as_array().into_iter().flatten();
    Ok(items.map(|node| node["status"]["agentVersion"].as_str().unwrap_or("unknown").to_owned()).collect())
}

/// Does something, and says how long it took and what the kernels held meanwhile: nothing but what was expected.
fn under_watch(
    suite: &Suite,
    what: &str,
    expected: &[&str],
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let start = Instant::now();
    let (seen, took) =
        meanwhile(|work| look(suite.cluster.nodes(), work), || work().map(|()| start.elapsed()));
    let (seen, took) = (seen?, took?);
    let values = seen.iter().map(String::as_str).collect::<Vec<_>>();
    println!("{what:<62} {:>5.1} s   kernels held {}", took.as_secs_f64(), values.join(", "));
    ensure(values.iter().all(|value| expected.contains(value)), || {
        format!("{what}: {FIN_TIMEOUT} was one of {values:?}, and should have been one of {expected:?}")
    })
}

/// Every value that a node's kernel held until it was done.
fn look(nodes: &[Node], work: &Work) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    loop {
        let last = !work.goes_on();
        for node in nodes {
            seen.insert(node.read_sysctl(FIN_TIMEOUT)?);
        }
        if last {
            return Ok(seen);
        }
        thread::sleep(LOOK);
    }
}
