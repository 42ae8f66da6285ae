//! Earlier: the values that were in force here by our orders, in this life of the namespace.
//!
//! Only a return to one of them is spared what rules say of a value that is new to a node. They have a file of their own,
//! because an earlier version refuses a journal with more in it. Where it is lost, a return is judged like any order. It is
//! replaced as a whole, so that a kill leaves the old one or the new one, and it is not synced: a loss of power ends the life.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tcp_close::Sysctl;

const FILE: &str = "earlier";
const NEW_FILE: &str = "earlier.new";
/// As many are kept of each key, the latest ones.
const VALUES_MAX: usize = 16;

/// What its file says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Earlier {
    life: String,
    sysctls: BTreeMap<String, Vec<i64>>,
}

impl Earlier {
    /// Those of this life that a folder has.
    pub(crate) fn read(dir: &Path, life: &str) -> Self {
        let path = dir.join(FILE);
        let saved = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Self>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        };
        let saved = saved.inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "values of earlier orders are not known; a return is judged anew");
        });
        let of_this_life = saved.ok().filter(|saved| saved.life == life);
        of_this_life.unwrap_or_else(|| Self { life: life.into(), sysctls: BTreeMap::new() })
    }

    /// Whether this value was in force.
    pub(crate) fn has(&self, sysctl: Sysctl, value: i64) -> bool {
        self.sysctls.get(sysctl.name()).is_some_and(|values| values.contains(&value))
    }

    /// Remembers a value; whether that is news.
    pub(crate) fn note(&mut self, sysctl: Sysctl, value: i64) -> bool {
        let values = self.sysctls.entry(sysctl.name().into()).or_default();
        if values.last() == Some(&value) {
            return false;
        }
        values.retain(|known| *known != value);
        values.push(value);
        let too_many = values.len().saturating_sub(VALUES_MAX);
        values.drain(..too_many);
        true
    }

    /// Saves them.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        let path = dir.join(NEW_FILE);
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        fs::rename(&path, dir.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Sysctl = Sysctl::FinTimeout;

    fn saved(dir: &Path, values: impl IntoIterator<Item = i64>) {
        let mut earlier = Earlier::read(dir, "life");
        for value in values {
            earlier.note(KEY, value);
        }
        earlier.save(dir).unwrap();
    }

    #[test]
    fn the_latest_values_of_a_life_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        saved(dir.path(), 1..=20);
        let earlier = Earlier::read(dir.path(), "life");
        assert_eq!([4, 5, 20].map(|value| earlier.has(KEY, value)), [false, true, true]);
        assert!(!earlier.has(Sysctl::OrphanRetries, 20));
        assert!(!Earlier::read(dir.path(), "another").has(KEY, 20), "another life");
    }

    #[test]
    fn a_value_that_comes_again_and_again_drives_no_other_out() {
        let dir = tempfile::tempdir().unwrap();
        saved(dir.path(), [30].into_iter().chain((0..50).map(|edit| 31 + edit % 2)));
        assert!(Earlier::read(dir.path(), "life").has(KEY, 30));
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{ half").unwrap();
        assert!(!Earlier::read(dir.path(), "life").has(KEY, 30));
        saved(dir.path(), [30]);
        assert!(Earlier::read(dir.path(), "life").has(KEY, 30));
    }
}
