//! Endpoints that fail are found, rest, and come back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_model::Upstream;
use durward_model::health::{HealthCheck, OutlierDetection, Probe};
use durward_model::limits::Limits;
use durward_model::upstream::{ProxyVersion, UpstreamProtocol};
use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::origin::{Origin, RawOrigin};

use tokio::io::AsyncReadExt;

use super::super::report::EndpointHealth;
use super::super::{UpstreamRuntime, spawn_health_checks};
use super::support::{
    bind, listener, on_a_core, prepared, take, take_io, until, upstream, view, whoami,
};
use super::tls::{over_tls, trusting};
use crate::metrics::Counter;
use crate::prepared::TenantView;
use crate::refusal::Refusal;

fn checked(config: Upstream, probe: Probe) -> Upstream {
    let check = HealthCheck {
        probe,
        interval: Duration::from_millis(30),
        timeout: Duration::from_millis(500),
        unhealthy_after: 2,
        healthy_after: 2,
    };
    Upstream { health_check: Some(check), ..config }
}

fn get(path: &str) -> Probe {
    Probe::Http { path: path.into(), host: None, from: 200, to: 299 }
}

fn state(runtime: &UpstreamRuntime, at: usize) -> EndpointHealth {
    runtime.report().endpoints[at].state
}

// S1.42
#[tokio::test]
async fn a_failing_check_ejects_and_a_passing_one_restores() {
    on_a_core(|core| async move {
        let (one, two) = (Origin::http1("127.0.0.1:0"), Origin::http1("127.0.0.1:0"));
        let config = upstream(&[one.address(), two.address()], "127.0.0.2");
        let listener = listener("a", checked(config, get("/healthz")), Limits::default());
        let runtime = Arc::clone(&listener.tenant.upstreams[0]);
        let view = TenantView::admitted(Arc::clone(&listener));
        spawn_health_checks(&core.upstreams, prepared(&listener).checked_tenants());

        one.fail_path("/healthz", 503);
        until(|| state(&runtime, 0) == EndpointHealth::Unhealthy).await;
        for _ in 0..20 {
            assert_eq!(take(&core, &view).await.unwrap().1.peer.0, two.address());
        }
        two.fail_path("/healthz", 500);
        until(|| state(&runtime, 1) == EndpointHealth::Unhealthy).await;
        assert_eq!(take(&core, &view).await.err().unwrap().word(), "no_endpoint");
        one.heal();
        until(|| state(&runtime, 0) == EndpointHealth::Healthy).await;

        assert_eq!(take(&core, &view).await.unwrap().1.peer.0, one.address());
        assert_eq!(view.tenant().metrics.total(Counter::Ejections), 2);
        assert_eq!(view.tenant().metrics.total(Counter::UpstreamConnectionsNew), 21);
        assert!(view.tenant().metrics.total(Counter::IsolationChecks) > 21);
        let source = IpAddr::from([127, 0, 0, 2]);
        assert!(one.peers().iter().chain(&two.peers()).all(|peer| peer.ip() == source));
    })
    .await;
}

// S1.42
#[tokio::test]
async fn a_port_a_handshake_and_an_http2_answer_can_be_asked_for() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let good = authority.issue(&CertSpec::new().ip([127, 0, 0, 1]));
        let bad = Authority::new("stranger").issue(&CertSpec::new().ip([127, 0, 0, 1]));
        let (good, bad) = (
            Origin::tls("127.0.0.1:0", &good, None, &["h2"]),
            Origin::tls("127.0.0.1:0", &bad, None, &["h2"]),
        );
        let (closed, refused) = bind().await;
        drop(closed);
        let h2 = |mut config: Upstream| {
            config.protocol = UpstreamProtocol::Http2;
            config
        };
        let both = |tls: &Origin, other: &Origin| {
            let mut config = over_tls(tls, trusting(&authority));
            config.endpoints.extend(over_tls(other, trusting(&authority)).endpoints);
            h2(config)
        };
        for (config, probe) in [
            (upstream(&[good.address(), refused], "127.0.0.2"), Probe::Tcp),
            (both(&good, &bad), Probe::Tls),
            (both(&good, &bad), get("/")),
        ] {
            let listener = listener("a", checked(config, probe), Limits::default());
            let runtime = &listener.tenant.upstreams[0];
            spawn_health_checks(&core.upstreams, prepared(&listener).checked_tenants());

            until(|| state(runtime, 1) == EndpointHealth::Unhealthy).await;

            assert_eq!(state(runtime, 0), EndpointHealth::Healthy);
        }
        assert!(good.requests() > 0);
    })
    .await;
}

