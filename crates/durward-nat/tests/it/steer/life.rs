//! What outlives what, what is repaired, and what is left when the gateway, the link or the process is not there: refusals.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use durward_nat::Steer;
use durward_nat::nftables::ruleset::Point;
use durward_nat::steer::{self, counter};
use durward_testkit::netns::{in_namespace, ip};

use super::lab::{ENROLLED, EXT, Lab, NODE_WAN, POD, node, options, put, wall};
use crate::lab::{PATIENCE, REMOTE, SOON, connect, is_alive, ping, tcp_soon};

fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

// S2.28+ S2.56+
#[test]
fn without_the_gateway_or_a_way_to_it_nothing_leaves() {
    in_namespace("steer::life::without_the_gateway_or_a_way_to_it_nothing_leaves", || {
        let mut lab = Lab::new();
        let steer = lab.steer();
        assert!(lab.is_steered());

        lab.far_end = None;
        lab.gateway.ip("link set durward0 down");
        let gone = lab.leaks();
        ip("link set eth0 down");
        let unplugged = lab.leaks();
        // Nobody repairs from here on.
        drop(steer);
        ip("link del durward0");
        let without_link = lab.leaks();
        // The rule that leads to the gateway, and then the one that prohibits all other ways.
        let without_rule = [995, 997].map(|priority| {
            ip(&format!("-4 rule del priority {priority}"));
            ip(&format!("-6 rule del priority {priority}"));
            lab.leaks()
        });

        let nothing = Vec::<SocketAddr>::new();
        assert_eq!([&gone, &unplugged, &without_link], [&nothing; 3]);
        assert_eq!(without_rule.each_ref(), [&nothing; 2]);
        let counted = Steer::start(options()).unwrap().counters().unwrap();
        assert!(counted[counter::NO_GATEWAY].packets >= 6, "{counted:?}");
    });
}

// S2.56+
#[test]
fn a_hundred_new_pods_never_have_the_nodes_address_from_their_first_packet_on() {
    in_namespace(
        "steer::life::a_hundred_new_pods_never_have_the_nodes_address_from_their_first_packet_on",
        || {
            let lab = Lab::new();
            let _steer = lab.steer();
            let heard = crate::egress::listen(&lab.world, REMOTE, 99);

            lab.pod.run(|| {
                for last in 20..120 {
                    let address = format!("10.244.3.{last}");
                    ip(&format!("address add {address}/24 dev eth0"));
                    let socket = UdpSocket::bind((address.as_str(), 0)).unwrap();
                    socket.send_to(b"?", (REMOTE, 99)).unwrap();
                }
            });
            assert_eq!(ping(&lab.pod, "10.244.3.119", REMOTE, PATIENCE), Ok(()));

            assert_eq!(heard(), [SocketAddr::new(EXT.parse::<IpAddr>().unwrap(), 0)]);
        },
    );
}

#[test]
fn without_the_throw_route_the_tunnel_would_swallow_itself() {
    in_namespace("steer::life::without_the_throw_route_the_tunnel_would_swallow_itself", || {
        let lab = Lab::new();
        drop(lab.steer());
        let before = lab.is_steered();

        // Networks of the cluster are asked for first, and the underlay need not be one.
        ip("rule del priority 994 to 192.168.50.0/24");
        let by_throw = lab.is_steered();
        ip("route del throw 192.168.50.1/32 table 10099");
        let without = lab.seen();
        let steer = lab.steer();

        assert!(before && by_throw);
        assert!(without[0].is_err(), "{without:?}");
        assert!(lab.is_steered());
        drop(steer);
    });
}

// S5.61+
#[test]
fn steering_outlives_its_process_and_a_restart_adopts_without_loss() {
    in_namespace(
        "steer::life::steering_outlives_its_process_and_a_restart_adopts_without_loss",
        || {
            let lab = Lab::new();
            let first = lab.steer();
            let (mut open, said) = connect(&lab.pod, POD, (REMOTE, 443), PATIENCE).unwrap();
            let link = ip("-o link show durward0");

            drop(first);
            let after_end = (is_alive(&mut open, PATIENCE), lab.is_steered());
            let second = Steer::start(options()).unwrap();
            let pending = second.preview(&node(&ENROLLED)).unwrap();
            second.apply(node(&ENROLLED)).unwrap();

            assert_eq!(said, format!("world {EXT}"));
            assert_eq!(after_end, (true, true));
            assert_eq!(pending, "");
            assert!(is_alive(&mut open, PATIENCE));
            assert!(lab.is_steered());
            assert_eq!(ip("-o link show durward0"), link, "the same link");
        },
    );
}

