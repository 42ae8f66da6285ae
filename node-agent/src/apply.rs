//! Apply: carries out a transaction of writes as a whole or not at all.
//!
//! Open everything for writing, save the intent, read again, write, read back, save what is confirmed. A crash between
//! any two steps leaves each key at its baseline or at a value that the journal knows to be ours.

use tcp_close::Sysctl;
use tcp_close::order::Record;
use tcp_close::plan::{Cause, Write};

use crate::journal::Journal;
use crate::procfs::{Procfs, Writable};

/// How often the intent is saved anew because a value moved between planning and writing.
const ATTEMPTS: usize = 3;

/// A transaction failed, and what had been written of it was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The key that could not be written.
    pub sysctl: Sysctl,
    /// Why.
    pub message: String,
}

/// Carries out a transaction. The journal and the kernel agree when this returns, whatever it returns. `tell` is told of each
/// write that the kernel took, also of one that puts a value back.
///
/// # Errors
/// The first failure; what had been written before it holds its old value again.
pub fn apply(
    procfs: &Procfs,
    journal: &mut Journal,
    writes: &[Write],
    tell: &dyn Fn(&Write),
) -> Result<(), Failure> {
    let files = open_all(procfs, writes)?;
    let writes = save_intent(procfs, journal, writes)?;
    write_all(procfs, &files, &writes, tell)?;
    confirm(journal, &writes);
    Ok(())
}

/// Opening shows what will fail (a read-only mount, a missing file, no permission) while nothing has changed.
fn open_all(procfs: &Procfs, writes: &[Write]) -> Result<Vec<Writable>, Failure> {
    let open =
        |write: &Write| procfs.open_for_writing(write.sysctl).map_err(|error| failure(write.sysctl, &error));
    writes.iter().map(open).collect()
}

/// Saves baselines and intended values, and reads again: where a value moved meanwhile, it is saved anew, so that
/// what another program has just written is the baseline and not lost.
fn save_intent(procfs: &Procfs, journal: &mut Journal, writes: &[Write]) -> Result<Vec<Write>, Failure> {
    let mut writes = writes.to_vec();
    let fresh: Vec<bool> = writes.iter().map(|write| is_fresh(journal, write.sysctl)).collect();
    for _ in 0..ATTEMPTS {
        let save = journal.update(|records| {
            for (write, fresh) in writes.iter().zip(&fresh) {
                let record = records.entry(write.sysctl).or_insert(Record::abandoned(write.from));
                if *fresh {
                    record.baseline = write.from;
                }
                // A crash may have left in force what nobody has confirmed.
                if record.intended == Some(write.from) {
                    record.confirmed = record.intended;
                }
                record.intended = Some(write.to);
            }
        });
        save.map_err(|error| failure(writes[0].sysctl, &error))?;
        if !reread(procfs, &mut writes)? {
            return Ok(writes);
        }
    }
    Err(failure(writes[0].sysctl, &"its value changes faster than it can be saved"))
}

/// Whether the journal has no baseline for a key that still holds.
fn is_fresh(journal: &Journal, sysctl: Sysctl) -> bool {
    journal.records().get(&sysctl).is_none_or(Record::is_abandoned)
}

/// Reads every value again; whether one moved.
fn reread(procfs: &Procfs, writes: &mut [Write]) -> Result<bool, Failure> {
    let mut moved = false;
    for write in writes {
        let live = procfs.read_value(write.sysctl).map_err(|error| failure(write.sysctl, &error))?;
        moved |= live != write.from;
        write.from = live;
    }
    Ok(moved)
}

fn write_all(
    procfs: &Procfs,
    files: &[Writable],
    writes: &[Write],
    tell: &dyn Fn(&Write),
) -> Result<(), Failure> {
    for (done, write) in writes.iter().enumerate() {
        if let Err(failure) = write_one(procfs, &files[done], write, tell) {
            put_back(procfs, &files[..=done], &writes[..=done], tell);
            return Err(failure);
        }
    }
    Ok(())
}

fn write_one(procfs: &Procfs, file: &Writable, write: &Write, tell: &dyn Fn(&Write)) -> Result<(), Failure> {
    file.write(write.to).map_err(|error| failure(write.sysctl, &error))?;
    tell(write);
    let live = procfs.read_value(write.sysctl).map_err(|error| failure(write.sysctl, &error))?;
    if live == write.to {
        return Ok(());
    }
    Err(failure(write.sysctl, &format!("{} was written, and the kernel holds {live}", write.to)))
}

/// In reverse, each only where the kernel still holds our value.
fn put_back(procfs: &Procfs, files: &[Writable], writes: &[Write], tell: &dyn Fn(&Write)) {
    for (file, write) in files.iter().zip(writes).rev() {
        if procfs.read_value(write.sysctl).is_ok_and(|live| live == write.to) {
            match file.write(write.from) {
                Ok(()) => tell(&Write { from: write.to, to: write.from, cause: Cause::PutBack, ..*write }),
                Err(error) => {
                    tracing::error!(%error, "a value of a failed transaction could not be put back");
                }
            }
        }
    }
}

/// What was restored is no longer ours; what was set is confirmed. A failure loses nothing: the intended value is on
/// disk, and the next turn confirms it.
fn confirm(journal: &mut Journal, writes: &[Write]) {
    let save = journal.update(|records| {
        for write in writes {
            match write.cause {
                Cause::Restored => drop(records.remove(&write.sysctl)),
                Cause::Ordered | Cause::Drifted | Cause::PutBack => {
                    if let Some(record) = records.get_mut(&write.sysctl) {
                        record.confirmed = Some(write.to);
                        record.intended = None;
                    }
                }
            }
        }
    });
    if let Err(error) = save {
        tracing::error!(%error, "written values are not confirmed in the journal yet");
    }
}

