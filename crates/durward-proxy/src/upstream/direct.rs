//! Direct way to endpoints behind a link: the public endpoint of the link's cluster, as it was proven last.
//!
//! Its addresses were checked like those of a forward proxy's destination, and are dialled from the tenant's own address. What fails goes over the link.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_model::upstream::DirectRoute;

use super::connect::{Attempt, Dialled};
use super::path::{Connected, Path, PortGuard, Ticket, Way};
use super::per_core::Upstreams;
use super::runtime::UpstreamRuntime;
use super::tenant::TenantRuntime;
use super::tls_client;
use crate::http::client::{self, Ask};
use crate::io::Io;
use crate::limits::UpstreamGuard;
use crate::metrics::Counter;
use crate::refusal::Refusal;

/// Longest time for a direct connection; the rest of the tenant's time is the link's.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time for one question of a proof.
const ANSWER: Duration = Duration::from_secs(5);

/// Public endpoint that leads to the cluster of a link.
#[derive(Debug)]
pub(crate) struct ProvenEndpoint {
    /// Checked addresses.
    addresses: Arc<[SocketAddr]>,
    /// True if it takes TLS.
    tls: bool,
    /// Hosts for which it gives what the link gives.
    hosts: BTreeSet<Arc<str>>,
    /// False once it was proven no longer, or could not be connected to.
    current: Arc<AtomicBool>,
}

impl ProvenEndpoint {
    /// Creates an endpoint that is proven for no host yet.
    pub(crate) fn new(addresses: Vec<SocketAddr>, tls: bool) -> Self {
        let (addresses, hosts) = (addresses.into(), BTreeSet::new());
        Self { addresses, tls, hosts, current: Arc::new(AtomicBool::new(true)) }
    }

    /// Returns the endpoint, proven for these hosts.
    pub(crate) fn with(self, hosts: BTreeSet<Arc<str>>) -> Self {
        Self { hosts, ..self }
    }

    /// Returns true if it is proven for a host.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        self.is_current() && self.hosts.contains(host)
    }

    /// Returns true until it is proven no longer.
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Relaxed)
    }

    /// Ends its use: idle connections to it close, and requests go over the link.
    pub(crate) fn retire(&self) {
        self.current.store(false, Relaxed);
    }

    /// Returns the addresses.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the hosts.
    pub(crate) fn hosts(&self) -> Vec<Arc<str>> {
        self.hosts.iter().cloned().collect()
    }

    /// Goes on with the connections of an endpoint that leads to the same place.
    pub(crate) fn going_on(self, former: &Self) -> Self {
        Self { current: Arc::clone(&former.current), ..self }
    }

    /// Returns true if connections to the other may be used for this one's hosts: the same addresses, and no host less.
    pub(crate) fn leads_where(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && self.tls == other.tls
            && other.hosts.is_subset(&self.hosts)
            && other.is_current()
    }

    fn may_be_used(&self, direct: &DirectRoute) -> bool {
        self.tls || direct.plaintext
    }
}

