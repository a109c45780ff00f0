//! Agents of links: serves the connection that an agent dialled, so that the tenant's upstreams can take streams of it, and registrations over REST.

mod credential;
mod direct;
mod out;
mod rest;
mod said;

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use durward_link::carrier::websocket;
use durward_link::control::{ClusterState, Hello, OUT, Refused, Verdicts, Violation};
use durward_link::session::SessionError;
use durward_link::session::gateway::{self, Admission, Carrier};
use durward_link::session::pace::{Budget, Paced};
use durward_link::{Bounds, RouteSet, bounds};
use durward_model::Service;
use durward_model::server_tls::Alpn;
use tokio::sync::watch;

use crate::admitted::Admitted;
use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::io::Io;
use crate::memory::{HTTP2_CONNECTION, Hold, Kind};
use crate::outcome::Outcome;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::turns;
use crate::upstream::link::Place;
use crate::upstream::{Attached, LinkState};
use crate::watch::Watch;
use credential::{AdmittedAgent, Shown};
use said::Said;

/// Data carriers wanted of an agent at most; beyond, cores share them.
const CARRIERS: u32 = 8;
/// Wait of an agent that is refused before it dials again.
const REFUSED: Duration = Duration::from_secs(30);
/// Time that an agent may stay once it was asked to leave and has another carrier: requests under way may still open streams.
const LEAVE: Duration = Duration::from_secs(1);
/// Interval at which a carrier looks whether its agent is still admitted.
const RECHECK: Duration = Duration::from_secs(1);
/// Bytes charged for a carrier: HTTP/2, and messages of the control stream that wait in either direction.
const CARRIER: usize = HTTP2_CONNECTION + 128 * 1024;
/// Bytes of memory per byte of a long message at most: what was received, and the routes that are read from it.
const EXPANSION: usize = 3;

/// Serves a connection of an agent to its end.
pub(crate) async fn serve(admitted: Admitted) {
    let view = admitted.view.clone();
    if !matches!(view.listener().service, Service::Link(_)) {
        return;
    }
    let Admitted { io, facts, watch, core, .. } = admitted;
    let ends = (facts.peer, facts.destination.0);
    let mut agent = Agent {
        core: &core,
        view: &view,
        facts: &facts,
        ends,
        carrier: None,
        link: None,
        admitted: Rc::default(),
        said: Said::default(),
        cluster: watch::Sender::default(),
        lets_out: false,
        out: watch::Sender::default(),
        _place: None,
        instance: Arc::default(),
        memory: core.shared.memory.hold(&view.tenant().usage, Kind::Clients),
        message: 0,
        denied: None,
    };
    watch.arm(None, false);
    if let Some(socket) = io.socket() {
        // Without it bulk fills the socket, and a small stream waits behind that.
        let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(bounds::UNSENT);
    }
    let ended = watch.guard(Box::pin(carry(&mut agent, io, &watch))).await;
    // The watch may have ended it in the middle.
    if let (Some(link), Some(carrier)) = (&agent.link, &agent.carrier) {
        link.detach(carrier);
    }
    let refusal = match ended {
        _ if agent.denied.is_some() => agent.denied.take(),
        Ok(Ok(())) => None,
        Ok(Err(refusal)) => Some(refusal),
        Err(_) => Some(Refusal::closing(&watch)),
    };
    let outcome =
        Outcome { kind: "link", upstream: None, bytes: (0, 0), refusal: refusal.as_ref() };
    outcome.record(&core, Some(view.tenant()), &facts);
}

async fn carry(agent: &mut Agent<'_>, mut io: Io, watch: &Watch) -> Result<(), Refusal> {
    agent.memory.resize(CARRIER)?;
    io.prepay()?;
    let drain = async {
        watch.leaving().await;
        (LEAVE, Vec::new())
    };
    let most = Bounds::default();
    let (revoked, proving, exit) = (revoked(agent), proving(agent), exit(agent));
    if io.alpn() == Some(Alpn::Link.id()) {
        tokio::select! {
            ended = gateway::serve(Paced::of_server(io, Turn), most, agent, drain) => return of_session(ended),
            refusal = revoked => return Err(refusal),
            never = proving => match never {},
            never = exit => match never {},
        }
    }
    let patience = agent.view.tenant().tenant.limits.timeouts.header;
    let timeout = || Refusal::ClientTimeout { phase: "head" };
    let foreign = |error: &dyn std::error::Error| {
        tracing::debug!(%error, "no carrier of a link");
        Refusal::BadRequest { detail: "not a WebSocket of a link" }
    };
    let request = tokio::time::timeout(patience, websocket::Request::read(&mut io)).await;
    let request = request.map_err(|_| timeout())?.map_err(|error| foreign(&error))?;
    if let Some(operation) = rest::operation(&request) {
        let operation = operation.to_owned();
        return rest::serve(agent, io, &request, &operation).await;
    }
    let accepted = tokio::time::timeout(patience, websocket::accept_request(io, request)).await;
    let socket = accepted.map_err(|_| timeout())?.map_err(|error| foreign(&error))?;
    tokio::select! {
        ended = gateway::serve(Paced::of_server(socket, Turn), most, agent, drain) => of_session(ended),
        refusal = revoked => Err(refusal),
        never = proving => match never {},
        never = exit => match never {},
    }
}

