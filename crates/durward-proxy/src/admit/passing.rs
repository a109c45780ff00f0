//! Admission to pass-through routes: sources of the hosted API server, and the outer TLS connection of a tenant cluster's API proxy.
//!
//! Whatever an API proxy says, it reaches the API server alone whose relay authorities have verified its certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::address::canonical;
use durward_model::server_name::server_name;
use durward_model::server_tls::{API_PROXY, ServerTls};
use durward_model::{Destination, HostedApi};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Secured, Visit, given_up};
use crate::connection::{ProxyFacts, TlsFacts};
use crate::io::Io;
use crate::memory::{self, Hold, Kind};
use crate::peek;
use crate::peek::client_hello::ClientHello;
use crate::peek::proxy_header::{self, Header, Progress};
use crate::prepared::{ListenerMatch, PreparedBind, PreparedListener, routes};
use crate::refusal::Refusal;
use crate::reject::{self, UNRECOGNIZED_NAME};

/// Bytes read at once for the header inside an outer connection.
const CHUNK: usize = 1024;

/// ClientHello, as far as it matters here.
pub(super) struct Hello {
    /// Server name; `None` without one.
    pub(super) name: Option<String>,
    /// Bytes that were read to see it.
    pub(super) early: Vec<u8>,
    /// True if it begins the outer connection of a tenant cluster's API proxy.
    pub(super) is_proxy: bool,
}

impl Hello {
    /// Takes a parsed ClientHello and its bytes.
    pub(super) fn new(hello: ClientHello, early: Vec<u8>) -> Self {
        let is_proxy = hello.alpn.iter().any(|protocol| protocol == API_PROXY);
        Self { name: hello.server_name, early, is_proxy }
    }
}

/// Refusal, and the socket if it is still without TLS.
type Refused = (Refusal, Option<TcpStream>);

impl Visit {
    /// Returns the listener of the hosted API server that a PROXY header's authority names. What others than hosted API servers are called decides SNI.
    pub(super) fn by_authority(&self) -> Option<Arc<PreparedListener>> {
        let authority = self.proxied.authority.as_deref()?;
        let name = server_name(authority).ok()??;
        let listener = self.listener_of(Some(&name)).ok()?;
        routes(&listener)?.hosted(authority)?;
        Some(listener)
    }

    /// Finds the listener of the hosted API server that a PROXY header's authority names, for a header whose destination is no listener's: API proxies name
    /// what the pod dialled, which is an address of the tenant's cluster. The header's destination is only logged then. `near` are the addresses that are
    /// closest to the one that was dialled here.
    pub(super) fn hosting(
        &mut self,
        bind: &PreparedBind,
        near: [Destination; 2],
    ) -> Option<ListenerMatch> {
        let listener = bind.hosting(self.proxied.authority.as_deref()?, near)?;
        let known = SocketAddr::new(listener.listener.address.0, listener.listener.port);
        self.proxied.inner.get_or_insert((self.client.0, self.destination.0));
        self.destination = Destination(known);
        bind.found(self.destination, self.local.ip(), self.client.0.ip())
    }

    /// Admits a connection to the route of its name: as it is, or after the outer TLS of an API proxy.
    pub(super) async fn pass(
        &mut self,
        stream: TcpStream,
        listener: &PreparedListener,
        hello: Hello,
    ) -> Result<Secured, Refused> {
        self.name.clone_from(&hello.name);
        if hello.is_proxy {
            return Box::pin(self.outer(stream, listener, hello)).await;
        }
        let Hello { name, early, .. } = hello;
        let authority = self.proxied.authority.as_deref();
        let route = routes(listener).and_then(|routes| routes.route(name.as_deref(), authority));
        if let Some(api) = route.and_then(|route| route.hosted.clone()) {
            let by_authority = authority.filter(|authority| api.is_authority(authority));
            let asked = by_authority.map(str::to_ascii_lowercase).or_else(|| name.clone());
            if let Err(refusal) = self.let_in(&api, asked.as_deref(), false) {
                return Err((refusal, Some(stream)));
            }
        }
        let tls = TlsFacts::asked_for(name, self.began.elapsed());
        Ok(Secured::plain(stream, early, Some(tls)))
    }

    /// Checks the sources of a hosted API server, and notes that it lets the client in, and by which name it was asked for.
    fn let_in(&self, api: &HostedApi, name: Option<&str>, is_proxy: bool) -> Result<(), Refusal> {
        let client = self.client.0;
        if !api.admits(client.ip()) {
            return Err(Refusal::SourceNotAllowed { client });
        }
        if let Some(name) = name {
            self.watch.found_by(name.strip_suffix('.').unwrap_or(name));
        }
        self.watch.let_in_by(&api.name, is_proxy);
        Ok(())
    }

