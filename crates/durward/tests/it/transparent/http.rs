//! HTTP: each request by its own Host, on a connection to wherever the client thinks.

use durward_testkit::client::RawHttp;
use durward_testkit::netns::in_namespace;

use super::{ACME, EVIL, GOOD, Lab, OTHER, RAW, at};

fn get(host: &str) -> String {
    format!("GET /a?b HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

// S2.57+
#[test]
fn each_request_of_a_connection_is_judged_by_its_host() {
    in_namespace("transparent::http::each_request_of_a_connection_is_judged_by_its_host", || {
        let lab = Lab::new();
        let _running = lab.start();

        lab.acme.block_on(|| async {
            for family in [0, 1] {
                let to = at(GOOD[family], 80);
                let seen = format!("bank.example seen {}", ACME[family]);
                let mut client = RawHttp::connect(to).await.unwrap();
                client.send(get("bank.example")).await.unwrap();
                assert_eq!(client.read_response().await.unwrap().text(), seen);
                client.send(get("evil.example")).await.unwrap();
                let denied = client.read_response().await.unwrap();
                assert_eq!(denied.status, 403);
                assert!(denied.text().contains("network@platform.example"), "{}", denied.text());
                client.send(get("bank.example")).await.unwrap();
                assert_eq!(client.read_response().await.unwrap().text(), seen, "it goes on");
                assert_eq!(lab.world.reached(at(EVIL[family], 80)), 0);
            }
        });

        let denied = lab.decision(|line| {
            line["verdict"] == "denied" && line["transparent"] == "198.51.100.80:80"
        });
        assert_eq!((&denied["method"], &denied["host"]), (&"GET".into(), &"evil.example".into()));
    });
}

// S2.57+
#[test]
fn a_host_that_is_a_lie_or_missing_or_a_proxys_gets_no_further_than_the_rules() {
    in_namespace(
        "transparent::http::a_host_that_is_a_lie_or_missing_or_a_proxys_gets_no_further_than_the_rules",
        || {
            let lab = Lab::new();
            let _running = lab.start_with(RAW);

            lab.acme.block_on(|| async {
                let lie = ask(EVIL[0], &get("bank.example")).await;
                assert_eq!(lie, (200, format!("bank.example seen {}", ACME[1])), "the bank's");
                let nameless = "GET / HTTP/1.0\r\n\r\n";
                assert_eq!(ask(OTHER[0], nameless).await.0, 200, "its address is allowed");
                assert_eq!(ask(GOOD[0], nameless).await.0, 403);
                let absolute = "GET http://evil.example/ HTTP/1.1\r\nHost: bank.example\r\n\r\n";
                assert_eq!(ask(GOOD[0], absolute).await.0, 400);
                let tunnel = "CONNECT bank.example:443 HTTP/1.1\r\nHost: bank.example\r\n\r\n";
                let refused = ask(GOOD[0], tunnel).await.0;
                assert!((400..=501).contains(&refused) && refused != 403, "{refused}");
                assert_eq!(ask(GOOD[0], &get("127.1")).await.0, 400);
                assert_eq!(ask(GOOD[0], &get("169.254.169.254")).await.0, 403);
                // No proxy is offered to whoever was not told of one.
                let mut socks = RawHttp::connect(at(GOOD[0], 80)).await.unwrap();
                socks.send([5, 1, 0]).await.unwrap();
                assert_ne!(socks.read_some().await.unwrap_or_default(), [5, 0]);
            });

            assert_eq!(lab.world.reached(at(EVIL[0], 80)), 0);
        },
    );
}

async fn ask(to: &str, request: &str) -> (u16, String) {
    let mut client = RawHttp::connect(at(to, 80)).await.unwrap();
    client.send(request).await.unwrap();
    let response = client.read_response().await.unwrap();
    (response.status, response.text())
}
