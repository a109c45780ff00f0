//! Errors of the kernel plane.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

use crate::nftables::TableError;

/// Error of the kernel plane.
#[derive(Debug, Error)]
pub enum NatError {
    /// nftables refused.
    #[error("the packet filter cannot be changed")]
    Table(#[from] TableError),
    /// Routing or connection tracking refused.
    #[error("{what} cannot be read or changed")]
    Kernel {
        /// Operation that failed.
        what: &'static str,
        /// Error of the kernel.
        #[source]
        errno: Errno,
    },
    /// A socket could not be opened.
    #[error("no socket for {what}")]
    Socket {
        /// Purpose of the socket.
        what: &'static str,
        /// Error of the socket call.
        #[source]
        error: io::Error,
    },
    /// The options contradict themselves or the host.
    #[error("{problem}")]
    Options {
        /// Description of the contradiction.
        problem: String,
    },
}
