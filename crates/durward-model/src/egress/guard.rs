//! Guarded address ranges, which a forward proxy does not connect to by default: those near the gateway rather than on the Internet.
//!
//! Every spelling of an address has become the address before it gets here. Deliberately absent: a switch that turns the guard off; an allow
//! rule opens a range by naming a block that lies wholly inside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

/// Reason why an address is guarded; the word in `guard:…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarded {
    /// A cloud's metadata service.
    Metadata,
    /// `0.0.0.0/8`, `::`
    Unspecified,
    /// `127.0.0.0/8`, `::1`
    Loopback,
    /// `169.254.0.0/16`, `fe80::/10`
    LinkLocal,
    /// RFC 1918, RFC 4193, site-local.
    Private,
    /// `100.64.0.0/10`, between a provider and its customers.
    Shared,
    /// One that another address is embedded in: NAT64, 6to4, Teredo, ISATAP, IPv4-compatible.
    Embedded,
    /// Multicast.
    Multicast,
    /// Not for use, or not on the internet.
    Reserved,
    /// An address of another tenant here.
    OtherTenant,
    /// A listening socket of this gateway.
    Gateway,
    /// Another address of the host the gateway runs on.
    Host,
}

impl Guarded {
    /// The word in records and on the page that says no.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Embedded => "embedded",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::OtherTenant => "other-tenant",
            Self::Gateway => "gateway",
            Self::Host => "host",
        }
    }
}

/// In order; the first that holds an address is its class.
const RANGES: &[(&str, Guarded)] = &[
    ("169.254.169.254/32", Guarded::Metadata),
    ("169.254.170.2/32", Guarded::Metadata),
    ("169.254.170.23/32", Guarded::Metadata),
    ("100.100.100.200/32", Guarded::Metadata),
    ("168.63.129.16/32", Guarded::Metadata),
    ("192.0.0.192/32", Guarded::Metadata),
    ("fd00:ec2::254/128", Guarded::Metadata),
    ("fd00:ec2::23/128", Guarded::Metadata),
    ("fd20:ce::254/128", Guarded::Metadata),
    ("fd00:42::42/128", Guarded::Metadata),
    ("0.0.0.0/8", Guarded::Unspecified),
    ("127.0.0.0/8", Guarded::Loopback),
    ("169.254.0.0/16", Guarded::LinkLocal),
    ("10.0.0.0/8", Guarded::Private),
    ("172.16.0.0/12", Guarded::Private),
    ("192.168.0.0/16", Guarded::Private),
    ("100.64.0.0/10", Guarded::Shared),
    ("192.88.99.0/24", Guarded::Embedded),
    ("192.0.0.0/24", Guarded::Reserved),
    ("198.18.0.0/15", Guarded::Reserved),
    ("224.0.0.0/4", Guarded::Multicast),
    ("240.0.0.0/4", Guarded::Reserved),
    ("::/128", Guarded::Unspecified),
    ("::1/128", Guarded::Loopback),
    ("::/96", Guarded::Embedded),
    ("::ffff:0:0:0/96", Guarded::Embedded),
    ("64:ff9b::/96", Guarded::Embedded),
    ("64:ff9b:1::/48", Guarded::Embedded),
    ("2002::/16", Guarded::Embedded),
    ("2001::/32", Guarded::Embedded),
    ("fe80::/10", Guarded::LinkLocal),
    ("fec0::/10", Guarded::Private),
    ("fc00::/7", Guarded::Private),
    ("ff00::/8", Guarded::Multicast),
    // All that is not global unicast (RFC 4291 section 2.4).
    ("::/3", Guarded::Reserved),
    ("4000::/2", Guarded::Reserved),
    ("8000::/1", Guarded::Reserved),
];

/// The class of a guarded address and the range it is in; `None` for the rest of the world.
#[must_use]
pub fn classify(address: IpAddr) -> Option<(Guarded, IpNet)> {
    static TABLE: LazyLock<Vec<(IpNet, Guarded)>> = LazyLock::new(|| {
        let parse = |(text, class): &(&str, Guarded)| text.parse().ok().map(|net| (net, *class));
        RANGES.iter().filter_map(parse).collect()
    });
    let address = address.to_canonical();
    let known = TABLE.iter().find(|(range, _)| range.contains(&address));
    if let Some((range, class)) = known {
        return Some((*class, *range));
    }
    match address {
        IpAddr::V6(address) if is_isatap(address) => {
            Some((Guarded::Embedded, IpNet::from(IpAddr::V6(address))))
        }
        _ => None,
    }
}

