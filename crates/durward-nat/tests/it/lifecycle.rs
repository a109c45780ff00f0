//! What outlives what: forwarding a crash, others' rules our coming and going, ours the tampering of others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::mapping::NatModel;
use durward_nat::nftables::expression::Expression;
use durward_nat::nftables::ruleset::{Chain, Hook, Point};
use durward_nat::nftables::table::{Ownership, Table, TableError};
use durward_nat::nftables::{Changes, Ruleset};
use durward_nat::{Nat, Options};
use durward_testkit::netns::{in_namespace, ip};

use crate::lab::{
    EXT1, EXT1_V6, EXT2, Lab, P1, P1_V6, P2, PATIENCE, REMOTE, REMOTE_V6, SOON, apply, at, both,
    connect, egress, is_alive, mapping, model, options, tcp, tcp_soon, tenant,
};

fn web(lab: &Lab) -> Arc<NatModel> {
    lab.serve(9000);
    let to = [at(P1, 9000), at(P1_V6, 9000)];
    let web = mapping("web", &[EXT1, EXT1_V6, EXT2], both(8080, &[&to[0], &to[1]]));
    model(vec![web], vec![egress(&[format!("{P1}/32")], &[EXT1])])
}

fn works(lab: &Lab) -> bool {
    let to = [(&lab.c1, REMOTE, EXT1), (&lab.c1, REMOTE_V6, EXT1_V6), (&lab.c2, REMOTE, EXT2)];
    to.iter().all(|(world, from, to)| tcp_soon(world, from, (to, 8080)).is_ok())
}

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

// S5.61
#[test]
fn forwarding_outlives_the_daemon_and_a_restart_adopts_without_loss() {
    in_namespace(
        "lifecycle::forwarding_outlives_the_daemon_and_a_restart_adopts_without_loss",
        || {
            let lab = Lab::new();
            lab.serve(9000);
            let web = |name: &str, port| mapping(name, &[EXT1, EXT2], both(port, &[&at(P1, 9000)]));
            let mut banks = web("stays", 8080);
            banks.tenant = tenant("bank");
            let gone = web("goes", 8081);
            let first = Nat::start(options()).unwrap();
            apply(&first, &model(vec![banks.clone(), gone], vec![]));
            let open = |port| connect(&lab.c2, REMOTE, (EXT2, port), PATIENCE).unwrap().0;
            let (mut stays, mut goes) = (open(8080), open(8081));
            drop(first);

            assert!(is_alive(&mut stays, PATIENCE), "an established connection goes on");
            assert!(tcp(&lab.c2, REMOTE, (EXT2, 8080)).is_ok(), "a new one is made");
            let second = Nat::start(options()).unwrap();
            assert!(is_alive(&mut stays, PATIENCE), "a start changes nothing");
            // Another process may count tenants differently; connections keep their numbers.
            let mut next = NatModel::clone(&model(vec![banks], vec![]));
            next.tenants = [(tenant("bank"), 1), (tenant("club"), 2)].into();
            let report = apply(&second, &Arc::new(next));

            assert_eq!(report.connections_cut, 1, "of the mapping that is gone");
            assert!(is_alive(&mut stays, PATIENCE));
            assert!(!is_alive(&mut goes, SOON));
            assert!(tcp_soon(&lab.c2, REMOTE, (EXT2, 8081)).is_err());
        },
    );
}

// S5.62
#[test]
fn what_others_change_is_undone() {
    in_namespace("lifecycle::what_others_change_is_undone", || {
        let lab = Lab::new();
        let options = Options { own_table: false, ..options() };
        let nat = Nat::start(options).unwrap();
        apply(&nat, &web(&lab));
        assert!(works(&lab));

        let tamper: [(&str, &dyn Fn()); 4] = [
            ("the table is taken away", &|| foreign("durward").delete().unwrap()),
            ("a chain is emptied", &|| empty_a_chain("nat4")),
            ("rules are taken away", &|| {
                ip("rule del priority 1000");
                ip("-6 rule del priority 1000");
            }),
            ("routes are taken away", &|| {
                ip("route flush table 10102");
                ip("-6 route flush table 10101");
            }),
        ];
        for (what, tamper) in tamper {
            tamper();
            let begin = Instant::now();
            assert!(within(PATIENCE, || works(&lab)), "{what}: not repaired");
            println!("{what}: repaired within {:?}", begin.elapsed());
        }
        assert!(nat.counters().unwrap().repairs >= 2);
    });
}

// S5.62
#[test]
fn others_cannot_change_a_table_that_is_owned() {
    in_namespace("lifecycle::others_cannot_change_a_table_that_is_owned", || {
        let lab = Lab::new();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &web(&lab));
        if !nat.owns_table() {
            println!("this kernel has no owned tables");
            return;
        }

        let refused = foreign("durward").delete();

        assert!(matches!(refused, Err(TableError::Forbidden)), "{refused:?}");
        assert!(works(&lab));
    });
}

