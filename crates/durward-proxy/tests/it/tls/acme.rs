//! Certificates by ACME: none is shown in the place of one that is missing, and challenges are answered at the tenant's own listener alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use durward_model::acme::{Answer, Challenge, Name, Order};
use durward_model::server_tls::ServerTls;
use durward_model::{Acme, Origin, Secret};
use durward_testkit::certificates::{Authority, CertSpec, Identity};
use durward_testkit::client::RawHttp;
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe};
use durward_testkit::process::{eventually, unique_loopback};

use crate::edge::{
    SOON, certificate_named, handshakes_failed, http, https, identity_for, refused, serve, tenant,
};

/// Alert `internal_error`.
const INTERNAL_ERROR: u8 = 80;

fn order(name: &str, first: bool) -> Arc<Order> {
    Arc::new(Order {
        id: "a-1".into(),
        names: vec![Name::Dns(name.into())],
        directory: "https://ca.example/dir".into(),
        contacts: Vec::new(),
        challenge: Challenge::TlsAlpn01,
        profile: None,
        account_key: None,
        file: PathBuf::new(),
        answers_file: PathBuf::new(),
        issued: false,
        first,
        origin: Origin::default(),
    })
}

fn pending(name: &str, first: bool) -> Acme {
    Acme { orders: vec![order(name, first)], answers: Vec::new() }
}

fn without_certificates(identity: &Identity) -> ServerTls {
    ServerTls { certificates: Vec::new(), ..https(identity) }
}

fn chain(identity: &Identity) -> Reaction {
    Reaction::Chain(identity.chain_der.clone())
}

async fn shown(address: SocketAddr, name: &str) -> Reaction {
    probe(address, None, &ClientHello::new().server_name(name)).await.unwrap()
}

// S3.48+
#[tokio::test]
async fn until_a_certificate_is_issued_handshakes_are_refused_and_counted_and_no_other_is_shown() {
    let authority = Authority::new("root");
    let at = || SocketAddr::from((unique_loopback(), 8443));
    let (bare, beside, second) = (at(), at(), at());
    let neighbour = at();
    let identity = identity_for(&authority, neighbour.ip());
    let named = certificate_named(&identity, &["shop.example"]);
    let tls = || ServerTls { certificates: vec![named.clone()], ..https(&identity) };
    let proxy = serve(&[
        tenant("a")
            .listen(bare, http("A", Some(without_certificates(&identity))))
            .acme(pending("pay.example", true))
            .listen(beside, http("A", Some(tls())))
            .acme(pending("pay.example", true))
            .listen(second, http("A", Some(tls())))
            .acme(pending("pay.example", false)),
        tenant("b").listen(neighbour, http("B", Some(https(&identity)))),
    ]);

    let refusal = Reaction::Alert(INTERNAL_ERROR);
    assert_eq!(shown(bare, "pay.example").await, refusal);
    assert_eq!(shown(bare, "shop.example").await, refusal);
    assert_eq!(shown(beside, "pay.example").await, refusal);
    assert_eq!(
        shown(beside, "other.example").await,
        refusal,
        "the first is the one that is missing"
    );
    assert_eq!(shown(beside, "shop.example").await, chain(&identity));
    assert_eq!(shown(second, "pay.example").await, refusal);
    assert_eq!(shown(second, "other.example").await, chain(&identity), "the first is there");
    assert_eq!(shown(neighbour, "pay.example").await, chain(&identity), "another tenant is served");

    let failed = || handshakes_failed(&proxy, "a", "certificate_pending");
    assert!(eventually(SOON, async || failed() == 5).await, "{} counted", failed());
}

// S3.48+
#[tokio::test]
async fn a_validation_by_tls_is_answered_where_the_challenge_is_and_nowhere_else() {
    let authority = Authority::new("root");
    let at = || SocketAddr::from((unique_loopback(), 8443));
    let (validated, elsewhere) = (at(), at());
    let usual = identity_for(&authority, validated.ip());
    let other = identity_for(&authority, elsewhere.ip());
    let proof = authority.issue(&CertSpec::new().dns("shop.example").server());
    let answer = Answer::Tls {
        server_name: "shop.example".into(),
        certificate: Arc::from(proof.chain_der[0].as_ref()),
        key: Secret::new(proof.key_der.secret_der().to_vec()),
    };
    let proxy = serve(&[
        tenant("a")
            .listen(validated, http("A", Some(https(&usual))))
            .acme(Acme { orders: Vec::new(), answers: vec![answer] }),
        tenant("b").listen(elsewhere, http("B", Some(https(&other)))),
    ]);
    let asks = |name: &str| ClientHello::new().server_name(name).alpn("acme-tls/1");

    let shown_there = probe(validated, None, &asks("shop.example")).await.unwrap();
    let other_name = probe(validated, None, &asks("pay.example")).await.unwrap();
    let other_tenant = probe(elsewhere, None, &asks("shop.example")).await.unwrap();
    let both = asks("shop.example").alpn("http/1.1");
    let usual_client = probe(validated, None, &both).await.unwrap();

    assert_eq!(shown_there, Reaction::Chain(vec![proof.chain_der[0].clone()]));
    let no_protocol = Reaction::Alert(120);
    assert_eq!(other_name, no_protocol);
    assert_eq!(other_tenant, no_protocol);
    assert_eq!(usual_client, chain(&usual), "a client that offers more does not validate");
    assert_eq!(refused(&proxy, Some("b"), "acme_challenge"), 0);
}

// S3.48+
#[tokio::test]
async fn the_text_of_a_challenge_is_answered_before_routes_at_the_tenants_own_listener_alone() {
    let at = || SocketAddr::from((unique_loopback(), 8080));
    let (validated, elsewhere) = (at(), at());
    let answer = Answer::Http { token: "token".into(), text: "token.thumb".into() };
    let _proxy = serve(&[
        tenant("a")
            .listen(validated, http("route of A", None))
            .acme(Acme { orders: Vec::new(), answers: vec![answer] }),
        tenant("b").listen(elsewhere, http("route of B", None)),
    ]);
    let get = async |address: SocketAddr, path: &str| {
        let mut client = RawHttp::connect(address).await.unwrap();
        let response = client.get("shop.example", path).await.unwrap();
        (response.status, response.text())
    };

    let path = "/.well-known/acme-challenge/token";
    assert_eq!(get(validated, path).await, (200, "token.thumb".to_owned()));
    for other in ["/.well-known/acme-challenge/other", "/.well-known/acme-challenge/token?x", "/"] {
        assert_eq!(get(validated, other).await.1, "route of A", "{other}");
    }
    assert_eq!(get(elsewhere, path).await.1, "route of B");
}
