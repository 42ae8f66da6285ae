//! The whole agent without a cluster, over trees that look like a procfs. See `trees/README.md` for where each comes from.

#![allow(clippy::unwrap_used, reason = "what the tests call may fail them")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A copy of a tree, and a folder to work in.
struct Host {
    dir: tempfile::TempDir,
}

/// What the program printed, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Host {
    fn new(tree: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&trees().join(tree), &dir.path().join("proc"));
        Self { dir }
    }

    /// The connection tracker is loaded, and this is its table.
    fn with_conntrack(self, table: &str) -> Self {
        let file = self.dir.path().join("proc/self/net/nf_conntrack");
        fs::copy(trees().join("nf_conntrack").join(table), file).unwrap();
        self
    }

    /// Runs the program in the folder, over the tree.
    fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], stdin: &str) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tcpclose-agent"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("TCPCLOSE_PROC", "proc")
            .env("TCPCLOSE_STATE", "state")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    fn plan(&self, manifest: &str) -> Said {
        self.write(manifest);
        self.run(&["plan", "-f", "web.yaml"])
    }

    fn write(&self, manifest: &str) {
        fs::write(self.dir.path().join("web.yaml"), manifest).unwrap();
    }

    /// Every file below the folder, and what it holds.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = vec![self.dir.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                    files.push((path, Vec::new()));
                } else {
                    let bytes = fs::read(&path).unwrap();
                    files.push((path, bytes));
                }
            }
        }
        files.sort();
        files
    }
}

impl Said {
    /// The lines about refused sysctls.
    fn refusals(&self) -> Vec<&str> {
        self.stdout.lines().filter(|line| line.contains(": WouldRefuse")).collect()
    }
}

fn trees() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A manifest whose first sysctl is in line 9.
fn tuning(sysctls: &[&str], safety: &str) -> String {
    let sysctls = sysctls.join("\n    ");
    format!(
        "apiVersion: tcpclose.dev/v1alpha1\nkind: TcpCloseTuning\nmetadata:\n  name: web\nspec:\n  nodeSelector: \
         {{matchLabels: {{kubernetes.io/os: linux}}}}\n  mode: Enforce\n  sysctls:\n    {sysctls}\n{safety}"
    )
}

const NEVER: &str = "  safety: {clientsBehindNat: Never}\n";

fn recycle(safety: &str) -> String {
    tuning(&["tcpTwRecycle: 1"], safety)
}

/// What the rule on NAT that is not seen says on any kernel that has the sysctl.
const NOTHING_SEEN: &str = "net.ipv4.tcp_tw_recycle = 1: no client of this node is declared or seen to be behind NAT, but a \
                            NAT that is far from the node cannot be seen from it, and one that comes later cuts off clients \
                            without a trace: remove it from the tuning; tcpTwReuse is the safe relative for nodes that \
                            connect. To accept it, add tw-recycle-nothing-seen to safety.acknowledge";

#[test]
fn a_plan_says_what_is_what_would_be_and_why_not() {
    let said = Host::new("linux-4.4").plan(&recycle(NEVER));
    let expected = "\
KEY                      NOW  ORDERED  BEFORE  STATE        TUNING
net.ipv4.tcp_tw_recycle  0    1        -       WouldRefuse  web

web.yaml:9:5: WouldRefuse (tw-recycle-nat-unknown): net.ipv4.tcp_tw_recycle = 1: whether clients are behind NAT is unknown (no \
connection tracker is loaded), and unknown counts as unsafe: remove it from the tuning
note: nodeSelector, rollout, maxFailedNodes and removalPolicy are not used without a cluster: the file is for this host
note: pods have network namespaces of their own, which start with the kernel's defaults and do not inherit these values: they \
reach host-network pods and the node's own programs (pods-do-not-inherit)
";
    assert_eq!(said, Said { code: Some(2), stdout: expected.into(), stderr: String::new() });
}

