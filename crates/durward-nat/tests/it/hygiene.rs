//! What a change cuts: exactly the connections that could not be made anew, and no others.

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_model::mapping::{Affinity, NatModel, PortMapping};
use durward_nat::{Nat, Options};
use durward_testkit::netns::{Capture, in_namespace, ip};
use durward_testkit::process::eventually_blocking;

use crate::lab::{
    EXT1, EXT1_V6, EXT2, Lab, P1, P1_V6, P2, PATIENCE, REMOTE, REMOTE_V6, SOON, apply, ask, at,
    both, connect, egress, is_alive, mapping, model, options, sources, tenant,
};

fn open(lab: &Lab, source: &str, to: (&str, u16)) -> TcpStream {
    connect(&lab.c1, source, to, Duration::from_secs(5)).unwrap().0
}

fn web(endpoints: &[&str]) -> PortMapping {
    mapping("web", &[EXT1, EXT1_V6], both(8080, endpoints))
}

// S5.44
#[test]
fn tightened_sources_cut_those_who_are_out_and_nobody_else() {
    in_namespace("hygiene::tightened_sources_cut_those_who_are_out_and_nobody_else", || {
        let lab = Lab::new();
        lab.serve(9000);
        let to = [at(P1, 9000), at(P1_V6, 9000)];
        let to = [to[0].as_str(), to[1].as_str()];
        let mut other = mapping("other", &[EXT1], both(8081, &to));
        other.tenant = tenant("bank");
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![web(&to), other.clone()], vec![]));
        let mut stays = open(&lab, REMOTE, (EXT1, 8080));
        let mut stays_v6 = open(&lab, REMOTE_V6, (EXT1_V6, 8080));
        let mut goes = open(&lab, "203.0.113.254", (EXT1, 8080));
        let mut others = open(&lab, "203.0.113.254", (EXT1, 8081));

        let mut narrow = web(&to);
        narrow.allowed_sources = sources(&["192.0.2.0/24", "2001:db8:ffff::/48"]);
        let report = apply(&nat, &model(vec![narrow, other], vec![]));

        assert_eq!(report.connections_cut, 1);
        assert!(!is_alive(&mut goes, SOON));
        assert!(is_alive(&mut stays, PATIENCE) && is_alive(&mut stays_v6, PATIENCE));
        assert!(is_alive(&mut others, PATIENCE));
    });
}

// S5.44
#[test]
fn a_removed_port_address_or_mapping_takes_its_connections_along() {
    in_namespace("hygiene::a_removed_port_address_or_mapping_takes_its_connections_along", || {
        let lab = Lab::new();
        lab.serve(9000);
        let to = at(P1, 9000);
        let ports = [both(8080, &[&to]), both(8081, &[&to])].concat();
        durward_testkit::netns::add_address("ext1", "203.0.113.9/24");
        let wide = mapping("wide", &[EXT1, "203.0.113.9"], ports);
        let gone = mapping("gone", &[EXT1], both(8082, &[&to]));
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![wide, gone], vec![]));
        let mut stays = open(&lab, REMOTE, (EXT1, 8080));
        let mut goes: Vec<TcpStream> = [(EXT1, 8081), ("203.0.113.9", 8080), (EXT1, 8082)]
            .map(|to| open(&lab, REMOTE, to))
            .into();

        let narrow = mapping("wide", &[EXT1], both(8080, &[&to]));
        let report = apply(&nat, &model(vec![narrow], vec![]));

        assert_eq!(report.connections_cut, 3);
        assert!(goes.iter_mut().all(|stream| !is_alive(stream, SOON)));
        assert!(is_alive(&mut stays, PATIENCE));
    });
}

