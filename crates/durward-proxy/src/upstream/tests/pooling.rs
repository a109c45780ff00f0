//! Pooling, and that it never crosses tenants.

use std::net::IpAddr;
use std::time::Duration;

use durward_model::upstream::UpstreamProtocol;
use durward_model::{EgressAddress, UpstreamAddr};

use super::super::path::PoolKey;
use super::super::pool::TICK;
use super::super::tls_client::TlsIdentity;
use super::super::{Carrier, Tried, UpstreamRuntime, acquire};
use super::support::{
    FIRST, ask, bind, client, listener, on_a_core, take, take_io, upstream, view, whoami,
};
use crate::metrics::Counter;
use crate::prepared::TenantView;
use crate::refusal::Refusal;

// S1.3 S1.41
#[tokio::test]
async fn two_tenants_with_one_upstream_leave_with_their_own_address_10_000_times() {
    on_a_core(|core| async move {
        let origin = whoami().await;
        let a = view("a", upstream(&[origin], "127.0.0.2"));
        let b = view("b", upstream(&[origin], "127.0.0.3"));
        let sides = [(a, IpAddr::from([127, 0, 0, 2])), (b, IpAddr::from([127, 0, 0, 3]))];
        let mut wrong = 0;

        for turn in 0..5_000 {
            let (tenant, other) = (&sides[turn % 2], &sides[(turn / 3) % 2]);
            let (mut first, one) = take_io(&core, &tenant.0).await;
            let (mut second, two) = take_io(&core, &other.0).await;
            wrong += u32::from(ask(&mut first).await != tenant.1);
            wrong += u32::from(ask(&mut second).await != other.1);
            wrong += u32::from(one.source.ip() != tenant.1 || two.source.ip() != other.1);
            one.release(first);
            two.release(second);
        }

        assert_eq!(wrong, 0);
        for (view, _) in &sides {
            let total = |counter| view.tenant().metrics.total(counter);
            assert!(total(Counter::UpstreamConnectionsNew) <= 2);
            assert!(total(Counter::UpstreamConnectionsReused) > 4_000);
            assert_eq!(total(Counter::IsolationViolations), 0);
            assert_eq!(total(Counter::IsolationChecks), total(Counter::UpstreamConnectionsNew));
        }
    })
    .await;
}

// S1.41
#[tokio::test]
async fn a_pool_key_differs_by_every_single_component() {
    let mut config = upstream(&["127.0.0.1:80".parse().unwrap()], "127.0.0.2");
    config.sources.push(EgressAddress([127, 0, 0, 3].into()));
    let (a, b) = (view("a", config.clone()), view("b", config));
    let peer = |port| UpstreamAddr(([127, 0, 0, 1], port).into());
    let source = |last| EgressAddress([127, 0, 0, last].into());
    let tls = TlsIdentity {
        client_certificate: Some("aa".into()),
        roots: "system".into(),
        verify_name: "bank.example".into(),
        tls13_only: false,
    };
    let identity = |change: &dyn Fn(&mut TlsIdentity)| {
        let mut changed = tls.clone();
        change(&mut changed);
        Some(changed)
    };
    let (h1, h2) = (UpstreamProtocol::Http1, UpstreamProtocol::Http2);
    let key = |view: &TenantView, peer, source, identity, protocol| {
        PoolKey::new(&view.tenant().tenant, peer, source, identity, protocol).unwrap()
    };
    let same = || identity(&|_| {});

    let keys = [
        key(&a, peer(80), source(2), same(), h1),
        key(&b, peer(80), source(2), same(), h1),
        key(&a, peer(81), source(2), same(), h1),
        key(&a, peer(80), source(3), same(), h1),
        key(&a, peer(80), source(2), None, h1),
        key(&a, peer(80), source(2), identity(&|t| t.client_certificate = None), h1),
        key(&a, peer(80), source(2), identity(&|t| t.client_certificate = Some("bb".into())), h1),
        key(&a, peer(80), source(2), identity(&|t| t.roots = "cc".into()), h1),
        key(&a, peer(80), source(2), identity(&|t| t.verify_name = "other.example".into()), h1),
        key(&a, peer(80), source(2), identity(&|t| t.tls13_only = true), h1),
        key(&a, peer(80), source(2), same(), h2),
        key(&a, peer(80), source(2), same(), UpstreamProtocol::Tcp),
    ];

    assert_eq!(keys[0], key(&a, peer(80), source(2), same(), h1));
    for (at, one) in keys.iter().enumerate() {
        for other in &keys[at + 1..] {
            assert_ne!(one, other);
        }
    }
}

