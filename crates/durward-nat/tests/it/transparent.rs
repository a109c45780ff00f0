//! What programs that know no proxy send: to the proxy of this host, or nowhere; what is not the proxy's, as the tenant says.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use durward_model::egress::{Others, Transparent, transparent};
use durward_model::mapping::{KernelEgress, NatModel};
use durward_nat::report::Rejection;
use durward_nat::{Nat, Options};
use durward_testkit::netns::{Namespace, in_namespace, ip, sysctl};
use durward_testkit::process::eventually_blocking;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{
    EXT1, EXT1_V6, EXT2, EXT2_V6, Lab, P1, P1_V6, P2, P2_V6, PATIENCE, REMOTE, REMOTE_V6, SOON,
    apply, at, connect, egress, is_alive, model, options, ping, serve_on, tcp, tcp_soon, tenant,
    udp,
};

fn proxied(mut rule: KernelEgress, others: Others) -> KernelEgress {
    let transparent = Transparent { http: [80].into(), tls: [443].into(), others };
    rule.transparent = Some(Arc::new(transparent));
    rule
}

/// acme has the first pod and denies the rest; bank has the second and translates it.
fn both() -> Arc<NatModel> {
    let first = egress(&[P1, P1_V6].map(host), &[EXT1, EXT1_V6]);
    let mut second = egress(&[P2, P2_V6].map(host), &[EXT2, EXT2_V6]);
    second.tenant = tenant("bank");
    model(vec![], vec![proxied(first, Others::Deny), proxied(second, Others::Translate)])
}

fn host(address: &str) -> String {
    format!("{address}/{}", if address.contains(':') { 128 } else { 32 })
}

/// A proxy that says who connects and to where, until it is dropped.
struct Proxy(Vec<TcpListener>);

impl Proxy {
    fn start() -> Self {
        Self([true, false].map(listen).into())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The accepting threads hold duplicates: shut down, none of them listens.
        for listener in &self.0 {
            socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
}

fn listen(ipv4: bool) -> TcpListener {
    let address = transparent::socket(ipv4);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    if ipv4 {
        socket.set_ip_transparent_v4(true).unwrap();
    } else {
        socket.set_only_v6(true).unwrap();
        socket.set_ip_transparent_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    let listener = TcpListener::from(socket);
    let accepting = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = accepting.accept() {
            let to = stream.local_addr().unwrap();
            std::thread::spawn(move || {
                let _ = writeln!(stream, "proxy {} for {to}", peer.ip());
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            });
        }
    });
    listener
}

fn for_proxy(pod: &str, to: &str, port: u16) -> Result<String, ErrorKind> {
    let to: SocketAddr = at(to, port).parse().unwrap();
    Ok(format!("proxy {pod} for {to}"))
}

// S2.57+ S2.3+
#[test]
fn the_proxy_gets_its_ports_and_the_rest_goes_as_the_tenant_says() {
    in_namespace(
        "transparent::the_proxy_gets_its_ports_and_the_rest_goes_as_the_tenant_says",
        || {
            let lab = Lab::unbridged();
            for port in [22, 80, 443] {
                lab.serve_outside(port);
            }
            let nat = Nat::start(options()).unwrap();
            apply(&nat, &both());
            let _proxy = Proxy::start();

            for (pod, source, to) in [
                (&lab.p1, P1, REMOTE),
                (&lab.p1, P1_V6, REMOTE_V6),
                (&lab.p2, P2, REMOTE),
                (&lab.p2, P2_V6, REMOTE_V6),
            ] {
                for port in [80, 443] {
                    assert_eq!(tcp(pod, source, (to, port)), for_proxy(source, to, port));
                }
                let quic = udp(pod, source, (to, 443), SOON);
                assert_eq!(quic, Err(ErrorKind::ConnectionRefused), "QUIC of {source}");
            }
            for (source, to) in [(P1, REMOTE), (P1_V6, REMOTE_V6)] {
                let other = tcp_soon(&lab.p1, source, (to, 22));
                assert_eq!(other, Err(ErrorKind::ConnectionRefused), "{source}");
                assert!(udp(&lab.p1, source, (to, 22), SOON).is_err());
                assert!(ping(&lab.p1, source, to, SOON).is_err());
            }
            for (source, to, seen) in [(P2, REMOTE, EXT2), (P2_V6, REMOTE_V6, EXT2_V6)] {
                let seen = Ok(format!("c2 {seen}"));
                assert_eq!(tcp(&lab.p2, source, (to, 22)), seen);
                assert_eq!(udp(&lab.p2, source, (to, 22), PATIENCE), seen);
                assert_eq!(ping(&lab.p2, source, to, PATIENCE), Ok(()));
            }
            let refused = nat.counters().unwrap().refused;
            assert!(
                refused["quic"].packets >= 4 && refused["withheld"].packets >= 6,
                "{refused:?}"
            );
            assert_eq!(refused["no_proxy"].packets, 0);
            assert!(
                nat.preview(&both()).unwrap().1.is_empty(),
                "{}",
                nat.preview(&both()).unwrap().1
            );
        },
    );
}

// S2.57+ S2.14+
#[test]
fn what_is_near_is_not_taken() {
    in_namespace("transparent::what_is_near_is_not_taken", || {
        let lab = Lab::unbridged();
        lab.serve(443);
        let here = Namespace::current();
        for address in ["10.244.0.1", "fd00:244::1", EXT1, EXT1_V6] {
            serve_on(&here, "host", address, 443);
        }
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &both());
        let _proxy = Proxy::start();

        for (address, source) in
            [("10.244.0.1", P1), ("fd00:244::1", P1_V6), (EXT1, P1), (EXT1_V6, P1_V6)]
        {
            let said = tcp(&lab.p1, source, (address, 443));
            assert_eq!(said, Ok(format!("host {source}")), "{address}");
        }
        assert_eq!(tcp(&lab.p1, P1, (P2, 443)), Ok(format!("p2 {P1}")));
        // What the proxy itself sends is not taken again: from the tenant's address to the world, and to this host.
        lab.serve_outside(443);
        assert_eq!(tcp(&here, EXT1, (REMOTE, 443)), Ok(format!("c1 {EXT1}")));
        assert_eq!(tcp(&here, EXT1, ("10.244.0.1", 443)), Ok(format!("host {EXT1}")));
        drop(nat);
    });
}

