//! Configuration changes while tunnels run: nobody loses a byte, and what changes counts from then on.

use std::net::SocketAddr;

use durward_testkit::client::RawHttp;
use durward_testkit::origin::TcpEcho;
use durward_testkit::process::unique_loopback;

use super::{document, tunnel};
use crate::gateway::Gateway;

// S2.33 S2.35
#[tokio::test]
async fn live_tunnels_lose_no_byte_when_documents_change() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let doors = [unique_loopback(), unique_loopback()];
    let egress = [unique_loopback(), unique_loopback()];
    let far = echo.address();
    let tenant = |at: usize, name: &str, more: &str| {
        let entry = format!("address: {}, allowedSources: [127.0.0.0/8]", doors[at]);
        let allow = format!("allow: [{{cidr: {}, ports: [{}]}}{more}]", far.ip(), far.port());
        document(name, egress[at], &entry, &allow)
    };
    let mut gateway = Gateway::prepare().start(&(tenant(0, "a", "") + &tenant(1, "b", "")));
    let proxies = doors.map(|door| SocketAddr::from((door, 3128)));
    let mut tunnels = Vec::new();
    for proxy in proxies.iter().cycle().take(20) {
        tunnels.push(tunnel(*proxy, &far.to_string(), "").await.unwrap());
    }

    for round in 0..10 {
        let more = format!(", {{host: new-{round}.example}}");
        gateway.reload(&(tenant(0, "a", "") + &tenant(1, "b", &more)));
        for (at, tunnel) in tunnels.iter_mut().enumerate() {
            pass(tunnel, &vec![u8::try_from(at).unwrap(); 10_000 + round]).await;
        }
    }
    assert!(gateway.generation() >= 10);
    assert_eq!(echo.connections(), 20, "no tunnel was made anew");

    // Who is gone is gone at once; the others go on.
    gateway.reload(&tenant(0, "a", ""));
    for (at, tunnel) in tunnels.iter_mut().enumerate() {
        if at % 2 == 0 {
            pass(tunnel, b"still here").await;
        } else {
            assert!(tunnel.is_closed().await);
        }
    }
    assert!(RawHttp::connect(proxies[1]).await.is_err(), "the removed tenant's proxy is closed");
    assert!(tunnel(proxies[0], &far.to_string(), "").await.is_ok());
}

async fn pass(tunnel: &mut RawHttp, message: &[u8]) {
    tunnel.send(message).await.unwrap();
    assert!(tunnel.read_exactly(message.len()).await.unwrap() == message);
}
