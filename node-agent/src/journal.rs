//! The journal: what the kernel held before we came, and what we have written since, kept on the node.
//!
//! It is write-ahead: a baseline and the value to come are on disk before the kernel is touched, so that a crash at any
//! point leaves no value whose owner is unknown. It belongs to one life of the network namespace; one of another life is
//! history. One agent at a time holds its lock. A journal that is damaged, or of a version that we do not know, is
//! refused: without a saved baseline nothing is written to the kernel.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crds::TcpCloseNode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tcp_close::Sysctl;
use tcp_close::order::{Record, Records};

use crate::earlier::Earlier;

const MAGIC: &str = "tcp-close-tuning journal";
const VERSION: u32 = 1;
const FILE: &str = "journal";
const NEW_FILE: &str = "journal.new";
const LOCK_FILE: &str = "lock";

/// The journal cannot be used, so nothing will be written to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent has it.
    #[error("{0}: another agent on this node holds the journal; this one only observes")]
    Locked(PathBuf),
    /// It is not what was saved.
    #[error(
        "{path}: the journal is damaged ({why}), so nothing is written to the kernel. What the kernel held before is in \
             this node's TcpCloseNode status, and is taken from there once the file is moved away"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer or older agent wrote it.
    #[error(
        "{path}: the journal has version {version}, and this agent reads {VERSION}; nothing is written to the kernel"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// The file system refused.
    #[error("{path}: the journal cannot be {act}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// The last order that was accepted, so that an older one can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderMark {
    /// The uid of the object.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

impl OrderMark {
    /// That of an order as an API server shows it.
    pub fn of(object: &TcpCloseNode) -> Self {
        Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
        }
    }
}

/// What a journal's file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contents {
    life: String,
    /// The last order that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderMark>,
    sysctls: BTreeMap<String, SavedRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SavedRecord {
    baseline: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    intended: Option<i64>,
}

/// An open journal, locked while it lives.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    _lock: File,
    life: String,
    order: Option<OrderMark>,
    records: Records,
    earlier: Earlier,
    on_disk: bool,
    /// Whether an order was accepted since the last save.
    unsaved: bool,
}

/// What the journal of this life in a folder holds; nothing where there is none. It is only read: no folder is made and no
/// lock is taken.
///
/// # Errors
/// Where there is one that cannot be read.
pub fn saved(dir: &Path, life: &str) -> Result<Records, Error> {
    let path = dir.join(FILE);
    let contents = read(&path)?.filter(|contents| contents.life == life);
    contents.map_or(Ok(Records::new()), |contents| decode(&path, &contents))
}

impl Journal {
    /// Opens the journal of this life in a folder, which is made where it is not there. One of another life is taken for
    /// empty.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(dir: &Path, life: &str) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|source| io_error(dir, "made", source))?;
        let lock = lock(&dir.join(LOCK_FILE))?;
        let contents = read(&dir.join(FILE))?.filter(|contents| contents.life == life);
        let mut journal = Self {
            dir: dir.into(),
            _lock: lock,
            life: life.into(),
            order: None,
            records: Records::new(),
            earlier: Earlier::read(dir, life),
            on_disk: contents.is_some(),
            unsaved: false,
        };
        if let Some(contents) = contents {
            journal.records = decode(&dir.join(FILE), &contents)?;
            journal.order = contents.order;
        }
        Ok(journal)
    }

    /// Whether there is a journal of this life on the disk: it was there when it was opened, or has been saved since.
    pub fn is_on_disk(&self) -> bool {
        self.on_disk
    }

    /// What is known of each key.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Whether an order of ours had this value in force in this life, as far as this node's own records say.
    pub fn was_in_force(&self, sysctl: Sysctl, value: i64) -> bool {
        let confirmed = self.records.get(&sysctl).and_then(|record| record.confirmed);
        confirmed == Some(value) || self.earlier.has(sysctl, value)
    }

    /// Whether an order is at least as new as the last one that was accepted.
    pub fn accepts(&self, order: &OrderMark) -> bool {
        self.order.as_ref().is_none_or(|last| last.uid != order.uid || last.generation <= order.generation)
    }

    /// Whether an order is of another object than the last one that was accepted: a generation says nothing then.
    pub fn is_of_another_object(&self, order: &OrderMark) -> bool {
        self.order.as_ref().is_some_and(|last| last.uid != order.uid)
    }

    /// Changes the records and saves them, with the order that was accepted; they are on disk when this returns. Saves
    /// nothing where nothing changes.
    ///
    /// # Errors
    /// Where it cannot be saved: then nothing has changed.
    pub fn update(&mut self, change: impl FnOnce(&mut Records)) -> Result<(), Error> {
        let mut records = self.records.clone();
        change(&mut records);
        if records != self.records || self.unsaved {
            self.note_earlier(&records);
            self.save(&records, self.order.as_ref())?;
            self.records = records;
            self.on_disk = true;
            self.unsaved = false;
        }
        Ok(())
    }

    /// Notes that an order was accepted. It is saved with the next update, which comes before the first write to the
    /// kernel: an order that a crash makes forgotten has done nothing, and each save costs two fsyncs.
    pub fn note_order(&mut self, order: &OrderMark) {
        if self.order.as_ref() != Some(order) {
            self.order = Some(order.clone());
            self.unsaved = true;
        }
    }

    /// Remembers the values that were in force and are no longer recorded as such.
    fn note_earlier(&mut self, records: &Records) {
        let mut news = false;
        for (sysctl, before) in &self.records {
            let confirmed = records.get(sysctl).and_then(|record| record.confirmed);
            if let Some(value) = before.confirmed.filter(|value| confirmed != Some(*value)) {
                news |= self.earlier.note(*sysctl, value);
            }
        }
        if news && let Err(error) = self.earlier.save(&self.dir) {
            tracing::warn!(%error, "values of earlier orders are not saved; after a restart a return is judged anew");
        }
    }

    /// Writes a new file, and puts it in the old one's place when it is on disk.
    fn save(&self, records: &Records, order: Option<&OrderMark>) -> Result<(), Error> {
        let contents = encode(&self.life, order, records);
        let path = self.dir.join(NEW_FILE);
        write_synced(&path, &contents).map_err(|source| io_error(&path, "saved", source))?;
        let replace = || {
            fs::rename(&path, self.dir.join(FILE))?;
            File::open(&self.dir)?.sync_all()
        };
        replace().map_err(|source| io_error(&self.dir, "saved", source))
    }
}