// S2.57+ S2.56+
#[test]
fn without_a_proxy_nothing_leaves() {
    in_namespace("transparent::without_a_proxy_nothing_leaves", || {
        let lab = Lab::unbridged();
        lab.serve_outside(443);
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &both());
        let proxy = Proxy::start();
        let (mut open, _) = connect(&lab.p1, P1, (REMOTE, 443), PATIENCE).unwrap();
        assert!(is_alive(&mut open, PATIENCE));

        drop(proxy);

        for (pod, source, to) in
            [(&lab.p1, P1, REMOTE), (&lab.p1, P1_V6, REMOTE_V6), (&lab.p2, P2, REMOTE)]
        {
            let refused = tcp_soon(pod, source, (to, 443));
            assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{source}");
        }
        assert!(nat.counters().unwrap().refused["no_proxy"].packets >= 3);
        let _proxy = Proxy::start();
        assert_eq!(tcp(&lab.p1, P1, (REMOTE, 443)), for_proxy(P1, REMOTE, 443));
    });
}

// S2.57+
#[test]
fn connections_change_sides_with_the_configuration() {
    in_namespace("transparent::connections_change_sides_with_the_configuration", || {
        let lab = Lab::unbridged();
        for port in [22, 443] {
            lab.serve_outside(port);
        }
        let plain = egress(&[P1, P1_V6].map(host), &[EXT1, EXT1_V6]);
        let of = |others| model(vec![], vec![proxied(plain.clone(), others)]);
        let _proxy = Proxy::start();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![], vec![plain.clone()]));
        let open = |port| connect(&lab.p1, P1, (REMOTE, port), PATIENCE).unwrap().0;
        let (mut tls, mut other) = (open(443), open(22));

        let report = apply(&nat, &of(Others::Translate));
        assert_eq!(report.connections_cut, 1);
        assert!(!is_alive(&mut tls, SOON), "it goes past the proxy");
        assert!(is_alive(&mut other, PATIENCE));
        let mut taken = open(443);
        let report = apply(&nat, &of(Others::Deny));
        assert_eq!(report.connections_cut, 1);
        assert!(!is_alive(&mut other, SOON));
        assert!(is_alive(&mut taken, PATIENCE), "the proxy's stays the proxy's");
        apply(&nat, &model(vec![], vec![plain.clone()]));

        assert!(!is_alive(&mut taken, SOON), "it is nobody's now");
        assert_eq!(tcp(&lab.p1, P1, (REMOTE, 443)), Ok(format!("c1 {EXT1}")));
    });
}

