//! Opens a connection to an endpoint from the tenant's own address, and checks that address before the first byte.
//!
//! Deliberately absent: `IP_FREEBIND`. An egress address that is not on this host fails in `bind` with a clear reason; with freebind, the connection
//! would only time out.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::upstream::UpstreamProtocol;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::endpoint::EndpointRuntime;
use super::http2::Shared;
use super::path::{Connected, Path, PortGuard, Ticket};
use super::per_core::Upstreams;
use super::ports;
use super::runtime::UpstreamRuntime;
use super::tenant::TenantRuntime;
use super::tls_client;
use crate::files::{self, FdPermit};
use crate::io::Io;
use crate::limits::UpstreamGuard;
use crate::memory::{self, Hold, Kind};
use crate::metrics::Counter;
use crate::refusal::Refusal;
use crate::turns::{self, Owner};

/// Pause between attempts to further addresses of one endpoint (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Connection to open: its tenant, upstream, endpoint and addresses.
pub(crate) struct Attempt<'a> {
    pub(crate) upstreams: &'a Rc<Upstreams>,
    pub(crate) tenant: &'a TenantRuntime,
    pub(crate) runtime: &'a Arc<UpstreamRuntime>,
    pub(crate) endpoint: &'a EndpointRuntime,
    pub(crate) addresses: &'a [SocketAddr],
    /// True if bytes are sent as soon as there is a connection, so that its first acknowledgement can travel with them.
    pub(crate) speaks_first: bool,
}

/// TCP connection, its local address, and its place among the path's ports.
pub(super) struct Dialled<S = TcpStream> {
    pub(super) stream: S,
    pub(super) source: SocketAddr,
    pub(super) port: PortGuard,
}

