//! The file that a person names: read in bounded memory, and read again when it has changed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crds::TcpCloseTuning;
use crds::manifest::{self, Located, MAX_BYTES, Manifest, Position, Problem};
use tcp_close::{Sysctl, rule};

use super::Error;
use super::merge::{field, merge};
use crate::order::Order;

/// Where a manifest comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// A file, or `-` for stdin.
    pub path: PathBuf,
    /// Ids of cautions that are accepted beside those in the file.
    pub acknowledged: Vec<String>,
}

/// What tells a file from what it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// What a file orders, and where it says so.
#[derive(Debug)]
pub(super) struct Desired {
    pub(super) order: Order,
    /// What a person should know once.
    pub(super) notes: Vec<String>,
    tunings: Vec<Located<TcpCloseTuning>>,
}

impl Source {
    fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    /// Reads and merges it.
    pub(super) fn load(&self) -> Result<Desired, Error> {
        let name = self.to_string();
        let bytes = self.bytes().map_err(|source| Error::Read { name: name.clone(), source })?;
        let invalid = |message: &str| {
            let (object, field, at) = (None, String::new(), Position { line: 1, column: 1 });
            Error::Invalid(vec![Problem { source: name.clone(), object, field, at, message: message.into() }])
        };
        let text = String::from_utf8(bytes).map_err(|_| invalid("is not text in UTF-8"))?;
        let manifest = manifest::read(&name, &text).map_err(Error::Invalid)?;
        if manifest.tunings.is_empty() {
            return Err(invalid("holds no TcpCloseTuning"));
        }
        self.desired(manifest).map_err(Error::Invalid)
    }

    /// Reads it again where it is not what it was. One that cannot be used is told of and not taken.
    pub(super) fn load_changed(&self, stamp: &mut Option<Stamp>) -> Option<Desired> {
        let seen = self.stamp();
        if seen == *stamp {
            return None;
        }
        *stamp = seen;
        match self.load() {
            Ok(desired) => {
                tracing::info!(file = %self, "took an order");
                Some(desired)
            }
            Err(why) => {
                tracing::warn!(%why, "the last good order stays");
                None
            }
        }
    }

    fn desired(&self, Manifest { tunings, skipped }: Manifest) -> Result<Desired, Vec<Problem>> {
        let merged = merge(&tunings, &self.acknowledged)?;
        let skipped = skipped.iter().map(|other| format!("{self}:{}: {other}: skipped", other.at.line));
        let overridden = merged.overridden.iter().map(ToString::to_string);
        let observing = merged
            .observe
            .iter()
            .map(|it| format!("{} only observes: nothing is written for it", it.tuning.name));
        let notes =
            skipped.chain(overridden).chain(observing).chain([NOT_USED.into()]).chain(said_of_every_order());
        Ok(Desired {
            notes: notes.collect(),
            order: Order::of_person(merged.entries, merged.observe),
            tunings,
        })
    }

    /// One byte more than is allowed at most, so that the reader of manifests sees that it is too long.
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        if self.is_stdin() {
            io::stdin().take(most).read_to_end(&mut bytes)?;
        } else {
            File::open(&self.path)?.take(most).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// What the file is now; `None` where there is none, and for stdin, which is read once.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let found = self.path.metadata().ok().filter(|_| !self.is_stdin())?;
        let (inode, bytes) = (found.ino(), found.size());
        Some(Stamp { inode, bytes, modified: (found.mtime(), found.mtime_nsec()) })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_stdin() { f.write_str("stdin") } else { write!(f, "{}", self.path.display()) }
    }
}

const NOT_USED: &str = "nodeSelector, rollout, maxFailedNodes and removalPolicy are not used without a cluster: the file is for this host";

fn said_of_every_order() -> impl Iterator<Item = String> {
    rule::said_of_every_order(None).map(|remark| format!("{} ({})", remark.message, remark.rule))
}

impl Desired {
    /// `web.yaml:12:5`, where a tuning says what a sysctl is to be.
    pub(super) fn place(&self, sysctl: &str, tuning: &str) -> Option<String> {
        let sysctl = Sysctl::from_name(sysctl)?;
        let named = |known: &&Located<TcpCloseTuning>| known.object.metadata.name.as_deref() == Some(tuning);
        let Problem { source, at, .. } =
            self.tunings.iter().find(named)?.problem(&field(sysctl), String::new());
        Some(format!("{source}:{}:{}", at.line, at.column))
    }
}
