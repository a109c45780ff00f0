//! Agents of links: serves the connection that an agent dialled, so that the tenant's upstreams can take streams of it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use durward_link::carrier::websocket;
use durward_link::control::{Hello, Refused, Violation};
use durward_link::session::SessionError;
use durward_link::session::gateway::{self, Admission, Carrier};
use durward_link::session::pace::{Budget, Paced};
use durward_link::{Bounds, RouteSet, bounds};
use durward_model::Service;
use durward_model::link::LinkService;
use durward_model::server_tls::Alpn;

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

/// Data carriers wanted of an agent at most; beyond, cores share them.
const CARRIERS: u32 = 8;
/// Wait of an agent that is refused before it dials again.
const REFUSED: Duration = Duration::from_secs(30);
/// Time that an agent may stay once it was asked to leave and has another carrier: requests under way may still open streams.
const LEAVE: Duration = Duration::from_secs(1);
/// Bytes charged for a carrier: HTTP/2, and messages of the control stream that wait in either direction.
const CARRIER: usize = HTTP2_CONNECTION + 128 * 1024;
/// Bytes of memory per byte of a long message at most: what was received, and the routes that are read from it.
const EXPANSION: usize = 3;

/// Serves a connection of an agent to its end.
pub(crate) async fn serve(admitted: Admitted) {
    let view = admitted.view.clone();
    let Service::Link(service) = &view.listener().service else { return };
    let Admitted { io, facts, watch, core, .. } = admitted;
    let ends = (facts.peer, facts.destination.0);
    let mut agent = Agent {
        core: &core,
        view: &view,
        service,
        facts: &facts,
        ends,
        carrier: None,
        link: None,
        _place: None,
        instance: Arc::default(),
        memory: core.shared.memory.hold(&view.tenant().usage, Kind::Clients),
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
    let ended = if io.alpn() == Some(Alpn::Link.id()) {
        gateway::serve(Paced::of_server(io, Turn), most, agent, drain).await
    } else {
        let patience = agent.view.tenant().tenant.limits.timeouts.header;
        let socket = match tokio::time::timeout(patience, websocket::accept(io)).await {
            Ok(accepted) => accepted.map_err(|error| {
                tracing::debug!(%error, "no carrier of a link");
                Refusal::BadRequest { detail: "not a WebSocket of a link" }
            })?,
            Err(_) => return Err(Refusal::ClientTimeout { phase: "head" }),
        };
        gateway::serve(Paced::of_server(socket, Turn), most, agent, drain).await
    };
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
    service: &'a LinkService,
    facts: &'a Rc<ConnectionFacts>,
    /// Addresses of the socket: the agent's and ours.
    ends: (SocketAddr, SocketAddr),
    /// Carrier in use.
    carrier: Option<Arc<Carrier>>,
    /// Link that the agent is of, once it was admitted.
    link: Option<Arc<LinkState>>,
    /// Its place among the carriers of the link.
    _place: Option<Place>,
    /// Text that the agent's process chose for itself.
    instance: Arc<str>,
    /// Memory of the carrier and of the message that it receives.
    memory: Hold,
    denied: Option<Refusal>,
}

impl Agent<'_> {
    /// Refuses an agent that is none of the link's, and counts that.
    fn deny(&mut self, link: &str, detail: &'static str) -> Refused {
        // Which links there are is not for strangers to know: the reason is the same.
        self.refuse(link, detail, "this certificate is for no such link")
    }

    fn refuse(&mut self, link: &str, detail: &'static str, reason: &str) -> Refused {
        let link: String = link.chars().take(63).collect();
        tracing::warn!(tenant = %self.view.tenant().tenant.id, link, client = %self.facts.client, detail, "an agent was refused");
        self.denied = Some(Refusal::LinkDenied { link, detail });
        let retry_after_ms = u64::try_from(REFUSED.as_millis()).unwrap_or(u64::MAX);
        Refused { reason: reason.to_owned(), retry_after_ms }
    }
}

impl gateway::Host for Agent<'_> {
    fn admit(&mut self, hello: &Hello) -> Result<Admission, Refused> {
        let certificate = self.facts.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        let Some(certificate) = certificate else {
            return Err(self.deny(&hello.link, "no client certificate"));
        };
        let Some(link) = self.service.link(&hello.link, certificate.names()) else {
            return Err(self.deny(&hello.link, "the certificate is for no such link"));
        };
        let state = self.view.tenant().links.named(&link.name);
        let Some(place) = state.admit() else {
            let detail = "the link has as many carriers as it may";
            return Err(self.refuse(&hello.link, detail, detail));
        };
        (self.link, self._place) = (Some(state), Some(place));
        self.instance = hello.instance.chars().take(64).collect::<String>().into();
        tracing::info!(
            tenant = %self.view.tenant().tenant.id, link = %link.name, client = %self.facts.client, purpose = ?hello.purpose,
            instance = hello.instance.chars().take(32).collect::<String>(), "an agent's carrier is up"
        );
        let cores = u32::try_from(self.core.shared.files.cores()).unwrap_or(CARRIERS);
        Ok(Admission {
            carriers: cores.clamp(1, CARRIERS),
            core: u32::try_from(self.core.id).unwrap_or(0),
            replica: std::process::id().to_string(),
        })
    }

    fn opened(&mut self, carrier: &Arc<Carrier>) {
        if let Some(link) = &self.link {
            let (peer, local) = self.ends;
            self.carrier = Some(Arc::clone(carrier));
            let (carrier, instance) = (Arc::clone(carrier), Arc::clone(&self.instance));
            link.attach(Attached { carrier, core: self.core.id, peer, local, instance });
        }
    }

    fn hold(&mut self, bytes: usize) -> bool {
        self.memory.resize(CARRIER + bytes.saturating_mul(EXPANSION)).is_ok()
    }

    fn routes(&mut self, routes: RouteSet) {
        if let Some(link) = &self.link {
            link.register(&routes);
        }
    }

    fn closed(&mut self, carrier: &Arc<Carrier>) {
        if let Some(link) = &self.link {
            link.detach(carrier);
        }
    }
}
