//! The way of single packets, as the kernel tells it: where they end, why, and in whose name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::mapping::NatModel;
use durward_nat::Nat;
use durward_nat::nftables::expression::{Expression, Verdict};
use durward_nat::nftables::ruleset::{Chain, Hook, Point, Ruleset};
use durward_nat::nftables::table::{Ownership, Table};
use durward_nat::trace::{self, End, Filter, Options, Packet, Tracer};
use durward_testkit::netns::{in_namespace, ip};

use crate::lab::{
    EXT1, EXT1_V6, Lab, P1, P1_V6, P2, REMOTE, REMOTE_V6, SOON, apply, at, both, egress, mapping,
    model, options, ping, sources, tcp, tcp_soon, udp,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn tracer(filter: Filter, model: Option<&Arc<NatModel>>) -> Tracer {
    let options = Options {
        table: "durward".to_owned(),
        filter,
        per_second: 1000,
        model: model.map(Arc::clone),
        timeout: PATIENCE,
    };
    Tracer::start(options).unwrap()
}

/// Packets to this place.
fn to(address: &str, port: u16) -> Filter {
    Filter { to: Some(at(address, port).parse().unwrap()), ..Filter::default() }
}

fn next(tracer: &mut Tracer) -> Packet {
    tracer.next(Instant::now() + PATIENCE).unwrap().expect("a packet")
}

/// Families, tables, chains and words of the steps that are worth a line.
fn told(packet: &Packet) -> Vec<String> {
    let telling = packet.steps.iter().filter(|step| step.telling);
    let line = |step: &trace::Step| {
        let words = step.words.clone().unwrap_or_else(|| step.verdict.clone());
        format!("{} {} {}: {words}", step.hook.unwrap(), step.table, step.chain)
    };
    telling.map(line).collect()
}

fn web() -> Arc<NatModel> {
    let to = [at(P1, 9000), at(P1_V6, 9000)];
    let mut web = mapping("web", &[EXT1, EXT1_V6], both(8080, &[&to[0], &to[1]]));
    web.allowed_sources = sources(&["192.0.2.0/24", "2001:db8:ffff::/48"]);
    let empty = mapping("empty", &[EXT1], both(8081, &[]));
    model(vec![web, empty], vec![egress(&[format!("{P1}/32")], &[EXT1])])
}

#[test]
fn a_packets_way_is_told_with_its_end_its_tenant_and_its_mapping() {
    in_namespace("trace::a_packets_way_is_told_with_its_end_its_tenant_and_its_mapping", || {
        let lab = Lab::new();
        lab.serve(9000);
        lab.serve_outside(443);
        let web = web();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &web);

        let mut in4 = tracer(to(EXT1, 8080), Some(&web));
        tcp(&lab.c1, REMOTE, (EXT1, 8080)).unwrap();
        let in4 = next(&mut in4);
        let mut in6 = tracer(to(EXT1_V6, 8080), None);
        udp(&lab.c1, REMOTE_V6, (EXT1_V6, 8080), PATIENCE).unwrap();
        let in6 = next(&mut in6);
        let from_pod = Filter {
            client: Some(format!("{P1}/32").parse().unwrap()),
            protocol: Some(6),
            ..Filter::default()
        };
        let mut out = tracer(from_pod, Some(&web));
        tcp(&lab.p1, P1, (REMOTE, 443)).unwrap();
        let out = next(&mut out);

        assert_eq!((&in4.end, &in4.input), (&End::Left, &Some("ext1".to_owned())));
        assert!(in4.first.to_string().ends_with("203.0.113.1:8080 tcp SYN"), "{}", in4.first);
        assert_eq!(in4.last.destination.to_string(), at(P1, 9000));
        assert_eq!(in4.tenant.as_deref(), Some("acme"));
        assert_eq!(in4.name.as_deref(), Some("web"));
        let acl = told(&in4)
            .into_iter()
            .map(|line| line.replace(|c: char| c.is_ascii_digit(), ""))
            .collect::<Vec<_>>();
        for words in ["is the source allowed?", "destination translated"] {
            assert!(acl.iter().any(|line| line.contains(words)), "{words}: {acl:#?}");
        }
        assert_eq!((in6.end, in6.last.destination.to_string()), (End::Left, at(P1_V6, 9000)));
        assert_eq!((in6.tenant.as_deref(), in6.name), (Some("acme"), None), "by the mark alone");
        assert_eq!((&out.end, out.output.as_deref()), (&End::Left, Some("ext1")));
        assert_eq!(out.last.source.ip().to_string(), EXT1, "as the world sees it");
        assert_eq!(out.name.as_deref(), Some("out"));
    });
}

#[test]
fn a_refused_packets_reason_is_told() {
    in_namespace("trace::a_refused_packets_reason_is_told", || {
        let lab = Lab::new();
        lab.serve(9000);
        let web = web();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &web);
        let end = |filter, send: &dyn Fn()| {
            let mut tracer = tracer(filter, Some(&web));
            send();
            next(&mut tracer)
        };
        let reason = |packet: &Packet| match &packet.end {
            End::Dropped { reason, why, answer, .. } => {
                (reason.clone().unwrap(), why.clone(), *answer)
            }
            other => panic!("{other:?}"),
        };
        let is = |name: &str| name.to_owned();

        let denied =
            end(to(EXT1, 8080), &|| drop(tcp_soon(&lab.c1, "203.0.113.254", (EXT1, 8080))));
        let unmapped = end(to(EXT1, 99), &|| drop(tcp_soon(&lab.c1, REMOTE, (EXT1, 99))));
        let empty = end(to(EXT1, 8081), &|| drop(tcp_soon(&lab.c1, REMOTE, (EXT1, 8081))));
        let unenrolled = end(to(REMOTE, 443), &|| drop(tcp_soon(&lab.p2, P2, (REMOTE, 443))));
        lab.c1.add_address("wan", "10.244.0.99/32");
        let spoofed = end(to(EXT1, 8080), &|| drop(tcp_soon(&lab.c1, "10.244.0.99", (EXT1, 8080))));

        assert_eq!(
            reason(&denied),
            (is("denied"), is("203.0.113.254 is in none of 192.0.2.0-192.0.2.255"), None)
        );
        assert_eq!((denied.tenant.as_deref(), denied.name.as_deref()), (Some("acme"), Some("web")));
        assert_eq!(reason(&unmapped).0, "unmapped");
        assert_eq!((reason(&empty).0, reason(&empty).2), (is("no_endpoint"), Some("reset")));
        assert_eq!(
            (reason(&unenrolled).0, reason(&unenrolled).2),
            (is("unenrolled"), Some("administratively prohibited"))
        );
        assert_eq!(reason(&spoofed).0, "spoofed");
    });
}

