//! External interfaces that come, go and change: slots stay, return paths follow, addresses are put on and announced.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use durward_nat::options::{AssignedAddress, GatewayRule};
use durward_nat::{Nat, Options};
use durward_testkit::netns::{Namespace, add_address, in_namespace, ip, sysctl, veth};

use crate::lab::{
    EXT1, EXT2, Lab, P1, PATIENCE, REMOTE, SOON, apply, at, both, connect, mapping, model, options,
    port, serve, sources, tcp, tcp_soon,
};

fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

// S5.29 S5.7+
#[test]
fn an_address_that_comes_or_goes_is_noticed_within_a_second() {
    in_namespace("interfaces::an_address_that_comes_or_goes_is_noticed_within_a_second", || {
        let lab = Lab::new();
        lab.serve(9000);
        let late = "198.51.100.77";
        let web = mapping("web", &[late], both(8080, &[&at(P1, 9000)]));
        let nat = Nat::start(options()).unwrap();
        let report = apply(&nat, &model(vec![web], vec![]));
        let foreign: Vec<IpAddr> = vec![late.parse().unwrap()];
        assert_eq!(report.mappings[0].foreign_addresses, foreign);

        add_address("ext2", &format!("{late}/32"));
        // The rule by which the address's own packets leave is the last thing to be set.
        let rule = |present: bool| {
            within(PATIENCE, || ip("rule").contains(&format!("from {late}")) == present)
        };
        let noticed = rule(true);
        let answered = tcp(&lab.c2, REMOTE, (late, 8080));
        // One that is not mapped comes and goes.
        add_address("ext2", "198.51.100.88/24");
        let other = || ip("rule").contains("from 198.51.100.88");
        let came = within(PATIENCE, other);
        ip("address del 198.51.100.88/24 dev ext2");
        let went = within(PATIENCE, || !other());

        assert!(noticed && came && went, "{noticed} {came} {went}");
        assert_eq!(answered, Ok(format!("p1 {REMOTE}")));
    });
}

// S5.7+
#[test]
fn an_interface_that_comes_anew_has_its_slot_and_works_again() {
    in_namespace("interfaces::an_interface_that_comes_anew_has_its_slot_and_works_again", || {
        let lab = Lab::new();
        lab.serve(9000);
        let web = mapping("web", &[EXT1, EXT2], both(8080, &[&at(P1, 9000)]));
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![web], vec![]));
        assert!(tcp(&lab.c2, REMOTE, (EXT2, 8080)).is_ok());

        ip("link del ext2");
        assert!(tcp(&lab.c1, REMOTE, (EXT1, 8080)).is_ok(), "the other goes on");
        veth("ext2", "wan", &lab.c2);
        add_address("ext2", &format!("{EXT2}/24"));
        lab.c2.add_address("wan", "198.51.100.254/24");
        lab.c2.ip(&format!("-4 route add default via {EXT2}"));

        let works = || tcp_soon(&lab.c2, REMOTE, (EXT2, 8080)).is_ok();
        assert!(within(PATIENCE, works));
        assert!(ip("rule").contains("fwmark 0x200/0xff00 lookup 10102"), "{}", ip("rule"));
    });
}

// S5.9 S5.8+ S5.6 S5.5+
#[test]
fn three_interfaces_in_one_network_each_answer_for_their_own_addresses() {
    in_namespace(
        "interfaces::three_interfaces_in_one_network_each_answer_for_their_own_addresses",
        || {
            let (lan, _pod) = smartnats_example();
            // The link-local address is tentative for a while, which is nobody's doing.
            let addresses = || ip("-o address show eth0").replace(" tentative", "");
            let default = || addresses() + &ip("route show table main dev eth0");
            let before = default();
            let options = Options {
                external: "eth[0-9]+".to_owned(),
                not_external: vec!["eth0".to_owned()],
                gateway: GatewayRule::Offset(1),
                cluster: vec!["10.244.0.0/16".parse().unwrap()],
                ..Options::default()
            };
            let nat = Nat::start(options).unwrap();
            let nics = NICS;
            let outside: Vec<&str> = nics[1..].iter().flat_map(|(_, a, b)| [*a, *b]).collect();
            apply(
                &nat,
                &model(vec![mapping("web", &outside, both(8080, &[&at(P1, 9000)]))], vec![]),
            );

            for (nic, first, second) in &nics[1..] {
                for address in [first, second] {
                    for client in [REMOTE, "10.10.0.1"] {
                        // The router asks anew who has the address, and only one may say so.
                        lan.ip("neigh flush all");
                        let before = sent(nics.map(|(nic, _, _)| nic));
                        let (mut stream, said) =
                            connect(&lan, client, (address, 8080), PATIENCE).unwrap();
                        for _ in 0..30 {
                            assert!(crate::lab::is_alive(&mut stream, PATIENCE));
                        }
                        let after = sent(nics.map(|(nic, _, _)| nic));
                        assert_eq!(said, format!("p1 {client}"));
                        for (name, count) in after {
                            let more = count - before[&name];
                            let right = if name == *nic { more >= 30 } else { more < 10 };
                            assert!(right, "{address}: {more} packets left by {name}");
                        }
                        let neighbour = lan.ip(&format!("neigh show {address}"));
                        let mac = ip(&format!("-o link show {nic}"));
                        let mac =
                            mac.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
                        assert!(neighbour.contains(mac), "{address}: {neighbour} is not {mac}");
                    }
                }
            }
            assert_eq!(default(), before);
        },
    );
}

