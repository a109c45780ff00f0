//! Through another proxy: which names go that way, what it is shown, and what becomes of its refusal.

use std::net::SocketAddr;

use durward_testkit::origin::{Origin, RawOrigin};
use durward_testkit::process::unique_loopback;
use durward_testkit::secrets;

use super::{Out, document, get};
use crate::gateway::Gateway;

/// A gateway that stands for somebody else's proxy: it lets `ci` reach the origin by name through the hosts file.
fn somebody_elses(port: u16) -> (Gateway, SocketAddr) {
    let (door, egress) = (unique_loopback(), unique_loopback());
    let prepared = Gateway::prepare();
    std::fs::write(
        prepared.dir().join("users"),
        format!("ci:{}\n", secrets::sha256_hex("parent-secret")),
    )
    .unwrap();
    let entry = format!("address: {door}, credentials: {{file: users}}");
    let allow =
        format!("allow: [{{host: localhost, cidrs: [127.0.0.1, \"::1\"], ports: [{port}]}}]");
    (prepared.start(&document("theirs", egress, &entry, &allow)), (door, 3128).into())
}

// S2.9
#[tokio::test]
async fn names_of_a_parent_go_through_it_by_connect() {
    let origin = Origin::http1("127.0.0.1:0");
    let (theirs, parent) = somebody_elses(origin.port());
    let prepared = Gateway::prepare();
    std::fs::write(prepared.dir().join("parent"), "ci:parent-secret\n").unwrap();
    let out = Out::with(
        prepared,
        "allowedSources: [127.0.0.0/8]",
        &format!(
            "parents: [{{address: \"{parent}\", hosts: [localhost], credentialFile: parent}}]\nallow: [{{host: localhost, ports: [{}, 1]}}]",
            origin.port()
        ),
    );
    let url = format!("http://localhost:{}/", origin.port());

    let mut client = out.connect().await;
    for _ in 0..2 {
        assert_eq!(client.exchange(get(&url)).await.unwrap().status, 200);
    }
    let mut tunnel = out.tunnel(&format!("localhost:{}", origin.port())).await.unwrap();
    assert_eq!(tunnel.get("localhost", "/").await.unwrap().status, 200);

    assert_eq!(origin.connections(), 3, "connections through a parent serve one request");
    let refused = out.connect().await.exchange(get("http://localhost:1/")).await.unwrap();
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (502, Some("parent_refused")));
    let seen = super::decisions(&theirs, 6);
    assert!(seen.iter().all(|line| line["method"] == "CONNECT" && line["identity"] == "user:ci"));
    assert!(
        seen.iter()
            .all(|line| line["client"].as_str().unwrap().starts_with(&out.egress.to_string()))
    );
    let ours = out.decisions(6);
    assert!(
        ours.iter()
            .filter(|line| line["verdict"] == "allowed")
            .all(|line| line["dialled"] == parent.to_string())
    );
}

// S2.10
#[tokio::test]
async fn a_parent_that_answers_nonsense_is_no_way() {
    for answer in ["HTTP/1.1 407 No\r\n\r\n", "SSH-2.0\r\n\r\n", "", "HTTP/1.1 200"] {
        let parent = RawOrigin::once("127.0.0.1:0", answer);
        let out = Out::open(&format!(
            "parents: [{{address: \"{}\"}}]\nallow: [{{host: bank.example}}]",
            parent.address()
        ));

        assert_eq!(out.tunnel("bank.example:443").await.err(), Some(502), "{answer:?}");
        // What may not go does not go there either.
        assert_eq!(out.tunnel("evil.example:443").await.err(), Some(403));
        assert_eq!(out.tunnel("127.0.0.1:443").await.err(), Some(403));
        assert_eq!(parent.received().len(), 1);
    }
}
