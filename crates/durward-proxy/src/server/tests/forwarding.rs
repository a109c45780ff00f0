//! Fields that upstreams get, and responses made here.

use std::sync::Arc;

use durward_model::route::{
    Action, Forward, HeaderRules, PathMatch, Redirect, Route, WeightedUpstream,
};
use durward_model::upstream::UpstreamIndex;
use durward_testkit::client::H2Client;
use durward_testkit::origin::{Origin, RawOrigin};

use super::support::{Setup, ask, forward, route};
use crate::connection::{ClientCertificate, TlsFacts};

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
            common_name: None,
            spki_sha256: String::new(),
            fingerprint: "abcd".to_owned(),
            uris: vec!["spiffe://a/b".to_owned()],
            dns: vec!["a.example".to_owned()],
            client_cert: ":TEST:".to_owned(),
            client_cert_chain: String::new(),
        }),
        shown: None,
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
    setup.service.routes = vec![gone, route("https", Action::Redirect(redirect))].into();
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

fn redirect(change: impl FnOnce(&mut Redirect)) -> Action {
    let mut redirect = Redirect { status: 308, scheme: None, host: None, port: None, path: None };
    change(&mut redirect);
    Action::Redirect(redirect)
}

fn below(prefix: &str, action: Action) -> Route {
    let mut route = route(prefix, action);
    route.matches.path = PathMatch::Prefix(Arc::from(prefix));
    route
}

fn location(answer: &str) -> Option<&str> {
    answer.split("\r\n").find_map(|line| line.strip_prefix("Location: "))
}

fn hsts(mut route: Route) -> Route {
    let set = vec![(Arc::from("strict-transport-security"), Arc::from("max-age=1"))];
    route.response_headers = HeaderRules { set, ..HeaderRules::default() };
    route
}

