//! Admission of a connection, in this order so that an unknown client costs little: tenant by destination, allowed source, limits, TLS.
//!
//! Deliberately absent: a default tenant, listener or certificate.

mod named;
mod passing;
pub(crate) mod sessions;
mod shared_proxy;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::address::canonical;
use durward_model::discriminator::Opening;
use durward_model::limits::Timeouts;
use durward_model::server_tls::ServerTls;
use durward_model::{ClientAddr, Destination, DestinationMode, Listener, Service};
use tokio::net::TcpStream;

use crate::admitted::Admitted;
use crate::connection::{ConnectionFacts, ProxyFacts, TlsFacts};
use crate::core::Core;
use crate::io::Io;
use crate::limits::ConnectionGuard;
use crate::memory::{self, Hold, Kind};
use crate::metrics::{Cells, Counter, TenantMetrics};
use crate::outcome::Outcome;
use crate::peek;
use crate::prepared::{ListenerMatch, PreparedBind, PreparedListener, TenantView};
use crate::refusal::Refusal;
use crate::reject;
use crate::socks::Greeted;
use crate::tls::handshake::{self, Failed};
use crate::turns::{self, Owner};
use crate::unidentified;
use crate::watch::{Expired, Watch};
use passing::Hello;
use shared_proxy::Identified;

/// Accepted connection of which nothing is known yet.
pub(crate) struct Accepted {
    /// The socket.
    pub(crate) stream: TcpStream,
    /// Remote address of the socket.
    pub(crate) peer: SocketAddr,
    /// Local address of the socket.
    pub(crate) local: SocketAddr,
    /// Bind it was accepted on; `None` if the configuration has just removed that bind.
    pub(crate) bind: Option<Arc<PreparedBind>>,
    /// Time of `accept`.
    pub(crate) at: Instant,
    /// Core that serves the connection.
    pub(crate) core: Rc<Core>,
    /// Place in the core's scheduling of turns.
    pub(crate) turn: Rc<turns::QueueEntry>,
}

/// Admitted connection, and the guards that count it.
pub(crate) struct Entrance {
    /// Connection to be served.
    pub(crate) admitted: Admitted,
    /// Guards to drop when the connection ends.
    pub(crate) counted: Counted,
}

/// Guards that count a connection as open while they live.
pub(crate) struct Counted {
    metrics: Arc<TenantMetrics>,
    core: usize,
    _limit: (ConnectionGuard, Hold),
    _outer: Option<Hold>,
}

/// Refused connection.
pub(crate) struct TurnedAway {
    visit: Visit,
    refusal: Refusal,
    /// `None` if the connection was aborted while a step owned the socket.
    stream: Option<TcpStream>,
}

/// State of a connection under admission.
struct Visit {
    core: Rc<Core>,
    turn: Rc<turns::QueueEntry>,
    watch: Watch,
    bind: Option<Arc<PreparedBind>>,
    began: Instant,
    peer: SocketAddr,
    client: ClientAddr,
    /// Local address of the socket.
    local: SocketAddr,
    destination: Destination,
    proxied: ProxyFacts,
    listener: Option<Arc<PreparedListener>>,
    /// First message of the client, if it names the tenant.
    opening: Option<Opening>,
    /// Server name of a handshake that failed.
    name: Option<String>,
    /// Session of an API proxy that is refused after its handshake.
    tls: Option<TlsFacts>,
    /// Place among the connections without a tenant, until a tenant is found.
    unidentified: Option<unidentified::UnidentifiedGuard>,
}

/// Admits a connection, or returns why it is refused.
pub(crate) async fn enter(accepted: Accepted) -> Result<Entrance, TurnedAway> {
    let (mut visit, stream) = Visit::begin(accepted);
    let listener = match visit.find(&stream).await {
        Ok(ListenerMatch::One(listener)) => listener,
        Ok(ListenerMatch::Several(candidates)) => {
            return Box::pin(visit.by_proxy_identity(stream, &candidates)).await;
        }
        Ok(ListenerMatch::Named(opening)) => return Box::pin(visit.by_name(stream, opening)).await,
        Err(refusal) => return Err(visit.turn_away(refusal, Some(stream))),
    };
    let limit = match visit.check(&listener) {
        Ok(limit) => limit,
        Err(refusal) => return Err(visit.turn_away(refusal, Some(stream))),
    };
    let patience = listener.tenant.tenant.limits.timeouts.handshake;
    match visit.secure(stream, &listener, patience).await {
        Ok(secured) => Ok(visit.admit(listener, secured, limit)),
        Err((refusal, stream)) => Err(visit.turn_away(refusal, stream)),
    }
}

