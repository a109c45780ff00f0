//! `TCP_DEFER_ACCEPT` (tcp(7)): a connection is accepted with its first bytes, which saves a wake-up and a look at an empty socket for each.
//!
//! The kernel keeps a silent client for a second and then hands it over all the same, so nobody waits for ever. The call is unsafe only because it is foreign.
#![expect(unsafe_code, reason = "no safe crate sets TCP_DEFER_ACCEPT")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Seconds that a client may stay silent. The kernel rounds up to a retransmission of its SYN-ACK.
const SILENCE: libc::c_int = 1;

/// Makes the kernel wait, or not, for the first bytes of each new connection.
pub(super) fn set(socket: &impl AsFd, deferred: bool) -> io::Result<()> {
    let seconds = if deferred { SILENCE } else { 0 };
    let length = size_of_val(&seconds) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call; the kernel reads `length` bytes of a live integer (setsockopt(2)).
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
