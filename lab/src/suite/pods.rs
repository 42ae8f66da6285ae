//! Closing sockets in network namespaces beside the node's: right, and without a trace.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use node_agent::{
    procfs::Procfs,
    sample::{namespaces::namespace_of, pods::Pods},
};
use serde_json::{Value, json};
use socket2::Socket;
use tcp_close::sockets::{SocketCounts, State};

use super::{
    Failure, Outcome, Suite, Test,
    alone::{command, ends},
    counts::states,
    ensure,
};
use crate::{
    error::{Error, Result},
    files,
    meanwhile::{Work, meanwhile},
    namespace::NetNamespace,
    node::PAUSE_IMAGE,
    process::{self, on_path, run_with_input},
    prove::{
        experiment::set,
        space::{ADDRESS, PORT, Pair, Space},
    },
    report::{Seen, poll_until},
    sockets::listed_here,
    traffic::{FIN, RST, connect_to, drop_all, drop_all_but, fill, listen_on, shut_down},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "another_namespaces_sockets_are_counted_as_ss_lists_them_state_by_state", run: every_state },
    Test { name: "a_pods_sockets_are_counted_as_ss_lists_them_in_its_namespace", run: a_pod },
    Test {
        name: "a_namespace_that_is_sampled_is_gone_100_ms_after_its_last_process",
        run: last_process_ends,
    },
    Test { name: "a_thousand_namespaces_are_counted_at_a_bounded_cost", run: a_thousand },
    Test { name: "counts_under_churn_are_what_there_was_before_or_came_meanwhile", run: churn },
];

const SOON: Duration = Duration::from_secs(20);
/// A pod starts within seconds; on a loaded machine it may take longer.
const STARTED: Duration = Duration::from_secs(120);
/// What stays of a pod's network keeps its address, its veth, its devices.
const GONE: Duration = Duration::from_millis(100);
const ROUNDS: u32 = 20;
const MANY: u32 = 1000;
/// A namespace costs about 3 µs on an idle machine; a loaded one may take longer, but not for another kind of work.
const COUNT_MAX: Duration = Duration::from_micros(100);
/// Of so many counts the fastest is taken.
const COUNTS: u32 = 5;

/// Looks at a namespace in which connections come and go.
const LOOKS: u32 = 40;
/// Connections to one address in 60 s, by default: each keeps its port.
const CHURN_MAX: u64 = 28_000;

/// What `observe` says of the namespace of a process or a pod.
fn observed(suite: &Suite, options: &[&str]) -> Result<SocketCounts, Failure> {
    let agent = suite.images.agent.program.display().to_string();
    let line: Vec<String> = [&agent, "observe", "--processes", "/proc", "--output", "json"]
        .into_iter()
        .chain(options.iter().copied())
        .map(str::to_owned)
        .collect();
    let said = ends(&mut command(&line), 0)?;
    let json: Value = serde_json::from_str(&said).map_err(|error| Failure(format!("{error}: {said}")))?;
    states(&json["sockets"]).ok_or_else(|| Failure(format!("counts are missing in {said}")))
}

fn every_state(suite: &Suite) -> Outcome {
    Space::run_in_new(&[], |space| {
        let (expected, _held) = mix(space)?;
        // The namespace is this thread's alone.
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        poll_until("observe says what was made, and ss the same", SOON, || {
            let seen = observed(suite, &["--pid", &thread]).map_err(|Failure(why)| unclear(why))?;
            let listed = listed_here()?;
            let holds = seen == expected && listed == expected;
            Ok(Seen::when(holds, || format!("made {expected:?}, observed {seen:?}, ss {listed:?}")))
        })
    })?;
    Ok(())
}

fn unclear(why: String) -> Error {
    Error::Unclear { what: "what observe said".into(), why }
}

/// One thread closes connections as fast as it can, and none leaves TIME_WAIT within the time of the test. So a count is at
/// least what there was before it began, and at most what there is when it has ended.
fn churn(suite: &Suite) -> Outcome {
    let agent = suite.images.agent.program.display().to_string();
    let own: Vec<String> = [&agent, "observe", "--output", "json"].map(str::to_owned).to_vec();
    // Else connect() takes over what is in TIME_WAIT, from loopback to loopback.
    Space::run_in_new(&[set("tcp_tw_reuse", 0)], |_| {
        let made = AtomicU64::new(0);
        let (churned, looked) =
            meanwhile(|work| close_connections(work, &made), || look_at_churn(suite, &own, &made));
        churned.map(|()| looked)
    })?
}

