//! Everything a pod can send, and every moment it can send it: from its tenant's address, or not at all.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use durward_testkit::client::RawHttp;
use durward_testkit::netns::{Capture, Namespace, Packet, in_namespace, ip};
use durward_testkit::process::eventually_blocking;
use socket2::{Domain, Protocol, Socket, Type};

use super::world::{Fate, SOON, seen, speak, tls, udp};
use super::{ACME, ACME_POD, BANK, BANK_POD, EVIL, GOOD, Lab, NODE, OTHER, RAW, RESOLVER, all, at};
use crate::support::DEADLINE;

/// Protocols that are neither TCP nor UDP nor ICMP: GRE, ESP, SCTP, and one nobody has.
const ODD: [i32; 4] = [47, 50, 132, 253];

/// Whatever a pod can think of, towards every server, in both families.
fn everything(pod: &Namespace, own: [&str; 2], others: &[&str]) {
    for server in [GOOD, OTHER, EVIL] {
        for (family, address) in server.into_iter().enumerate() {
            for name in [Some("bank.example"), Some("evil.example"), None] {
                tls(pod, at(address, 443), name);
            }
            for port in [22, 25, 53, 853, 8443] {
                speak(pod, at(address, port), b"hello\r\n");
            }
            speak(
                pod,
                at(address, 80),
                b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            );
            for port in [53, 123, 443, 9999] {
                udp(pod, at(address, port), Duration::from_millis(20));
            }
            pod.run(|| raw(own[family], address));
        }
    }
    for source in others {
        pod.run(|| forged(source, GOOD[0]));
    }
}

