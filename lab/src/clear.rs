//! Takes a lab down, its own or what a killed run left, and then looks whether anything is still there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{mount::UnmountFlags, process::Signal};

use crate::{
    cgroup,
    checkout::Checkout,
    error::{Error, Result},
    files,
    process::{Process, Records, marked, pids},
    report::{Seen, poll_until, say},
};

/// A namespace goes a moment after its last process.
const GONE_DEADLINE: Duration = Duration::from_secs(20);

/// Ends everything of this checkout's lab and removes its folder. Says so only where there was something.
pub(crate) fn clear(checkout: &Checkout) -> Result<()> {
    // A test that was killed may have left another checkout's lab, of which nobody else knows.
    let others = checkout.made_by_tests();
    for name in files::list(&others)? {
        clear(&Checkout::at(&others.join(name))?)?;
    }
    let records = Records::new(checkout.state().join("processes"));
    let running = processes(checkout, &records)?;
    let folder = checkout.state();
    if running.is_empty() && !folder.exists() {
        return Ok(());
    }
    if !running.is_empty() {
        say(format!("takes down a lab: {} processes and what they hold", running.len()));
    }
    let namespaces = namespaces(&running);
    end(&running)?;
    let gone = || Ok(Seen::when(left_in(&namespaces).is_empty(), || left_in(&namespaces).join(", ")));
    poll_until("the lab's namespaces are empty", GONE_DEADLINE, gone)?;
    unmount_below(&folder)?;
    cgroup::remove(&containers(&folder)?)?;
    remove_folder(&folder)?;
    verify(checkout)
}

/// `cargo lab down`.
pub fn down() -> Result<()> {
    let checkout = Checkout::current()?;
    let _lock = checkout.lock()?;
    clear(&checkout)?;
    verify(&checkout)?;
    say("down: nothing is left");
    Ok(())
}

/// An error that lists what is left of this checkout's lab.
fn verify(checkout: &Checkout) -> Result<()> {
    let list = leftovers(checkout)?;
    if list.is_empty() { Ok(()) } else { Err(Error::LeftBehind { list }) }
}

/// Everything that there is of this checkout's lab on the machine, one line each.
pub(crate) fn leftovers(checkout: &Checkout) -> Result<Vec<String>> {
    let mut list: Vec<_> =
        marked(checkout.name())?.iter().map(|process| format!("process {}", process.pid)).collect();
    list.extend(mounts_below(&checkout.state())?.iter().map(|path| format!("mount {}", path.display())));
    let cgroups = cgroup::existing(&containers(&checkout.state())?);
    list.extend(cgroups.iter().map(|path| format!("cgroup {}", path.display())));
    if checkout.state().exists() {
        list.push(format!("folder {}", checkout.state().display()));
    }
    Ok(list)
}

/// The containers of all nodes that this lab ever had: a killed run may have had more than this one will.
fn containers(state: &Path) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for node in files::list(&state.join("nodes"))? {
        all.append(&mut cgroup::containers(&state.join("nodes").join(node).join("run"))?);
    }
    Ok(all)
}

/// What was recorded, and what was started but not recorded any more.
fn processes(checkout: &Checkout, records: &Records) -> Result<Vec<Process>> {
    let mut all: Vec<_> = records.all()?.into_iter().map(|(_, process)| process).collect();
    all.extend(marked(checkout.name())?);
    all.retain(Process::is_alive);
    all.sort_by_key(|process| process.pid);
    all.dedup();
    Ok(all)
}

/// All get their signal before any is waited for: the order does not matter, nothing is kept.
fn end(processes: &[Process]) -> Result<()> {
    for process in processes {
        process.signal(Signal::KILL)?;
    }
    processes.iter().try_for_each(Process::kill)
}

/// The network namespaces of these processes and of their children, without the machine's own.
fn namespaces(processes: &[Process]) -> BTreeSet<PathBuf> {
    let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let children = processes.iter().filter_map(Process::first_child);
    let mut all: BTreeSet<_> =
        processes.iter().copied().chain(children).filter_map(|each| of(each.pid)).collect();
    if let Some(machine) = of(std::process::id()) {
        all.remove(&machine);
    }
    all
}

fn left_in(namespaces: &BTreeSet<PathBuf>) -> Vec<String> {
    let pids = pids().unwrap_or_default().into_iter();
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|own| namespaces.contains(&own)))
        .filter_map(Process::of_pid)
        .filter(Process::is_alive)
        .map(|process| format!("process {}", process.pid))
        .collect()
}

/// Mounts of the machine's own mount namespace below a folder, the innermost first. The lab makes none there; a file
/// in a folder that is a mount must still never be removed.
fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let text = files::read(Path::new("/proc/self/mountinfo"))?;
    Ok(mount_points_below(&text, folder))
}

fn mount_points_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    below
}

fn unmount_below(folder: &Path) -> Result<()> {
    for point in mounts_below(folder)? {
        rustix::mount::unmount(&point, UnmountFlags::DETACH)
            .map_err(Error::system(format!("unmount {}", point.display())))?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(Error::file("remove", folder))?;
    }
    // The folder above is shared with the labs of other checkouts and stays while there are any.
    if let Some(shared) = folder.parent() {
        let _ = fs::remove_dir(shared);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folder_are_found_and_inner_ones_first() {
        let mountinfo = "21 1 254:0 / / rw - ext4 /dev/vda rw\n\
                         22 21 0:5 / /lab/a rw - tmpfs tmpfs rw\n\
                         23 22 0:6 / /lab/a/b rw - tmpfs tmpfs rw\n\
                         24 21 0:7 / /labour rw - tmpfs tmpfs rw\n";
        let found = mount_points_below(mountinfo, Path::new("/lab"));
        assert_eq!(found, [PathBuf::from("/lab/a/b"), PathBuf::from("/lab/a")]);
    }
}