/// Makes connections whose client closes first, and says how many are in TIME_WAIT or about to be.
fn close_connections(work: &Work, made: &AtomicU64) -> Result<()> {
    let address = (ADDRESS, PORT + 1).into();
    let listener = listen_on(address)?;
    while work.goes_on() && made.load(Ordering::Relaxed) < CHURN_MAX {
        let mut client = connect_to(address)?;
        let (mut server, _) = listener.accept().map_err(Error::system("accept a connection"))?;
        shut_down(&client)?;
        let to_the_end = Error::system("read to the end of a connection");
        server.read(&mut [0]).map_err(to_the_end)?;
        drop(server);
        client.read(&mut [0]).map_err(Error::system("read to the end of a connection"))?;
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn look_at_churn(suite: &Suite, own: &[String], made: &AtomicU64) -> Outcome {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut widest = 0;
    for look in 0..LOOKS {
        let before = made.load(Ordering::Relaxed);
        let counted = if look % 2 == 0 {
            let said = ends(&mut command(own), 0)?;
            let json: Value = serde_json::from_str(&said).map_err(|error| Failure(error.to_string()))?;
            states(&json["sockets"]).ok_or_else(|| Failure(format!("counts are missing in {said}")))?
        } else {
            observed(suite, &["--pid", &thread])?
        };
        // The one that is being closed may be there already.
        let after = made.load(Ordering::Relaxed) + 1;
        widest = widest.max(after - before);
        let counted = counted.time_wait;
        ensure((before..=after).contains(&counted), || {
            format!("{counted} in TIME_WAIT, where there were {before} before and {after} after")
        })?;
    }
    println!(
        "    {LOOKS} counts of up to {} in TIME_WAIT; at most {widest} came meanwhile",
        made.load(Ordering::Relaxed)
    );
    Ok(())
}

/// Sockets in each state that closes, a different number of each, that stay as they are while the others are held.
fn mix(space: &Space) -> Result<(SocketCounts, Vec<Socket>)> {
    let mut held = Vec::new();
    for pair in space.connect_many(5)? {
        pair.close_in_turn()?;
    }
    for Pair { client, server, .. } in space.connect_many(3)? {
        drop_all(&server)?;
        drop(client);
        held.push(server);
    }
    for Pair { client, server, .. } in space.connect_many(2)? {
        shut_down(&client)?;
        held.extend([client, server]);
    }
    held.extend(space.connect_many(4)?.into_iter().map(|pair| pair.server));
    held.push(last_ack(space)?);
    held.push(closing(space)?);
    held.push(zero_window(space)?);
    // Last, as the listener would give them to whoever accepts next.
    for _ in 0..2 {
        drop(connect_to((ADDRESS, PORT).into())?);
    }
    let made = SocketCounts {
        time_wait: 5,
        // Three orphans, the one without a window, and the other end of the one in CLOSING.
        fin_wait1: 3 + 1 + 1,
        // Held, after close(), before they were accepted, and the other end of the one in LAST_ACK.
        fin_wait2: 2 + 4 + 2 + 1,
        closing: 1,
        close_wait: 2 + 4 + 2,
        last_ack: 1,
        orphans: 3 + 1 + 1 + 1,
        zero_window_orphans: 1,
        fin_wait2_held: 2 + 1,
        unaccepted: 2,
    };
    Ok((made, held))
}

fn last_ack(space: &Space) -> Result<Socket> {
    let Pair { client, server, client_ends, .. } = space.connect()?;
    shut_down(&client)?;
    space.wait_for_all(&[client_ends], State::FinWait2)?;
    drop_all(&client)?;
    drop(server);
    Ok(client)
}

fn closing(space: &Space) -> Result<Socket> {
    let Pair { client, server, client_ends, .. } = space.connect()?;
    drop_all(&client)?;
    drop_all(&server)?;
    shut_down(&client)?;
    shut_down(&server)?;
    drop_all_but(&client, FIN | RST)?;
    space.wait_for_all(&[client_ends], State::Closing)?;
    drop(client);
    Ok(server)
}

/// Its program closes while data waits for the peer's window.
fn zero_window(space: &Space) -> Result<Socket> {
    let Pair { client, server, .. } = space.connect()?;
    fill(&client)?;
    Ok(server)
}

/// A pod with a network namespace of its own, in which nothing happens by itself.
const POD: &str = "sampled";

fn a_pod(suite: &Suite) -> Outcome {
    let container = json!({ "name": "web", "image": PAUSE_IMAGE, "imagePullPolicy": "Never" });
    let spec = json!({
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [container],
    });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": POD }, "spec": spec });
    suite.cluster.apply(&pod.to_string())?;
    let outcome = is_counted(suite);
    suite.cluster.kubectl(&["delete", "pod", POD, "--wait=true"])?;
    outcome
}

fn is_counted(suite: &Suite) -> Outcome {
    poll_until("the pod runs", STARTED, || {
        let status = &suite.get("pod", POD)?["status"];
        Ok(Seen::when(status["containerStatuses"][0]["ready"] == true, || status.to_string()))
    })?;
    let pod = suite.get("pod", POD)?;
    let node = suite.cluster.node(pod["spec"]["nodeName"].as_str().unwrap_or_default())?;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    let id = id.trim_start_matches("containerd://");
    let is_inside = |pid: &u32| {
        // A process that has ended meanwhile is none of the pod's.
        !id.is_empty()
            && std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|it| it.contains(id))
    };
    let pid = process::pids()?.into_iter().find(is_inside);
    let net = NetNamespace::of(pid.ok_or_else(|| Failure(format!("no process is in container {id}")))?)?;
    let _held = net.run(|| on_loopback(300, 20))??;
    let (name, logs) = (format!("default/{POD}"), node.path("/var/log/containers").display().to_string());
    poll_until("observe says what ss lists in the pod", SOON, || {
        let listed = net.run(listed_here)??;
        let seen = observed(suite, &["--pod", &name, "--container-logs", &logs])
            .map_err(|Failure(why)| unclear(why))?;
        let holds = seen == listed && seen.time_wait == 300 && seen.close_wait == 20;
        Ok(Seen::when(holds, || format!("observed {seen:?}, ss {listed:?}")))
    })?;
    Ok(())
}

/// So many sockets in TIME_WAIT and in CLOSE_WAIT, in the namespace of the calling thread.
fn on_loopback(time_wait: usize, close_wait: usize) -> Result<Vec<Socket>> {
    let listener = listen_on(([127, 0, 0, 1], 0).into())?;
    let address = listener.local_addr().ok().and_then(|address| address.as_socket());
    let address = address.ok_or_else(|| unclear("a listener has no address".into()))?;
    let accept = || listener.accept().map(|(server, _)| server).map_err(Error::system("accept a connection"));
    for _ in 0..time_wait {
        let client = connect_to(address)?;
        let server = accept()?;
        drop(client);
        drop(server);
    }
    let mut held = Vec::new();
    for _ in 0..close_wait {
        drop(connect_to(address)?);
        held.push(accept()?);
    }
    Ok(held)
}

/// A process that sleeps in a network namespace of its own, which ends with it.
struct Sleeper {
    child: Child,
}

impl Sleeper {
    fn start() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "3600"]).stdin(Stdio::null());
        let child = command.spawn().map_err(|source| Error::Start { program: "unshare".into(), source })?;
        Ok(Self { child })
    }

    /// Waits until it is in its namespace.
    fn settle(&self) -> Result<()> {
        let here = own()?;
        poll_until("a process has a namespace of its own", SOON, || {
            let there = namespace_of(Path::new("/proc"), self.child.id()).ok();
            Ok(Seen::when(there.is_some_and(|there| there != here), || format!("{there:?}")))
        })
        .map(drop)
    }

    fn net(&self) -> Result<NetNamespace> {
        NetNamespace::of(self.child.id())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The namespace of the calling thread.
fn own() -> Result<u64> {
    let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    namespace_of(Path::new("/proc"), thread).map_err(Error::file("look at", "/proc/thread-self/net/sockstat"))
}

fn ip(batch: &str) -> Result<()> {
    let missing =
        || Error::Missing { what: "no program `ip` on the PATH".into(), remedy: "install iproute2".into() };
    run_with_input(Command::new(on_path("ip").ok_or_else(missing)?).args(["-batch", "-"]), batch.as_bytes())
        .map(drop)
}

fn pods() -> Pods {
    let mut pods = Pods::new(&Procfs::new("/proc", None), PathBuf::new());
    pods.look();
    pods.look();
    pods
}

/// The end of a veth in the calling thread's namespace shows for how long the other end's is there.
const VETH: &str = "sampled0";

/// A namespace with sockets in TIME_WAIT, at the other end of a veth.
fn sampled() -> Result<Sleeper> {
    let sleeper = Sleeper::start()?;
    sleeper.settle()?;
    ip(&format!("link add {VETH} type veth peer name eth0 netns {}\n", sleeper.child.id()))?;
    sleeper.net()?.run(|| {
        ip("link set lo up\n")?;
        on_loopback(100, 0)
    })??;
    Ok(sleeper)
}

/// How long it takes until the veth is gone.
fn gone_after(start: Instant) -> Result<Duration> {
    poll_until("the veth is gone", SOON, || {
        let devices = files::read(Path::new("/proc/thread-self/net/dev"))?;
        Ok(Seen::when(!devices.contains(VETH), || devices))
    })?;
    Ok(start.elapsed())
}

fn last_process_ends(_: &Suite) -> Outcome {
    NetNamespace::run_in_new(|| {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let sleeper = sampled()?;
            times.push(while_sampled(|| {
                drop(sleeper);
                gone_after(Instant::now())
            })??);
        }
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "    {ROUNDS} namespaces were gone after {median:?} in the median, {longest:?} at the latest"
        );
        // On a loaded machine a thread may be kept waiting while it reads.
        ensure(median <= GONE && longest <= 3 * GONE, || format!("gone after {times:?}"))?;
        held_open()
    })?
}

