//! Links, addresses, routes and rules as `linux/rtnetlink.h` and `linux/fib_rules.h` define them.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{HeldAddress, Neighbour};
use crate::interface::Link;
use crate::netlink::{Builder, Message};
use crate::policy_route::{Action, Hop, Route, Rule, Selector, any};

pub(super) const INET: u8 = 2;
pub(super) const INET6: u8 = 10;

const UP: u32 = 1;
/// `IFF_LOWER_UP`: the interface has a carrier.
const LOWER_UP: u32 = 1 << 16;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const UNREACHABLE: u8 = 7;
const THROW: u8 = 9;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
/// Index of `lo`, in every network namespace.
const LOOPBACK: u32 = 1;
const ONLINK: u32 = 4;
/// `FR_ACT_*`.
const TO_TABLE: u8 = 1;
const GOTO: u8 = 2;
const NOP: u8 = 3;
const PROHIBIT: u8 = 8;
/// Interface name by which rules match packets of this host itself.
const SELF: &str = "lo";
/// `IFA_F_NODAD`: the address is usable at once.
const NO_DETECTION: u32 = 2;

/// Route with the protocol number of its author.
pub(super) struct Labelled {
    pub(super) route: Route,
    pub(super) protocol: u8,
}

pub(super) fn link(message: &Message) -> Option<Link> {
    let word =
        |at: usize| Some(u32::from_ne_bytes(message.payload.get(at..at + 4)?.try_into().ok()?));
    let attributes = message.attributes(16);
    let name = attributes.text(3)?;
    let mac = attributes.get(1).and_then(|mac| mac.value.try_into().ok());
    let bridge = attributes.nested(18).text(1).as_deref() == Some("bridge");
    let flags = word(8)?;
    let (up, running) = (flags & UP != 0, flags & (UP | LOWER_UP) == UP | LOWER_UP);
    let carrier_changes = attributes.ne32(35).unwrap_or_default();
    let index = word(4)?;
    Some(Link { name, index, up, running, carrier_changes, bridge, mac, ..Link::default() })
}

pub(super) fn address(message: &Message) -> Option<HeldAddress> {
    let header = message.payload.get(..8)?;
    let attributes = message.attributes(8);
    let local = attributes.get(2).or_else(|| attributes.get(1))?;
    Some(HeldAddress {
        index: u32::from_ne_bytes(header[4..8].try_into().ok()?),
        net: IpNet::new(ip(local.value)?, header[1]).ok()?,
        protocol: attributes.get(11).and_then(|label| label.value.first().copied()).unwrap_or(0),
    })
}

pub(super) fn neighbour(message: &Message) -> Option<Neighbour> {
    // States with a known hardware address (NUD_*): reachable, stale, delay, probe, noarp, permanent.
    const KNOWN: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
    let header = message.payload.get(..12)?;
    Some(Neighbour {
        index: u32::from_ne_bytes(header[4..8].try_into().ok()?),
        address: ip(message.attributes(12).get(1)?.value)?,
        answered: u16::from_ne_bytes(header[8..10].try_into().ok()?) & KNOWN != 0,
    })
}

pub(super) fn route(message: &Message) -> Option<Labelled> {
    let header = message.payload.get(..12)?;
    let attributes = message.attributes(12);
    let (family, kind) = (header[0], header[7]);
    let destination = match attributes.get(1) {
        Some(destination) => ip(destination.value)?,
        None => any(family == INET),
    };
    let interface = attributes.ne32(4);
    let gateway = attributes.get(5).and_then(|gateway| ip(gateway.value));
    let hop = match (kind, gateway, interface) {
        (UNREACHABLE, ..) => Hop::Unreachable,
        (THROW, ..) => Hop::Throw,
        (LOCAL, None, Some(LOOPBACK)) => Hop::Local,
        (UNICAST, Some(gateway), Some(interface)) => Hop::Gateway { gateway, interface },
        (UNICAST, None, Some(interface)) => Hop::Link { interface },
        _ => return None,
    };
    let route = Route {
        table: attributes.ne32(15).unwrap_or_else(|| u32::from(header[4])),
        destination: IpNet::new(destination, header[1]).ok()?,
        metric: attributes.ne32(6).unwrap_or_default(),
        hop,
    };
    Some(Labelled { route, protocol: header[5] })
}

