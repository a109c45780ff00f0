//! Authentication that belongs to a connection (NTLM, Negotiate): whose proof it was, nobody else speaks by it.

use std::net::SocketAddr;

use durward_testkit::client::RawHttp;
use durward_testkit::origin::RawOrigin;
use durward_testkit::process::unique_loopback;

use super::{Out, get};
use crate::gateway::Gateway;

/// An origin that takes a connection for whoever proved himself on it once, as NTLM has it.
fn ntlm() -> RawOrigin {
    RawOrigin::start("127.0.0.1:0", |mut connection| async move {
        let mut who = None;
        while let Ok(Some(request)) = connection.read_request().await {
            let text = String::from_utf8_lossy(&request).into_owned();
            let proof = text.lines().find_map(|line| {
                let (name, value) = line.split_once(": NTLM ")?;
                name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
            });
            who = proof.or(who);
            let answer = match &who {
                Some(who) => {
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{who}", who.len())
                }
                None if text.contains("/open") => {
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
                }
                None => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\n\
                    WWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"
                    .to_owned(),
            };
            if connection.send(answer).await.is_err() {
                return;
            }
        }
    })
}

fn with_proof(request: &str, who: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\nAuthorization: NTLM {who}\r\n\r\n"), 1)
}

/// One client proves himself, others ask by the same way.
async fn nobody_speaks_as_alice(door: SocketAddr, request: &str, open: &str) {
    let mut alice = RawHttp::connect(door).await.unwrap();
    assert_eq!(alice.exchange(request).await.unwrap().status, 401);
    let proved = alice.exchange(with_proof(request, "alice")).await.unwrap();
    assert_eq!((proved.status, proved.text().as_str()), (200, "alice"));
    // Hers it stays, for what she asks next without a proof.
    for _ in 0..3 {
        let again = alice.exchange(request).await.unwrap();
        assert_eq!((again.status, again.text().as_str()), (200, "alice"));
    }
    // Both cores have pools; neither may have hers, while she is there and when she has gone.
    for _ in 0..12 {
        let mut other = RawHttp::connect(door).await.unwrap();
        assert_eq!(other.exchange(request).await.unwrap().status, 401);
    }
    drop(alice);
    for _ in 0..12 {
        let mut other = RawHttp::connect(door).await.unwrap();
        let answer = other.exchange(open).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
        // By a connection others use too, until the proof makes it his.
        let mut bob = RawHttp::connect(door).await.unwrap();
        let proved = bob.exchange(with_proof(open, "bob")).await.unwrap();
        assert_eq!(proved.text(), "bob");
    }
}

// S2.47
#[tokio::test]
async fn a_connection_a_client_proved_itself_on_carries_nobody_else_outwards() {
    let origin = ntlm();
    let out = Out::open(&format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", origin.port()));
    let far = origin.address();

    nobody_speaks_as_alice(
        out.proxy,
        &get(&format!("http://{far}/")),
        &get(&format!("http://{far}/open")),
    )
    .await;
}

// S1.41 S2.47
#[tokio::test]
async fn a_connection_a_client_proved_itself_on_carries_nobody_else_to_an_upstream() {
    let origin = ntlm();
    let (address, egress) = (unique_loopback(), unique_loopback());
    let port = crate::gateway::free_port_on(&address.to_string());
    let gateway = Gateway::prepare().start(&format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  egress: {{addresses: [{egress}]}}\n  \
         ingress:\n    - {{address: {address}, port: {port}, protocol: HTTP, routes: [{{pathPrefix: /, upstream: u}}]}}\n  \
         upstreams:\n    u: {{endpoints: [\"{}\"]}}\n",
        origin.address()
    ));
    assert_eq!(gateway.findings(), Vec::<String>::new());

    nobody_speaks_as_alice(
        (address, port).into(),
        "GET / HTTP/1.1\r\nHost: acme.example\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: acme.example\r\n\r\n",
    )
    .await;
}