/// Runs something while another thread reads every namespace as fast as can be.
fn while_sampled<T>(work: impl FnOnce() -> T) -> Result<T> {
    let started = AtomicBool::new(false);
    let sample = |work: &Work| {
        let (mut pods, mut at) = (pods(), Timestamp::now());
        while work.goes_on() {
            at += Duration::from_secs(60);
            pods.count(at);
            pods.count_events(Duration::ZERO);
            while pods.read_next_states(at) && work.goes_on() {
                started.store(true, Ordering::Relaxed);
            }
        }
    };
    let states_are_read = || Ok(Seen::when(started.load(Ordering::Relaxed), || "none yet".into()));
    let ((), outcome) =
        meanwhile(sample, || poll_until("states are read", SOON, states_are_read).map(|_| work()));
    outcome
}

/// The test can fail: an open file keeps the namespace.
fn held_open() -> Outcome {
    let sleeper = sampled()?;
    let path = format!("/proc/{}/net/sockstat", sleeper.child.id());
    let file = std::fs::File::open(&path).map_err(Error::file("open", path))?;
    drop(sleeper);
    let ended = Instant::now();
    while ended.elapsed() < 5 * GONE {
        let devices = files::read(Path::new("/proc/thread-self/net/dev"))?;
        ensure(devices.contains(VETH), || {
            "an open file does not keep a namespace: the test shows nothing".into()
        })?;
        thread::sleep(GONE / 10);
    }
    drop(file);
    gone_after(Instant::now()).map(drop).map_err(Failure::from)
}

