//! Addresses that a server named by somebody else may have.
//!
//! Whoever writes a kubeconfig chooses the address that this process connects to. A name is resolved once, and the addresses that were judged are the ones that are dialled.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses that a server may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach(Vec<IpNet>);

impl Reach {
    /// Allows addresses in these networks; with none every address but those of this host and its links.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Returns whether a server may have this address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_of_host = is_of_host(address);
        if self.0.is_empty() {
            return !is_of_host;
        }
        // A network of all addresses is not meant to include this host's own.
        self.0.iter().any(|network| {
            network.contains(&address) && (!is_of_host || is_local(network.network()))
        })
    }
}

/// Returns whether an address is of this host or its links, or of no host.
fn is_of_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    is_local(address) || is_broadcast || address.is_unspecified() || address.is_multicast()
}

fn is_local(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    is_link_local || address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(networks: &[&str], address: &str) -> bool {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        Reach::new(networks).allows(address.parse().unwrap())
    }

    #[test]
    fn addresses_of_this_host_and_its_links_are_reached_only_where_the_operator_names_them() {
        let own = [
            "127.0.0.1",
            "127.8.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
        ];
        for address in own {
            assert!(!allows(&[], address), "{address}");
            assert!(!allows(&["0.0.0.0/0", "::/0"], address), "{address}");
        }

        assert!(allows(&[], "10.0.0.1") && allows(&[], "2001:db8::1"));
        assert!(allows(&["127.0.0.0/8"], "127.0.0.1") && allows(&["::1/128"], "::1"));
        assert!(allows(&["10.0.0.0/8"], "10.9.9.9") && allows(&["10.0.0.0/8"], "::ffff:10.0.0.1"));
        assert!(!allows(&["10.0.0.0/8"], "192.0.2.1"));
    }
}
