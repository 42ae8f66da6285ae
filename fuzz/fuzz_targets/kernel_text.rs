//! The readers of the kernel's text files. Each gets every input: they are small, and none may mind another's file.

#![no_main]

use std::path::Path;

use fuzz::{
    facts, names, nat, procfs, sentinel,
    text::{self, Table},
};
use libfuzzer_sys::fuzz_target;
use tcp_close::{kernel::KernelVersion, sockets::Sockstat};

fuzz_target!(|text: &str| {
    let _ = KernelVersion::parse(text);
    let _ = facts::memory_bytes(text);
    let _ = facts::tcp_mem_bytes(text);
    let _ = facts::local_ports(text);
    let _ = facts::connections(text);
    let _ = nat::passive_rejects(text);
    let _ = text.lines().find_map(nat::translated);
    let _ = procfs::start_time(text);
    let _ = Sockstat::parse(text);
    let _ = text::in_sockstat(text, "TCP6", "inuse");
    let _ = names::container_id(text);
    let _ = text.lines().find_map(names::of_log);
    table(text);
    let mount = sentinel::mount_of(Path::new("/mnt/sys/net"), text);
    fuzz::planted(mount.is_some_and(|(root, _)| fuzz::is_magic(&root)));
});

/// However it is cut, a table says the same.
fn table(text: &str) {
    let sockets = |piece: usize| {
        let mut sockets = Vec::new();
        let mut each = |line: &text::Line<'_>| sockets.push((line.closing(), line.local(), line.remote()));
        let mut table = Table::default();
        let mut pieces = text.as_bytes().chunks(piece);
        let read = pieces.try_for_each(|piece| table.read(piece, &mut each)).and_then(|()| table.end());
        (read, sockets)
    };
    assert_eq!(sockets(7), sockets(4096));
}