impl Attempt<'_> {
    /// Connects to the public endpoint of the link's cluster, if it is proven for the route's host. `None` leaves the connection to the link.
    pub(super) async fn connect_directly(
        &self,
        path: &Arc<Path>,
        guard: &mut Option<UpstreamGuard>,
        timeout: Duration,
    ) -> Option<Connected> {
        let upstream = &self.runtime.upstream;
        let (direct, name) = (upstream.direct.as_ref()?, upstream.link.as_ref()?);
        let proven = self.tenant.links.named(name).direct(&direct.host)?;
        if !proven.may_be_used(direct) {
            return None;
        }
        let began = Instant::now();
        let ours = guard.is_none();
        let memory = self.memory(ours).ok()?;
        let dialling = self.dial_endpoint(&proven, ours);
        let (io, dialled) = match tokio::time::timeout(PATIENCE.min(timeout / 2), dialling).await {
            Ok(Ok(dialled)) => dialled,
            failed => {
                let error = failed.map_or_else(
                    |_| "no answer in time".to_owned(),
                    |failed| failed.err().map_or_else(String::new, |refusal| with_cause(&refusal)),
                );
                tracing::info!(link = %name, host = %direct.host, error, "the public endpoint of a link cannot be used: its requests go over the link");
                proven.retire();
                return None;
            }
        };
        let took = began.elapsed();
        let cells = self.tenant.metrics.core(self.upstreams.core);
        let guard = guard.take();
        if guard.is_some() {
            cells.add(Counter::UpstreamConnectionsNew, 1);
            cells.connect_duration.observe(took);
        }
        let Dialled { source, port, .. } = dialled;
        let ticket = Ticket {
            _memory: memory,
            port: PortGuard::of_link(Arc::clone(path)),
            peer: port.0.peer(),
            source,
            retired: Arc::clone(self.endpoint.life.retired()),
            metrics: Arc::clone(&self.tenant.metrics),
            core: self.upstreams.core,
            guard,
            bound: false,
            way: Some(Way::Direct(proven, port)),
        };
        Some(Connected { io, ticket, took })
    }

    /// Connects to the endpoint from the tenant's own address, TLS for the route's host included.
    async fn dial_endpoint(
        &self,
        endpoint: &ProvenEndpoint,
        ours: bool,
    ) -> Result<(Io, Dialled<()>), Refusal> {
        let outside = &self.tenant.outside;
        let attempt = Attempt {
            upstreams: self.upstreams,
            tenant: self.tenant,
            runtime: outside,
            endpoint: &outside.endpoints[0],
            addresses: &endpoint.addresses,
            speaks_first: false,
        };
        let Dialled { stream, source, port } = attempt.race(ours).await?;
        let io = match (&self.runtime.direct_tls, endpoint.tls) {
            (Some((config, verify)), true) => {
                tls_client::handshake(config, verify, stream, port.0.peer().0).await?
            }
            _ => Io::Tcp(stream),
        };
        Ok((io, Dialled { stream: (), source, port }))
    }

    /// Returns the status of a HEAD for the route, directly and over the link.
    async fn statuses(&self, endpoint: &ProvenEndpoint) -> Result<(u16, u16), String> {
        let upstream = &self.runtime.upstream;
        let direct = upstream.direct.as_ref().ok_or("it is no direct route")?;
        let path = self.endpoint.through.as_ref().ok_or("it is no route of a link")?;
        if !endpoint.may_be_used(direct) {
            return Err("the endpoint has no TLS, and plaintext is not allowed".to_owned());
        }
        let ask = Ask {
            method: "HEAD",
            target: &direct.path,
            host: &direct.host,
            fields: &[("User-Agent", "durward-proof")],
        };
        let of = |refusal: Refusal| with_cause(&refusal);
        let directly = async {
            let (io, _dialled) = self.dial_endpoint(endpoint, true).await.map_err(of)?;
            let answer = client::ask(io, ask).await.map_err(|_| "no response".to_owned())?;
            Ok::<u16, String>(answer.status)
        };
        let by_link = async {
            let connected = self.connect_through(path, None, None, ANSWER).await.map_err(of)?;
            let answer = client::ask(connected.io, ask).await;
            Ok::<u16, String>(answer.map_err(|_| "no response over the link".to_owned())?.status)
        };
        let late = |_| "no answer in time".to_owned();
        let directly = tokio::time::timeout(ANSWER, directly).await.map_err(late)??;
        Ok((directly, tokio::time::timeout(ANSWER, by_link).await.map_err(late)??))
    }
}

/// Returns a refusal with its cause, which names what is wrong with a certificate.
fn with_cause(refusal: &Refusal) -> String {
    let cause = std::error::Error::source(refusal);
    cause.map_or_else(|| refusal.to_string(), |cause| format!("{refusal}: {cause}"))
}

/// Proves that an endpoint gives for the host of an upstream what the link gives.
///
/// # Errors
/// Returns why it does not.
pub(crate) async fn prove_host(
    upstreams: &Rc<Upstreams>,
    tenant: &TenantRuntime,
    runtime: &Arc<UpstreamRuntime>,
    endpoint: &ProvenEndpoint,
) -> Result<(), String> {
    let behind = runtime.endpoints.first().ok_or("it has no endpoint")?;
    let attempt = Attempt {
        upstreams,
        tenant,
        runtime,
        endpoint: behind,
        addresses: &[],
        speaks_first: false,
    };
    match Box::pin(attempt.statuses(endpoint)).await? {
        (directly, by_link) if directly != by_link => {
            Err(format!("the endpoint answers {directly} where the link answers {by_link}"))
        }
        // An error says little of who answered.
        (status @ 500.., _) => Err(format!("both ways answer {status}")),
        _ => Ok(()),
    }
}