/// Parses a rule, if it has this label and is one that Durward could have written.
pub(super) fn rule(message: &Message, protocol: u8) -> Option<Rule> {
    let header = message.payload.get(..12)?;
    let attributes = message.attributes(12);
    if attributes.get(21)?.value.first() != Some(&protocol) {
        return None;
    }
    let table = || attributes.ne32(15).unwrap_or_else(|| u32::from(header[4]));
    let action = match header[7] {
        TO_TABLE => Action::Lookup(table()),
        GOTO => Action::Goto(attributes.ne32(4)?),
        NOP => Action::Nothing,
        PROHIBIT => Action::Prohibit,
        _ => return None,
    };
    let end = |kind| attributes.get(kind).and_then(|end| ip(end.value));
    let selector = match (end(1), end(2), attributes.ne32(10)) {
        (Some(to), None, None) => Selector::To(IpNet::new(to, header[1]).ok()?),
        (None, Some(from), None) => Selector::From(IpNet::new(from, header[2]).ok()?),
        (None, None, Some(mark)) => {
            Selector::Mark { mark, mask: attributes.ne32(16).unwrap_or(u32::MAX) }
        }
        (None, None, None) if attributes.text(3).as_deref() == Some(SELF) => Selector::Local,
        (None, None, None) if attributes.get(3).is_none() => Selector::All,
        _ => return None,
    };
    Some(Rule {
        priority: attributes.ne32(6).unwrap_or_default(),
        ipv4: header[0] == INET,
        selector,
        action,
    })
}

pub(super) fn write_route(to: &mut Builder, route: &Route, protocol: u8) {
    let (kind, scope, flags) = match route.hop {
        Hop::Link { .. } => (UNICAST, SCOPE_LINK, 0),
        Hop::Gateway { .. } => (UNICAST, 0, ONLINK),
        Hop::Unreachable => (UNREACHABLE, 0, 0),
        Hop::Throw => (THROW, 0, 0),
        Hop::Local => (LOCAL, SCOPE_HOST, 0),
    };
    let destination = route.destination;
    // IPv6 ignores the scope and reports 0, so any other value would always differ.
    let scope = if destination.addr().is_ipv4() { scope } else { 0 };
    let family = family(destination.addr());
    to.raw(&[family, destination.prefix_len(), 0, 0, 0, protocol, scope, kind]);
    to.raw(&u32::to_ne_bytes(flags));
    to.ne32(15, route.table);
    if destination.prefix_len() > 0 {
        to.bytes_attribute(1, &octets(destination.addr()));
    }
    if route.metric > 0 {
        to.ne32(6, route.metric);
    }
    match route.hop {
        Hop::Link { interface } => {
            to.ne32(4, interface);
        }
        Hop::Gateway { gateway, interface } => {
            to.bytes_attribute(5, &octets(gateway)).ne32(4, interface);
        }
        Hop::Local => {
            to.ne32(4, LOOPBACK);
        }
        Hop::Unreachable | Hop::Throw => {}
    }
}

pub(super) fn write_rule(to: &mut Builder, rule: &Rule, protocol: u8) {
    let (to_len, from_len) = match &rule.selector {
        Selector::To(net) => (net.prefix_len(), 0),
        Selector::From(net) => (0, net.prefix_len()),
        Selector::Mark { .. } | Selector::Local | Selector::All => (0, 0),
    };
    let action = match rule.action {
        Action::Lookup(_) => TO_TABLE,
        Action::Goto(_) => GOTO,
        Action::Nothing => NOP,
        Action::Prohibit => PROHIBIT,
    };
    let family = if rule.ipv4 { INET } else { INET6 };
    to.raw(&[family, to_len, from_len, 0, 0, 0, 0, action]).raw(&[0; 4]);
    to.ne32(6, rule.priority).bytes_attribute(21, &[protocol]);
    match rule.action {
        Action::Lookup(table) => drop(to.ne32(15, table)),
        Action::Goto(priority) => drop(to.ne32(4, priority)),
        Action::Nothing | Action::Prohibit => {}
    }
    match &rule.selector {
        Selector::To(net) => to.bytes_attribute(1, &octets(net.addr())),
        Selector::From(net) => to.bytes_attribute(2, &octets(net.addr())),
        Selector::Mark { mark, mask } => to.ne32(10, *mark).ne32(16, *mask),
        Selector::Local => to.text(3, SELF),
        Selector::All => to,
    };
}

pub(super) fn write_address(
    to: &mut Builder,
    index: u32,
    net: IpNet,
    valid: Option<Duration>,
    protocol: u8,
) {
    let bytes = octets(net.addr());
    to.raw(&[family(net.addr()), net.prefix_len(), 0, 0]).raw(&index.to_ne_bytes());
    to.bytes_attribute(2, &bytes).bytes_attribute(1, &bytes);
    to.ne32(8, NO_DETECTION).bytes_attribute(11, &[protocol]);
    if let Some(valid) = valid {
        // Lifetimes are whole seconds, and the kernel rejects 0.
        let seconds = valid.as_secs().clamp(1, u64::from(u32::MAX - 1)) as u32;
        let words = [seconds, seconds, 0, 0].map(u32::to_ne_bytes);
        to.bytes_attribute(6, &words.concat());
    }
}

/// Writes the request for the route to an address.
pub(super) fn write_lookup(to: &mut Builder, address: IpAddr) {
    let bytes = octets(address);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    to.raw(&[family(address), bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).bytes_attribute(1, &bytes);
}

/// Returns whether a route ends at this host (`RTN_LOCAL`).
pub(super) fn is_local(route: &Message) -> bool {
    route.payload.get(7) == Some(&2)
}

const fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

/// Returns the bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
