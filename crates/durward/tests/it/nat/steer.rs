//! `durward nat steer` at both ends, with nothing but the binary: `pod -br0- node -eth0- gateway -ext1- world`, and the node's own
//! way `node -wan- world`, which its network plugin gives to everybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use durward_nat::nftables::expression::{Expression, Meta};
use durward_nat::nftables::ruleset::{Chain, Hook, Point, Ruleset};
use durward_nat::nftables::table::{Ownership, Table};
use durward_testkit::netns::{
    Namespace, add_address, add_route, in_namespace, ip, link_up, sysctl, veth,
};
use durward_testkit::process::{Child, TempDir, eventually_blocking};

use super::{greet, hear, is_alive, said};
use crate::support::{DEADLINE, durward, spawn, status, stderr, stdout};

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9440);
const WORLD: &str = "192.0.2.10";
const CLUSTER: &str = "10.244.0.0/16,192.168.50.0/24";

struct Lab {
    gateway: Namespace,
    world: Namespace,
    pod: Namespace,
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        let [gateway, world, pod] = std::array::from_fn(|_| Namespace::new());
        sysctl("net.ipv4.ip_forward", "1");
        veth("eth0", "eth0", &gateway);
        add_address("eth0", "192.168.50.21/24");
        gateway.add_address("eth0", "192.168.50.1/24");
        veth("wan", "wan", &world);
        add_address("wan", "198.51.100.21/24");
        world.add_address("wan", "198.51.100.254/24");
        add_route("default", "198.51.100.254");
        gateway.veth("ext1", "ext1", &world);
        gateway.add_address("ext1", "203.0.113.1/24");
        world.add_address("ext1", "203.0.113.254/24");
        gateway.add_route("default", "203.0.113.254");
        world.add_address("lo", &format!("{WORLD}/32"));
        ip("link add br0 type bridge");
        link_up("br0");
        add_address("br0", "10.244.3.1/24");
        veth("v1", "eth0", &pod);
        ip("link set v1 master br0");
        pod.add_address("eth0", "10.244.3.5/24");
        pod.add_route("default", "10.244.3.1");
        greet(&world, "world", 443);
        masquerade();
        let lab = Self { gateway, world, pod, dir: TempDir::new() };
        lab.write("10.244.3.0/25");
        lab
    }

    fn write(&self, sources: &str) {
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  \
               egress: {{addresses: [203.0.113.1], sources: [{sources}]}}\n"
        );
        self.dir.replace("acme.yaml", text);
    }

    fn config(&self) -> String {
        self.dir.path().to_str().unwrap().to_owned()
    }

    /// The gateway: what serves, and its end of the tunnel.
    fn start_gateway(&self) -> [Child; 2] {
        let options = ["--nat-external", "ext1", "--nat-cluster", CLUSTER];
        let serving = self.gateway.run(|| spawn(self.dir.path(), ADMIN, &options));
        let far_end = self.gateway.run(|| steer(&["--node", "192.168.50.21=10.244.3.0/24"]));
        let ready = || self.gateway.run(|| status(ADMIN, "/readyz") == Some(200));
        assert!(eventually_blocking(DEADLINE, ready), "{}", serving.output());
        [serving, far_end]
    }

    fn start_node(&self) -> Child {
        steer(&["--gateway", "192.168.50.1", "--nat-cluster", CLUSTER, "-c", &self.config()])
    }

    /// What the world sees of the pod.
    fn seen(&self) -> Result<String, String> {
        said(hear(&self.pod, (WORLD, 443)))
    }
}

fn steer(arguments: &[&str]) -> Child {
    let mut command = durward(&[&["--log-format", "json", "nat", "steer"], arguments].concat());
    // Nothing but the binary itself is needed.
    command.env("PATH", "");
    Child::spawn(command)
}

/// What network plugins do.
fn masquerade() {
    let mut bridge = b"br0".to_vec();
    bridge.resize(16, 0);
    let rule = vec![
        Expression::Meta { key: Meta::OutputName, to: 8 },
        Expression::Compare { from: 8, equal: false, value: bridge },
        Expression::Masquerade,
    ];
    let hook = Some(Hook { kind: "nat", point: Point::Postrouting, priority: 100 });
    let chains = [("post".to_owned(), Chain { hook, rules: vec![rule] })].into();
    let mut table = Table::open("cni", Ownership::Shared, DEADLINE).unwrap();
    table.bring_to(&Ruleset { chains, ..Ruleset::default() }).unwrap();
}

