//! Connects network namespaces: pairs of interfaces, bridges, addresses and routes, as `durward lab` needs them.
//!
//! All calls act on the namespace of the thread that opened it.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;

use crate::error::NatError;
use crate::netlink::{Builder, Family, Socket, flags};
use crate::options::AssignedAddress;
use crate::policy_route::{Hop, Route, any};
use crate::rtnetlink::Rtnetlink;

const NEW_LINK: u16 = 16;
const NAME: u16 = 3;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const NAMESPACE: u16 = 28;
const UP: u32 = 1;
/// Protocol number of static routes (`RTPROT_STATIC`).
const STATIC: u8 = 4;
const MAIN_TABLE: u32 = 254;

/// Access to the interfaces of one network namespace.
#[derive(Debug)]
pub struct Wiring {
    socket: Socket,
    route: Rtnetlink,
}

impl Wiring {
    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// Fails if no netlink socket can be opened.
    pub fn open(timeout: Duration) -> Result<Self, NatError> {
        let failed = |error| NatError::Socket { what: "wiring", error };
        let socket = Socket::open(Family::Route, 0, timeout).map_err(failed)?;
        let route = Rtnetlink::open(timeout).map_err(failed)?;
        Ok(Self { socket, route })
    }

    /// Creates a veth pair: `here` in this namespace, `there` in the other.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn pair(&self, here: &str, there: &str, other: BorrowedFd<'_>) -> Result<(), NatError> {
        let namespace = other.as_raw_fd().cast_unsigned();
        self.make(here, "veth", |to| {
            to.nest(1, |to| {
                to.raw(&[0; 16]).text(NAME, there).ne32(NAMESPACE, namespace);
            });
        })
    }

    /// Creates a bridge with these interfaces as ports.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result<(), NatError> {
        self.make(name, "bridge", |_| {})?;
        let bridge = self.index(name)?;
        for port in ports {
            let port = self.index(port)?;
            self.change(port, 0, |to| {
                to.ne32(MASTER, bridge);
            })?;
        }
        Ok(())
    }

    /// Brings an interface up and gives it addresses, usable at once.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn up(&self, name: &str, addresses: &[IpNet]) -> Result<(), NatError> {
        let index = self.index(name)?;
        self.change(index, UP, |_| {})?;
        for address in addresses {
            let assigned = AssignedAddress {
                interface: name.to_owned(),
                prefix_len: address.prefix_len(),
                valid: None,
            };
            let added = self.route.add_address(index, address.addr(), &assigned, 0);
            added.map_err(refused("an address"))?;
            let local = self.route.await_local(address.addr());
            local.map_err(refused("the local route of an address"))?;
        }
        Ok(())
    }

    /// Adds a default route by a router at an interface.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn default_route(&self, name: &str, gateway: IpAddr) -> Result<(), NatError> {
        let any = any(gateway.is_ipv4());
        let destination = IpNet::new(any, 0).map_err(|_| refused("a route")(Errno::INVAL))?;
        let route = Route {
            table: MAIN_TABLE,
            destination,
            metric: 0,
            hop: Hop::Gateway { gateway, interface: self.index(name)? },
        };
        self.route.add_route(&route, STATIC).map_err(refused("a route"))
    }

    fn make(
        &self,
        name: &str,
        kind: &str,
        data: impl FnOnce(&mut Builder),
    ) -> Result<(), NatError> {
        let made = self.socket.request(NEW_LINK, flags::CREATE | flags::EXCL, |to| {
            to.raw(&[0; 16]).text(NAME, name).nest(INFO, |to| {
                to.text(1, kind).nest(2, data);
            });
        });
        made.map_err(refused("an interface"))
    }

    fn change(
        &self,
        index: u32,
        turn_on: u32,
        body: impl FnOnce(&mut Builder),
    ) -> Result<(), NatError> {
        let changed = self.socket.request(NEW_LINK, 0, |to| {
            to.raw(&[0; 4]).raw(&index.to_ne_bytes());
            to.raw(&turn_on.to_ne_bytes()).raw(&turn_on.to_ne_bytes());
            body(to);
        });
        changed.map_err(refused("an interface"))
    }

    fn index(&self, name: &str) -> Result<u32, NatError> {
        let links = self.route.links(0).map_err(refused("interfaces"))?;
        let found = links.iter().find(|link| link.name == name).map(|link| link.index);
        found.ok_or_else(|| refused("an interface")(Errno::NODEV))
    }
}

fn refused(what: &'static str) -> impl FnOnce(Errno) -> NatError {
    move |errno| NatError::Kernel { what, errno }
}
