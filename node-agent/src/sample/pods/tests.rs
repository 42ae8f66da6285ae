//! Trees of files that look like a procfs: files that are hard links have one inode, as the sockstat of all processes of a
//! namespace has.

use std::fs;
use std::path::PathBuf;

use super::*;

const TCP: &str = include_str!("../../../../fuzz/seeds/kernel_text/tcp");
const TCP6: &str = include_str!("../../../../fuzz/seeds/kernel_text/tcp6");
const FILES: [&str; 6] = ["sockstat", "sockstat6", "snmp", "netstat", "tcp", "tcp6"];
const NODE: &str = "node";
const DIGITS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Tree {
    dir: tempfile::TempDir,
}

/// What the files of a namespace say.
#[derive(Clone, Copy, Default)]
struct Says {
    minis: u64,
    machine_orphans: u64,
    inuse: u64,
    established: u64,
    overflows: u64,
}

impl Tree {
    /// With process 1, in the node's namespace.
    fn new() -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(tree.path("proc")).unwrap();
        fs::create_dir_all(tree.path("logs")).unwrap();
        tree.namespace(NODE, Says::default());
        tree.process(1, NODE);
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn namespace(&self, name: &str, says: Says) {
        let folder = self.path(name);
        if !folder.exists() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("tcp"), TCP.lines().next().unwrap().to_owned() + "\n").unwrap();
            fs::write(folder.join("tcp6"), TCP6.lines().next().unwrap().to_owned() + "\n").unwrap();
        }
        let Says { minis, machine_orphans, inuse, established, overflows } = says;
        for (file, text) in [
            ("sockstat", format!("TCP: inuse {inuse} orphan {machine_orphans} tw {minis} alloc 0 mem 0\n")),
            ("sockstat6", "TCP6: inuse 0\n".into()),
            ("snmp", format!("Tcp: MaxConn CurrEstab\nTcp: -1 {established}\n")),
            ("netstat", format!("TcpExt: TW TCPTimeWaitOverflow\nTcpExt: 0 {overflows}\n")),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    fn process(&self, pid: u32, namespace: &str) {
        let net = self.path(&format!("proc/{pid}/net"));
        fs::create_dir_all(&net).unwrap();
        for file in FILES {
            fs::hard_link(self.path(namespace).join(file), net.join(file)).unwrap();
        }
    }

    fn end(&self, pid: u32) {
        // Out of the way, not removed: the file system would give its inode to the next folder.
        fs::rename(self.path(&format!("proc/{pid}")), self.path(&format!("ended-{pid}"))).unwrap();
        fs::remove_dir_all(self.path(&format!("ended-{pid}/net"))).unwrap();
    }

    fn cgroup(&self, pid: u32, text: &str) {
        fs::write(self.path(&format!("proc/{pid}/cgroup")), text).unwrap();
    }

    fn log(&self, pod: &str, namespace: &str) {
        fs::write(self.path(&format!("logs/{pod}_{namespace}_main-{DIGITS}.log")), "").unwrap();
    }

    fn pods(&self) -> Pods {
        let own = super::super::namespaces::namespace_of(&self.path("proc"), 1).unwrap();
        Pods::beside(Ok(own), &Procfs::new(self.path("proc"), None), self.path("logs"))
    }
}

