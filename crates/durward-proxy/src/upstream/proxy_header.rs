//! Encoder of the PROXY protocol header for upstreams; `peek` has the parser.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use durward_model::upstream::ProxyVersion;
use durward_model::{ClientAddr, Destination, TenantId};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Type of the TLV with the tenant's name, from the range for applications.
const TLV_TENANT: u8 = 0xE0;

/// Encodes the header of one client's connection.
pub(crate) fn encode(
    version: ProxyVersion,
    client: ClientAddr,
    destination: Destination,
    tenant: &TenantId,
) -> Vec<u8> {
    let (client, destination) = same_family(client.0, destination.0);
    match version {
        ProxyVersion::V1 => text(client, destination),
        ProxyVersion::V2 => binary(client, destination, tenant),
    }
}

/// Encodes the header of our own connection (LOCAL): a health check has no client.
pub(crate) fn own(version: ProxyVersion) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyVersion::V2 => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
    }
}

/// Returns both addresses as IPv4 if possible, else both as IPv6.
fn same_family(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |s: SocketAddr| SocketAddr::new(s.ip().to_canonical(), s.port());
    let (a, b) = (canonical(a), canonical(b));
    let wide = |s: SocketAddr| match s.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), s.port()),
        IpAddr::V6(_) => s,
    };
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (wide(a), wide(b)) }
}

fn text(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), destination.port()).into_bytes()
}

fn binary(client: SocketAddr, destination: SocketAddr, tenant: &TenantId) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    for address in [client, destination] {
        match address.ip() {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(client.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    body.push(TLV_TENANT);
    body.extend(length(tenant.as_str().len()));
    body.extend(tenant.as_str().as_bytes());

    let mut header = Vec::with_capacity(16 + body.len());
    header.extend(SIGNATURE);
    header.push(0x21);
    header.push(if client.is_ipv4() { 0x11 } else { 0x21 });
    header.extend(length(body.len()));
    let _infallible = header.write_all(&body);
    header
}

/// Encodes a length: names are at most 63 bytes and addresses 36, so it always fits.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: ProxyVersion, client: &str, destination: &str) -> Vec<u8> {
        let (client, destination) = (client.parse().unwrap(), destination.parse().unwrap());
        encode(
            version,
            ClientAddr(client),
            Destination(destination),
            &TenantId::new("acme").unwrap(),
        )
    }

    // S1.25
    #[test]
    fn version_1_is_a_line() {
        assert_eq!(
            header(ProxyVersion::V1, "192.0.2.7:4711", "198.51.100.2:443"),
            b"PROXY TCP4 192.0.2.7 198.51.100.2 4711 443\r\n"
        );
        assert_eq!(
            header(ProxyVersion::V1, "[2001:db8::7]:4711", "198.51.100.2:443"),
            b"PROXY TCP6 2001:db8::7 ::ffff:198.51.100.2 4711 443\r\n"
        );
    }

    // S1.25
    #[test]
    fn version_2_carries_addresses_and_the_tenant() {
        let header = header(ProxyVersion::V2, "[::ffff:192.0.2.7]:4711", "198.51.100.2:443");

        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13".to_vec();
        wanted.extend([192, 0, 2, 7, 198, 51, 100, 2, 0x12, 0x67, 0x01, 0xBB]);
        wanted.extend(b"\xE0\0\x04acme");
        assert_eq!(header, wanted);
    }
}
