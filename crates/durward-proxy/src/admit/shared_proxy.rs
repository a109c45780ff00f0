//! Identifying the tenant at an address and port that several forward proxies share: by client certificate, then by the credential in the client's
//! first message.
//!
//! The client address alone does not identify the tenant here. A client that shows nothing is refused; there is no default tenant.

use std::sync::Arc;

use durward_model::egress::Credential;
use durward_model::{ForwardService, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::TlsFacts;
use crate::http::FirstRequest;
use crate::identify;
use crate::io::Io;
use crate::memory::Hold;
use crate::prepared::PreparedListener;
use crate::refusal::Refusal;
use crate::socks;
use crate::socks::Greeted;

/// Largest head of a first request in bytes.
const HEAD: usize = 64 * 1024;
/// Response to a client without a credential valid here, which then repeats its request with one.
const WHO: &[u8] = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"durward\", charset=\"UTF-8\"\r\n\
    Proxy-Authenticate: Bearer realm=\"durward\"\r\nProxy-Status: durward; error=http_request_denied; details=\"proxy_authentication\"\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";

/// Identified tenant listener, and the bytes read on the way.
pub(crate) struct Identified {
    pub(crate) listener: Arc<PreparedListener>,
    /// Bytes read ahead, still to be served.
    pub(crate) early: Vec<u8>,
    /// SOCKS greeting and authentication that are already done.
    pub(crate) greeted: Option<Greeted>,
}

/// Identifies the listener that a client is for.
///
/// # Errors
/// Fails if the client is for none of them; the client has got its answer then. [`Refusal::Memory`] if there is no memory for its head, which
/// `memory` pays for.
pub(crate) async fn identify(
    io: &mut Io,
    tls: Option<&TlsFacts>,
    candidates: &[Arc<PreparedListener>],
    memory: &mut Hold,
) -> Result<Identified, Refusal> {
    let left: Vec<_> = candidates.iter().filter(|one| admits(one, tls)).collect();
    if let [one] = left[..] {
        return Ok(Identified { listener: Arc::clone(one), early: Vec::new(), greeted: None });
    }
    let sets: Vec<&[Credential]> = left.iter().map(|one| credentials(one)).collect();
    let mut early = Vec::new();
    let first = read(io, &mut early).await?;
    if first == socks::VERSION {
        let (at, greeted) = socks::greet(io, &mut early, &sets).await?;
        let listener = left.get(at).ok_or(Refusal::ProxyAuthentication)?;
        return Ok(Identified { listener: Arc::clone(listener), early, greeted: Some(greeted) });
    }
    let mut request = FirstRequest::new();
    let shown = loop {
        match request.authorization(&early) {
            Ok(Some(shown)) => break shown,
            Ok(None) if early.len() < HEAD => {
                memory.resize(early.capacity())?;
                read(io, &mut early).await?;
            }
            Ok(None) | Err(_) => break Vec::new(),
        }
    };
    match identify::whose(&sets, &shown) {
        Some(at) => Ok(Identified { listener: Arc::clone(left[at]), early, greeted: None }),
        None => {
            // The refusal stands even if the client does not read the answer.
            let _ = io.write_all(WHO).await;
            let _ = io.shutdown().await;
            Err(Refusal::ProxyAuthentication)
        }
    }
}

/// Reads and appends bytes; returns the first byte of all.
async fn read(io: &mut Io, bytes: &mut Vec<u8>) -> Result<u8, Refusal> {
    match io.read_buf(bytes).await {
        Ok(count) if count > 0 => Ok(bytes[0]),
        _ => Err(Refusal::ClientClosed),
    }
}

fn service(listener: &PreparedListener) -> Option<&ForwardService> {
    match &listener.listener.service {
        Service::Forward(service) => Some(service),
        _ => None,
    }
}

fn credentials(listener: &PreparedListener) -> &[Credential] {
    service(listener).map_or(&[], |service| &service.credentials)
}

fn admits(listener: &PreparedListener, tls: Option<&TlsFacts>) -> bool {
    service(listener).is_some_and(|service| identify::holds(service, tls))
}
