//! Names: looked up once by the tenant's own servers, every address checked, the checked one dialled; and what TLS inside must say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use durward_testkit::Transport;
use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::client::client_hello::ClientHello;
use durward_testkit::dns::DnsServer;
use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::process::unique_loopback;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{Out, document, get};
use crate::gateway::Gateway;

fn here(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// A proxy that may reach 127.0.0.1 at any port by any name, and asks `dns`.
fn asking(dns: &DnsServer, more: &str) -> Out {
    Out::open(&format!(
        "resolvers: [\"{}\"]\nallow: [{{host: \"*\", cidr: 127.0.0.1, ports: [1-65535]}}]\n{more}",
        dns.address()
    ))
}

// S2.55
#[tokio::test]
async fn a_name_is_looked_up_once_and_the_checked_address_is_dialled() {
    let origin = Origin::http1("127.0.0.1:0");
    let dns = DnsServer::start("127.0.0.1:0");
    let trap = Origin::http1((here(2), origin.port()));
    dns.set_each_time("rebind.example", &[&[here(1)], &[here(2)]]);
    dns.set("both.example", &[here(1), here(2)]);
    let out = asking(&dns, "");
    let ask = |name: &str| get(&format!("http://{name}:{}/", origin.port()));

    let first = out.connect().await.exchange(ask("rebind.example")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let second = out.connect().await.exchange(ask("rebind.example")).await.unwrap();
    let both = out.connect().await.exchange(ask("both.example")).await.unwrap();

    assert_eq!((first.status, second.status, both.status), (200, 403, 403));
    assert_eq!(trap.connections(), 0);
    assert_eq!(second.json()["rule"], "guard:loopback");
    let asked = dns.asked();
    assert!(
        asked.iter().all(|(_, from)| from.ip() == out.egress),
        "{asked:?} leaves from {}",
        out.egress
    );
    let lines = out.decisions(4);
    assert!(lines.iter().any(|line| line["resolved"] == serde_json::json!(["127.0.0.1"])));
}

// S2.55
#[tokio::test]
async fn an_address_of_each_family_is_reached_from_the_tenants_address_of_that_family() {
    let origins = [Origin::http1("127.0.0.1:0"), Origin::http1("[::1]:0")];
    let (door, egress) = (unique_loopback(), unique_loopback());
    let ports = origins.each_ref().map(|origin| origin.port());
    let allow = format!("allow: [{{cidrs: [127.0.0.1, \"::1\"], ports: {ports:?}}}]");
    let entry = format!("address: {door}, allowedSources: [127.0.0.0/8]");
    let written = document("acme", egress, &entry, &allow);
    let both = written.replace(&format!("[{egress}]"), &format!("[{egress}, \"::1\"]"));
    let mut gateway = Gateway::prepare().start(&both);
    let ask = async |at: usize| {
        let mut client = RawHttp::connect((door, 3128).into()).await.unwrap();
        client.exchange(get(&format!("http://{}/", origins[at].address()))).await.unwrap()
    };

    assert_eq!(ask(0).await.echo().peer.ip(), egress);
    assert_eq!(ask(1).await.echo().peer.ip(), Ipv6Addr::LOCALHOST);
    gateway.reload(&written);
    let refused = ask(1).await;

    assert_eq!((refused.status, refused.json()["reason"].as_str()), (503, Some("egress_address")));
    assert_eq!(ask(0).await.status, 200);
}

// S2.55
#[tokio::test]
async fn names_are_asked_by_tls_of_who_proves_to_be_the_server() {
    let origin = Origin::http1("127.0.0.1:0");
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let identity = ours.issue(&CertSpec::new().dns("dns.example").server());
    let dns = DnsServer::tls("127.0.0.1:0", &identity);
    dns.set("bank.example", &[here(1)]);
    for (authority, name, status) in
        [(&ours, "dns.example", 200), (&ours, "other.example", 502), (&others, "dns.example", 502)]
    {
        let prepared = Gateway::prepare();
        authority.write(prepared.dir(), "dns");
        let out = Out::with(
            prepared,
            "allowedSources: [127.0.0.0/8]",
            &format!(
                "resolvers: [\"tls://{}#{name}\"]\nresolverCaFile: dns.crt\nallow: [{{host: bank.example, cidr: 127.0.0.1, ports: [{}]}}]",
                dns.address(),
                origin.port()
            ),
        );

        let url = format!("http://bank.example:{}/", origin.port());
        let answer = out.connect().await.exchange(get(&url)).await.unwrap();

        assert_eq!(answer.status, status, "{name}");
        if status == 200 {
            assert!(dns.asked().iter().all(|(_, from)| from.ip() == out.egress));
        } else {
            assert_eq!(answer.json()["reason"], "unresolvable");
        }
    }
    assert_eq!(origin.requests(), 1);
}

// S2.54
#[tokio::test]
async fn names_are_matched_and_what_no_rule_names_is_not_even_looked_up() {
    let origin = Origin::http1("127.0.0.1:0");
    let dns = DnsServer::start("127.0.0.1:0");
    for name in [
        "bank.example",
        "a.pay.example",
        "pay.example",
        "evilbank.example",
        "secret-data.attacker.example",
    ] {
        dns.set(name, &[here(1)]);
    }
    let out = Out::open(&format!(
        "resolvers: [\"{}\"]\nallow: [{{hosts: [bank.example, \"*.pay.example\"], cidr: 127.0.0.1, ports: [{}]}}]\ndeny: [{{host: b.pay.example}}]",
        dns.address(),
        origin.port()
    ));

    for (name, status) in [
        ("bank.example", 200),
        ("BANK.Example.", 200),
        ("a.pay.example", 200),
        ("pay.example", 403),
        ("b.pay.example", 403),
        ("evilbank.example", 403),
        ("secret-data.attacker.example", 403),
        ("127.0.0.1", 403),
    ] {
        let answer = out
            .connect()
            .await
            .exchange(get(&format!("http://{name}:{}/", origin.port())))
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{name}");
    }
    assert!(
        !dns.asked().iter().any(|(name, _)| name.contains("attacker")),
        "no query carries data out"
    );
}

// S2.54
#[tokio::test]
async fn a_mode_lets_go_what_enforce_would_deny_but_never_what_is_guarded() {
    let origin = Origin::http1("127.0.0.1:0");
    for (mode, verdict, rule) in [("Report", "reported", "no-get"), ("Open", "allowed", "open")] {
        let port = origin.port();
        let out = Out::open(&format!(
            "mode: {mode}\nallow: [{{cidr: 127.0.0.1, ports: [{port}]}}]\n{}",
            if mode == "Open" {
                String::new()
            } else {
                format!("deny: [{{name: no-get, ports: [{port}], methods: [GET]}}]")
            }
        ));

        let let_go = out
            .connect()
            .await
            .exchange(get(&format!("http://{}/", origin.address())))
            .await
            .unwrap();
        let guarded = out.connect().await.exchange(get("http://127.0.0.2:1/")).await.unwrap();

        assert_eq!((let_go.status, guarded.status), (200, 403), "{mode}");
        let lines = out.decisions(3);
        assert!(lines.iter().any(|line| line["verdict"] == verdict && line["rule"] == rule));
        assert!(
            lines
                .iter()
                .any(|line| line["rule"] == "guard:loopback" && line["verdict"] == "denied")
        );
    }
}

// S2.54
#[tokio::test]
async fn a_tunnel_must_begin_with_the_name_that_was_asked_for() {
    let authority = Authority::new("root");
    let identity = authority.issue(&CertSpec::new().dns("bank.example").server());
    let origin = Origin::tls("127.0.0.1:0", &identity, None, &["http/1.1"]);
    let echo = TcpEcho::start("127.0.0.1:0");
    let dns = DnsServer::start("127.0.0.1:0");
    dns.set("bank.example", &[here(1)]);
    let out = asking(&dns, "sniMustMatch: true");

    let tunnel = out.tunnel(&format!("bank.example:{}", origin.port())).await.unwrap();
    let config = client_config(&authority, None);
    let Transport::Plain(stream) = tunnel.into_transport() else {
        panic!("the proxy speaks no TLS")
    };
    let name = ServerName::try_from("bank.example").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let answer = RawHttp::over(stream).get("bank.example", "/").await.unwrap();
    assert_eq!(
        (answer.status, answer.echo().tls_server_name.as_deref()),
        (200, Some("bank.example"))
    );

    let hello = ClientHello::new();
    for first in [
        hello.clone().server_name("evil.example").encode(),
        hello.encode(),
        b"SSH-2.0-x\r\n".to_vec(),
    ] {
        let mut tunnel = out.tunnel(&format!("bank.example:{}", echo.port())).await.unwrap();
        tunnel.send(&first).await.unwrap();
        let rest = tunnel.read_until_close().await;
        assert!(rest.is_err() || rest.is_ok_and(|rest| rest.is_empty()), "nothing came back");
    }
    let lines = out.decisions(8);
    assert!(
        lines.iter().any(|line| line["sni"] == "evil.example" && line["reason"] == "policy_denied"),
        "{lines:#?}"
    );
    assert!(
        lines.iter().any(|line| line["sni"] == "bank.example" && line["kind"] == "egress-close")
    );
}
