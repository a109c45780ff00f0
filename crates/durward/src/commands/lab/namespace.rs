//! A network namespace and the thread in it; the namespace ends with the thread.
//!
//! Deliberately absent: names below `/run`; other programs enter by the thread's id.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};

use nix::sched::{CloneFlags, unshare};

use crate::failure::Failure;

type Work = Box<dyn FnOnce() + Send>;

/// Network namespace.
pub(super) struct Namespace {
    work: Sender<Work>,
    handle: File,
    thread: String,
}

impl Namespace {
    /// Creates a namespace with nothing but `lo`, which is down.
    pub(super) fn new() -> Result<Self, Failure> {
        let (work, waiting) = channel::<Work>();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            if tell.send(enter()).is_ok() {
                waiting.into_iter().for_each(|work| work());
            }
        });
        let (handle, thread) = told
            .recv()
            .map_err(|error| Failure::broken("making a network namespace", error))?
            .map_err(|error| Failure::broken("making a network namespace", error))?;
        Ok(Self { work, handle, thread })
    }

    /// Runs work in the namespace; sockets and threads that it creates stay there.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = channel();
        // Fails only if the caller does not wait for the result.
        let work = Box::new(move || drop(tell.send(work())));
        let failed = |cause: String| Failure::broken("working in a network namespace", cause);
        self.work.send(work).map_err(|error| failed(error.to_string()))?;
        told.recv().map_err(|error| failed(error.to_string()))
    }

    /// Returns a handle for work in another namespace.
    pub(super) fn handle(&self) -> std::io::Result<OwnedFd> {
        self.handle.as_fd().try_clone_to_owned()
    }

    /// Returns the thread's id, by which `nsenter` finds the namespace.
    pub(super) fn thread(&self) -> &str {
        &self.thread
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Moves this thread into a new namespace; returns a handle on it, and the thread's id as the host sees it.
fn enter() -> std::io::Result<(File, String)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let handle = File::open("/proc/thread-self/ns/net")?;
    let path = std::fs::read_link("/proc/thread-self")?;
    let number = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((handle, number))
}
