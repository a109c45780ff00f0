//! Tenants, upstreams and cores for the tests of this room.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use durward_model::limits::Limits;
use durward_model::listener::TcpService;
use durward_model::upstream::{Balance, Endpoint, Retry, Target, UpstreamIndex, UpstreamProtocol};
use durward_model::{ClientAddr, EgressAddress, Origin, Service, Tenant, TenantId, Upstream};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::super::resolve::Resolver;
use super::super::{Carrier, Lease, Tried, acquire};
use crate::core::{Core, Shared};
use crate::files::Files;
use crate::io::Io;
use crate::metrics::Metrics;
use crate::prepared::{Prepared, PreparedBind, PreparedListener, TenantView};
use crate::refusal::Refusal;

pub(super) const FIRST: UpstreamIndex = UpstreamIndex(0);

pub(super) fn client() -> ClientAddr {
    ClientAddr("192.0.2.7:4711".parse().unwrap())
}

/// Runs a test on one core, for ten seconds at most.
pub(super) async fn on_a_core<F: Future>(test: impl FnOnce(Rc<Core>) -> F) -> F::Output {
    on_a_core_with(Resolver::default(), test).await
}

pub(super) async fn on_a_core_with<F: Future>(
    resolver: Resolver,
    test: impl FnOnce(Rc<Core>) -> F,
) -> F::Output {
    on_a_core_of(Files::default(), resolver, test).await
}

/// Runs a test on a core in a process with these file descriptors.
pub(super) async fn on_a_core_of<F: Future>(
    files: Files,
    resolver: Resolver,
    test: impl FnOnce(Rc<Core>) -> F,
) -> F::Output {
    let shared = Shared {
        prepared: ArcSwap::from_pointee(Prepared::empty_for_test()),
        metrics: Arc::new(Metrics::new(1)),
        log: crate::access_log::Sink::default(),
        decisions: crate::access_log::Sink::default(),
        host: crate::present::host::HostAddresses::default(),
        files: Arc::new(files),
        memory: Arc::default(),
        unidentified: Arc::default(),
        resolver,
        registry: None,
        direct_networks: Vec::new(),
    };
    let core = Core::new(0, Arc::new(shared), 7);
    let bounded = tokio::time::timeout(Duration::from_secs(30), test(core));
    LocalSet::new().run_until(bounded).await.expect("the test took too long")
}

pub(super) fn upstream(endpoints: &[SocketAddr], source: &str) -> Upstream {
    let place = |address: &SocketAddr| Endpoint { target: Target::Address(*address), weight: 1 };
    Upstream {
        name: Arc::from("pay"),
        endpoints: endpoints.iter().map(place).collect(),
        protocol: UpstreamProtocol::Http1,
        tls: None,
        sources: vec![EgressAddress(source.parse().unwrap())],
        balance: Balance::PowerOfTwo,
        health_check: None,
        outlier: None,
        retry: Retry::default(),
        pool_idle: 8,
        link: None,
        pool_idle_timeout: Duration::from_secs(60),
        stream_idle: None,
        check_tls: None,
        direct: None,
        send_proxy: None,
        origin: Origin::default(),
    }
}

pub(super) fn listener(name: &str, upstream: Upstream, limits: Limits) -> Arc<PreparedListener> {
    let tenant = Tenant {
        id: TenantId::new(name).unwrap(),
        egress: upstream.sources.clone(),
        upstreams: vec![Arc::new(upstream)],
        listeners: Vec::new(),
        transparent: Vec::new(),
        limits,
        origin: Origin::default(),
    };
    let service = Service::Tcp(TcpService { tls: None, upstreams: Vec::new() });
    PreparedListener::for_test(tenant, service).unwrap()
}

pub(super) fn view(name: &str, upstream: Upstream) -> TenantView {
    TenantView::admitted(listener(name, upstream, Limits::default()))
}

pub(super) async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Starts an origin that answers each byte with the address it sees, 16 octets long.
pub(super) async fn whoami() -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (listener, address) = bind().await;
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let seen = match peer.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                while stream.read_u8().await.is_ok() {
                    stream.write_all(&seen).await.unwrap();
                }
            });
        }
    });
    address
}

/// Asks [`whoami`] once.
pub(super) async fn ask(io: &mut Io) -> IpAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    io.write_u8(1).await.unwrap();
    let mut seen = [0; 16];
    io.read_exact(&mut seen).await.unwrap();
    IpAddr::from(seen).to_canonical()
}

pub(super) async fn take(core: &Rc<Core>, view: &TenantView) -> Result<(Carrier, Lease), Refusal> {
    acquire(&core.upstreams, view.access(), FIRST, client(), &mut Tried::default()).await
}

pub(super) async fn take_io(core: &Rc<Core>, view: &TenantView) -> (Io, Lease) {
    match take(core, view).await.unwrap() {
        (Carrier::Http1(io), lease) => (io, lease),
        (Carrier::Http2(_), _) => panic!("HTTP/2 was not asked for"),
    }
}

/// Asks an HTTP/1 origin for `/` and gives the status.
pub(super) async fn get(io: &mut Io) -> std::io::Result<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    io.write_all(b"GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
    let mut head = [0; 12];
    io.read_exact(&mut head).await?;
    Ok(std::str::from_utf8(&head[9..]).unwrap().parse().unwrap())
}

/// Builds a configuration that serves just this listener.
pub(super) fn prepared(listener: &Arc<PreparedListener>) -> Arc<Prepared> {
    let bind = durward_model::Bind {
        address: listener.listener.bind,
        mode: durward_model::DestinationMode::Bound,
        listeners: vec![Arc::clone(&listener.listener)],
        names: std::collections::BTreeMap::new(),
        owners: Arc::default(),
    };
    let bind = PreparedBind::new(Arc::new(bind), vec![Some(Arc::clone(listener))]);
    let mut prepared = Prepared::empty_for_test();
    prepared.binds.insert(listener.listener.bind, Arc::new(bind));
    prepared.tenants.insert(listener.tenant.tenant.id.clone(), Arc::clone(&listener.tenant));
    Arc::new(prepared)
}

/// Waits until it is so, for ten seconds at most.
pub(super) async fn until(mut so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never became so");
}