// S5.65+
#[test]
fn a_check_of_the_way_back_is_never_turned_on_and_one_that_drops_clients_is_told() {
    in_namespace(
        "interfaces::a_check_of_the_way_back_is_never_turned_on_and_one_that_drops_clients_is_told",
        || {
            let lab = Lab::new();
            lab.serve(9000);
            ip("route del default");
            let check = |value: &str| {
                for device in ["all", "ext1", "ext2"] {
                    sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), value);
                }
            };
            let told = |nat: &Nat| {
                let web = mapping("web", &[EXT1], both(8080, &[&at(P1, 9000)]));
                let host = nat.apply(model(vec![web], vec![])).unwrap().host;
                host.iter()
                    .any(|line| line.contains("no default route, and rp_filter on ext1, ext2"))
            };
            check("0");
            let nat = Nat::start(options()).unwrap();

            let told_without = told(&nat);
            let without = tcp_soon(&lab.c1, REMOTE, (EXT1, 8080));
            drop(nat);
            check("1");
            let nat = Nat::start(options()).unwrap();
            let told_with = told(&nat);
            let with = tcp_soon(&lab.c1, REMOTE, (EXT1, 8080));
            ip("route add default via 203.0.113.254");
            let told_with_route = told(&nat);
            let with_route = tcp_soon(&lab.c1, REMOTE, (EXT1, 8080));

            assert_eq!((told_without, without), (false, Ok(format!("p1 {REMOTE}"))));
            assert!(told_with && with.is_err(), "{told_with} {with:?}");
            assert_eq!((told_with_route, with_route), (false, Ok(format!("p1 {REMOTE}"))));
        },
    );
}

const NICS: [(&str, &str, &str); 3] = [
    ("eth0", "10.10.1.1", "10.10.1.2"),
    ("eth1", "10.10.1.11", "10.10.1.12"),
    ("eth2", "10.10.1.21", "10.10.1.22"),
];

/// The example of SmartNat's guide: three interfaces of one host in one /23, two addresses each, the first the default; and a pod.
fn smartnats_example() -> (Namespace, Namespace) {
    let [lan, pod] = [Namespace::new(), Namespace::new()];
    sysctl("net.ipv4.conf.all.rp_filter", "1");
    lan.ip("link add lan0 type bridge");
    lan.link_up("lan0");
    lan.add_address("lan0", "10.10.0.1/23");
    lan.add_address("lo", &format!("{REMOTE}/32"));
    for (nic, first, second) in NICS {
        veth(nic, &format!("l{nic}"), &lan);
        lan.ip(&format!("link set l{nic} master lan0"));
        add_address(nic, &format!("{first}/23"));
        add_address(nic, &format!("{second}/23"));
    }
    ip("route add default via 10.10.0.1 dev eth0");
    ip("route add default via 10.10.0.1 dev eth1 metric 10001");
    ip("route add default via 10.10.0.1 dev eth2 metric 10002");
    ip("route add 169.254.169.254/32 dev eth0");
    veth("cl0", "eth0", &pod);
    add_address("cl0", "10.244.0.1/24");
    pod.add_address("eth0", &format!("{P1}/24"));
    pod.ip("route add default via 10.244.0.1");
    serve(&pod, "p1", 9000);
    (lan, pod)
}

