//! Which backends an agent connects to, and what passes.

use std::net::SocketAddr;

use durward_agent::config::Environment;
use durward_link::session::gateway::OpenError;
use durward_link::{Kind, RouteSet, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{PATIENCE, World, eventually};

fn target(address: &impl ToString) -> Target {
    address.to_string().parse().unwrap()
}

/// Backend that answers with what it was sent, once the sender has ended.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                let _ = stream.write_all(&all).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_stream_reaches_its_backend_and_each_direction_ends_by_itself() {
    let (world, backend) = (World::new(), echo().await);
    for scheme in ["tls", "wss"] {
        let gateway = world.gateway().await;
        let agent = world.agent(&format!(
            "gateways: ['{scheme}://{}']\nroutes: [{{host: a.example, target: '{backend}'}}]\nallow: ['{backend}']",
            gateway.address
        ));
        let carrier = gateway.carrier().await;

        let mut stream = carrier.open(&target(&backend), Kind::Tcp, None).await.unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at % 253) as u8).collect();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();

        assert!(received == sent, "over {scheme}");
        drop(stream);
        let report =
            eventually(|| Some(agent.status.report()).filter(|one| one.streams == 0)).await;
        assert_eq!((report.ready, report.streams_opened), (true, 1));
        agent.stopped.cancel();
        agent.task.await.unwrap();
        gateway.kill();
    }
}

// S3.81
#[tokio::test]
async fn a_hostile_gateway_reaches_nothing_that_the_agent_did_not_register_and_allow() {
    let (world, allowed, near) = (World::new(), echo().await, echo().await);
    let gateway = world.gateway().await;
    let port = near.port();
    let agent = world.agent(&format!(
        "gateways: ['tls://{}']\nallow: ['{allowed}']\nroutes:\n- {{host: a.example, target: '{allowed}'}}\n\
         - {{host: b.example, target: '{near}'}}\n- {{host: c.example, target: 'localhost:{port}'}}\n\
         - {{host: d.example, target: '169.254.169.254:80'}}\n- {{host: e.example, target: 'kubernetes.default.svc:443'}}\n\
         - {{host: f.example, target: '[::ffff:127.0.0.1]:{port}'}}",
        gateway.address
    ));
    let carrier = gateway.carrier().await;
    let other = format!("127.0.0.1:{}", gateway.address.port());
    let asked = [
        (near.to_string(), "loopback"),
        (format!("localhost:{port}"), "loopback"),
        ("169.254.169.254:80".to_owned(), "metadata"),
        ("kubernetes.default.svc:443".to_owned(), ""),
        (format!("[::ffff:127.0.0.1]:{port}"), ""),
        (other, "not registered"),
        ("10.0.0.1:22".to_owned(), "not registered"),
        ("a.example:80".to_owned(), "not registered"),
    ];

    for (asked, reason) in &asked {
        match carrier.open(&target(asked), Kind::Http, None).await {
            Err(OpenError::Refused(why)) => assert!(why.contains(reason), "{asked}: {why}"),
            other => panic!("{asked}: {other:?}"),
        }
    }

    assert!(carrier.open(&target(&allowed), Kind::Http, None).await.is_ok());
    let report = agent.status.report();
    assert_eq!((report.streams_forbidden, report.streams_opened), (asked.len() as u64, 1));
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_no_fault_of_the_gateway() {
    let world = World::new();
    let gateway = world.gateway().await;
    // A port that was free a moment ago.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let agent = world.agent(&format!(
        "gateways: ['tls://{}']\nroutes: [{{host: a.example, target: '{gone}'}}]\nallow: ['{gone}']",
        gateway.address
    ));
    let carrier = gateway.carrier().await;

    let opened = carrier.open(&target(&gone), Kind::Http, None).await;

    assert!(matches!(opened, Err(OpenError::Unreachable(_))), "{opened:?}");
    assert_eq!(agent.status.report().streams_unreachable, 1);
}