#[test]
fn enrolment_cuts_what_went_another_way_and_its_end_does_too() {
    in_namespace("steer::life::enrolment_cuts_what_went_another_way_and_its_end_does_too", || {
        let lab = Lab::new();
        let steer = Steer::start(options()).unwrap();
        steer.apply(node(&[])).unwrap();
        let heard = crate::egress::listen(&lab.world, REMOTE, 99);
        let socket = lab.pod.run(|| UdpSocket::bind((POD, 4000)).unwrap());
        let send = || lab.pod.run(|| socket.send_to(b"?", (REMOTE, 99)).unwrap());

        send();
        assert!(within(PATIENCE, || flows_to_99() == 1), "it went with the node's address");
        let first = heard();
        steer.apply(node(&ENROLLED)).unwrap();
        let heard = crate::egress::listen(&lab.world, REMOTE, 99);
        send();
        assert_eq!(ping(&lab.pod, POD, REMOTE, PATIENCE), Ok(()));
        let second = heard();
        steer.apply(node(&[])).unwrap();
        let heard = crate::egress::listen(&lab.world, REMOTE, 99);
        send();
        assert_eq!(ping(&lab.pod, POD, REMOTE, PATIENCE), Ok(()));
        let third = heard();

        let from = |ip: &str| vec![SocketAddr::new(ip.parse().unwrap(), 0)];
        assert_eq!([first, second, third], [from(NODE_WAN), from(EXT), from(NODE_WAN)]);
    });
}

/// Connections to port 99 the node knows.
fn flows_to_99() -> usize {
    let conntrack = durward_nat::conntrack::Conntrack::open(PATIENCE).unwrap();
    let flows = conntrack.flows(0, 0).unwrap();
    flows.iter().filter(|flow| flow.destination.port() == 99).count()
}

// S5.62+
#[test]
fn what_others_change_of_link_routes_and_neighbours_is_undone() {
    in_namespace("steer::life::what_others_change_of_link_routes_and_neighbours_is_undone", || {
        let lab = Lab::new();
        let _steer = lab.steer();
        let sound = || lab.is_steered();
        assert!(sound());

        for change in [
            "link set durward0 mtu 1000",
            "neigh del 192.168.50.1 dev durward0",
            "link set durward0 down",
            "route flush table 10099",
            "-6 route flush table 10099",
            "rule del priority 994",
            "rule del priority 995",
            "rule del priority 996",
            "rule del priority 997",
            "-6 rule del priority 997",
            "rule del priority 998",
            "link del durward0",
        ] {
            ip(change);
            let repaired = || {
                ip("-o link").contains("durward0")
                    && ip("link show durward0").contains("mtu 1450")
                    && sound()
            };
            assert!(within(PATIENCE, repaired), "after ip {change}");
        }
    });
}

// S5.63+
#[test]
fn cleanup_leaves_the_node_as_it_was() {
    in_namespace("steer::life::cleanup_leaves_the_node_as_it_was", || {
        let lab = Lab::new();
        let state = || {
            let links: Vec<String> = ip("-o link")
                .lines()
                .map(|line| line.split(':').nth(1).unwrap().to_owned())
                .collect();
            let routes = ip("-4 route show table all") + &ip("-6 route show table all");
            let parameter = std::fs::read("/proc/sys/net/ipv4/conf/all/src_valid_mark").unwrap();
            (links, ip("-4 rule") + &ip("-6 rule"), routes, parameter)
        };
        let before = settled(state);
        let steer = lab.steer();
        assert!(lab.is_steered());
        assert_ne!(state().3, before.3, "the comparison sees what it is about");
        let (mut open, _) = connect(&lab.pod, POD, (REMOTE, 443), PATIENCE).unwrap();
        drop(steer);

        steer::cleanup(&options()).unwrap();
        steer::cleanup(&options()).unwrap();

        assert!(!is_alive(&mut open, SOON), "it had no address of the node's");
        assert_eq!(settled(state), before);
        assert_eq!(lab.seen()[0], Ok(format!("world {NODE_WAN}")), "as before");
    });
}

/// A state when nothing comes late any more.
fn settled<T: PartialEq>(state: impl Fn() -> T) -> T {
    let (mut last, mut calm) = (state(), 0);
    while calm < 5 {
        std::thread::sleep(Duration::from_millis(100));
        let now = state();
        calm = if now == last { calm + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
fn another_tables_refusal_still_holds() {
    in_namespace("steer::life::another_tables_refusal_still_holds", || {
        let lab = Lab::new();
        let _steer = lab.steer();
        assert!(lab.is_steered());

        put("firewall", &wall(Point::Forward, 0));

        assert!(tcp_soon(&lab.pod, POD, (REMOTE, 443)).is_err());
    });
}