/// Lets traffic out by a data carrier, once it is up and if its agent knows how.
fn exit<'a>(agent: &Agent<'a>) -> impl Future<Output = std::convert::Infallible> + use<'a> {
    let (core, view, facts) = (agent.core, agent.view, agent.facts);
    let (admitted, mut out) = (Rc::clone(&agent.admitted), agent.out.subscribe());
    Box::pin(async move {
        let carrier = match out.wait_for(Option::is_some).await {
            Ok(carrier) => carrier.clone(),
            Err(_) => None,
        };
        let Some((agent, carrier)) = admitted.get().cloned().zip(carrier) else {
            return std::future::pending().await;
        };
        out::Exit { core, view, facts, agent, carrier }.run().await
    })
}

/// Proves the public endpoint of the agent's cluster, once the agent said one.
fn proving<'a>(agent: &Agent<'a>) -> impl Future<Output = std::convert::Infallible> + use<'a> {
    let (core, view, client) = (agent.core, agent.view, agent.facts.client);
    let (admitted, mut cluster) = (Rc::clone(&agent.admitted), agent.cluster.subscribe());
    Box::pin(async move {
        // Only agents that were admitted say anything.
        if cluster.changed().await.is_err() {
            return std::future::pending().await;
        }
        let Some(name) = admitted.get().map(|agent| Arc::from(agent.name())) else {
            return std::future::pending().await;
        };
        let link = view.tenant().links.named(&name);
        direct::Prover { core, view, client, link, cluster }.run().await
    })
}

/// Completes when the configuration of that moment does not admit the agent any more.
fn revoked(agent: &Agent<'_>) -> impl Future<Output = Refusal> + use<> {
    let (admitted, view) = (Rc::clone(&agent.admitted), agent.view.clone());
    let (core, client) = (Rc::clone(agent.core), agent.facts.client.0.ip());
    async move {
        loop {
            tokio::time::sleep(RECHECK).await;
            let Some(admitted) = admitted.get() else { continue };
            // Without a listener of its tenant the connection ends by itself.
            let Some(now) = view.renewed(&core.shared.prepared.load(), client) else { continue };
            if admitted.link(&now).is_none() {
                let link = admitted.name().to_owned();
                return Refusal::LinkDenied { link, detail: "it is admitted no longer" };
            }
        }
    }
}

fn of_session(ended: Result<(), SessionError>) -> Result<(), Refusal> {
    ended.or_else(|error| match error {
        // Agents come and go; what they had open is counted where it broke.
        SessionError::Http2(_) | SessionError::ControlEnded => Ok(()),
        SessionError::NoMemory => Err(Refusal::Memory),
        SessionError::Dead | SessionError::Protocol(Violation::Silent(_)) => {
            Err(Refusal::ClientTimeout { phase: "stream" })
        }
        SessionError::Protocol(_) | SessionError::Message(_) | SessionError::Refused(_) => {
            Err(Refusal::BadRequest { detail: "the agent broke the protocol of the link" })
        }
    })
}

/// Turn of the tenant on its core, in which a carrier is read.
struct Turn;

impl Budget for Turn {
    fn spend(&mut self, bytes: usize) {
        turns::spend(bytes);
    }

    fn is_over(&mut self) -> bool {
        turns::is_over()
    }
}

/// Gateway's program around one carrier of an agent.
struct Agent<'a> {
    core: &'a Rc<Core>,
    view: &'a TenantView,
    facts: &'a Rc<ConnectionFacts>,
    /// Addresses of the socket: the agent's and ours.
    ends: (SocketAddr, SocketAddr),
    /// Carrier in use.
    carrier: Option<Arc<Carrier>>,
    /// Link that the agent is of, once it was admitted.
    link: Option<Arc<LinkState>>,
    /// What it was admitted by.
    admitted: Rc<OnceCell<AdmittedAgent>>,
    /// Routes that the agent said.
    said: Said,
    /// State of its cluster that the agent said.
    cluster: watch::Sender<ClusterState>,
    /// True if the agent knows streams on which traffic leaves.
    lets_out: bool,
    /// Carrier on which it may leave.
    out: watch::Sender<Option<Arc<Carrier>>>,
    /// Its place among the carriers of the link.
    _place: Option<Place>,
    /// Text that the agent's process chose for itself.
    instance: Arc<str>,
    /// Memory of the carrier, of the message that it receives, and of the agent's routes.
    memory: Hold,
    /// Bytes of the long message that is under way.
    message: usize,
    denied: Option<Refusal>,
}

