//! The seed's own topology, 172.16.28.0/22 with the proxy at .8, in namespaces: what arrives far away has one address per tenant.
//!
//! Deliberately absent: Kubernetes; clients are namespaces with addresses where pods would be.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use durward_testkit::client::RawHttp;
use durward_testkit::netns::{self, Namespace, in_namespace};
use durward_testkit::origin::Origin;
use durward_testkit::process::eventually_blocking;

use super::{document, get, tunnel};
use crate::gateway::Gateway;
use crate::support::output;

const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 16, 28, 8)), 3128);
const REQUESTS: usize = 1000;

/// Pods of two clients and a stranger on one side, the internet on the other, the gateway between them.
struct Topology {
    pods: Namespace,
    internet: Namespace,
}

impl Topology {
    fn new() -> Self {
        let (pods, internet) = (Namespace::new(), Namespace::new());
        netns::veth("p0", "eth0", &pods);
        netns::veth("i0", "eth0", &internet);
        for address in ["172.16.28.8/22", "10.9.9.1/24"] {
            netns::add_address("p0", address);
        }
        // 198.51.100.1 is the node's own; the tenants' are beside it.
        for address in ["198.51.100.1/24", "203.0.113.2/32", "203.0.113.3/32"] {
            netns::add_address("i0", address);
        }
        for address in ["172.16.28.9/22", "172.16.29.9/22", "10.9.9.9/24"] {
            pods.add_address("eth0", address);
        }
        internet.add_address("eth0", "198.51.100.200/24");
        internet.ip("route add 203.0.113.0/24 via 198.51.100.1");
        Self { pods, internet }
    }
}

fn documents() -> String {
    let tenant = |name: &str, egress: [u8; 4], sources: &str| {
        let entry = format!("address: 172.16.28.8, shared: true, allowedSources: [{sources}]");
        document(name, egress, &entry, "allow: [{cidr: 198.51.100.200, ports: [80, 443]}]")
    };
    tenant("client-a", [203, 0, 113, 2], "172.16.28.0/24")
        + &tenant("client-b", [203, 0, 113, 3], "172.16.29.0/24")
}

// S2.1 S2.4 S2.6 S2.11 S2.12 S2.26 S2.28
#[test]
fn a_thousand_requests_of_each_tenant_arrive_from_its_address_alone() {
    in_namespace(
        "egress::seed::a_thousand_requests_of_each_tenant_arrive_from_its_address_alone",
        || {
            let topology = Topology::new();
            let far = topology
                .internet
                .run(|| [Origin::http1("198.51.100.200:80"), Origin::http1("198.51.100.200:443")]);
            let gateway = Gateway::prepare().start(&documents());

            let seen = topology.pods.block_on(|| async {
                let mut clients = Vec::new();
                for number in 0..100 {
                    let from: IpAddr =
                        if number % 2 == 0 { [172, 16, 28, 9] } else { [172, 16, 29, 9] }.into();
                    clients.push(tokio::spawn(requests(from, REQUESTS / 50)));
                }
                let mut seen: BTreeMap<IpAddr, BTreeMap<IpAddr, usize>> = BTreeMap::new();
                for client in clients {
                    for (from, arrived) in client.await.unwrap() {
                        *seen.entry(from).or_default().entry(arrived).or_default() += 1;
                    }
                }
                seen
            });

            let wanted =
                [([172, 16, 28, 9], [203, 0, 113, 2]), ([172, 16, 29, 9], [203, 0, 113, 3])].map(
                    |(from, arrived)| (from.into(), BTreeMap::from([(arrived.into(), REQUESTS)])),
                );
            assert_eq!(seen, BTreeMap::from(wanted));
            let node: IpAddr = [198, 51, 100, 1].into();
            let peers: Vec<IpAddr> =
                far.iter().flat_map(|far| far.peers()).map(|peer| peer.ip()).collect();
            assert!(!peers.contains(&node), "nothing leaves from the node's address");
            assert_eq!(gateway.isolation_violations(), 0);
            gateway.stop();
        },
    );
}

