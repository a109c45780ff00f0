//! Snapshots written by hand and a running proxy, for tests of the edge.
//! Deliberately absent: the compile step; what is served here was never in a document.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use durward_model::certificate::{KeyEncoding, PrivateKey};
use durward_model::client_auth::ClientTrust;
use durward_model::limits::Limits;
use durward_model::listener::{HttpService, IdentityHeaders, TcpService};
use durward_model::route::{Action, HeaderRules, HostPattern, Route, RouteMatch, WeightedUpstream};
use durward_model::server_tls::{Alpn, ServerTls};
use durward_model::sni::SniRoute;
use durward_model::upstream::{Balance, Endpoint, Retry, Target, UpstreamIndex, UpstreamProtocol};
use durward_model::{
    Bind, Certificate, ClientAuth, DestinationMode, EgressAddress, IngressAddress, Listener,
    NameTable, Origin, Secret, ServerNames, Service, Snapshot, SourceSet, Tenant, TenantId,
    Upstream,
};
use durward_proxy::Proxy;
use durward_proxy::access_log::{Lines, Sink};
use durward_proxy::metrics::{Counter, TenantMetrics};
use durward_proxy::proxy::{Applied, BindState, Options};
use durward_proxy::refusal::{HandshakeFailure, Refusal};
use durward_testkit::certificates::{Authority, CertSpec, Identity, RevocationList};
use durward_testkit::process::allow_all_descriptors;

pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A tenant as a test wants it.
#[derive(Clone)]
pub(crate) struct Wanted {
    name: &'static str,
    egress: Vec<IpAddr>,
    upstreams: Vec<SocketAddr>,
    listeners: Vec<Listener>,
    pub(crate) limits: Limits,
    stream_idle: Option<Duration>,
}

pub(crate) fn tenant(name: &'static str) -> Wanted {
    Wanted {
        name,
        egress: vec![IpAddr::from([127, 0, 0, 1])],
        upstreams: Vec::new(),
        listeners: Vec::new(),
        limits: Limits::default(),
        stream_idle: None,
    }
}

impl Wanted {
    pub(crate) fn egress(mut self, address: impl Into<IpAddr>) -> Self {
        self.egress = vec![address.into()];
        self
    }

    /// The first is 0, for `tcp` and `pass`.
    pub(crate) fn upstream(mut self, address: SocketAddr) -> Self {
        self.upstreams.push(address);
        self
    }

    pub(crate) fn listen(self, address: SocketAddr, service: Service) -> Self {
        self.listen_through(address, address, service)
    }

    /// A listener reached through a bind of another address.
    pub(crate) fn listen_through(
        mut self,
        bind: SocketAddr,
        address: SocketAddr,
        service: Service,
    ) -> Self {
        self.listeners.push(Listener {
            tenant: TenantId::new(self.name).unwrap(),
            address: IngressAddress(address.ip()),
            port: address.port(),
            bind,
            names: None,
            allowed_sources: None,
            service,
            hosts_apis: false,
            acme: durward_model::Acme::default(),
            takes_ingresses: false,
            origin: Origin::default(),
        });
        self
    }

    /// For the last listener.
    pub(crate) fn named(mut self, names: &[&str]) -> Self {
        let pattern = |name: &&str| match name.strip_prefix("*.") {
            Some(parent) => HostPattern::Wildcard(Arc::from(parent)),
            None => HostPattern::Exact(Arc::from(*name)),
        };
        let names = ServerNames::new(names.iter().map(pattern).collect());
        self.listeners.last_mut().unwrap().names = Some(names);
        self
    }

    /// Gives the last listener its address and port alone.
    pub(crate) fn unname(&mut self) {
        self.listeners.last_mut().unwrap().names = None;
    }

    /// For the last listener.
    pub(crate) fn only_from(mut self, block: &str) -> Self {
        let sources = SourceSet::new([block.parse().unwrap()]);
        self.listeners.last_mut().unwrap().allowed_sources = Some(sources);
        self
    }

