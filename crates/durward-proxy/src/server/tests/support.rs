//! One tenant, one listener, one upstream, and as many clients as a test wants.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use durward_model::limits::Limits;
use durward_model::listener::{HttpService, IdentityHeaders};
use durward_model::route::{Action, Forward, HeaderRules, Route, RouteMatch, WeightedUpstream};
use durward_model::upstream::{Balance, Endpoint, Retry, Target, UpstreamIndex, UpstreamProtocol};
use durward_model::{
    ClientAddr, Destination, EgressAddress, Origin, Service, SourceSet, Tenant, TenantId, Upstream,
};
use durward_testkit::client::RawHttp;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::access_log::{Lines, Sink};
use crate::admitted::Admitted;
use crate::connection::{ConnectionFacts, TlsFacts};
use crate::core::{Core, Shared};
use crate::io::Io;
use crate::memory::Memory;
use crate::metrics::{Metrics, TenantMetrics};
use crate::prepared::{Prepared, PreparedListener, TenantView};

/// Settings that a test may change before it begins.
pub(super) struct Setup {
    pub(super) upstream: Upstream,
    pub(super) limits: Limits,
    pub(super) service: HttpService,
    pub(super) tls: Option<fn() -> TlsFacts>,
    /// Bytes the process may have.
    pub(super) memory: usize,
}

/// A running engine.
pub(super) struct Rig {
    pub(super) core: Rc<Core>,
    pub(super) listener: Arc<PreparedListener>,
    tls: Option<fn() -> TlsFacts>,
    lines: Lines,
}

pub(super) fn forward() -> Action {
    Action::Forward(Forward {
        upstreams: vec![WeightedUpstream { upstream: UpstreamIndex(0), weight: 1 }],
        replace_prefix: None,
        host: None,
        timeout: None,
    })
}

pub(super) fn route(name: &str, action: Action) -> Route {
    Route {
        name: Arc::from(name),
        matches: RouteMatch::default(),
        action,
        request_headers: HeaderRules::default(),
        response_headers: HeaderRules::default(),
        origin: Origin::default(),
    }
}

impl Setup {
    pub(super) fn to(origin: SocketAddr) -> Self {
        Self::to_all(&[origin])
    }

    pub(super) fn to_all(origins: &[SocketAddr]) -> Self {
        let place =
            |address: &SocketAddr| Endpoint { target: Target::Address(*address), weight: 1 };
        let upstream = Upstream {
            name: Arc::from("pay"),
            endpoints: origins.iter().map(place).collect(),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            sources: vec![EgressAddress("127.0.0.2".parse().unwrap())],
            balance: Balance::RoundRobin,
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
        };
        let service = HttpService {
            tls: None,
            routes: vec![route("all", forward())].into(),
            trusted_proxies: SourceSet::default(),
            identity_headers: IdentityHeaders::default(),
        };
        let memory = usize::MAX / 64;
        Self { upstream, limits: Limits::default(), service, tls: None, memory }
    }

    /// Runs a test against the engine, for half a minute at most.
    pub(super) async fn run<F: Future<Output = ()>>(self, test: impl FnOnce(Rc<Rig>) -> F) {
        self.run_within(Duration::from_secs(30), test).await;
    }

    /// Runs a test within `most`.
    pub(super) async fn run_within<F: Future<Output = ()>>(
        self,
        most: Duration,
        test: impl FnOnce(Rc<Rig>) -> F,
    ) {
        let (sink, lines) = Sink::memory().unwrap();
        let shared = Shared {
            prepared: ArcSwap::from_pointee(Prepared::empty_for_test()),
            metrics: Arc::new(Metrics::new(1)),
            log: sink,
            decisions: Sink::none(),
            host: crate::present::host::HostAddresses::default(),
            files: Arc::default(),
            memory: Arc::new(Memory::new(self.memory)),
            unidentified: Arc::default(),
            resolver: crate::upstream::resolve::Resolver::default(),
            registry: None,
            direct_networks: Vec::new(),
        };
        let core = Core::new(0, Arc::new(shared), 7);
        let tenant = Tenant {
            id: TenantId::new("acme").unwrap(),
            egress: self.upstream.sources.clone(),
            upstreams: vec![Arc::new(self.upstream)],
            listeners: Vec::new(),
            transparent: Vec::new(),
            limits: self.limits,
            origin: Origin::default(),
        };
        let listener = PreparedListener::for_test(tenant, Service::Http(self.service)).unwrap();
        let rig = Rc::new(Rig { core: Rc::clone(&core), listener, tls: self.tls, lines });
        let run = async {
            tokio::task::spawn_local(Rc::clone(&core.watchdog).run());
            test(rig).await;
        };
        let bounded = tokio::time::timeout(most, run);
        LocalSet::new().run_until(bounded).await.expect("the test took too long");
    }
}

impl Rig {
    /// Opens a connection that is served from now on.
    pub(super) async fn stream(&self) -> TcpStream {
        let (client, admitted) = self.admitted().await;
        tokio::task::spawn_local(crate::server::serve(admitted));
        client
    }

    /// Returns both ends of a connection that is not served yet.
    pub(super) async fn admitted(&self) -> (TcpStream, Admitted) {
        let accept = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(accept.local_addr().unwrap()).await.unwrap();
        let (served, peer) = accept.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, self.admit(served, peer))
    }

    /// Opens a port of 127.0.0.1 that is served from now on.
    pub(super) async fn listen(self: &Rc<Self>) -> u16 {
        let accept = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = accept.local_addr().unwrap().port();
        let rig = Rc::clone(self);
        tokio::task::spawn_local(async move {
            while let Ok((served, peer)) = accept.accept().await {
                tokio::task::spawn_local(crate::server::serve(rig.admit(served, peer)));
            }
        });
        port
    }

    fn admit(&self, served: TcpStream, peer: SocketAddr) -> Admitted {
        served.set_nodelay(true).unwrap();
        let facts = ConnectionFacts {
            accepted: Instant::now(),
            client: ClientAddr(peer),
            peer,
            destination: Destination("127.0.0.1:443".parse().unwrap()),
            tls: self.tls.map(|tls| tls()),
            link: None,
            proxied: None,
        };
        let watch = self.core.watchdog.watch();
        watch.retire_with(&self.listener.retirement, peer.ip());
        Admitted {
            io: Io::Tcp(served),
            early: Vec::new(),
            view: TenantView::admitted(Arc::clone(&self.listener)),
            facts: Rc::new(facts),
            watch,
            core: Rc::clone(&self.core),
            greeted: None,
        }
    }

    pub(super) async fn client(&self) -> RawHttp {
        RawHttp::over(self.stream().await).deadline(Duration::from_secs(5))
    }

    pub(super) fn metrics(&self) -> &TenantMetrics {
        &self.listener.tenant.metrics
    }

    /// Returns the lines of the access log, once there are `count`.
    pub(super) async fn log(&self, count: usize) -> Vec<serde_json::Value> {
        loop {
            self.core.log.flush();
            let lines = self.lines.read();
            if lines.len() >= count {
                return lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Sends one request on a connection of its own and returns the whole answer.
pub(super) async fn ask(rig: &Rig, request: impl AsRef<[u8]>) -> String {
    let mut client = rig.client().await;
    client.send(request).await.unwrap();
    client.half_close().await.unwrap();
    String::from_utf8_lossy(&client.read_until_close().await.unwrap()).into_owned()
}
