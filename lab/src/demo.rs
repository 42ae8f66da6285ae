//! The main job, shown on a real cluster: nodes are tuned, their closing sockets reported, what is unsafe refused, and
//! everything put back. Every number that it prints is read through kubectl or from a kernel.

use std::{fmt::Write as _, path::Path, thread, time::Duration};

use serde_json::Value;
use tcp_close::sockets::SocketCounts;

use crate::{
    clear::down,
    cluster::Cluster,
    error::{Error, Result},
    install::install_from_checkout,
    meanwhile::{Work, meanwhile},
    node::Node,
    process,
    report::{Seen, poll_until, wait_until},
    sockets::listed,
    traffic::{self, Held},
    up::{NODES, up},
};

/// Three times what each step may take.
const DEADLINE: Duration = Duration::from_secs(90);
/// What is made of each kind, at once and then in each round.
const TIME_WAIT: usize = 5000;
const ORPHANS: usize = 150;
const LEAKED: usize = 110;
/// Orphans last 13 s and more with the tuning, FIN_WAIT2 30 s: new ones come before the old are gone.
const ROUND: Duration = Duration::from_secs(5);

/// What is shown of the nodes, in this order.
const KEYS: [&str; 4] = [
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_orphan_retries",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_tw_reuse",
];

/// Runs the demo. Without `once` the cluster stays up until Ctrl-C.
pub(crate) fn demo(once: bool) -> Result<()> {
    let cluster = up(NODES)?;
    install_from_checkout(&cluster)?;
    let demo = Demo { cluster: &cluster };
    demo.start_clear()?;
    let before = demo.values()?;
    demo.tune()?;
    demo.close_connections()?;
    demo.refuse()?;
    demo.restore(&before)?;
    if !once {
        title("The cluster stays up until Ctrl-C. In another terminal:");
        println!("export KUBECONFIG={}", cluster.kubeconfig().display());
        println!("kubectl get tcpclose      # or: cargo lab kubectl get tcpclose");
        process::wait_for_interrupt()?;
    }
    down()
}

struct Demo<'a> {
    cluster: &'a Cluster,
}