// S5.47
#[test]
fn endpoints_come_and_go_and_zero_refuses() {
    in_namespace("hygiene::endpoints_come_and_go_and_zero_refuses", || {
        let lab = Lab::new();
        lab.serve(9000);
        let (first, second) = (at(P1, 9000), at(P2, 9000));
        let set = |endpoints: &[&str]| {
            model(vec![mapping("web", &[EXT1], both(8080, endpoints))], vec![])
        };
        let names = || -> BTreeSet<String> {
            let ask = |_| connect(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).unwrap().1;
            (0..40).map(ask).collect()
        };
        let said = |names: &[&str]| names.iter().map(|name| format!("{name} {REMOTE}")).collect();
        let nat = Nat::start(options()).unwrap();

        apply(&nat, &set(&[&first]));
        assert_eq!(names(), said(&["p1"]));
        apply(&nat, &set(&[&first, &second]));
        assert_eq!(names(), said(&["p1", "p2"]));
        apply(&nat, &set(&[&second]));
        assert_eq!(names(), said(&["p2"]));
        apply(&nat, &set(&[]));
        let refused = connect(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).unwrap_err();
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    });
}

// S5.44 S5.47
#[test]
fn connections_to_an_endpoint_that_is_gone_may_finish_within_the_drain_time() {
    in_namespace(
        "hygiene::connections_to_an_endpoint_that_is_gone_may_finish_within_the_drain_time",
        || {
            let lab = Lab::new();
            lab.serve(9000);
            let drain = Duration::from_secs(3);
            let set = |to: &str| {
                let mut web = web(&[to]);
                web.drain = drain;
                model(vec![web], vec![])
            };
            let nat = Nat::start(options()).unwrap();
            apply(&nat, &set(&at(P1, 9000)));
            let mut old = open(&lab, REMOTE, (EXT1, 8080));

            apply(&nat, &set(&at(P2, 9000)));
            let begin = Instant::now();

            assert!(is_alive(&mut old, SOON * 2), "it may finish");
            let new = connect(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).unwrap().1;
            assert_eq!(new, format!("p2 {REMOTE}"));
            while is_alive(&mut old, SOON * 2) {
                assert!(begin.elapsed() < drain * 4, "it was never cut");
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(begin.elapsed() >= drain, "cut after {:?}", begin.elapsed());
        },
    );
}

// S5.50
#[test]
fn long_udp_flows_follow_the_endpoints() {
    in_namespace("hygiene::long_udp_flows_follow_the_endpoints", || {
        let lab = Lab::new();
        lab.serve(9000);
        let (first, second) = (at(P1, 9000), at(P2, 9000));
        let set = |endpoints: &[&str], affinity| {
            let mut web = mapping("web", &[EXT1], both(8080, endpoints));
            web.affinity = affinity;
            model(vec![web], vec![])
        };
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &set(&[&first], Affinity::None));
        let sockets: Vec<UdpSocket> =
            lab.c1.run(|| (0..24).map(|_| UdpSocket::bind((REMOTE, 0)).unwrap()).collect());
        let answers = || -> Vec<String> {
            let to = format!("{EXT1}:8080").parse().unwrap();
            sockets.iter().map(|socket| ask(socket, to, PATIENCE).unwrap()).collect()
        };
        assert!(answers().iter().all(|said| said.starts_with("p1 ")));

        apply(&nat, &set(&[&first, &second], Affinity::None));
        let spread = answers();
        let moved = spread.iter().filter(|said| said.starts_with("p2 ")).count();
        assert!(moved > 0 && moved < spread.len(), "{moved} of {} moved", spread.len());

        apply(&nat, &set(&[&second], Affinity::None));
        assert!(answers().iter().all(|said| said.starts_with("p2 ")));
    });
}

// S5.48
#[test]
fn a_client_with_affinity_keeps_its_endpoint() {
    in_namespace("hygiene::a_client_with_affinity_keeps_its_endpoint", || {
        let lab = Lab::new();
        lab.serve(9000);
        let clients: Vec<String> = (100..120).map(|last| format!("192.0.2.{last}")).collect();
        for client in &clients {
            lab.c1.add_address("lo", &format!("{client}/32"));
        }
        let mut web = mapping("web", &[EXT1], both(8080, &[&at(P1, 9000), &at(P2, 9000)]));
        web.affinity = Affinity::ClientIp;
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![web], vec![]));

        let mut endpoints = BTreeSet::new();
        for client in &clients {
            let names: BTreeSet<String> = (0..4)
                .map(|_| connect(&lab.c1, client, (EXT1, 8080), PATIENCE).unwrap().1)
                .collect();
            assert_eq!(names.len(), 1, "{client} saw {names:?}");
            endpoints.extend(names.into_iter().map(|name| name[..2].to_owned()));
        }

        assert_eq!(endpoints, ["p1".to_owned(), "p2".to_owned()].into());
    });
}

