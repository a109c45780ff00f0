//! What is left of steering when its table is taken away, and of connections when their pod is steered no more: rules of routing, by which
//! nothing of a tenant's pod leaves the node with the node's address, nor with its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use durward_nat::Steer;
use durward_nat::nftables::table::{Ownership, Table};
use durward_nat::steer::Options;
use durward_testkit::netns::traffic::{Sender, Traffic};
use durward_testkit::netns::{Capture, Namespace, in_namespace};
use durward_testkit::process::eventually_blocking;

use super::lab::{
    ENROLLED, EXT, EXT_V6, GATEWAY, Lab, NODE, NODE_WAN, NODE_WAN_V6, OTHER, OTHER_V6, POD, POD_V6,
    node, options,
};
use crate::lab::{
    PATIENCE, REMOTE, REMOTE_V6, SOON, connect, is_alive, serve, serve_on, tcp, tcp_soon,
};

/// The node's own addresses towards its pods.
const BRIDGE: [&str; 2] = ["10.244.3.1", "fd00:244:3::1"];
const REMOTES: [&str; 2] = ["192.0.2.101", "2001:db8:ffff::101"];

/// Takes the table away, as `nft flush ruleset` does.
fn take_away() {
    Table::open("durward-steer", Ownership::Shared, PATIENCE).unwrap().delete().unwrap();
}

/// What goes by the node's own ways, and what each says: pods to pods, the node and other nodes, and the node's probes.
fn near(lab: &Lab) -> Vec<(String, Result<String, std::io::ErrorKind>)> {
    let here = Namespace::current();
    let gateway = GATEWAY.to_string();
    let cases = [
        (&lab.pod, POD, OTHER, 9000, format!("other {POD}")),
        (&lab.pod, POD_V6, OTHER_V6, 9000, format!("other {POD_V6}")),
        (&lab.other, OTHER, POD, 9000, format!("pod {OTHER}")),
        (&lab.other, OTHER_V6, POD_V6, 9000, format!("pod {OTHER_V6}")),
        (&lab.pod, POD, BRIDGE[0], 9002, format!("node {POD}")),
        (&lab.pod, POD_V6, BRIDGE[1], 9002, format!("node {POD_V6}")),
        (&lab.pod, POD, &*gateway, 9001, format!("gateway {NODE}")),
        (&here, BRIDGE[0], POD, 9000, format!("pod {}", BRIDGE[0])),
        (&here, BRIDGE[1], POD_V6, 9000, format!("pod {}", BRIDGE[1])),
    ];
    let ask = |(from, source, to, port, wanted): (&Namespace, &str, &str, u16, String)| {
        let said = tcp(from, source, (to, port));
        (said != Ok(wanted.clone())).then(|| (format!("{source} to {to}: {wanted}"), said))
    };
    cases.into_iter().filter_map(ask).collect()
}

/// What the world sees of the pod that is nobody's.
fn strangers(lab: &Lab) -> [Result<String, std::io::ErrorKind>; 2] {
    let to = |source, remote| tcp_soon(&lab.other, source, (remote, 443));
    [to(OTHER, REMOTE), to(OTHER_V6, REMOTE_V6)]
}

fn ports(lab: &Lab) -> [Result<String, std::io::ErrorKind>; 2] {
    let to = |source, node| tcp_soon(&lab.world, source, (node, 30080));
    [to(REMOTE, NODE_WAN), to(REMOTE_V6, NODE_WAN_V6)]
}

fn by_node() -> [Result<String, std::io::ErrorKind>; 2] {
    [NODE_WAN, NODE_WAN_V6].map(|address| Ok(format!("world {address}")))
}

// S2.56+
#[test]
fn a_table_taken_away_after_its_process_lets_no_pod_out_and_leaves_what_is_near() {
    in_namespace(
        "steer::outlive::a_table_taken_away_after_its_process_lets_no_pod_out_and_leaves_what_is_near",
        || {
            let lab = Lab::new();
            serve_on(&lab.gateway, "gateway", &GATEWAY.to_string(), 9001);
            serve(&Namespace::current(), "node", 9002);
            let steer = lab.steer();
            assert!(lab.is_steered());
            let steered = (near(&lab), ports(&lab), strangers(&lab));
            drop(steer);

            take_away();
            let seen = Capture::start(&lab.world);
            let heard = lab.leaks();
            let left: Vec<_> = seen.seen().into_iter().filter(is_to_the_world).collect();
            let (kept, open) = (near(&lab), ports(&lab));

            let ports_open = [REMOTE, REMOTE_V6].map(|client| Ok(format!("pod {client}")));
            assert_eq!(steered, (vec![], ports_open, by_node()));
            assert_eq!((heard, left), (vec![], vec![]));
            assert_eq!(kept, vec![]);
            assert_eq!(strangers(&lab), by_node(), "pods that are nobody's");
            assert!(open.iter().all(Result::is_err), "answers have no mark now: {open:?}");
            let _again = lab.steer();
            assert!(lab.is_steered() && ports(&lab).iter().all(Result::is_ok));
        },
    );
}

fn is_to_the_world(packet: &durward_testkit::netns::Packet) -> bool {
    [REMOTE, REMOTE_V6].iter().any(|remote| packet.destination == remote.parse::<IpAddr>().unwrap())
}

