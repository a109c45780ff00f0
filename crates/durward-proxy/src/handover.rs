//! Giving the data plane up: to a successor that takes the listening sockets, or to nobody, letting connections finish.
//!
//! A socket that is handed over stays open in the successor, so no client in its queue is lost. Deliberately absent: starting the
//! successor, and signals.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::proxy::{Drained, Proxy};
use crate::status::Closing;

impl Proxy {
    /// Duplicates of the listening sockets with the bind each belongs to, for a successor. They close on `exec` until that is cleared.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn listening_sockets(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        self.duplicates()
    }

    /// Accepts no more. Clients that wait in a queue are left to the successor that holds the same sockets.
    pub fn stop_accepting(&self) {
        self.close_doors(Closing::LeaveQueue);
    }

    /// Accepts no more, lets connections finish for `grace` and cuts what is left. Clients that wait in a queue are let in first, unless
    /// [`stop_accepting`](Self::stop_accepting) was called before. Returns when all threads have ended.
    pub fn drain(mut self, grace: Duration) -> Drained {
        self.close_doors(closing(grace));
        self.end(grace)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let grace = self.drain_grace();
        self.close_doors(closing(grace));
        self.end(grace);
    }
}

/// Who would be cut at once need not be let in.
fn closing(grace: Duration) -> Closing {
    if grace.is_zero() { Closing::LeaveQueue } else { Closing::EmptyQueue }
}
