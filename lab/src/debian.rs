//! Programs that come as Debian packages: downloaded and unpacked into the user's cache, and run from there. Nothing is
//! installed on the machine and no service started.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use crate::{
    checkout::Cache,
    error::{Error, Result},
    files,
    process::{on_path, run},
    report::{during, say},
};

/// runc and the CNI plugins for the nodes, buildah for the images; then the libraries which a small installation of
/// Debian may lack.
const PACKAGES: &[&str] = &[
    "runc",
    "containernetworking-plugins",
    "buildah",
    "libassuan0",
    "libdevmapper1.02.1",
    "libgpg-error0",
    "libgpgme11",
    "libseccomp2",
];
/// `ip` and `ss` with their libraries, where the machine has neither.
const NETWORK_PACKAGES: &[&str] = &[
    "iproute2",
    "libbpf1",
    "libbsd0",
    "libcap2",
    "libelf1",
    "libmd0",
    "libmnl0",
    "libtirpc3",
    "libxtables12",
];
/// strace with its library, where the machine has none: tests stop programs with it at a chosen system call.
const STRACE_PACKAGES: &[&str] = &["strace", "libunwind8"];
/// What the bench of counting measures beside the product; it takes `ss` too.
const PEER_PACKAGES: &[&str] = &["net-tools", "prometheus-node-exporter"];
/// TuneD and the Python modules it needs. Python itself is the machine's.
const TUNED_PACKAGES: &[&str] = &[
    "gawk",
    "python3-dbus",
    "python3-gi",
    "python3-linux-procfs",
    "python3-pyudev",
    "python3-six",
    "tuned",
    "virt-what",
];
/// Holds the list of what has been unpacked.
const MARKER: &str = ".unpacked";
/// All unpacked libraries in one folder.
const LIBRARIES: &str = "libraries";
const CNI_FOLDERS: &[&str] = &["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// Where packages put programs; which of them has changed from one release of Debian to the next.
const PROGRAM_FOLDERS: &[&str] = &["usr/sbin", "usr/bin", "sbin", "bin"];

/// What the packages provide.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Runs containers.
    pub runc: PathBuf,
    /// Builds images.
    pub buildah: PathBuf,
    /// Sets up networks.
    pub ip: PathBuf,
    /// Lists sockets.
    pub ss: PathBuf,
    /// Shows system calls, and makes them fail; only tests need it.
    pub strace: PathBuf,
    /// The folder of the CNI plugins.
    pub cni: PathBuf,
    /// Libraries that these programs need and the machine lacks.
    pub libraries: Option<PathBuf>,
}

/// Unpacks the packages where that has not been done, and says where the programs are.
pub(crate) fn provide(cache: &Cache) -> Result<Programs> {
    let root = cache.debian();
    let has_network_programs = on_path("ip").is_some() && on_path("ss").is_some();
    let mut wanted = PACKAGES.to_vec();
    if !has_network_programs {
        wanted.extend(NETWORK_PACKAGES);
    }
    if on_path("strace").is_none() {
        wanted.extend(STRACE_PACKAGES);
    }
    if unpack_once(&root, &wanted, "unpacks runc, the CNI plugins and buildah")? {
        programs(&root)
    } else {
        installed()
    }
}

/// Unpacks packages into a folder where that has not been done; `false` where there is no apt to fetch them with.
fn unpack_once(root: &Path, wanted: &[&str], what: &str) -> Result<bool> {
    let unpacked = std::fs::read_to_string(root.join(MARKER)).unwrap_or_default();
    if wanted.iter().all(|package| unpacked.lines().any(|line| line == *package)) {
        return Ok(true);
    }
    if on_path("apt-get").is_none() || on_path("dpkg-deb").is_none() {
        return Ok(false);
    }
    during(what, || unpack(root, wanted))?;
    files::write(&root.join(MARKER), wanted.join("\n"))?;
    Ok(true)
}

/// What counts sockets elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peers {
    /// Lists sockets.
    pub ss: PathBuf,
    /// Lists sockets from the text of `/proc/net/tcp`.
    pub netstat: PathBuf,
    /// Prometheus' node_exporter.
    pub node_exporter: PathBuf,
    /// Libraries that `ss` needs and the machine lacks.
    pub libraries: Option<PathBuf>,
}

/// The programs that the benches measure beside the product: the machine's own, or from packages.
pub(crate) fn peers(cache: &Cache) -> Result<Peers> {
    let root = cache.peers();
    let mut wanted = PEER_PACKAGES.to_vec();
    let has_ss = on_path("ss").is_some();
    if !has_ss {
        wanted.extend(NETWORK_PACKAGES);
    }
    unpack_once(&root, &wanted, "unpacks netstat and node_exporter")?;
    let find = |name: &str, package: &str| {
        let found = on_path(name).or_else(|| in_tree(&root, name));
        found.ok_or_else(|| Error::Missing {
            what: format!("there is no {name} on this machine, and no apt to fetch {package} with"),
            remedy: format!("install {package} with this system's own tools"),
        })
    };
    Ok(Peers {
        ss: find("ss", "iproute2")?,
        netstat: find("netstat", "net-tools")?,
        node_exporter: find("prometheus-node-exporter", "prometheus-node-exporter")?,
        libraries: (!has_ss).then(|| root.join(LIBRARIES)),
    })
}

