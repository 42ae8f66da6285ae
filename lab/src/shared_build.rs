//! Compiled dependencies that all checkouts of a user share, so that a fresh clone compiles the project alone.
//!
//! cargo knows the packages of a workspace by their path within it, and new sources from old by their time. In a build
//! folder that two checkouts share it would take the code of one for that of the other, so who comes second removes
//! what it knows of the project's own packages first, and nobody else builds meanwhile.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    checkout::{Cache, Checkout},
    error::{Error, Result},
    files,
    report::say,
};

/// The project's own packages.
const PACKAGES: [&str; 6] = ["crds", "fuzz", "lab", "node-agent", "operator", "tcp-close"];
/// Names the checkout that built last.
const LAST: &str = "checkout";

/// The shared build folder, while this process may use it.
#[derive(Debug)]
pub(crate) struct SharedBuild {
    folder: PathBuf,
    _lock: File,
}

impl SharedBuild {
    /// Waits for its turn, and makes sure that no other checkout's code is in the way.
    pub(crate) fn take(checkout: &Checkout) -> Result<Self> {
        let folder = Cache::of_user()?.build();
        files::make_folder(&folder)?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(Error::file("open", &path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            say("another checkout builds its programs; waiting for it");
            flock(&lock, FlockOperation::LockExclusive).map_err(Error::system("lock the build folder"))?;
        }
        let own = checkout.root().to_string_lossy();
        let last = folder.join(LAST);
        if std::fs::read_to_string(&last).is_ok_and(|last| last != own) {
            forget_packages(&folder)?;
        }
        files::write(&last, own.as_bytes())?;
        Ok(Self { folder, _lock: lock })
    }

    /// cargo, with this folder for all that it compiles.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        self.lend_to(&mut command);
        command
    }

    /// Has a command that starts cargo use this folder.
    pub(crate) fn lend_to(&self, command: &mut Command) {
        command.env("CARGO_BUILD_BUILD_DIR", &self.folder);
    }
}

/// Makes cargo compile the project's own packages anew, for each target and profile.
fn forget_packages(folder: &Path) -> Result<()> {
    let is_folder = |name: &String| folder.join(name).is_dir();
    let tops: Vec<String> = files::list(folder)?.into_iter().filter(is_folder).collect();
    let nested = tops.iter().map(|top| {
        Ok(files::list(&folder.join(top))?.into_iter().map(|name| format!("{top}/{name}")).collect())
    });
    let nested: Vec<String> = nested.collect::<Result<Vec<Vec<String>>>>()?.concat();
    // cargo keeps files beside the folders, such as its lock.
    let nested: Vec<String> = nested.into_iter().filter(is_folder).collect();
    for profile in tops.iter().chain(&nested) {
        let fingerprints = folder.join(profile).join(".fingerprint");
        for name in files::list(&fingerprints)?.iter().filter(|name| is_own(name)) {
            let path = fingerprints.join(name);
            std::fs::remove_dir_all(&path).map_err(Error::file("remove", path))?;
        }
    }
    Ok(())
}

/// Whether a fingerprint, a package's name with a hash, is of one of the project's own packages.
fn is_own(fingerprint: &str) -> bool {
    fingerprint.rsplit_once('-').is_some_and(|(package, _)| PACKAGES.contains(&package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_projects_own_packages_are_forgotten() {
        assert!(is_own("node-agent-0123456789abcdef") && is_own("crds-0123456789abcdef"));
        assert!(
            !is_own("crds-extra-0123456789abcdef") && !is_own("serde-0123456789abcdef") && !is_own("lab")
        );
    }

    #[test]
    fn they_are_forgotten_for_every_target_and_profile() {
        let folder = std::env::temp_dir().join(format!("shared-build-{}", std::process::id()));
        let own = ["release/.fingerprint/lab-1", "musl/release/.fingerprint/operator-2"]
            .map(|path| folder.join(path));
        let other = folder.join("musl/release/.fingerprint/serde-3");
        for path in own.iter().chain([&other]) {
            std::fs::create_dir_all(path).unwrap();
        }
        for file in ["CACHEDIR.TAG", "release/.cargo-lock", "musl/release/.cargo-lock"] {
            std::fs::write(folder.join(file), "").unwrap();
        }
        forget_packages(&folder).unwrap();
        assert!(own.iter().all(|path| !path.exists()) && other.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_packages_are_those_of_the_workspace_and_the_fuzz_targets() {
        let manifest = include_str!("../../Cargo.toml");
        let members = manifest.lines().find(|line| line.starts_with("members")).unwrap();
        let in_workspace: Vec<_> = PACKAGES.iter().filter(|package| **package != "fuzz").collect();
        assert_eq!(members.matches('"').count(), 2 * in_workspace.len());
        assert!(in_workspace.iter().all(|package| members.contains(&format!("\"{package}\""))));
    }
}
