//! The gateways: which of them answer, and a connection to one that does.
//!
//! Each address of each gateway is checked by what a connection needs of it: the whole handshake of the outer connection. A connection goes to the first gateway that is
//! healthy; the next one is tried at once when one refuses, and beside it when one does not answer.

mod dial;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::http_proxy;
use crate::metrics::Metrics;
use crate::resolve::Endpoint;
use crate::settings::{Settings, Target};
use crate::stream::BoxStream;
use crate::tls::TlsState;

/// Intervals between two checks of an endpoint that answers. Each is a TLS handshake for the gateway, and there may be very many proxies.
const HEALTHY_CHECKS: u32 = 6;

/// A reason why a gateway cannot be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// Its name has no address.
    #[error("{target} cannot be resolved: {error}")]
    Resolve {
        /// The gateway.
        target: Target,
        /// Answer of the system's resolver.
        error: io::Error,
    },
    /// No TCP connection.
    #[error("TCP connection to {endpoint} failed: {error}")]
    Connect {
        /// Where it should have gone.
        endpoint: Endpoint,
        /// The system's error.
        error: io::Error,
    },
    /// No TCP connection, for lack of descriptors, ports or memory on this host.
    #[error("no TCP connection to {endpoint} can be opened on this host: {error}")]
    Local {
        /// Where it should have gone.
        endpoint: Endpoint,
        /// The system's error.
        error: io::Error,
    },
    /// The network's HTTP proxy did not connect.
    #[error("{endpoint} through the HTTP proxy: {reason}")]
    HttpProxy {
        /// Where it should have gone.
        endpoint: Endpoint,
        /// Answer of the HTTP proxy, or the error.
        reason: String,
    },
    /// The gateway is not verified, or does not verify us.
    #[error("TLS with {endpoint} failed: {error}")]
    Tls {
        /// The gateway.
        endpoint: Endpoint,
        /// Reason given by the TLS library.
        error: io::Error,
    },
    /// The peer is no gateway that knows the outer connection.
    #[error(
        "{endpoint} does not speak durward-api/1: name a Durward gateway whose HostedApi has spec.relay"
    )]
    NotAGateway {
        /// The peer.
        endpoint: Endpoint,
    },
    /// No answer in time.
    #[error("{endpoint} did not answer within {after:?}")]
    TimedOut {
        /// The peer.
        endpoint: Endpoint,
        /// Time that it had.
        after: Duration,
    },
    /// No gateway is known, or none answered in time.
    #[error("no gateway answered")]
    None,
}

impl DialError {
    /// Returns the reason as a label of metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Connect { .. } => "connect",
            Self::Local { .. } => "local",
            Self::HttpProxy { .. } => "http_proxy",
            Self::Tls { .. } => "tls",
            Self::NotAGateway { .. } => "not_a_gateway",
            Self::TimedOut { .. } => "timeout",
            Self::None => "none",
        }
    }
}

impl DialError {
    /// Returns true if a check that failed so says something of the endpoint.
    fn is_of_endpoint(&self) -> bool {
        !matches!(self, Self::Local { .. } | Self::None)
    }

    /// Returns true if a client's connection that failed so says that all connections would fail. A reset within the handshake may come from a limit that the
    /// clients themselves have reached: whether the gateway answers, a check says.
    fn fails_all(&self) -> bool {
        let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        self.is_of_endpoint() && !matches!(self, Self::Tls { error, .. } if is_reset(error))
    }
}

/// State of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet.
    Unknown,
    /// The last attempt succeeded.
    Healthy,
    /// The last attempt failed, for this reason.
    Unhealthy(String),
}

/// State of a gateway, for people and metrics.
#[derive(Clone, Debug)]
pub struct GatewayReport {
    /// The gateway, as it was configured.
    pub target: Target,
    /// Its endpoints with their states.
    pub endpoints: Vec<(Endpoint, Health)>,
    /// Why its name could not be resolved the last time.
    pub resolve_error: Option<String>,
}

impl GatewayReport {
    /// Returns whether an endpoint of the gateway answers.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.endpoints.iter().any(|(_, health)| *health == Health::Healthy)
    }
}

