//! Stopping the data plane: a hand-over to a successor that takes the listening sockets, or a drain.
//!
//! A listening socket that is handed over stays open in the successor, so no client in its accept queue is lost.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::proxy::{Drained, Proxy};
use crate::status::Closing;

impl Proxy {
    /// Duplicates the listening sockets, with the bind each belongs to, for a successor. They are close-on-exec until the caller clears that flag.
    ///
    /// # Errors
    /// Fails if no file descriptors are left.
    pub fn listening_sockets(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        self.duplicates()
    }

    /// Stops accepting. Clients in the accept queues are left to the successor, which holds the same sockets.
    pub fn stop_accepting(&self) {
        self.close_sockets(Closing::LeaveQueue);
    }

    /// Stops accepting, lets connections finish for `grace` and closes the rest. Clients in the accept queues are accepted first, unless
    /// [`stop_accepting`](Self::stop_accepting) was called before. Returns when all threads have ended.
    pub fn drain(mut self, grace: Duration) -> Drained {
        self.close_sockets(closing(grace));
        self.end(grace)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let grace = self.drain_grace();
        self.close_sockets(closing(grace));
        self.end(grace);
    }
}

/// Chooses how listening sockets are closed: without grace, clients in the accept queue would be cut at once and are not accepted.
fn closing(grace: Duration) -> Closing {
    if grace.is_zero() { Closing::LeaveQueue } else { Closing::EmptyQueue }
}
