//! Packets that belong to no connection, or to one of which their sender is no end.

mod clients;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use durward_nat::{Nat, Options};
use durward_testkit::netns::traffic::checksum;
use durward_testkit::netns::{Capture, Namespace, in_namespace, ip};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{EXT1, Lab, P1, P2, REMOTE, SOON, apply, egress, model, options};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const PATIENCE: Duration = Duration::from_secs(60);

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// A whole packet.
fn packet(protocol: u8, source: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    [&head[..], &v4(source).octets(), &v4(to).octets(), payload].concat()
}

fn send_to(from: &Namespace, to: &str, packet: &[u8]) {
    from.run(|| {
        let to = SocketAddr::new(to.parse().unwrap(), 0);
        let domain = Domain::for_address(to);
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255))).unwrap();
        socket.send_to(packet, &to.into()).unwrap();
    });
}

fn segment(port: u16, flags: u8) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let mut segment = vec![high, low, 0x1e, 0x61, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff];
    segment.extend([0; 4]);
    let pseudo = [&v4(P1).octets()[..], &v4(REMOTE).octets(), &[0, TCP, 0, 20], &segment].concat();
    segment[16..18].copy_from_slice(&checksum(&pseudo));
    segment
}

fn message(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[2..4].copy_from_slice(&[0, 0]);
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum);
    bytes
}

/// That a datagram from the remote side to P1's port 5000 found nobody.
fn unreachable() -> Vec<u8> {
    let about = packet(UDP, REMOTE, P1, &[0, 99, 0x13, 0x88, 0, 9, 0, 0]);
    message([&[3, 3, 0, 0, 0, 0, 0, 0][..], &about].concat())
}

#[test]
fn what_belongs_to_no_connection_does_not_leave_by_the_hosts_other_interfaces() {
    in_namespace(
        "strays::what_belongs_to_no_connection_does_not_leave_by_the_hosts_other_interfaces",
        || {
            let lab = Lab::new();
            // The host's default route leads by an interface that is none of Durward's.
            ip("route replace default via 198.51.100.254");
            let nat = Nat::start(Options { external: "ext1".to_owned(), ..options() }).unwrap();
            apply(&nat, &model(vec![], vec![egress(&[format!("{P1}/32")], &[EXT1])]));
            let seen = [Capture::start(&lab.c1), Capture::start(&lab.c2)];
            let mut bad = segment(4_001, 2);
            bad[16] ^= 0x55;
            let forms = [
                ("RST", TCP, segment(4_002, 4)),
                ("FIN", TCP, segment(4_003, 1)),
                ("SYN and ACK", TCP, segment(4_004, 0x12)),
                ("SYN and FIN", TCP, segment(4_005, 3)),
                ("no flag", TCP, segment(4_006, 0)),
                ("a bad checksum", TCP, bad),
                ("a short header", TCP, segment(4_007, 2)[..12].to_vec()),
                ("a wrong length", UDP, vec![0x10, 0, 0x1e, 0x61, 0, 99, 0, 0]),
                ("an error about nothing", ICMP, unreachable()),
                ("an answer to no ping", ICMP, message(vec![0, 0, 0, 0, 1, 2, 3, 4])),
                ("an unknown message", ICMP, message(vec![200, 0, 0, 0, 1, 2, 3, 4])),
            ];

            for (_, protocol, payload) in &forms {
                send_to(&lab.p1, REMOTE, &packet(*protocol, P1, REMOTE, payload));
            }
            // Nothing of the pod that is in no list is held back by the same rules.
            send_to(&lab.p2, REMOTE, &packet(TCP, P2, REMOTE, &segment(4_008, 4)));

            let own: IpAddr = P1.parse().unwrap();
            let other: IpAddr = P2.parse().unwrap();
            assert!(seen[1].sees(PATIENCE, |packet| packet.source == other), "the control");
            for seen in &seen {
                let leaked: Vec<_> =
                    seen.seen().into_iter().filter(|packet| packet.source == own).collect();
                assert!(leaked.is_empty(), "{leaked:?}");
            }
            assert!(nat.counters().unwrap().refused["invalid"].packets >= 8);
        },
    );
}

#[test]
fn an_error_about_anothers_connection_does_not_leave() {
    in_namespace("strays::an_error_about_anothers_connection_does_not_leave", || {
        let lab = Lab::new();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![], vec![egress(&[format!("{P1}/32")], &[EXT1])]));
        let seen = Capture::start(&lab.c1);
        lab.p1.run(|| {
            let socket = UdpSocket::bind((P1, 5_000)).unwrap();
            socket.send_to(b"?", (REMOTE, 99)).unwrap();
        });
        let own: IpAddr = EXT1.parse().unwrap();
        assert!(seen.sees(PATIENCE, |packet| packet.source == own && packet.protocol == UDP));

        for source in [P2, "192.0.2.77"] {
            send_to(&lab.p2, REMOTE, &packet(ICMP, source, REMOTE, &unreachable()));
        }
        std::thread::sleep(SOON);
        let errors = || seen.seen().into_iter().filter(|one| one.protocol == ICMP).count();
        let before = errors();
        send_to(&lab.p1, REMOTE, &packet(ICMP, P1, REMOTE, &unreachable()));

        assert_eq!(before, 0, "forged: {:?}", seen.seen());
        let arrived = seen.sees(PATIENCE, |one| one.protocol == ICMP && one.source == own);
        assert!(arrived, "the connection's own pod may");
        assert_eq!(nat.counters().unwrap().refused["forged"].packets, 2);
    });
}