/// A folder with TuneD as its packages have it, to be laid over the machine's own files.
pub(crate) fn tuned(cache: &Cache) -> Result<PathBuf> {
    let root = cache.tuned();
    if unpack_once(&root, TUNED_PACKAGES, "unpacks TuneD")? {
        return Ok(root);
    }
    Err(Error::Missing {
        what: "there is no apt on this machine to fetch TuneD with".into(),
        remedy: "run this bench on Debian".into(),
    })
}

fn in_tree(root: &Path, name: &str) -> Option<PathBuf> {
    PROGRAM_FOLDERS.iter().map(|folder| root.join(folder).join(name)).find(|file| file.is_file())
}

fn programs(root: &Path) -> Result<Programs> {
    let own = |name: &str| {
        in_tree(root, name).ok_or_else(|| Error::Missing {
            what: format!("{name} is not in the packages unpacked in {}", root.display()),
            remedy: "remove that folder and try again".into(),
        })
    };
    let ip_and_ss = on_path("ip").zip(on_path("ss"));
    let (ip, ss) = ip_and_ss.map_or_else(|| Ok((own("ip")?, own("ss")?)), Ok)?;
    let strace = on_path("strace").map_or_else(|| own("strace"), Ok)?;
    let (runc, buildah) = (own("runc")?, own("buildah")?);
    let starts = |program: &Path, question| run(Command::new(program).arg(question)).is_ok();
    let runs_as_it_is = starts(&runc, "--version")
        && starts(&buildah, "--version")
        && starts(&ip, "-V")
        && starts(&ss, "-V")
        && starts(&strace, "--version");
    let libraries = (!runs_as_it_is).then(|| root.join(LIBRARIES));
    Ok(Programs { runc, buildah, ip, ss, strace, cni: root.join("usr/lib/cni"), libraries })
}

/// On a system without Debian's tools the person has to bring the programs.
fn installed() -> Result<Programs> {
    let missing = |what: &str| {
        Error::Missing {
        what: format!("there is no apt on this machine to fetch {what} with, and {what} is not installed"),
        remedy:
            "install runc, buildah, iproute2, strace and the CNI plugins (/opt/cni/bin) with this system's own tools"
                .into(),
    }
    };
    say("no apt here: takes runc, buildah and the CNI plugins from this machine");
    let cni = CNI_FOLDERS.iter().map(PathBuf::from).find(|folder| folder.join("bridge").is_file());
    Ok(Programs {
        runc: on_path("runc").ok_or_else(|| missing("runc"))?,
        buildah: on_path("buildah").ok_or_else(|| missing("buildah"))?,
        ip: on_path("ip").ok_or_else(|| missing("ip"))?,
        ss: on_path("ss").ok_or_else(|| missing("ss"))?,
        strace: on_path("strace").ok_or_else(|| missing("strace"))?,
        cni: cni.ok_or_else(|| missing("the CNI plugins"))?,
        libraries: None,
    })
}

fn unpack(root: &Path, packages: &[&str]) -> Result<()> {
    let downloads = root.join(".download");
    if downloads.exists() {
        std::fs::remove_dir_all(&downloads).map_err(Error::file("empty", &downloads))?;
    }
    files::make_folder(&downloads)?;
    if download(&downloads, packages).is_err() {
        // A fresh machine has no package lists yet, or old ones.
        run(Command::new("apt-get").arg("update"))?;
        download(&downloads, packages)?;
    }
    for package in files::list(&downloads)? {
        run(Command::new("dpkg-deb").arg("-x").arg(downloads.join(package)).arg(root))?;
    }
    gather_libraries(root)?;
    std::fs::remove_dir_all(&downloads).map_err(Error::file("remove", &downloads))
}

/// Copies the libraries into one folder: a node is given one, and packages use two.
fn gather_libraries(root: &Path) -> Result<()> {
    let into = root.join(LIBRARIES);
    files::make_folder(&into)?;
    for parent in ["lib", "usr/lib"] {
        let folder = root.join(parent).join(format!("{}-linux-gnu", std::env::consts::ARCH));
        for name in files::list(&folder)? {
            let library = folder.join(&name);
            if library.is_file() {
                std::fs::copy(&library, into.join(&name)).map_err(Error::file("copy", &library))?;
            }
        }
    }
    Ok(())
}

fn download(into: &Path, packages: &[&str]) -> Result<String> {
    // apt's own user cannot write into a folder of root's; it would only warn, but on every package.
    let options = ["-o", "APT::Sandbox::User=root", "download"];
    run(Command::new("apt-get").current_dir(into).args(options).args(packages))
}