#[test]
fn what_others_drop_is_told_and_what_is_lost_elsewhere_too() {
    in_namespace("trace::what_others_drop_is_told_and_what_is_lost_elsewhere_too", || {
        let lab = Lab::new();
        lab.serve(9000);
        let web = web();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &web);
        let hook = Some(Hook { kind: "filter", point: Point::Forward, priority: 10 });
        let rules = vec![vec![Expression::Verdict(Verdict::Drop)]];
        let chains = [("FORWARD".to_owned(), Chain { hook, rules })].into();
        let mut walls = Table::open("firewalld", Ownership::Shared, PATIENCE).unwrap();
        walls.bring_to(&Ruleset { chains, ..Ruleset::default() }).unwrap();

        let mut walled = tracer(to(EXT1, 8080), None);
        let _ = tcp_soon(&lab.c1, REMOTE, (EXT1, 8080));
        let walled = next(&mut walled);
        walls.delete().unwrap();
        ip("route add blackhole 198.18.0.0/15");
        let mut lost = tracer(to("198.18.0.1", 0), None);
        let _ = ping(&lab.p2, P2, "198.18.0.1", SOON / 4);
        let lost = next(&mut lost);
        let mut own = tracer(to("127.0.0.1", 0), None);
        let _ = udp(
            &durward_testkit::netns::Namespace::current(),
            "127.0.0.1",
            ("127.0.0.1", 9),
            SOON / 4,
        );
        let own = [next(&mut own), next(&mut own)];

        let End::Dropped { by, reason: None, .. } = &walled.end else { panic!("{walled:?}") };
        assert_eq!(by, "inet firewalld FORWARD");
        assert!(told(&walled).last().unwrap().starts_with("forward firewalld FORWARD: drop"));
        assert!(matches!(lost.end, End::Vanished { after: "prerouting", .. }), "{lost:?}");
        assert_eq!(lost.first.kind(), "echo request");
        assert_eq!((own[0].input.as_deref(), &own[0].end), (None, &End::Left));
        assert_eq!((own[1].input.as_deref(), &own[1].end), (Some("lo"), &End::Delivered));
    });
}

#[test]
fn answers_are_told_where_they_are_asked_for() {
    in_namespace("trace::answers_are_told_where_they_are_asked_for", || {
        let lab = Lab::new();
        lab.serve(9000);
        let web = web();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &web);
        let client = Some(format!("{REMOTE}/32").parse().unwrap());

        let both = Filter { client, protocol: Some(17), answers: true, ..Filter::default() };
        let mut both = tracer(both, None);
        udp(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).unwrap();
        let (question, answer) = (next(&mut both), next(&mut both));

        assert_eq!(question.first.destination.to_string(), at(EXT1, 8080));
        assert_eq!(answer.first.source.to_string(), at(P1, 9000));
        assert_eq!((answer.end, answer.output.as_deref()), (End::Left, Some("ext1")));
        assert_eq!(answer.tenant.as_deref(), Some("acme"));
    });
}

#[test]
fn a_trace_is_bounded_and_leaves_nothing() {
    in_namespace("trace::a_trace_is_bounded_and_leaves_nothing", || {
        let lab = Lab::new();
        durward_testkit::netns::sysctl("net.ipv4.ip_forward", "1");
        let everything = Filter { protocol: Some(17), ..Filter::default() };
        let options = Options {
            table: "durward".to_owned(),
            filter: everything,
            per_second: 1,
            model: None,
            timeout: PATIENCE,
        };
        let mut tracer = Tracer::start(options).unwrap();

        lab.p1.run(|| {
            let socket = std::net::UdpSocket::bind((P1, 0)).unwrap();
            (0..500).for_each(|_| drop(socket.send_to(b"?", (REMOTE, 99))));
        });
        let first = next(&mut tracer);
        let mut shown = 1;
        while tracer.rest().unwrap().is_some() {
            shown += 1;
        }
        let tally = tracer.tally().unwrap();
        let name = tracer.table().to_owned();
        let table = |name: &str| Table::open(name, Ownership::Shared, PATIENCE).unwrap();
        let during = table(&name).read().unwrap().exists;
        drop(tracer);
        // One of a killed process on an older kernel.
        table("durward-trace-1").bring_to(&Ruleset::default()).unwrap();
        trace::cleanup("durward", PATIENCE).unwrap();

        assert!(matches!(first.end, End::Left), "{first:?}");
        assert!(tally.matched >= 500, "{tally:?}");
        assert!(tally.traced < 60 && shown <= tally.traced, "{shown} of {tally:?}");
        assert!(during);
        assert!(!table(&name).read().unwrap().exists);
        assert!(!table("durward-trace-1").read().unwrap().exists);
    });
}
