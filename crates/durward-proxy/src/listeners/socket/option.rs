//! Socket options that no safe crate sets. The call is unsafe only because it is foreign.
#![expect(unsafe_code, reason = "setsockopt is a foreign function without a safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Seconds that a client may stay silent. The kernel rounds up to a retransmission of its SYN-ACK.
const SILENCE: libc::c_int = 1;

/// Makes the kernel wait, or not, for the first bytes of each new connection (`TCP_DEFER_ACCEPT`, tcp(7)), which saves a wake-up and a look at an empty socket for each. It
/// keeps a silent client for a second and then hands it over all the same, so nobody waits for ever.
pub(super) fn set_deferred(socket: &impl AsFd, deferred: bool) -> io::Result<()> {
    let seconds = if deferred { SILENCE } else { 0 };
    set(socket, (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT), &seconds)
}

/// Makes the kernel run a program for each new connection, whose result is the position of the socket that gets it (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).
pub(super) fn set_chooser(socket: &impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel copies the program and does not write to it.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    set(socket, (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF), &program)
}

fn set<T>(
    socket: &impl AsFd,
    (level, name): (libc::c_int, libc::c_int),
    value: &T,
) -> io::Result<()> {
    let (descriptor, length) = (socket.as_fd().as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the descriptor is borrowed for the call; the kernel reads `length` bytes of a live value, and of a program the instructions that it counts, which the caller lends
    // (setsockopt(2)).
    let result =
        unsafe { libc::setsockopt(descriptor, level, name, (&raw const *value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
