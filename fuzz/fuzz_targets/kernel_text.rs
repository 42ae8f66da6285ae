//! The readers of the kernel's text files. Each gets every input: they are small, and none may mind another's file.

#![no_main]

use std::path::Path;

use fuzz::{facts, nat, procfs, sentinel};
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
    let mount = sentinel::mount_of(Path::new("/mnt/sys/net"), text);
    fuzz::planted(mount.is_some_and(|(root, _)| fuzz::is_magic(&root)));
});