// An ICMP error is about what this host sent, although under the address of a server far away.
#[test]
fn errors_about_what_the_proxy_sends_arrive() {
    in_namespace("transparent::errors_about_what_the_proxy_sends_arrive", || {
        let lab = Lab::unbridged();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &both());
        let _proxy = Proxy::start();
        let (open, _) = connect(&lab.p1, P1, (REMOTE, 443), PATIENCE).unwrap();
        let before = errors_out_of_order();

        lab.p1.run(|| too_big(open.peer_addr().unwrap(), open.local_addr().unwrap()));

        let arrived = || errors_out_of_order() == before + 1;
        assert!(eventually_blocking(PATIENCE, arrived), "{}", errors_out_of_order());
        assert_eq!(nat.counters().unwrap().refused["no_proxy"].packets, 0);
    });
}

/// Says that a packet from `sender` was too big; which one it was is made up, so that the sender's socket counts it and does nothing.
fn too_big(sender: SocketAddr, receiver: SocketAddr) {
    let [IpAddr::V4(from), IpAddr::V4(to)] = [sender.ip(), receiver.ip()] else { panic!("IPv4") };
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(1200u16.to_be_bytes());
    message.extend([0x45, 0, 5, 220, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    message.extend([from.octets(), to.octets()].concat());
    message.extend([sender.port(), receiver.port()].map(u16::to_be_bytes).concat());
    message.extend([0; 4]);
    let words = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.send_to(&message, &SocketAddr::new(sender.ip(), 0).into()).unwrap();
}

/// How many ICMP errors sockets of this namespace got about packets they had not sent.
fn errors_out_of_order() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "OutOfWindowIcmps").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
fn a_kernel_that_cannot_hand_over_rejects_that_tenant_alone() {
    in_namespace("transparent::a_kernel_that_cannot_hand_over_rejects_that_tenant_alone", || {
        let lab = Lab::unbridged();
        lab.serve_outside(443);
        let mut second = egress(&[host(P2)], &[EXT2]);
        second.tenant = tenant("bank");
        let first = proxied(egress(&[host(P1)], &[EXT1]), Others::Translate);
        let nat = Nat::start(Options { hand_over: false, ..options() }).unwrap();

        let report = nat.apply(model(vec![], vec![first, second])).unwrap();

        assert_eq!(report.egress[0].rejected, Some(Rejection::NoHandOver));
        assert!(tcp_soon(&lab.p1, P1, (REMOTE, 443)).is_err());
        assert_eq!(tcp(&lab.p2, P2, (REMOTE, 443)), Ok(format!("c2 {EXT2}")));
    });
}

// S5.63+
#[test]
fn cleanup_takes_the_way_to_the_proxy_away() {
    in_namespace("transparent::cleanup_takes_the_way_to_the_proxy_away", || {
        let _lab = Lab::unbridged();
        let tables = || {
            ip("rule")
                + &ip("-6 rule")
                + &ip("route show table all type local")
                + &ip("-6 route show table all type local")
        };
        let before = tables();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &both());
        let between = tables();

        nat.cleanup().unwrap();

        assert!(between.contains("table 10355"), "{between}");
        assert_eq!(between.matches("fwmark 0xff00/0xff00").count(), 2, "{between}");
        assert_eq!(tables(), before);
    });
}

#[test]
fn a_bridge_that_filters_too_early_is_told() {
    in_namespace("transparent::a_bridge_that_filters_too_early_is_told", || {
        if !std::path::Path::new("/proc/sys/net/bridge").exists() {
            return;
        }
        let _lab = Lab::unbridged();
        sysctl("net.bridge.bridge-nf-call-iptables", "1");
        let nat = Nat::start(options()).unwrap();

        let host = nat.apply(both()).unwrap().host;

        assert_eq!(
            host,
            [
                "what arrives by br0 cannot be handed to the proxy while net.bridge.bridge-nf-call-iptables is 1"
            ]
        );
        assert_eq!(durward_nat::survey(&options(), &both()).unwrap().obstacles, host);
    });
}
