//! Random mappings against a small model of what should happen to a packet, in a real kernel: no difference.
//!
//! The model knows nothing of netfilter: it walks the mappings in order, as a person would.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use durward_model::mapping::{Affinity, Endpoints, MappedPort, PortMapping, PortRange, SourceMode};
use durward_model::transport::Transport;
use durward_nat::Nat;
use durward_testkit::netns::{Namespace, add_address, in_namespace, sysctl};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::lab::{
    EXT1, EXT1_V6, Lab, P1, P1_V6, P2, P2_V6, PATIENCE, REMOTE, REMOTE_V6, mapping, model, options,
    sources,
};

const ADDRESSES: [&str; 4] = [EXT1, "203.0.113.9", EXT1_V6, "2001:db8:1::9"];
const CLIENTS: [&str; 4] = [REMOTE, "203.0.113.254", REMOTE_V6, "2001:db8:1::254"];
const PODS: [&str; 4] = [P1, P2, P1_V6, P2_V6];
const PORTS: std::ops::Range<u16> = 7000..7006;
const BLOCKS: [&str; 7] = [
    "0.0.0.0/0",
    "::/0",
    "192.0.2.0/24",
    "192.0.2.10/32",
    "203.0.113.0/24",
    "2001:db8:1::/64",
    "2001:db8::/32",
];

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// One of these endpoints gets it, and sees this peer.
    Reaches(BTreeSet<SocketAddr>, IpAddr),
    /// The sender is told that nobody is there.
    Refused,
    /// Nothing is heard of it.
    Silence,
}

/// What should become of a packet from a client to an external port.
fn expected(mappings: &[PortMapping], client: IpAddr, to: SocketAddr) -> Fate {
    let mut accepted: Vec<&PortMapping> = Vec::new();
    for mapping in mappings {
        let clash = |a: &PortMapping, b: &PortMapping| {
            let shared = a.addresses.iter().any(|one| b.addresses.contains(one));
            let overlap = a.ports.iter().any(|one| {
                b.ports
                    .iter()
                    .any(|other| one.protocol == other.protocol && one.ports.overlaps(other.ports))
            });
            shared && overlap
        };
        let own_clash = mapping.ports.iter().enumerate().any(|(index, one)| {
            mapping.ports[..index]
                .iter()
                .any(|other| one.protocol == other.protocol && one.ports.overlaps(other.ports))
        });
        if !own_clash && !accepted.iter().any(|older| clash(older, mapping)) {
            accepted.push(mapping);
        }
    }
    for mapping in accepted {
        if !mapping.addresses.iter().any(|address| address.0 == to.ip()) {
            continue;
        }
        let port = mapping
            .ports
            .iter()
            .find(|port| port.protocol == Transport::Udp && port.ports.contains(to.port()));
        let Some(port) = port else { continue };
        if !mapping.allowed_sources.contains(client) {
            return Fate::Silence;
        }
        let endpoints: BTreeSet<SocketAddr> = port
            .endpoints(to.is_ipv4())
            .into_iter()
            .map(|(address, number)| SocketAddr::new(address, number.unwrap_or_else(|| to.port())))
            .collect();
        if endpoints.is_empty() {
            return Fate::Refused;
        }
        let inner = if to.is_ipv4() { "10.244.0.1" } else { "fd00:244::1" };
        let hidden = mapping.mode == SourceMode::Snat;
        return Fate::Reaches(endpoints, if hidden { inner.parse().unwrap() } else { client });
    }
    Fate::Silence
}

fn a_port() -> impl Strategy<Value = MappedPort> {
    let transport = prop_oneof![1 => Just(Transport::Tcp), 4 => Just(Transport::Udp)];
    let endpoint = prop::sample::subsequence(PODS.to_vec(), 0..=4);
    (transport, PORTS, 0u16..3, endpoint, PORTS, any::<bool>()).prop_map(
        |(protocol, first, more, pods, number, same)| {
            let ports = PortRange::new(first, (first + more).min(PORTS.end - 1)).unwrap();
            let pods = pods.iter().map(|pod| pod.parse::<IpAddr>().unwrap());
            let endpoints = if same {
                Endpoints::SamePort(pods.collect())
            } else {
                Endpoints::At(pods.map(|pod| SocketAddr::new(pod, number)).collect())
            };
            MappedPort { protocol, ports, endpoints }
        },
    )
}

fn a_mapping() -> impl Strategy<Value = PortMapping> {
    (
        prop::sample::subsequence(ADDRESSES.to_vec(), 1..=4),
        prop::collection::vec(a_port(), 1..3),
        prop::sample::subsequence(BLOCKS.to_vec(), 0..=4),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(addresses, ports, blocks, hide, sticky)| PortMapping {
            allowed_sources: sources(&blocks),
            mode: if hide { SourceMode::Snat } else { SourceMode::PreserveSource },
            affinity: if sticky { Affinity::ClientIp } else { Affinity::None },
            ..mapping("m", &addresses, ports)
        })
}