// S1.38+
#[tokio::test]
async fn a_redirect_keeps_what_is_not_written() {
    let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
    setup.service.routes = vec![
        below("/path", redirect(|to| to.path = Some(Arc::from("/new")))),
        below("/query", redirect(|to| to.path = Some(Arc::from("/new?c")))),
        below("/host", redirect(|to| to.host = Some(Arc::from("b.example")))),
        below("/port", redirect(|to| to.port = Some(81))),
        below("/same", redirect(|to| to.scheme = Some(Arc::from("http")))),
        below("/https", redirect(|to| to.scheme = Some(Arc::from("https")))),
    ]
    .into();
    setup
        .run(|rig| async move {
            for (asked, expected) in [
                ("/path?a=b", "http://a.example:8080/new?a=b"),
                ("/query?a=b", "http://a.example:8080/new?c"),
                ("/host/x?a=b", "http://b.example:8080/host/x?a=b"),
                ("/port?a=b", "http://a.example:81/port?a=b"),
                ("/https?a=b", "https://a.example/https?a=b"),
            ] {
                let answer =
                    ask(&rig, format!("GET {asked} HTTP/1.1\r\nHost: A.example:8080\r\n\r\n"))
                        .await;

                assert_eq!(location(&answer), Some(expected), "{asked}: {answer}");
            }
            let round = ask(&rig, "GET /same HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(round.starts_with("HTTP/1.1 404 "), "it would lead to itself: {round}");
        })
        .await;
}

// S1.38+
#[tokio::test]
async fn redirects_follow_what_a_trusted_proxy_says_and_nobody_else() {
    for trusted in [true, false] {
        let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
        if trusted {
            setup.service.trusted_proxies = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
        }
        let respond = Action::Respond { status: 200, body: Arc::from("by https\n") };
        setup.service.routes = vec![
            below("/old", redirect(|to| to.path = Some(Arc::from("/new")))),
            route("redirectToHttps", redirect(|to| to.scheme = Some(Arc::from("https")))),
            route("rest", respond),
        ]
        .into();
        setup
            .run(|rig| async move {
                let said = [
                    ("X-Forwarded-Proto: https\r\nX-Forwarded-Host: Pub.example\r\n", "https://pub.example/new"),
                    ("X-Forwarded-Proto: https\r\nX-Forwarded-Host: pub.example:8443\r\nX-Forwarded-Port: 9\r\n", "https://pub.example:8443/new"),
                    ("X-Forwarded-Proto: https\r\nX-Forwarded-Host: pub.example\r\nX-Forwarded-Port: 8443\r\n", "https://pub.example:8443/new"),
                    ("X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n", "https://inner.example/new"),
                    ("X-Forwarded-For: 203.0.113.7, 127.0.0.1\r\nX-Forwarded-Proto: https, http\r\nX-Forwarded-Host: pub.example, inner.example\r\n", "https://pub.example/new"),
                    ("Forwarded: for=203.0.113.7;proto=https;host=\"pub.example\"\r\n", "https://pub.example/new"),
                    ("X-Forwarded-Proto: https\r\nX-Forwarded-Host: a/../b\r\n", "https://inner.example:8080/new"),
                ];
                for (fields, expected) in said {
                    let request = |path| format!("GET {path} HTTP/1.1\r\nHost: inner.example:8080\r\n{fields}\r\n");
                    let moved = ask(&rig, request("/old")).await;
                    let rest = ask(&rig, request("/x")).await;

                    let kept = "http://inner.example:8080/new";
                    assert_eq!(location(&moved), Some(if trusted { expected } else { kept }), "{fields}: {moved}");
                    let served = if trusted { "HTTP/1.1 200 " } else { "HTTP/1.1 308 " };
                    assert!(rest.starts_with(served), "{fields}: {rest}");
                }
            })
            .await;
    }
}

#[tokio::test]
async fn https_in_the_target_of_a_plain_listener_is_right_when_a_trusted_proxy_sends_it() {
    for (trusted, status) in [("127.0.0.1/32", 200), ("192.0.2.1/32", 421)] {
        let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
        setup.service.trusted_proxies = [trusted.parse().unwrap()].into_iter().collect();
        let respond = Action::Respond { status: 200, body: Arc::from("here\n") };
        setup.service.routes = vec![
            route("moved", redirect(|to| to.scheme = Some(Arc::from("https")))),
            route("all", respond),
        ]
        .into();
        setup
            .run(|rig| async move {
                let absolute = "GET https://pub.example/ HTTP/1.1\r\nHost: pub.example\r\n\r\n";
                let h1 = ask(&rig, absolute).await;
                let builder = h2::client::Builder::new();
                let h2 = H2Client::over(rig.stream().await, &builder, "pub.example").await.unwrap();
                let mut request = h2.request(http::Method::GET, "/");
                *request.uri_mut() = "https://pub.example/".parse().unwrap();
                let h2 = h2.send(request, "".into(), None).await.unwrap();

                assert!(h1.starts_with(&format!("HTTP/1.1 {status} ")), "{h1}");
                assert_eq!(h2.status, status);
            })
            .await;
    }
}

#[tokio::test]
async fn the_log_and_the_routes_know_the_client_a_trusted_proxy_names_and_no_other() {
    for (trusted, client) in [(true, "203.0.113.7"), (false, "127.0.0.1")] {
        let mut setup = Setup::to("127.0.0.1:9".parse().unwrap());
        if trusted {
            setup.service.trusted_proxies = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
        }
        let answer = |status| Action::Respond { status, body: Arc::from("x") };
        let mut partner = route("partner", answer(200));
        partner.matches.sources = Some(["203.0.113.0/24".parse().unwrap()].into_iter().collect());
        setup.service.routes = vec![partner, route("others", answer(403))].into();
        setup
            .run(|rig| async move {
                let answer = ask(&rig, "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.9, 203.0.113.7, 127.0.0.9\r\n\r\n").await;

                let line = rig.log(1).await.remove(0);
                assert!(line["client"].as_str().unwrap().starts_with(client), "{line}");
                assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
                assert!(answer.starts_with(if trusted { "HTTP/1.1 200 " } else { "HTTP/1.1 403 " }));
            })
            .await;
    }
}

#[tokio::test]
async fn response_headers_are_changed_in_answers_made_here_too() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut setup = Setup::to(closed);
    setup.limits.body_bytes = Some(3);
    setup.service.routes = vec![
        hsts(below("/moved", redirect(|to| to.scheme = Some(Arc::from("https"))))),
        hsts(below("/fixed", Action::Respond { status: 200, body: Arc::from("x") })),
        hsts(below("/dead", forward())),
    ]
    .into();
    setup
        .run(|rig| async move {
            for (path, body, status) in [
                ("/moved", "", 308),
                ("/fixed", "", 200),
                ("/dead", "", 502),
                ("/dead", "long", 413),
            ] {
                let length = body.len();
                let request = format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                let h1 = ask(&rig, request).await;
                let builder = h2::client::Builder::new();
                let h2 = H2Client::over(rig.stream().await, &builder, "a").await.unwrap();
                let h2 = h2.post(path, body).await.unwrap();

                assert!(h1.starts_with(&format!("HTTP/1.1 {status} ")), "{h1}");
                assert!(h1.contains("strict-transport-security: max-age=1\r\n"), "{h1}");
                // Over HTTP/2 this body names no length beforehand.
                assert_eq!(h2.status, if status == 413 { 502 } else { status });
                assert_eq!(h2.header("strict-transport-security"), Some("max-age=1"), "{path}");
            }
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
    setup.service.routes = vec![route].into();
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