/// The IPv4 addresses that one of the ranges of `Guarded::Embedded` leads to; none for all other addresses.
///
/// Sources: RFC 6052 section 2.1 (NAT64), RFC 8215, RFC 3056 section 2 (6to4), RFC 4380 section 4 (Teredo: server and client), RFC 5214 (ISATAP),
/// RFC 4291 section 2.5.5.1 (compatible), RFC 2765 (translated). A NAT64 prefix of a network's own cannot be told from other addresses.
#[must_use]
pub fn embedded(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(address) = address.to_canonical() else { return Vec::new() };
    if classify(IpAddr::V6(address)).is_none_or(|(class, _)| class != Guarded::Embedded) {
        return Vec::new();
    }
    let [first, second, third, fourth, .., seventh, last] = address.segments();
    let v4 = |high: u16, low: u16| {
        IpAddr::from(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match (first, second) {
        (0x2002, _) => vec![v4(second, third)],
        (0x2001, 0) => vec![v4(third, fourth), v4(!seventh, !last)],
        _ => vec![v4(seventh, last)],
    }
}

/// RFC 5214: the interface identifier is `[02]00:5efe` and an IPv4 address.
fn is_isatap(address: Ipv6Addr) -> bool {
    let [.., high, low, _, _] = address.segments();
    (high == 0 || high == 0x0200) && low == 0x5efe
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.42
    #[test]
    fn what_is_embedded_is_found() {
        for (outer, inner) in [
            ("64:ff9b::a9fe:a9fe", &["169.254.169.254"][..]),
            ("64:ff9b:1::a00:1", &["10.0.0.1"]),
            ("2002:7f00:2::1", &["127.0.0.2"]),
            ("2001:0:a00:1:8000:63bf:80ff:fffe", &["10.0.0.1", "127.0.0.1"]),
            ("2606:4700::5efe:7f00:1", &["127.0.0.1"]),
            ("::192.0.2.1", &["192.0.2.1"]),
            ("::ffff:0:192.0.2.1", &["192.0.2.1"]),
            ("2606:4700::1111", &[]),
            ("192.0.2.1", &[]),
            ("::ffff:192.0.2.1", &[]),
        ] {
            let found = embedded(outer.parse().unwrap());
            let wanted: Vec<IpAddr> = inner.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(found, wanted, "{outer}");
        }
    }

    // S2.42
    #[test]
    fn every_range_is_read_and_the_world_is_not_guarded() {
        assert!(RANGES.iter().all(|(text, _)| text.parse::<IpNet>().is_ok()));
        for open in ["1.1.1.1", "203.0.113.7", "172.15.255.255", "172.32.0.1", "2606:4700::1111"] {
            assert_eq!(classify(open.parse().unwrap()), None, "{open}");
        }
        for (address, class) in [
            ("169.254.169.254", Guarded::Metadata),
            ("::ffff:169.254.169.254", Guarded::Metadata),
            ("169.254.1.1", Guarded::LinkLocal),
            ("127.9.9.9", Guarded::Loopback),
            ("::ffff:7f00:1", Guarded::Loopback),
            ("0.1.2.3", Guarded::Unspecified),
            ("255.255.255.255", Guarded::Reserved),
            ("64:ff9b::7f00:1", Guarded::Embedded),
            ("2002:7f00:1::", Guarded::Embedded),
            ("2001:0:4136:e378:8000:63bf:80ff:fffe", Guarded::Embedded),
            ("2606:4700::5efe:7f00:1", Guarded::Embedded),
            ("::127.0.0.1", Guarded::Embedded),
            ("fd00:ec2::254", Guarded::Metadata),
            ("fd00::1", Guarded::Private),
            ("4000::1", Guarded::Reserved),
        ] {
            assert_eq!(
                classify(address.parse().unwrap()).map(|(class, _)| class),
                Some(class),
                "{address}"
            );
        }
    }
}