impl Attempt<'_> {
    /// Connects within the tenant's `connect` timeout, TLS included; `header` is sent before TLS.
    pub(crate) async fn connect(
        &self,
        guard: Option<UpstreamGuard>,
        header: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Connected, Refusal> {
        if let Some(path) = &self.endpoint.through {
            let mut guard = guard;
            if header.is_none() && self.runtime.upstream.direct.is_some() {
                let directly = Box::pin(self.connect_directly(path, &mut guard, timeout)).await;
                if let Some(connected) = directly {
                    return Ok(connected);
                }
            }
            return Box::pin(self.connect_through(path, guard, header, timeout)).await;
        }
        let began = Instant::now();
        let Some(first) = self.addresses.first() else {
            return Err(Refusal::NoEndpoint {
                upstream: self.runtime.upstream.name.to_string(),
                detail: format!("{} has no address", self.endpoint.target),
            });
        };
        let ours = guard.is_none();
        let memory = self.memory(ours)?;
        let connecting = async {
            let Dialled { stream, source, port } = self.race(ours).await?;
            Ok((self.secure(stream, &port.0, header).await?, source, port))
        };
        let (io, source, port) = match tokio::time::timeout(timeout, connecting).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Refusal::ConnectTimeout { peer: *first }),
        };
        let took = began.elapsed();
        let metrics = &self.tenant.metrics;
        let cells = metrics.core(self.upstreams.core);
        if guard.is_some() {
            cells.add(Counter::UpstreamConnectionsNew, 1);
            cells.connect_duration.observe(took);
        }
        let ticket = Ticket {
            _memory: memory,
            peer: port.0.peer(),
            port,
            source,
            retired: Arc::clone(self.endpoint.life.retired()),
            metrics: Arc::clone(metrics),
            core: self.upstreams.core,
            guard,
            bound: false,
            way: None,
        };
        Ok(Connected { io, ticket, took })
    }

    /// Connects to the first of the endpoint's addresses that answers, IPv6 and IPv4 alternating, with a new attempt every [`STAGGER`].
    pub(super) async fn race(&self, ours: bool) -> Result<Dialled, Refusal> {
        if let [only] = self.addresses {
            return self.reach(*only, ours).await;
        }
        let mut waiting = interleave(self.addresses).into_iter();
        let mut running = FuturesUnordered::new();
        running.extend(waiting.next().map(|peer| self.reach(peer, ours)));
        let mut failed = None;
        loop {
            let stagger = tokio::time::sleep(STAGGER);
            tokio::select! {
                Some(outcome) = running.next() => match outcome {
                    Ok(connected) => return Ok(connected),
                    Err(refusal) => failed = Some(worse(failed, refusal)),
                },
                () = stagger, if waiting.len() > 0 => {}
                else => {}
            }
            running.extend(waiting.next().map(|peer| self.reach(peer, ours)));
            if running.is_empty() {
                let peer = self.addresses[0];
                let detail = "no address left to try".to_owned();
                return Err(failed.unwrap_or(Refusal::EgressAddress { peer, detail }));
            }
        }
    }

    /// Connects to one address from the tenant's least used source that works.
    async fn reach(&self, peer: SocketAddr, ours: bool) -> Result<Dialled, Refusal> {
        let mut paths = self.paths(peer)?;
        paths.sort_by_key(|path| path.ports());
        let mut detail = "none is of its family".to_owned();
        let mut exhausted = None;
        for path in paths {
            if let Err(refusal) = ports::admit(&path) {
                exhausted = Some(refusal);
                continue;
            }
            let port = PortGuard::new(path, self.place(ours)?);
            match self.dial(&port.0).await {
                Ok((stream, source)) => return Ok(Dialled { stream, source, port }),
                Err(Refusal::EgressAddress { detail: why, .. }) => detail = why,
                Err(refusal @ Refusal::PortsExhausted { .. }) => exhausted = Some(refusal),
                Err(refusal) => return Err(refusal),
            }
        }
        Err(exhausted.unwrap_or(Refusal::EgressAddress { peer, detail }))
    }

    /// Takes a file descriptor. A tenant that has used up its share closes idle connections first; a health check is not charged to the tenant's
    /// share.
    fn place(&self, ours: bool) -> Result<FdPermit, Refusal> {
        let (files, tenant) = (&self.upstreams.files, self.tenant);
        if ours {
            return Ok(files.dial_anyway(&tenant.usage));
        }
        files.dial(&tenant.usage).or_else(|refusal| {
            match self.upstreams.pools.make_room(Some(&tenant.metrics)) {
                0 => Err(refusal),
                _ => files.dial(&tenant.usage),
            }
        })
    }

    /// Charges memory for one connection; the tenant's idle connections make room. A health check is not charged.
    pub(super) fn memory(&self, ours: bool) -> Result<Hold, Refusal> {
        let (memory, tenant) = (&self.upstreams.memory, self.tenant);
        let mut hold = memory.hold(&tenant.usage, Kind::Upstreams);
        if ours {
            return Ok(hold);
        }
        let upstream = &self.runtime.upstream;
        let price = match (&upstream.link, &upstream.tls) {
            (Some(_), None) => memory::LINK_STREAM,
            (Some(_), Some(_)) => memory::LINK_STREAM + memory::TLS_BACKLOG,
            (None, Some(_)) => memory::TLS_CONNECTION,
            (None, None) => memory::CONNECTION,
        };
        hold.grow(price).or_else(|refusal| {
            match self.upstreams.pools.make_room(Some(&tenant.metrics)) {
                0 => Err(refusal),
                _ => hold.grow(price),
            }
        })?;
        Ok(hold)
    }

    /// Starts HTTP/2 on a new connection.
    pub(crate) async fn http2(&self, mut connected: Connected) -> Result<Rc<Shared>, Refusal> {
        connected.io.prepay()?;
        let memory = &self.upstreams.memory;
        let held = memory.hold(&self.tenant.usage, Kind::Upstreams);
        let turn = self.upstreams.turns.of(&Owner::Tenant(self.tenant.tenant.id.clone()));
        let (window, place) = (memory.stream_window(), turns::QueueEntry::new(turn));
        let block = self.tenant.tenant.limits.timeouts.header;
        Shared::start(connected, held, window, block, place).await
    }

    /// Returns the paths to `peer`, one per source address of its family.
    pub(crate) fn paths(&self, peer: SocketAddr) -> Result<Vec<Arc<Path>>, Refusal> {
        let upstream = &self.runtime.upstream;
        let sources = upstream.sources.iter().filter(|source| source.reaches(peer.ip()));
        sources
            .map(|source| self.endpoint.path(&self.tenant.tenant, peer, *source, upstream.protocol))
            .collect()
    }

    /// Connects a socket; returns it with its local address.
    async fn dial(&self, path: &Path) -> Result<(TcpStream, SocketAddr), Refusal> {
        let (peer, wanted) = (path.peer().0, path.source().0);
        let unusable =
            |detail: &str| Refusal::EgressAddress { peer, detail: format!("{wanted}: {detail}") };
        let bind = || bound(path, self.speaks_first);
        let bound = bind().or_else(|error| {
            let more = files::are_exhausted(&error) && self.upstreams.pools.make_room(None) > 0;
            if more { bind() } else { Err(error) }
        });
        let socket = bound.map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => unusable("not on this host"),
            _ => Refusal::Socket(error),
        })?;
        let stream = connect(socket, peer).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrNotAvailable => Refusal::PortsExhausted { peer },
            _ => Refusal::ConnectFailed { peer, source },
        })?;
        let source = self.check(&stream, path)?;
        Ok((stream, source))
    }

    /// Reads the connection's local address by `getsockname`. Nothing is sent unless it is the tenant's.
    pub(super) fn check(&self, stream: &TcpStream, path: &Path) -> Result<SocketAddr, Refusal> {
        let (peer, wanted) = (path.peer().0, path.source().0);
        let cells = self.tenant.metrics.core(self.upstreams.core);
        let actual = stream.local_addr().map_err(Refusal::Socket)?;
        cells.add(Counter::IsolationChecks, 1);
        if actual.ip().to_canonical() != wanted {
            cells.add(Counter::IsolationViolations, 1);
            tracing::error!(%peer, %actual, %wanted, "a connection would leave from a foreign address");
            return Err(Refusal::IsolationViolation { peer, actual, wanted });
        }
        if actual == peer {
            let source = io::Error::other("TCP self-connect: nothing listens there");
            return Err(Refusal::ConnectFailed { peer, source });
        }
        Ok(actual)
    }

    async fn secure(
        &self,
        mut stream: TcpStream,
        path: &Path,
        header: Option<Vec<u8>>,
    ) -> Result<Io, Refusal> {
        let peer = path.peer().0;
        if let Some(header) = header {
            let sent = stream.write_all(&header).await;
            sent.map_err(|source| Refusal::ConnectFailed { peer, source })?;
        }
        Ok(match (&self.runtime.tls, &self.endpoint.verify) {
            (Some(config), Some(verify)) => {
                let mut io = tls_client::handshake(config, verify, stream, peer).await?;
                let memory = &self.upstreams.memory;
                io.count(memory.hold(&self.tenant.usage, Kind::Upstreams));
                io
            }
            _ => Io::Tcp(stream),
        })
    }
}