// S5.44+
#[test]
fn egress_connections_go_when_their_address_or_rule_goes() {
    in_namespace("hygiene::egress_connections_go_when_their_address_or_rule_goes", || {
        let lab = Lab::new();
        lab.serve_outside(443);
        durward_testkit::netns::add_address("ext1", "203.0.113.9/24");
        let pods = [format!("{P1}/32")];
        let out = |addresses: &[&str]| model(vec![], vec![egress(&pods, addresses)]);
        let nat = Nat::start(options()).unwrap();
        let from_pod = || connect(&lab.p1, P1, (REMOTE, 443), PATIENCE).unwrap();
        apply(&nat, &out(&[EXT1]));
        let (mut first, _) = from_pod();

        apply(&nat, &out(&["203.0.113.9"]));
        assert!(!is_alive(&mut first, SOON));
        let (mut second, seen) = from_pod();
        assert_eq!(seen, "c1 203.0.113.9");
        apply(&nat, &out(&[EXT2]));
        assert!(!is_alive(&mut second, SOON));
        let (mut third, seen) = from_pod();
        assert_eq!(seen, format!("c2 {EXT2}"));
        apply(&nat, &Arc::new(NatModel::default()));
        assert!(!is_alive(&mut third, SOON));
    });
}

// S5.44+
#[test]
fn what_a_removed_tenant_still_sends_has_the_tenants_address_no_more() {
    in_namespace(
        "hygiene::what_a_removed_tenant_still_sends_has_the_tenants_address_no_more",
        || {
            let lab = Lab::new();
            // The host's default route leads by an interface that is none of Durward's, as it was before the pod was enrolled.
            ip("-4 route replace default via 198.51.100.254");
            ip("-6 route replace default via 2001:db8:2::254");
            let pods = [format!("{P1}/32"), format!("{P1_V6}/128")];
            let enrolled = model(vec![], vec![egress(&pods, &[EXT1, EXT1_V6])]);
            let nat = Nat::start(Options { external: "ext1".to_owned(), ..options() }).unwrap();
            apply(&nat, &enrolled);
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            // One connection of each family, which lives all the time.
            let sending = lab.p1.spawn(move || {
                let ends = [(P1, REMOTE), (P1_V6, REMOTE_V6)];
                let sockets = ends.map(|(pod, to)| (UdpSocket::bind((pod, 4000)).unwrap(), to));
                while !stopped.load(Relaxed) {
                    for (socket, to) in &sockets {
                        let _ = socket.send_to(b"?", (*to, 99));
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
            let from = |seen: &Capture| -> BTreeSet<IpAddr> {
                let ours = seen.seen().into_iter().filter(|one| one.port == 99);
                ours.map(|packet| packet.source).collect()
            };
            let addresses = |both: [&str; 2]| both.map(|one| one.parse::<IpAddr>().unwrap()).into();
            let [tenants, pods]: [BTreeSet<IpAddr>; 2] =
                [addresses([EXT1, EXT1_V6]), addresses([P1, P1_V6])];
            let patience = Duration::from_secs(20);
            let before = Capture::start(&lab.c1);
            assert!(eventually_blocking(patience, || from(&before) == tenants));

            let report = apply(&nat, &Arc::new(NatModel::default()));
            let (outside, elsewhere) = (Capture::start(&lab.c1), Capture::start(&lab.c2));
            let host_decides = eventually_blocking(patience, || from(&elsewhere) == pods);
            stop.store(true, Relaxed);
            sending.join().unwrap();

            assert_eq!(report.connections_cut, 2);
            assert!(host_decides, "it is a pod like any other: {:?}", from(&elsewhere));
            assert_eq!(from(&outside), BTreeSet::new());
        },
    );
}