fn minis(minis: u64) -> Says {
    Says { minis, ..Says::default() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// Looks and counts; namespaces, unread ones and minis.
fn counted(pods: &mut Pods) -> (u32, u32, u64) {
    pods.look();
    pods.count(at(0));
    let census = pods.census().unwrap();
    (census.namespaces, census.unread, census.minis)
}

fn names(pods: &Pods) -> Vec<Option<String>> {
    pods.census().unwrap().most.iter().map(|pod| pod.pod.as_ref().map(ToString::to_string)).collect()
}

#[test]
fn namespaces_beside_the_nodes_are_counted_once_each() {
    let tree = Tree::new();
    tree.namespace("a", minis(5));
    tree.namespace("b", minis(7));
    for (pid, namespace) in [(2, NODE), (10, "a"), (11, "a"), (12, "b")] {
        tree.process(pid, namespace);
    }
    assert_eq!(counted(&mut tree.pods()), (2, 0, 12));
}

#[test]
fn a_process_that_joins_its_namespace_late_is_found_there() {
    let tree = Tree::new();
    tree.namespace("a", minis(5));
    tree.process(10, NODE);
    let mut pods = tree.pods();
    assert_eq!(counted(&mut pods), (0, 0, 0));
    fs::remove_dir_all(tree.path("proc/10/net")).unwrap();
    tree.process(10, "a");
    assert_eq!(counted(&mut pods), (1, 0, 5));
}

#[test]
fn a_process_that_moves_later_is_found_when_all_are_looked_at_again() {
    let tree = Tree::new();
    tree.namespace("a", minis(5));
    tree.process(10, NODE);
    let mut pods = tree.pods();
    (0..3).for_each(|_| pods.look());
    fs::remove_dir_all(tree.path("proc/10/net")).unwrap();
    tree.process(10, "a");
    assert!((0..64).any(|_| counted(&mut pods) == (1, 0, 5)));
}

#[test]
fn a_namespace_whose_last_process_has_ended_is_gone() {
    let tree = Tree::new();
    tree.namespace("a", minis(5));
    tree.process(10, "a");
    let mut pods = tree.pods();
    assert_eq!(counted(&mut pods), (1, 0, 5));
    tree.end(10);
    pods.count(at(1));
    assert_eq!(pods.census().unwrap().namespaces, 0);
}

#[test]
fn a_namespace_is_seen_through_another_process_when_one_has_ended() {
    let tree = Tree::new();
    tree.namespace("a", Says { minis: 5, overflows: 9, ..Says::default() });
    tree.process(10, "a");
    tree.process(11, "a");
    let mut pods = tree.pods();
    counted(&mut pods);
    pods.count_events(Duration::from_secs(0));
    tree.end(10);
    tree.namespace("a", Says { minis: 6, overflows: 99, ..Says::default() });
    pods.count(at(1));
    pods.count_events(Duration::from_secs(60));
    let census = pods.census().unwrap();
    assert_eq!((census.namespaces, census.minis), (1, 6));
    // Its inode may have gone on to another namespace meanwhile.
    assert_eq!(census.most[0].overflows_per_minute, None);
}

#[test]
fn a_pid_that_is_reused_in_another_namespace_tells_nothing_of_the_first() {
    let tree = Tree::new();
    tree.namespace("a", minis(5));
    tree.namespace("b", minis(70));
    tree.process(10, "a");
    let mut pods = tree.pods();
    counted(&mut pods);
    pods.look();
    tree.end(10);
    tree.process(10, "b");
    pods.count(at(1));
    assert_eq!(pods.census().unwrap().minis, 0, "a is gone, b is not known yet");
    assert_eq!(counted(&mut pods), (1, 0, 70));
}

#[test]
fn a_process_that_has_moved_tells_nothing_of_where_it_was() {
    let tree = Tree::new();
    tree.namespace("a", minis(5));
    tree.namespace("b", minis(70));
    tree.process(10, "a");
    let mut pods = tree.pods();
    counted(&mut pods);
    for file in FILES {
        fs::remove_file(tree.path("proc/10/net").join(file)).unwrap();
        fs::hard_link(tree.path("b").join(file), tree.path("proc/10/net").join(file)).unwrap();
    }
    pods.count(at(1));
    assert_eq!(pods.census().unwrap().minis, 0);
}

#[test]
fn what_cannot_be_read_is_unread_and_not_zero() {
    let tree = Tree::new();
    for text in
        ["", "TCP: inuse 1 orphan 0 alloc 1 mem 1\n", "TCP: inuse 1 orphan 0 tw 5", "TCP: orphan x tw 5\n"]
    {
        tree.namespace("a", minis(5));
        tree.namespace("b", minis(7));
        if !tree.path("proc/10").exists() {
            tree.process(10, "a");
            tree.process(11, "b");
        }
        fs::write(tree.path("a/sockstat"), text).unwrap();
        assert_eq!(counted(&mut tree.pods()), (2, 1, 7), "{text:?}");
    }
}

#[test]
fn a_procfs_that_hides_processes_gives_no_census() {
    for hide in
        [|tree: &Tree| tree.end(1), |tree: &Tree| fs::remove_file(tree.path("proc/1/net/sockstat")).unwrap()]
    {
        let tree = Tree::new();
        let mut pods = tree.pods();
        hide(&tree);
        pods.look();
        pods.count(at(0));
        assert!(pods.census().unwrap_err().contains("hidepid=0"));
        assert_eq!(pods.orphans(), None);
    }
}

#[test]
fn a_folder_that_is_no_procfs_gives_no_census() {
    let tree = Tree::new();
    let mut pods = tree.pods();
    assert_eq!(pods.census().unwrap_err(), "nobody has looked yet");
    fs::rename(tree.path("proc"), tree.path("moved")).unwrap();
    pods.look();
    assert!(pods.census().unwrap_err().contains("cannot be listed"));
}

#[test]
fn a_namespace_is_named_by_any_of_its_processes() {
    for cgroup in [
        format!("0::/kubepods.slice/cri-containerd-{DIGITS}.scope\n"),
        format!("0::/../cri-containerd-{DIGITS}.scope\n"),
        format!("9:memory:/kubepods/pod1/{DIGITS}\n"),
    ] {
        let tree = Tree::new();
        tree.namespace("a", minis(5));
        tree.process(10, "a");
        tree.process(11, "a");
        tree.cgroup(10, "0::/kubepods/pause\n");
        tree.cgroup(11, &cgroup);
        tree.log("web-1", "shop");
        let mut pods = tree.pods();
        counted(&mut pods);
        assert_eq!(names(&pods), [None], "it may only be passing through");
        counted(&mut pods);
        assert_eq!(names(&pods), [Some("shop/web-1".into())], "{cgroup}");
        assert!(pods.way_into(&"shop/web-1".parse().unwrap()).is_some());
    }
}

#[test]
fn a_pod_on_the_hosts_network_is_the_nodes() {
    let tree = Tree::new();
    tree.process(10, NODE);
    tree.cgroup(10, &format!("0::/{DIGITS}\n"));
    tree.log("agent", "kube-system");
    let mut pods = tree.pods();
    counted(&mut pods);
    assert_eq!(counted(&mut pods), (0, 0, 0));
    assert!(pods.names().is_empty());
}

#[test]
fn overflows_are_read_seldom_where_nothing_is_in_time_wait() {
    let tree = Tree::new();
    tree.namespace("idle", minis(0));
    tree.process(10, "idle");
    let mut pods = tree.pods();
    counted(&mut pods);
    pods.count_events(Duration::ZERO);
    tree.namespace("idle", Says { overflows: 10, ..minis(0) });
    let mut listed = |second| {
        pods.count_events(Duration::from_secs(second));
        pods.census().unwrap().most.first().and_then(|pod| pod.overflows_per_minute)
    };
    assert_eq!((listed(60), listed(299)), (None, None));
    assert_eq!(listed(300), Some(2), "where tcp_max_tw_buckets is 0");
    assert_eq!(listed(360), None, "it is over, and in no list any longer");
}

#[test]
fn only_the_ten_largest_of_each_kind_are_listed_and_none_twice() {
    let tree = Tree::new();
    for pod in 0..40 {
        let name = format!("ns-{pod}");
        tree.namespace(&name, minis(if pod < 20 { pod } else { 0 }));
        tree.process(100 + u32::try_from(pod).unwrap(), &name);
    }
    let mut pods = tree.pods();
    counted(&mut pods);
    pods.count_events(Duration::ZERO);
    for pod in 15..40 {
        let minis = if pod < 20 { pod } else { 0 };
        tree.namespace(&format!("ns-{pod}"), Says { minis, overflows: pod * 5, ..Says::default() });
    }
    pods.count_events(Duration::from_secs(300));
    pods.count(at(1));
    let most = pods.census().unwrap().most;
    let with_minis = most.iter().filter(|pod| pod.minis > 0).map(|pod| pod.minis).collect::<BTreeSet<_>>();
    assert_eq!(with_minis, (10..20).collect());
    let rates: BTreeSet<_> = most.iter().filter_map(|pod| pod.overflows_per_minute).collect();
    assert!(rates.is_superset(&(30..40).collect()), "{rates:?}");
    assert_eq!(most.len(), 20);
}

#[test]
fn the_list_is_in_the_order_of_names() {
    let tree = Tree::new();
    for (pid, pod, digit) in [(10, "b", "1"), (11, "a", "2"), (12, "", "")] {
        tree.namespace(&pid.to_string(), minis(u64::from(pid)));
        tree.process(pid, &pid.to_string());
        if !pod.is_empty() {
            let digits = digit.repeat(64);
            tree.cgroup(pid, &format!("0::/{digits}\n"));
            fs::write(tree.path(&format!("logs/{pod}_shop_main-{digits}.log")), "").unwrap();
        }
    }
    let mut pods = tree.pods();
    counted(&mut pods);
    counted(&mut pods);
    assert_eq!(names(&pods), [Some("shop/a".into()), Some("shop/b".into()), None]);
}

#[test]
fn a_counter_that_went_back_gives_no_rate() {
    let mut before: Option<Overflows> = None;
    let mut rate = |total, second| {
        let next = Overflows::new(total, Duration::from_secs(second), before.as_ref());
        let per_minute = next.per_minute;
        before = Some(next);
        per_minute
    };
    assert_eq!(rate(100, 0), None, "the first reading");
    assert_eq!(rate(130, 30), Some(60));
    assert_eq!(rate(10, 60), None);
    assert_eq!(rate(10, 90), Some(0));
    assert_eq!(rate(11, 390), Some(1), "one in five minutes is not none");
    assert_eq!(rate(12, 390), None, "no time has passed");
}

/// A namespace with the sockets of the captured tables.
fn busy(tree: &Tree, says: Says) {
    tree.namespace("busy", says);
    fs::write(tree.path("busy/tcp"), TCP).unwrap();
    fs::write(tree.path("busy/tcp6"), TCP6).unwrap();
    tree.process(10, "busy");
}

#[test]
fn states_are_read_where_a_bound_allows_a_place_in_a_list() {
    let tree = Tree::new();
    busy(&tree, Says { established: 20, inuse: 20, ..Says::default() });
    tree.namespace("idle", Says { inuse: 3, ..Says::default() });
    tree.process(11, "idle");
    let mut pods = tree.pods();
    counted(&mut pods);
    assert!(!pods.read_next_states(at(0)), "nothing is known that could place it in a list");
    pods.count_events(Duration::ZERO);
    assert!(pods.read_next_states(at(0)));
    assert!(!pods.read_next_states(at(0)), "the idle one has no bound");
    let most = pods.census().unwrap().most;
    let states = most[0].states.unwrap();
    assert_eq!((most.len(), states.at, states.value.close_wait, states.value.unaccepted), (1, at(0), 12, 3));
    assert!(pods.read_next_states(at(10)), "its turn comes again");
}

#[test]
fn states_that_cannot_be_read_whole_are_unknown() {
    let tree = Tree::new();
    busy(&tree, Says { minis: 18, ..Says::default() });
    let mut pods = tree.pods();
    for (turn, text) in
        [&TCP[..TCP.len() - 9], &TCP.replacen(" 08 ", " ", 1), "", TCP].into_iter().enumerate()
    {
        fs::write(tree.path("busy/tcp6"), text).unwrap();
        counted(&mut pods);
        assert!(pods.read_next_states(at(i64::try_from(turn).unwrap() * 60)));
        assert_eq!(pods.census().unwrap().most[0].states.is_some(), turn == 3, "{turn}");
    }
}

#[test]
fn states_are_read_of_both_families_or_of_one_where_there_is_no_other() {
    let tree = Tree::new();
    busy(&tree, Says { minis: 18, ..Says::default() });
    fs::remove_file(tree.path("proc/10/net/tcp6")).unwrap();
    let mut pods = tree.pods();
    counted(&mut pods);
    assert!(pods.read_next_states(at(0)));
    assert_eq!(pods.census().unwrap().most[0].states.unwrap().value.time_wait, 3);
    fs::remove_file(tree.path("proc/10/net/tcp")).unwrap();
    assert!(pods.read_next_states(at(60)));
    assert_eq!(pods.census().unwrap().most[0].states, None, "every kernel with TCP has the other");
}

#[test]
fn the_longest_waiting_is_read_first() {
    let tree = Tree::new();
    for pid in 10..15 {
        tree.namespace(&pid.to_string(), minis(1));
        tree.process(pid, &pid.to_string());
    }
    let mut pods = tree.pods();
    counted(&mut pods);
    for turn in 0..10 {
        assert!(pods.read_next_states(at(turn * 10)));
        let known = pods.census().unwrap().most.iter().filter(|pod| pod.states.is_some()).count();
        assert_eq!(known, usize::try_from(turn + 1).unwrap().min(5));
    }
    let oldest = pods.census().unwrap().most.iter().map(|pod| pod.states.unwrap().at).min();
    assert_eq!(oldest, Some(at(50)));
}

#[test]
fn orphans_are_unknown_until_each_namespace_that_may_hold_some_is_read() {
    let tree = Tree::new();
    let says = Says { machine_orphans: 0, inuse: 53, established: 20, ..Says::default() };
    busy(&tree, says);
    tree.namespace("other", Says { inuse: 2, ..Says::default() });
    tree.process(11, "other");
    let mut pods = tree.pods();
    assert_eq!(pods.orphans(), None, "nobody has looked yet");
    counted(&mut pods);
    assert_eq!(pods.orphans(), Some(0), "the machine has none");
    for (name, says) in [("busy", says), ("other", Says { inuse: 2, ..Says::default() })] {
        tree.namespace(name, Says { machine_orphans: 50, ..says });
    }
    pods.count(at(0));
    assert_eq!(pods.orphans(), None);
    pods.count_events(Duration::ZERO);
    assert!(pods.read_next_states(at(0)));
    assert_eq!(pods.orphans(), None, "one is left");
    assert!(pods.read_next_states(at(0)));
    assert_eq!(pods.orphans(), Some(12));
}

#[test]
fn orphans_that_may_have_gone_since_are_unknown_again() {
    let tree = Tree::new();
    let says = Says { machine_orphans: 50, inuse: 53, established: 20, ..Says::default() };
    busy(&tree, says);
    let mut pods = tree.pods();
    counted(&mut pods);
    pods.count_events(Duration::ZERO);
    assert!(pods.read_next_states(at(0)));
    pods.count(at(3600));
    assert_eq!(pods.orphans(), Some(12), "no socket has come or gone");
    tree.namespace("busy", Says { inuse: 52, ..says });
    pods.count_events(Duration::from_secs(3600));
    pods.count(at(300));
    assert_eq!(pods.orphans(), Some(12));
    pods.count(at(301));
    assert_eq!(pods.orphans(), None);
}

#[test]
fn five_thousand_namespaces_are_counted_with_a_bounded_number_of_descriptors() {
    const NAMESPACES: u32 = 5000;
    let tree = Tree::new();
    for pid in 100..100 + NAMESPACES {
        let net = tree.path(&format!("proc/{pid}/net"));
        fs::create_dir_all(&net).unwrap();
        fs::write(net.join("sockstat"), "TCP: inuse 3 orphan 0 tw 2 alloc 3 mem 1\n").unwrap();
    }
    let mut pods = tree.pods();
    pods.descriptors_max = 50;
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    assert_eq!(counted(&mut pods), (NAMESPACES, 0, u64::from(2 * NAMESPACES)));
    assert!(descriptors() < before + 100, "tests run side by side; each holds a few");
    assert_eq!(pods.census().unwrap().most.len(), LARGEST);
    for pid in 100..100 + NAMESPACES {
        fs::remove_file(tree.path(&format!("proc/{pid}/net/sockstat"))).unwrap();
    }
    pods.count(at(1));
    assert_eq!(pods.census().unwrap().namespaces, 0);
}