/// Stream to serve, facts of its TLS session, and bytes read ahead.
struct Secured {
    io: Io,
    tls: Option<TlsFacts>,
    early: Vec<u8>,
    greeted: Option<Greeted>,
    /// Memory of an outer TLS session, beyond that of a connection without TLS.
    outer: Option<Hold>,
}

impl Secured {
    /// Takes a connection on which no TLS session of ours is.
    fn plain(stream: TcpStream, early: Vec<u8>, tls: Option<TlsFacts>) -> Self {
        Self { io: Io::Tcp(stream), tls, early, greeted: None, outer: None }
    }
}

impl Visit {
    fn begin(accepted: Accepted) -> (Self, TcpStream) {
        let Accepted { stream, peer, local, bind, at, core, turn } = accepted;
        let (peer, local) = (canonical(peer), canonical(local));
        let watch = core.watchdog.watch();
        watch.arm(Some(Timeouts::default().handshake), false);
        let (client, destination) = (ClientAddr(peer), Destination(local));
        let (listener, name) = (None, None);
        // A trusted proxy brings many clients, so its address must not count as one source.
        let brings_many = bind.as_ref().is_some_and(|bind| match &bind.bind.mode {
            DestinationMode::ProxyProtocol { trusted, .. } => trusted.contains(peer.ip()),
            _ => false,
        });
        let at_bind = bind.as_ref().map_or(local, |bind| bind.bind.address);
        let source = (!brings_many).then_some(peer.ip());
        let most = core.most_unidentified();
        let place = core.unidentified.enter(most, (at_bind, source), watch.closer());
        let visit = Self {
            core,
            turn,
            watch,
            bind,
            began: at,
            peer,
            client,
            local,
            destination,
            proxied: ProxyFacts::default(),
            listener,
            opening: None,
            name,
            tls: None,
            unidentified: Some(place),
        };
        (visit, stream)
    }

    /// Finds the tenant by destination, and by source where several tenants share the bind.
    async fn find(&mut self, stream: &TcpStream) -> Result<ListenerMatch, Refusal> {
        let unknown =
            |destination: Destination| Refusal::UnknownAddress { destination: destination.0 };
        let Some(bind) = self.bind.clone() else { return Err(unknown(self.destination)) };
        let local = self.local;
        let peeking = peek::peek(stream, &bind.bind.mode, self.peer, local);
        let peeked =
            self.watch.guard(peeking).await.map_err(|expired| given_up(&self.watch, expired))??;
        (self.client, self.destination) = (peeked.client, peeked.destination);
        self.proxied = peeked.proxied;
        let found = bind.found(self.destination, local.ip(), self.client.0.ip());
        let found = found.or_else(|| self.hosting(&bind, [peeked.first, Destination(local)]));
        let found = found.ok_or_else(|| unknown(self.destination))?;
        match &found {
            ListenerMatch::One(listener) => self.belongs_to(listener),
            ListenerMatch::Several(candidates) if candidates.is_empty() => {
                return Err(Refusal::SourceNotAllowed { client: self.client.0 });
            }
            ListenerMatch::Several(_) | ListenerMatch::Named(_) => {}
        }
        Ok(found)
    }

    fn belongs_to(&mut self, listener: &Arc<PreparedListener>) {
        self.watch.retire_with(&listener.retirement, self.client.0.ip());
        let owner = Owner::Tenant(listener.listener.tenant.clone());
        self.turn.belong_to(self.core.turns.of(&owner));
        self.listener = Some(Arc::clone(listener));
        self.unidentified = None;
    }

    /// Admits a connection that several tenants may own, once certificate or credential identify the tenant. TLS settings of the candidates are
    /// equal.
    async fn by_proxy_identity(
        mut self,
        stream: TcpStream,
        candidates: &[Arc<PreparedListener>],
    ) -> Result<Entrance, TurnedAway> {
        let patience = Timeouts::default().handshake;
        // Candidates on one bind have equal TLS settings, so the handshake may use any of them.
        let mut secured = match self.secure(stream, &candidates[0], patience).await {
            Ok(secured) => secured,
            Err((refusal, stream)) => return Err(self.turn_away(refusal, stream)),
        };
        let shared = &self.core.shared;
        let mut memory = shared.memory.hold(&shared.unidentified, Kind::Clients);
        let tls = secured.tls.as_ref();
        let identifying = shared_proxy::identify(&mut secured.io, tls, candidates, &mut memory);
        let identified = match self.watch.guard(identifying).await {
            Ok(Ok(identified)) => identified,
            Ok(Err(refusal)) => return Err(self.turn_away(refusal, None)),
            Err(expired) => {
                let refusal = given_up(&self.watch, expired);
                return Err(self.turn_away(refusal, None));
            }
        };
        let listener = match self.as_of_now(&identified) {
            Ok(listener) => listener,
            Err(refusal) => return Err(self.turn_away(refusal, None)),
        };
        (secured.early, secured.greeted) = (identified.early, identified.greeted);
        self.belongs_to(&listener);
        match self.check(&listener) {
            Ok(limit) => Ok(self.admit(listener, secured, limit)),
            Err(refusal) => Err(self.turn_away(refusal, None)),
        }
    }

