//! A public address in front of the gateway, whose port 443 is led to another address and port.

use std::process::Command;

use durward_testkit::netns::{block_on, in_namespace, ip};

use super::*;

const TEST: &str = "hosted::translated::behind_a_translated_public_address_the_name_still_decides";
/// Leads connections to the public address to the gateway's own address and port.
const RULES: &str = "table ip edge { chain output { type nat hook output priority -100; \
                     ip daddr 203.0.113.1 tcp dport 443 dnat to 10.99.0.1:8443; }; }";

// S4.41
#[test]
fn behind_a_translated_public_address_the_name_still_decides() {
    in_namespace(TEST, || block_on(translated()));
}

async fn translated() {
    ip("link add edge0 type bridge");
    ip("address add 10.99.0.1/24 dev edge0");
    ip("link set edge0 up");
    ip("route add 203.0.113.1 dev edge0");
    let Ok(ruled) = Command::new("nft").arg(RULES).output() else {
        eprintln!("SKIPPED {TEST} (nft is missing)");
        return;
    };
    assert!(ruled.status.success(), "{}", String::from_utf8_lossy(&ruled.stderr));
    let gateway_authority = Authority::new("gateway");
    let at: SocketAddr = "10.99.0.1:8443".parse().unwrap();
    let public: SocketAddr = "203.0.113.1:443".parse().unwrap();
    let acme = Cluster::new("acme", "t1.api.example", 1);
    let bank = Cluster::new("bank", "b1.api.example", 1);
    let preparation = Gateway::prepare();
    let documents = [&acme, &bank]
        .map(|cluster| cluster.documents(preparation.dir(), at, &gateway_authority))
        .concat();
    let gateway = preparation.start(&documents);
    assert_eq!(gateway.findings(), Vec::<String>::new());

    for cluster in [&acme, &bank] {
        let client = cluster.client("admin");
        let reached = cluster.whoami(public, cluster.host, &client).await.unwrap();
        assert_eq!(reached.local, cluster.servers[0].address());
        assert_eq!(reached.tls_client_subject.as_deref(), Some("CN=admin"));
        let unknown = cluster.whoami(public, "x1.api.example", &client).await;
        assert!(unknown.is_none(), "a name that nobody has");
    }
    gateway.stop();
}