#[tokio::test]
async fn a_backend_that_resets_is_seen_as_a_reset() {
    let world = World::new();
    let gateway = world.gateway().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    world.agent(&format!(
        "gateways: ['tls://{}']\nroutes: [{{host: a.example, target: '{backend}'}}]\nallow: ['{backend}']",
        gateway.address
    ));
    let carrier = gateway.carrier().await;
    let mut stream = carrier.open(&target(&backend), Kind::Tcp, None).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    accepted.read_exact(&mut hello).await.unwrap();

    accepted.set_zero_linger().unwrap();
    drop(accepted);

    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn streams_for_which_an_agent_has_no_memory_are_declined_and_those_that_stall_end_first() {
    const STREAM: usize = 64 * 1024;
    let mut world = World::new();
    world.memory = 4 * STREAM;
    let gateway = world.gateway().await;
    // It accepts, and reads nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stalls, echo) = (listener.local_addr().unwrap(), echo().await);
    let agent = world.agent(&format!(
        "gateways: ['tls://{}']\nallow: ['127.0.0.0/8']\nroutes: [{{host: a.example, target: '{stalls}'}}, {{host: b.example, target: '{echo}'}}]",
        gateway.address
    ));
    let carrier = gateway.carrier().await;
    let mut quiet = carrier.open(&target(&echo), Kind::Tcp, None).await.unwrap();
    let mut stalled = carrier.open(&target(&stalls), Kind::Tcp, None).await.unwrap();
    let third = carrier.open(&target(&echo), Kind::Tcp, None).await.unwrap();

    let fourth = carrier.open(&target(&echo), Kind::Tcp, None).await;
    assert!(matches!(fourth, Err(OpenError::Full(_))), "{fourth:?}");
    assert!(agent.status.metrics().contains("outcome=\"no_memory\"} 1"));

    // More than the kernel takes for a backend that does not read.
    let body = vec![7; 64 << 20];
    let sent = tokio::time::timeout(PATIENCE, stalled.write_all(&body)).await.unwrap();
    assert_eq!(sent.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    quiet.write_all(b"hello").await.unwrap();
    quiet.shutdown().await.unwrap();
    let mut back = String::new();
    quiet.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
    drop((quiet, third, stalled));
    eventually(|| (agent.status.report().streams == 0).then_some(())).await;
    assert!(
        carrier.open(&target(&echo), Kind::Tcp, None).await.is_ok(),
        "what was held is given back"
    );
}

#[tokio::test]
async fn a_stream_that_the_gateway_gives_up_after_its_last_byte_ends_at_the_agent() {
    let world = World::new();
    let gateway = world.gateway().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let agent = world.agent(&format!(
        "gateways: ['tls://{}']\nroutes: [{{host: a.example, target: '{backend}'}}]\nallow: ['{backend}']",
        gateway.address
    ));
    let carrier = gateway.carrier().await;
    let mut stream = carrier.open(&target(&backend), Kind::Tcp, None).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    stream.write_all(b"all").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    accepted.read_to_end(&mut all).await.unwrap();
    assert_eq!((all.as_slice(), agent.status.report().streams), (&b"all"[..], 1));

    // The backend neither answers nor closes.
    drop(stream);

    eventually(|| (agent.status.report().streams == 0).then_some(())).await;
}

#[tokio::test]
async fn routes_may_change_while_the_agent_runs() {
    let (world, backend) = (World::new(), echo().await);
    let gateway = world.gateway().await;
    let agent =
        world.agent(&format!("gateways: ['tls://{}']\nallow: ['127.0.0.0/8']", gateway.address));
    let carrier = gateway.carrier().await;
    assert!(carrier.open(&target(&backend), Kind::Http, None).await.is_err());
    let file = format!(
        "link: a\ngateways: []\ncertificateFile: a\nkeyFile: a\nroutes: [{{host: A.example., target: '{backend}'}}]"
    );
    std::fs::write(world.dir().join("routes.yaml"), file).unwrap();
    let file = durward_agent::config::AgentFile::read(&world.dir().join("routes.yaml")).unwrap();
    let routes = file.routes(2).unwrap();

    agent.routes.send(std::sync::Arc::new(routes.clone())).unwrap();

    let is_last = |seen: &RouteSet| *seen == routes && seen.routes()[0].host == "a.example";
    eventually(|| {
        gateway.seen.routes.lock().unwrap().last().filter(|seen| is_last(seen)).map(drop)
    })
    .await;
    assert!(carrier.open(&target(&backend), Kind::Http, None).await.is_ok());
    eventually(|| agent.status.report().routes_held.filter(|held| *held == routes.id())).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_target_is_no_route_any_more() {
    let (world, backend, other) = (World::new(), echo().await, echo().await);
    let gateway = world.gateway().await;
    let agent = world.agent(&format!(
        "gateways: ['tls://{}']\nallow: ['127.0.0.0/8']\nroutes: [{{host: a.example, target: '{backend}'}}, {{host: b.example, target: '{other}'}}]",
        gateway.address
    ));
    let carrier = gateway.carrier().await;
    let mut gone = carrier.open(&target(&backend), Kind::Tcp, None).await.unwrap();
    let mut stays = carrier.open(&target(&other), Kind::Tcp, None).await.unwrap();
    let left = agent
        .routes
        .borrow()
        .routes()
        .iter()
        .filter(|route| route.host == "b.example")
        .cloned()
        .collect();

    agent.routes.send(std::sync::Arc::new(RouteSet::new(2, left))).unwrap();

    let error = tokio::time::timeout(PATIENCE, gone.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    stays.write_all(b"hello").await.unwrap();
    stays.shutdown().await.unwrap();
    let mut back = String::new();
    stays.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
}

#[test]
fn an_agent_that_does_not_know_its_api_server_does_not_start() {
    let world = World::new();
    let path = world.dir().join("agent.yaml");
    let text = "link: a\ngateways: ['tls://a.example']\ncaFile: ca.crt\ncertificateFile: agent.crt\nkeyFile: agent.key\nallow: ['127.0.0.0/8']\n";
    std::fs::write(&path, text).unwrap();
    let file = durward_agent::config::AgentFile::read(&path).unwrap();
    let in_pod = |host: &str| {
        let environment =
            Environment { api_server: Some(host.to_owned()), ..Environment::default() };
        file.settings(world.dir(), &environment)
    };

    let error = in_pod("api.cluster.invalid").unwrap_err().to_string();
    let settings = in_pod("localhost").unwrap();

    assert!(
        error.contains("KUBERNETES_SERVICE_HOST") && error.contains("api.cluster.invalid"),
        "{error}"
    );
    assert!(settings.policy.judge("127.0.0.1:6443".parse().unwrap()).is_err());
    assert!(settings.policy.judge("127.0.0.9:6443".parse().unwrap()).is_ok());
    assert!(settings.policy.judge_name(&"localhost:6443".parse().unwrap()).is_err());
}
