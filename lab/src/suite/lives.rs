//! The lab itself: it lives beside another checkout's, and one that was killed on its way up leaves nothing behind. What
//! there is of a lab is read from the kernel's own lists, not from the lab's records.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use super::{
    Failure, Outcome, SOON, Suite, Test,
    another::{Another, with_another},
    ensure, everywhere,
};
use crate::{
    control_plane::Component,
    error::{Error, Result},
    files, network,
    process::{self, Process, pids, run},
    relay,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "another_checkouts_lab_comes_and_goes_beside_this_one", run: side_by_side },
    Test { name: "an_up_that_is_killed_at_any_step_leaves_nothing_behind_after_down", run: killed },
    Test { name: "an_up_clears_what_a_killed_one_left", run: killed_and_up_again },
];

/// How often one looks for what `up` has started.
const GLANCE: Duration = Duration::from_millis(2);
/// One node is enough to have everything once.
const UP: &[&str] = &["up", "--nodes", "1"];
/// What `up` starts, in this order.
fn steps() -> [&'static str; 5] {
    [network::HOLDER, Component::Etcd.name(), "node-1", relay::RELAY, Component::Scheduler.name()]
}

fn side_by_side(suite: &Suite) -> Outcome {
    with_another(suite, "beside", |other| {
        let machine = first_namespace()?;
        let start = Instant::now();
        run(&mut other.lab(UP))?;
        println!("    it was up after {:.1} s", start.elapsed().as_secs_f64());
        let traces = Traces::of(other)?;
        answers(other)?;
        works(suite, "tcpFinTimeoutSeconds: 30")?;
        is_unchanged(&machine)?;
        run(&mut other.lab(&["down"]))?;
        traces.are_gone()?;
        works(suite, "tcpFinTimeoutSeconds: 20")?;
        is_unchanged(&machine)
    })
}

fn killed(suite: &Suite) -> Outcome {
    with_another(suite, "killed", |other| {
        let machine = first_namespace()?;
        for step in steps() {
            let traces = kill_up_after(other, step)?;
            run(&mut other.lab(&["down"]))?;
            // A client that `up` had just started gives up a moment after its API server is gone.
            poll_until(&format!("nothing is left of an up killed after {step}"), SOON, || {
                let left = traces.are_gone().err();
                Ok(Seen::when(left.is_none(), || left.map(|Failure(why)| why).unwrap_or_default()))
            })?;
        }
        is_unchanged(&machine)
    })
}

fn killed_and_up_again(suite: &Suite) -> Outcome {
    with_another(suite, "again", |other| {
        let traces = kill_up_after(other, relay::RELAY)?;
        run(&mut other.lab(UP))?;
        traces.have_ended()?;
        answers(other)
    })
}

/// Kills `up` as soon as it has started something, and returns what there is then.
fn kill_up_after(other: &Another, step: &str) -> Result<Traces, Failure> {
    let record = other.checkout.state().join("processes").join(step);
    let mut command = other.lab(UP);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut up = command.spawn().map_err(|source| Error::Start { program: "lab up".into(), source })?;
    // A wait that looks ever less often would miss the moment: a warm `up` goes on to its end within a second.
    let start = Instant::now();
    while !record.exists() && start.elapsed() < SOON {
        std::thread::sleep(GLANCE);
    }
    let ended = up.try_wait();
    up.kill().and_then(|()| up.wait()).map_err(Error::system("kill `lab up`"))?;
    ensure(record.exists(), || format!("up had not started {step} after {SOON:?}"))?;
    ensure(matches!(ended, Ok(None)), || format!("up ended before it was killed: {ended:?}"))?;
    Traces::of(other)
}

fn answers(other: &Another) -> Outcome {
    let path = "jsonpath={range .items[*]}{.metadata.name} {end}";
    let nodes = run(&mut other.lab(&["kubectl", "get", "nodes", "--output", path]))?;
    ensure(nodes == "node-1 ", || format!("its nodes are {nodes:?}"))
}

/// A change reaches every node of the lab under test.
fn works(suite: &Suite, sysctl: &str) -> Outcome {
    suite.tune("web", &everywhere(&[sysctl]))?;
    suite.wait_until_applied("web").map(drop)
}