/// Binds a socket to the path's source. Its port is chosen by `connect` (`IP_BIND_ADDRESS_NO_PORT`), so that one port serves many peers.
fn bound(path: &Path, speaks_first: bool) -> io::Result<Socket> {
    let source = SocketAddr::new(path.source().0, 0);
    let socket = Socket::new(
        Domain::for_address(source),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    let _kernel_may_lack_it = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
    socket.set_tcp_nodelay(true)?;
    if speaks_first {
        // Off until the connection stands (tcp(7)): a segment less each, here and at the peer.
        let _costs_a_segment = socket.set_tcp_quickack(false);
    }
    socket.bind(&source.into())?;
    Ok(socket)
}

/// Connects a socket. Whether it is connected is known from how it became ready: only after an error is the kernel asked for it.
async fn connect(socket: Socket, peer: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&peer.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    let failed = ready.is_error() || ready.is_write_closed();
    match failed.then(|| stream.take_error()).transpose()?.flatten() {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Alternates families, IPv6 first, each in the order given (RFC 8305, section 4).
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut v6 = addresses.iter().filter(|address| address.is_ipv6());
    let mut v4 = addresses.iter().filter(|address| address.is_ipv4());
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(v6.next().into_iter().chain(v4.next()));
    }
    order
}

/// Returns the more telling of two refusals: a peer's answer rather than our lack of an address of its family.
fn worse(first: Option<Refusal>, second: Refusal) -> Refusal {
    match (first, second) {
        (Some(first), Refusal::EgressAddress { .. } | Refusal::PortsExhausted { .. }) => first,
        (_, second) => second,
    }
}

/// Returns true if connections to the upstream are kept for the next request.
pub(crate) fn reusable(runtime: &UpstreamRuntime) -> bool {
    runtime.upstream.send_proxy.is_none() && runtime.upstream.protocol != UpstreamProtocol::Tcp
}