/// Gateways that connections may go to.
pub struct Gateways {
    dialer: dial::Dialer,
    targets: Vec<Target>,
    attempt: Duration,
    stagger: Duration,
    connect: Duration,
    check: Duration,
    known: Mutex<Known>,
    /// Told when the state of an endpoint changes.
    changed: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Known {
    endpoints: HashMap<Target, Vec<Endpoint>>,
    resolve_errors: HashMap<Target, String>,
    /// State of each endpoint, and when it was found.
    health: HashMap<Endpoint, (Health, Instant)>,
}

/// A connection to a gateway.
pub(crate) struct Dialled {
    pub(crate) stream: BoxStream,
    pub(crate) endpoint: Endpoint,
    /// Protocol that the peer chose, in re-originate mode.
    pub(crate) alpn: Option<Vec<u8>>,
}

impl Gateways {
    /// Builds the gateways of `settings`. Nothing is connected.
    ///
    /// # Errors
    /// Fails if the server name is no name.
    pub fn new(
        settings: &Settings,
        tls: watch::Receiver<TlsState>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, rustls_pki_types::InvalidDnsNameError> {
        let server_name = ServerName::try_from(settings.server_name.clone())?;
        let limits = settings.limits;
        let dialer = dial::Dialer {
            server_name,
            tls,
            is_outer: matches!(settings.carrier, crate::settings::Carrier::OuterTls { .. }),
            resolution: settings.resolution.clone(),
            http_proxy: settings.http_proxy.clone(),
            proxy_tls: crate::tls::of_system().into(),
        };
        Ok(Self {
            dialer,
            targets: settings.gateways.clone(),
            attempt: limits.attempt,
            stagger: limits.stagger,
            connect: limits.connect,
            check: limits.check,
            known: Mutex::default(),
            changed: Notify::new(),
            metrics,
        })
    }

    /// Returns the state of every gateway.
    #[must_use]
    pub fn report(&self) -> Vec<GatewayReport> {
        let known = self.known();
        let of = |target: &Target| GatewayReport {
            target: target.clone(),
            endpoints: known
                .endpoints
                .get(target)
                .into_iter()
                .flatten()
                .map(|it| (it.clone(), known.health_of(it)))
                .collect(),
            resolve_error: known.resolve_errors.get(target).cloned(),
        };
        self.targets.iter().map(of).collect()
    }

    /// Returns whether at least one gateway answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().iter().any(GatewayReport::is_healthy)
    }

    /// Waits for a change of any endpoint's state.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Checks the gateways without end.
    pub async fn check(self: Arc<Self>) {
        loop {
            self.resolve_all().await;
            let mut checks = JoinSet::new();
            for endpoint in self.due(Instant::now()) {
                let gateways = Arc::clone(&self);
                checks.spawn(async move {
                    let result = gateways.probe(&endpoint).await;
                    if result.as_ref().err().is_none_or(DialError::is_of_endpoint) {
                        gateways.note(&endpoint, result.as_ref().err());
                    }
                });
            }
            while checks.join_next().await.is_some() {}
            // Proxies that were started together are not to check together for ever.
            let jitter = RandomState::new().hash_one(()) % 256;
            sleep(self.check + self.check * u32::try_from(jitter).unwrap_or_default() / 1_024)
                .await;
        }
    }

    /// Returns the endpoints to check: those that do not answer, and those from which nothing was heard for a while. What a gateway sends to a client's
    /// connection counts, too.
    fn due(&self, now: Instant) -> Vec<Endpoint> {
        let known = self.known();
        let is_due = |endpoint: &&Endpoint| match known.health.get(*endpoint) {
            Some((Health::Healthy, since)) => now >= *since + self.check * HEALTHY_CHECKS,
            _ => true,
        };
        known.endpoints.values().flatten().filter(is_due).cloned().collect()
    }

    /// Connects to the first gateway that can be had. `alpn` is what an API client offers, in re-originate mode.
    pub(crate) async fn connect(self: &Arc<Self>, alpn: &[Vec<u8>]) -> Result<Dialled, DialError> {
        let deadline = Instant::now() + self.connect;
        if self.candidates().is_empty() {
            // The first connection may come before the first check.
            drop(timeout_at(deadline, self.resolve_all()).await);
        }
        let raced = timeout_at(deadline, self.race(self.candidates(), alpn)).await;
        raced.unwrap_or(Err(DialError::None))
    }

    /// Tries the candidates in their order, the next one when one fails or does not answer for a moment.
    async fn race(
        self: &Arc<Self>,
        candidates: Vec<(Endpoint, Health)>,
        alpn: &[Vec<u8>],
    ) -> Result<Dialled, DialError> {
        let mut waiting = candidates.into_iter().map(|(endpoint, _)| endpoint);
        let mut attempts = JoinSet::new();
        let mut last = DialError::None;
        loop {
            let started = waiting.next().map(|endpoint| {
                let (gateways, alpn) = (Arc::clone(self), alpn.to_vec());
                attempts.spawn(async move { gateways.attempt(&endpoint, &alpn).await });
            });
            if attempts.is_empty() {
                return Err(last);
            }
            let next = async {
                match timeout(self.stagger, attempts.join_next()).await {
                    Ok(joined) => joined,
                    // All have been started: only their answers are waited for.
                    Err(_) if started.is_none() => attempts.join_next().await,
                    Err(_) => None,
                }
            };
            match next.await {
                // The attempts that have not ended are dropped with the set.
                Some(Ok(Ok(dialled))) => return Ok(dialled),
                Some(Ok(Err(error))) => last = error,
                // A panic of an attempt was reported by its hook.
                Some(Err(_)) | None => {}
            }
        }
    }

