//! Frames that announce an address: ARP (RFC 5227; request and reply, because some hosts ignore one of them), and the neighbour advertisement of RFC
//! 4861, section 7.2.6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

const EVERYBODY: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Builds the frames that announce an address.
pub(super) fn frames(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => vec![arp(1, address, mac), arp(2, address, mac)],
        IpAddr::V6(address) => vec![advertisement(address, mac)],
    }
}

fn arp(operation: u16, address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let target = if operation == 1 { [0; 6] } else { mac.0 };
    let operation = operation.to_be_bytes();
    [
        &EVERYBODY[..],
        &mac.0,
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4],
        &operation,
        &mac.0,
        &address.octets(),
        &target,
        &address.octets(),
    ]
    .concat()
}

fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    // The override flag makes neighbours replace a cached hardware address (RFC 4861, section 4.4).
    let mut message =
        [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &address.octets(), &[2, 1], &mac.0].concat();
    let checksum = checksum(address, &message).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    let length = (message.len() as u16).to_be_bytes();
    [
        &ALL_NODES_MAC[..],
        &mac.0,
        &[0x86, 0xdd, 0x60, 0, 0, 0],
        &length,
        &[58, 255],
        &address.octets(),
        &ALL_NODES.octets(),
        &message,
    ]
    .concat()
}

fn checksum(source: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let pseudo =
        [&source.octets()[..], &ALL_NODES.octets(), &length, &[0, 0, 0, 58], message].concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_carries_a_checksum_that_adds_up() {
        let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let frame = advertisement(address, Mac([2, 0, 0, 0, 0, 1]));

        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(checksum(address, &frame[54..]), 0, "over a message with its checksum");
    }

    #[test]
    fn arp_is_asked_and_answered() {
        let frames = frames("192.0.2.1".parse().unwrap(), Mac([2, 0, 0, 0, 0, 1]));

        assert_eq!(frames.iter().map(|frame| frame[21]).collect::<Vec<_>>(), [1, 2]);
        assert!(frames.iter().all(|frame| frame.len() == 42 && frame[28..32] == frame[38..42]));
    }
}
