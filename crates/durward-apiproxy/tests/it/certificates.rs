//! Whom the proxy trusts and what it shows, and new certificates without a restart.

use durward_apiproxy::certificate::{self, Name, automatic_names};
use durward_apiproxy::metrics::Outcome;
use durward_apiproxy::settings::{Carrier, Trust};
use durward_apiproxy::tls::{TlsState, key_pin};
use durward_testkit::certificates::{Authority, CertSpec};

use crate::stage::{
    Gateway, NAME, PATIENCE, Pki, Stage, api_server, connect, eventually, greeting, settings, start,
};

async fn is_refused(pki: &Pki, carrier: Carrier, gateway: &Gateway) -> bool {
    let running = start(settings(carrier, &[gateway.address]));
    let refused = connect(pki, running.address, None).await.is_err();
    refused && running.proxy.metrics().count(Outcome::Unreachable) == 1
}

// S4.13
#[tokio::test]
async fn a_gateway_with_another_authority_name_or_key_gets_no_connection() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let good = pki.gateways.issue(&CertSpec::new().dns(NAME));
    let other_name = pki.gateways.issue(&CertSpec::new().dns("globex.k8s.test"));
    let other_authority = Authority::new("somebody").issue(&CertSpec::new().dns(NAME));
    let with_pin = |identity: &durward_testkit::certificates::Identity| Carrier::OuterTls {
        trust: Trust::Pins(vec![key_pin(identity.leaf()).unwrap()]),
        identity: pki.identity("proxy"),
    };

    for identity in [&other_name, &other_authority] {
        let gateway =
            Gateway::with(identity, &pki.proxies, &[durward_apiproxy::settings::ALPN], api).await;
        assert!(is_refused(&pki, pki.outer(), &gateway).await);
        assert!(is_refused(&pki, with_pin(&good), &gateway).await);
        assert!(gateway.seen().is_empty());
        // Its own key may be pinned, whatever authority and name it has.
        assert!(!is_refused(&pki, with_pin(identity), &gateway).await);
    }
}

#[tokio::test]
async fn a_gateway_that_does_not_accept_our_certificate_counts_as_one_that_does_not_answer() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let identity = pki.gateways.issue(&CertSpec::new().dns(NAME));
    let others = Authority::new("proxies of globex");
    let gateway = Gateway::with(&identity, &others, &[durward_apiproxy::settings::ALPN], api).await;
    let running = start(settings(pki.outer(), &[gateway.address]));

    let gateways = running.proxy.gateways();
    eventually("the check fails", async || {
        let report = gateways.report();
        report[0].endpoints.iter().any(|(_, health)| format!("{health:?}").contains("alert"))
    })
    .await;

    assert!(!gateways.is_ready());
}

#[tokio::test]
async fn a_gateway_that_does_not_accept_our_certificate_stays_out_while_clients_come() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let identity = pki.gateways.issue(&CertSpec::new().dns(NAME));
    let others = Authority::new("proxies of globex");
    let alpn = [durward_apiproxy::settings::ALPN];
    let strict = Gateway::with(&identity, &others, &alpn, api).await;
    let second = Gateway::start(&pki, api).await;
    let mut settings = settings(pki.outer(), &[strict.address, second.address]);
    // One check at the start, and no other that could help.
    settings.limits.check = std::time::Duration::from_hours(1);
    let running = start(settings);
    let gateways = running.proxy.gateways();
    let is_healthy = || {
        let report = gateways.report();
        [report[0].is_healthy(), report[1].is_healthy()]
    };
    eventually("both are checked", async || is_healthy() == [false, true]).await;

    for _ in 0..5 {
        let mut client = connect(&pki, running.address, None).await.unwrap();
        greeting(&mut client).await;
        assert_eq!(is_healthy(), [false, true]);
    }
    assert_eq!((strict.seen().len(), second.seen().len()), (0, 5));
}