// S5.60+ S5.42+ S5.43+ S5.74+ S5.76+
#[test]
fn random_mappings_do_what_a_person_would_expect() {
    in_namespace("reference::random_mappings_do_what_a_person_would_expect", || {
        let lab = Lab::new();
        // The kernel says that nobody is there as often as it is asked.
        sysctl("net.ipv4.icmp_ratelimit", "0");
        sysctl("net.ipv6.icmp.ratelimit", "0");
        add_address("ext1", "203.0.113.9/24");
        add_address("ext1", "2001:db8:1::9/64");
        for (pod, addresses) in [(&lab.p1, [P1, P1_V6]), (&lab.p2, [P2, P2_V6])] {
            for address in addresses {
                PORTS.for_each(|port| echo(pod, address, port));
            }
        }
        let nat = Nat::start(options()).unwrap();
        let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]);
        let config = Config {
            cases: 40,
            failure_persistence: None,
            max_shrink_iters: 20,
            ..Config::default()
        };
        let mut runner = TestRunner::new_with_rng(config, seed);
        let fates = RefCell::new(BTreeMap::new());

        let cases = prop::collection::vec(a_mapping(), 1..6);
        let outcome = runner.run(&cases, |mut mappings| {
            for (number, mapping) in mappings.iter_mut().enumerate() {
                mapping.name = format!("m{number}").into();
            }
            nat.apply(model(mappings.clone(), vec![])).unwrap();
            let loud = |client, to| expected(&mappings, client, to) != Fate::Silence;
            for (client, to, seen) in probe(&lab.c1, loud) {
                let wanted = expected(&mappings, client, to);
                let name = std::mem::discriminant(&wanted);
                *fates.borrow_mut().entry(format!("{name:?}")).or_insert(0) += 1;
                prop_assert!(fits(&wanted, &seen), "{client} to {to}: {seen:?} is not {wanted:?}");
            }
            Ok(())
        });

        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
        let fates = fates.into_inner();
        assert!(fates.len() == 3 && fates.values().all(|count| *count >= 20), "{fates:?}");
    });
}

/// What a client heard: the endpoint's words, a refusal, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Words(SocketAddr, IpAddr),
    Refusal,
    Nothing,
}

fn fits(wanted: &Fate, seen: &Heard) -> bool {
    match (wanted, seen) {
        (Fate::Reaches(endpoints, peer), Heard::Words(endpoint, seen)) => {
            endpoints.contains(endpoint) && seen == peer
        }
        (Fate::Refused, Heard::Refusal) | (Fate::Silence, Heard::Nothing) => true,
        _ => false,
    }
}

/// Says its own address and the peer's to everybody who asks.
fn echo(at: &Namespace, address: &str, port: u16) {
    let socket = at.run(|| UdpSocket::bind((address, port)).unwrap());
    std::thread::spawn(move || {
        let own = socket.local_addr().unwrap();
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{own} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// Every client asks every external port; again while those that should hear something have not, and a moment longer.
fn probe(
    world: &Namespace,
    loud: impl Fn(IpAddr, SocketAddr) -> bool + Sync,
) -> Vec<(IpAddr, SocketAddr, Heard)> {
    world.run(|| {
        let mut asked = Vec::new();
        for client in CLIENTS.map(|client| client.parse::<IpAddr>().unwrap()) {
            for address in ADDRESSES.map(|address| address.parse::<IpAddr>().unwrap()) {
                if client.is_ipv4() == address.is_ipv4() {
                    for port in PORTS {
                        let socket = UdpSocket::bind((client, 0)).unwrap();
                        socket.set_nonblocking(true).unwrap();
                        let to = SocketAddr::new(address, port);
                        socket.connect(to).unwrap();
                        asked.push((client, to, socket, Heard::Nothing));
                    }
                }
            }
        }
        let (begin, mut waiting, mut calm) = (Instant::now(), true, 0);
        for round in 0.. {
            for (client, to, socket, heard) in &mut asked {
                let ask = round == 0 || (round % 30 == 0 && loud(*client, *to));
                if *heard == Heard::Nothing && ask {
                    let _ = socket.send(b"?");
                }
                listen(socket, heard);
            }
            waiting &= asked
                .iter()
                .any(|(client, to, _, heard)| *heard == Heard::Nothing && loud(*client, *to));
            calm += usize::from(!waiting);
            if calm > 10 || begin.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        asked.into_iter().map(|(client, to, _, heard)| (client, to, heard)).collect()
    })
}

fn listen(socket: &UdpSocket, heard: &mut Heard) {
    let mut buffer = [0; 128];
    match socket.recv(&mut buffer) {
        Ok(length) => *heard = words(&buffer[..length]),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            *heard = Heard::Refusal;
        }
        Err(_) => {}
    }
}

fn words(said: &[u8]) -> Heard {
    let said = String::from_utf8_lossy(said);
    let (endpoint, peer) = said.split_once(' ').unwrap();
    Heard::Words(endpoint.parse().unwrap(), peer.parse().unwrap())
}
