//! Programs that know no proxy, seen from outside the binary: caught by the kernel, judged by the forward proxy, with real netfilter and
//! without root.
//!
//! `world -ext1- gateway -p1- acme's pod` and `-p2- bank's`; the gateway is the test's own namespace. Deliberately absent: what netfilter
//! does in detail; the tests of `durward-nat` show it.

mod all;
mod http;
mod names;
mod programs;
mod world;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Output;

use durward_testkit::dns::DnsServer;
use durward_testkit::netns::{Namespace, add_address, add_route, ip, sysctl, veth};
use durward_testkit::process::{Child, TempDir, eventually_blocking};
use serde_json::Value;
use world::World;

use crate::support::{DEADLINE, durward, get, spawn, status};

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9440);
/// The node's own addresses, and the tenants'.
const NODE: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
const ACME: [&str; 2] = ["203.0.113.2", "2001:db8:1::2"];
const BANK: [&str; 2] = ["203.0.113.3", "2001:db8:1::3"];
/// The pods.
const ACME_POD: [&str; 2] = ["10.244.1.5", "fd00:244:1::5"];
const BANK_POD: [&str; 2] = ["10.244.2.5", "fd00:244:2::5"];
/// Servers in the world.
const GOOD: [&str; 2] = ["198.51.100.80", "2001:db8:9::80"];
const OTHER: [&str; 2] = ["198.51.100.82", "2001:db8:9::82"];
const EVIL: [&str; 2] = ["198.51.100.81", "2001:db8:9::81"];
const RESOLVER: &str = "198.51.100.53";

const OPTIONS: [&str; 8] = [
    "--nat-external",
    "ext[0-9]+",
    "--nat-gateway",
    "ext1=203.0.113.254,ext1=2001:db8:1::254",
    "--nat-cluster",
    "10.244.0.0/16,fd00:244::/32",
    "--nat-cluster-address",
    "10.244.1.1",
];

/// A rule by address.
const RAW: &str = ", {cidr: 198.51.100.82/32, ports: [80, 443]}";

struct Lab {
    world: World,
    acme: Namespace,
    bank: Namespace,
    dns: DnsServer,
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        let world = Namespace::new();
        let (acme, bank) = (Namespace::new(), Namespace::new());
        for at in [&world, &acme, &bank, &Namespace::current()] {
            // No wait until addresses are known to be unique: a lost first packet would look like a refusal.
            at.sysctl("net.ipv6.conf.default.accept_dad", "0");
        }
        veth("ext1", "wan", &world);
        for [v4, v6] in [NODE, ACME, BANK] {
            add_address("ext1", &format!("{v4}/24"));
            add_address("ext1", &format!("{v6}/64"));
        }
        world.add_address("wan", "203.0.113.254/24");
        world.add_address("wan", "2001:db8:1::254/64");
        // Nothing but the translation keeps pods' addresses inside: the world knows the way to them.
        world.ip("route add 10.244.0.0/16 via 203.0.113.1");
        world.ip("-6 route add fd00:244::/32 via 2001:db8:1::1");
        for [v4, v6] in [GOOD, OTHER, EVIL] {
            world.add_address("lo", &format!("{v4}/32"));
            world.add_address("lo", &format!("{v6}/128"));
        }
        world.add_address("lo", &format!("{RESOLVER}/32"));
        add_route("default", "203.0.113.254");
        ip("-6 route add default via 2001:db8:1::254");
        pod(&acme, "p1", ACME_POD);
        pod(&bank, "p2", BANK_POD);
        let dns = world.run(|| DnsServer::start((RESOLVER, 53)));
        for (name, servers) in [
            ("bank.example", &[GOOD][..]),
            ("evil.example", &[EVIL]),
            ("both.bank.example", &[GOOD, OTHER]),
        ] {
            let addresses: Vec<IpAddr> =
                servers.iter().flatten().map(|text| text.parse().unwrap()).collect();
            dns.set(name, &addresses);
        }
        Self { world: World::new(world), acme, bank, dns, dir: TempDir::new() }
    }

    /// acme may reach bank.example and what is below it, and more, and keeps the rest in; bank.example is bank's too, and the rest leaves.
    fn write(&self, more: &str) {
        let tenant = |name: &str, egress: [&str; 2], pod: [&str; 2], more: &str| {
            let [[e4, e6], [p4, p6]] = [egress, pod];
            format!(
                "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  egress:\n    \
                 addresses: [{e4}, '{e6}']\n    sources: [{p4}/32, '{p6}/128']\n    resolvers: [{RESOLVER}]\n    \
                 contact: network@platform.example\n{more}"
            )
        };
        let acme = format!(
            "    transparent: {{}}\n    proxy: [{{address: 10.244.1.1, allowedSources: [10.244.1.0/24]}}]\n    \
             allow: [{{host: .bank.example}}{more}]\n"
        );
        let bank = "    transparent: {others: Translate}\n    allow: [{host: bank.example}]\n";
        let text = tenant("acme", ACME, ACME_POD, &acme) + &tenant("bank", BANK, BANK_POD, bank);
        self.dir.replace("tenants.yaml", text);
    }

    fn start(&self) -> Child {
        self.start_with("")
    }

    /// With more rules of acme's.
    fn start_with(&self, more: &str) -> Child {
        self.write(more);
        let log = self.log();
        let more = [&OPTIONS[..], &["--decision-log", log.to_str().unwrap()]].concat();
        let child = spawn(self.dir.path(), ADMIN, &more);
        let ready = eventually_blocking(DEADLINE, || status(ADMIN, "/readyz") == Some(200));
        assert!(ready, "{:?}: {}", get(ADMIN, "/readyz?verbose"), child.output());
        child
    }

    fn log(&self) -> PathBuf {
        self.dir.join("decisions.jsonl")
    }

    /// The first decision that looks like this.
    fn decision(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let find = || {
            let text = std::fs::read_to_string(self.log()).unwrap_or_default();
            // The last line may be half written.
            let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.find(|line| fits(line))
        };
        let mut found = None;
        let _ = eventually_blocking(DEADLINE, || {
            found = find();
            found.is_some()
        });
        found.unwrap_or_else(|| {
            panic!("{}", std::fs::read_to_string(self.log()).unwrap_or_default())
        })
    }

    /// Takes everything out of the kernel again.
    fn run_nat_cleanup(&self) -> bool {
        let cleaned = durward(&[&["nat", "cleanup"], &OPTIONS[..]].concat()).output().unwrap();
        cleaned.status.success()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let config = self.dir.path().to_str().unwrap().to_owned();
        let mut command = durward(&[arguments, &["-c", &config]].concat());
        command.env("PATH", "").output().unwrap()
    }
}

fn pod(pod: &Namespace, device: &str, [v4, v6]: [&str; 2]) {
    veth(device, "eth0", pod);
    let here = |address: &str| address.replace(".5", ".1").replace("::5", "::1");
    add_address(device, &format!("{}/24", here(v4)));
    add_address(device, &format!("{}/64", here(v6)));
    pod.add_address("eth0", &format!("{v4}/24"));
    pod.add_address("eth0", &format!("{v6}/64"));
    pod.ip(&format!("-4 route add default via {}", here(v4)));
    pod.ip(&format!("-6 route add default via {}", here(v6)));
    sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Addresses as a set.
fn all(addresses: &[[&str; 2]]) -> BTreeSet<IpAddr> {
    addresses.iter().flatten().map(|text| text.parse().unwrap()).collect()
}
