//! What passes through a link: requests, upgrades, bytes, ends and resets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use bytes::Bytes;
use durward_testkit::certificates::CertSpec;
use durward_testkit::client::H2Client;
use durward_testkit::origin::Origin;
use durward_testkit::process::eventually_blocking;
use http::{HeaderValue, Method};

use super::world::{World, agent};
use crate::support::{DEADLINE, HERE, get, nowhere, request};

/// Serves each connection by a function in a thread of its own.
fn backend(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind(HERE).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

// S3.2+ S3.21+
#[test]
fn an_app_behind_an_agent_is_served_at_its_tenants_address_over_every_carrier() {
    for scheme in ["tls", "wss"] {
        let world = World::new();
        let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
        let document = tenant.document(origin.address(), nowhere());
        let (gateway, servers) = world.start(&document);
        let backends = [origin.address()];
        let of = agent(&tenant, "agent.acme.example", &backends);
        let agent = super::world::AgentOf { scheme, ..of }.start(&servers);
        agent.wait_ready();

        for number in 0..50 {
            assert_eq!(get(tenant.http(), &format!("/{number}")).unwrap().0, 200, "over {scheme}");
        }

        assert_eq!(origin.requests(), 50);
        let seen = origin.seen();
        assert_eq!(seen[0].header("host"), Some(tenant.http().to_string().as_str()));
        let line = || gateway.log().into_iter().find(|line| line.contains("\"kind\":\"http\""));
        assert!(eventually_blocking(DEADLINE, || line().is_some()));
        let line = line().unwrap();
        assert!(line.contains("\"link\":\"onprem\"") && !line.contains("\"egress\""), "{line}");
        let carriers = "durward_link_carriers{tenant=\"acme\",link=\"onprem\"} 2";
        let has_both = || gateway.metrics_text().contains(carriers);
        assert!(eventually_blocking(DEADLINE, has_both), "{}", gateway.metrics_text());
        let metrics = gateway.metrics_text();
        assert!(metrics.contains("durward_link_routes{tenant=\"acme\",link=\"onprem\"} 1"));
        // Requests of one client after another share streams.
        assert!(agent.status.report().streams_opened < 50);
        agent.stop();
        gateway.stop();
    }
}

// S3.53+
#[test]
fn a_link_without_an_agent_is_answered_with_503_and_counted() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let (gateway, _) = world.start(&tenant.document(nowhere(), nowhere()));

    let (status, body) = get(tenant.http(), "/").unwrap();

    assert_eq!(status, 503);
    assert!(body.contains("link_absent"), "{body}");
    let counted = "durward_refusals_total{tenant=\"acme\",reason=\"link_absent\"} 1";
    assert!(gateway.metrics_text().contains(counted), "{}", gateway.metrics_text());
    gateway.stop();
}

#[test]
fn a_backend_that_the_agent_does_not_reach_or_allow_is_502_with_the_reason() {
    let world = World::new();
    let (tenant, other) = (world.tenant("acme"), Origin::http1(HERE));
    // The upstream's backend is not among the agent's.
    let (gateway, servers) = world.start(&tenant.document(other.address(), nowhere()));
    let agent = agent(&tenant, "agent.acme.example", &[]).start(&servers);
    agent.wait_ready();

    let (status, body) = get(tenant.http(), "/").unwrap();

    assert_eq!(status, 502);
    assert!(body.contains("link_failed"), "{body}");
    let logged = || gateway.log().iter().any(|line| line.contains("is not registered"));
    assert!(eventually_blocking(DEADLINE, logged), "{:?}", gateway.log());
    assert_eq!(other.requests(), 0);
    gateway.stop();
}

// S3.75+
#[test]
fn bytes_arrive_unchanged_in_both_directions_and_each_ends_by_itself() {
    let world = World::new();
    let tenant = world.tenant("acme");
    // Reads all, then sends all back.
    let echo = backend(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let (gateway, servers) = world.start(&tenant.document(nowhere(), echo));
    let backends = [echo];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();

    let clients: Vec<_> = (0..20u32)
        .map(|number| {
            let address = tenant.tcp();
            std::thread::spawn(move || {
                let sent: Vec<u8> =
                    (0..1_000_000u32).map(|at| (at.wrapping_mul(number + 7) >> 3) as u8).collect();
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(DEADLINE * 4)).unwrap();
                stream.write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                assert!(received == sent, "client {number}: {} bytes", received.len());
            })
        })
        .collect();

    clients.into_iter().for_each(|client| client.join().unwrap());
    gateway.stop();
}

