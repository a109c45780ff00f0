//! From pods to the world: by the tenant's address and its interface, or not at all.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use durward_nat::Nat;
use durward_nat::report::Rejection;
use durward_testkit::netns::{Namespace, in_namespace};

use crate::lab::{
    EXT1, EXT1_V6, EXT2, EXT2_V6, Lab, P1, P1_V6, P2, P2_V6, PATIENCE, REMOTE, REMOTE_V6, SOON,
    apply, egress, model, options, ping, tcp, tcp_soon, tenant, udp,
};

// S5.27 S5.74+ S2.3+ S2.57
#[test]
fn pods_leave_by_their_tenants_address_and_its_interface() {
    in_namespace("egress::pods_leave_by_their_tenants_address_and_its_interface", || {
        let lab = Lab::new();
        lab.serve_outside(443);
        let first = egress(&[P1, P1_V6].map(host), &[EXT1, EXT1_V6]);
        let mut second = egress(&[P2, P2_V6].map(host), &[EXT2, EXT2_V6]);
        second.tenant = tenant("bank");
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![], vec![first, second]));

        // Both worlds own one remote address, so the answer's name tells the interface.
        let cases = [
            (&lab.p1, P1, REMOTE, format!("c1 {EXT1}")),
            (&lab.p1, P1_V6, REMOTE_V6, format!("c1 {EXT1_V6}")),
            (&lab.p2, P2, REMOTE, format!("c2 {EXT2}")),
            (&lab.p2, P2_V6, REMOTE_V6, format!("c2 {EXT2_V6}")),
        ];
        for (pod, source, to, seen) in cases {
            assert_eq!(tcp(pod, source, (to, 443)).as_ref(), Ok(&seen), "tcp from {source}");
            assert_eq!(
                udp(pod, source, (to, 443), PATIENCE).as_ref(),
                Ok(&seen),
                "udp from {source}"
            );
            assert_eq!(ping(pod, source, to, PATIENCE), Ok(()), "ping from {source}");
        }
    });
}

// S2.28 S2.56+
#[test]
fn who_is_not_known_does_not_leave_and_nothing_has_the_hosts_address() {
    in_namespace(
        "egress::who_is_not_known_does_not_leave_and_nothing_has_the_hosts_address",
        || {
            let lab = Lab::new();
            lab.serve_outside(443);
            let mut waiting = egress(&[P2, P2_V6].map(host), &[EXT1, EXT1_V6]);
            waiting.enrolled = false;
            let nat = Nat::start(options()).unwrap();
            let report = nat.apply(model(vec![], vec![waiting])).unwrap();
            let heard = listen(&lab.c1, REMOTE, 99);

            let unknown = [
                tcp_soon(&lab.p1, P1, (REMOTE, 443)),
                tcp_soon(&lab.p1, P1_V6, (REMOTE_V6, 443)),
                tcp_soon(&lab.p2, P2, (REMOTE, 443)),
                udp(&lab.p1, P1, (REMOTE, 99), SOON),
                udp(&lab.p2, P2, (REMOTE, 99), SOON),
            ];

            assert_eq!(report.egress[0].rejected, Some(Rejection::NotEnrolled));
            assert!(unknown.iter().all(Result::is_err), "{unknown:?}");
            assert_eq!(heard(), Vec::<SocketAddr>::new());
            // What waits for enrolment is prohibited by a routing rule, whatever the table says.
            assert!(nat.counters().unwrap().refused["unenrolled"].packets >= 3);
        },
    );
}

// S2.58
#[test]
fn a_pool_spreads_pods_over_its_addresses_and_each_keeps_its_own() {
    in_namespace("egress::a_pool_spreads_pods_over_its_addresses_and_each_keeps_its_own", || {
        let lab = Lab::new();
        lab.serve_outside(443);
        let pods: Vec<String> = (30..50).map(|last| format!("10.244.0.{last}")).collect();
        for pod in &pods {
            lab.p1.add_address("eth0", &format!("{pod}/24"));
        }
        for last in [20, 21, 30] {
            durward_testkit::netns::add_address("ext1", &format!("203.0.113.{last}/24"));
        }
        let mut rule = egress(&["10.244.0.0/24".to_owned()], &["203.0.113.30"]);
        let [first, last] = ["203.0.113.20", "203.0.113.21"].map(|ip| ip.parse().unwrap());
        rule.addresses.push(durward_model::mapping::AddressRange::new(first, last).unwrap());
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![], vec![rule]));

        let seen = || -> Vec<String> {
            pods.iter().map(|pod| tcp(&lab.p1, pod, (REMOTE, 443)).unwrap()).collect()
        };
        let (once, again) = (seen(), seen());

        let distinct: std::collections::BTreeSet<&String> = once.iter().collect();
        assert!(distinct.contains(&"c1 203.0.113.30".to_owned()), "{distinct:?}");
        assert!(distinct.len() >= 2, "{distinct:?}");
        let pool = ["c1 203.0.113.20", "c1 203.0.113.21", "c1 203.0.113.30"];
        assert!(distinct.iter().all(|one| pool.contains(&one.as_str())), "{distinct:?}");
        assert_eq!(once, again);
    });
}

