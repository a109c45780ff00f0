//! TLS towards clients: which certificate, who may come in, what is resumed, what is refused and how it is counted.

mod acme;
mod client_certificates;
mod junk;
pub(crate) mod resumption;
mod rotation;

use std::net::SocketAddr;
use std::sync::Arc;

use durward_proxy::metrics::Counter;
use durward_testkit::certificates::{Authority, CertSpec, KeyKind, client_config, roots};
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe};
use durward_testkit::client::{RawHttp, tls_connect};
use durward_testkit::process::{free_port, unique_loopback};

use crate::edge::{
    await_refusals, bound, certificate_named, handshakes_failed, http, https, identity_for, serve,
    tenant, tls, total,
};

// S1.1 S1.33
#[tokio::test]
async fn the_destination_chooses_the_certificate_whatever_name_is_asked_for() {
    let authority = Authority::new("root");
    let (a, b) = (unique_loopback(), unique_loopback());
    let (shown_by_a, shown_by_b) = (identity_for(&authority, a), identity_for(&authority, b));
    let at = |ip| SocketAddr::from((ip, 8443));
    let _proxy = serve(&[
        tenant("a").listen(at(a), http("I am A", Some(https(&shown_by_a)))),
        tenant("b").listen(at(b), http("I am B", Some(https(&shown_by_b)))),
    ]);

    for (ip, shown, answer) in [(a, &shown_by_a, "I am A"), (b, &shown_by_b, "I am B")] {
        let other = if ip == a { b } else { a }.to_string();
        let hellos = [
            ("no name", ClientHello::new()),
            ("its address", ClientHello::new().server_name(ip.to_string())),
            ("the other's address", ClientHello::new().server_name(other)),
            ("an IPv6 address", ClientHello::new().server_name("2001:db8::7")),
            ("an unrelated name", ClientHello::new().server_name("unrelated.example")),
        ];
        for (name, hello) in hellos {
            let reaction = probe(at(ip), None, &hello).await.unwrap();
            assert_eq!(reaction, Reaction::Chain(shown.chain_der.clone()), "{name}");
            let reaction = probe(at(ip), None, &hello.tls13()).await.unwrap();
            assert_eq!(reaction, Reaction::Encrypted, "{name}");
        }
        let mut client = RawHttp::connect_tls(at(ip), None, client_config(&authority, None), None)
            .await
            .unwrap();
        assert_eq!(client.get("pay.example", "/").await.unwrap().text(), answer);
    }
}

// S1.33
#[tokio::test]
async fn the_name_chooses_among_the_certificates_of_one_listener() {
    let authority = Authority::new("root");
    let address = SocketAddr::from((unique_loopback(), 8443));
    let first = authority.issue(&CertSpec::new().ip(address.ip()));
    let named = authority.issue(&CertSpec::new().dns("pay.example"));
    let wild = authority.issue(&CertSpec::new().dns("*.api.example"));
    let mut policy = https(&first);
    policy.certificates.push(certificate_named(&named, &["pay.example"]));
    policy.certificates.push(certificate_named(&wild, &["*.api.example"]));
    let _proxy = serve(&[tenant("a").listen(address, http("A", Some(policy)))]);

    let cases = [
        (ClientHello::new(), &first),
        (ClientHello::new().server_name("PAY.example"), &named),
        (ClientHello::new().server_name("v1.api.example"), &wild),
        (ClientHello::new().server_name("a.v1.api.example"), &first),
        (ClientHello::new().server_name("other.example"), &first),
    ];

    for (hello, shown) in cases {
        let reaction = probe(address, None, &hello).await.unwrap();
        assert_eq!(reaction, Reaction::Chain(shown.chain_der.clone()), "{hello:?}");
    }
}

// S1.2 S1.36
#[tokio::test]
async fn a_stranger_is_told_in_tls_that_nobody_is_there_and_sees_no_certificate() {
    let authority = Authority::new("root");
    let (known, unknown) = (unique_loopback(), unique_loopback());
    let port = free_port([0, 0, 0, 0]);
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let policy = https(&identity_for(&authority, known));
    let proxy = serve(&[tenant("a").listen_through(
        everywhere,
        SocketAddr::from((known, port)),
        http("A", Some(policy)),
    )]);

    let stranger = SocketAddr::from((unknown, port));
    let hello = ClientHello::new().server_name("pay.example").tls13();
    for hello in [ClientHello::new(), hello] {
        assert_eq!(probe(stranger, None, &hello).await.unwrap(), Reaction::Alert(112));
    }
    let mut plain = RawHttp::connect(stranger).await.unwrap();
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

    assert!(plain.is_closed().await);
    await_refusals(&proxy, None, "tenant_not_found", 3).await;
    let still = SocketAddr::from((known, port));
    assert!(matches!(probe(still, None, &ClientHello::new()).await, Ok(Reaction::Chain(_))));
}