/// Plain requests and requests in tunnels in turn, interleaved with those of others; from where, and where each was seen to come from.
async fn requests(from: IpAddr, count: usize) -> Vec<(IpAddr, IpAddr)> {
    let mut seen = Vec::new();
    let mut plain = RawHttp::connect_from(from, PROXY).await.unwrap();
    for number in 0..count {
        let answer = if number % 2 == 0 {
            plain.exchange(get("http://198.51.100.200/")).await.unwrap()
        } else {
            let client = RawHttp::connect_from(from, PROXY).await.unwrap();
            let mut inside = super::tunnel_over(client, "198.51.100.200:443", "").await.unwrap();
            inside.get("198.51.100.200", "/").await.unwrap()
        };
        assert_eq!(answer.status, 200);
        seen.push((from, answer.echo().peer.ip()));
    }
    seen
}

// S2.13 S2.47
#[test]
fn only_the_tenants_networks_may_use_the_proxy_and_nobody_reaches_a_neighbour_by_it() {
    in_namespace(
        "egress::seed::only_the_tenants_networks_may_use_the_proxy_and_nobody_reaches_a_neighbour_by_it",
        || {
            let topology = Topology::new();
            let far = topology.internet.run(|| Origin::http1("198.51.100.200:80"));
            let neighbour = topology.pods.run(|| Origin::http1("172.16.29.9:80"));
            let gateway = Gateway::prepare().start(&documents());

            topology.pods.block_on(|| async {
                // It may be turned away before it has said a word.
                if let Ok(mut stranger) = RawHttp::connect_from([10, 9, 9, 9].into(), PROXY).await {
                    let _ = stranger.send("CONNECT 198.51.100.200:443 HTTP/1.1\r\n\r\n").await;
                    assert!(stranger.read_response_to("CONNECT").await.is_err());
                }
                for target in [
                    "172.16.29.9:80",
                    "172.16.28.8:3128",
                    "203.0.113.3:80",
                    "198.51.100.1:22",
                    "172.16.28.8:22",
                ] {
                    assert_eq!(tunnel(PROXY, target, "").await.err(), Some(403), "{target}");
                }
            });

            assert_eq!((far.connections(), neighbour.connections()), (0, 0));
            let told = || gateway.log().iter().any(|line| line.contains("source_not_allowed"));
            assert!(eventually_blocking(Duration::from_secs(5), told));
            gateway.stop();
        },
    );
}

// S2.56+
#[test]
fn without_its_address_on_the_host_a_tenants_traffic_goes_nowhere() {
    in_namespace(
        "egress::seed::without_its_address_on_the_host_a_tenants_traffic_goes_nowhere",
        || {
            let topology = Topology::new();
            let far = topology.internet.run(|| Origin::http1("198.51.100.200:80"));
            let gateway = Gateway::prepare().start(&documents());
            let target = "198.51.100.200:80";
            let ask = || {
                topology.pods.block_on(|| async {
                    let mut client =
                        RawHttp::connect_from([172, 16, 28, 9].into(), PROXY).await.unwrap();
                    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
                    client.send(request).await.unwrap();
                    let answer = client.read_response_to("CONNECT").await.unwrap();
                    match answer.status {
                        200 => Ok(client.get("x", "/").await.unwrap().echo().peer.ip()),
                        status => Err((status, answer.json()["reason"].to_string())),
                    }
                })
            };

            for _ in 0..100 {
                netns::ip("address del 203.0.113.2/32 dev i0");
                assert_eq!(ask(), Err((503, "\"egress_address\"".to_owned())));
                netns::add_address("i0", "203.0.113.2/32");
                assert_eq!(ask(), Ok(IpAddr::from([203, 0, 113, 2])));
            }

            assert!(far.peers().iter().all(|peer| peer.ip() == IpAddr::from([203, 0, 113, 2])));
            gateway.stop();
        },
    );
}