// S2.3+
#[test]
fn an_exhausted_address_drops_and_counts_and_never_leaks() {
    in_namespace("egress::an_exhausted_address_drops_and_counts_and_never_leaks", || {
        let lab = Lab::new();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![], vec![egress(&["10.244.0.0/24".to_owned()], &[EXT1])]));
        let heard = listen(&lab.c1, REMOTE, 99);

        // One pod takes every port there is towards one destination …
        let sent = lab.p1.run(|| {
            let mut sent = 0;
            for port in 1024..=u16::MAX {
                let socket = UdpSocket::bind((P1, port)).unwrap();
                sent += usize::from(socket.send_to(b"1", (REMOTE, 99)).is_ok());
            }
            sent
        });
        let options = durward_nat::trace::Options {
            table: "durward".to_owned(),
            filter: durward_nat::trace::Filter {
                client: Some(format!("{P2}/32").parse().unwrap()),
                ..Default::default()
            },
            per_second: 1000,
            model: None,
            timeout: PATIENCE,
        };
        let mut tracer = durward_nat::trace::Tracer::start(options).unwrap();
        // … so that nothing is left for another.
        lab.p2.run(|| {
            for port in 20_000..20_050 {
                let socket = UdpSocket::bind((P2, port)).unwrap();
                let _ = socket.send_to(b"2", (REMOTE, 99));
            }
        });

        let heard = heard();
        assert_eq!(sent, 64_512);
        assert!(heard.iter().all(|peer| peer.ip().to_string() == EXT1), "{heard:?}");
        let leaving = &nat.leaving().unwrap()[&EXT1.parse().unwrap()];
        assert_eq!((leaving.ports, leaving.tenant.as_ref()), (64_512, Some(&tenant("acme"))));
        let packet = tracer.next(std::time::Instant::now() + PATIENCE).unwrap().unwrap();
        let durward_nat::trace::End::Vanished { why, .. } = packet.end else {
            panic!("{packet:?}")
        };
        assert!(why.contains("no free port"), "{why}");
        let failed = nat.counters().unwrap().conntrack.insert_failed;
        assert!(failed >= 50, "{failed} connections found no port");
    });
}

#[test]
fn two_rules_for_one_pod_are_one_rule_too_many() {
    in_namespace("egress::two_rules_for_one_pod_are_one_rule_too_many", || {
        let lab = Lab::new();
        lab.serve_outside(443);
        let older = egress(&[host(P1)], &[EXT1]);
        let mut newer = egress(&["10.244.0.0/24".to_owned()], &[EXT2]);
        newer.tenant = tenant("bank");
        let nat = Nat::start(options()).unwrap();

        let report = nat.apply(model(vec![], vec![older, newer])).unwrap();

        let by = "acme/out".to_owned();
        assert_eq!(report.egress[1].rejected, Some(Rejection::SourcesTaken { by }));
        assert_eq!(tcp(&lab.p1, P1, (REMOTE, 443)), Ok(format!("c1 {EXT1}")));
        let refused = tcp_soon(&lab.p2, P2, (REMOTE, 443));
        assert!(refused.is_err_and(|error| error != ErrorKind::TimedOut));
    });
}

fn host(address: &str) -> String {
    format!("{address}/{}", if address.contains(':') { 128 } else { 32 })
}

/// The distinct peers of datagrams that arrive until the returned function is called.
pub(crate) fn listen(
    at: &Namespace,
    address: &'static str,
    port: u16,
) -> impl FnOnce() -> Vec<SocketAddr> {
    let socket = at.run(|| UdpSocket::bind((address, port)).unwrap());
    socket.set_read_timeout(Some(SOON)).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let hearing = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut peers = std::collections::BTreeSet::new();
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((_, peer)) => drop(peers.insert(SocketAddr::new(peer.ip(), 0))),
                Err(_) if stopped.try_recv().is_ok() => return peers.into_iter().collect(),
                Err(_) => {}
            }
        }
    });
    move || {
        stop.send(()).unwrap();
        hearing.join().unwrap()
    }
}
