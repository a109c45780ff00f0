//! A node whose network plugin masquerades its pods, and a gateway beside it: `pods -br0- node -eth0- gateway -ext1- world`, and
//! `node -wan- world`, which is the node's own way out and must never be a tenant's.
//!
//! The node is the test's own namespace.

use std::net::{Ipv4Addr, Ipv6Addr};

use durward_nat::nftables::expression::{Expression, Verdict};
use durward_nat::nftables::ruleset::{Chain, Hook, Point, Ruleset};
use durward_nat::nftables::table::{Ownership, Table};
use durward_nat::steer::{Options, Side};
use durward_nat::{Nat, Steer};
use durward_testkit::netns::{Namespace, add_address, add_route, ip, link_up, sysctl, veth};

use crate::lab::{self, PATIENCE, REMOTE, REMOTE_V6, SOON, model, serve_on};

pub(crate) const NODE: &str = "192.168.50.21";
pub(crate) const NODE_WAN: &str = "198.51.100.21";
pub(crate) const NODE_WAN_V6: &str = "2001:db8:2::21";
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// The tenant's.
pub(crate) const EXT: &str = "203.0.113.1";
pub(crate) const EXT_V6: &str = "2001:db8:1::1";
/// Of a tenant.
pub(crate) const POD: &str = "10.244.3.5";
pub(crate) const POD_V6: &str = "fd00:244:3::5";
/// Of nobody's.
pub(crate) const OTHER: &str = "10.244.3.200";
pub(crate) const OTHER_V6: &str = "fd00:244:3:1::5";
/// Where tenants' pods are.
pub(crate) const ENROLLED: [&str; 2] = ["10.244.3.0/25", "fd00:244:3::/64"];
const CLUSTER: [&str; 3] = ["10.244.0.0/16", "fd00:244::/32", "192.168.50.0/24"];

pub(crate) struct Lab {
    pub(crate) gateway: Namespace,
    pub(crate) world: Namespace,
    pub(crate) pod: Namespace,
    pub(crate) other: Namespace,
    /// The gateway's kernel plane.
    pub(crate) plane: Nat,
    /// The gateway's end of the tunnel; `None` when nobody keeps it any more.
    pub(crate) far_end: Option<Steer>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let [gateway, world, pod, other] = std::array::from_fn(|_| Namespace::new());
        let here = Namespace::current();
        for one in [&here, &gateway, &world, &pod, &other] {
            // No wait until addresses are known to be unique: a lost first packet would look like a refusal.
            one.sysctl("net.ipv6.conf.default.accept_dad", "0");
        }
        for one in [&here, &gateway] {
            one.sysctl("net.ipv4.ip_forward", "1");
            one.sysctl("net.ipv6.conf.all.forwarding", "1");
            // The worst case: a host that checks the way back strictly.
            one.sysctl("net.ipv4.conf.all.rp_filter", "1");
        }
        // Not what the machine has that runs the test.
        sysctl("net.ipv4.conf.all.src_valid_mark", "0");
        veth("eth0", "eth0", &gateway);
        add_address("eth0", &format!("{NODE}/24"));
        gateway.add_address("eth0", &format!("{GATEWAY}/24"));
        veth("wan", "wan", &world);
        gateway.veth("ext1", "ext1", &world);
        outside(
            &here,
            &world,
            "wan",
            [NODE_WAN, "198.51.100.254"],
            [NODE_WAN_V6, "2001:db8:2::254"],
        );
        outside(&gateway, &world, "ext1", [EXT, "203.0.113.254"], [EXT_V6, "2001:db8:1::254"]);
        for address in [format!("{REMOTE}/32"), format!("{REMOTE_V6}/128")] {
            world.add_address("lo", &address);
        }
        ip("link add br0 type bridge");
        link_up("br0");
        for address in ["10.244.3.1/24", "fd00:244:3::1/64", "fd00:244:3:1::1/64"] {
            add_address("br0", address);
        }
        attach(&pod, "v1", [POD, POD_V6], "fd00:244:3::1");
        attach(&other, "v2", [OTHER, OTHER_V6], "fd00:244:3:1::1");
        for address in [REMOTE, REMOTE_V6] {
            serve_on(&world, "world", address, 443);
        }
        put("cni", &plugin());
        let plane = gateway.run(|| Nat::start(plane_options()).unwrap());
        let out = lab::egress(&ENROLLED.map(str::to_owned), &[EXT, EXT_V6]);
        // Kernel parameters are those of the calling thread's namespace.
        gateway.run(|| lab::apply(&plane, &model(vec![], vec![out])));
        let far_end = gateway.run(|| Steer::start(options()).unwrap());
        let pods = ["10.244.3.0/24", "fd00:244:3::/64", "fd00:244:3:1::/64"];
        let pods = pods.iter().map(|net| net.parse().unwrap()).collect();
        let nodes = [(NODE.parse().unwrap(), pods)].into();
        let problems = gateway.run(|| far_end.apply(Side::Gateway { nodes }).unwrap());
        assert_eq!(problems, Vec::<String>::new());
        Self { gateway, world, pod, other, plane, far_end: Some(far_end) }
    }

    /// Steers the tenant's pods.
    pub(crate) fn steer(&self) -> Steer {
        let steer = Steer::start(options()).unwrap();
        assert_eq!(steer.apply(node(&ENROLLED)).unwrap(), Vec::<String>::new());
        steer
    }

    /// What the world sees of the tenant's pod.
    pub(crate) fn seen(&self) -> [Result<String, std::io::ErrorKind>; 2] {
        let to = |source, remote| lab::tcp_soon(&self.pod, source, (remote, 443));
        [to(POD, REMOTE), to(POD_V6, REMOTE_V6)]
    }

    /// Whether everything of the tenant's pod arrives with the tenant's address.
    pub(crate) fn is_steered(&self) -> bool {
        self.seen() == [Ok(format!("world {EXT}")), Ok(format!("world {EXT_V6}"))]
    }

    /// Sends from the pod in all ways, and says what the world heard at UDP port 99 meanwhile.
    pub(crate) fn leaks(&self) -> Vec<std::net::SocketAddr> {
        let heard =
            [REMOTE, REMOTE_V6].map(|address| crate::egress::listen(&self.world, address, 99));
        for (source, remote) in [(POD, REMOTE), (POD_V6, REMOTE_V6)] {
            assert!(lab::tcp_soon(&self.pod, source, (remote, 443)).is_err());
            assert!(lab::udp(&self.pod, source, (remote, 99), SOON / 2).is_err());
            assert!(lab::ping(&self.pod, source, remote, SOON / 2).is_err());
        }
        heard.into_iter().flat_map(|heard| heard()).collect()
    }
}