impl Agent<'_> {
    /// Refuses an agent that is none of the link's, and counts that.
    fn deny(&mut self, link: &str, detail: &'static str) -> Refused {
        // The reason is the same, so that unknown clients cannot find out which links exist.
        self.refuse(link, detail, "this certificate or token is for no such link")
    }

    fn refuse(&mut self, link: &str, detail: &'static str, reason: &str) -> Refused {
        let link: String = link.chars().take(63).collect();
        tracing::warn!(tenant = %self.view.tenant().tenant.id, link, client = %self.facts.client, detail, "an agent was refused");
        self.denied = Some(Refusal::LinkDenied { link, detail });
        let retry_after_ms = u64::try_from(REFUSED.as_millis()).unwrap_or(u64::MAX);
        Refused { reason: reason.to_owned(), retry_after_ms }
    }

    /// Charges the tenant for what is held now.
    fn charge(&mut self) -> Result<(), Refusal> {
        self.memory.resize(CARRIER + self.message.saturating_mul(EXPANSION) + self.said.bytes())
    }

    /// Returns the listener as the configuration of this moment has it.
    fn renewed(&self) -> Option<TenantView> {
        let prepared = self.core.shared.prepared.load();
        self.view.renewed(&prepared, self.facts.client.0.ip())
    }

    /// Begins to register the agent's routes, as the configuration of this moment allows.
    fn register(&mut self) {
        let registry = self.core.shared.registry.clone();
        let caller = || self.admitted.get()?.caller(&self.renewed()?, self.facts);
        match registry.zip(caller()) {
            Some((registry, caller)) => self.said.register(registry, caller),
            // The connection ends, or nothing is registered here.
            None => self.said.stop(),
        }
    }
}

impl gateway::Host for Agent<'_> {
    fn admit(&mut self, hello: &Hello) -> Result<Admission, Refused> {
        let shown = Shown::by(self.facts, hello.token.as_ref());
        let Some(shown) = shown else {
            return Err(self.deny(&hello.link, "neither a client certificate nor a token"));
        };
        // The configuration may have changed since the connection began.
        let now = self.renewed();
        let agent = match (hello.link.as_str(), &now) {
            ("", Some(view)) => shown.only_link(view),
            (name, _) => Some(AdmittedAgent::new(name, shown)),
        };
        let Some(agent) = agent else {
            return Err(self.deny(
                "",
                "the agent names no link, and the token or certificate is not for one alone",
            ));
        };
        let link = now.as_ref().and_then(|view| agent.link(view));
        let Some(name) = link.map(|link| Arc::clone(&link.name)) else {
            return Err(self.deny(&hello.link, "the certificate or token is for no such link"));
        };
        let state = self.view.tenant().links.named(&name);
        let Some(place) = state.admit() else {
            let detail = "the link has as many carriers as it may";
            return Err(self.refuse(&hello.link, detail, detail));
        };
        let _ = self.admitted.set(agent);
        (self.link, self._place) = (Some(state), Some(place));
        self.lets_out = hello.capabilities.contains(OUT);
        self.instance = hello.instance.chars().take(64).collect::<String>().into();
        tracing::info!(
            tenant = %self.view.tenant().tenant.id, link = %name, client = %self.facts.client, purpose = ?hello.purpose,
            instance = hello.instance.chars().take(32).collect::<String>(), "an agent's carrier is up"
        );
        let cores = u32::try_from(self.core.shared.files.cores()).unwrap_or(CARRIERS);
        Ok(Admission {
            carriers: cores.clamp(1, CARRIERS),
            core: u32::try_from(self.core.id).unwrap_or(0),
            replica: std::process::id().to_string(),
            proof_key: self.link.as_ref().and_then(|link| link.proof_key().cloned()),
        })
    }

    fn opened(&mut self, carrier: &Arc<Carrier>) {
        if let Some(link) = &self.link {
            let (peer, local) = self.ends;
            self.carrier = Some(Arc::clone(carrier));
            if self.lets_out {
                self.out.send_replace(Some(Arc::clone(carrier)));
            }
            let (carrier, instance) = (Arc::clone(carrier), Arc::clone(&self.instance));
            link.attach(Attached { carrier, core: self.core.id, peer, local, instance });
        }
    }

    fn hold(&mut self, bytes: usize) -> bool {
        self.message = bytes;
        self.charge().is_ok()
    }

    fn routes(&mut self, routes: RouteSet) {
        if let Some(link) = &self.link {
            self.said.say(routes, link, &self.instance);
            // The message of the same routes was charged with more.
            let _ = self.charge();
        }
    }

    fn cluster(&mut self, state: ClusterState) {
        self.cluster.send_replace(state);
    }

    async fn registered(&mut self) -> Verdicts {
        loop {
            if self.said.is_running() {
                if let Some(verdicts) = self.said.finish().await {
                    return verdicts;
                }
                continue;
            }
            let Some(due) = self.said.due() else { return std::future::pending().await };
            tokio::time::sleep_until(due).await;
            self.register();
        }
    }

    fn closed(&mut self, carrier: &Arc<Carrier>) {
        if let Some(link) = &self.link {
            link.detach(carrier);
        }
    }
}
