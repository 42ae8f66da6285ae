//! Another checkout, as far as a lab can tell: a folder whose path names the lab. Its `cargo lab` is this very program,
//! told that it was called there.

use std::{fs, path::PathBuf, process::Command};

use super::{Failure, Outcome, Suite};
use crate::{
    checkout::Checkout,
    clear::clear,
    error::{Error, Result},
    files,
};

/// A checkout that a test made.
pub(super) struct Another {
    /// What names its lab.
    pub(super) checkout: Checkout,
    /// Its copy of this program.
    pub(super) program: PathBuf,
}

impl Another {
    /// The file of this program may have been built anew since it started; what runs is copied.
    fn new(suite: &Suite, name: &str) -> Result<Self> {
        let folder = suite.cluster.checkout().made_by_tests().join(name);
        let manifest = folder.join("lab/Cargo.toml");
        files::make_folder(&folder.join("lab"))?;
        fs::write(&manifest, "").map_err(Error::file("write", &manifest))?;
        let checkout = Checkout::at(&folder)?;
        // A test that was killed may have left a lab that runs the copy.
        clear(&checkout)?;
        let program = folder.join("program");
        fs::copy("/proc/self/exe", &program).map_err(Error::file("copy this program to", &program))?;
        Ok(Self { checkout, program })
    }

    /// The variable that tells the program where it was called.
    pub(super) fn called_there(&self) -> (&'static str, PathBuf) {
        ("CARGO_MANIFEST_DIR", self.checkout.root().join("lab"))
    }

    /// `cargo lab` of this checkout.
    pub(super) fn lab(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.envs([self.called_there()]).args(arguments);
        command
    }
}

/// Gives a test another checkout, and takes its lab down whatever the test did.
pub(super) fn with_another(suite: &Suite, name: &str, work: impl FnOnce(&Another) -> Outcome) -> Outcome {
    let another = Another::new(suite, name)?;
    let outcome = work(&another);
    let root = another.checkout.root();
    let cleared = clear(&another.checkout)
        .and_then(|()| fs::remove_dir_all(root).map_err(Error::file("remove", root)))
        .map_err(Failure::from);
    outcome.and(cleared)
}
