//! Discriminators of the tenants at one address and port.
//!
//! Deliberately absent: a tenant for clients that could be anybody's.

mod proxies;

use std::ops::Range;

use serde::Serialize;

use crate::address::Destination;
use crate::listener::{Bind, DestinationMode, Listener, Service};

/// Discriminators of the tenants at one address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Discriminator {
    /// Nothing has to: one tenant has the address and port.
    Destination,
    /// The client's address, whatever it connects to.
    Source,
    /// The client's address, then the certificate or the credential that it shows to a forward proxy.
    ProxyIdentity,
    /// The name that the client asks for: SNI where TLS is spoken, else `Host`.
    ServerName,
}

/// First message of clients at a listener that is selected by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opening {
    /// A ClientHello, whose SNI is the name.
    ClientHello,
    /// The head of an HTTP request, whose `Host` is the name.
    Head,
}

/// The listeners that a connection may be for, as far as its destination says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Discriminator that selects among them.
    pub by: Discriminator,
    /// Their positions in [`Bind::listeners`].
    pub listeners: Range<usize>,
}

impl Bind {
    /// Returns the listeners for a connection that was made to `destination` and accepted at `local`; `None` where no tenant has the destination.
    #[must_use]
    pub fn candidates(
        &self,
        destination: Destination,
        local: std::net::IpAddr,
    ) -> Option<Candidates> {
        if self.mode == DestinationMode::Anywhere {
            return Some(Candidates {
                by: Discriminator::Source,
                listeners: 0..self.listeners.len(),
            });
        }
        let (at, listener) = self.listener_at(destination, local)?;
        let listeners = self.beside(at);
        let by = match (&listener.names, listeners.len()) {
            (Some(_), _) => Discriminator::ServerName,
            (None, 1) => Discriminator::Destination,
            (None, _) => Discriminator::ProxyIdentity,
        };
        Some(Candidates { by, listeners })
    }
}

impl Listener {
    /// Returns what clients send first, if that names the tenant; `None` where clients may be silent.
    #[must_use]
    pub fn opening(&self) -> Option<Opening> {
        match &self.service {
            Service::PassThrough(_) => Some(Opening::ClientHello),
            _ if self.tls().is_some() => Some(Opening::ClientHello),
            Service::Http(_) => Some(Opening::Head),
            Service::Tcp(_) | Service::Udp(_) | Service::Forward(_) | Service::Link(_) => None,
        }
    }
}

/// Returns whether two tenants' listeners can stand at one address and port, because no client could be both tenants'.
#[must_use]
pub fn told_apart(one: &Listener, other: &Listener) -> bool {
    match (&one.names, &other.names) {
        (Some(a), Some(b)) => one.opening() == other.opening() && !a.meet(b),
        (None, None) => proxies::told_apart(one, other),
        _ => false,
    }
}
