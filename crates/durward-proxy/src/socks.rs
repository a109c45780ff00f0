//! SOCKS 5 (RFC 1928): messages and authentication.

pub(crate) mod wire;

use std::net::{Ipv4Addr, SocketAddr};

use durward_model::ForwardService;
use durward_model::egress::Credential;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::identify;
use crate::io::Io;
use crate::refusal::Refusal;
use wire::{Fault, Read};

pub(crate) use wire::VERSION;

/// Largest message in bytes.
const MESSAGE: usize = 1024;

/// Result of a SOCKS greeting.
#[derive(Debug)]
pub(crate) struct Greeted {
    /// Name of the credential's owner, for the record.
    pub(crate) identity: Option<String>,
    /// Credential of the client; `None` where none is required.
    credential: Option<Credential>,
}

impl Greeted {
    /// Returns true if a proxy would accept that credential, in the place of the one that asked for it.
    pub(crate) fn counts_at(&self, service: &ForwardService) -> bool {
        let asked_for = &service.credentials;
        match &self.credential {
            Some(shown) => asked_for.is_empty() || asked_for.contains(shown),
            None => asked_for.is_empty(),
        }
    }
}

/// Negotiates a method and authenticates the client against the `sets` of credentials; an empty set asks for none.
///
/// # Errors
/// [`Refusal::ProxyAuthentication`] if no set has the credential; the client has got its answer then.
pub(crate) async fn greet(
    io: &mut Io,
    bytes: &mut Vec<u8>,
    sets: &[&[Credential]],
) -> Result<(usize, Greeted), Refusal> {
    let open = sets.iter().position(|set| set.is_empty());
    if sets.iter().filter(|set| set.is_empty()).count() > 1 {
        let _ = next(io, bytes, wire::greeting).await?;
        say(io, &[VERSION, wire::UNACCEPTABLE]).await?;
        return Err(Refusal::ProxyAuthentication);
    }
    let wanted = if open.is_some() { wire::NOTHING } else { wire::PAIR };
    let offered = next(io, bytes, wire::greeting).await?;
    if !offered.contains(&wanted) {
        say(io, &[VERSION, wire::UNACCEPTABLE]).await?;
        return Err(Refusal::ProxyAuthentication);
    }
    say(io, &[VERSION, wanted]).await?;
    if let Some(at) = open {
        return Ok((at, Greeted { identity: None, credential: None }));
    }
    let pair = next(io, bytes, wire::pair).await?;
    let found = identify::whose_pair(sets, pair.user, pair.secret);
    say(io, &[1, u8::from(found.is_none())]).await?;
    let (at, credential) = found.ok_or(Refusal::ProxyAuthentication)?;
    let (identity, credential) = (format!("user:{}", credential.name), credential.clone());
    Ok((at, Greeted { identity: Some(identity), credential: Some(credential) }))
}

/// Bound address in a reply without a connection.
pub(crate) const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Writes one message.
pub(crate) async fn say(io: &mut Io, bytes: &[u8]) -> Result<(), Refusal> {
    let said = async {
        io.write_all(bytes).await?;
        io.flush().await
    };
    said.await.map_err(|_| Refusal::ClientClosed)
}

/// Reads one message and removes it from the front of `bytes`.
pub(crate) async fn next<T>(
    io: &mut Io,
    bytes: &mut Vec<u8>,
    read: fn(&[u8]) -> Result<Read<T>, Fault>,
) -> Result<T, Refusal> {
    loop {
        match read(bytes) {
            Ok(Read::Complete(message, length)) => {
                bytes.drain(..length);
                return Ok(message);
            }
            Ok(Read::More) if bytes.len() < MESSAGE => {}
            Ok(Read::More) => return Err(Refusal::HeadTooLarge),
            Err(Fault(detail, code)) => {
                if code > 1 {
                    say(io, &wire::answer(code, NOWHERE)).await?;
                }
                return Err(Refusal::BadRequest { detail });
            }
        }
        match io.read_buf(bytes).await {
            Ok(count) if count > 0 => {}
            _ => return Err(Refusal::ClientClosed),
        }
    }
}