// S1.41
#[tokio::test]
async fn a_key_for_a_foreign_source_cannot_be_made() {
    let view = view("a", upstream(&["127.0.0.1:80".parse().unwrap()], "127.0.0.2"));
    let peer = UpstreamAddr(([127, 0, 0, 1], 80).into());
    let foreign = EgressAddress([127, 0, 0, 3].into());

    let refusal = PoolKey::new(&view.tenant().tenant, peer, foreign, None, UpstreamProtocol::Http1)
        .unwrap_err();

    assert!(matches!(refusal, Refusal::EgressAddress { .. }), "{refusal}");
}

// S1.40
#[tokio::test]
async fn what_the_peer_closed_or_spoke_on_unasked_is_not_handed_out() {
    on_a_core(|core| async move {
        let (origin, address) = bind().await;
        let view = view("a", upstream(&[address], "127.0.0.2"));
        for say in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let (io, lease) = take_io(&core, &view).await;
            let (mut accepted, _) = origin.accept().await.unwrap();
            lease.release(io);
            assert_eq!(core.upstreams.pools.idle(), 1);

            tokio::io::AsyncWriteExt::write_all(&mut accepted, say).await.unwrap();
            drop(accepted);
            tokio::time::sleep(Duration::from_millis(20)).await;

            let (_io, lease) = take_io(&core, &view).await;
            assert!(!lease.reused);
            origin.accept().await.unwrap();
        }
    })
    .await;
}

// S1.40 S1.62
#[tokio::test]
async fn the_last_used_is_reused_and_the_pool_has_a_limit() {
    on_a_core(|core| async move {
        let origin = whoami().await;
        let mut config = upstream(&[origin], "127.0.0.2");
        config.pool_idle = 2;
        let view = view("a", config);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(take_io(&core, &view).await);
        }
        let last = held[2].1.source;

        held.drain(..).for_each(|(io, lease)| lease.release(io));

        assert_eq!(core.upstreams.pools.idle(), 2);
        let (_io, lease) = take_io(&core, &view).await;
        assert!(lease.reused);
        assert_eq!(lease.source, last);
        assert_eq!(lease.connect, Duration::ZERO);
        assert_eq!(view.tenant().metrics.total(Counter::UpstreamConnectionsClosed), 1);
    })
    .await;
}

// S1.62
#[tokio::test]
async fn idle_connections_end_with_their_timeout() {
    on_a_core(|core| async move {
        let origin = whoami().await;
        let mut config = upstream(&[origin], "127.0.0.2");
        config.pool_idle_timeout = TICK;
        let view = view("a", config);
        let (io, lease) = take_io(&core, &view).await;

        lease.release(io);

        assert_eq!(core.upstreams.pools.idle(), 1);
        tokio::time::sleep(TICK * 4).await;
        assert_eq!(core.upstreams.pools.idle(), 0);
    })
    .await;
}

