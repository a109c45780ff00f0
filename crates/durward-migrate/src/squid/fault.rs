//! Reasons for which a squid.conf has no documents.

use std::sync::Arc;

use thiserror::Error;

/// Reason why no documents could be produced.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SquidFault {
    /// No `http_port`, or none of use.
    #[error(
        "no http_port is for clients that are configured with a proxy: write one, or see egress.transparent for intercepted clients"
    )]
    NoDoor,
    /// `http_port 3128`.
    #[error(
        "{file}:{line}: {door} is a port of every address: say with --address which one clients know"
    )]
    NoAddress {
        /// The file.
        file: Arc<str>,
        /// The line.
        line: usize,
        /// Text as written.
        door: String,
    },
    /// Clients that would leave from whatever address the host has.
    #[error(
        "clients {clients} leave from an address that no tcp_outgoing_address names: say with --egress-address which one"
    )]
    NoEgress {
        /// Their name.
        clients: String,
    },
    /// No client is let in.
    #[error("no http_access line lets a client in")]
    NoClient,
    /// A file that is included cannot be read; it might hold any line.
    #[error("{file}:{line}: cannot include {path}: {why}")]
    Include {
        /// The file.
        file: Arc<str>,
        /// The line.
        line: usize,
        /// The file or pattern that is included.
        path: String,
        /// The reason.
        why: String,
    },
    /// An `if` that depends on the process; it might hide any line.
    #[error("{file}:{line}: {written:?} cannot be decided here: write true or false in its place")]
    Condition {
        /// The file.
        file: Arc<str>,
        /// The line.
        line: usize,
        /// The line as written.
        written: String,
    },
    /// A document is not accepted.
    #[error("{file}:{line}: the document of tenant {tenant} is not accepted: {why}")]
    Invalid {
        /// The file.
        file: Arc<str>,
        /// The line behind it.
        line: usize,
        /// The tenant.
        tenant: String,
        /// The finding of `validate`.
        why: String,
    },
}
