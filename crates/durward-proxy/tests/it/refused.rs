//! Connections that are turned away: one line, one counter, little memory. And configuration that changes all the while.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_model::ClientAuth;
use durward_testkit::certificates::{Authority, client_config, client_config_insecure};
use durward_testkit::client::client_hello::{ClientHello, probe};
use durward_testkit::client::{RawHttp, tcp_connect, tls_connect};
use durward_testkit::netns;
use durward_testkit::origin::TcpEcho;
use durward_testkit::process::{free_port, unique_loopback};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::edge::{
    assert_served, await_lines, bound, http, https, identity_for, pass, serve, serve_with_log, tcp,
    tenant, tls, trust,
};

// S1.53
#[tokio::test]
async fn every_refused_connection_is_one_line_with_its_reason() {
    let (servers, partners) = (Authority::new("servers"), Authority::new("partners"));
    let port = free_port([0, 0, 0, 0]);
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let at = |ip| SocketAddr::from((ip, port));
    let (secure, closed, unknown) = (unique_loopback(), unique_loopback(), unique_loopback());
    let mut policy = https(&identity_for(&servers, secure));
    policy.client_auth = ClientAuth::Required(trust(&[&partners], &[]));
    let (proxy, lines) = serve_with_log(&[
        tenant("secure").listen_through(everywhere, at(secure), http("", Some(policy.clone()))),
        tenant("closed")
            .listen_through(everywhere, at(closed), http("", Some(policy)))
            .only_from("192.0.2.0/24"),
    ]);

    let _ = probe(at(unknown), None, &ClientHello::new()).await;
    let _ = tcp_connect(at(closed), None).await;
    let mut junk = tcp_connect(at(secure), None).await.unwrap();
    junk.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let _ = junk.read(&mut [0; 9]).await;
    let anonymous = client_config_insecure(None);
    if let Ok(stream) = tls_connect(at(secure), None, anonymous, Some("pay.example")).await {
        let _ = RawHttp::over(stream).get("a", "/").await;
    }

    let lines = await_lines(proxy, &lines, 4).await;
    let by_reason = |reason: &str| {
        lines.iter().find(|line| line["reason"] == reason).unwrap_or_else(|| panic!("{lines:#?}"))
    };
    assert!(lines.iter().all(|line| line["kind"] == "refused"));
    let stranger = by_reason("tenant_not_found");
    assert!(stranger.get("tenant").is_none());
    assert_eq!(stranger["destination"], at(unknown).to_string());
    assert_eq!(by_reason("source_not_allowed")["tenant"], "closed");
    assert_eq!(by_reason("client_hello")["tenant"], "secure");
    let failed = by_reason("tls_handshake");
    assert_eq!((&failed["tenant"], &failed["sni"]), (&"secure".into(), &"pay.example".into()));
    let detail = failed["detail"].as_str().unwrap();
    assert!(detail.contains("client_certificate_missing"), "{detail}");
}