    /// Returns the listener of the current configuration, if it changed during the handshake. The credential or certificate shown must still be valid
    /// there.
    fn as_of_now(&self, identified: &Identified) -> Result<Arc<PreparedListener>, Refusal> {
        if !identified.listener.retirement.outdated() {
            return Ok(Arc::clone(&identified.listener));
        }
        let now =
            identified.listener.renewed(&self.core.shared.prepared.load(), self.client.0.ip());
        let now = now.ok_or(Refusal::Draining)?;
        let view = |listener: &Arc<PreparedListener>| TenantView::admitted(Arc::clone(listener));
        let counts = match (&now.listener.service, &identified.greeted) {
            (Service::Forward(service), Some(greeted)) => greeted.counts_at(service),
            _ => true,
        };
        // The handshake was verified against the former authorities and revocation lists.
        if !view(&now).trusts_like(&view(&identified.listener)) || !counts {
            return Err(Refusal::Draining);
        }
        Ok(now)
    }

    /// Checks allowed sources and limits, before the client costs a handshake.
    fn check(&self, listener: &PreparedListener) -> Result<(ConnectionGuard, Hold), Refusal> {
        let client = self.client.0;
        if !listener.listener.admits(client.ip()) {
            return Err(Refusal::SourceNotAllowed { client });
        }
        let tenant = &listener.tenant;
        let guard = tenant.usage.connection(&tenant.tenant.limits, client.ip())?;
        let held = usize::try_from(tenant.usage.connections()).unwrap_or(usize::MAX);
        let fair = self.core.shared.files.clients.allows(held);
        if !fair {
            return Err(Refusal::FairShare { of: "connections" });
        }
        let mut hold = self.core.shared.memory.hold(&tenant.usage, Kind::Clients);
        hold.grow(match listener.listener.tls() {
            Some(_) => memory::TLS_CONNECTION,
            None => memory::CONNECTION,
        })?;
        Ok((guard, hold))
    }

    /// Terminates TLS, or reads the ClientHello of a pass-through connection.
    async fn secure(
        &mut self,
        stream: TcpStream,
        listener: &PreparedListener,
        patience: Duration,
    ) -> Result<Secured, (Refusal, Option<TcpStream>)> {
        if listener.listener.tls().is_some() {
            return self.terminate(stream, &[], listener, patience).await;
        }
        self.watch.arm(Some(patience.saturating_sub(self.began.elapsed())), false);
        if !matches!(listener.listener.service, Service::PassThrough(_)) {
            return Ok(Secured::plain(stream, Vec::new(), None));
        }
        match self.watch.guard(peek::client_hello(&stream, None)).await {
            Ok(Ok((hello, early))) => {
                let hello = Hello::new(hello, early);
                // Boxed, as other connections need no room for this future.
                Box::pin(self.pass(stream, listener, hello)).await
            }
            Ok(Err(refusal)) => Err((refusal, Some(stream))),
            Err(expired) => Err((given_up(&self.watch, expired), Some(stream))),
        }
    }

    /// Terminates TLS. `early` are bytes that were read before.
    async fn terminate(
        &mut self,
        stream: TcpStream,
        early: &[u8],
        listener: &PreparedListener,
        patience: Duration,
    ) -> Result<Secured, (Refusal, Option<TcpStream>)> {
        self.watch.arm(Some(patience.saturating_sub(self.began.elapsed())), false);
        let Some(tls) = listener.listener.tls() else {
            return Err((Refusal::Draining, Some(stream)));
        };
        self.handshake(stream, early, (&listener.listener, tls), &listener.server_configs).await
    }