impl Demo<'_> {
    /// A lab that was up may have tunings of somebody's; what the nodes held before them is what counts.
    fn start_clear(&self) -> Result<()> {
        self.cluster.kubectl(&["delete", "tct", "--all"])?;
        self.wait_until_nothing_is_ordered()
    }

    fn wait_until_nothing_is_ordered(&self) -> Result<()> {
        let path = "jsonpath={range .items[*]}{.status.summary}{\"\\n\"}{end}";
        poll_until("no node has an order", DEADLINE, || {
            let summaries = self.cluster.kubectl(&["get", "tcn", "--output", path])?;
            let done = summaries.lines().filter(|summary| *summary == "nothing ordered").count();
            Ok(Seen::when(done == self.cluster.nodes().len(), || summaries))
        })
        .map(drop)
    }

    fn tune(&self) -> Result<()> {
        title("1. Three nodes, tuned from examples/");
        let examples = self.cluster.checkout().root().join("examples");
        self.show(&["label", "node", "node-3", "tcpclose.dev/example-role=client", "--overwrite"])?;
        self.show_with_path(&["apply", "--server-side", "--filename"], &examples, "examples/")?;
        for (name, reason) in [("web", "Applied"), ("clients", "Applied"), ("observe", "Observed")] {
            self.wait_for_reason(name, reason)?;
        }
        self.show(&["get", "tct", "--output", "wide"])?;
        self.compare_values()
    }

    /// Thousands of TIME_WAIT on node-1; orphans on node-2, whose peer drops what they send; on node-3 FIN_WAIT2, because a
    /// program on node-1 never closes: there it leaks CLOSE_WAIT.
    fn close_connections(&self) -> Result<()> {
        title("2. Connections close, each in its own way");
        let [first, second, third] = self.cluster.nodes() else { return Err(Error::NotUp) };
        println!("node-1 closes {TIME_WAIT} connections first: TIME_WAIT");
        println!("node-2 closes connections to a peer that drops every packet: orphans in FIN_WAIT1");
        println!(
            "node-3 closes connections to a program on node-1 that never closes its side: FIN_WAIT2 on node-3,"
        );
        println!("    CLOSE_WAIT on node-1, more and more of it: that program leaks, and no sysctl helps");
        traffic::time_wait(first, second, TIME_WAIT)?;
        let held = close_some(second, third, first)?;
        self.show_nodes()?;
        // Orphans and FIN_WAIT2 end by themselves, the sooner for being tuned: new ones come while the tuning is awaited.
        let (made, shown) =
            meanwhile(|work| keep_closing([second, third, first], held, work), || self.show_tuning());
        shown.and(made)
    }

    fn show_nodes(&self) -> Result<()> {
        wait_until("every node has reported it", DEADLINE, || {
            let nodes = self.json("tcn")?;
            let count = |node: usize, name: &str| {
                nodes["items"][node]["status"]["sockets"][name].as_u64().unwrap_or(0)
            };
            let holds = count(0, "timeWait") >= TIME_WAIT as u64
                && count(0, "closeWait") >= LEAKED as u64
                && count(1, "orphans") >= ORPHANS as u64
                && count(2, "finWait2") >= LEAKED as u64;
            Ok(Seen::when(holds, || nodes["items"][0]["status"]["sockets"].to_string()))
        })?;
        self.show(&["get", "tcn"])?;
        self.compare_counts()
    }

    fn show_tuning(&self) -> Result<()> {
        wait_until("the tuning sums it up", DEADLINE, || {
            let sockets = self.json("tct/web")?["status"]["sockets"].clone();
            let positive = |name: &str| sockets[name].as_u64().is_some_and(|count| count > 0);
            let holds = sockets["timeWait"].as_u64() >= Some(TIME_WAIT as u64 * 9 / 10)
                && ["orphans", "finWait1", "finWait2", "closeWait"].into_iter().all(positive);
            Ok(Seen::when(holds, || sockets.to_string()))
        })?;
        self.show(&["get", "tct", "web", "--output", "wide"])?;
        self.show(&["describe", "tct", "web"])
    }

    fn refuse(&self) -> Result<()> {
        title("3. tcpTwRecycle: 1 is refused, with the reason, and nothing is written");
        let before = self.values()?;
        let example = self.cluster.checkout().root().join("examples/refused/tw-recycle.yaml");
        self.show_with_path(
            &["apply", "--server-side", "--filename"],
            &example,
            "examples/refused/tw-recycle.yaml",
        )?;
        self.wait_for_reason("tw-recycle", "Refused")?;
        self.show(&["get", "tct", "tw-recycle", "--output", "wide"])?;
        let after = self.values()?;
        println!(
            "values on the nodes are {}",
            if before == after { "what they were" } else { "NOT what they were" }
        );
        self.show(&["delete", "tct", "tw-recycle"])
    }

    fn restore(&self, before: &[Vec<String>]) -> Result<()> {
        title("4. The tunings are deleted, and every node is back at its old values");
        self.show(&["delete", "tct", "--all"])?;
        let restored = wait_until("every node is back at its old values", DEADLINE, || {
            let values = self.values()?;
            Ok(Seen::when(values == before, || format!("{values:?}")))
        });
        self.print_values(before, "before", &self.values()?, "kernel now");
        restored?;
        self.wait_until_nothing_is_ordered()?;
        self.show(&["get", "tcn"])
    }

    /// What each node's kernel holds, read in its namespace.
    fn values(&self) -> Result<Vec<Vec<String>>> {
        let of = |node: &Node| KEYS.iter().map(|key| node.read_sysctl(key)).collect();
        self.cluster.nodes().iter().map(of).collect()
    }

    fn compare_values(&self) -> Result<()> {
        let nodes = self.json("tcn")?;
        let reported = |node: usize| KEYS.iter().map(|key| live(&nodes["items"][node], key)).collect();
        let reported: Vec<Vec<String>> = (0..self.cluster.nodes().len()).map(reported).collect();
        self.print_values(&reported, "status", &self.values()?, "kernel");
        Ok(())
    }

    fn print_values(&self, left: &[Vec<String>], left_name: &str, right: &[Vec<String>], right_name: &str) {
        println!("\n{:<30}{:<10}{left_name:>12}{right_name:>12}", "SYSCTL", "NODE");
        for (index, key) in KEYS.iter().enumerate() {
            for (node, (left, right)) in self.cluster.nodes().iter().zip(left.iter().zip(right)) {
                println!("{key:<30}{:<10}{:>12}{:>12}", node.name, left[index], right[index]);
            }
        }
    }

    /// Statuses and a witness side by side.
    fn compare_counts(&self) -> Result<()> {
        let nodes = self.json("tcn")?;
        println!("\n{:<10}{:<12}{:>16}{:>10}", "NODE", "STATE", "status", "ss now");
        for (index, node) in self.cluster.nodes().iter().enumerate() {
            let sockets = &nodes["items"][index]["status"]["sockets"];
            for (name, seen) in named(&listed(node)?) {
                let reported = sockets[name].as_u64().map_or("unknown".into(), |count| count.to_string());
                if reported != "0" || seen != 0 {
                    println!("{:<10}{name:<12}{reported:>16}{seen:>10}", node.name);
                }
            }
        }
        Ok(())
    }

    fn wait_for_reason(&self, tuning: &str, reason: &str) -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}";
        poll_until(&format!("{tuning} says {reason}"), DEADLINE, || {
            let seen = self.cluster.kubectl(&["get", "tct", tuning, "--output", path])?;
            Ok(Seen::when(seen == reason, || seen))
        })
        .map(drop)
    }

    fn json(&self, what: &str) -> Result<Value> {
        let text = self.cluster.kubectl(&["get", what, "--output", "json"])?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Unclear { what: what.into(), why: error.to_string() })
    }

    /// Runs kubectl as a person would, command line and all.
    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ kubectl {}", arguments.join(" "));
        print!("{}", self.cluster.kubectl(arguments)?);
        Ok(())
    }

    fn show_with_path(&self, arguments: &[&str], path: &Path, shown: &str) -> Result<()> {
        println!("\n$ kubectl {} {shown}", arguments.join(" "));
        let path = path.display().to_string();
        print!("{}", self.cluster.kubectl(&[arguments, &[&path]].concat())?);
        Ok(())
    }
}

