//! ICMP errors about a mapping's connection whose client is in the cluster: that client, and a router towards it, may say that what comes back
//! does not fit. No other pod may.

use std::net::{IpAddr, UdpSocket};

use durward_nat::Nat;
use durward_testkit::netns::traffic::packet;
use durward_testkit::netns::{Namespace, in_namespace, ip};
use durward_testkit::process::eventually_blocking;

use super::{PATIENCE, UDP, send_to};
use crate::lab::{
    EXT1, EXT1_V6, Lab, P1, P1_V6, P2, P2_V6, apply, ask, at, both, egress, mapping, model,
    options, pod, tenant,
};

/// Another tenant's pod.
const P3: [&str; 2] = ["10.244.0.13", "fd00:244::13"];
const ROUTER: [&str; 2] = ["10.244.0.99", "fd00:244::99"];
/// A client behind the router.
const BEHIND: [&str; 2] = ["10.244.7.5", "fd00:244:0:7::5"];
/// The gateway's own address towards the cluster, which endpoints see of clients there.
const INNER: [&str; 2] = ["10.244.0.1", "fd00:244::1"];
const EXTERNAL: [&str; 2] = [EXT1, EXT1_V6];

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// That an answer of the mapping to the client's port 5000 is too large.
fn too_large(sender: &str, client: &str, external: &str) -> Vec<u8> {
    let [sender, client, external] = [sender, client, external].map(parse);
    let answer = packet(UDP, (external, client), vec![0x1f, 0x90, 0x13, 0x88, 0, 9, 0, 0, b'!']);
    let (icmp, head) = match sender {
        IpAddr::V4(_) => (1, [3, 4, 0, 0, 0, 0, 5, 20]),
        IpAddr::V6(_) => (58, [2, 0, 0, 0, 0, 0, 5, 20]),
    };
    packet(icmp, (sender, external), [&head[..], &answer].concat())
}

/// A mapping with a pod behind it, and another tenant's pod beside the client.
fn start(lab: &Lab) -> Nat {
    lab.serve(9000);
    for (address, len) in P3.iter().zip([24, 64]) {
        lab.p2.add_address("eth0", &format!("{address}/{len}"));
    }
    let to = [at(P1, 9000), at(P1_V6, 9000)];
    let web = mapping("web", &EXTERNAL, both(8080, &[&to[0], &to[1]]));
    let mut banks = egress(&[format!("{}/32", P3[0]), format!("{}/128", P3[1])], &EXTERNAL);
    banks.tenant = tenant("bank");
    let nat = Nat::start(options()).unwrap();
    apply(&nat, &model(vec![web], vec![banks]));
    nat
}

/// Lets the client connect, another tenant's pod complain in its name, and then `sender`: the endpoint learns of the latter only.
#[track_caller]
fn complain(lab: &Lab, nat: &Nat, family: usize, (from, client, sender): (&Namespace, &str, &str)) {
    let external = EXTERNAL[family];
    let said = from.run(|| {
        let socket = UdpSocket::bind((client, 5000)).unwrap();
        ask(&socket, (parse(external), 8080).into(), PATIENCE)
    });
    assert_eq!(said, Ok(format!("p1 {}", INNER[family])));
    let learned = || lab.p1.ip(&format!("route get {}", INNER[family])).contains("mtu 1300");
    let forged = || nat.counters().unwrap().refused["forged"].packets;
    let before = forged();

    send_to(&lab.p2, external, &too_large(P3[family], client, external));
    let refused = eventually_blocking(PATIENCE, || forged() == before + 1);
    let early = learned();
    send_to(from, external, &too_large(sender, client, external));
    let told = eventually_blocking(PATIENCE, learned);

    assert!(refused && !early, "{client}: another tenant's pod spoke for it");
    assert!(told, "{client}: {sender} was not heard, {:?}", nat.counters().unwrap().refused);
    assert_eq!(forged(), before + 1, "{client}");
}

#[test]
fn a_client_in_the_cluster_reports_about_its_own_connection_and_no_other_pod_does() {
    in_namespace(
        "strays::clients::a_client_in_the_cluster_reports_about_its_own_connection_and_no_other_pod_does",
        || {
            let lab = Lab::new();
            let nat = start(&lab);

            for (family, client) in [P2, P2_V6].into_iter().enumerate() {
                complain(&lab, &nat, family, (&lab.p2, client, client));
            }
        },
    );
}

#[test]
fn a_router_reports_about_clients_behind_it_and_no_other_pod_does() {
    in_namespace(
        "strays::clients::a_router_reports_about_clients_behind_it_and_no_other_pod_does",
        || {
            let lab = Lab::new();
            let router = Namespace::new();
            router.sysctl("net.ipv6.conf.default.accept_dad", "0");
            pod(&router, "v3", ROUTER[0], ROUTER[1]);
            for (address, len) in BEHIND.iter().zip([32, 128]) {
                router.add_address("lo", &format!("{address}/{len}"));
            }
            ip(&format!("-4 route add 10.244.7.0/24 via {}", ROUTER[0]));
            ip(&format!("-6 route add fd00:244:0:7::/64 via {}", ROUTER[1]));
            let nat = start(&lab);

            for family in [0, 1] {
                complain(&lab, &nat, family, (&router, BEHIND[family], ROUTER[family]));
            }
        },
    );
}