// S5.63 S5.64 S5.5 S5.65
#[test]
fn cleanup_leaves_the_host_as_it_was_and_others_are_never_touched() {
    in_namespace(
        "lifecycle::cleanup_leaves_the_host_as_it_was_and_others_are_never_touched",
        || {
            let lab = Lab::new();
            let plane = crate::lab::Default::new();
            install("kube-proxy", Hook { kind: "nat", point: Point::Prerouting, priority: -100 });
            install("docker", Hook { kind: "nat", point: Point::Postrouting, priority: 100 });
            install("firewalld", Hook { kind: "filter", point: Point::Forward, priority: 10 });
            let before = settled();
            let nat = Nat::start(options()).unwrap();
            apply(&nat, &web(&lab));
            assert!(works(&lab));

            assert_eq!(others(), before.others, "while it runs");
            assert_eq!(plane.state(), before.default, "while it runs");
            assert_ne!(host(), before, "the comparison sees what it is about");
            nat.cleanup().unwrap();
            assert_eq!(host(), before);
            // Again, with nothing there.
            Nat::start(options()).unwrap().cleanup().unwrap();
            assert_eq!(host(), before);
        },
    );
}

// S5.63+
#[test]
fn cleanup_ends_connections_that_were_translated() {
    in_namespace("lifecycle::cleanup_ends_connections_that_were_translated", || {
        let lab = Lab::new();
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &web(&lab));
        let mut open = connect(&lab.c1, REMOTE, (EXT1, 8080), PATIENCE).unwrap().0;

        nat.cleanup().unwrap();

        assert!(!is_alive(&mut open, SOON));
    });
}

// S5.16 S2.28+
#[test]
fn a_node_that_masquerades_its_pods_does_not_give_them_its_address() {
    in_namespace(
        "lifecycle::a_node_that_masquerades_its_pods_does_not_give_them_its_address",
        || {
            let lab = Lab::new();
            lab.serve_outside(443);
            durward_testkit::netns::add_address("ext1", "203.0.113.99/24");
            // What network plugins do, and it was there first.
            let node: Vec<u8> = vec![203, 0, 113, 99];
            let masquerade = vec![
                Expression::Immediate { to: 8, value: node },
                Expression::Nat {
                    source: true,
                    ipv4: true,
                    address: 8,
                    last_address: None,
                    port: None,
                },
            ];
            let hook = Hook { kind: "nat", point: Point::Postrouting, priority: 100 };
            put("cni", hook, vec![masquerade]);
            let nat = Nat::start(options()).unwrap();
            let out = egress(&[format!("{P2}/32")], &[EXT1]);
            lab.serve(9000);
            let web = mapping("web", &[EXT1], both(8080, &[&at(P1, 9000)]));
            apply(&nat, &model(vec![web], vec![out]));

            assert_eq!(tcp(&lab.p2, P2, (REMOTE, 443)), Ok(format!("c1 {EXT1}")));
            assert_eq!(tcp(&lab.c1, REMOTE, (EXT1, 8080)), Ok(format!("p1 {REMOTE}")));
        },
    );
}

/// What cleanup must bring back.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    rules: String,
    routes: String,
    addresses: String,
    sysctls: BTreeMap<String, String>,
    others: BTreeMap<&'static str, Ruleset>,
    default: String,
    ours: bool,
}

/// The host when nothing of the set-up comes late any more: addresses of new interfaces do.
fn settled() -> Host {
    let (mut last, mut calm) = (host(), 0);
    while calm < 5 {
        std::thread::sleep(Duration::from_millis(100));
        let now = host();
        calm = if now == last { calm + 1 } else { 0 };
        last = now;
    }
    last
}

fn host() -> Host {
    let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
    let paths = [
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "ipv4/conf/all/rp_filter",
        "ipv4/conf/ext1/rp_filter",
        "ipv4/conf/ext2/rp_filter",
        "ipv4/conf/ext1/arp_ignore",
        "ipv4/conf/ext1/arp_announce",
        "netfilter/nf_conntrack_tcp_loose",
    ];
    // Without neighbours' and addresses' remaining times.
    let lines = |text: String| text.replace("  ", " ");
    Host {
        rules: ip("rule") + &ip("-6 rule"),
        routes: lines(ip("route show table all") + &ip("-6 route show table all")),
        addresses: ip("-o address"),
        sysctls: paths
            .iter()
            .map(|path| ((*path).to_owned(), read(&format!("/proc/sys/net/{path}"))))
            .collect(),
        others: others(),
        default: crate::lab::Default.state(),
        ours: foreign("durward").read().unwrap().exists,
    }
}

fn others() -> BTreeMap<&'static str, Ruleset> {
    let names = ["kube-proxy", "docker", "firewalld"];
    names.map(|name| (name, foreign(name).read().unwrap().ruleset)).into()
}

fn foreign(table: &str) -> Table {
    Table::open(table, Ownership::Shared, Duration::from_secs(5)).unwrap()
}

/// A table of somebody else's.
fn install(name: &str, hook: Hook) {
    let nothing = vec![Expression::Immediate { to: 8, value: vec![1, 2, 3, 4] }];
    put(name, hook, vec![nothing]);
}

fn put(table: &str, hook: Hook, rules: Vec<Vec<Expression>>) {
    let chain = Chain { hook: Some(hook), rules };
    let wanted = Ruleset { chains: [("theirs".to_owned(), chain)].into(), ..Ruleset::default() };
    let mut table = foreign(table);
    let generation = table.read().unwrap().generation;
    table.change(generation, &Changes::between(&Ruleset::default(), &wanted)).unwrap();
}

fn empty_a_chain(name: &str) {
    let mut table = foreign("durward");
    let held = table.read().unwrap();
    let mut wanted = held.ruleset.clone();
    wanted.chains.get_mut(name).unwrap().rules.clear();
    table.change(held.generation, &Changes::between(&held.ruleset, &wanted)).unwrap();
}