    /// Performs a TLS handshake within the deadline that is armed.
    async fn handshake(
        &mut self,
        stream: TcpStream,
        early: &[u8],
        of_tls: (&Listener, &ServerTls),
        configs: &[Arc<rustls::ServerConfig>],
    ) -> Result<Secured, (Refusal, Option<TcpStream>)> {
        let handshake = handshake::terminate(stream, early, of_tls, configs);
        match self.watch.guard(handshake).await {
            Ok(Ok((stream, facts))) => Ok(Secured {
                io: Io::tls(stream.into()),
                tls: Some(facts),
                early: Vec::new(),
                greeted: None,
                outer: None,
            }),
            Ok(Err(Failed { refusal, stream, name })) => {
                self.name = name;
                Err((refusal, Some(stream)))
            }
            Err(expired) => Err((given_up(&self.watch, expired), None)),
        }
    }

    fn admit(
        self,
        listener: Arc<PreparedListener>,
        mut secured: Secured,
        limit: (ConnectionGuard, Hold),
    ) -> Entrance {
        let metrics = Arc::clone(&listener.tenant.metrics);
        let cells = metrics.core(self.core.id);
        cells.add(Counter::ConnectionsOpened, 1);
        if let Some(tls) = &secured.tls {
            count_handshake(cells, tls, self.began.elapsed());
            tls.shown.iter().for_each(|chain| self.watch.has_shown(chain));
        }
        let core = self.core.id;
        let memory = &self.core.shared.memory;
        secured.io.count(memory.hold(&listener.tenant.usage, Kind::Clients));
        let facts = self.facts(secured.tls);
        let admitted = Admitted {
            io: secured.io,
            early: secured.early,
            view: TenantView::admitted(listener),
            facts: Rc::new(facts),
            watch: self.watch,
            core: self.core,
            greeted: secured.greeted,
        };
        let counted = Counted { metrics, core, _limit: limit, _outer: secured.outer };
        Entrance { admitted, counted }
    }

    fn facts(&self, tls: Option<TlsFacts>) -> ConnectionFacts {
        ConnectionFacts {
            accepted: self.began,
            client: self.client,
            peer: self.peer,
            destination: self.destination,
            tls,
            link: None,
            proxied: self.proxied.clone().boxed(),
        }
    }

    /// Returns true if the client is expected to begin with a ClientHello.
    fn speaks_tls(&self) -> bool {
        let bind = || self.bind.as_ref().is_some_and(|bind| bind.speaks_tls());
        self.opening.map_or_else(bind, |opening| opening == Opening::ClientHello)
    }

    fn turn_away(self, refusal: Refusal, stream: Option<TcpStream>) -> TurnedAway {
        TurnedAway { visit: self, refusal, stream }
    }
}

/// Counts a TLS handshake. Pass-through has no version of ours and is not counted.
fn count_handshake(cells: &Cells, tls: &TlsFacts, duration: Duration) {
    match tls.version {
        "TLSv1.3" => cells.add(Counter::HandshakesTls13, 1),
        "TLSv1.2" => cells.add(Counter::HandshakesTls12, 1),
        _ => return,
    }
    if tls.resumed {
        cells.add(Counter::HandshakesResumed, 1);
    }
    cells.handshake_duration.observe(duration);
}

fn given_up(watch: &Watch, expired: Expired) -> Refusal {
    match expired {
        Expired::Deadline => Refusal::ClientTimeout { phase: "handshake" },
        Expired::Closing if watch.is_crowded() => Refusal::Crowded,
        Expired::Closing => Refusal::closing(watch),
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.core(self.core).add(Counter::ConnectionsClosed, 1);
    }
}

impl TurnedAway {
    /// Records the refusal and closes the connection in the way of its protocol: alert, response or reset.
    pub(crate) async fn leave(mut self) {
        self.record();
        let Some(stream) = self.stream else { return };
        let farewell = reject::choose(
            &self.refusal,
            self.visit.listener.as_deref().map(|listener| &*listener.listener),
            self.visit.speaks_tls(),
        );
        reject::say(stream, farewell, &self.visit.watch).await;
    }

    fn record(&mut self) {
        let shown = self.visit.tls.take();
        let visit = &self.visit;
        let tenant = visit.listener.as_ref().map(|listener| &*listener.tenant);
        let duration = visit.began.elapsed();
        let asked_for = visit.name.clone().map(|name| TlsFacts::asked_for(Some(name), duration));
        let outcome = Outcome::refused("refused", &self.refusal);
        outcome.record(&visit.core, tenant, &visit.facts(shown.or(asked_for)));
    }
}
