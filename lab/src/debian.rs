//! Programs that come as Debian packages: downloaded and unpacked into the user's cache, and run from there. Nothing is
//! installed on the machine and no service started.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

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
/// Holds the list of what has been unpacked.
const MARKER: &str = ".unpacked";
const CNI_FOLDERS: &[&str] = &["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// What the packages provide.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Runs containers.
    pub runc: PathBuf,
    /// Builds images.
    pub buildah: PathBuf,
    /// The folder of the CNI plugins.
    pub cni: PathBuf,
    /// Libraries that the two programs need and the machine lacks.
    pub libraries: Option<PathBuf>,
}

/// Unpacks the packages where that has not been done, and says where the programs are.
pub(crate) fn provide(cache: &Cache) -> Result<Programs> {
    let root = cache.debian();
    let wanted = PACKAGES.join(" ");
    let is_unpacked = std::fs::read_to_string(root.join(MARKER)).is_ok_and(|list| list.trim() == wanted);
    if !is_unpacked {
        if on_path("apt-get").is_none() || on_path("dpkg-deb").is_none() {
            return installed();
        }
        during("unpacks runc, the CNI plugins and buildah", || unpack(&root))?;
        files::write(&root.join(MARKER), wanted)?;
    }
    Ok(unpacked(&root))
}

fn unpacked(root: &Path) -> Programs {
    let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let runc = root.join("usr/sbin/runc");
    let buildah = root.join("usr/bin/buildah");
    let starts = |program: &Path| run(Command::new(program).arg("--version")).is_ok();
    let needs_libraries = !(starts(&runc) && starts(&buildah));
    Programs { runc, buildah, cni: root.join("usr/lib/cni"), libraries: needs_libraries.then_some(libraries) }
}

/// On a system without Debian's tools the person has to bring the programs.
fn installed() -> Result<Programs> {
    let missing = |what: &str| Error::Missing {
        what: format!("there is no apt on this machine to fetch {what} with, and {what} is not installed"),
        remedy: "install runc, buildah and the CNI plugins (/opt/cni/bin) with this system's own tools"
            .into(),
    };
    say("no apt here: takes runc, buildah and the CNI plugins from this machine");
    let cni = CNI_FOLDERS.iter().map(PathBuf::from).find(|folder| folder.join("bridge").is_file());
    Ok(Programs {
        runc: on_path("runc").ok_or_else(|| missing("runc"))?,
        buildah: on_path("buildah").ok_or_else(|| missing("buildah"))?,
        cni: cni.ok_or_else(|| missing("the CNI plugins"))?,
        libraries: None,
    })
}

fn unpack(root: &Path) -> Result<()> {
    let downloads = root.join(".download");
    if downloads.exists() {
        std::fs::remove_dir_all(&downloads).map_err(Error::file("empty", &downloads))?;
    }
    files::make_folder(&downloads)?;
    if download(&downloads).is_err() {
        // A fresh machine has no package lists yet, or old ones.
        run(Command::new("apt-get").arg("update"))?;
        download(&downloads)?;
    }
    for package in files::list(&downloads)? {
        run(Command::new("dpkg-deb").arg("-x").arg(downloads.join(package)).arg(root))?;
    }
    std::fs::remove_dir_all(&downloads).map_err(Error::file("remove", &downloads))
}

fn download(into: &Path) -> Result<String> {
    // apt's own user cannot write into a folder of root's; it would only warn, but on every package.
    let options = ["-o", "APT::Sandbox::User=root", "download"];
    run(Command::new("apt-get").current_dir(into).args(options).args(PACKAGES))
}