/// What the kernel shows of a lab.
struct Traces {
    /// The lab's name, which its paths carry.
    name: String,
    folder: PathBuf,
    /// Those that carry its name, and all that are in a namespace with them.
    processes: Vec<Process>,
}

impl Traces {
    /// Those of a lab of which something runs. What was started this moment shows its environment, and so whose it is,
    /// only once the kernel has laid that out; who started it may go on, and be killed, before.
    fn of(other: &Another) -> Result<Self, Failure> {
        let name = other.checkout.name().to_owned();
        let mut marked = Vec::new();
        poll_until("something of the lab runs", SOON, || {
            marked = process::marked(&name)?;
            Ok(Seen::when(!marked.is_empty(), || "nothing carries its name".into()))
        })?;
        let machine = namespaces_of(std::process::id());
        let mut namespaces: BTreeSet<_> = marked.iter().flat_map(|each| namespaces_of(each.pid)).collect();
        namespaces.retain(|each| !machine.contains(each));
        let inside = |pid: &u32| namespaces_of(*pid).iter().any(|each| namespaces.contains(each));
        let others = pids()?.into_iter().filter(inside).filter_map(Process::of_pid);
        let processes = others.chain(marked.iter().copied()).filter(Process::is_alive).collect();
        Ok(Self { name, folder: other.checkout.state(), processes })
    }

    /// Fails with all that there is still.
    fn are_gone(&self) -> Outcome {
        self.have_ended()?;
        let mut left = Vec::new();
        for pid in pids()? {
            let names_it = |file: &&str| {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).contains(&self.name)
            };
            let files = ["cmdline", "environ"].into_iter().filter(names_it);
            left.extend(files.map(|file| format!("the {file} of process {pid} names the lab")));
        }
        let mounts = files::read(Path::new("/proc/self/mountinfo"))?;
        left.extend(
            mounts.lines().filter(|line| line.contains(&self.name)).map(|line| format!("mount {line}")),
        );
        left.extend(self.folder.exists().then(|| format!("folder {}", self.folder.display())));
        ensure(left.is_empty(), || format!("this is left: {left:#?}"))
    }

    /// Fails with the processes that run still. A namespace ends with the last one in it.
    fn have_ended(&self) -> Outcome {
        let alive: Vec<_> = self.processes.iter().filter(|process| process.is_alive()).collect();
        ensure(alive.is_empty(), || format!("these run still: {alive:?}"))
    }
}

/// The namespaces of a process that a lab makes; none of one that has ended.
fn namespaces_of(pid: u32) -> Vec<PathBuf> {
    let link = |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    ["net", "pid", "mnt", "uts"].into_iter().filter_map(|kind| link(kind).ok()).collect()
}

/// What a lab could have changed in the machine's own first network namespace: links, addresses, routes, sysctls.
fn first_namespace() -> Result<BTreeMap<PathBuf, String>> {
    let mut all = BTreeMap::new();
    let devices = Path::new("/proc/net/dev");
    let text = files::read(devices)?;
    // Each line goes on with counters.
    let links: Vec<_> = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    all.insert(devices.to_owned(), links.join(" "));
    let sysctls = Path::new("/proc/sys/net/ipv4");
    let tables = ["/proc/net/route", "/proc/net/fib_trie", "/proc/net/if_inet6"].map(PathBuf::from);
    for file in files::list(sysctls)?.iter().map(|name| sysctls.join(name)).chain(tables) {
        // There are folders too, and files that can only be written.
        if let Ok(text) = fs::read_to_string(&file) {
            all.insert(file, text);
        }
    }
    Ok(all)
}

fn is_unchanged(before: &BTreeMap<PathBuf, String>) -> Outcome {
    let after = first_namespace()?;
    let changed: Vec<_> = after.iter().filter(|(file, text)| before.get(*file) != Some(text)).collect();
    ensure(changed.is_empty() && after.len() == before.len(), || {
        format!("in the machine's own network namespace this has changed: {changed:?}")
    })
}