// S2.3+ S2.28+ S2.57+
#[test]
fn both_ends_are_built_by_the_binary_and_go_on_without_it() {
    in_namespace("nat::steer::both_ends_are_built_by_the_binary_and_go_on_without_it", || {
        let lab = Lab::new();
        let nodes = Ok("world 198.51.100.21".to_owned());
        let tenants = Ok("world 203.0.113.1".to_owned());
        assert_eq!(lab.seen(), nodes);
        let far = lab.start_gateway();
        let mut first = lab.start_node();
        let steered = || lab.seen() == tenants;
        assert!(eventually_blocking(DEADLINE, steered), "{} {}", first.output(), far[1].output());

        let (mut open, _) = hear(&lab.pod, (WORLD, 443)).unwrap();
        first.kill();
        first.wait_blocking(DEADLINE);
        assert!(is_alive(&mut open), "after a crash");
        assert_eq!(lab.seen(), tenants, "a new one after a crash");
        let mut second = lab.start_node();
        second.wait_for_line_blocking("the kernel matches the configuration", DEADLINE);
        assert!(is_alive(&mut open), "after a restart");
        let refused = durward(&["nat", "cleanup"]).output().unwrap();
        assert!(stderr(&refused).contains("a running durward owns it"), "{}", stderr(&refused));
        second.terminate();
        assert!(second.wait_blocking(DEADLINE).success());
        assert_eq!(lab.seen(), tenants, "after the end");
        let cleaned = durward(&["nat", "cleanup"]).env("PATH", "").output().unwrap();

        assert!(cleaned.status.success(), "{}", stderr(&cleaned));
        assert!(!is_alive(&mut open));
        assert_eq!(lab.seen(), nodes);
        assert_eq!(ip("rule").lines().count(), 3, "{}", ip("rule"));
        assert!(!ip("link").contains("durward0"));
        drop(lab.world);
    });
}

// S2.56+
#[test]
fn enrolment_follows_documents_and_is_never_lost_by_a_broken_one() {
    in_namespace(
        "nat::steer::enrolment_follows_documents_and_is_never_lost_by_a_broken_one",
        || {
            let lab = Lab::new();
            let _far = lab.start_gateway();
            let mut node = lab.start_node();
            let seen_as = |address: &str| {
                let wanted = Ok(format!("world {address}"));
                eventually_blocking(DEADLINE, || lab.seen() == wanted)
            };
            assert!(seen_as("203.0.113.1"));

            lab.write("10.244.3.128/25");
            assert!(seen_as("198.51.100.21"), "{}", node.output());
            lab.write("10.244.3.128/25, 10.244.3.0/25");
            assert!(seen_as("203.0.113.1"), "{}", node.output());
            lab.dir.replace("acme.yaml", "kind: Tenant\nspec: {egress: {sources: [");
            node.wait_for_line_blocking("networks that were steered stay steered", DEADLINE);
            node.kill();
            node.wait_blocking(DEADLINE);
            // Rules of routing still know what was steered.
            let mut table = Table::open("durward-steer", Ownership::Shared, DEADLINE).unwrap();
            table.delete().unwrap();
            assert!(lab.seen().is_err(), "nobody is there, and nothing leaves");
            let again = lab.start_node();
            again.wait_for_line_blocking("networks that were steered stay steered", DEADLINE);

            // The gateway, which runs, goes on with what it knew as well.
            assert!(seen_as("203.0.113.1"), "{}", again.output());
            let config = lab.config();
            let node = [
                "nat",
                "steer",
                "--gateway",
                "192.168.50.1",
                "--nat-cluster",
                CLUSTER,
                "-c",
                &config,
                "--diff",
            ];
            let same = durward(&node).output().unwrap();
            assert_eq!(
                stdout(&same),
                "the kernel matches the configuration\n",
                "{}",
                stderr(&same)
            );
            let narrower = durward(&[&node[..], &["--mtu", "1300"]].concat()).output().unwrap();
            assert_eq!(narrower.status.code(), Some(1));
            assert!(stdout(&narrower).contains("port 4789 mtu 1300"), "{}", stdout(&narrower));
        },
    );
}

#[test]
fn a_node_without_a_way_to_the_gateway_refuses_and_recovers() {
    in_namespace("nat::steer::a_node_without_a_way_to_the_gateway_refuses_and_recovers", || {
        let lab = Lab::new();
        let _far = lab.start_gateway();
        ip("link set eth0 down");
        ip("route del default");

        let node = lab.start_node();
        node.wait_for_line_blocking("this host has no address towards 192.168.50.1", DEADLINE);
        add_route("default", "198.51.100.254");
        let refused = lab.seen();
        ip("link set eth0 up");

        assert!(refused.is_err(), "{refused:?}");
        let tenants = Ok("world 203.0.113.1".to_owned());
        assert!(eventually_blocking(DEADLINE, || lab.seen() == tenants), "{}", node.output());
    });
}
