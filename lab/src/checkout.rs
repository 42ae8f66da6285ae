//! Where a lab lives: names and folders that follow from the path of the checkout, so that two checkouts run side by
//! side, and the cache of finished programs that all checkouts of a user share.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Everything that runs, on a disk: the memory of a tmpfs would be missed by the tests.
const STATE_ROOT: &str = "/var/lib/tcp-close-tuning-lab";
/// Bytes of the hash in a name: 8 hexadecimal digits.
const HASH_BYTES: usize = 4;

/// A checkout of this repository.
#[derive(Debug, Clone)]
pub struct Checkout {
    root: PathBuf,
    name: String,
}

impl Checkout {
    /// The checkout from which `cargo lab` was called.
    pub fn current() -> Result<Self> {
        let compiled = env!("CARGO_MANIFEST_DIR").to_owned();
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(compiled);
        Self::at(&Path::new(&package).join(".."))
    }

    /// The checkout at a path.
    pub fn at(root: &Path) -> Result<Self> {
        let root = root.canonicalize().map_err(Error::file("find", root))?;
        let name = short_hash(&root.to_string_lossy());
        Ok(Self { root, name })
    }

    /// The repository's root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of this checkout's lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All that a running lab keeps on disk; `down` removes it.
    pub fn state(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.name)
    }

    /// Holds the checkouts that its tests make; their labs go with this one.
    pub(crate) fn made_by_tests(&self) -> PathBuf {
        self.state().join("checkouts")
    }

    /// Holds off other commands that start or end this lab. The lock is on a file that is there anyway: nothing to
    /// clean up.
    pub fn lock(&self) -> Result<File> {
        let path = self.root.join("lab/Cargo.toml");
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            crate::report::say("another `cargo lab` of this checkout is at work; waiting for it");
            flock(&file, FlockOperation::LockExclusive).map_err(Error::system("lock lab/Cargo.toml"))?;
        }
        Ok(file)
    }
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(HASH_BYTES).fold(String::new(), |name, byte| format!("{name}{byte:02x}"))
}

/// The cache of the user: programs that are built once and outlive every checkout.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/tcp-close-tuning`, by default in `~/.cache`.
    pub fn of_user() -> Result<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        let base = base.ok_or_else(|| Error::Missing {
            what: "neither XDG_CACHE_HOME nor HOME names a folder for the programs the lab builds".into(),
            remedy: "set HOME".into(),
        })?;
        Ok(Self { root: base.join("tcp-close-tuning") })
    }

    /// Finished programs and images, named `<name>-<version>`.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// What cargo compiles for the images.
    pub(crate) fn build(&self) -> PathBuf {
        self.root.join("build")
    }

    /// Unpacked Debian packages, one tree for all.
    pub fn debian(&self) -> PathBuf {
        self.root.join("deb")
    }

    /// Unpacked Debian packages of what the benches measure beside the product.
    pub(crate) fn peers(&self) -> PathBuf {
        self.root.join("deb-peers")
    }

    /// Unpacked Debian packages of TuneD, a tree of their own.
    pub(crate) fn tuned(&self) -> PathBuf {
        self.root.join("deb-tuned")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_checkouts_have_two_names_and_one_has_always_the_same() {
        assert_eq!(short_hash("/home/a/tcp-close-tuning"), short_hash("/home/a/tcp-close-tuning"));
        assert_ne!(short_hash("/home/a/tcp-close-tuning"), short_hash("/home/b/tcp-close-tuning"));
        assert_eq!(short_hash("/home/a/tcp-close-tuning").len(), 2 * HASH_BYTES);
    }
}
