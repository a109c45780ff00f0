//! Endpoints of mappings that are checked: who fails gets no new connections, and nobody else notices.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use durward_model::health::{HealthCheck, Probe};
use durward_model::mapping::{NatModel, PortMapping};
use durward_model::transport::Transport;
use durward_nat::{CheckedEndpoint, Nat, Owners};
use durward_testkit::netns::{Namespace, add_address, in_namespace, ip};

use crate::lab::{
    EXT1, EXT1_V6, Lab, P1, P1_V6, P2, P2_V6, REMOTE, REMOTE_V6, SOON, apply, at, connect,
    is_alive, mapping, model, options, port, tenant, udp,
};

/// Generous: the assertion is what happens, not when.
const PATIENCE: Duration = Duration::from_secs(60);

fn quick() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        unhealthy_after: 2,
        healthy_after: 2,
    }
}

fn checked(mapping: PortMapping) -> PortMapping {
    PortMapping { health_check: Some(quick()), ..mapping }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A server of a pod that can be taken away and put back; it says its name.
struct Server {
    running: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(pod: &Namespace, name: &'static str, port: u16) -> Self {
        let listener = pod.run(|| TcpListener::bind(("::", port)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let running = Arc::new(AtomicBool::new(true));
        let goes_on = Arc::clone(&running);
        let thread = thread::spawn(move || {
            while goes_on.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(thread::spawn(move || echo(stream, name))),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Self { running, thread: Some(thread) }
    }

    /// Nobody listens any more; connections go on.
    fn stop(mut self) {
        self.running.store(false, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn echo(mut stream: TcpStream, name: &str) {
    use std::io::{Read, Write};
    stream.set_nonblocking(false).unwrap();
    let _ = stream.write_all(format!("{name}\n").as_bytes());
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// The endpoints that checks took out.
fn out(nat: &Nat) -> Vec<CheckedEndpoint> {
    let all = nat.checked().into_iter().flat_map(|one| one.endpoints);
    all.filter(|one| one.out).collect()
}

fn out_at(nat: &Nat) -> Vec<String> {
    out(nat).iter().map(|one| one.at.to_string()).collect()
}

/// Who answers so many new connections.
fn answers(lab: &Lab, to: (&str, u16), count: usize) -> BTreeSet<String> {
    let source = if to.0.contains(':') { REMOTE_V6 } else { REMOTE };
    let ask = |_| match connect(&lab.c1, source, to, SOON * 6) {
        Ok((_, name)) => name,
        Err(kind) => kind.to_string(),
    };
    (0..count).map(ask).collect()
}

fn only(name: &str) -> BTreeSet<String> {
    [name.to_owned()].into()
}

fn p1_and_p2() -> BTreeSet<String> {
    ["p1", "p2"].map(str::to_owned).into()
}

// S5.47+
#[test]
fn a_dead_endpoint_gets_no_new_connections_until_it_is_back_and_the_healthy_ones_live_on() {
    let name = "checks::a_dead_endpoint_gets_no_new_connections_until_it_is_back_and_the_healthy_ones_live_on";
    in_namespace(name, || {
        let lab = Lab::new();
        let _p1 = Server::start(&lab.p1, "p1", 9000);
        let p2 = Server::start(&lab.p2, "p2", 9000);
        let to = [at(P1, 9000), at(P2, 9000), at(P1_V6, 9000), at(P2_V6, 9000)];
        let to = to.each_ref().map(String::as_str);
        let web = mapping("web", &[EXT1, EXT1_V6], vec![port(Transport::Tcp, 8080, &to)]);
        let wanted = model(vec![checked(web)], vec![]);
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &wanted);
        assert_eq!(answers(&lab, (EXT1, 8080), 40), p1_and_p2());
        let open = |name: &str| loop {
            let (stream, said) = connect(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).unwrap();
            if said == name {
                return stream;
            }
        };
        let (mut healthy, mut dying) = (open("p1"), open("p2"));

        p2.stop();
        eventually("p2 is out", || out_at(&nat) == [at(P2, 9000), at(P2_V6, 9000)]);
        eventually("p2 gets nothing", || answers(&lab, (EXT1, 8080), 40) == only("p1"));

        assert_eq!(answers(&lab, (EXT1, 8080), 100), only("p1"));
        assert_eq!(answers(&lab, (EXT1_V6, 8080), 40), only("p1"));
        assert!(out(&nat).iter().all(|one| one.cause.as_deref().unwrap().contains("refused")));
        assert!(is_alive(&mut healthy, PATIENCE), "the healthy endpoint's connection");
        assert!(is_alive(&mut dying, PATIENCE), "a connection that exists is not cut");
        assert_eq!(nat.ejections().get(&tenant("acme")), Some(&2));
        let (_, difference) = nat.preview(&wanted).unwrap();
        assert!(difference.is_empty(), "it is as it should be: {difference}");

        let _p2 = Server::start(&lab.p2, "p2", 9000);
        eventually("p2 is back", || out(&nat).is_empty());
        eventually("p2 gets its share", || answers(&lab, (EXT1, 8080), 40) == p1_and_p2());
        assert!(is_alive(&mut healthy, PATIENCE) && is_alive(&mut dying, PATIENCE));
        nat.cleanup().unwrap();
    });
}

// S5.47+
#[test]
fn a_mapping_whose_endpoints_all_fail_refuses_and_its_udp_goes_on() {
    in_namespace("checks::a_mapping_whose_endpoints_all_fail_refuses_and_its_udp_goes_on", || {
        let lab = Lab::new();
        lab.serve(9001);
        // Nobody listens on 9000 with TCP; with UDP both pods do on 9001.
        let dead = port(Transport::Tcp, 8080, &[&at(P1, 9000), &at(P2, 9000)]);
        let datagrams = port(Transport::Udp, 8080, &[&at(P1, 9001)]);
        let nat = Nat::start(options()).unwrap();
        let web = checked(mapping("web", &[EXT1], vec![dead, datagrams]));
        apply(&nat, &model(vec![web], vec![]));

        eventually("both are out", || out(&nat).len() == 2);
        // The pods refuse as well, so the kernel's own count says who did.
        let refused = || connect(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).map(|_| ()).unwrap_err();
        eventually("the gateway refuses", || {
            assert_eq!(refused(), ErrorKind::ConnectionRefused);
            nat.counters().unwrap().refused["no_endpoint"].packets > 0
        });

        let said = udp(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).unwrap();
        assert_eq!(said, format!("p1 {REMOTE}"));
        nat.cleanup().unwrap();
    });
}

#[test]
fn a_silent_endpoint_is_out_and_leaves_no_sockets_behind() {
    in_namespace("checks::a_silent_endpoint_is_out_and_leaves_no_sockets_behind", || {
        let lab = Lab::new();
        let _p1 = Server::start(&lab.p1, "p1", 9000);
        // On the pods' network, where nobody answers: the address resolution of a pod that was killed.
        let silent = "10.244.0.13:9000";
        ip("neigh add 10.244.0.13 lladdr 02:00:00:00:00:13 dev br0");
        let web =
            mapping("web", &[EXT1], vec![port(Transport::Tcp, 8080, &[&at(P1, 9000), silent])]);
        let check = HealthCheck { timeout: Duration::from_millis(300), ..quick() };
        let web = PortMapping { health_check: Some(check), ..web };
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![web], vec![]));

        eventually("it is out", || out_at(&nat) == [silent]);

        assert_eq!(out(&nat)[0].cause.as_deref(), Some("no answer in time"));
        eventually("nobody gets nothing", || answers(&lab, (EXT1, 8080), 20) == only("p1"));
        // One check of it is under way at the most, however many were given up.
        let half_open = || sockets().iter().filter(|(_, state)| state == "02").count();
        assert!((0..20).all(|_| {
            thread::sleep(Duration::from_millis(50));
            half_open() <= 1
        }));
        nat.cleanup().unwrap();
    });
}

/// This namespace's IPv4 TCP sockets: remote port and state, as the kernel writes them. It may write one twice while others come and go.
fn sockets() -> Vec<(u16, String)> {
    let text = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let remote = words[2].split_once(':').unwrap().1;
        (words[1].to_owned(), (u16::from_str_radix(remote, 16).unwrap(), words[3].to_owned()))
    };
    // By the local address and port, of which a socket that connects has one of its own to each destination.
    let all = text.lines().skip(1).map(line).map(|(local, (remote, state))| (local, remote, state));
    let all: BTreeSet<(String, u16, String)> = all.collect();
    all.into_iter().map(|(_, remote, state)| (remote, state)).collect()
}

#[test]
fn checks_end_without_a_reset_and_leave_from_the_gateways_own_address() {
    in_namespace(
        "checks::checks_end_without_a_reset_and_leave_from_the_gateways_own_address",
        || {
            use std::io::{Read, Write};
            let lab = Lab::new();
            let listener = lab.p1.run(|| TcpListener::bind(("0.0.0.0", 9000)).unwrap());
            // A tenant's address is on the pods' network too, before the gateway's own in the order of addresses.
            ip("addr del 10.244.0.1/24 dev br0");
            add_address("br0", "10.244.0.9/24");
            add_address("br0", "10.244.0.1/24");
            let web = mapping("web", &[EXT1], vec![port(Transport::Tcp, 8080, &[&at(P1, 9000)])]);
            let nat = Nat::start(options()).unwrap();
            nat.set_owners(Arc::new(owned("bank", "10.244.0.9")));

            apply(&nat, &model(vec![checked(web)], vec![]));

            // A server that greets: what the checker does not wait for must not make it answer with a reset. A busy machine may be late.
            let greeted = || {
                let (mut stream, peer) = listener.accept().unwrap();
                assert_eq!(peer.ip().to_string(), "10.244.0.1");
                let said = stream
                    .write_all(b"220 hello\r\n")
                    .and_then(|()| stream.read_to_end(&mut Vec::new()));
                thread::sleep(Duration::from_millis(20));
                said.is_ok() && stream.take_error().unwrap().is_none()
            };
            eventually("five ends in a row without a reset", || (0..5).all(|_| greeted()));
            // No mark of a mapping: the gateway speaks for itself.
            assert_eq!(nat.counters().unwrap().tenants[&tenant("acme")].packets, 0);
            nat.cleanup().unwrap();
        },
    );
}

fn owned(name: &str, address: &str) -> Owners {
    [(address.parse().unwrap(), [tenant(name)].into())].into()
}

#[test]
fn no_check_leaves_from_another_tenants_address() {
    in_namespace("checks::no_check_leaves_from_another_tenants_address", || {
        let lab = Lab::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = lab.p1.run(|| TcpListener::bind(("0.0.0.0", 9000)).unwrap());
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for _ in listener.incoming() {
                count.fetch_add(1, Relaxed);
            }
        });
        // The only address towards the pods is bank's.
        let mut options = options();
        options.cluster_address_v4 = None;
        let one = |name: &str, number| {
            let ports = vec![port(Transport::Tcp, number, &[&at(P1, 9000)])];
            checked(mapping(name, &[EXT1], ports))
        };
        let nat = Nat::start(options).unwrap();
        nat.set_owners(Arc::new(owned("bank", "10.244.0.1")));
        apply(&nat, &model(vec![one("web", 8080)], vec![]));
        let why = || nat.checked().first()?.endpoints.first()?.unchecked.clone();
        eventually("it says why", || why().is_some());

        let said = why().unwrap();
        assert!(said.contains("10.244.0.1, which is bank's"), "{said}");
        assert!(out(&nat).is_empty(), "nothing is known of it");
        thread::sleep(Duration::from_millis(500));
        assert_eq!(asked.load(Relaxed), 0);
        let mut own = one("desk", 8081);
        own.tenant = tenant("bank");
        apply(&nat, &model(vec![own], vec![]));
        eventually("bank's own is checked", || asked.load(Relaxed) > 0);
        nat.cleanup().unwrap();
    });
}

#[test]
fn changes_while_checks_run_keep_what_is_known_and_a_removed_mapping_is_checked_no_more() {
    let name = "checks::changes_while_checks_run_keep_what_is_known_and_a_removed_mapping_is_checked_no_more";
    in_namespace(name, || {
        let lab = Lab::new();
        let _p1 = Server::start(&lab.p1, "p1", 9000);
        let web = |drain| {
            let ports = vec![port(Transport::Tcp, 8080, &[&at(P1, 9000), &at(P2, 9000)])];
            let web = PortMapping { drain, ..mapping("web", &[EXT1], ports) };
            Arc::new(checked(web))
        };
        let other = |number| {
            Arc::new(checked(mapping(
                "other",
                &[EXT1],
                vec![port(Transport::Tcp, number, &[&at(P1, 9000)])],
            )))
        };
        let with = |mappings: Vec<Arc<PortMapping>>| {
            Arc::new(NatModel { mappings, ..(*model(vec![], vec![])).clone() })
        };
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &with(vec![web(Duration::ZERO)]));
        eventually("p2 is out", || out_at(&nat) == [at(P2, 9000)]);
        eventually("p2 gets nothing", || answers(&lab, (EXT1, 8080), 20) == only("p1"));

        // Another mapping, ports of it, the mapping itself, a listener of the host: every change keeps p2 out, from its first packet on.
        for round in 0..20u16 {
            let mut wanted = (*with(vec![
                web(Duration::from_secs(u64::from(round % 3))),
                other(9000 + round % 5),
            ]))
            .clone();
            if round % 2 == 0 {
                wanted.local = [SocketAddr::new(EXT1.parse().unwrap(), 7000 + round)].into();
            }
            apply(&nat, &Arc::new(wanted));
            assert_eq!(answers(&lab, (EXT1, 8080), 12), only("p1"), "round {round}");
            assert!(out_at(&nat).contains(&at(P2, 9000)), "round {round}");
        }
        apply(&nat, &with(vec![other(9000)]));
        eventually("web is checked no more", || nat.checked().len() == 1);
        let segments = || {
            let text =
                lab.p2.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
            text.lines()
                .filter(|line| line.starts_with("Tcp:"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        eventually("its checks have ended", || {
            let before = segments();
            thread::sleep(Duration::from_millis(500));
            before == segments()
        });
        nat.cleanup().unwrap();
    });
}

#[test]
fn a_restarted_process_does_not_put_a_dead_endpoint_back() {
    in_namespace("checks::a_restarted_process_does_not_put_a_dead_endpoint_back", || {
        let lab = Lab::new();
        let _p1 = Server::start(&lab.p1, "p1", 9000);
        let ports = vec![port(Transport::Tcp, 8080, &[&at(P1, 9000), &at(P2, 9000)])];
        let web = mapping("web", &[EXT1], ports);
        let wanted = model(vec![checked(web.clone())], vec![]);
        let first = Nat::start(options()).unwrap();
        apply(&first, &wanted);
        eventually("p2 is out", || out_at(&first) == [at(P2, 9000)]);
        eventually("p2 gets nothing", || answers(&lab, (EXT1, 8080), 20) == only("p1"));
        drop(first);

        // Its own checks need an hour to find that out.
        let slow = HealthCheck { interval: Duration::from_secs(3600), ..quick() };
        let slow = PortMapping { health_check: Some(slow), ..web };
        let second = Nat::start(options()).unwrap();
        apply(&second, &model(vec![slow.clone()], vec![]));

        assert_eq!(answers(&lab, (EXT1, 8080), 40), only("p1"));
        eventually("it says so", || out_at(&second) == [at(P2, 9000)]);
        let unchecked = PortMapping { health_check: None, ..slow };
        apply(&second, &model(vec![unchecked], vec![]));
        let refused = ErrorKind::ConnectionRefused.to_string();
        let both: BTreeSet<String> = ["p1".to_owned(), refused].into();
        assert_eq!(answers(&lab, (EXT1, 8080), 40), both, "without a check it is in rotation");
        second.cleanup().unwrap();
    });
}

// Ten thousand mappings whose endpoints never answer.
#[test]
fn ten_thousand_checked_mappings_have_no_more_sockets_than_slots() {
    in_namespace("checks::ten_thousand_checked_mappings_have_no_more_sockets_than_slots", || {
        let lab = Lab::new();
        let _p1 = Server::start(&lab.p1, "p1", 9000);
        ip("neigh add 10.244.0.13 lladdr 02:00:00:00:00:13 dev br0");
        let check = HealthCheck { timeout: Duration::from_secs(60), ..quick() };
        let mut mappings: Vec<PortMapping> = (0..10_000u16)
            .map(|at| {
                let endpoint = format!("10.244.0.13:{}", 10_000 + at);
                let ports = vec![port(Transport::Tcp, 10_000 + at, &[&endpoint])];
                let one = mapping(&format!("m{at}"), &[EXT1], ports);
                PortMapping { health_check: Some(check.clone()), ..one }
            })
            .collect();
        // Another tenant's, behind all of them.
        let ports = vec![port(Transport::Tcp, 8080, &[&at(P1, 9000), &at(P2, 9000)])];
        let mut web = checked(mapping("web", &[EXT1], ports));
        web.tenant = tenant("bank");
        mappings.push(web);
        let nat = Nat::start(options()).unwrap();

        apply(&nat, &model(mappings, vec![]));

        eventually("another tenant's dead endpoint is found", || out_at(&nat) == [at(P2, 9000)]);
        eventually("it gets nothing", || answers(&lab, (EXT1, 8080), 20) == only("p1"));
        for _ in 0..20 {
            let hanging =
                sockets().iter().filter(|(port, state)| *port >= 10_000 && state == "02").count();
            assert!((1..=32).contains(&hanging), "{hanging} at once");
            thread::sleep(Duration::from_millis(50));
        }
        nat.cleanup().unwrap();
    });
}