// S1.53 S1.3
#[tokio::test]
async fn every_stream_is_one_line_with_bytes_upstream_and_source() {
    let authority = Authority::new("root");
    let (plain, secure, passed) = (unique_loopback(), unique_loopback(), unique_loopback());
    let at = |ip| SocketAddr::from((ip, 9000));
    let identity = identity_for(&authority, secure);
    let (echo, under_tls) =
        (TcpEcho::start("127.0.0.1:0"), TcpEcho::tls("127.0.0.1:0", &identity, None));
    let egress = unique_loopback();
    let (proxy, lines) = serve_with_log(&[tenant("a")
        .egress(egress)
        .upstream(echo.address())
        .upstream(under_tls.address())
        .listen(at(plain), tcp(None))
        .listen(at(secure), tcp(Some(tls(&identity))))
        .listen(at(passed), pass(&[("one.example", 1)]))]);

    let mut client = tcp_connect(at(plain), None).await.unwrap();
    client.write_all(b"0800").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    let config = client_config(&authority, None);
    let mut client = tls_connect(at(secure), None, config, None).await.unwrap();
    client.write_all(b"0800").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    client.shutdown().await.unwrap();
    let config = client_config_insecure(None);
    let mut client = tls_connect(at(passed), None, config, Some("one.example")).await.unwrap();
    client.write_all(b"0800").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    drop(client);

    let lines = await_lines(proxy, &lines, 3).await;
    let on = |ip: IpAddr| {
        let destination = SocketAddr::new(ip, 9000).to_string();
        lines.iter().find(|line| line["destination"] == *destination).unwrap()
    };
    for line in &lines {
        assert_eq!((&line["tenant"], line.get("reason")), (&"a".into(), None), "{line:#?}");
        assert!(line["egress"].as_str().unwrap().starts_with(&format!("{egress}:")));
    }
    let (plain, secure, passed) = (on(plain.into()), on(secure.into()), on(passed.into()));
    assert_eq!((&plain["kind"], &plain["upstream"]), (&"tcp".into(), &"u0".into()));
    assert_eq!((&plain["bytes_in"], &plain["bytes_out"]), (&4.into(), &4.into()));
    assert_eq!((&secure["bytes_in"], &secure["tls_version"]), (&4.into(), &"TLSv1.3".into()));
    assert_eq!((&passed["kind"], &passed["upstream"]), (&"passthrough".into(), &"u1".into()));
    assert_eq!(passed["sni"], "one.example");
    assert!(passed["bytes_in"].as_u64().unwrap() > 100);
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn half_finished_hellos_cost_little_memory() {
    let name = "refused::half_finished_hellos_cost_little_memory";
    netns::in_namespace_async(name, || async {
        let authority = Authority::new("root");
        let (ended, passed) =
            (SocketAddr::from(([127, 0, 0, 1], 8443)), SocketAddr::from(([127, 0, 0, 1], 9443)));
        let identity = identity_for(&authority, ended.ip());
        let proxy = serve(&[tenant("a")
            .upstream(ended)
            .listen(ended, http("A", Some(https(&identity))))
            .listen(passed, pass(&[("*", 0)]))]);
        let hello = ClientHello::new().padding(15_000).encode();
        let before = resident_kib();

        let mut held = Vec::new();
        for at in 0..600 {
            let mut stream =
                tcp_connect(if at % 2 == 0 { ended } else { passed }, None).await.unwrap();
            stream.write_all(&hello[..hello.len() - 1]).await.unwrap();
            held.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let each = resident_kib().saturating_sub(before) / 600;

        // 15 KiB were sent; twice that for doubling buffers, and the connection itself.
        assert!(each <= 48, "{each} KiB for each");
        held[0].write_all(&hello[hello.len() - 1..]).await.unwrap();
        assert_eq!(held[0].read_u8().await.unwrap(), 22, "the handshake goes on");
        drop(proxy);
    });
}

// S1.35 S1.18
#[tokio::test]
async fn a_thousand_changes_fail_no_request_of_an_untouched_tenant() {
    let authority = Arc::new(Authority::new("root"));
    let (steady, changing) = (unique_loopback(), unique_loopback());
    let at = |ip, port| SocketAddr::from((ip, port));
    let untouched = [
        tenant("steady").listen(at(steady, 8080), http("S", None)),
        tenant("secure")
            .listen(at(steady, 8443), http("S", Some(https(&identity_for(&authority, steady))))),
    ];
    let stage = |generation: u64| {
        let answer = format!("C{generation}");
        let changed = tenant("changing")
            .listen(at(changing, 8080), http(&answer, None))
            .listen(at(changing, 9000 + (generation % 7) as u16), http("", None));
        [untouched[0].clone(), untouched[1].clone(), changed]
    };
    let proxy = serve(&stage(1));
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|kind| {
            let (authority, done, served) = (authority.clone(), done.clone(), served.clone());
            tokio::spawn(async move {
                let connect = async || {
                    if kind % 2 == 0 {
                        return RawHttp::connect(at(steady, 8080)).await.unwrap();
                    }
                    let config = client_config(&authority, None);
                    RawHttp::connect_tls(at(steady, 8443), None, config, None).await.unwrap()
                };
                let mut kept = connect().await;
                while !done.load(Relaxed) {
                    assert_eq!(kept.get("a", "/").await.unwrap().text(), "S");
                    if kind > 1 {
                        assert_eq!(connect().await.get("a", "/").await.unwrap().text(), "S");
                    }
                    served.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();

    let began = Instant::now();
    for generation in 2..=1001 {
        assert_served(&proxy.apply(bound(generation, &stage(generation))));
        if generation % 100 == 0 {
            let mut client = RawHttp::connect(at(changing, 8080)).await.unwrap();
            let answer = client.get("a", "/").await.unwrap();
            assert_eq!(answer.text(), format!("C{generation}"));
        }
        tokio::task::yield_now().await;
    }
    let took = began.elapsed();
    done.store(true, Relaxed);

    for task in load {
        task.await.unwrap();
    }
    assert!(served.load(Relaxed) > 100, "{} in {took:?}", served.load(Relaxed));
}
