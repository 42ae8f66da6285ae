//! What the lab says, in full, on a machine that lacks something. The program itself is run, where it is really missing.

use std::process::{Command, Output};

use super::{
    Failure, Outcome, Suite, Test,
    another::{Another, with_another},
    ensure,
};
use crate::{
    clear::leftovers,
    error::{Error, Result},
    files,
    process::{on_path, output},
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "up_without_root_says_so_and_how_to_become_root", run: not_root },
    Test { name: "up_where_there_are_no_namespaces_says_so_and_what_a_container_needs", run: no_namespaces },
    Test { name: "up_without_a_program_of_the_system_names_it_and_its_package", run: no_nsenter },
    Test { name: "up_without_go_says_so_and_where_to_get_it", run: no_go },
    Test { name: "up_without_apt_names_what_the_person_has_to_install", run: no_apt },
    Test { name: "up_of_a_lab_that_is_up_says_so_and_starts_nothing", run: already_up },
    Test { name: "down_of_a_lab_that_is_down_says_that_nothing_is_left", run: already_down },
];

/// All that `up` needs of a system before it looks for the cluster's programs, and what it tries namespaces with.
const SYSTEM: &[&str] = &["unshare", "nsenter", "mount", "true"];
/// Root's folders, in which the lab looks too, are empty. What links to another one stays: it may hold everything.
const WITHOUT_SBIN: &str = "for folder in /usr/local/sbin /usr/sbin /sbin; do
    if [ -d $folder ] && [ ! -L $folder ]; then mount -t tmpfs none $folder; fi
done
exec \"$@\"";

/// A machine that has less than this one.
struct Machine {
    /// The programs on its PATH.
    programs: &'static [&'static str],
    /// Whether the cluster's programs have been built.
    has_cluster_programs: bool,
    /// Takes something from the one who calls `lab`.
    less: &'static [&'static str],
}

/// The least on which `up` gets to the cluster's programs.
const BARE: Machine = Machine { programs: SYSTEM, has_cluster_programs: false, less: &[] };

impl Machine {
    /// Runs `lab up` on it.
    fn up(&self, suite: &Suite, another: &Another) -> Result<Output> {
        let root = another.checkout.root();
        let (programs, cache) = (root.join("programs"), root.join("cache"));
        files::make_folder(&programs)?;
        for name in self.programs {
            let program = on_path(name).ok_or_else(|| Error::Missing {
                what: format!("`{name}` is not on this machine"),
                remedy: "install it".into(),
            })?;
            files::link(&program, &programs.join(name))?;
        }
        files::make_folder(&cache.join("tcp-close-tuning"))?;
        if self.has_cluster_programs {
            files::link(&suite.cluster.cache().bin(), &cache.join("tcp-close-tuning/bin"))?;
        }
        let variables = [("PATH", programs), ("XDG_CACHE_HOME", cache), another.called_there()];
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITHOUT_SBIN, "sh"]).args(self.less).args(["env", "-i"]);
        command.args(variables.map(|(name, value)| format!("{name}={}", value.display())));
        output(command.arg(&another.program).arg("up"))
    }

    /// Compares all that `lab up` says, and looks whether it left anything.
    fn says(&self, suite: &Suite, expected: &str) -> Outcome {
        with_another(suite, "bare", |another| {
            let output = self.up(suite, another)?;
            says(&output, 1, "", expected)?;
            let left = leftovers(&another.checkout)?;
            ensure(left.is_empty(), || format!("this is left: {left:?}"))
        })
    }
}

/// Compares the exit code and both texts, the second without the times in front of its lines.
fn says(output: &Output, code: i32, stdout: &str, stderr: &str) -> Outcome {
    let said = String::from_utf8_lossy(&output.stderr);
    let untimed = |line| match str::split_once(line, "s] ") {
        Some((time, rest)) if time.starts_with('[') => rest,
        _ => line,
    };
    let said = (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        said.lines().map(untimed).collect::<Vec<_>>().join("\n"),
    );
    let expected = (Some(code), stdout.to_owned(), stderr.to_owned());
    ensure(said == expected, || format!("it said     {said:?}\nand not     {expected:?}"))
}

fn not_root(suite: &Suite) -> Outcome {
    let nobody = Machine { less: &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], ..BARE };
    nobody.says(
        suite,
        "lab: the lab makes network namespaces and mounts, and this is not root\n      \
         what to do: sudo --preserve-env=PATH,HOME env \"PATH=$PATH\" cargo lab up",
    )
}

fn no_namespaces(suite: &Suite) -> Outcome {
    let less: &[&str] = &["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
    Machine { less, ..BARE }.says(
        suite,
        "lab: this machine gives no pid, network, mount and uts namespaces: \
         `unshare --fork --pid --kill-child --mount-proc --net --mount --uts true` failed (exit status: 1):\n\
         unshare: unshare failed: Operation not permitted\n      \
         what to do: in a container, run it with CAP_SYS_ADMIN and CAP_NET_ADMIN and without a seccomp profile \
         that forbids unshare and mount",
    )
}

fn no_nsenter(suite: &Suite) -> Outcome {
    Machine { programs: &["unshare", "mount"], ..BARE }.says(
        suite,
        "lab: `nsenter` is not on this machine\n      \
         what to do: install the package util-linux",
    )
}

fn no_go(suite: &Suite) -> Outcome {
    BARE.says(
        suite,
        "lab: there is no Go on this machine, and the cluster's programs have to be built\n      \
         what to do: install Go 1.26 or later from https://go.dev/dl, or point KUBEBUILDER_ASSETS to the programs",
    )
}

fn no_apt(suite: &Suite) -> Outcome {
    Machine { has_cluster_programs: true, ..BARE }.says(
        suite,
        "no apt here: takes runc, buildah and the CNI plugins from this machine\n\
         lab: there is no apt on this machine to fetch runc with, and runc is not installed\n      \
         what to do: install runc, buildah, iproute2, strace and the CNI plugins (/opt/cni/bin) with this system's own tools",
    )
}

fn already_up(suite: &Suite) -> Outcome {
    let nodes = suite.cluster.nodes().len();
    let processes = || Ok::<_, Failure>(suite.cluster.records().all()?);
    let before = processes()?;
    let mut up = Command::new("/proc/self/exe");
    up.env("CARGO_MANIFEST_DIR", suite.cluster.checkout().root().join("lab"));
    let output = output(up.args(["up", "--nodes", &nodes.to_string()]))?;
    let export = format!("export KUBECONFIG={}\n", suite.cluster.kubeconfig().display());
    says(&output, 0, &export, &format!("the lab of this checkout is already up (nodes: {nodes})"))?;
    let after = processes()?;
    ensure(before == after, || format!("before: {before:?}\nafter: {after:?}"))
}

fn already_down(suite: &Suite) -> Outcome {
    with_another(suite, "down", |another| {
        says(&output(&mut another.lab(&["down"]))?, 0, "", "down: nothing is left")
    })
}
