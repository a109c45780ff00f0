//! Admission where tenants share an address and port by names: the name is read first, and decides whose the connection is.
//!
//! Until then the connection has no tenant: its bytes, its time and its place are those of the unidentified. Allowed sources and limits of the tenant
//! come next, before any cryptography.

use std::sync::Arc;

use durward_model::discriminator::Opening;
use durward_model::limits::Timeouts;
use durward_model::{Service, names, request};
use tokio::net::TcpStream;

use super::passing::Hello;
use super::{Entrance, Secured, TurnedAway, Visit, given_up};
use crate::http::FirstRequest;
use crate::http2::first_head::FirstHead;
use crate::io::scratch::{SCRATCH, read_some};
use crate::memory::Kind;
use crate::peek;
use crate::prepared::PreparedListener;
use crate::refusal::Refusal;
use crate::reject;

/// Largest head of a first request in bytes.
const HEAD: usize = 64 * 1024;
/// First line of HTTP/2 without TLS, by prior knowledge.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// A name that a client asked for, and the bytes read to see it.
struct Asked {
    /// `None` if the client named nothing.
    name: Option<String>,
    early: Vec<u8>,
    is_http2: bool,
    /// True if it is a tenant cluster's API proxy.
    is_proxy: bool,
}

impl Visit {
    /// Admits a connection to the listener of the name that the client asks for.
    pub(super) async fn by_name(
        mut self,
        stream: TcpStream,
        opening: Opening,
    ) -> Result<Entrance, TurnedAway> {
        self.opening = Some(opening);
        let patience = Timeouts::default().handshake;
        self.watch.arm(Some(patience.saturating_sub(self.began.elapsed())), false);
        let shared = &self.core.shared;
        let mut memory = shared.memory.hold(&shared.unidentified, Kind::Clients);
        let asking = async {
            match opening {
                Opening::ClientHello => {
                    let (hello, early) = peek::client_hello(&stream, Some(&mut memory)).await?;
                    let Hello { name, early, is_proxy } = Hello::new(hello, early);
                    Ok(Asked { name, early, is_http2: false, is_proxy })
                }
                Opening::Head => first_head(&stream, |held| memory.resize(held)).await,
            }
        };
        let asked = match self.watch.guard(asking).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(refusal)) => return Err(self.turn_away(refusal, Some(stream))),
            Err(expired) => {
                let refusal = given_up(&self.watch, expired);
                return Err(self.turn_away(refusal, Some(stream)));
            }
        };
        let name = asked.name.as_deref();
        let by_authority = if asked.is_proxy { None } else { self.by_authority() };
        let listener = match by_authority.map_or_else(|| self.listener_of(name), Ok) {
            Ok(listener) => listener,
            Err(refusal) => {
                if asked.is_http2 {
                    // An answer in HTTP/1.1 would be no answer.
                    reject::reset(&stream);
                    return Err(self.turn_away(refusal, None));
                }
                self.name = asked.name.filter(|_| opening == Opening::ClientHello);
                return Err(self.turn_away(refusal, Some(stream)));
            }
        };
        self.watch.found_by(&names::asked(name, listener.listener.address.0));
        self.belongs_to(&listener);
        let limit = match self.check(&listener) {
            Ok(limit) => limit,
            Err(refusal) => return Err(self.turn_away(refusal, Some(stream))),
        };
        match self.begin_session(stream, &listener, asked).await {
            Ok(secured) => Ok(self.admit(listener, secured, limit)),
            Err((refusal, stream)) => Err(self.turn_away(refusal, stream)),
        }
    }

    /// Returns the listener that has the name in the configuration of now.
    pub(super) fn listener_of(&self, name: Option<&str>) -> Result<Arc<PreparedListener>, Refusal> {
        let bind = self.bind.as_ref().map(|bind| bind.bind.address);
        let prepared = self.core.shared.prepared.load();
        let bind = bind.and_then(|address| prepared.binds.get(&address));
        let found = bind.and_then(|bind| bind.named(self.destination, self.local.ip(), name));
        let unknown = || {
            let name = name.map(str::to_owned);
            let unnamed = || names::unnamed(self.destination.0.ip());
            Refusal::UnknownName { name: name.unwrap_or_else(unnamed) }
        };
        found.cloned().ok_or_else(unknown)
    }

    /// Terminates TLS with the bytes read before, or passes them on.
    async fn begin_session(
        &mut self,
        stream: TcpStream,
        listener: &PreparedListener,
        Asked { name, early, is_proxy, .. }: Asked,
    ) -> Result<Secured, (Refusal, Option<TcpStream>)> {
        let patience = listener.tenant.tenant.limits.timeouts.handshake;
        if listener.listener.tls().is_some() {
            let secured = self.terminate(stream, &early, listener, patience).await?;
            // Another name in the library's reading than in ours would be another tenant's.
            if secured.tls.as_ref().and_then(|tls| tls.sni.as_ref()) != name.as_ref() {
                let detail = "server name that can be read in two ways";
                return Err((Refusal::ClientHello { detail }, None));
            }
            return Ok(secured);
        }
        if !matches!(listener.listener.service, Service::PassThrough(_)) {
            return Ok(Secured::plain(stream, early, None));
        }
        let hello = Hello { name, early, is_proxy };
        self.watch.arm(Some(patience.saturating_sub(self.began.elapsed())), false);
        Box::pin(self.pass(stream, listener, hello)).await
    }
}

/// Reads the head of the first request. `hold` pays for the bytes.
async fn first_head(
    stream: &TcpStream,
    mut hold: impl FnMut(usize) -> Result<(), Refusal>,
) -> Result<Asked, Refusal> {
    let mut http1 = FirstRequest::new();
    let mut http2 = None;
    let mut early = Vec::new();
    loop {
        let most = SCRATCH.min(HEAD - early.len());
        let read = read_some(stream, most, |bytes| early.extend_from_slice(bytes)).await;
        if !read.is_ok_and(|read| read > 0) {
            return Err(Refusal::ClientClosed);
        }
        hold(early.capacity())?;
        if early.starts_with(PREFACE) {
            http2.get_or_insert_with(FirstHead::new);
        }
        let host = match &mut http2 {
            Some(head) => head.authority(&early).map(|found| found.map(host_of)),
            None => http1.host(&early).map(|found| found.map(Ok)),
        };
        match host.map_err(|fault| fault.of_request().0)? {
            Some(host) => {
                let name = Some(host?).filter(|host| !host.is_empty());
                let is_http2 = http2.is_some();
                return Ok(Asked { name, early, is_http2, is_proxy: false });
            }
            None if early.len() >= HEAD => return Err(Refusal::HeadTooLarge),
            None => {}
        }
    }
}

/// Returns the host of an `:authority`, in the form in which routes compare it; empty without one.
fn host_of(authority: Vec<u8>) -> Result<String, Refusal> {
    if authority.is_empty() {
        return Ok(String::new());
    }
    let malformed = || Refusal::BadRequest { detail: ":authority is no host" };
    request::valid_authority(&authority).ok_or_else(malformed)?;
    let authority = String::from_utf8(authority).map_err(|_| malformed())?;
    Ok(request::normal_host(request::split_host(&authority).0).into_owned())
}
