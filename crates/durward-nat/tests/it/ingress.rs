//! From outside to pods: who gets in, what pods see, and by which interface answers leave.

use std::io::ErrorKind;

use durward_model::mapping::SourceMode;
use durward_model::transport::Transport;
use durward_nat::{Nat, Options};
use durward_testkit::netns::in_namespace;

use crate::lab::{
    EXT1, EXT1_V6, EXT2, EXT2_V6, Lab, P1, P1_V6, P2, P2_V6, PATIENCE, REMOTE, REMOTE_V6, SOON,
    apply, at, both, mapping, model, options, port, sources, tcp, tcp_soon, udp,
};

// S5.10 S5.38 S5.39 S5.40 S5.41 S5.49 S5.59 S5.65 S5.66 S5.74 S5.26
#[test]
fn clients_of_both_worlds_reach_pods_and_get_answers() {
    in_namespace("ingress::clients_of_both_worlds_reach_pods_and_get_answers", || {
        let lab = Lab::new();
        lab.serve(9000);
        let pods = [at(P1, 9000), at(P1_V6, 9000), at(P2, 9000), at(P2_V6, 9000)];
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        let everywhere = [EXT1, EXT2, EXT1_V6, EXT2_V6];
        let keep = mapping("keep", &everywhere, both(8080, &pods));
        let mut hide = mapping("hide", &everywhere, both(8081, &pods));
        hide.mode = SourceMode::Snat;
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![keep, hide], vec![]));

        let mut wrong = Vec::new();
        for (world, v4, v6) in [(&lab.c1, EXT1, EXT1_V6), (&lab.c2, EXT2, EXT2_V6)] {
            for (target, source, inner) in
                [(v4, REMOTE, "10.244.0.1"), (v6, REMOTE_V6, "fd00:244::1")]
            {
                for (port, seen) in [(8080, source), (8081, inner)] {
                    let said = [
                        tcp(world, source, (target, port)),
                        udp(world, source, (target, port), PATIENCE),
                    ];
                    for said in said {
                        let right =
                            said.as_ref().is_ok_and(|said| said.ends_with(&format!(" {seen}")));
                        if !right {
                            wrong.push(format!("{target} {port}: {said:?}"));
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

// S5.43
#[test]
fn sources_that_are_not_allowed_are_dropped_and_so_are_unmapped_ports() {
    in_namespace(
        "ingress::sources_that_are_not_allowed_are_dropped_and_so_are_unmapped_ports",
        || {
            let lab = Lab::new();
            lab.serve(9000);
            let mut narrow =
                mapping("narrow", &[EXT1, EXT1_V6], both(8080, &[&at(P1, 9000), &at(P1_V6, 9000)]));
            narrow.allowed_sources =
                sources(&["192.0.2.0/24", "192.0.2.0/28", "2001:db8:ffff::/64"]);
            let nat = Nat::start(options()).unwrap();
            apply(&nat, &model(vec![narrow], vec![]));
            // Something of the host's own on the very port, which nobody outside may reach.
            let _own = std::net::TcpListener::bind(("0.0.0.0", 8080)).unwrap();

            let c1 = &lab.c1;
            let allowed = [
                tcp(c1, REMOTE, (EXT1, 8080)),
                tcp(c1, REMOTE_V6, (EXT1_V6, 8080)),
                udp(c1, REMOTE, (EXT1, 8080), PATIENCE),
            ];
            let denied = [
                tcp_soon(c1, "203.0.113.254", (EXT1, 8080)),
                tcp_soon(c1, "2001:db8:1::254", (EXT1_V6, 8080)),
                udp(c1, "203.0.113.254", (EXT1, 8080), SOON),
                tcp_soon(c1, REMOTE, (EXT1, 8088)),
                tcp_soon(c1, REMOTE_V6, (EXT1_V6, 8088)),
                tcp_soon(c1, REMOTE, (P1, 9000)),
            ];

            assert!(allowed.iter().all(Result::is_ok), "{allowed:?}");
            let silent =
                |error: &ErrorKind| matches!(error, ErrorKind::TimedOut | ErrorKind::WouldBlock);
            assert!(denied.iter().all(|one| one.as_ref().is_err_and(silent)), "{denied:?}");
            let refused = nat.counters().unwrap().refused;
            assert!(
                refused["denied"].packets > 0 && refused["unmapped"].packets > 0,
                "{refused:?}"
            );
        },
    );
}

// S5.47
#[test]
fn a_mapping_without_endpoints_refuses_at_once() {
    in_namespace("ingress::a_mapping_without_endpoints_refuses_at_once", || {
        let lab = Lab::new();
        let mut empty = mapping("empty", &[EXT1, EXT1_V6, EXT2], both(8080, &[]));
        empty.ports.push(port(Transport::Sctp, 8080, &[]));
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![empty], vec![]));

        let refused = [
            tcp(&lab.c1, REMOTE, (EXT1, 8080)),
            tcp(&lab.c1, REMOTE_V6, (EXT1_V6, 8080)),
            tcp(&lab.c2, REMOTE, (EXT2, 8080)),
            udp(&lab.c1, REMOTE, (EXT1, 8080), SOON * 3),
        ];

        let expected: Vec<Result<String, _>> = vec![Err(ErrorKind::ConnectionRefused); 4];
        assert_eq!(refused.to_vec(), expected);
    });
}

// S5.26
#[test]
fn without_an_address_of_its_own_endpoints_see_the_interfaces() {
    in_namespace("ingress::without_an_address_of_its_own_endpoints_see_the_interfaces", || {
        let lab = Lab::new();
        lab.serve(9000);
        let ends = [at(P1, 9000), at(P1_V6, 9000)];
        let mut hide = mapping("hide", &[EXT1, EXT2, EXT1_V6], both(8081, &[&ends[0], &ends[1]]));
        hide.mode = SourceMode::Snat;
        let options = Options { cluster_address_v4: None, cluster_address_v6: None, ..options() };
        let nat = Nat::start(options).unwrap();
        apply(&nat, &model(vec![hide], vec![]));

        for (world, from, to, seen) in [
            (&lab.c1, REMOTE, EXT1, "p1 10.244.0.1"),
            (&lab.c2, REMOTE, EXT2, "p1 10.244.0.1"),
            (&lab.c1, REMOTE_V6, EXT1_V6, "p1 fd00:244::1"),
            (&lab.p2, P2, EXT1, "p1 10.244.0.1"),
        ] {
            assert_eq!(tcp(world, from, (to, 8081)).as_deref(), Ok(seen), "{to}");
            assert_eq!(udp(world, from, (to, 8081), PATIENCE).as_deref(), Ok(seen), "{to}");
        }
    });
}