/// Pings, fragments, and protocols no rule has heard of.
fn raw(own: &str, to: &str) {
    let to = at(to, 0);
    let v4 = to.is_ipv4();
    let (domain, icmp) =
        if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let echo = if v4 { [8, 0, 0xf7, 0xff] } else { [128, 0, 0, 0] };
    let send = |protocol: Protocol, bytes: &[u8]| {
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        let _ = socket.send_to(bytes, &to.into());
    };
    send(icmp, &[&echo[..], &[0; 4]].concat());
    for protocol in ODD {
        send(Protocol::from(protocol), &[0x12, 0x34, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let socket = UdpSocket::bind(at(own, 0)).unwrap();
    let _ = socket.send_to(&[7; 4000], SocketAddr::new(to.ip(), 9999));
}

/// A datagram under an address that is not the pod's.
fn forged(source: &str, to: &str) {
    let [IpAddr::V4(from), IpAddr::V4(dest)] = [source, to].map(|ip| ip.parse().unwrap()) else {
        panic!("IPv4")
    };
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend([from.octets(), dest.octets()].concat());
    packet.extend([0x30, 0x39, 0x27, 0x0f, 0, 12, 0, 0]);
    packet.extend(*b"fake");
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let _ = socket.send_to(&packet, &at(to, 0).into());
}

/// What left, but for what neighbours say to one another.
fn left(capture: &Capture) -> Vec<Packet> {
    let neighbours = all(&[["203.0.113.254", "2001:db8:1::254"]]);
    let far = |packet: &Packet| {
        !packet.destination.is_multicast() && !neighbours.contains(&packet.destination)
    };
    capture.seen().into_iter().filter(far).collect()
}

fn sources(packets: &[Packet]) -> BTreeSet<IpAddr> {
    packets.iter().map(|packet| packet.source).collect()
}

/// Addresses a pod of this one's could pretend to have.
fn others(own: &str) -> Vec<&'static str> {
    let known = [NODE[0], ACME[0], BANK[0], ACME_POD[0], BANK_POD[0], "192.0.2.99"];
    known.into_iter().filter(|ip| *ip != own).collect()
}

// S2.3 S2.57+ S2.28+
#[test]
fn all_a_pod_sends_leaves_from_its_tenants_address_or_not_at_all() {
    let name = "transparent::all::all_a_pod_sends_leaves_from_its_tenants_address_or_not_at_all";
    in_namespace(name, || {
        let lab = Lab::new();
        let _running = lab.start_with(RAW);
        let capture = Capture::start(&lab.world.namespace);

        everything(&lab.acme, ACME_POD, &others(ACME_POD[0]));
        lab.acme.block_on(by_the_proxy);
        assert_eq!(tls(&lab.acme, at(GOOD[0], 443), Some("bank.example")), seen(ACME[0]));

        only_what_acme_may(&left(&capture));
    });
}

// S2.3 S2.57+ S2.58+ S2.28+
#[test]
fn what_is_not_the_proxys_leaves_from_the_tenants_address_where_it_says_so() {
    let name =
        "transparent::all::what_is_not_the_proxys_leaves_from_the_tenants_address_where_it_says_so";
    in_namespace(name, || {
        let lab = Lab::new();
        let _running = lab.start();
        let capture = Capture::start(&lab.world.namespace);

        everything(&lab.bank, BANK_POD, &others(BANK_POD[0]));
        for family in [0, 1] {
            for port in [53, 9999] {
                assert_eq!(udp(&lab.bank, at(EVIL[family], port), SOON * 4), seen(BANK[family]));
            }
            assert_eq!(speak(&lab.bank, at(EVIL[family], 22), b"\r\n"), seen(BANK[family]));
            let quic = udp(&lab.bank, at(EVIL[family], 443), SOON);
            assert_ne!(quic, seen(BANK[family]));
        }

        only_what_bank_may(&left(&capture));
    });
}

/// A program that knows the variables has the same tenant.
async fn by_the_proxy() {
    let mut proxy = RawHttp::connect(at("10.244.1.1", 3128)).await.unwrap();
    let request = "CONNECT bank.example:443 HTTP/1.1\r\nHost: bank.example:443\r\n\r\n";
    proxy.send(request).await.unwrap();
    assert_eq!(proxy.read_response_to("CONNECT").await.unwrap().status, 200);
    proxy.send("hello").await.unwrap();
    let said = String::from_utf8(proxy.read_some().await.unwrap()).unwrap();
    assert_eq!(said, format!("seen {}\n", ACME[1]));
}

/// Lookups, and TCP to the two ports of servers its rules name.
fn only_what_acme_may(packets: &[Packet]) {
    assert_eq!(sources(packets), all(&[ACME]), "{packets:#?}");
    let servers = all(&[GOOD, [OTHER[0]; 2]]);
    let wanted = |packet: &&Packet| match packet.port {
        53 => packet.destination == RESOLVER.parse::<IpAddr>().unwrap(),
        80 | 443 => packet.protocol == 6 && servers.contains(&packet.destination),
        _ => false,
    };
    let leaked: Vec<&Packet> = packets.iter().filter(|packet| !wanted(packet)).collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
}

/// Everything but what the proxy would have denied, and QUIC.
fn only_what_bank_may(packets: &[Packet]) {
    assert_eq!(sources(packets), all(&[BANK]), "{packets:#?}");
    for protocol in [1, 6, 17, 47, 50, 58, 253] {
        let found = packets.iter().any(|packet| packet.protocol == protocol);
        assert!(found, "protocol {protocol} was not even tried");
    }
    let judged = |packet: &&Packet| match packet.protocol {
        6 => [80, 443].contains(&packet.port),
        17 => packet.port == 443,
        _ => false,
    };
    let servers = all(&[GOOD]);
    let allowed = |packet: &Packet| packet.protocol == 6 && servers.contains(&packet.destination);
    let past: Vec<_> = packets.iter().filter(judged).filter(|packet| !allowed(packet)).collect();
    assert!(past.is_empty(), "{past:#?}");
}

// S2.57+ S2.56+
#[test]
fn without_the_process_nothing_passes_by() {
    in_namespace("transparent::all::without_the_process_nothing_passes_by", || {
        let lab = Lab::new();
        let mut running = lab.start();
        // With another server, for its connection is closed when the process is killed.
        assert_eq!(tls(&lab.acme, at(OTHER[0], 443), Some("both.bank.example")), seen(ACME[0]));

        running.kill();
        running.wait_blocking(DEADLINE);
        let capture = Capture::start(&lab.world.namespace);

        for family in [0, 1] {
            for pod in [&lab.acme, &lab.bank] {
                for port in [80, 443] {
                    let refused = tls(pod, at(GOOD[family], port), Some("bank.example"));
                    assert_eq!(refused, Fate::Failed(ErrorKind::ConnectionRefused), "{port}");
                }
            }
            assert_eq!(speak(&lab.bank, at(GOOD[family], 22), b"\r\n"), seen(BANK[family]));
        }
        let mut packets = left(&capture);
        packets.retain(|packet| all(&[GOOD]).contains(&packet.destination));
        assert_eq!(sources(&packets), all(&[BANK]));
        assert!(packets.iter().all(|packet| packet.port == 22), "{packets:#?}");

        let _again = lab.start();
        assert_eq!(tls(&lab.acme, at(GOOD[0], 443), Some("bank.example")), seen(ACME[0]));
    });
}

// S2.56+
#[test]
fn pods_that_are_there_before_the_gateway_send_nothing_under_its_address() {
    in_namespace(
        "transparent::all::pods_that_are_there_before_the_gateway_send_nothing_under_its_address",
        || {
            let lab = Lab::new();
            let capture = Capture::start(&lab.world.namespace);
            let stop = Arc::new(AtomicBool::new(false));
            let hammering: Vec<_> = [&lab.acme, &lab.bank]
                .map(|pod| {
                    let stop = Arc::clone(&stop);
                    pod.spawn(move || hammer(&stop))
                })
                .into();

            for _ in 0..3 {
                let mut running = lab.start();
                let leaves =
                    |packet: &Packet| packet.port == 9999 && all(&[BANK]).contains(&packet.source);
                assert!(capture.sees(DEADLINE, leaves), "{:#?}", capture.seen());
                running.terminate();
                running.wait_blocking(DEADLINE);
                let cleaned = lab.run_nat_cleanup();
                assert!(cleaned, "{}", ip("rule"));
            }

            stop.store(true, Ordering::Relaxed);
            hammering.into_iter().for_each(|pod| pod.join().unwrap());
            let packets = left(&capture);
            let under: Vec<&Packet> = packets
                .iter()
                .filter(|packet| !all(&[ACME, BANK]).contains(&packet.source))
                .collect();
            assert!(under.is_empty(), "{under:#?}");
        },
    );
}

/// Sends without end, from new ports each time.
fn hammer(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for (any, to) in [("0.0.0.0", GOOD[0]), ("::", GOOD[1])] {
            let socket = UdpSocket::bind(at(any, 0)).unwrap();
            let _ = socket.send_to(b"?", at(to, 9999));
            let domain = Domain::for_address(at(to, 443));
            for port in [22, 443] {
                let socket = Socket::new(domain, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&at(to, port).into());
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_change_of_rules_counts_at_once() {
    in_namespace("transparent::all::a_change_of_rules_counts_at_once", || {
        let lab = Lab::new();
        let _running = lab.start();
        let ask = |name: &str| tls(&lab.acme, at(EVIL[0], 443), Some(name));
        assert_eq!(ask("evil.example"), Fate::Alert(49));

        let text = std::fs::read_to_string(lab.dir.join("tenants.yaml")).unwrap();
        lab.dir.replace("tenants.yaml", text.replace(".bank.example", "evil.example"));

        assert!(eventually_blocking(DEADLINE, || ask("evil.example") == seen(ACME[0])));
        let denied = tls(&lab.acme, at(GOOD[0], 443), Some("bank.example"));
        assert_eq!(denied, Fate::Alert(49));
    });
}