fn write_synced(path: &Path, contents: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

fn io_error(path: &Path, act: &'static str, source: io::Error) -> Error {
    Error::Io { path: path.into(), act, source }
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|source| io_error(path, "locked", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(path.into())),
        Err(TryLockError::Error(source)) => Err(io_error(path, "locked", source)),
    }
}

fn encode(life: &str, order: Option<&OrderMark>, records: &Records) -> String {
    let sysctls = records
        .iter()
        .map(|(sysctl, record)| {
            let Record { baseline, confirmed, intended } = *record;
            (sysctl.name().to_string(), SavedRecord { baseline, confirmed, intended })
        })
        .collect();
    let contents = Contents { life: life.into(), order: order.cloned(), sysctls };
    // A struct of strings and numbers always has a JSON form.
    let body = serde_json::to_string_pretty(&contents).unwrap_or_default() + "\n";
    sealed(&body)
}

/// A journal's text: a first line that says what it is and what the rest must hash to, then the rest, which is JSON.
pub fn sealed(body: &str) -> String {
    format!("{MAGIC} {VERSION} sha256:{}\n{body}", checksum(body))
}

fn read(path: &Path) -> Result<Option<Contents>, Error> {
    match fs::read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, "read", source)),
    }
}

/// Reads what a journal's file holds; the path is for the error.
///
/// # Errors
/// Where it is damaged, or of another version.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Contents, Error> {
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(damaged(path, "it is not text"));
    };
    let Some((header, body)) = text.split_once('\n') else {
        return Err(damaged(path, "its first line is incomplete"));
    };
    let Some(rest) = header.strip_prefix(MAGIC) else {
        return Err(damaged(path, "its first line is not a journal's"));
    };
    let (version, sum) = rest.trim_start().split_once(" sha256:").unwrap_or((rest.trim(), ""));
    if version != VERSION.to_string() {
        return Err(Error::Version { path: path.into(), version: version.chars().take(20).collect() });
    }
    if sum != checksum(body) {
        return Err(damaged(path, "its checksum is wrong"));
    }
    serde_json::from_str(body).map_err(|error| damaged(path, &error.to_string()))
}

/// What was saved of each key; the path is for the error.
///
/// # Errors
/// Where a key is not known.
pub fn decode(path: &Path, contents: &Contents) -> Result<Records, Error> {
    contents
        .sysctls
        .iter()
        .map(|(name, saved)| {
            let sysctl = Sysctl::from_name(name).ok_or_else(|| {
                damaged(path, &format!("it names {name:?}, which this agent does not know"))
            })?;
            let SavedRecord { baseline, confirmed, intended } = *saved;
            Ok((sysctl, Record { baseline, confirmed, intended }))
        })
        .collect()
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Damaged { path: path.into(), why: why.into() }
}

