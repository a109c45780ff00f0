//! Kernel pipes for splice(2), a few per core, taken only while bytes move through them.
//!
//! Nothing waits for a pipe; without one bytes are copied.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Pipes of a core at most, in use or not. An unprivileged user has 64 MiB of pipe buffers in all (`pipe-user-pages-soft`).
const MOST: usize = 64;
/// Capacity asked for in bytes, and the least that is worth using.
const SIZE: usize = 256 * 1024;
const LEAST: usize = 64 * 1024;

thread_local! {
    static IDLE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    static MADE: Cell<usize> = const { Cell::new(0) };
}

struct Ends {
    out: OwnedFd,
    into: OwnedFd,
    size: usize,
}

/// Pipe in use. Dropped empty, it is kept for reuse; otherwise it is closed.
pub(super) struct Pipe {
    ends: Option<Ends>,
    holds: usize,
}

impl Pipe {
    /// Takes an empty pipe, if the core may have one more.
    pub(super) fn take() -> Option<Self> {
        let idle = IDLE.with_borrow_mut(Vec::pop);
        let ends = match idle {
            Some(ends) => ends,
            None if MADE.get() < MOST => make()?,
            None => return None,
        };
        Some(Self { ends: Some(ends), holds: 0 })
    }

    /// Returns the bytes in the pipe.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    /// Returns the capacity in bytes.
    pub(super) fn size(&self) -> usize {
        self.ends.as_ref().map_or(0, |ends| ends.size)
    }

    /// Moves up to `most` bytes from the socket into the pipe. 0 means the end of the stream.
    pub(super) fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let moved = from.try_io(Interest::READABLE, || {
            Ok(splice(
                from,
                None,
                &ends.into,
                None,
                most,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
            )?)
        })?;
        self.holds += moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe into the socket, as many as that takes.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let holds = self.holds;
        let moved =
            to.try_io(Interest::WRITABLE, || Ok(splice(&ends.out, None, to, None, holds, flags)?))?;
        self.holds -= moved.min(holds);
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.holds == 0 {
            IDLE.with_borrow_mut(|idle| idle.push(ends));
        } else {
            MADE.set(MADE.get() - 1);
        }
    }
}

/// Creates a pipe; `None` if the user's share of pipe buffers is used up: the kernel then grants too small a pipe to be worth it.
fn make() -> Option<Ends> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    let size = match fcntl_setpipe_size(&into, SIZE) {
        Ok(size) => size,
        Err(Errno::PERM) => fcntl_getpipe_size(&into).ok()?,
        Err(_) => return None,
    };
    if size < LEAST {
        return None;
    }
    MADE.set(MADE.get() + 1);
    Some(Ends { out, into, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_has_a_bounded_number_of_pipes_and_uses_them_again() {
        let mut pipes: Vec<_> = std::iter::from_fn(Pipe::take).take(MOST + 1).collect();
        let had = pipes.len();
        pipes[0].holds = 1;

        drop(pipes);

        assert!(had <= MOST);
        assert_eq!(IDLE.with_borrow(Vec::len), had - 1);
        assert_eq!(MADE.get(), had - 1);
    }
}