fn failure(sysctl: Sysctl, message: &dyn std::fmt::Display) -> Failure {
    Failure { sysctl, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tcp_close::order::{Reading, Records};

    use super::*;
    use crate::procfs::tests::tree;

    fn set(sysctl: Sysctl, from: i64, to: i64) -> Write {
        Write { sysctl, from, to, cause: Cause::Ordered }
    }

    fn journal(dir: &tempfile::TempDir) -> Journal {
        Journal::open(&dir.path().join("state"), "life").unwrap()
    }

    fn live(procfs: &Procfs, sysctl: Sysctl) -> Option<i64> {
        match procfs.read_sysctl(sysctl) {
            Reading::Value(value) => Some(value),
            Reading::Absent | Reading::Unreadable(_) => None,
        }
    }

    #[test]
    fn a_transaction_is_written_and_confirmed() {
        let (dir, procfs) = tree(&[(Sysctl::FinTimeout, "60\n")]);
        let mut journal = journal(&dir);
        apply(&procfs, &mut journal, &[set(Sysctl::FinTimeout, 60, 30)], &|_| ()).unwrap();
        assert_eq!(live(&procfs, Sysctl::FinTimeout), Some(30));
        let record = Record { baseline: 60, confirmed: Some(30), intended: None };
        assert_eq!(journal.records(), &Records::from([(Sysctl::FinTimeout, record)]));
    }

    #[test]
    fn the_first_baseline_survives_the_second_order() {
        let (dir, procfs) = tree(&[(Sysctl::FinTimeout, "60\n")]);
        let mut journal = journal(&dir);
        apply(&procfs, &mut journal, &[set(Sysctl::FinTimeout, 60, 30)], &|_| ()).unwrap();
        apply(&procfs, &mut journal, &[set(Sysctl::FinTimeout, 30, 20)], &|_| ()).unwrap();
        assert_eq!(journal.records()[&Sysctl::FinTimeout].baseline, 60);
    }

    #[test]
    fn a_value_that_moved_after_the_plan_is_the_baseline() {
        let (dir, procfs) = tree(&[(Sysctl::FinTimeout, "45\n")]);
        let mut journal = journal(&dir);
        apply(&procfs, &mut journal, &[set(Sysctl::FinTimeout, 60, 30)], &|_| ()).unwrap();
        assert_eq!(journal.records()[&Sysctl::FinTimeout].baseline, 45);
    }

    #[test]
    fn nothing_is_written_where_one_file_cannot_be_opened() {
        let (dir, procfs) = tree(&[(Sysctl::FinTimeout, "60\n")]);
        let mut journal = journal(&dir);
        let writes = [set(Sysctl::FinTimeout, 60, 30), set(Sysctl::TwReuse, 2, 1)];
        let failure = apply(&procfs, &mut journal, &writes, &|_| ()).unwrap_err();
        assert_eq!(failure.sysctl, Sysctl::TwReuse);
        assert_eq!(live(&procfs, Sysctl::FinTimeout), Some(60));
        assert!(journal.records().is_empty());
    }

    #[test]
    fn nothing_is_written_where_the_journal_cannot_be_saved() {
        let (dir, procfs) = tree(&[(Sysctl::FinTimeout, "60\n")]);
        let mut journal = journal(&dir);
        fs::create_dir(dir.path().join("state/journal.new")).unwrap();
        let failure = apply(&procfs, &mut journal, &[set(Sysctl::FinTimeout, 60, 30)], &|_| ()).unwrap_err();
        assert!(failure.message.contains("the journal cannot be saved"), "{}", failure.message);
        assert_eq!(live(&procfs, Sysctl::FinTimeout), Some(60));
    }

    #[test]
    fn a_write_that_fails_takes_back_the_earlier_ones() {
        let (dir, procfs) = tree(&[(Sysctl::FinTimeout, "60\n")]);
        // A device that takes no byte stands for a kernel that refuses a value; it can be opened for writing.
        std::os::unix::fs::symlink("/dev/full", dir.path().join("sys/net/ipv4/tcp_tw_reuse")).unwrap();
        let files =
            open_all(&procfs, &[set(Sysctl::FinTimeout, 60, 30), set(Sysctl::TwReuse, 2, 1)]).unwrap();
        let writes = [set(Sysctl::FinTimeout, 60, 30), set(Sysctl::TwReuse, 2, 1)];
        let failure = write_all(&procfs, &files, &writes, &|_| ()).unwrap_err();
        assert_eq!(failure.sysctl, Sysctl::TwReuse);
        assert_eq!(live(&procfs, Sysctl::FinTimeout), Some(60));
    }

    #[test]
    fn a_restore_forgets_the_record() {
        let (dir, procfs) = tree(&[(Sysctl::FinTimeout, "60\n")]);
        let mut journal = journal(&dir);
        apply(&procfs, &mut journal, &[set(Sysctl::FinTimeout, 60, 30)], &|_| ()).unwrap();
        let restore = Write { cause: Cause::Restored, ..set(Sysctl::FinTimeout, 30, 60) };
        apply(&procfs, &mut journal, &[restore], &|_| ()).unwrap();
        assert_eq!(live(&procfs, Sysctl::FinTimeout), Some(60));
        assert!(journal.records().is_empty());
    }
}