/// Orphans on the first node, which the second one drops; FIN_WAIT2 on the second, whose peer on the third leaks.
fn close_some(orphaned: &Node, waiting: &Node, leaking: &Node) -> Result<Held> {
    Ok(traffic::fin_wait1_orphans(orphaned, waiting, ORPHANS)?
        .and(traffic::fin_wait2_orphans(waiting, leaking, LEAKED)?))
}

/// Makes new ones of what ends by itself, until it is told to stop.
fn keep_closing([orphaned, waiting, leaking]: [&Node; 3], mut held: Held, work: &Work) -> Result<()> {
    while work.goes_on() {
        held = held.and(close_some(orphaned, waiting, leaking)?);
        // In steps, so that the end of the demo need not wait for a round.
        for _ in 0..50 {
            if work.goes_on() {
                thread::sleep(ROUND / 50);
            }
        }
    }
    Ok(())
}

fn live(node: &Value, key: &str) -> String {
    let sysctls = node["status"]["sysctls"].as_array();
    let known = sysctls.and_then(|sysctls| sysctls.iter().find(|sysctl| sysctl["name"] == key));
    known.and_then(|sysctl| sysctl["live"].as_i64()).map_or("not ordered".into(), |value| value.to_string())
}

fn named(listed: &SocketCounts) -> [(&'static str, u64); 7] {
    [
        ("timeWait", listed.time_wait),
        ("orphans", listed.orphans),
        ("finWait1", listed.fin_wait1),
        ("finWait2", listed.fin_wait2),
        ("closing", listed.closing),
        ("closeWait", listed.close_wait),
        ("lastAck", listed.last_ack),
    ]
}

fn title(text: &str) {
    let mut line = String::new();
    // Writing to a String cannot fail.
    let _ = write!(line, "\n=== {text} ");
    println!("{line:=<100}");
}