    async fn attempt(&self, endpoint: &Endpoint, alpn: &[Vec<u8>]) -> Result<Dialled, DialError> {
        let dialled = match timeout(self.attempt, self.dialer.dial(endpoint, alpn)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(DialError::TimedOut { endpoint: endpoint.clone(), after: self.attempt }),
        };
        self.metrics.dialled(dialled.as_ref().err().map(DialError::label));
        match &dialled {
            // The handshake ends before the gateway has judged our certificate; its first bytes show that it has admitted it.
            Ok(_) if self.dialer.is_outer => {}
            Ok(_) => self.note(endpoint, None),
            Err(error) if error.fails_all() => self.note(endpoint, Some(error)),
            Err(_) => {}
        }
        dialled
    }

    /// Takes note that a gateway has sent a client's connection its first bytes: it has admitted the connection.
    pub(crate) fn heard(&self, endpoint: &Endpoint) {
        self.note(endpoint, None);
    }

    /// Takes note of how a client's connection ended to which the gateway has sent no byte: by an alert, where it does not admit our certificate.
    pub(crate) fn ended_unheard(&self, endpoint: &Endpoint, error: io::Error) {
        if self.dialer.is_outer && dial::alert(&error).is_some() {
            let error = DialError::Tls { endpoint: endpoint.clone(), error };
            self.note(endpoint, Some(&error));
        }
    }

    /// Connects as a client would, and ends the connection before its first byte. In TLS 1.3 the gateway judges our certificate after the handshake: its word is waited for.
    async fn probe(&self, endpoint: &Endpoint) -> Result<(), DialError> {
        let probed = timeout(self.attempt, self.dialer.probe(endpoint)).await;
        probed.unwrap_or_else(|_| {
            Err(DialError::TimedOut { endpoint: endpoint.clone(), after: self.attempt })
        })
    }

    /// Looks up every gateway. What was known of one whose name has no answer is kept.
    async fn resolve_all(&self) {
        for target in &self.targets {
            let found = timeout(self.attempt, self.dialer.endpoints(target)).await;
            let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let mut known = self.known();
            match found {
                Ok(endpoints) => {
                    known.resolve_errors.remove(target);
                    known.endpoints.insert(target.clone(), endpoints);
                }
                Err(error) => {
                    let error = DialError::Resolve { target: target.clone(), error };
                    let text = error.to_string();
                    if known.resolve_errors.insert(target.clone(), text.clone()).as_ref()
                        != Some(&text)
                    {
                        tracing::warn!(%error, "gateway name");
                    }
                }
            }
        }
        let mut known = self.known();
        let Known { endpoints, health, .. } = &mut *known;
        health.retain(|endpoint, _| endpoints.values().flatten().any(|it| it == endpoint));
    }

    /// Returns the endpoints, those that answer first, each group in the order of the settings.
    fn candidates(&self) -> Vec<(Endpoint, Health)> {
        let known = self.known();
        let all = self.targets.iter().filter_map(|target| known.endpoints.get(target)).flatten();
        let mut all: Vec<_> = all.map(|it| (it.clone(), known.health_of(it))).collect();
        all.sort_by_key(|(_, health)| match health {
            Health::Healthy => 0,
            Health::Unknown => 1,
            // Perhaps it has recovered since, and there is nothing better.
            Health::Unhealthy(_) => 2,
        });
        all
    }

    fn note(&self, endpoint: &Endpoint, error: Option<&DialError>) {
        let health = error.map_or(Health::Healthy, |error| Health::Unhealthy(error.to_string()));
        let now = (health.clone(), Instant::now());
        let before = self.known().health.insert(endpoint.clone(), now);
        if before.is_some_and(|(before, _)| before == health) {
            return;
        }
        match &health {
            Health::Unhealthy(reason) => {
                tracing::warn!(%endpoint, reason, "gateway does not answer")
            }
            _ => tracing::info!(%endpoint, "gateway answers"),
        }
        self.changed.notify_waiters();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn health_of(&self, endpoint: &Endpoint) -> Health {
        self.health.get(endpoint).map_or(Health::Unknown, |(health, _)| health.clone())
    }
}

impl From<(Endpoint, http_proxy::ConnectError)> for DialError {
    fn from((endpoint, error): (Endpoint, http_proxy::ConnectError)) -> Self {
        let reason = match &error {
            http_proxy::ConnectError::Broken(cause) => format!("{error}: {cause}"),
            _ => error.to_string(),
        };
        Self::HttpProxy { endpoint, reason }
    }
}
