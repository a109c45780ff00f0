//! VXLAN links, their forwarding entries and static neighbours, as `linux/if_link.h` and `linux/neighbour.h` define them.
//!
//! Address learning and multicast are off; every peer is configured.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;

use super::wire::octets;
use super::{HeldAddress, Rtnetlink, gone, msg};
use crate::announce::Mac;
use crate::netlink::{Attributes, Builder, Message, flags};
use crate::steer::tunnel::{Entry, Tunnel};

const BRIDGE: u8 = 7;
const PERMANENT: u16 = 0x80;
const NO_ARP: u16 = 0x40;
const SELF: u8 = 2;
const UP: u32 = 1;

/// VXLAN link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldTunnel {
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    /// Properties that cannot be changed on an existing link.
    pub(crate) tunnel: Tunnel,
    mac: Option<Mac>,
}

impl HeldTunnel {
    /// Returns true if the link is Durward's: no other program derives a link's hardware address from its underlay address in this way.
    pub(crate) fn is_ours(&self) -> bool {
        self.mac == Some(Mac::of(self.tunnel.local))
    }
}

impl Rtnetlink {
    /// Returns all VXLAN links with an IPv4 underlay.
    pub(crate) fn tunnels(&self) -> Result<Vec<HeldTunnel>, Errno> {
        Ok(self.dump(msg::GETLINK, 0, 16)?.iter().filter_map(tunnel).collect())
    }

    /// Returns the MTU of the interface that has an address; Durward's own links do not count.
    pub(crate) fn mtu_at(&self, address: Ipv4Addr) -> Result<Option<u32>, Errno> {
        let ours = self.tunnels()?.into_iter().filter(HeldTunnel::is_ours);
        let ours: Vec<u32> = ours.map(|held| held.index).collect();
        let held = self.addresses()?;
        let here = |held: &&HeldAddress| {
            held.net.addr() == IpAddr::V4(address) && !ours.contains(&held.index)
        };
        let Some(held) = held.iter().find(here) else { return Ok(None) };
        let links = self.dump(msg::GETLINK, 0, 16)?;
        let link = links.iter().find(|link| index(link) == Some(held.index));
        Ok(link.and_then(|link| link.attributes(16).ne32(4)))
    }

    /// Creates the link and brings it up.
    pub(crate) fn add_tunnel(&self, tunnel: &Tunnel) -> Result<(), Errno> {
        self.socket.request(msg::NEWLINK, flags::CREATE | flags::EXCL, |to| {
            link_header(to, 0);
            to.text(3, &tunnel.name).ne32(4, tunnel.mtu);
            to.bytes_attribute(1, &Mac::of(tunnel.local).0);
            to.nest(18, |to| {
                to.text(1, "vxlan").nest(2, |to| {
                    to.ne32(1, tunnel.vni).bytes_attribute(4, &tunnel.local.octets());
                    to.bytes_attribute(15, &tunnel.port.to_be_bytes()).bytes_attribute(7, &[0]);
                });
            });
        })
    }

    /// Brings a link up with this MTU.
    pub(crate) fn set_tunnel(&self, index: u32, mtu: u32) -> Result<(), Errno> {
        self.socket.request(msg::NEWLINK, 0, |to| {
            link_header(to, index);
            to.ne32(4, mtu);
        })
    }

    /// Removes a link; one that is gone is no error.
    pub(crate) fn remove_tunnel(&self, index: u32) -> Result<(), Errno> {
        gone(self.socket.request(msg::DELLINK, 0, |to| link_header(to, index)))
    }

    /// Returns the static entries of a link.
    pub(crate) fn entries(&self, index: u32) -> Result<BTreeSet<Entry>, Errno> {
        let mut found = self.dump(msg::GETNEIGH, 0, 12)?;
        found.extend(self.dump(msg::GETNEIGH, BRIDGE, 12)?);
        Ok(found.iter().filter_map(|message| entry(message, index)).collect())
    }

    /// Adds a static entry.
    pub(crate) fn add_entry(&self, index: u32, entry: &Entry) -> Result<(), Errno> {
        let mode = flags::CREATE | flags::REPLACE;
        self.socket.request(msg::NEWNEIGH, mode, |to| write_entry(to, index, entry))
    }

    /// Removes a static entry; one that is gone is no error.
    pub(crate) fn remove_entry(&self, index: u32, entry: &Entry) -> Result<(), Errno> {
        gone(self.socket.request(msg::DELNEIGH, 0, |to| write_entry(to, index, entry)))
    }
}

/// Returns the index of the interface that a message about a link or a neighbour concerns.
pub(crate) fn index(message: &Message) -> Option<u32> {
    Some(u32::from_ne_bytes(message.payload.get(4..8)?.try_into().ok()?))
}

/// Returns true for a message about a neighbour or a forwarding entry.
pub(crate) const fn is_neighbour(message: &Message) -> bool {
    matches!(message.kind, msg::NEWNEIGH | msg::DELNEIGH)
}

fn tunnel(message: &Message) -> Option<HeldTunnel> {
    let attributes = message.attributes(16);
    let info = attributes.nested(18);
    if info.text(1)? != "vxlan" {
        return None;
    }
    let data = info.nested(2);
    let flags = u32::from_ne_bytes(message.payload.get(8..12)?.try_into().ok()?);
    let mtu = attributes.ne32(4)?;
    Some(HeldTunnel {
        index: index(message)?,
        up: flags & UP != 0,
        mtu,
        mac: mac(attributes, 1),
        tunnel: Tunnel {
            name: attributes.text(3)?,
            vni: data.ne32(1)?,
            port: u16::from_be_bytes(data.get(15)?.value.try_into().ok()?),
            local: <[u8; 4]>::try_from(data.get(4)?.value).ok()?.into(),
            mtu,
        },
    })
}

fn entry(message: &Message, of: u32) -> Option<Entry> {
    let header = message.payload.get(..12)?;
    let state = u16::from_ne_bytes(header[8..10].try_into().ok()?);
    if index(message)? != of || state & PERMANENT == 0 {
        return None;
    }
    let attributes = message.attributes(12);
    let (address, mac) = (attributes.get(1)?.value, mac(attributes, 2)?);
    let v4 = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?));
    Some(match header[0] {
        BRIDGE => Entry::Forward { mac, underlay: v4()? },
        super::wire::INET => Entry::Neighbour { address: v4()?.into(), mac },
        _ => Entry::Neighbour { address: <[u8; 16]>::try_from(address).ok()?.into(), mac },
    })
}

fn mac(attributes: Attributes<'_>, kind: u16) -> Option<Mac> {
    Some(Mac(attributes.get(kind)?.value.try_into().ok()?))
}

pub(super) fn link_header(to: &mut Builder, index: u32) {
    to.raw(&[0; 4]).raw(&index.to_ne_bytes()).raw(&UP.to_ne_bytes()).raw(&UP.to_ne_bytes());
}

fn write_entry(to: &mut Builder, index: u32, entry: &Entry) {
    let (family, state, flags, address, mac) = match entry {
        Entry::Forward { mac, underlay } => {
            (BRIDGE, PERMANENT | NO_ARP, SELF, IpAddr::V4(*underlay), mac)
        }
        Entry::Neighbour { address, mac } => {
            let family = if address.is_ipv4() { super::wire::INET } else { super::wire::INET6 };
            (family, PERMANENT, 0, *address, mac)
        }
    };
    to.raw(&[family, 0, 0, 0]).raw(&index.to_ne_bytes()).raw(&state.to_ne_bytes());
    to.raw(&[flags, 0]).bytes_attribute(1, &octets(address)).bytes_attribute(2, &mac.0);
}