/// A gateway that admits our certificate at the checks and refuses it afterwards, as after a change of its authorities.
#[tokio::test]
async fn a_gateway_that_refuses_our_certificate_from_now_on_is_out_after_one_connection() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let identity = pki.gateways.issue(&CertSpec::new().dns(NAME));
    let alpn = [durward_apiproxy::settings::ALPN];
    let mut first = Gateway::with(&identity, &pki.proxies, &alpn, api).await;
    let second = Gateway::start(&pki, api).await;
    let mut settings = settings(pki.outer(), &[first.address, second.address]);
    settings.limits.check = std::time::Duration::from_hours(1);
    let running = start(settings);
    let gateways = running.proxy.gateways();
    let healthy = || gateways.report().iter().filter(|it| it.is_healthy()).count();
    eventually("both answer", async || healthy() == 2).await;

    first.refuse(&identity, &Authority::new("proxies of globex"), &alpn, api).await;
    let refused = connect(&pki, running.address, None).await;

    assert!(refused.is_err());
    eventually("the first is out", async || !gateways.report()[0].is_healthy()).await;
    let mut client = connect(&pki, running.address, None).await.unwrap();
    greeting(&mut client).await;
    assert_eq!(second.seen().len(), 1);
    assert!(!gateways.report()[0].is_healthy());
}

// S4.66
#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not_taken() {
    let stage = Stage::start().await;
    let proxy_of_last = || stage.gateway.seen().last().map(|seen| seen.proxy.clone());

    stage.pki.dir.replace("proxy.crt", "no certificate");
    let mut client = connect(&stage.pki, stage.running.address, None).await.unwrap();
    greeting(&mut client).await;
    assert_eq!(proxy_of_last().as_deref(), Some("proxy-1"));

    stage.pki.write_proxy("proxy-2");
    eventually("the new certificate is shown", async || {
        let mut client = connect(&stage.pki, stage.running.address, None).await.unwrap();
        greeting(&mut client).await;
        proxy_of_last().as_deref() == Some("proxy-2")
    })
    .await;
}

#[test]
fn a_certificate_without_its_key_is_refused_at_the_start() {
    let pki = Pki::new();
    Authority::new("x").issue(&CertSpec::new()).write(pki.dir.path(), "other");
    let mut identity = pki.identity("proxy");
    identity.key = pki.dir.join("other.key");
    let trust = Trust::Authorities(pki.dir.join("gateways.crt"));

    let mixed = TlsState::load(&Carrier::OuterTls { trust: trust.clone(), identity });
    let absent = TlsState::load(&Carrier::OuterTls { trust, identity: pki.identity("nothing") });

    assert!(mixed.is_err_and(|fault| fault.to_string().contains("other.key")));
    assert!(absent.is_err_and(|fault| fault.to_string().contains("nothing.crt")));
}

// S4.33 S4.22+
#[tokio::test]
async fn the_names_of_a_served_certificate_are_compared_with_those_that_it_needs() {
    let pki = Pki::new();
    let api = api_server(&pki).await;

    let shown = certificate::shown(api, NAME, &[b"h2"], PATIENCE).await.unwrap();

    let automatic = automatic_names("cluster.local");
    let missing: Vec<String> = shown.missing(&automatic).iter().map(ToString::to_string).collect();
    assert_eq!(
        missing,
        [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1"
        ]
    );
    assert!(shown.covers(&Name::of("ACME.k8s.test")));
    assert_eq!(shown.alpn.as_deref(), Some(&b"h2"[..]));
    let authorities = || durward_apiproxy::tls::authorities(&pki.dir.join("cluster.crt")).unwrap();
    assert_eq!(shown.verify(authorities(), NAME), Ok(()));
    assert!(shown.verify(authorities(), "globex.k8s.test").is_err());
    let others = durward_apiproxy::tls::authorities(&pki.dir.join("gateways.crt")).unwrap();
    assert!(shown.verify(others, NAME).is_err());
}

#[test]
fn a_wildcard_covers_one_label() {
    let authority = Authority::new("x");
    let leaf = authority.issue(&CertSpec::new().dns("*.k8s.example"));
    let shown = certificate::ShownCertificate::read(leaf.chain_der).unwrap();

    assert!(shown.covers(&Name::of("a.k8s.example")));
    for other in ["k8s.example", "a.b.k8s.example", "a.k9s.example", "127.0.0.1"] {
        assert!(!shown.covers(&Name::of(other)), "{other}");
    }
}