// S3.75+
#[test]
#[ignore = "moves 2 GiB"]
fn a_gibibyte_goes_each_way_unchanged() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let echo = backend(|mut stream| {
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap();
        back.shutdown(Shutdown::Write).unwrap();
    });
    let (gateway, servers) = world.start(&tenant.document(nowhere(), echo));
    let backends = [echo];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();
    let mut stream = TcpStream::connect(tenant.tcp()).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let block: Vec<u8> =
        (0..1u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let sent = block.clone();

    let writing = std::thread::spawn(move || {
        (0..1_024).for_each(|_| writer.write_all(&sent).unwrap());
        writer.shutdown(Shutdown::Write).unwrap();
    });

    let mut received = vec![0; block.len()];
    for number in 0..1_024 {
        stream.read_exact(&mut received).unwrap();
        assert!(received == block, "MiB {number}");
    }
    assert_eq!(stream.read(&mut received).unwrap(), 0);
    writing.join().unwrap();
    gateway.stop();
}

// S3.78+
#[test]
fn upgrades_chunks_and_expectations_pass() {
    let world = World::new();
    let tenant = world.tenant("acme");
    // Switches protocols, then echoes one line.
    let upgrading = backend(|mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        if head.contains("upgrade: websocket") {
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            let mut line = [0; 5];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(&line).unwrap();
        } else {
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let (gateway, servers) = world.start(&tenant.document(upgrading, nowhere()));
    let backends = [upgrading];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();

    assert_eq!(get(tenant.http(), "/").unwrap(), (200, "onetwo".to_owned()));
    let mut socket = TcpStream::connect(tenant.http()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let ask = "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(ask.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    socket.write_all(b"hello").unwrap();
    let mut echo = [0; 5];
    socket.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
    gateway.stop();
}

// S3.78+
#[test]
fn a_client_that_leaves_cancels_its_request_at_the_backend() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
    let (gateway, servers) = world.start(&tenant.document(origin.address(), nowhere()));
    let backends = [origin.address()];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();
    origin.stall();
    let mut client = TcpStream::connect(tenant.http()).unwrap();
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    assert!(eventually_blocking(DEADLINE, || origin.requests() == 1));

    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);

    let gone = || agent.status.report().streams == 0;
    assert!(eventually_blocking(DEADLINE, gone), "{:?}", agent.status.report());
    origin.heal();
    assert_eq!(
        request(tenant.http(), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap().0,
        200
    );
    gateway.stop();
}

// S3.51+
#[test]
fn a_backends_certificate_is_verified_through_the_link() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let backend = world.servers.issue(&CertSpec::new().ip([127, 0, 0, 1]).server());
    let origin = Origin::tls(HERE, &backend, None, &["http/1.1"]);
    world.write_servers();
    let document = tenant.document(origin.address(), nowhere());
    let trusting = |file: &str| {
        document.replace(
            "app: {link: onprem,",
            &format!("app: {{link: onprem, tls: {{caFile: {file}}},"),
        )
    };
    let (mut gateway, servers) = world.start(&trusting("servers.crt"));
    let backends = [origin.address()];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();

    assert_eq!(get(tenant.http(), "/").unwrap().0, 200);
    gateway.reload(&trusting("acme-agents.crt"));
    let (status, body) = get(tenant.http(), "/").unwrap();
    assert_eq!((status, body.contains("upstream_tls")), (502, true), "{body}");
    gateway.stop();
}

// S3.78+
#[tokio::test]
async fn http2_clients_and_backends_grpc_and_trailers_pass() {
    for http2_backend in [false, true] {
        let world = World::new();
        let tenant = world.tenant("acme");
        let origin = if http2_backend { Origin::h2c(HERE) } else { Origin::http1(HERE) };
        let document = tenant.document(origin.address(), nowhere());
        let spoken = if http2_backend { "HTTP2" } else { "HTTP1" };
        let document = document
            .replace("app: {link: onprem,", &format!("app: {{link: onprem, protocol: {spoken},"));
        let (gateway, servers) = world.start(&document);
        let backends = [origin.address()];
        let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
        agent.wait_ready();
        let client = H2Client::h2c(tenant.http(), None).await.unwrap().deadline(DEADLINE);

        let bytes = client.get("/bytes/1000000").await.unwrap();
        assert_eq!((bytes.status, bytes.body.len()), (200, 1_000_000), "{spoken}");
        let echoed = client.post("/echo-body", vec![7; 300_000]).await.unwrap();
        assert!(echoed.body == vec![7; 300_000], "{spoken}");
        let mut call = client.request(Method::POST, "/package.Service/Call");
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        call.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let call = client.send(call, Bytes::from_static(b"\0\0\0\0\x01a"), None).await.unwrap();
        // HTTP/1.1 backends of gRPC there are none.
        assert_eq!(call.trailer("grpc-status"), http2_backend.then_some("0"), "{spoken}");
        let mut many = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let client = client.clone();
            many.spawn(async move { client.get("/slow/50").await.unwrap().status });
        }
        assert_eq!(many.join_all().await, [200; 40], "{spoken}");
        gateway.stop();
    }
}

