//! Addresses that this host has now, for status pages and the log.
//!
//! The list of the interfaces is read once for all addresses asked about. An address that is not on the list may still be usable
//! (127.0.0.0/8, a `local` route, `ip_nonlocal_bind`), so the kernel is asked about each of those by a bind.

pub(crate) mod host;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Addresses of this host at one moment.
#[derive(Debug)]
pub struct PresentAddresses(BTreeSet<IpAddr>);

impl PresentAddresses {
    /// Reads the addresses of all interfaces. If the kernel does not list them, each address is tried by itself.
    #[must_use]
    pub fn now() -> Self {
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        Self(interfaces.filter_map(|one| address(&one)).collect())
    }

    /// Returns true if a socket can be bound to the address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        // All of 127.0.0.0/8 is local wherever 127.0.0.1 is.
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let is_loopback = address.is_ipv4() && address.is_loopback() && self.0.contains(&loopback);
        is_loopback || self.0.contains(&address.to_canonical()) || can_bind(address)
    }
}

/// Returns the address of an interface, without its scope.
pub(crate) fn address(interface: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()).to_canonical()))
}

/// Binds a socket without `IP_FREEBIND`: the kernel accepts that for local addresses only.
pub(crate) fn can_bind(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_present_and_a_documentation_address_is_not() {
        let present = PresentAddresses::now();

        for here in ["127.0.0.1", "127.0.0.77", "0.0.0.0"] {
            assert!(present.has(here.parse().unwrap()), "{here}");
        }
        assert!(!present.has("192.0.2.77".parse().unwrap()));
    }
}