// S4.24+
#[tokio::test]
async fn api_servers_whose_tls_is_carried_through_are_asked_over_tls_of_the_checks_own() {
    on_a_core(|core| async move {
        let authority = Authority::new("cluster");
        let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 1]));
        let other = Authority::new("stranger").issue(&CertSpec::new().ip([127, 0, 0, 1]));
        let start = |identity| Origin::tls("127.0.0.1:0", identity, None, &["http/1.1"]);
        let (ready, starting, foreign) = (start(&identity), start(&identity), start(&other));
        let plain = Origin::http1("127.0.0.1:0");
        starting.fail_path("/readyz", 500);
        let all = [&ready, &starting, &foreign, &plain].map(|origin| origin.address());
        let readyz = Probe::Http { path: "/readyz".into(), host: None, from: 200, to: 403 };

        for (check_tls, probe, healthy) in [
            (Some(trusting(&authority)), readyz, [true, false, false, false]),
            (None, Probe::ServerHello, [true, true, true, false]),
        ] {
            let mut config = checked(upstream(&all, "127.0.0.2"), probe);
            (config.protocol, config.check_tls) = (UpstreamProtocol::Tcp, check_tls);
            let listener = listener("a", config, Limits::default());
            let runtime = &listener.tenant.upstreams[0];
            spawn_health_checks(&core.upstreams, prepared(&listener).checked_tenants());

            let settled = || {
                let state = |at| state(runtime, at) == EndpointHealth::Healthy;
                [0, 1, 2, 3].map(state) == healthy
            };
            until(settled).await;

            starting.fail_path("/readyz", 401);
            until(|| state(runtime, 1) == EndpointHealth::Healthy).await;
            assert_eq!(state(runtime, 0), EndpointHealth::Healthy);
        }
        assert!(foreign.seen().is_empty(), "a server that was not verified was asked");
    })
    .await;
}

// S1.42
#[tokio::test]
async fn checks_end_with_their_configuration_and_survive_a_new_listener() {
    on_a_core(|core| async move {
        let origin = Origin::http1("127.0.0.1:0");
        let config = checked(upstream(&[origin.address()], "127.0.0.2"), get("/"));
        let first = listener("a", config, Limits::default());
        let runtime = Arc::downgrade(&first.tenant.upstreams[0]);
        spawn_health_checks(&core.upstreams, prepared(&first).checked_tenants());
        spawn_health_checks(&core.upstreams, prepared(&first).checked_tenants());
        until(|| origin.requests() > 2).await;

        let second = Arc::new(crate::prepared::PreparedListener {
            listener: Arc::clone(&first.listener),
            tenant: Arc::clone(&first.tenant),
            resolver: None,
            server_configs: Vec::new(),
            relays: Vec::new(),
            retirement: Arc::default(),
            former: Vec::new(),
        });
        spawn_health_checks(&core.upstreams, prepared(&second).checked_tenants());
        drop(first);
        let before = origin.requests();
        until(|| origin.requests() > before + 2).await;
        drop(second);
        until(|| runtime.strong_count() == 0).await;
        let after = origin.requests();
        tokio::time::sleep(Duration::from_millis(100)).await;

        assert_eq!(origin.requests(), after);
    })
    .await;
}

