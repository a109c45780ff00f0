//! PROXY protocol headers, versions 1 and 2, as a load balancer before the gateway would send them.
//! Only encoding: reading them is the business of whoever is tested.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const TLV_CRC32C: u8 = 0x03;

/// A header under construction; `encode` gives its bytes.
#[derive(Clone, Debug)]
pub struct ProxyHeader {
    form: Form,
    tlvs: Vec<u8>,
    checksum: bool,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    V1 { source: SocketAddr, destination: SocketAddr },
    V1Unknown,
    V2 { source: SocketAddr, destination: SocketAddr },
    V2Local,
    V2Unspec,
}

impl ProxyHeader {
    /// Version 1, `PROXY TCP4` or `PROXY TCP6` after the source's family.
    #[must_use]
    pub fn v1(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(Form::V1 { source, destination })
    }

    /// Version 1, `PROXY UNKNOWN`.
    #[must_use]
    pub fn v1_unknown() -> Self {
        Self::new(Form::V1Unknown)
    }

    /// Version 2, PROXY command, TCP over the source's family.
    #[must_use]
    pub fn v2(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(Form::V2 { source, destination })
    }

    /// Version 2, LOCAL command: a health check of the balancer itself.
    #[must_use]
    pub fn v2_local() -> Self {
        Self::new(Form::V2Local)
    }

    /// Version 2, PROXY command with the unspecified family.
    #[must_use]
    pub fn v2_unspec() -> Self {
        Self::new(Form::V2Unspec)
    }

    /// Adds a type-length-value element; version 1 leaves it out. 0x02 is the authority, 0x01 the ALPN.
    #[must_use]
    pub fn tlv(mut self, kind: u8, value: &[u8]) -> Self {
        let length = u16::try_from(value.len()).expect("a TLV has at most 65535 bytes");
        self.tlvs.push(kind);
        self.tlvs.extend(length.to_be_bytes());
        self.tlvs.extend(value);
        self
    }

    /// Adds the CRC32C element; version 1 leaves it out.
    #[must_use]
    pub fn checksum(mut self) -> Self {
        self.checksum = true;
        self
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self.form {
            Form::V1 { source, destination } => encode_v1(source, destination),
            Form::V1Unknown => b"PROXY UNKNOWN\r\n".to_vec(),
            Form::V2 { source, destination } => {
                let family = if source.is_ipv4() { 0x11 } else { 0x21 };
                self.encode_v2(0x21, family, &addresses(source, destination))
            }
            Form::V2Local => self.encode_v2(0x20, 0x00, &[]),
            Form::V2Unspec => self.encode_v2(0x21, 0x00, &[]),
        }
    }

    fn new(form: Form) -> Self {
        Self { form, tlvs: Vec::new(), checksum: false }
    }

    fn encode_v2(&self, command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let checksum: &[u8] = if self.checksum { &[TLV_CRC32C, 0, 4, 0, 0, 0, 0] } else { &[] };
        let payload = addresses.len() + self.tlvs.len() + checksum.len();
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(
            u16::try_from(payload).expect("a header has at most 65535 bytes").to_be_bytes(),
        );
        bytes.extend(addresses);
        bytes.extend(&self.tlvs);
        bytes.extend(checksum);
        if self.checksum {
            // The sum is taken over the whole header with its own field zero.
            let sum = crc32c(&bytes).to_be_bytes();
            let at = bytes.len() - sum.len();
            bytes[at..].copy_from_slice(&sum);
        }
        bytes
    }
}

fn encode_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn addresses(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut bytes = octets(source.ip());
    bytes.extend(octets(destination.ip()));
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

/// Castagnoli's CRC, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc32c_holds() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn version_1_is_one_line() {
        let header = ProxyHeader::v1(address("192.0.2.1:40000"), address("198.51.100.2:443"));

        assert_eq!(header.encode(), b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n");
        assert_eq!(ProxyHeader::v1_unknown().encode(), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_carries_addresses_and_elements() {
        let header =
            ProxyHeader::v2(address("192.0.2.1:258"), address("198.51.100.2:443")).tlv(2, b"acme");

        let mut expected = SIGNATURE.to_vec();
        expected.extend([0x21, 0x11, 0, 19, 192, 0, 2, 1, 198, 51, 100, 2, 1, 2, 1, 187, 2, 0, 4]);
        expected.extend(b"acme");
        assert_eq!(header.encode(), expected);
    }

    #[test]
    fn version_2_knows_ipv6_local_and_unspec() {
        let v6 = ProxyHeader::v2(address("[2001:db8::1]:1"), address("[2001:db8::2]:2")).encode();

        assert_eq!((v6.len(), v6[12], v6[13], v6[15]), (16 + 36, 0x21, 0x21, 36));
        assert_eq!(ProxyHeader::v2_local().encode()[12..], [0x20, 0, 0, 0]);
        assert_eq!(ProxyHeader::v2_unspec().encode()[12..], [0x21, 0, 0, 0]);
    }

    #[test]
    fn the_checksum_covers_the_header_with_its_own_field_zero() {
        let bytes = ProxyHeader::v2_local().checksum().encode();

        let mut zeroed = bytes.clone();
        let at = bytes.len() - 4;
        zeroed[at..].fill(0);
        assert_eq!(bytes[at..], crc32c(&zeroed).to_be_bytes());
        assert_eq!(bytes[at - 3..at], [TLV_CRC32C, 0, 4]);
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