// S1.64
#[tokio::test]
async fn old_versions_are_refused_and_a_listener_may_insist_on_the_newest() {
    let authority = Authority::new("root");
    let (usual, strict) = (unique_loopback(), unique_loopback());
    let at = |ip| SocketAddr::from((ip, 8443));
    let mut newest = https(&identity_for(&authority, strict));
    newest.tls13_only = true;
    let proxy = serve(&[
        tenant("usual").listen(at(usual), http("", Some(https(&identity_for(&authority, usual))))),
        tenant("strict").listen(at(strict), http("", Some(newest))),
    ]);

    assert!(matches!(probe(at(usual), None, &ClientHello::new()).await, Ok(Reaction::Chain(_))));
    let tls12 = probe(at(strict), None, &ClientHello::new()).await.unwrap();
    assert_eq!(tls12, Reaction::Alert(70));
    for version in [[3, 0], [3, 1], [3, 2]] {
        let old = junk::react(at(usual), &junk::with_legacy_version(version)).await;
        assert_eq!(old, Reaction::Alert(70), "{version:?}");
    }
    // The first one, too: it left once it had seen the certificate.
    await_refusals(&proxy, Some("usual"), "tls_handshake", 4).await;
    let failures = crate::edge::metrics(&proxy, "usual").handshake_failures();
    assert_eq!(handshakes_failed(&proxy, "usual", "nothing_in_common"), 3, "{failures:?}");
    assert_eq!(handshakes_failed(&proxy, "strict", "nothing_in_common"), 1);
}

// S1.64
#[tokio::test]
async fn weak_suites_alone_are_refused() {
    let authority = Authority::new("root");
    let address = SocketAddr::from((unique_loopback(), 8443));
    let identity = authority.issue(&CertSpec::new().ip(address.ip()).key(KeyKind::Rsa2048));
    let _proxy = serve(&[tenant("a").listen(address, http("", Some(https(&identity))))]);

    // RSA key exchange, CBC, 3DES, RC4, export, NULL.
    for suite in [0x002f_u16, 0xc013, 0xc027, 0x000a, 0x0005, 0x0003, 0x0001] {
        let reaction = junk::react(address, &junk::with_suite(suite)).await;
        assert_eq!(reaction, Reaction::Alert(40), "{suite:04x}");
    }
    assert!(matches!(junk::react(address, &junk::with_suite(0xc02f)).await, Reaction::Chain(_)));
}

// S1.17
#[tokio::test]
async fn keys_of_every_kind_serve() {
    let authority = Authority::new("root");
    let kinds = [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Rsa2048, KeyKind::Ed25519];

    for kind in kinds {
        let address = SocketAddr::from((unique_loopback(), 8443));
        let identity = authority.issue(&CertSpec::new().ip(address.ip()).key(kind));
        let _proxy = serve(&[tenant("a").listen(address, http("A", Some(https(&identity))))]);

        let config = client_config(&authority, None);
        let connected = tls_connect(address, None, config, None).await;

        assert!(connected.is_ok(), "{kind:?}: {connected:?}");
    }
}

// S1.54
#[tokio::test]
async fn handshakes_are_counted_by_version_and_timed() {
    let authority = Authority::new("root");
    let address = SocketAddr::from((unique_loopback(), 8443));
    let identity = identity_for(&authority, address.ip());
    let proxy = serve(&[tenant("a").listen(address, http("A", Some(tls(&identity))))]);

    for _ in 0..3 {
        let config = client_config(&authority, None);
        let mut client = RawHttp::connect_tls(address, None, config, None).await.unwrap();
        assert_eq!(client.get("a", "/").await.unwrap().status, 200);
    }

    let metrics = crate::edge::metrics(&proxy, "a");
    assert_eq!(total(&proxy, "a", Counter::HandshakesTls13), 3);
    assert_eq!(total(&proxy, "a", Counter::HandshakesTls12), 0);
    assert_eq!(total(&proxy, "a", Counter::HandshakesResumed), 0);
    let (buckets, seconds) = metrics.histogram(|cells| &cells.handshake_duration);
    assert_eq!(buckets.iter().sum::<u64>(), 3);
    assert!(seconds > 0.0);
}