// S2.56+
#[test]
fn a_shared_table_flushed_again_and_again_lets_no_pod_out() {
    in_namespace("steer::outlive::a_shared_table_flushed_again_and_again_lets_no_pod_out", || {
        let lab = Lab::new();
        let shared = Options { own_table: false, ..options() };
        let start = || {
            let steer = Steer::start(shared.clone()).unwrap();
            steer.apply(node(&ENROLLED)).unwrap();
            steer
        };
        let mut steer = start();
        for (remote, len) in REMOTES.iter().zip([32, 128]) {
            lab.world.add_address("lo", &format!("{remote}/{len}"));
        }
        let senders = [
            Sender::new(&lab.pod, POD, REMOTES[0], Some(EXT)),
            Sender::new(&lab.pod, POD_V6, REMOTES[1], Some(EXT_V6)),
        ];
        let traffic = Traffic::start(&lab.world, senders.into());

        for round in 0..20 {
            take_away();
            traffic.flows(200);
            // Every second time nobody is there who would undo it at once.
            if round % 2 == 0 {
                drop(steer);
                let _ = Table::open("durward-steer", Ownership::Shared, PATIENCE).unwrap().delete();
                traffic.flows(200);
                steer = start();
            }
        }

        let works = eventually_blocking(PATIENCE, || lab.is_steered());
        traffic.assert_nothing_foreign("a node's table taken away");
        assert!(works);
        drop(steer);
    });
}

// S2.56+
#[test]
fn a_restart_knows_what_was_steered_although_the_table_is_gone() {
    in_namespace(
        "steer::outlive::a_restart_knows_what_was_steered_although_the_table_is_gone",
        || {
            let lab = Lab::new();
            drop(lab.steer());

            take_away();
            let enrolled = Steer::start(options()).unwrap().enrolled().unwrap();

            assert_eq!(enrolled, ENROLLED.map(|net| net.parse().unwrap()).into());
        },
    );
}

// S2.56+
#[test]
fn among_a_thousand_networks_nobodys_pods_leave_as_before_and_tenants_never() {
    in_namespace(
        "steer::outlive::among_a_thousand_networks_nobodys_pods_leave_as_before_and_tenants_never",
        || {
            let lab = Lab::new();
            // None touches another, so that each would be a rule.
            let others =
                (0..1100u16).map(|one| format!("10.244.{}.{}/32", 16 + one / 100, one % 100 * 2));
            let mut networks: Vec<String> = others.collect();
            networks.extend(ENROLLED.map(str::to_owned));
            let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
            let steer = Steer::start(options()).unwrap();
            steer.apply(node(&networks)).unwrap();

            let steered = lab.is_steered();
            let (before, ports) = (strangers(&lab), ports(&lab));
            drop(steer);
            take_away();
            let heard = lab.leaks();
            let after = strangers(&lab);

            assert!(steered);
            assert_eq!(before, by_node());
            assert!(ports.iter().all(Result::is_ok), "{ports:?}");
            assert_eq!(heard, vec![]);
            // Of IPv6 there are few networks.
            assert!(after[0].is_err() && after[1].is_ok(), "held back with them: {after:?}");
        },
    );
}

// S2.56+
#[test]
fn pods_that_are_steered_no_more_do_not_send_with_their_own_address() {
    in_namespace(
        "steer::outlive::pods_that_are_steered_no_more_do_not_send_with_their_own_address",
        || {
            let lab = Lab::new();
            let steer = lab.steer();
            let (mut open, said) = connect(&lab.pod, POD, (REMOTE, 443), PATIENCE).unwrap();
            let seen = Capture::start(&lab.world);
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            // Connections that live all the time, whoever's they are.
            let sending = lab.pod.spawn(move || {
                let ends = [(POD, REMOTE), (POD_V6, REMOTE_V6)];
                let sockets = ends.map(|(pod, to)| (UdpSocket::bind((pod, 4000)).unwrap(), to));
                while !stopped.load(Relaxed) {
                    for (socket, to) in &sockets {
                        let _ = socket.send_to(b"?", (*to, 99));
                    }
                    std::thread::sleep(std::time::Duration::from_micros(100));
                }
            });
            let sources = || -> BTreeSet<IpAddr> {
                let ours = seen.seen().into_iter().filter(|one| one.port == 99);
                ours.map(|packet| packet.source).collect()
            };
            let both = |addresses: [&str; 2]| addresses.map(|one| one.parse::<IpAddr>().unwrap());
            let [tenants, nodes] = [both([EXT, EXT_V6]), both([NODE_WAN, NODE_WAN_V6])];
            assert!(eventually_blocking(PATIENCE, || tenants
                .iter()
                .all(|one| sources().contains(one))));

            steer.apply(node(&[])).unwrap();
            let cut = !is_alive(&mut open, SOON);
            for _ in 0..20 {
                steer.apply(node(&ENROLLED)).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
                steer.apply(node(&[])).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            assert!(eventually_blocking(PATIENCE, || nodes
                .iter()
                .all(|one| sources().contains(one))));
            stop.store(true, Relaxed);
            sending.join().unwrap();

            assert_eq!(said, format!("world {EXT}"));
            assert!(cut, "it had the tenant's address");
            assert_eq!(lab.seen(), by_node());
            assert_eq!(sources(), [tenants, nodes].concat().into_iter().collect());
        },
    );
}