fn checksum(body: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(body.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod v0_1_0;

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: &str = "b007/cookie-941";

    fn written(dir: &Path) {
        let mut journal = Journal::open(dir, LIFE).unwrap();
        let record = Record { baseline: 60, confirmed: Some(30), intended: None };
        journal.note_order(&mark("u", 4));
        journal.update(|records| records.extend([(Sysctl::FinTimeout, record)])).unwrap();
    }

    fn mark(uid: &str, generation: i64) -> OrderMark {
        OrderMark { uid: uid.into(), generation }
    }

    fn edited(edit: impl FnOnce(&str) -> Vec<u8>) -> Result<Journal, Error> {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        fs::write(dir.path().join(FILE), edit(&text)).unwrap();
        Journal::open(dir.path(), LIFE)
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let journal = Journal::open(dir.path(), LIFE).unwrap();
        assert!(journal.is_on_disk());
        let record = Record { baseline: 60, confirmed: Some(30), intended: None };
        assert_eq!(journal.records(), &Records::from([(Sysctl::FinTimeout, record)]));
        assert!(!journal.accepts(&mark("u", 3)), "an older order");
        assert!(journal.accepts(&mark("u", 4)) && journal.accepts(&mark("another", 1)));
        assert!(
            journal.is_of_another_object(&mark("another", 1)) && !journal.is_of_another_object(&mark("u", 5))
        );
    }

    #[test]
    fn the_journal_of_v0_1_0_is_read_and_written_as_it_was() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/fixtures/v0.1.0/journal");
        let dir = tempfile::tempdir().unwrap();
        fs::copy(&kept, dir.path().join(FILE)).unwrap();
        let contents = read(&kept).unwrap().unwrap();
        let journal = Journal::open(dir.path(), &contents.life).unwrap();
        let record = Record { baseline: 60, confirmed: Some(30), intended: None };
        assert_eq!(journal.records()[&Sysctl::FinTimeout], record);
        // And the same state is written again as the same text.
        let again = encode(&contents.life, contents.order.as_ref(), journal.records());
        assert_eq!(again, fs::read_to_string(&kept).unwrap());
    }

    #[test]
    fn a_journal_of_another_life_is_history() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let journal = Journal::open(dir.path(), "b007/cookie-942").unwrap();
        assert!(!journal.is_on_disk() && journal.records().is_empty() && journal.accepts(&mark("u", 1)));
    }

    #[test]
    fn a_second_agent_does_not_get_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let first = Journal::open(dir.path(), LIFE).unwrap();
        assert!(matches!(Journal::open(dir.path(), LIFE), Err(Error::Locked(_))));
        drop(first);
        Journal::open(dir.path(), LIFE).unwrap();
    }

    #[test]
    fn a_journal_cut_at_any_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let whole = fs::read(dir.path().join(FILE)).unwrap();
        for length in 0..whole.len() {
            fs::write(dir.path().join(FILE), &whole[..length]).unwrap();
            let result = Journal::open(dir.path(), LIFE);
            assert!(
                matches!(result, Err(Error::Damaged { .. } | Error::Version { .. })),
                "{length}: {result:?}"
            );
        }
    }

    #[test]
    fn a_changed_digit_is_noticed() {
        let result = edited(|text| text.replace("60", "61").into_bytes());
        assert!(matches!(result, Err(Error::Damaged { .. })), "{result:?}");
    }

    #[test]
    fn garbage_is_refused() {
        let result = edited(|_| vec![0xff; 100]);
        assert!(matches!(result, Err(Error::Damaged { .. })), "{result:?}");
    }

    #[test]
    fn a_journal_of_the_next_version_is_refused_by_its_number() {
        let result = edited(|text| text.replace("journal 1 ", "journal 2 ").into_bytes());
        assert!(matches!(result, Err(Error::Version { version, .. }) if version == "2"));
    }

    #[test]
    fn a_save_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let mut journal = Journal::open(dir.path(), LIFE).unwrap();
        fs::create_dir(dir.path().join(NEW_FILE)).unwrap();
        let before = journal.records().clone();
        assert!(matches!(journal.update(Records::clear), Err(Error::Io { act: "saved", .. })));
        assert_eq!(journal.records(), &before);
    }

    #[test]
    fn an_order_is_saved_with_the_next_update_even_where_no_record_changes() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let mut journal = Journal::open(dir.path(), LIFE).unwrap();
        journal.note_order(&mark("u", 5));
        journal.update(|_| ()).unwrap();
        drop(journal);
        assert!(!Journal::open(dir.path(), LIFE).unwrap().accepts(&mark("u", 4)));
    }
}