#[test]
fn tw_recycle_without_the_authors_word_is_refused_on_4_4() {
    let said = Host::new("linux-4.4").with_conntrack("plain").plan(&recycle(""));
    assert_eq!(
        (said.code, said.refusals()),
        (
            Some(2),
            vec![
                "web.yaml:9:5: WouldRefuse (tw-recycle-without-word): net.ipv4.tcp_tw_recycle = 1: tcpTwRecycle 1 cuts off \
                 clients behind NAT: remove it (tcpTwReuse is the safe relative), or, for kernels before 4.12 whose clients \
                 are never behind NAT, set safety.clientsBehindNat to Never"
            ]
        )
    );
}

#[test]
fn tw_recycle_behind_nat_that_is_seen_is_refused_on_4_4_whatever_its_author_says() {
    let manifest = recycle("  safety: {clientsBehindNat: Never, acknowledge: [tw-recycle-nothing-seen]}\n");
    let said = Host::new("linux-4.4").with_conntrack("rewritten").plan(&manifest);
    assert_eq!(
        (said.code, said.refusals()),
        (
            Some(2),
            vec![
                "web.yaml:9:5: WouldRefuse (tw-recycle-nat-seen): net.ipv4.tcp_tw_recycle = 1: clients are behind NAT, and \
                 all but one of them behind each address would time out (connection tracker: source 10.77.0.50 is \
                 rewritten to 10.77.0.1): remove it from the tuning, whatever safety.clientsBehindNat says"
            ]
        )
    );
}

#[test]
fn tw_recycle_where_nothing_is_seen_of_nat_is_refused_on_4_4_until_it_is_acknowledged() {
    let host = Host::new("linux-4.4").with_conntrack("plain");
    let said = host.plan(&recycle(NEVER));
    let refusal = format!("web.yaml:9:5: WouldRefuse (tw-recycle-nothing-seen): {NOTHING_SEEN}");
    assert_eq!((said.code, said.refusals()), (Some(2), vec![refusal.as_str()]));

    let said = host.run(&["plan", "-f", "web.yaml", "--acknowledge", "tw-recycle-nothing-seen"]);
    assert_eq!((said.code, said.refusals()), (Some(1), vec![]));
    assert!(said.stdout.contains("web.yaml:9:5: WouldChange: net.ipv4.tcp_tw_recycle 0 -> 1\n"), "{said:?}");
}

#[test]
fn tw_recycle_is_refused_on_3_10_and_holds_back_what_is_ordered_with_it() {
    let manifest = tuning(&["tcpTwRecycle: 1", "tcpTimestamps: 2"], NEVER);
    let said = Host::new("linux-3.10").with_conntrack("rewritten").plan(&manifest);
    let refusal = "net.ipv4.tcp_tw_recycle = 1: clients are behind NAT, and all but one of them behind each address would \
                   time out (connection tracker: source 10.77.0.50 is rewritten to 10.77.0.1): remove it from the tuning, \
                   whatever safety.clientsBehindNat says";
    let expected = [
        format!(
            "web.yaml:10:5: WouldRefuse: net.ipv4.tcp_timestamps is held back with net.ipv4.tcp_tw_recycle, which is \
             refused: {refusal}"
        ),
        format!("web.yaml:9:5: WouldRefuse (tw-recycle-nat-seen): {refusal}"),
    ];
    assert_eq!((said.code, said.refusals()), (Some(2), expected.iter().map(String::as_str).collect()));
}

#[test]
fn tw_recycle_is_refused_on_6_18_which_has_it_no_longer() {
    let said = Host::new("linux-6.18").with_conntrack("plain").plan(&recycle(NEVER));
    assert_eq!(
        (said.code, said.refusals()),
        (
            Some(2),
            vec![
                "web.yaml:9:5: WouldRefuse (tw-recycle-removed): net.ipv4.tcp_tw_recycle = 1: net.ipv4.tcp_tw_recycle was \
                 removed from Linux in 4.12; this node runs 6.18: remove it from the tuning; tcpTwReuse is the safe \
                 relative for nodes that connect"
            ]
        )
    );
}