fn a_thousand(_: &Suite) -> Outcome {
    let before = counted(&mut pods())?;
    let sleepers: Vec<Sleeper> = (0..MANY).map(|_| Sleeper::start()).collect::<Result<_>>()?;
    sleepers.iter().try_for_each(Sleeper::settle)?;
    for (sleeper, count) in sleepers.iter().zip([700, 800, 900]) {
        sleeper.net()?.run(|| {
            ip("link set lo up\n")?;
            on_loopback(count, 0)
        })??;
    }
    let mut pods = pods();
    let (namespaces, unread) = counted(&mut pods)?;
    let mut time = || {
        let start = Instant::now();
        pods.count(Timestamp::now());
        start.elapsed()
    };
    let each = (0..COUNTS).map(|_| time()).min().unwrap_or_default() / namespaces.max(1);
    println!("    {namespaces} namespaces, {each:?} each");
    ensure(unread == 0 && namespaces >= before.0 + MANY, || {
        format!("{namespaces} namespaces, {unread} of them not read, and {} before", before.0)
    })?;
    ensure(each <= COUNT_MAX, || format!("{each:?} for each namespace"))?;
    for (sleeper, count) in sleepers.iter().zip([700, 800, 900]) {
        let most = pods.most();
        let seen = most.iter().find(|seen| seen.pid == sleeper.child.id());
        ensure(seen.is_some_and(|seen| seen.counts.minis == count), || format!("{count} are not there"))?;
    }
    drop(sleepers);
    let (left, _) = counted(&mut pods)?;
    ensure(left + MANY <= namespaces, || format!("{left} of {namespaces} are left"))
}

/// Namespaces, and how many of them could not be read.
fn counted(pods: &mut Pods) -> Result<(u32, u32), Failure> {
    pods.count(Timestamp::now());
    let census = pods.census().map_err(Failure)?;
    Ok((census.namespaces, census.unread))
}