pub(crate) fn options() -> Options {
    let cluster = CLUSTER.map(|net| net.parse().unwrap()).to_vec();
    Options { cluster, ..Options::default() }
}

pub(crate) fn node(networks: &[&str]) -> Side {
    let networks = networks.iter().map(|net| net.parse().unwrap()).collect();
    Side::Node { gateway: GATEWAY, networks }
}

fn plane_options() -> durward_nat::Options {
    durward_nat::Options {
        external: "ext1".to_owned(),
        cluster: CLUSTER.map(|net| net.parse().unwrap()).to_vec(),
        ..durward_nat::Options::default()
    }
}

fn outside(host: &Namespace, world: &Namespace, device: &str, v4: [&str; 2], v6: [&str; 2]) {
    for ([near, far], len) in [(v4, 24), (v6, 64)] {
        host.add_address(device, &format!("{near}/{len}"));
        world.add_address(device, &format!("{far}/{len}"));
        host.run(|| add_route_of(len, far));
    }
}

fn add_route_of(len: u8, via: &str) {
    if len == 24 {
        add_route("default", via)
    } else {
        drop(ip(&format!("-6 route add default via {via}")))
    }
}

fn attach(pod: &Namespace, device: &str, [v4, v6]: [&str; 2], router: &str) {
    veth(device, "eth0", pod);
    ip(&format!("link set {device} master br0"));
    pod.add_address("eth0", &format!("{v4}/24"));
    pod.add_address("eth0", &format!("{v6}/64"));
    pod.ip("-4 route add default via 10.244.3.1");
    pod.ip(&format!("-6 route add default via {router}"));
    let name = if device == "v1" { "pod" } else { "other" };
    lab::serve(pod, name, 9000);
}

/// What a network plugin has: everything that does not go to a pod gets the node's address, and a port of the node leads to a pod.
fn plugin() -> Ruleset {
    use durward_nat::nftables::expression::{Base, Meta};
    let name = |name: &str| {
        let mut key = name.as_bytes().to_vec();
        key.resize(16, 0);
        key
    };
    let elsewhere = vec![
        Expression::Meta { key: Meta::OutputName, to: 8 },
        Expression::Compare { from: 8, equal: false, value: name("br0") },
        Expression::Masquerade,
    ];
    let port = |pod: Vec<u8>| {
        let ipv4 = pod.len() == 4;
        let (address, port) = (8, 12);
        vec![
            Expression::Meta { key: Meta::InputName, to: 8 },
            Expression::Compare { from: 8, equal: true, value: name("wan") },
            Expression::Meta { key: Meta::Family, to: 8 },
            Expression::Compare { from: 8, equal: true, value: vec![if ipv4 { 2 } else { 10 }] },
            Expression::Meta { key: Meta::Transport, to: 8 },
            Expression::Compare { from: 8, equal: true, value: vec![6] },
            Expression::Payload { base: Base::Transport, offset: 2, len: 2, to: 8 },
            Expression::Compare { from: 8, equal: true, value: 30080u16.to_be_bytes().to_vec() },
            Expression::Immediate { to: address, value: pod },
            Expression::Immediate { to: port, value: 9000u16.to_be_bytes().to_vec() },
            Expression::Nat { source: false, ipv4, address, last_address: None, port: Some(port) },
        ]
    };
    let ports = vec![
        port(POD.parse::<Ipv4Addr>().unwrap().octets().into()),
        port(POD_V6.parse::<Ipv6Addr>().unwrap().octets().into()),
    ];
    let chain =
        |point, priority, rules| Chain { hook: Some(Hook { kind: "nat", point, priority }), rules };
    let chains = [
        ("post".to_owned(), chain(Point::Postrouting, 100, vec![elsewhere])),
        ("pre".to_owned(), chain(Point::Prerouting, -100, ports)),
    ];
    Ruleset { chains: chains.into(), ..Ruleset::default() }
}

/// Somebody else's table.
pub(crate) fn put(name: &str, ruleset: &Ruleset) {
    Table::open(name, Ownership::Shared, PATIENCE).unwrap().bring_to(ruleset).unwrap();
}

/// A table of somebody else's that drops what is forwarded out of an interface.
pub(crate) fn wall(point: Point, priority: i32) -> Ruleset {
    let rules = vec![vec![Expression::Verdict(Verdict::Drop)]];
    let hook = Some(Hook { kind: "filter", point, priority });
    Ruleset { chains: [("wall".to_owned(), Chain { hook, rules })].into(), ..Ruleset::default() }
}
