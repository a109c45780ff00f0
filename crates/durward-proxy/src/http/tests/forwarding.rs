//! What upstreams are told, and what is answered here.

use std::sync::Arc;

use durward_model::route::{Action, Forward, HeaderRules, PathMatch, Redirect, WeightedUpstream};
use durward_model::upstream::UpstreamIndex;
use durward_testkit::origin::{Origin, RawOrigin};

use super::support::{Setup, ask, forward, route};
use crate::session::{ClientCertificate, TlsFacts};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Secret: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nok";

fn tls() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3",
        cipher: String::new(),
        sni: Some("shop.example".to_owned()),
        resumed: false,
        handshake: std::time::Duration::ZERO,
        client_certificate: Some(ClientCertificate {
            subject: "CN=\"quoted\"".to_owned(),
            spki_sha256: String::new(),
            fingerprint: "abcd".to_owned(),
            uris: vec!["spiffe://a/b".to_owned()],
            dns: vec!["a.example".to_owned()],
            client_cert: ":TEST:".to_owned(),
            client_cert_chain: String::new(),
        }),
    }
}

// S1.66
#[tokio::test]
async fn who_the_client_is_is_said_by_us_alone() {
    let origin = RawOrigin::replying("127.0.0.1:0", OK);
    let mut setup = Setup::to(origin.address());
    setup.tls = Some(tls);
    setup.service.identity_headers.xfcc = true;
    setup.service.trusted_proxies = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
    setup
        .run(|rig| async move {
            let forged = [
                "Client-Cert: :FORGED:\r\n",
                "client-cert: :FORGED:\r\nConnection: Client-Cert\r\n",
                "Client_Cert: :FORGED:\r\n",
                "CLIENT-CERT-CHAIN: :FORGED:\r\n",
                "X-Forwarded-Client-Cert: FORGED\r\n",
                "x_forwarded_client_cert: FORGED\r\n",
                "X_Forwarded-Client_Cert: FORGED\r\n",
            ];

            for field in forged {
                ask(&rig, format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{field}\r\n")).await;
            }

            let received = origin.received_text().concat();
            assert!(!received.contains("FORGED"), "{received}");
            assert_eq!(received.matches("Client-Cert: :TEST:\r\n").count(), forged.len(), "{received}");
            let xfcc = "X-Forwarded-Client-Cert: Hash=abcd;Subject=\"CN=\\\"quoted\\\"\";URI=spiffe://a/b;DNS=a.example\r\n";
            assert_eq!(received.matches(xfcc).count(), forged.len(), "{received}");
        })
        .await;
}

// S1.66
#[tokio::test]
async fn without_a_certificate_nothing_is_said_and_nothing_believed() {
    let origin = RawOrigin::replying("127.0.0.1:0", OK);
    Setup::to(origin.address())
        .run(|rig| async move {
            ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\nClient-Cert: :FORGED:\r\nX-Forwarded-Client-Cert: x\r\n\r\n").await;

            let received = origin.received_text().concat();
            assert!(!received.to_lowercase().contains("client-cert"), "{received}");
        })
        .await;
}

// S1.38
#[tokio::test]
async fn a_trusted_proxys_word_is_kept_and_extended() {
    let origin = RawOrigin::replying("127.0.0.1:0", OK);
    let mut setup = Setup::to(origin.address());
    setup.service.trusted_proxies = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
    setup
        .run(|rig| async move {
            ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\nX-Request-Id: theirs\r\nForwarded: for=192.0.2.1\r\n\r\n").await;

            let received = origin.received_text().concat();
            for there in ["X-Forwarded-For: 192.0.2.1, 192.0.2.2, 127.0.0.1\r\n", "X-Forwarded-Proto: https\r\n", "X-Request-Id: theirs\r\n", "Forwarded: for=192.0.2.1, for=127.0.0.1;"] {
                assert!(received.contains(there), "{there}: {received}");
            }
        })
        .await;
}

// S1.38
#[tokio::test]
async fn the_host_must_be_the_one_asked_for_by_sni() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.tls = Some(tls);
    setup
        .run(|rig| async move {
            for (host, status) in [
                ("shop.example", 200),
                ("SHOP.example.", 200),
                ("shop.example:8443", 200),
                ("192.0.2.7", 200),
                ("[2001:db8::1]:443", 200),
                ("other.example", 421),
                ("xshop.example", 421),
            ] {
                let answer = ask(&rig, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;

                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
            }
        })
        .await;
}

// S1.38
#[tokio::test]
async fn redirects_and_fixed_answers_are_made_here() {
    let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
    let redirect = Redirect {
        status: 308,
        scheme: Some(Arc::from("https")),
        host: None,
        port: None,
        path: None,
    };
    let mut gone = route("gone", Action::Respond { status: 410, body: Arc::from("gone\n") });
    gone.matches.path = PathMatch::Prefix(Arc::from("/old"));
    setup.service.routes = vec![gone, route("https", Action::Redirect(redirect))];
    setup
        .run(|rig| async move {
            let moved = ask(&rig, "GET //evil.example/%2e?a=b HTTP/1.1\r\nHost: A.example:8080\r\n\r\n").await;
            let kept = ask(&rig, "GET //evil.example/x?a=b HTTP/1.1\r\nHost: A.example:8080\r\n\r\n").await;
            let gone = ask(&rig, "POST /old/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").await;
            let head = ask(&rig, "HEAD /old HTTP/1.1\r\nHost: a\r\n\r\n").await;

            assert!(moved.starts_with("HTTP/1.1 400 "), "{moved}");
            assert!(kept.contains("\r\nLocation: https://a.example//evil.example/x?a=b\r\n"), "{kept}");
            assert!(gone.starts_with("HTTP/1.1 410 Gone\r\n") && gone.contains("\r\n\r\ngone\n"), "{gone}");
            assert!(gone.contains("HTTP/1.1 308 ") && gone.contains("Location: https://[::1]/\r\n"), "{gone}");
            assert!(head.contains("Content-Length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        })
        .await;
}

// S1.34 S1.38
#[tokio::test]
async fn a_route_changes_target_host_and_headers() {
    let origin = RawOrigin::replying("127.0.0.1:0", OK);
    let mut setup = Setup::to(origin.address());
    let mut route = route("api", forward());
    route.matches.path = PathMatch::Prefix(Arc::from("/api"));
    route.action = Action::Forward(Forward {
        upstreams: vec![WeightedUpstream { upstream: UpstreamIndex(0), weight: 1 }],
        replace_prefix: Some(Arc::from("/v2/")),
        host: Some(Arc::from("inner.example")),
        timeout: None,
    });
    let text = |text: &str| Arc::<str>::from(text);
    route.request_headers = HeaderRules {
        remove: vec![text("cookie"), text("content-length")],
        set: vec![(text("x-a"), text("new"))],
        add: vec![(text("x-b"), text("more"))],
    };
    route.response_headers =
        HeaderRules { remove: vec![text("x-secret")], ..HeaderRules::default() };
    setup.service.routes = vec![route];
    setup
        .run(|rig| async move {
            for (asked, sent) in
                [("/api", "/v2/"), ("/api/x?q", "/v2/x?q"), ("/api/", "/v2/"), ("/%61pi/y", "/v2/y")]
            {
                let answer = ask(&rig, format!("POST {asked} HTTP/1.1\r\nHost: outer.example\r\nCookie: a=b\r\nX-A: old\r\nX-B: one\r\nContent-Length: 0\r\n\r\n")).await;
                let received = origin.received_text().concat();

                assert!(received.contains(&format!("POST {sent} HTTP/1.1\r\nHost: inner.example\r\n")), "{received}");
                assert!(received.contains("X-Forwarded-Host: outer.example\r\n"), "{received}");
                assert!(received.contains("x-a: new\r\n") && !received.contains("old"), "{received}");
                assert!(received.contains("X-B: one\r\n") && received.contains("x-b: more\r\n"), "{received}");
                assert!(received.contains("Content-Length: 0\r\n") && !received.contains("Cookie"), "{received}");
                assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("X-Secret") && !answer.contains("X-Hop"), "{answer}");
            }
            let missed = ask(&rig, "GET /apix HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(missed.starts_with("HTTP/1.1 404 "), "{missed}");
            assert_eq!(rig.log(5).await[1]["path"], "/api/x");
        })
        .await;
}

// S1.71
#[tokio::test]
async fn the_request_rate_of_a_tenant_is_held() {
    let origin = Origin::http1("127.0.0.1:0");
    let mut setup = Setup::to(origin.address());
    setup.limits.requests_per_second = Some(1);
    setup.limits.burst = Some(2);
    setup
        .run(|rig| async move {
            let mut client = rig.client().await;
            let mut statuses = Vec::new();
            for _ in 0..5 {
                let answer = client.get("a", "/").await.unwrap();
                assert_eq!(answer.status == 429, answer.header("retry-after").is_some());
                statuses.push(answer.status);
            }

            assert!(statuses.starts_with(&[200]) && statuses.ends_with(&[429]), "{statuses:?}");
        })
        .await;
}