/// Packets sent, by interface.
fn sent(nics: [&str; 3]) -> BTreeMap<String, u64> {
    let count = |nic: &str| {
        let shown = ip(&format!("-s link show {nic}"));
        let counts = shown.split("TX:").nth(1).unwrap().lines().nth(1).unwrap();
        counts.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    nics.map(|nic| (nic.to_owned(), count(nic))).into()
}

// S5.7
#[test]
fn addresses_are_put_on_announced_and_taken_away_by_the_kernel_when_nobody_renews_them() {
    in_namespace(
        "interfaces::addresses_are_put_on_announced_and_taken_away_by_the_kernel_when_nobody_renews_them",
        || {
            let lab = Lab::new();
            lab.serve(9000);
            let (leased, kept) = ("203.0.113.50", "203.0.113.51");
            let web = mapping("web", &[leased, kept], both(8080, &[&at(P1, 9000)]));
            let nat = Nat::start(options()).unwrap();
            let assigned = |seconds: Option<u64>| AssignedAddress {
                interface: "ext1".to_owned(),
                prefix_len: 24,
                valid: seconds.map(Duration::from_secs),
            };
            let wanted: BTreeMap<IpAddr, AssignedAddress> = [
                (leased.parse().unwrap(), assigned(Some(2))),
                (kept.parse().unwrap(), assigned(None)),
            ]
            .into();
            // The neighbour believes somebody else has it, until it is told.
            lab.c1
                .ip(&format!("neigh replace {leased} lladdr 02:00:00:00:00:99 dev wan nud stale"));
            nat.assign(wanted.clone()).unwrap();
            apply(&nat, &model(vec![web], vec![]));
            let mac = ip("-o link show ext1");
            let mac =
                mac.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
            let told = || lab.c1.ip(&format!("neigh show {leased}")).contains(&mac);
            assert!(within(PATIENCE, told), "no gratuitous ARP was believed");
            assert!(tcp(&lab.c1, REMOTE, (leased, 8080)).is_ok());

            // Renewed, it stays; not renewed, the kernel takes it away although nobody does anything.
            let has = |address: &str| ip("-o address show ext1").contains(&format!(" {address}/"));
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(4) {
                nat.assign(wanted.clone()).unwrap();
                assert!(has(leased));
                std::thread::sleep(Duration::from_millis(500));
            }
            assert!(within(PATIENCE, || !has(leased)), "still there");
            assert!(has(kept));
            ip(&format!("address del {kept}/24 dev ext1"));
            assert!(within(PATIENCE, || has(kept)), "not put back");
            nat.assign(BTreeMap::new()).unwrap();
            assert!(!has(kept));
            assert!(has(EXT1), "the admin's own is never touched");
        },
    );
}

// S5.74 S5.76
#[test]
fn ranges_of_ports_lead_to_one_port_or_to_the_same() {
    in_namespace("interfaces::ranges_of_ports_lead_to_one_port_or_to_the_same", || {
        use durward_model::mapping::{Endpoints, PortRange};
        use durward_model::transport::Transport;
        let lab = Lab::new();
        for number in [9000, 7000, 7005, 7009] {
            lab.serve(number);
        }
        let mut many = port(Transport::Tcp, 8000, &[&at(P1, 9000), &at(crate::lab::P1_V6, 9000)]);
        many.ports = PortRange::new(8000, 8999).unwrap();
        let mut same = port(Transport::Udp, 7000, &[]);
        same.ports = PortRange::new(7000, 7009).unwrap();
        same.endpoints = Endpoints::SamePort(vec![P1.parse().unwrap()]);
        let mut web = mapping("web", &[EXT1, crate::lab::EXT1_V6], vec![many, same]);
        web.allowed_sources = sources(&["192.0.2.0/24", "2001:db8:ffff::/64"]);
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &model(vec![web], vec![]));
        let udp = |port| crate::lab::udp(&lab.c1, REMOTE, (EXT1, port), SOON * 2);

        for number in [8000, 8001, 8500, 8999] {
            assert_eq!(tcp(&lab.c1, REMOTE, (EXT1, number)), Ok(format!("p1 {REMOTE}")));
        }
        let v6 = tcp(&lab.c1, crate::lab::REMOTE_V6, (crate::lab::EXT1_V6, 8999));
        assert_eq!(v6, Ok(format!("p1 {}", crate::lab::REMOTE_V6)));
        for number in [7000, 7005, 7009] {
            assert_eq!(udp(number), Ok(format!("p1 {REMOTE}")), "{number}");
        }
        for number in [7999, 9000] {
            assert!(tcp_soon(&lab.c1, REMOTE, (EXT1, number)).is_err(), "{number}");
        }
        assert!(udp(7010).is_err());
        assert!(tcp_soon(&lab.c1, "203.0.113.254", (EXT1, 8500)).is_err(), "not an allowed source");
    });
}

