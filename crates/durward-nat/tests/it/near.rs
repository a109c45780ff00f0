//! Connections that never leave the building, errors, and large packets: pods and the host itself at external addresses, ICMP, path MTU.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use durward_model::mapping::SourceMode;
use durward_nat::Nat;
use durward_testkit::netns::{Namespace, in_namespace, ip};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use crate::lab::{
    EXT1, EXT1_V6, EXT2, EXT2_V6, Lab, P1, P1_V6, P2, P2_V6, PATIENCE, REMOTE, REMOTE_V6, apply,
    at, both, egress, mapping, model, options, ping, tcp, udp,
};

// S5.51
#[test]
fn pods_and_the_host_reach_external_addresses_without_leaving() {
    in_namespace("near::pods_and_the_host_reach_external_addresses_without_leaving", || {
        let lab = Lab::new();
        lab.serve(9000);
        let to = [at(P1, 9000), at(P1_V6, 9000)];
        let to = [to[0].as_str(), to[1].as_str()];
        let everywhere = [EXT1, EXT2, EXT1_V6, EXT2_V6];
        let keep = mapping("keep", &everywhere, both(8080, &to));
        let mut hide = mapping("hide", &everywhere, both(8081, &to));
        hide.mode = SourceMode::Snat;
        // With an egress rule, so that a wrong turn would be taken.
        let pods = [P1, P2, P1_V6, P2_V6]
            .map(|ip| format!("{ip}/{}", if ip.contains(':') { 128 } else { 32 }));
        let out = egress(&pods, &[EXT2, EXT2_V6]);
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![keep, hide], vec![out]));

        let here = Namespace::current();
        let inner =
            |address: &str| if address.contains(':') { "p1 fd00:244::1" } else { "p1 10.244.0.1" };
        let mut wrong = Vec::new();
        for address in everywhere {
            let v6 = address.contains(':');
            let any = if v6 { "::" } else { "0.0.0.0" };
            // The endpoint itself, its neighbour, the host.
            for (who, from) in [("endpoint", &lab.p1), ("pod", &lab.p2), ("host", &here)] {
                for port in [8080, 8081] {
                    for said in
                        [tcp(from, any, (address, port)), udp(from, any, (address, port), PATIENCE)]
                    {
                        if said.as_deref() != Ok(inner(address)) {
                            wrong.push(format!("{who} to {address} {port}: {said:?}"));
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

// S5.52
#[test]
fn errors_of_pods_reach_clients_as_from_the_external_address() {
    in_namespace("near::errors_of_pods_reach_clients_as_from_the_external_address", || {
        let lab = Lab::new();
        // Nothing listens there.
        let to = [at(P1, 9000), at(P1_V6, 9000)];
        let web = mapping("web", &[EXT1, EXT1_V6, EXT2], both(8080, &[&to[0], &to[1]]));
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![web], vec![]));

        let said = [
            tcp(&lab.c1, REMOTE, (EXT1, 8080)),
            tcp(&lab.c1, REMOTE_V6, (EXT1_V6, 8080)),
            tcp(&lab.c2, REMOTE, (EXT2, 8080)),
            udp(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE),
            udp(&lab.c1, REMOTE_V6, (EXT1_V6, 8080), PATIENCE),
            udp(&lab.c2, REMOTE, (EXT2, 8080), PATIENCE),
        ];
        let pings = [
            ping(&lab.c1, REMOTE, EXT1, PATIENCE),
            ping(&lab.c1, REMOTE_V6, EXT1_V6, PATIENCE),
            ping(&lab.c2, REMOTE, EXT2, PATIENCE),
        ];

        let refused: Vec<Result<String, ErrorKind>> = vec![Err(ErrorKind::ConnectionRefused); 6];
        assert_eq!(said.to_vec(), refused);
        assert_eq!(pings, [Ok(()); 3]);
    });
}

// S5.52
#[test]
fn a_narrow_path_to_the_pod_is_told_to_the_client() {
    in_namespace("near::a_narrow_path_to_the_pod_is_told_to_the_client", || {
        let lab = Lab::new();
        lab.serve(9000);
        for device in ["br0", "v1"] {
            ip(&format!("link set {device} mtu 1300"));
        }
        let to = [at(P1, 9000), at(P1_V6, 9000)];
        let web = mapping("web", &[EXT1, EXT1_V6, EXT2], both(8080, &[&to[0], &to[1]]));
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![web], vec![]));

        let learned = [
            path_mtu(&lab.c1, REMOTE, (EXT1, 8080)),
            path_mtu(&lab.c1, REMOTE_V6, (EXT1_V6, 8080)),
            path_mtu(&lab.c2, REMOTE, (EXT2, 8080)),
        ];

        assert_eq!(learned, [1300; 3]);
    });
}

/// What a client learns by sending what is too large and may not be cut up.
pub(crate) fn path_mtu(from: &Namespace, source: &str, to: (&str, u16)) -> u32 {
    path_mtu_below(1500, from, source, to)
}

/// The same where something is known already.
pub(crate) fn path_mtu_below(limit: u32, from: &Namespace, source: &str, to: (&str, u16)) -> u32 {
    from.run(|| {
        let source: std::net::IpAddr = source.parse().unwrap();
        let socket = UdpSocket::bind(SocketAddr::new(source, 0)).unwrap();
        if source.is_ipv4() {
            sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO).unwrap();
        } else {
            sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO).unwrap();
        }
        socket.connect(to).unwrap();
        let begin = Instant::now();
        loop {
            // With headers of either family it fits what is known, if hardly.
            let _ = socket.send(&vec![0; limit as usize - 48]);
            let ipv4 = source.is_ipv4();
            let known = if ipv4 { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) };
            let known = known.unwrap();
            if known < limit {
                return known;
            }
            assert!(begin.elapsed() < PATIENCE, "nothing learned");
            std::thread::sleep(Duration::from_millis(50));
        }
    })
}
