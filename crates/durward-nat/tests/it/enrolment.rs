//! The moment before a pod's policy is there, and the moment after it is gone: nothing leaves in either, whatever else is on the host.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use durward_model::egress::{Others, Transparent};
use durward_nat::Nat;
use durward_nat::nftables::ruleset::{Chain, Hook, Point, Ruleset};
use durward_nat::nftables::table::{Ownership, Table};
use durward_nat::nftables::{Changes, Expression};
use durward_testkit::netns::{Capture, Namespace, add_address, in_namespace, ip, sysctl};
use durward_testkit::process::eventually_blocking;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, P1, P1_V6, REMOTE, REMOTE_V6, apply, at, egress, model, options};

/// The tenant's addresses; the node has others beside them.
const OWN: &str = "203.0.113.20";
const OWN_V6: &str = "2001:db8:1::20";
const REPETITIONS: u16 = 100;
const DEADLINE: Duration = Duration::from_secs(20);

// S2.56
#[test]
fn a_pod_that_sends_before_its_policy_is_there_sends_nothing_under_another_address() {
    in_namespace(
        "enrolment::a_pod_that_sends_before_its_policy_is_there_sends_nothing_under_another_address",
        || {
            let lab = Lab::unbridged();
            // The worst case: the host forwards already, and a network plugin gives pods its address.
            sysctl("net.ipv4.ip_forward", "1");
            masquerade_all();
            add_address("ext1", &format!("{OWN}/24"));
            // Deprecated: nobody takes it who is not told to.
            ip(&format!("address add {OWN_V6}/64 dev ext1 nodad preferred_lft 0"));
            let nat = Nat::start(options()).unwrap();
            apply(&nat, &model(vec![], vec![]));
            let capture = Capture::start(&lab.c1);
            let pod = Hammer::start(&lab.p1);
            let own: BTreeSet<IpAddr> = [OWN, OWN_V6].map(|ip| ip.parse().unwrap()).into();

            for round in 0..REPETITIONS {
                let refused = || nat.counters().unwrap().refused["unenrolled"].packets;
                let before = refused();
                assert!(eventually_blocking(DEADLINE, || refused() > before + 4), "round {round}");
                let port = 10_000 + round;
                pod.port.store(port, Ordering::Relaxed);

                let mut rule = egress(&[P1, P1_V6].map(host), &[OWN, OWN_V6]);
                rule.transparent = (round % 2 == 0).then(|| {
                    let (http, tls) = ([80].into(), [443].into());
                    Arc::new(Transparent { http, tls, others: Others::Translate })
                });
                apply(&nat, &model(vec![], vec![rule]));
                for address in &own {
                    let leaves =
                        capture.sees(DEADLINE, |one| one.port == port && one.source == *address);
                    assert!(leaves, "round {round}: nothing from {address}");
                }
                apply(&nat, &model(vec![], vec![]));
            }

            drop(pod);
            let remote = [REMOTE, REMOTE_V6].map(|ip| ip.parse::<IpAddr>().unwrap());
            let seen = capture.seen();
            let left = seen.iter().filter(|packet| remote.contains(&packet.destination));
            let sources: BTreeSet<IpAddr> = left.map(|packet| packet.source).collect();
            assert_eq!(sources, own);
        },
    );
}

fn host(address: &str) -> String {
    format!("{address}/{}", if address.contains(':') { 128 } else { 32 })
}

/// A pod that sends without end: TCP, UDP and pings, both families, from new ports each time.
struct Hammer {
    port: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
}

impl Hammer {
    fn start(pod: &Namespace) -> Self {
        let (port, stop) = (Arc::new(AtomicU16::new(9_999)), Arc::new(AtomicBool::new(false)));
        let (to, stopped) = (Arc::clone(&port), Arc::clone(&stop));
        let running = pod.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                send(P1, REMOTE, to.load(Ordering::Relaxed));
                send(P1_V6, REMOTE_V6, to.load(Ordering::Relaxed));
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self { port, stop, running: Some(running) }
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.running.take().map(JoinHandle::join);
    }
}

fn send(from: &str, to: &str, port: u16) {
    let to_port = at(to, port).parse::<std::net::SocketAddr>().unwrap();
    let socket = UdpSocket::bind((from, 0)).unwrap();
    let _ = socket.send_to(b"?", to_port);
    let domain = Domain::for_address(to_port);
    for port in [80, 443, port] {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut to = to_port;
        to.set_port(port);
        let _ = socket.connect(&to.into());
    }
    let (protocol, echo) = if to_port.is_ipv4() {
        (Protocol::ICMPV4, [8, 0, 0xf7, 0xff, 0, 0, 0, 0])
    } else {
        (Protocol::ICMPV6, [128, 0, 0, 0, 0, 0, 0, 0])
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    let _ = socket.send_to(&echo, &to_port.into());
}

/// Somebody else's rule that gives what leaves the address of the interface it leaves by.
fn masquerade_all() {
    let hook = Hook { kind: "nat", point: Point::Postrouting, priority: 100 };
    let chain = Chain { hook: Some(hook), rules: vec![vec![Expression::Masquerade]] };
    let theirs =
        Ruleset { chains: [("POSTROUTING".to_owned(), chain)].into(), ..Ruleset::default() };
    let mut table = Table::open("plugin", Ownership::Shared, DEADLINE).unwrap();
    let generation = table.read().unwrap().generation;
    table.change(generation, &Changes::between(&Ruleset::default(), &theirs)).unwrap();
}