    /// Terminates the outer TLS of an API proxy, and reads the header inside it.
    async fn outer(
        &mut self,
        stream: TcpStream,
        listener: &PreparedListener,
        Hello { name, early, .. }: Hello,
    ) -> Result<Secured, Refused> {
        let position = routes(listener).and_then(|routes| routes.position(name.as_deref()));
        let route = position.and_then(|at| routes(listener)?.get(at));
        let Some(api) = route.and_then(|route| route.hosted.clone()) else {
            let refusal = if route.is_some() { Refusal::NoApiProxy } else { unknown(name) };
            return Err((refusal, Some(stream)));
        };
        let configs = position.and_then(|at| listener.relays.get(at)).filter(|all| !all.is_empty());
        let (Some(tls), Some(configs)) = (&api.relay, configs) else {
            return Err((Refusal::NoApiProxy, Some(stream)));
        };
        let charged = self.let_in(&api, name.as_deref(), true).and_then(|()| self.charge(listener));
        let hold = match charged {
            Ok(hold) => hold,
            Err(refusal) => return Err((refusal, Some(stream))),
        };
        let of_tls: (_, &ServerTls) = (&*listener.listener, tls);
        let mut secured = self.handshake(stream, &early, of_tls, configs).await?;
        let agreed = secured.tls.as_ref().is_some_and(|tls| tls.sni == name)
            && secured.io.alpn() == Some(API_PROXY);
        if !agreed {
            // Another name in the library's reading than in ours would be another tenant's.
            let detail = "server name or protocol that can be read in two ways";
            return Err((Refusal::ClientHello { detail }, None));
        }
        match self.watch.guard(inner_header(&mut secured.io)).await {
            Ok(Ok((header, rest))) => {
                secured.early = rest;
                if let Err(refused) = self.inner(&api, header, &mut secured.io).await {
                    self.tls = secured.tls;
                    return Err(refused);
                }
            }
            Ok(Err(refusal)) => return Err((refusal, None)),
            Err(expired) => return Err((given_up(&self.watch, expired), None)),
        }
        secured.outer = Some(hold);
        Ok(secured)
    }

    /// Charges the tenant for a TLS session, beyond what it was charged for the connection.
    fn charge(&self, listener: &PreparedListener) -> Result<Hold, Refusal> {
        let mut hold = self.core.shared.memory.hold(&listener.tenant.usage, Kind::Clients);
        hold.grow(memory::TLS_CONNECTION - memory::CONNECTION)?;
        Ok(hold)
    }

    /// Takes the header of an admitted API proxy. Its authority must be the API server's; the client inside is told by an alert otherwise.
    async fn inner(&mut self, api: &HostedApi, header: Header, io: &mut Io) -> Result<(), Refused> {
        let Header::Proxied { client, destination, extensions } = header else {
            let detail = "it names no connection of a client";
            return Err((Refusal::ProxyHeader { detail }, None));
        };
        let authority = extensions.authority.clone();
        let outer = std::mem::take(&mut self.proxied);
        self.proxied = ProxyFacts {
            authority: None,
            connection_id: outer.connection_id,
            inner: Some((canonical(client), canonical(destination))),
        };
        peek::note(&mut self.proxied, extensions);
        if authority.as_deref().is_some_and(|authority| api.is_authority(authority)) {
            return Ok(());
        }
        reject::say_inside(io, UNRECOGNIZED_NAME, &self.watch).await;
        Err((Refusal::ForeignAuthority { authority }, None))
    }
}

/// Returns the refusal of a name that no route has.
fn unknown(name: Option<String>) -> Refusal {
    Refusal::UnknownName { name: name.unwrap_or_else(|| "no name".to_owned()) }
}

/// Reads the PROXY header at the start of a TLS session; returns it with the bytes that follow it. A proxy that closes before it has sent anything asked
/// only whether it would be admitted.
async fn inner_header(io: &mut Io) -> Result<(Header, Vec<u8>), Refusal> {
    let mut bytes = Vec::new();
    loop {
        let progress = proxy_header::parse(&bytes);
        if let Progress::Complete(header, length) =
            progress.map_err(|detail| Refusal::ProxyHeader { detail })?
        {
            bytes.drain(..length);
            return Ok((header, bytes));
        }
        let room = CHUNK.min(proxy_header::MAX_V2.saturating_sub(bytes.len()).max(1));
        let before = bytes.len();
        bytes.resize(before + room, 0);
        let read = io.read(&mut bytes[before..]).await;
        bytes.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) if before > 0 => return Err(Refusal::ProxyHeader { detail: "closed midway" }),
            Ok(0) | Err(_) => return Err(Refusal::ClientClosed),
            Ok(_) => {}
        }
    }
}