// S1.25 S1.42
#[tokio::test]
async fn a_check_says_that_it_has_no_client() {
    on_a_core(|core| async move {
        for (version, wanted) in [
            (ProxyVersion::V1, &b"PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\n"[..]),
            (ProxyVersion::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET /healthz HTTP/1.1\r\n"),
        ] {
            let (origin, address) = bind().await;
            let mut config = checked(upstream(&[address], "127.0.0.2"), get("/healthz"));
            config.send_proxy = Some(version);
            let listener = listener("a", config, Limits::default());
            spawn_health_checks(&core.upstreams, prepared(&listener).checked_tenants());

            let (mut accepted, from) = origin.accept().await.unwrap();
            let mut seen = vec![0; wanted.len()];
            accepted.read_exact(&mut seen).await.unwrap();

            assert_eq!(seen, wanted);
            assert_eq!(from.ip(), IpAddr::from([127, 0, 0, 2]));
        }
    })
    .await;
}

fn outlier(config: Upstream, base: u64) -> Upstream {
    let outlier = OutlierDetection {
        consecutive_failures: 3,
        base_ejection: Duration::from_millis(base),
        max_ejected_percent: 50,
    };
    Upstream { outlier: Some(outlier), ..config }
}

// S1.42 S1.44
#[tokio::test]
async fn failures_in_a_row_eject_for_a_while_and_longer_the_next_time() {
    on_a_core(|core| async move {
        let (down, refused) = bind().await;
        drop(down);
        let origin = whoami().await;
        let view = view("a", outlier(upstream(&[refused, origin], "127.0.0.2"), 2_000));
        let runtime = &view.tenant().upstreams[0];
        let mut failed = 0;

        for _ in 0..100 {
            failed += u32::from(take(&core, &view).await.is_err());
        }

        assert_eq!(failed, 3);
        assert_eq!(state(runtime, 0), EndpointHealth::Ejected);
        assert_eq!(view.tenant().metrics.total(Counter::Ejections), 1);
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        runtime.restore();
        assert_eq!(state(runtime, 0), EndpointHealth::Healthy);
        for _ in 0..100 {
            failed += u32::from(take(&core, &view).await.is_err());
        }
        assert_eq!(failed, 6);
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        runtime.restore();
        assert_eq!(state(runtime, 0), EndpointHealth::Ejected);
    })
    .await;
}

// S1.42
#[tokio::test]
async fn bad_answers_count_and_a_good_one_starts_again() {
    on_a_core(|core| async move {
        let (one, two) = (whoami().await, whoami().await);
        let mut config = outlier(upstream(&[one, two], "127.0.0.2"), 60_000);
        config.endpoints[1].weight = 0;
        let view = view("a", config);
        let runtime = &view.tenant().upstreams[0];
        let (_io, lease) = take_io(&core, &view).await;

        lease.answered(503);
        lease.answered(504);
        lease.served(200);
        lease.answered(502);
        lease.failed(&Refusal::ResponseTimeout);

        assert_eq!(runtime.report().endpoints[0].failures, 2);
        lease.answered(503);
        assert_eq!(state(runtime, 0), EndpointHealth::Failing, "the last one is never ejected");
        assert_eq!(state(runtime, 1), EndpointHealth::Drained);
    })
    .await;
}

// S1.42
#[tokio::test]
async fn no_more_than_the_share_is_ejected() {
    on_a_core(|core| async move {
        let origins = [whoami().await, whoami().await, whoami().await, whoami().await];
        let view = view("a", outlier(upstream(&origins, "127.0.0.2"), 60_000));
        let runtime = &view.tenant().upstreams[0];
        let cells = view.tenant().metrics.core(core.id);

        for at in 0..4 {
            for _ in 0..5 {
                runtime.failure(at, cells);
            }
        }

        let states: Vec<_> = (0..4).map(|at| state(runtime, at)).collect();
        let (ejected, failing) = (EndpointHealth::Ejected, EndpointHealth::Failing);
        assert_eq!(states, [ejected, ejected, failing, failing]);
    })
    .await;
}

// S1.42
#[tokio::test]
async fn health_survives_a_change_of_the_upstream() {
    let origins: Vec<_> = [80, 81].map(|port| ([127, 0, 0, 1], port).into()).to_vec();
    let config = outlier(upstream(&origins, "127.0.0.2"), 60_000);
    let view = view("a", config.clone());
    let before = &view.tenant().upstreams[0];
    let cells = view.tenant().metrics.core(0);
    (0..3).for_each(|_| before.failure(0, cells));
    let mut changed = config;
    changed.pool_idle = 1;
    changed.endpoints.reverse();
    let tenant = view.tenant().tenant.id.clone();

    let after =
        UpstreamRuntime::prepare(&Arc::new(changed.clone()), &tenant, Some(before)).unwrap();
    assert_eq!(state(&after, 1), EndpointHealth::Ejected);
    changed.outlier = None;
    let without = UpstreamRuntime::prepare(&Arc::new(changed), &tenant, Some(&after)).unwrap();

    assert_eq!(state(&without, 1), EndpointHealth::Failing, "in rotation again, as it fails");
}

// S1.42+
#[tokio::test]
async fn a_check_reads_heads_as_strictly_as_requests_do_and_skips_interim_ones() {
    on_a_core(|core| async move {
        let well = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let odd = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        let origins = [well, odd].map(|answer| RawOrigin::replying("127.0.0.1:0", answer));
        let addresses = origins.each_ref().map(|origin| origin.address());
        let config = checked(upstream(&addresses, "127.0.0.2"), get("/healthz"));
        let listener = listener("a", config, Limits::default());
        let runtime = &listener.tenant.upstreams[0];

        spawn_health_checks(&core.upstreams, prepared(&listener).checked_tenants());
        until(|| state(runtime, 1) == EndpointHealth::Unhealthy).await;
        let asked = origins[0].connections();
        until(|| origins[0].connections() > asked + 3).await;

        assert_eq!(state(runtime, 0), EndpointHealth::Healthy);
    })
    .await;
}

#[tokio::test]
async fn a_check_ends_without_a_reset() {
    for probe in [get("/healthz"), Probe::Tcp] {
        on_a_core(|core| async move {
            let (origin, address) = bind().await;
            let listener =
                listener("a", checked(upstream(&[address], "127.0.0.2"), probe), Limits::default());
            spawn_health_checks(&core.upstreams, prepared(&listener).checked_tenants());

            for _ in 0..5 {
                let (mut stream, _) = origin.accept().await.unwrap();
                // A server may speak first, and send more than a check looks at.
                let answer =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(9_000));
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
                let mut rest = Vec::new();
                let ended = stream.read_to_end(&mut rest).await;

                assert!(ended.is_ok(), "{ended:?}");
            }
        })
        .await;
    }
}