// S1.41
#[tokio::test]
async fn a_changed_upstream_uses_no_connection_of_the_one_before() {
    on_a_core(|core| async move {
        let origin = whoami().await;
        let before = upstream(&[origin], "127.0.0.2");
        let mut after = before.clone();
        after.pool_idle = 3;
        let old = listener("a", before.clone(), Default::default());
        let runtime = &old.tenant.upstreams[0];
        let view = TenantView::admitted(old.clone());
        let (io, lease) = take_io(&core, &view).await;
        lease.release(io);
        let tenant = &old.tenant.tenant.id;
        let prepare = |upstream: &durward_model::Upstream| {
            UpstreamRuntime::prepare(&upstream.clone().into(), tenant, Some(runtime)).unwrap()
        };

        assert!(std::sync::Arc::ptr_eq(&prepare(&before), runtime));
        assert!(take_io(&core, &view).await.1.reused);
        let (io, lease) = take_io(&core, &view).await;
        let changed = prepare(&after);
        lease.release(io);

        assert!(!std::sync::Arc::ptr_eq(&changed, runtime));
        assert_eq!(core.upstreams.pools.idle(), 0);
        assert!(!take_io(&core, &view).await.1.reused);
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_leaves_loses_its_connections_and_those_that_stay_keep_theirs() {
    on_a_core(|core| async move {
        let (leaves, stays, comes) = (whoami().await, whoami().await, whoami().await);
        let before = upstream(&[leaves, stays], "127.0.0.2");
        let old = listener("a", before.clone(), Default::default());
        let (runtime, tenant) = (&old.tenant.upstreams[0], &old.tenant.tenant.id);
        let view_of_old = TenantView::admitted(old.clone());
        let mut tried = Tried::default();
        let mut held = Vec::new();
        for _ in 0..2 {
            let access = view_of_old.access();
            let taken = acquire(&core.upstreams, access, FIRST, client(), &mut tried).await;
            let (Carrier::Http1(io), lease) = taken.unwrap() else {
                panic!("HTTP/1 was asked for")
            };
            held.push((io, lease));
        }
        // One is idle at the change, and the other in use.
        let (io, lease) = held.pop().unwrap();
        lease.release(io);

        let after = upstream(&[comes, stays], "127.0.0.2");
        let changed = UpstreamRuntime::prepare(&after.into(), tenant, Some(runtime)).unwrap();
        let (io, lease) = held.pop().unwrap();
        lease.release(io);

        assert!(!std::sync::Arc::ptr_eq(&changed, runtime));
        let is_reused = async |endpoint| {
            let view = view("a", upstream(&[endpoint], "127.0.0.2"));
            take_io(&core, &view).await.1.reused
        };
        assert!(is_reused(stays).await);
        assert!(!is_reused(leaves).await && !is_reused(comes).await);
    })
    .await;
}

#[tokio::test]
async fn a_changed_upstream_keeps_no_connection_though_its_endpoints_stay() {
    on_a_core(|core| async move {
        let (one, two) = (whoami().await, whoami().await);
        let before = upstream(&[one], "127.0.0.2");
        let old = listener("a", before.clone(), Default::default());
        let (runtime, tenant) = (&old.tenant.upstreams[0], &old.tenant.tenant.id);
        let (io, lease) = take_io(&core, &TenantView::admitted(old.clone())).await;
        lease.release(io);
        let mut after = upstream(&[one, two], "127.0.0.2");
        after.pool_idle = before.pool_idle + 1;

        UpstreamRuntime::prepare(&after.into(), tenant, Some(runtime)).unwrap();

        let view = view("a", before);
        assert!(!take_io(&core, &view).await.1.reused);
    })
    .await;
}

// S1.44
#[tokio::test]
async fn a_second_try_in_one_request_gets_a_fresh_connection() {
    on_a_core(|core| async move {
        let origin = whoami().await;
        let view = view("a", upstream(&[origin], "127.0.0.2"));
        let (io, lease) = take_io(&core, &view).await;
        lease.release(io);
        let mut tried = Tried::default();

        let first =
            acquire(&core.upstreams, view.access(), FIRST, client(), &mut tried).await.unwrap().1;
        let second =
            acquire(&core.upstreams, view.access(), FIRST, client(), &mut tried).await.unwrap().1;

        assert!(first.reused && !second.reused);
    })
    .await;
}

// S1.9 S1.60
#[tokio::test]
async fn an_egress_address_that_is_not_here_is_a_refusal_not_the_nodes_address() {
    on_a_core(|core| async move {
        let (_origin, address) = bind().await;
        let view = view("a", upstream(&[address], "203.0.113.2"));

        let refusal = take(&core, &view).await.err().unwrap();

        assert_eq!(refusal.word(), "egress_address");
        assert!(refusal.to_string().contains("203.0.113.2: not on this host"), "{refusal}");
        assert_eq!(view.tenant().metrics.total(Counter::UpstreamConnectFailures), 1);
    })
    .await;
}
