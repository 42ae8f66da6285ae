//! Which life of the network namespace this is.
//!
//! A baseline belongs to one life: after a reboot, or when a node that is a container is started anew, the kernel has its
//! defaults again, and what was noted before says nothing. The boot id alone does not notice the second case, and inode
//! numbers are reused; the namespace's cookie is not, within a boot.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::procfs::{Error, Procfs};

/// One life of the agent's own network namespace, as text that is equal for equal lives: boot id, then what names the
/// namespace within it.
///
/// # Errors
/// Where the kernel's files cannot be read.
pub fn life(procfs: &Procfs) -> Result<String, Error> {
    let boot_id = procfs.boot_id()?;
    Ok(match namespace_cookie() {
        Some(cookie) => format!("{boot_id}/cookie-{cookie}"),
        None => format!("{boot_id}/started-{}", procfs.namespace_without_cookie()?),
    })
}

/// `SO_NETNS_COOKIE` of this process's network namespace; `None` before Linux 5.14.
fn namespace_cookie() -> Option<u64> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    let mut cookie: u64 = 0;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`, and both outlive the call. rustix has no
    // such option.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_has_one_name() {
        let procfs = Procfs::new("/proc", None);
        assert_eq!(life(&procfs).unwrap(), life(&procfs).unwrap());
    }

    #[test]
    fn another_boot_is_another_life() {
        let (_dir, procfs) = crate::procfs::tests::tree(&[]);
        assert_ne!(life(&procfs).unwrap(), life(&Procfs::new("/proc", None)).unwrap());
    }
}