// S1.54
#[tokio::test]
async fn a_client_that_refuses_us_or_shares_no_protocol_is_counted_as_such() {
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let address = SocketAddr::from((unique_loopback(), 8443));
    let identity = identity_for(&authority, address.ip());
    let proxy = serve(&[tenant("a").listen(address, http("A", Some(https(&identity))))]);

    let distrusting = client_config(&stranger, None);
    assert!(tls_connect(address, None, distrusting, None).await.is_err());
    let mut foreign = client_config(&authority, None);
    foreign.alpn_protocols = vec![b"smtp".to_vec()];
    assert!(tls_connect(address, None, foreign, None).await.is_err());

    await_refusals(&proxy, Some("a"), "tls_handshake", 2).await;
    assert_eq!(handshakes_failed(&proxy, "a", "refused_by_client"), 1);
    assert_eq!(handshakes_failed(&proxy, "a", "nothing_in_common"), 1);
}

// S1.37
#[test]
fn no_file_is_needed_to_serve() {
    durward_testkit::netns::in_namespace_async("tls::no_file_is_needed_to_serve", || async {
        let authority = Authority::new("root");
        let address = SocketAddr::from(([127, 0, 0, 1], 8443));
        let identity = identity_for(&authority, address.ip());
        let wanted = [tenant("a").listen(address, http("A", Some(https(&identity))))];
        let proxy = serve(&wanted);
        let empty = durward_testkit::process::TempDir::new();
        let outside = std::fs::File::open("/").unwrap();

        rustix::process::chroot(empty.path()).unwrap();
        assert!(std::fs::metadata("/etc").is_err());
        for _ in 0..3 {
            let config = client_config(&authority, None);
            let mut client = RawHttp::connect_tls(address, None, config, None).await.unwrap();
            assert_eq!(client.get("a", "/").await.unwrap().text(), "A");
        }
        crate::edge::assert_served(&proxy.apply(bound(2, &wanted)));

        rustix::process::fchdir(&outside).unwrap();
        rustix::process::chroot(".").unwrap();
    });
}

// S1.33+
#[tokio::test]
async fn of_two_certificates_for_one_name_the_clients_algorithms_choose() {
    let authority = Authority::new("root");
    let address = SocketAddr::from((unique_loopback(), 8443));
    let shown = [(KeyKind::EcdsaP256, "ECDSA-P256"), (KeyKind::Rsa2048, "RSA-2048")];
    let shown = shown.map(|(key, name)| {
        let identity = authority.issue(&CertSpec::new().ip(address.ip()).dns("a.example").key(key));
        let mut certificate = (*certificate_named(&identity, &["a.example"])).clone();
        certificate.key_type = Arc::from(name);
        (identity, Arc::new(certificate))
    });
    let mut policy = https(&shown[0].0);
    policy.certificates = shown.iter().map(|(_, certificate)| Arc::clone(certificate)).collect();
    let _proxy = serve(&[tenant("a").listen(address, http("a", Some(policy)))]);

    for (only, expected) in [("", 0), ("ECDSA", 0), ("RSA", 1)] {
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
            for name in [Some("a.example"), None] {
                let mut provider = rustls::crypto::aws_lc_rs::default_provider();
                let known = provider.signature_verification_algorithms;
                let wanted = |scheme: &rustls::SignatureScheme| {
                    scheme.as_str().is_some_and(|name| name.starts_with(only))
                };
                let mapping: Vec<_> =
                    known.mapping.iter().copied().filter(|(scheme, _)| wanted(scheme)).collect();
                provider.signature_verification_algorithms =
                    rustls::crypto::WebPkiSupportedAlgorithms { mapping: mapping.leak(), ..known };
                let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                    .with_protocol_versions(versions)
                    .unwrap()
                    .with_root_certificates(roots(&authority))
                    .with_no_client_auth();

                let stream = tls_connect(address, None, config, name).await.unwrap();

                let seen = stream.get_ref().1.peer_certificates().unwrap();
                assert_eq!(&seen[0], shown[expected].0.leaf(), "{only:?} {name:?}");
            }
        }
    }
}
