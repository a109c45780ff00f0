//! Networks of the lab: a bank and a stranger behind two interfaces of the gateway; pods of two tenants and of no tenant on its bridge.
//!
//! The gateway's only default route leads to the first interface, and the world outside drops packets that arrive by the wrong one, so the second
//! works only if the gateway routes by connection.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use durward_nat::NatError;
use durward_nat::wiring::Wiring;
use ipnet::IpNet;

use super::namespace::Namespace;
use super::talk;
use crate::app::sentence;
use crate::failure::Failure;

pub(super) const ACME: &str = "203.0.113.10";
pub(super) const ACME_V6: &str = "2001:db8:1::10";
pub(super) const GLOBEX: &str = "198.51.100.10";
pub(super) const BANK: &str = "192.0.2.10";
pub(super) const BANK_V6: &str = "2001:db8:ffff::10";
pub(super) const STRANGER: &str = "192.0.2.200";
/// Address of the gateway towards the pods.
pub(super) const INSIDE: &str = "10.244.0.1";
pub(super) const BANK_PORT: u16 = 9000;
pub(super) const POD_PORTS: [u16; 2] = [8080, 8081];

/// Diagram of the networks, for the screen.
pub(super) const PICTURE: [&str; 3] = [
    "bank 192.0.2.10      ┌── 203.0.113.0/24 ── ext1 ──┐             ┌── 10.244.1.11, 10.244.1.12   acme",
    "stranger 192.0.2.200 ┤                            ├── gateway ──┼── 10.244.2.11                globex",
    "                     └── 198.51.100.0/24 ─ ext2 ──┘             └── 10.244.9.9                 nobody",
];

/// Pods: name, interface at the gateway, and addresses.
const PODS: [(&str, &str, [&str; 2]); 4] = [
    ("shop-1", "v1", ["10.244.1.11/16", "fd00:244:0:1::11/48"]),
    ("shop-2", "v2", ["10.244.1.12/16", "fd00:244:0:1::12/48"]),
    ("desk-1", "v3", ["10.244.2.11/16", "fd00:244:0:2::11/48"]),
    ("unknown", "v4", ["10.244.9.9/16", "fd00:244:0:9::9/48"]),
];

/// Networks around the gateway, which is in the network namespace of the calling process.
pub(super) struct World {
    /// Router between the gateway's interfaces and the partners.
    internet: Namespace,
    /// Partner.
    pub(super) bank: Namespace,
    /// Client whose address is not allowed.
    pub(super) stranger: Namespace,
    /// Pods, in the order of their names.
    pods: Vec<Namespace>,
}

impl World {
    /// Creates all networks.
    pub(super) fn build() -> Result<Self, Failure> {
        let world = Self {
            internet: Namespace::new()?,
            bank: Namespace::new()?,
            stranger: Namespace::new()?,
            pods: PODS.iter().map(|_| Namespace::new()).collect::<Result<_, _>>()?,
        };
        let failed =
            |error: NatError| Failure::broken("joining the lab's networks", sentence(&error));
        let outside = [&world.internet, &world.bank, &world.stranger];
        for namespace in world.pods.iter().chain(outside) {
            namespace.run(addresses_at_once)?;
        }
        addresses_at_once();
        world.gateway().map_err(failed)?;
        let handle = |of: &Namespace| of.handle().map_err(serving);
        let partners = [handle(&world.bank)?, handle(&world.stranger)?];
        world.internet.run(move || internet(&partners))?.map_err(failed)?;
        for (partner, name, addresses) in [
            (&world.bank, "the bank", ["192.0.2.10/24", "2001:db8:ffff::10/64"]),
            (&world.stranger, "the stranger", ["192.0.2.200/24", "2001:db8:ffff::200/64"]),
        ] {
            let routers = ["192.0.2.1", "2001:db8:ffff::1"];
            partner.run(move || host(addresses, routers))?.map_err(failed)?;
            partner.run(move || talk::serve(name, &[BANK_PORT]))?.map_err(serving)?;
        }
        for (pod, (name, _, addresses)) in world.pods.iter().zip(PODS) {
            pod.run(move || host(addresses, [INSIDE, "fd00:244::1"]))?.map_err(failed)?;
            pod.run(move || talk::serve(name, &POD_PORTS))?.map_err(serving)?;
        }
        Ok(world)
    }

    /// Returns a pod of acme.
    pub(super) fn acme(&self) -> &Namespace {
        &self.pods[0]
    }

    /// Returns a pod of globex.
    pub(super) fn globex(&self) -> &Namespace {
        &self.pods[2]
    }

    /// Returns a pod without a tenant.
    pub(super) fn unenrolled(&self) -> &Namespace {
        &self.pods[3]
    }

    fn gateway(&self) -> Result<(), NatError> {
        let wiring = open()?;
        wiring.up("lo", &[])?;
        wiring.pair("ext1", "wan1", self.internet.as_fd())?;
        wiring.pair("ext2", "wan2", self.internet.as_fd())?;
        wiring.up("ext1", &nets(&["203.0.113.10/24", "2001:db8:1::10/64"]))?;
        wiring.up("ext2", &nets(&["198.51.100.10/24", "2001:db8:2::10/64"]))?;
        for (pod, (_, device, _)) in self.pods.iter().zip(PODS) {
            wiring.pair(device, "eth0", pod.as_fd())?;
            wiring.up(device, &[])?;
        }
        wiring.bridge("br0", &PODS.map(|(_, device, _)| device))?;
        wiring.up("br0", &nets(&["10.244.0.1/16", "fd00:244::1/48"]))?;
        wiring.default_route("ext1", ip("203.0.113.254"))?;
        wiring.default_route("ext1", ip("2001:db8:1::254"))
    }
}

/// Turns duplicate address detection off: the first packet would be lost to it. A kernel without IPv6 does not have it.
fn addresses_at_once() {
    drop(fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"));
}

/// Forwards between the partners' network and the gateway's; packets that arrive by an interface that does not lead back are dropped.
fn internet(partners: &[OwnedFd]) -> Result<(), NatError> {
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "1"),
        ("ipv6/conf/all/forwarding", "1"),
    ] {
        drop(fs::write(format!("/proc/sys/net/{name}"), value));
    }
    let wiring = open()?;
    wiring.up("lo", &[])?;
    wiring.up("wan1", &nets(&["203.0.113.254/24", "2001:db8:1::254/64"]))?;
    wiring.up("wan2", &nets(&["198.51.100.254/24", "2001:db8:2::254/64"]))?;
    for (partner, device) in partners.iter().zip(["p1", "p2"]) {
        wiring.pair(device, "eth0", partner.as_fd())?;
        wiring.up(device, &[])?;
    }
    wiring.bridge("lan", &["p1", "p2"])?;
    wiring.up("lan", &nets(&["192.0.2.1/24", "2001:db8:ffff::1/64"]))
}

/// Sets a partner or a pod up.
fn host(addresses: [&str; 2], routers: [&str; 2]) -> Result<(), NatError> {
    let wiring = open()?;
    wiring.up("lo", &[])?;
    wiring.up("eth0", &nets(&addresses))?;
    routers.iter().try_for_each(|router| wiring.default_route("eth0", ip(router)))
}

fn open() -> Result<Wiring, NatError> {
    Wiring::open(Duration::from_secs(10))
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Parses an address of the lab; all are constants of this program.
pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("the lab's addresses are addresses")
}

fn serving(error: std::io::Error) -> Failure {
    Failure::broken("opening the lab's services", error)
}