// S2.10
#[test]
fn few_ports_are_said_and_none_is_a_clear_503() {
    in_namespace("egress::seed::few_ports_are_said_and_none_is_a_clear_503", || {
        netns::sysctl("net.ipv4.ip_local_port_range", "40000 40063");
        let topology = Topology::new();
        let _far = topology
            .internet
            .run(|| [Origin::http1("198.51.100.200:443"), Origin::http1("198.51.100.200:80")]);
        let gateway = Gateway::prepare().start(&documents());

        topology.pods.block_on(|| async {
            let connect =
                || async { RawHttp::connect_from([172, 16, 28, 9].into(), PROXY).await.unwrap() };
            let mut held = Vec::new();
            for _ in 0..62 {
                held.push(
                    super::tunnel_over(connect().await, "198.51.100.200:443", "").await.unwrap(),
                );
            }
            let mut client = connect().await;
            client
                .send("CONNECT 198.51.100.200:443 HTTP/1.1\r\nHost: 198.51.100.200:443\r\n\r\n")
                .await
                .unwrap();
            let refused = client.read_response_to("CONNECT").await.unwrap();
            assert_eq!(
                (refused.status, refused.json()["reason"].as_str()),
                (503, Some("ports_exhausted"))
            );
            assert_eq!(refused.header("retry-after"), Some("1"));
            // Another destination has ports of its own, and so has another tenant.
            assert!(super::tunnel_over(connect().await, "198.51.100.200:80", "").await.is_ok());
            let other = RawHttp::connect_from([172, 16, 29, 9].into(), PROXY).await.unwrap();
            assert!(super::tunnel_over(other, "198.51.100.200:443", "").await.is_ok());
        });

        let metrics = gateway.metrics_text();
        let held = "durward_egress_ports_budget 62\n";
        assert!(metrics.contains(held), "{metrics}");
        assert!(
            metrics.contains(
                "durward_refusals_total{tenant=\"client-a\",reason=\"ports_exhausted\"} 1"
            )
        );
        gateway.stop();
    });
}

// S2.37
#[test]
fn the_port_is_reached_from_allowed_networks_and_not_from_others() {
    in_namespace(
        "egress::seed::the_port_is_reached_from_allowed_networks_and_not_from_others",
        || {
            let topology = Topology::new();
            let stranger = Namespace::new();
            netns::veth("s0", "eth0", &stranger);
            netns::add_address("s0", "10.9.8.1/24");
            stranger.add_address("eth0", "10.9.8.9/24");
            stranger.ip("route add 172.16.28.0/22 via 10.9.8.1");
            let _far = topology.internet.run(|| Origin::http1("198.51.100.200:80"));
            let gateway = Gateway::prepare().start(&documents());
            let proxy = PROXY.to_string();
            let from = |place: &Namespace, arguments: &[&str]| {
                let test = [&["egress", "test", "--timeout", "2s"], arguments].concat();
                place.run(|| output(&test)).status.code()
            };
            let allowed =
                ["--proxy", &*format!("http://{proxy}"), "--allowed", "http://198.51.100.200/"];

            assert_eq!(from(&topology.pods, &allowed), Some(0));
            assert_eq!(from(&stranger, &allowed), Some(1), "it is let in by nobody");
            if firewall() {
                assert_eq!(from(&topology.pods, &allowed), Some(0));
                assert_eq!(from(&stranger, &["--direct", &proxy]), Some(0), "and now it is not");
                assert_eq!(
                    from(&topology.pods, &["--direct", &proxy]),
                    Some(1),
                    "the test can fail"
                );
            }
            gateway.stop();
        },
    );
}

/// The lines of the guide for this host, where there is an nft to take them.
fn firewall() -> bool {
    if Command::new("nft").arg("--version").output().is_err() {
        let _ = std::io::stderr().write_all(b"SKIPPED a part of egress::seed (no nft)\n");
        return false;
    }
    let guide = crate::text("docs/guide/egress.md");
    let lines: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("nft ")).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        let mut nft = Command::new("nft").arg("-f").arg("-").stdin(Stdio::piped()).spawn().unwrap();
        let line = line.replace("172.16.28.0/24", "{ 172.16.28.0/24, 172.16.29.0/24 }");
        writeln!(nft.stdin.take().unwrap(), "{}", line.replace('\'', "")).unwrap();
        assert!(nft.wait().unwrap().success(), "{line}");
    }
    true
}
