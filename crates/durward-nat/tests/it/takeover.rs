//! Another gateway takes over the addresses of one that is gone: established connections go on, in and out, without shared state.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpStream};
use std::time::Instant;

use durward_nat::options::{AssignedAddress, GatewayRule};
use durward_nat::{Nat, Options};
use durward_testkit::netns::{Namespace, in_namespace, ip, sysctl};

use crate::lab::{
    PATIENCE, apply, at, both, connect, egress, is_alive, mapping, model, serve, serve_on,
};

const VIP: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
const INNER: [&str; 2] = ["10.244.0.1", "fd00:244::1"];
const CLIENT: [&str; 2] = ["203.0.113.50", "2001:db8:1::50"];
const POD: [&str; 2] = ["10.244.0.11", "fd00:244::11"];

/// A gateway of the pair: its namespace and its plane.
struct Gateway {
    at: Namespace,
    nat: Nat,
}

impl Gateway {
    fn new(number: u8) -> Self {
        let at = Namespace::new();
        at.sysctl("net.ipv6.conf.default.accept_dad", "0");
        for (bridge, device, v4, v6) in [
            ("outer", "ext1", "203.0.113", "2001:db8:1::"),
            ("inner", "cl0", "10.244.0", "fd00:244::"),
        ] {
            let port = format!("{device}-{number}");
            durward_testkit::netns::veth(&port, device, &at);
            ip(&format!("link set {port} master {bridge}"));
            at.add_address(device, &format!("{v4}.{}/24", 200 + number));
            at.add_address(device, &format!("{v6}{}/64", 200 + u32::from(number)));
        }
        let nat = at.run(|| {
            let options = Options {
                external: "ext[0-9]+".to_owned(),
                gateway: GatewayRule::Configured(BTreeMap::new()),
                cluster: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
                ..Options::default()
            };
            let nat = Nat::start(options).unwrap();
            let web = mapping("web", &VIP, both(8080, &[&at_pod(0), &at_pod(1)]));
            let pods = [format!("{}/32", POD[0]), format!("{}/128", POD[1])];
            apply(&nat, &model(vec![web], vec![egress(&pods, &VIP)]));
            nat
        });
        Self { at, nat }
    }

    /// Takes the addresses of the pair.
    fn take(&self) {
        let on = |interface: &str, prefix_len| AssignedAddress {
            interface: interface.to_owned(),
            prefix_len,
            valid: None,
        };
        let mut addresses: BTreeMap<IpAddr, AssignedAddress> = BTreeMap::new();
        for (address, prefix_len) in VIP.iter().zip([24, 64]) {
            addresses.insert(address.parse().unwrap(), on("ext1", prefix_len));
        }
        for (address, prefix_len) in INNER.iter().zip([24, 64]) {
            addresses.insert(address.parse().unwrap(), on("cl0", prefix_len));
        }
        self.at.run(|| self.nat.assign(addresses)).unwrap();
    }

    /// Is gone from one moment to the next.
    fn crash(&self) {
        for device in ["ext1", "cl0"] {
            self.at.ip(&format!("link set {device} down"));
        }
    }
}

fn at_pod(family: usize) -> String {
    at(POD[family], 9000)
}

fn member(bridge: &str, device: &str, addresses: [&str; 2]) -> Namespace {
    let member = Namespace::new();
    member.sysctl("net.ipv6.conf.default.accept_dad", "0");
    durward_testkit::netns::veth(device, "eth0", &member);
    ip(&format!("link set {device} master {bridge}"));
    for (address, len) in addresses.iter().zip([24, 64]) {
        member.add_address("eth0", &format!("{address}/{len}"));
    }
    member
}

// S5.58 S5.49+
#[test]
fn established_connections_survive_the_gateway() {
    in_namespace("takeover::established_connections_survive_the_gateway", || {
        sysctl("net.ipv6.conf.default.accept_dad", "0");
        for bridge in ["outer", "inner"] {
            ip(&format!("link add {bridge} type bridge"));
            durward_testkit::netns::link_up(bridge);
        }
        let client = member("outer", "c", CLIENT);
        let pod = member("inner", "p", POD);
        for address in CLIENT {
            serve_on(&client, "client", address, 443);
        }
        serve(&pod, "pod", 9000);
        pod.ip(&format!("-4 route add default via {}", INNER[0]));
        pod.ip(&format!("-6 route add default via {}", INNER[1]));
        let [first, second] = [1, 2].map(Gateway::new);
        first.take();
        let patience = PATIENCE;
        let mut open: Vec<(String, TcpStream)> = Vec::new();
        for family in [0, 1] {
            let (stream, said) =
                connect(&client, CLIENT[family], (VIP[family], 8080), patience).unwrap();
            assert_eq!(said, format!("pod {}", CLIENT[family]));
            open.push((format!("ingress {family}"), stream));
            let (stream, said) =
                connect(&pod, POD[family], (CLIENT[family], 443), patience).unwrap();
            assert_eq!(said, format!("client {}", VIP[family]));
            open.push((format!("egress {family}"), stream));
        }
        assert!(open.iter_mut().all(|(_, stream)| is_alive(stream, patience)));

        first.crash();
        let begin = Instant::now();
        second.take();

        let mut gaps = Vec::new();
        for (name, stream) in &mut open {
            assert!(is_alive(stream, patience), "{name} was lost");
            gaps.push(format!("{name} {:?}", begin.elapsed()));
        }
        println!("after the takeover began: {}", gaps.join(", "));
        for family in [0, 1] {
            let new = connect(&client, CLIENT[family], (VIP[family], 8080), patience).unwrap().1;
            assert_eq!(new, format!("pod {}", CLIENT[family]));
        }
    });
}