#[test]
fn what_an_old_kernel_lacks_is_said_and_fails_nothing() {
    let said = Host::new("linux-4.4").plan(&tuning(&["tcpTwReuseDelayMilliseconds: 1000"], ""));
    let expected = "web.yaml:9:5: Unsupported: net.ipv4.tcp_tw_reuse_delay exists since Linux 6.14; this node runs 4.4\n";
    assert!(said.code == Some(0) && said.stdout.contains(expected), "{said:?}");
}

#[test]
fn the_exit_code_tells_nothing_to_do_from_a_change_and_from_a_refusal() {
    let host = Host::new("linux-6.18");
    for (sysctl, code) in [
        ("tcpFinTimeoutSeconds: 60", 0),
        ("tcpFinTimeoutSeconds: 30", 1),
        ("tcpFinTimeoutSeconds: 70", 2),
        ("tcpFinTimeoutSeconds: 3", 2),
    ] {
        let said = host.plan(&tuning(&[sysctl], ""));
        assert_eq!(said.code, Some(code), "{sysctl}: {said:?}");
    }
    assert_eq!(host.run(&["plan", "-f", "web.yaml", "--acknowledge", "fin-timeout-below-5"]).code, Some(1));
}

#[test]
fn a_sysctl_that_cannot_be_read_is_a_failure_not_a_change() {
    let host = Host::new("linux-6.18");
    fs::write(host.dir.path().join("proc/sys/net/ipv4/tcp_fin_timeout"), "sixty\n").unwrap();
    let said = host.plan(&tuning(&["tcpFinTimeoutSeconds: 30"], ""));
    let expected = "web.yaml:9:5: Failed: proc/sys/net/ipv4/tcp_fin_timeout: holds \"sixty\\n\", which is not a decimal number\n";
    assert!(said.code == Some(4) && said.stdout.contains(expected), "{said:?}");
}

#[test]
fn a_plan_writes_nothing_at_all() {
    let host = Host::new("linux-6.18");
    host.write(&tuning(&["tcpFinTimeoutSeconds: 30"], ""));
    let before = host.files();
    assert_eq!(host.run(&["plan", "-f", "web.yaml"]).code, Some(1));
    assert_eq!(host.files(), before);
}

#[test]
fn an_invalid_manifest_is_refused_with_file_line_column_and_what_is_allowed() {
    let host = Host::new("linux-6.18");
    for (sysctl, expected) in [
        (
            "tcpFinTimeout: 30",
            "web.yaml:9:5: spec.sysctls.tcpFinTimeout: is no field: did you mean tcpFinTimeoutSeconds?\n",
        ),
        ("tcpTwReuse: 7", "web.yaml:9:5: spec.sysctls.tcpTwReuse: must be an integer (0 to 2); 7 is not\n"),
    ] {
        let said = host.plan(&tuning(&[sysctl], ""));
        assert_eq!(said, Said { code: Some(3), stdout: String::new(), stderr: expected.into() });
    }
}

#[test]
fn a_file_that_is_no_manifest_is_invalid_and_one_that_is_not_there_is_a_failure() {
    let host = Host::new("linux-6.18");
    for (text, said) in [("", "web.yaml:1:1: holds no TcpCloseTuning\n"), ("a: [\n", "web.yaml:")] {
        let plan = host.plan(text);
        assert!(plan.code == Some(3) && plan.stderr.starts_with(said), "{plan:?}");
    }
    fs::write(host.dir.path().join("web.yaml"), b"\xff").unwrap();
    let plan = host.run(&["plan", "-f", "web.yaml"]);
    assert_eq!((plan.code, plan.stderr.as_str()), (Some(3), "web.yaml:1:1: is not text in UTF-8\n"));
    let plan = host.run(&["plan", "-f", "none.yaml"]);
    let expected = "none.yaml: cannot be read: No such file or directory (os error 2)\n";
    assert_eq!((plan.code, plan.stderr.as_str()), (Some(4), expected));
}