/// Head of a request that comes next on a connection; `None` once it has ended.
fn next_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).to_lowercase())
}

#[test]
fn authentication_of_a_connection_completes_through_a_link() {
    let world = World::new();
    let tenant = world.tenant("acme");
    // The second step must come over the connection of the first.
    let asking = backend(|mut stream| {
        let mut begun = false;
        while let Some(head) = next_head(&mut stream) {
            let (status, challenge) = match () {
                () if head.contains("authorization: ntlm one") => {
                    begun = true;
                    ("401 Unauthorized", "WWW-Authenticate: NTLM two\r\n")
                }
                () if head.contains("authorization: ntlm three") && begun => ("200 OK", ""),
                () => ("401 Unauthorized", "WWW-Authenticate: NTLM\r\n"),
            };
            let answer = format!("HTTP/1.1 {status}\r\n{challenge}Content-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let (gateway, servers) = world.start(&tenant.document(asking, nowhere()));
    let backends = [asking];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();
    let mut client = TcpStream::connect(tenant.http()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();

    let statuses =
        ["", "Authorization: NTLM one\r\n", "Authorization: NTLM three\r\n"].map(|more| {
            client
                .write_all(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{more}\r\n").as_bytes())
                .unwrap();
            next_head(&mut client).unwrap().split(' ').nth(1).unwrap().to_owned()
        });

    assert_eq!(statuses, ["401", "401", "200"]);
    gateway.stop();
}

#[test]
fn an_edit_of_endpoints_keeps_the_streams_of_those_that_stay() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
    let document = tenant.document(origin.address(), nowhere());
    let (mut gateway, servers) = world.start(&document);
    let backends = [origin.address()];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();
    let ask = || (0..8).for_each(|_| assert_eq!(get(tenant.http(), "/").unwrap().0, 200));
    // Both cores have a stream of their own in the end.
    (0..8).for_each(|_| ask());
    let opened = agent.status.report().streams_opened;

    let (one, two) = (origin.address(), nowhere());
    let with = document.replace(
        &format!("app: {{link: onprem, endpoints: ['{one}']"),
        &format!("app: {{link: onprem, endpoints: ['{one}', {{address: '{two}', weight: 0}}]"),
    );
    assert_ne!(with, document);
    gateway.reload(&with);
    (0..8).for_each(|_| ask());

    assert_eq!(agent.status.report().streams_opened, opened);
    gateway.stop();
}

#[test]
fn a_target_that_one_agent_refuses_is_asked_of_another() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
    let document = tenant.document(origin.address(), nowhere());
    let (gateway, servers) = world.start(&document);
    let backends = [origin.address()];
    let without = agent(&tenant, "agent.acme.example", &[]).start(&servers);
    without.wait_ready();
    let with = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    with.wait_ready();
    let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    // At once, so that each needs a stream of its own.
    origin.stall();
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let address = tenant.http();
            std::thread::spawn(move || request(address, close).unwrap().0)
        })
        .collect();
    assert!(eventually_blocking(DEADLINE, || origin.requests() == 20));
    origin.heal();

    let statuses: Vec<_> = asking.into_iter().map(|one| one.join().unwrap()).collect();
    assert_eq!(statuses, [200; 20]);
    assert!(without.status.report().streams_forbidden > 0, "it was asked, too");
    gateway.stop();
}