    /// For the last listener.
    pub(crate) fn acme(mut self, acme: durward_model::Acme) -> Self {
        self.listeners.last_mut().unwrap().acme = acme;
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// For connections that are carried through to its upstreams, in place of the tenant's limit.
    pub(crate) fn stream_idle(mut self, most: Duration) -> Self {
        self.stream_idle = Some(most);
        self
    }

    fn build(&self) -> Tenant {
        let egress: Vec<_> = self.egress.iter().copied().map(EgressAddress).collect();
        let upstream = |(at, address): (usize, &SocketAddr)| Upstream {
            name: format!("u{at}").into(),
            endpoints: vec![Endpoint { target: Target::Address(*address), weight: 1 }],
            protocol: UpstreamProtocol::Tcp,
            tls: None,
            sources: egress.clone(),
            balance: Balance::default(),
            health_check: None,
            outlier: None,
            retry: Retry::default(),
            pool_idle: 8,
            link: None,
            pool_idle_timeout: Duration::from_secs(30),
            stream_idle: self.stream_idle,
            check_tls: None,
            direct: None,
            send_proxy: None,
            origin: Origin::default(),
        };
        let mut listeners: Vec<_> = self.listeners.iter().cloned().map(Arc::new).collect();
        listeners.sort_by_key(|listener| listener.key());
        Tenant {
            id: TenantId::new(self.name).unwrap(),
            upstreams: self.upstreams.iter().enumerate().map(upstream).map(Arc::new).collect(),
            egress,
            listeners,
            transparent: Vec::new(),
            limits: self.limits.clone(),
            origin: Origin::default(),
        }
    }
}

/// All tenants, every bind in the same mode.
pub(crate) fn snapshot(
    generation: u64,
    mode: &DestinationMode,
    wanted: &[Wanted],
) -> Arc<Snapshot> {
    let tenants: Vec<_> = wanted.iter().map(|wanted| Arc::new(wanted.build())).collect();
    let mut binds: BTreeMap<SocketAddr, Vec<Arc<Listener>>> = BTreeMap::new();
    for listener in tenants.iter().flat_map(|tenant| &tenant.listeners) {
        binds.entry(listener.bind).or_default().push(Arc::clone(listener));
    }
    let bind = |(address, mut listeners): (SocketAddr, Vec<Arc<Listener>>)| {
        listeners.sort_by(|a, b| a.key().cmp(&b.key()).then_with(|| a.tenant.cmp(&b.tenant)));
        let mut names = BTreeMap::<_, NameTable>::new();
        for listener in &listeners {
            if let Some(own) = &listener.names {
                names.entry(listener.key()).or_default().add(&listener.tenant, own);
            }
        }
        let mode = mode.clone();
        (address, Arc::new(Bind { address, mode, listeners, names, owners: Arc::default() }))
    };
    Arc::new(Snapshot {
        generation,
        tenants: tenants.into_iter().map(|tenant| (tenant.id.clone(), tenant)).collect(),
        binds: binds.into_iter().map(bind).collect(),
        ..Snapshot::default()
    })
}

pub(crate) fn bound(generation: u64, wanted: &[Wanted]) -> Arc<Snapshot> {
    snapshot(generation, &DestinationMode::Bound, wanted)
}

/// A proxy on two cores that serves these tenants.
pub(crate) fn serve(wanted: &[Wanted]) -> Proxy {
    serve_in(&DestinationMode::Bound, wanted)
}

pub(crate) fn serve_in(mode: &DestinationMode, wanted: &[Wanted]) -> Proxy {
    let proxy = idle();
    assert_served(&proxy.apply(snapshot(1, mode, wanted)));
    proxy
}

pub(crate) fn idle() -> Proxy {
    Proxy::start(options()).unwrap()
}

/// A proxy that serves these tenants, and its access log.
pub(crate) fn serve_with_log(wanted: &[Wanted]) -> (Proxy, Lines) {
    let (access_log, lines) = Sink::memory().unwrap();
    let proxy = Proxy::start(Options { access_log, ..options() }).unwrap();
    assert_served(&proxy.apply(bound(1, wanted)));
    (proxy, lines)
}

/// Waits for `count` lines of the access log, and makes sure that no more come.
pub(crate) async fn await_lines(
    proxy: Proxy,
    lines: &Lines,
    count: usize,
) -> Vec<serde_json::Value> {
    let written = durward_testkit::process::eventually(SOON, async || lines.read().len() >= count);
    assert!(written.await, "{:?}", lines.read());
    tokio::task::spawn_blocking(move || proxy.drain(Duration::ZERO)).await.unwrap();
    let lines: Vec<_> =
        lines.read().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

pub(crate) fn options() -> Options {
    allow_all_descriptors();
    Options {
        workers: 2,
        access_log: Sink::none(),
        decisions: Sink::none(),
        inherited: Vec::new(),
        shared: false,
        memory: None,
        drain_grace: Duration::ZERO,
        registry: None,
        direct_networks: Vec::new(),
    }
}

pub(crate) fn assert_served(applied: &Applied) {
    assert_eq!(applied.problems, []);
    for bind in &applied.binds {
        assert_eq!(bind.state, BindState::Bound, "{}", bind.address);
    }
}

/// HTTP that answers every request with `answer`.
pub(crate) fn http(answer: &str, tls: Option<ServerTls>) -> Service {
    let respond = Action::Respond { status: 200, body: Arc::from(answer) };
    Service::Http(HttpService {
        tls,
        routes: vec![Route {
            name: Arc::from("all"),
            matches: RouteMatch::default(),
            action: respond,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            origin: Origin::default(),
        }]
        .into(),
        trusted_proxies: SourceSet::default(),
        identity_headers: IdentityHeaders::default(),
    })
}

/// Bytes to the tenant's first upstream.
pub(crate) fn tcp(tls: Option<ServerTls>) -> Service {
    Service::Tcp(TcpService { tls, upstreams: vec![to(0)] })
}

/// TLS carried through: these names to these upstreams, `*` meaning every other.
pub(crate) fn pass(routes: &[(&str, usize)]) -> Service {
    let route = |(host, at): &(&str, usize)| SniRoute {
        hosts: match *host {
            "*" => Vec::new(),
            host => vec![HostPattern::Exact(Arc::from(host))],
        },
        upstreams: vec![to(*at)],
        hosted: None,
        origin: Origin::default(),
    };
    Service::PassThrough(routes.iter().map(route).collect::<Vec<_>>().into())
}

fn to(at: usize) -> WeightedUpstream {
    WeightedUpstream { upstream: UpstreamIndex(at), weight: 1 }
}

/// TLS with one certificate and no client certificates.
pub(crate) fn tls(identity: &Identity) -> ServerTls {
    ServerTls {
        certificates: vec![certificate(identity)],
        client_auth: ClientAuth::Off,
        tls13_only: false,
        alpn: Vec::new(),
    }
}

/// The same for HTTP, with its protocols.
pub(crate) fn https(identity: &Identity) -> ServerTls {
    ServerTls { alpn: vec![Alpn::Http2, Alpn::Http11], ..tls(identity) }
}

pub(crate) fn certificate(identity: &Identity) -> Arc<Certificate> {
    certificate_named(identity, &[])
}

/// A certificate that answers to these names.
pub(crate) fn certificate_named(identity: &Identity, names: &[&str]) -> Arc<Certificate> {
    let text = |text: &str| Arc::from(text);
    Arc::new(Certificate {
        name: text("certificate"),
        chain: identity.chain_der.iter().map(|der| Arc::from(der.as_ref())).collect(),
        key: PrivateKey {
            encoding: KeyEncoding::Pkcs8,
            der: Secret::new(identity.key_der.secret_der().to_vec()),
        },
        ip_names: Vec::new(),
        dns_names: names.iter().map(|name| text(name)).collect(),
        subject: text(""),
        issuer: text(""),
        key_type: text(""),
        not_before: 0,
        not_after: i64::MAX,
        fingerprint: text(""),
        origin: Origin::default(),
        chain_file: PathBuf::new(),
        key_file: PathBuf::new(),
    })
}

/// What client certificates are checked against.
pub(crate) fn trust(authorities: &[&Authority], lists: &[&RevocationList]) -> Arc<ClientTrust> {
    let mut trust = ClientTrust {
        roots: authorities.iter().map(|root| Arc::from(root.root_der().as_ref())).collect(),
        revocations: lists.iter().map(|list| Arc::from(list.der.as_slice())).collect(),
        signers: vec![Vec::new(); lists.len()],
        subjects: vec![Arc::from("CN=root"); authorities.len()],
        generation: Arc::from(""),
    };
    let mut digest = DefaultHasher::new();
    (&trust.roots, &trust.revocations).hash(&mut digest);
    trust.generation = digest.finish().to_string().into();
    Arc::new(trust)
}

/// A server certificate for an address.
pub(crate) fn identity_for(authority: &Authority, address: impl Into<IpAddr>) -> Identity {
    authority.issue(&CertSpec::new().ip(address))
}

pub(crate) fn metrics(proxy: &Proxy, tenant: &str) -> Arc<TenantMetrics> {
    proxy.metrics().tenant(&TenantId::new(tenant).unwrap())
}

/// How often a tenant (or, with `None`, nobody's) connections were refused with this word.
pub(crate) fn refused(proxy: &Proxy, tenant: Option<&str>, word: &str) -> u64 {
    let at = Refusal::WORDS.iter().position(|known| *known == word).expect(word);
    match tenant {
        Some(tenant) => metrics(proxy, tenant).refusals()[at],
        None => proxy.metrics().unknown.refusals()[at],
    }
}

/// How often a tenant's handshakes failed for this reason.
pub(crate) fn handshakes_failed(proxy: &Proxy, tenant: &str, word: &str) -> u64 {
    let at = HandshakeFailure::WORDS.iter().position(|known| *known == word).expect(word);
    metrics(proxy, tenant).handshake_failures()[at]
}

pub(crate) fn total(proxy: &Proxy, tenant: &str, counter: Counter) -> u64 {
    metrics(proxy, tenant).total(counter)
}

/// Waits until a counter of refusals has reached `count`.
pub(crate) async fn await_refusals(proxy: &Proxy, tenant: Option<&str>, word: &str, count: u64) {
    let reached =
        durward_testkit::process::eventually(SOON, async || refused(proxy, tenant, word) >= count);
    let seen = || match tenant {
        Some(tenant) => metrics(proxy, tenant).refusals(),
        None => proxy.metrics().unknown.refusals(),
    };
    let words = || Refusal::WORDS.iter().zip(seen()).filter(|(_, count)| *count > 0);
    assert!(reached.await, "{word}: {count} wanted of {:?}", words().collect::<Vec<_>>());
    assert_eq!(refused(proxy, tenant, word), count, "{word}");
}
