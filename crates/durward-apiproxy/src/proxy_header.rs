//! The PROXY protocol header, version 2, that precedes the client's bytes.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Type of the TLV with the name of the hosted API server (`PP2_TYPE_AUTHORITY`).
const AUTHORITY: u8 = 0x02;
/// Type of the TLV with the connection's identifier (`PP2_TYPE_UNIQUE_ID`).
const UNIQUE_ID: u8 = 0x05;

/// Facts of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Address of the client.
    pub source: SocketAddr,
    /// Address that the client dialled.
    pub destination: SocketAddr,
    /// Name of the hosted API server.
    pub authority: &'a str,
    /// Identifier of the connection, at most 128 bytes.
    pub unique_id: &'a str,
}

/// Returns the header's bytes. Where source and destination are of different families, both are written as IPv6.
#[must_use]
pub fn encode(header: &Header<'_>) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let family = match (header.source.ip().to_canonical(), header.destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            addresses.extend(source.octets());
            addresses.extend(destination.octets());
            TCP_OVER_IPV4
        }
        (source, destination) => {
            addresses.extend(octets(source));
            addresses.extend(octets(destination));
            TCP_OVER_IPV6
        }
    };
    addresses.extend(header.source.port().to_be_bytes());
    addresses.extend(header.destination.port().to_be_bytes());
    let mut body = addresses;
    tlv(&mut body, AUTHORITY, header.authority);
    tlv(&mut body, UNIQUE_ID, header.unique_id);
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(SIGNATURE);
    bytes.extend([VERSION_COMMAND, family]);
    bytes.extend(length(body.len()));
    bytes.extend(body);
    bytes
}

fn tlv(to: &mut Vec<u8>, kind: u8, value: &str) {
    to.push(kind);
    to.extend(length(value.len()));
    to.extend(value.as_bytes());
}

/// A name has at most 253 bytes and an identifier 128, so no length comes near the bound.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(source: &str, destination: &str) -> Header<'a> {
        Header {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            authority: "a.example",
            unique_id: "id-1",
        }
    }

    #[test]
    fn the_header_has_both_addresses_the_name_and_the_identifier() {
        let bytes = encode(&header("10.244.1.5:40000", "10.96.0.1:443"));

        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x1f".to_vec();
        expected.extend([10, 244, 1, 5, 10, 96, 0, 1, 0x9c, 0x40, 0x01, 0xbb]);
        expected.extend(b"\x02\x00\x09a.example\x05\x00\x04id-1");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_mapped_address_is_written_as_what_it_is_and_mixed_families_as_ipv6() {
        let mapped = encode(&header("[::ffff:10.0.0.1]:1", "10.0.0.2:2"));
        let mixed = encode(&header("10.0.0.1:1", "[fd00::1]:2"));

        assert_eq!(mapped[13], TCP_OVER_IPV4);
        assert_eq!(mixed[13], TCP_OVER_IPV6);
        assert_eq!(mixed[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
    }
}
