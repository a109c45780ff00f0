//! One type per role an address can play, so that a client's address is never dialled and an egress address never trusted.
//!
//! Deliberately absent: anything that asks the host which addresses it has.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// Client address: the peer of the accepted connection, or the source in a trusted PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ClientAddr(pub SocketAddr);

/// The address and port the client connected to, however the bind learns it; it names the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Destination(pub SocketAddr);

/// A fixed address of a tenant that its clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct IngressAddress(pub IpAddr);

/// A fixed address of a tenant that its traffic leaves from, and nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EgressAddress(pub IpAddr);

/// A resolved address of an upstream endpoint: what is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UpstreamAddr(pub SocketAddr);

impl EgressAddress {
    /// Returns true if a connection from this address can reach `peer`: both are of one IP family.
    #[must_use]
    pub fn reaches(&self, peer: IpAddr) -> bool {
        self.0.is_ipv4() == peer.is_ipv4()
    }
}

macro_rules! display_as_inner {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}
display_as_inner!(ClientAddr, Destination, IngressAddress, EgressAddress, UpstreamAddr);

/// The address without its IPv4-in-IPv6 wrapping (`::ffff:192.0.2.1` is `192.0.2.1`), as a dual-stack socket reports it.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
