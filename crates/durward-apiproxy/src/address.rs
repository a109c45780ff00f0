//! Addresses that an API server may advertise and networks that may not overlap.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

/// A reason why an address cannot be advertised.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressFault {
    /// The API refuses endpoints with it.
    #[error(
        "{0} is a loopback address: the API refuses it in endpoints; use a private one such as 172.31.255.1"
    )]
    Loopback(IpAddr),
    /// The API refuses endpoints with it.
    #[error(
        "{0} is a link-local address: the API refuses it in endpoints; use a private one such as 172.31.255.1"
    )]
    LinkLocal(IpAddr),
    /// The address is public, so it may belong to another host.
    #[error(
        "{0} is not a private address: use one of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 or fc00::/7"
    )]
    NotPrivate(IpAddr),
    /// Packets to it would go to a pod or a Service.
    #[error("{address} is in {network}, the cluster's {what}: use an address outside")]
    InNetwork {
        /// The address.
        address: IpAddr,
        /// The network it is in.
        network: IpNet,
        /// Use of that network.
        what: &'static str,
    },
}

/// Networks of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterNetworks {
    /// Networks of pods.
    pub pods: Vec<IpNet>,
    /// Networks of Services.
    pub services: Vec<IpNet>,
    /// Networks of nodes.
    pub nodes: Vec<IpNet>,
}

impl ClusterNetworks {
    /// Returns every network with its use.
    fn all(&self) -> impl Iterator<Item = (&'static str, IpNet)> + '_ {
        let of =
            |what, nets: &'_ [IpNet]| nets.iter().map(move |net| (what, *net)).collect::<Vec<_>>();
        of("pod network", &self.pods)
            .into_iter()
            .chain(of("Service network", &self.services))
            .chain(of("node network", &self.nodes))
    }

    /// Returns the pairs of networks that overlap, each with its use.
    #[must_use]
    pub fn overlaps(&self) -> Vec<[(&'static str, IpNet); 2]> {
        let all: Vec<_> = self.all().collect();
        let mut found = Vec::new();
        for (at, (what, net)) in all.iter().enumerate() {
            for (other_what, other) in &all[at + 1..] {
                if net.contains(other) || other.contains(net) {
                    found.push([(*what, *net), (*other_what, *other)]);
                }
            }
        }
        found
    }
}

/// Checks that `address` can be the advertised address of an API server of a cluster.
///
/// # Errors
/// Fails if the API would refuse the address in endpoints, or packets to it could leave the node or reach a pod or Service.
pub fn advertisable(address: IpAddr, networks: &ClusterNetworks) -> Result<(), AddressFault> {
    if address.is_loopback() || address.is_unspecified() {
        return Err(AddressFault::Loopback(address));
    }
    if is_link_local(address) {
        return Err(AddressFault::LinkLocal(address));
    }
    if !is_private(address) {
        return Err(AddressFault::NotPrivate(address));
    }
    // An address of the nodes' network is allowed: where it is free, packets to it still end on the node.
    let inside =
        networks.all().find(|(what, net)| *what != "node network" && net.contains(&address));
    match inside {
        Some((what, network)) => Err(AddressFault::InNetwork { address, network, what }),
        None => Ok(()),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        // 100.64.0.0/10 is the shared address space of RFC 6598.
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> ClusterNetworks {
        ClusterNetworks {
            pods: vec!["10.244.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            services: vec!["10.96.0.0/16".parse().unwrap()],
            nodes: vec!["192.168.0.0/24".parse().unwrap()],
        }
    }

    #[test]
    fn an_advertised_address_is_private_and_outside_pods_and_services() {
        let check = |text: &str| advertisable(text.parse().unwrap(), &networks());

        for good in ["172.31.255.1", "192.168.0.250", "100.64.0.9", "fd00:2::1"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert!(matches!(check("127.0.0.1"), Err(AddressFault::Loopback(_))));
        assert!(matches!(check("::1"), Err(AddressFault::Loopback(_))));
        assert!(matches!(check("0.0.0.0"), Err(AddressFault::Loopback(_))));
        assert!(matches!(check("169.254.20.10"), Err(AddressFault::LinkLocal(_))));
        assert!(matches!(check("fe80::1"), Err(AddressFault::LinkLocal(_))));
        assert!(matches!(check("203.0.113.1"), Err(AddressFault::NotPrivate(_))));
        assert!(matches!(check("2001:db8::1"), Err(AddressFault::NotPrivate(_))));
        assert!(matches!(
            check("10.96.0.1"),
            Err(AddressFault::InNetwork { what: "Service network", .. })
        ));
        assert!(matches!(
            check("fd00:1::9"),
            Err(AddressFault::InNetwork { what: "pod network", .. })
        ));
    }

    // S4.23
    #[test]
    fn networks_that_overlap_are_found_in_pairs() {
        let mut networks = networks();
        assert!(networks.overlaps().is_empty());

        networks.services.push("10.244.128.0/20".parse().unwrap());
        networks.nodes.push("10.0.0.0/8".parse().unwrap());

        let found: Vec<_> =
            networks.overlaps().into_iter().map(|pair| pair.map(|it| it.1.to_string())).collect();
        assert!(found.contains(&["10.244.0.0/16".to_owned(), "10.244.128.0/20".to_owned()]));
        assert!(found.contains(&["10.96.0.0/16".to_owned(), "10.0.0.0/8".to_owned()]));
        assert_eq!(found.len(), 4);
    }
}