/// A gateway that has put addresses of both families on and announced them often enough, and a neighbour that believes announcements.
fn announced(lab: &Lab) -> Nat {
    // Of IPv6 only a router takes up what it did not ask for.
    for name in [
        "ipv4.conf.wan.arp_accept",
        "ipv6.conf.wan.forwarding",
        "ipv6.conf.wan.accept_untracked_na",
    ] {
        lab.c1.sysctl(&format!("net.{name}"), "1");
    }
    let on = |address: &str, prefix_len| {
        let (interface, valid) = ("ext1".to_owned(), None);
        (address.parse::<IpAddr>().unwrap(), AssignedAddress { interface, prefix_len, valid })
    };
    let addresses = [on(ANNOUNCED[0], 24), on(ANNOUNCED[1], 64)].into();
    let nat = Nat::start(Options { addresses, ..options() }).unwrap();
    apply(&nat, &model(vec![], vec![]));
    assert!(within(PATIENCE, || all_know(lab, &mac())), "at first");
    // The repeats of the first announcement would hide that there is no second one.
    std::thread::sleep(Duration::from_secs(3));
    nat
}

const ANNOUNCED: [&str; 2] = ["203.0.113.60", "2001:db8:1::60"];

fn mac() -> String {
    let shown = ip("-o link show ext1");
    shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

/// Whether the neighbour, which never asks, knows both addresses at this hardware address.
fn all_know(lab: &Lab, mac: &str) -> bool {
    let known = |address: &str| lab.c1.ip(&format!("neigh show {address} dev wan")).contains(mac);
    ANNOUNCED.iter().all(|address| known(address))
}

// S5.7+
#[test]
fn addresses_are_announced_again_when_the_link_was_down() {
    in_namespace("interfaces::addresses_are_announced_again_when_the_link_was_down", || {
        let lab = Lab::new();
        let _nat = announced(&lab);

        ip("link set ext1 down");
        // IPv6 addresses go with the link, and are put back with it.
        assert!(within(PATIENCE, || !lab.c1.ip("neigh show dev wan").contains(&mac())));
        ip("link set ext1 up");

        let told = within(PATIENCE, || all_know(&lab, &mac()));
        assert!(told, "{}", lab.c1.ip("neigh show dev wan"));
    });
}

// S5.7+
#[test]
fn addresses_are_announced_again_with_another_hardware_address() {
    in_namespace("interfaces::addresses_are_announced_again_with_another_hardware_address", || {
        let lab = Lab::new();
        let _nat = announced(&lab);
        let new = "02:00:00:00:00:77";

        ip(&format!("link set ext1 address {new}"));

        let told = within(PATIENCE, || all_know(&lab, new));
        assert!(told, "{}", lab.c1.ip("neigh show dev wan"));
    });
}

#[test]
fn a_difference_names_kernel_parameters_where_they_are_ours_to_set() {
    in_namespace(
        "interfaces::a_difference_names_kernel_parameters_where_they_are_ours_to_set",
        || {
            let _lab = Lab::new();
            let nat = Nat::start(options()).unwrap();
            let wanted = model(vec![], vec![]);
            apply(&nat, &wanted);
            let sound = nat.preview(&wanted).unwrap().1;
            drop(nat);

            // Nobody watches who would set them at once.
            sysctl("net.ipv4.ip_forward", "0");
            sysctl("net.ipv4.conf.ext2.rp_filter", "1");
            let nat = Nat::start(options()).unwrap();
            let wrong = nat.preview(&wanted).unwrap().1;
            drop(nat);
            let kept = Nat::start(Options { set_sysctls: false, ..options() }).unwrap();
            let left_alone = kept.preview(&wanted).unwrap().1;

            assert!(sound.is_empty(), "{sound}");
            assert!(!wrong.is_empty());
            let lines = [
                "- sysctl net/ipv4/ip_forward = 0",
                "+ sysctl net/ipv4/ip_forward = 1",
                "- sysctl net/ipv4/conf/ext2/rp_filter = 1",
                "+ sysctl net/ipv4/conf/ext2/rp_filter = 2",
            ];
            assert_eq!(wrong.to_string(), lines.join("\n") + "\n");
            assert!(left_alone.is_empty(), "{left_alone}");
        },
    );
}
