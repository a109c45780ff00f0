//! Options for what a squid.conf leaves open, and the files that it names.

use std::net::IpAddr;

/// Options for what a squid.conf may leave open.
#[derive(Clone, Debug, Default)]
pub struct SquidOptions {
    /// The addresses clients know, where `http_port` names none.
    pub addresses: Vec<IpAddr>,
    /// The addresses of clients for which no `tcp_outgoing_address` is there.
    pub egress: Vec<IpAddr>,
}

/// The files that a squid.conf names.
pub trait SquidFiles {
    /// The text of a file.
    ///
    /// # Errors
    /// When it cannot be read; the phrase says why.
    fn read(&self, path: &str) -> Result<String, String>;

    /// The files whose names match a pattern with `*`, `?` or `[…]`, in order.
    ///
    /// # Errors
    /// When they cannot be listed; the phrase says why.
    fn matching(&self, pattern: &str) -> Result<Vec<String>, String>;
}
