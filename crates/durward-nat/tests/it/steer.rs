//! Pods of a node that is not the gateway: to the world by the gateway and the tenant's address, or not at all.

mod golden;
mod lab;
mod life;
mod outlive;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};

use durward_nat::steer::counter;
use durward_testkit::netns::{Namespace, in_namespace, ip};

use crate::lab::{
    EXT1, PATIENCE, REMOTE, REMOTE_V6, both, connect, mapping, model, ping, tcp, udp,
};
use crate::near::{path_mtu, path_mtu_below};
use lab::{
    ENROLLED, EXT, EXT_V6, GATEWAY, Lab, NODE, NODE_WAN, NODE_WAN_V6, OTHER, OTHER_V6, POD, POD_V6,
};

// S2.3+ S2.12+ S2.14+ S2.28+ S2.57+
#[test]
fn pods_leave_by_the_gateway_although_their_node_masquerades_them() {
    in_namespace("steer::pods_leave_by_the_gateway_although_their_node_masquerades_them", || {
        let lab = Lab::new();
        let before = lab.seen();
        let _steer = lab.steer();

        assert_eq!(before, [NODE_WAN, NODE_WAN_V6].map(|ip| Ok(format!("world {ip}"))));
        let cases = [
            (&lab.pod, POD, REMOTE, EXT),
            (&lab.pod, POD_V6, REMOTE_V6, EXT_V6),
            (&lab.other, OTHER, REMOTE, NODE_WAN),
            (&lab.other, OTHER_V6, REMOTE_V6, NODE_WAN_V6),
        ];
        for (pod, source, to, seen) in cases {
            let seen = Ok(format!("world {seen}"));
            assert_eq!(tcp(pod, source, (to, 443)), seen, "tcp from {source}");
            assert_eq!(udp(pod, source, (to, 443), PATIENCE), seen, "udp from {source}");
            assert_eq!(ping(pod, source, to, PATIENCE), Ok(()), "ping from {source}");
        }
        let all: Vec<_> = std::thread::scope(|scope| {
            let one = || tcp(&lab.pod, POD, (REMOTE, 443));
            let all: Vec<_> = (0..100).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(all.iter().all(|seen| *seen == Ok(format!("world {EXT}"))), "{all:?}");
    });
}

// S2.14+
#[test]
fn what_is_near_stays_on_the_nodes_own_ways() {
    in_namespace("steer::what_is_near_stays_on_the_nodes_own_ways", || {
        let lab = Lab::new();
        crate::lab::serve_on(&lab.gateway, "gateway", &GATEWAY.to_string(), 9001);
        let _steer = lab.steer();

        let neighbour = tcp(&lab.pod, POD, (OTHER, 9000));
        let beside = tcp(&lab.pod, POD, (&GATEWAY.to_string(), 9001));
        // A port of the node leads to the pod; the answers must go where the question came from.
        let port = tcp(&lab.world, REMOTE, (NODE_WAN, 30080));
        let port_v6 = tcp(&lab.world, REMOTE_V6, (NODE_WAN_V6, 30080));

        assert_eq!(neighbour, Ok(format!("other {POD}")));
        assert_eq!(beside, Ok(format!("gateway {NODE}")), "as the plugin has it");
        assert_eq!(port, Ok(format!("pod {REMOTE}")));
        assert_eq!(port_v6, Ok(format!("pod {REMOTE_V6}")));
    });
}

#[test]
fn clients_of_a_mapping_reach_pods_of_a_node_and_are_answered_by_the_gateway() {
    in_namespace(
        "steer::clients_of_a_mapping_reach_pods_of_a_node_and_are_answered_by_the_gateway",
        || {
            let lab = Lab::new();
            assert_eq!(EXT, EXT1, "the mapping below is at the gateway's address");
            let web = mapping("web", &[EXT], both(8080, &["10.244.3.5:9000"]));
            let out = crate::lab::egress(&ENROLLED.map(str::to_owned), &[EXT, EXT_V6]);
            lab.gateway.run(|| crate::lab::apply(&lab.plane, &model(vec![web], vec![out])));
            let _steer = lab.steer();

            let open = tcp(&lab.world, REMOTE, (EXT, 8080));
            // What the node itself has to say about such a connection goes the same way.
            ip("link set br0 mtu 1300");
            ip("link set v1 mtu 1300");
            let tunnel = path_mtu(&lab.world, REMOTE, (EXT, 8080));
            let learned = path_mtu_below(tunnel, &lab.world, REMOTE, (EXT, 8080));

            assert_eq!(open, Ok(format!("pod {REMOTE}")));
            assert_eq!((tunnel, learned), (1450, 1300));
        },
    );
}

#[test]
fn who_sends_what_does_not_fit_the_tunnel_is_told() {
    in_namespace("steer::who_sends_what_does_not_fit_the_tunnel_is_told", || {
        let lab = Lab::new();
        let _steer = lab.steer();

        let learned =
            [path_mtu(&lab.pod, POD, (REMOTE, 443)), path_mtu(&lab.pod, POD_V6, (REMOTE_V6, 443))];

        assert_eq!(learned, [1450; 2]);
    });
}

#[test]
fn tcp_fits_the_tunnel_although_nobody_is_told_anything() {
    in_namespace("steer::tcp_fits_the_tunnel_although_nobody_is_told_anything", || {
        let lab = Lab::new();
        let _steer = lab.steer();
        for namespace in [&Namespace::current(), &lab.gateway] {
            namespace.run(without_errors);
        }

        for (source, to, header) in [(POD, REMOTE, 20), (POD_V6, REMOTE_V6, 40)] {
            let (mut stream, _) = connect(&lab.pod, source, (to, 443), PATIENCE).unwrap();
            let segment = socket2::SockRef::from(&stream).tcp_mss().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let mut back = vec![0; 100_000];
            let mut writer = stream.try_clone().unwrap();
            let sending = std::thread::spawn(move || writer.write_all(&vec![7; 100_000]));
            let echoed = stream.read_exact(&mut back);
            let sent = sending.join().unwrap();

            assert!(segment <= 1450 - header - 20, "{segment}");
            assert!(sent.is_ok() && echoed.is_ok(), "{source}: {sent:?} {echoed:?}");
        }
    });
}

/// Drops ICMP errors of this host.
fn without_errors() {
    use durward_nat::nftables::expression::{Base, Expression, Meta, Verdict};
    use durward_nat::nftables::ruleset::{Chain, Hook, Point, Ruleset};
    let drop = |protocol: u8, kind: u8| {
        vec![
            Expression::Meta { key: Meta::Transport, to: 8 },
            Expression::Compare { from: 8, equal: true, value: vec![protocol] },
            Expression::Payload { base: Base::Transport, offset: 0, len: 1, to: 8 },
            Expression::Compare { from: 8, equal: true, value: vec![kind] },
            Expression::Verdict(Verdict::Drop),
        ]
    };
    let hook = Some(Hook { kind: "filter", point: Point::Output, priority: 0 });
    let chain = Chain { hook, rules: vec![drop(1, 3), drop(58, 2)] };
    let quiet = Ruleset { chains: [("quiet".to_owned(), chain)].into(), ..Ruleset::default() };
    lab::put("quiet", &quiet);
}

#[test]
fn a_tunnel_hears_its_own_ends_only() {
    in_namespace("steer::a_tunnel_hears_its_own_ends_only", || {
        let lab = Lab::new();
        let steer = lab.steer();
        // Somebody else whom the gateway can hear.
        let stranger = Namespace::new();
        lab.gateway.veth("s0", "eth0", &stranger);
        lab.gateway.add_address("s0", "192.168.60.1/24");
        stranger.add_address("eth0", "192.168.60.2/24");
        stranger.add_route("default", "192.168.60.1");
        // A frame as the tunnel carries it: a datagram of the tenant's pod to the world.
        let frame = [&[8, 0, 0, 0, 0, 0, 157, 0][..], &datagram(POD)].concat();
        let heard = |from: &Namespace| {
            let heard = crate::egress::listen(&lab.world, REMOTE, 99);
            from.run(|| {
                UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&frame, (GATEWAY, 4789)).unwrap()
            });
            // What was sent before has arrived when this has.
            assert_eq!(ping(&lab.pod, POD, REMOTE, PATIENCE), Ok(()));
            heard()
        };

        let from_stranger = heard(&stranger);
        // Its node would give it the node's address.
        let from_pods = [heard(&lab.other), heard(&lab.pod)];
        let from_node = heard(&Namespace::current());

        let nothing = Vec::<SocketAddr>::new();
        assert_eq!((from_stranger, from_pods), (nothing.clone(), [nothing.clone(), nothing]));
        assert_eq!(from_node, [SocketAddr::new(EXT.parse().unwrap(), 0)], "the frame was sound");
        assert_eq!(steer.counters().unwrap()[counter::STRANGER].packets, 2, "at the node");
        let at_gateway = lab.far_end.as_ref().unwrap().counters().unwrap();
        assert_eq!(at_gateway[counter::STRANGER].packets, 1);
    });
}

// S2.3+
#[test]
fn the_gateway_believes_no_source_that_is_no_pods() {
    in_namespace("steer::the_gateway_believes_no_source_that_is_no_pods", || {
        let lab = Lab::new();
        let _steer = lab.steer();
        let heard = crate::egress::listen(&lab.world, REMOTE, 99);
        let frame = [&[8, 0, 0, 0, 0, 0, 157, 0][..], &datagram("10.244.99.5")].concat();

        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&frame, (GATEWAY, 4789)).unwrap();
        assert_eq!(ping(&lab.pod, POD, REMOTE, PATIENCE), Ok(()));

        assert_eq!(heard(), Vec::<SocketAddr>::new());
        let counted = lab.far_end.as_ref().unwrap().counters().unwrap();
        assert_eq!(counted[counter::SPOOFED].packets, 1);
    });
}

/// An Ethernet frame for the gateway's end of the tunnel.
fn datagram(source: &str) -> Vec<u8> {
    let source: std::net::Ipv4Addr = source.parse().unwrap();
    let to: std::net::Ipv4Addr = REMOTE.parse().unwrap();
    let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(to.octets());
    let words = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    // Source port, port 99, length 9, no checksum, one byte.
    packet.extend([0x12, 0x34, 0, 99, 0, 9, 0, 0, b'?']);
    let mac = durward_nat::announce::Mac::of(GATEWAY).0;
    [&mac[..], &[2, 0, 0, 0, 0, 1, 8, 0], &packet].concat()
}
