//! The one system call for which there is no safe wrapper: a thread leaves its network namespace, or that of the host's name, for a new one.
#![allow(
    unsafe_code,
    reason = "rustix marks the call unsafe because of flags that are not used here"
)]

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread into a new, empty network namespace.
pub(super) fn network() -> rustix::io::Result<()> {
    // SAFETY: the danger of `unshare` is CLONE_FILES, after which file descriptors mean different things in different
    // threads. CLONE_NEWNET leaves descriptors, memory and working directory shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// Moves the calling thread into a namespace of host names of its own.
pub(super) fn host_name() -> rustix::io::Result<()> {
    // SAFETY: as above; CLONE_NEWUTS changes nothing but the name that `uname` tells.
    unsafe { unshare_unsafe(UnshareFlags::NEWUTS) }
}