#[test]
fn a_manifest_may_come_from_stdin_and_is_bounded() {
    let host = Host::new("linux-6.18");
    let said = host.run_with(&["plan", "-f", "-"], &tuning(&["tcpFinTimeoutSeconds: 30"], ""));
    let expected = "stdin:9:5: WouldChange: net.ipv4.tcp_fin_timeout 60 -> 30\n";
    assert!(said.code == Some(1) && said.stdout.contains(expected), "{said:?}");
    host.write(&"#".repeat((1 << 20) + 1));
    let said = host.run(&["plan", "-f", "web.yaml"]);
    assert_eq!(said.stderr, "web.yaml:1:1: has 1048577 bytes; allowed is at most 1048576\n");
}

#[test]
fn json_and_yaml_say_the_same_with_the_names_of_a_status() {
    let host = Host::new("linux-6.18");
    host.write(&tuning(&["tcpFinTimeoutSeconds: 30"], ""));
    let json = host.run(&["plan", "-f", "web.yaml", "-o", "json"]);
    let yaml = host.run(&["plan", "-f", "web.yaml", "-o", "yaml"]);
    let parsed: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(parsed, serde_yaml::from_str::<Value>(&yaml.stdout).unwrap());
    let row = &parsed["sysctls"][0];
    let expected = serde_json::json!({
        "at": "web.yaml:9:5", "name": "net.ipv4.tcp_fin_timeout", "state": "WouldChange", "live": 60, "desired": 30,
        "tuning": "web", "message": "net.ipv4.tcp_fin_timeout 60 -> 30",
    });
    assert_eq!((row, json.code, yaml.code), (&expected, Some(1), Some(1)));
    assert_eq!(parsed["node"]["kernelRelease"], "6.18.44");
}

#[test]
fn a_tuning_that_only_observes_is_shown_and_changes_nothing() {
    let manifest = tuning(&["tcpFinTimeoutSeconds: 30"], "").replace("Enforce", "Observe");
    let said = Host::new("linux-6.18").plan(&manifest);
    let row = "net.ipv4.tcp_fin_timeout  60   30       -       WouldChange  web (Observe)\n";
    assert!(said.code == Some(0) && said.stdout.contains(row), "{said:?}");
}

#[test]
fn a_tree_that_is_no_procfs_is_never_written() {
    let host = Host::new("linux-6.18");
    host.write(&tuning(&["tcpFinTimeoutSeconds: 30"], ""));
    let before = host.files();
    let said = host.run(&["apply", "-f", "web.yaml"]);
    let expected =
        "nothing is written: proc/sys/net is not a procfs, so writing there would change no kernel";
    assert!(said.code == Some(4) && said.stderr.starts_with(expected), "{said:?}");
    assert_eq!(host.files(), before);
}

#[test]
fn a_command_line_that_is_not_understood_exits_64_and_help_exits_0() {
    let host = Host::new("linux-6.18");
    for arguments in
        [&[][..], &["plan"], &["tune"], &["plan", "-f", "a", "-o", "xml"], &["restore", "kernel.panic"]]
    {
        assert_eq!(host.run(arguments).code, Some(64), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["apply", "--help"]] {
        assert_eq!(host.run(arguments).code, Some(0), "{arguments:?}");
    }
    let said = host.run(&["plan", "-f", "web.yaml", "--acknowledge", "nothing"]);
    assert!(said.code == Some(64) && said.stderr.contains("fin-timeout-below-5"), "{said:?}");
}

#[test]
fn observe_shows_every_sysctl_and_counts_with_the_names_of_a_status() {
    let host = Host::new("linux-4.4");
    let said = host.run(&["observe", "--proc", "/proc", "-o", "json"]);
    let parsed: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, parsed["sysctls"].as_array().unwrap().len()), (Some(0), 8));
    let counted: crds::node::Sockets = serde_json::from_value(parsed["sockets"].clone()).unwrap();
    assert!(counted.states.measured_at.is_some());
    let table = host.run(&["observe", "--proc", "/proc"]).stdout;
    for name in parsed["sockets"].as_object().unwrap().keys() {
        assert!(table.contains(&format!("\n{name} ")), "{name} in {table}");
    }
}
