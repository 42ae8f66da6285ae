//! What the targets share, and the node agent's modules that read. They are compiled here as they are, without the rest of
//! the agent: its client of the API server would make most of the build.

#[path = "../../node-agent/src/earlier.rs"]
mod earlier;
#[path = "../../node-agent/src/facts.rs"]
pub mod facts;
#[path = "../../node-agent/src/journal.rs"]
pub mod journal;
#[path = "../../node-agent/src/sample/names.rs"]
pub mod names;
#[path = "../../node-agent/src/nat.rs"]
pub mod nat;
#[path = "../../node-agent/src/procfs.rs"]
pub mod procfs;
#[path = "../../node-agent/src/sentinel.rs"]
pub mod sentinel;
#[path = "../../node-agent/src/sock_diag.rs"]
pub mod sock_diag;
#[path = "../../node-agent/src/sample/text.rs"]
pub mod text;

/// With feature `planted`, a bug that shows only where a parser has accepted an input and found this in it.
pub fn planted(found: bool) {
    assert!(!(cfg!(feature = "planted") && found), "the planted bug is found");
}

/// Whether a text has what no capture has: the same small letter three times in a row.
pub fn is_magic(text: &str) -> bool {
    text.as_bytes().windows(3).any(|three| three[0].is_ascii_lowercase() && three == [three[0]; 3])
}
