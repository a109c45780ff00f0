//! SOCKS 5 on a forward proxy's port: the first byte tells it from HTTP.
//!
//! The same gate, addresses and record as for CONNECT. Deliberately absent: BIND and UDP, which would need sockets of the client's own.

pub(crate) mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use durward_model::ForwardService;
use durward_model::egress::{Asked, Credential, Host};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::decisions::Passage;
use crate::forward::identify;
use crate::forward::reach::{self, Reached};
use crate::forward::{sni, told};
use crate::http::{Http, new_request_id};
use crate::io::Io;
use crate::refusal::Refusal;
use crate::relay::{Relayed, Side, relay};
use crate::watch::{Expired, Watch};
use wire::{Fault, Name, Read};

pub(crate) use wire::VERSION;

/// The most bytes of one message.
const MESSAGE: usize = 1024;

/// What a client has proved of itself.
#[derive(Debug)]
pub(crate) struct Greeted {
    identity: Option<String>,
    /// The credential it has shown; none where none is asked for.
    credential: Option<Credential>,
}

impl Greeted {
    /// Returns whether a proxy would take what was shown, in the place of the one that asked for it.
    pub(crate) fn counts_at(&self, service: &ForwardService) -> bool {
        let asked_for = &service.credentials;
        match &self.credential {
            Some(shown) => asked_for.is_empty() || asked_for.contains(shown),
            None => asked_for.is_empty(),
        }
    }
}

/// Reads who a client is, as one of the `sets` of credentials says it; an empty set asks for none.
///
/// # Errors
/// [`Refusal::ProxyAuthentication`] when it is nobody; it has been told so.
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

/// Serves a client that speaks SOCKS to its end. `bytes` were read already.
pub(crate) async fn serve(
    http: &Rc<Http>,
    watch: &Watch,
    mut io: Io,
    mut bytes: Vec<u8>,
    greeted: Option<Greeted>,
) {
    let id = new_request_id(&http.core);
    let mut passage = Passage::new(&id, &http.view.tenant().tenant.id, http.facts.client);
    "SOCKS5".clone_into(&mut passage.method);
    // What the client may is judged by what is served once it has asked.
    let mut now = Rc::clone(http);
    let opened = open(&mut now, watch, (&mut io, &mut bytes), &mut passage, greeted).await;
    let (relayed, lease) = match opened {
        Ok(Reached { side, lease }) => {
            let client = Side { io, early: bytes };
            let relayed = relay(&now.core, &now.view, watch, client, side, lease.peer).await;
            (relayed, Some(lease))
        }
        Err(refusal) => {
            let _ = watch.guard(io.shutdown()).await;
            (Relayed { from_client: 0, from_upstream: 0, ended: Some(refusal) }, None)
        }
    };
    let traffic = (relayed.from_client, relayed.from_upstream);
    passage.ended(&now.core.decisions, relayed.ended.as_ref(), traffic);
    told::tell(&now.core, &now.view, &now.facts, "socks5", (&relayed, lease.as_ref()));
}

/// Finds out who the client is and where to, and connects it there.
async fn open(
    http: &mut Rc<Http>,
    watch: &Watch,
    (io, bytes): (&mut Io, &mut Vec<u8>),
    passage: &mut Passage,
    greeted: Option<Greeted>,
) -> Result<Reached, Refusal> {
    let limits = http.limits();
    watch.arm(Some(limits.timeouts.header), false);
    let asking = ask(http, io, bytes, passage, greeted);
    let (host, greeted) = watch.guard(asking).await.map_err(late)??;
    match as_of_now(http, watch, &greeted) {
        Ok(now) => *http = now,
        Err(refusal) => {
            let answer = wire::answer(code(&refusal), NOWHERE);
            let _ = watch.guard(say(io, &answer)).await;
            return Err(refusal);
        }
    }
    let service = http.outward().ok_or(Refusal::Draining)?;
    Client { http, watch, service }.reach(&host, (io, bytes), passage).await
}

/// What serves the client now, if the configuration has changed while it spoke. What it has shown must still count.
fn as_of_now(http: &Rc<Http>, watch: &Watch, greeted: &Greeted) -> Result<Rc<Http>, Refusal> {
    let now = http.now(watch, true)?;
    let service = now.outward().ok_or(Refusal::Draining)?;
    if !greeted.counts_at(service) || !identify::holds(service, now.facts.tls.as_ref()) {
        return Err(Refusal::ProxyAuthentication);
    }
    Ok(now)
}

/// Whom a client has before it.
struct Client<'a> {
    http: &'a Http,
    watch: &'a Watch,
    service: &'a ForwardService,
}

impl Client<'_> {
    /// Makes the connection to where the client wants to go.
    async fn reach(
        &self,
        host: &Host,
        (io, bytes): (&mut Io, &mut Vec<u8>),
        passage: &mut Passage,
    ) -> Result<Reached, Refusal> {
        let limits = self.http.limits();
        self.http.view.tenant().usage.request(limits)?;
        self.watch.arm(None, false);
        let asked = Asked { host, port: passage.port, method: None };
        let (core, view) = (&self.http.core, &self.http.view);
        let opening = reach::tunnel(core, view, &self.service.policy, asked, passage);
        let mut opened = self.watch.guard(opening).await.unwrap_or(Err(Refusal::Draining));
        if let Ok(Reached { lease, .. }) = &opened {
            passage.opened(&core.decisions, lease.peer, lease.source);
            if let Err(error) = core.decisions.committed().await {
                opened = Err(Refusal::NotRecorded(error));
            }
        }
        self.watch.arm(Some(limits.timeouts.header), false);
        let answering = async {
            let source = opened.as_ref().map_or(NOWHERE, |reached| reached.lease.source);
            let code = opened.as_ref().map_or_else(code, |_| 0);
            say(io, &wire::answer(code, source)).await?;
            let reached = opened?;
            if self.service.policy.sni_must_match {
                let contact = self.service.policy.contact.as_ref();
                sni::wait(io, bytes, (host, contact), &mut passage.sni).await?;
            }
            Ok(reached)
        };
        self.watch.guard(answering).await.map_err(late)?
    }
}

/// Reads who a client is, unless that is known, and where it wants to go.
async fn ask(
    http: &Http,
    io: &mut Io,
    bytes: &mut Vec<u8>,
    passage: &mut Passage,
    greeted: Option<Greeted>,
) -> Result<(Host, Greeted), Refusal> {
    let (tls, service) = (http.facts.tls.as_ref(), http.outward().ok_or(Refusal::Draining)?);
    let greeted = match greeted {
        Some(greeted) => greeted,
        None => greet(io, bytes, &[&service.credentials]).await?.1,
    };
    passage.identity = greeted.identity.clone().or_else(|| identify::holder(tls));
    let wish = next(io, bytes, wire::wish).await?;
    let host = match wish.host {
        Name::Address(address) => Ok(Host::Address(address.to_canonical())),
        Name::Text(text) => Host::parse(&text).map_err(|_| text),
    };
    passage.port = wish.port;
    match &host {
        Ok(host) => passage.host = host.to_string(),
        Err(text) => passage.host.clone_from(text),
    }
    let bad = |detail| Refusal::BadRequest { detail };
    if !identify::holds(service, tls) {
        say(io, &wire::answer(2, NOWHERE)).await?;
        return Err(Refusal::ProxyAuthentication);
    }
    let fault = match host {
        Ok(host) if wish.port > 0 => return Ok((host, greeted)),
        Ok(_) => bad("target without a port"),
        Err(_) => bad("target is no host in its usual form"),
    };
    say(io, &wire::answer(2, NOWHERE)).await?;
    Err(fault)
}

/// What is said of where a connection leaves from when there is none.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn late(expired: Expired) -> Refusal {
    match expired {
        Expired::Deadline => Refusal::ClientTimeout { phase: "head" },
        Expired::Closing => Refusal::Draining,
    }
}

/// The code a refusal is told with (RFC 1928 section 6).
fn code(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::PolicyDenied { .. } | Refusal::ProxyAuthentication => 2,
        Refusal::Unresolvable { .. } | Refusal::ConnectTimeout { .. } => 4,
        Refusal::ConnectFailed { .. } => 5,
        _ => 1,
    }
}

async fn say(io: &mut Io, bytes: &[u8]) -> Result<(), Refusal> {
    let said = async {
        io.write_all(bytes).await?;
        io.flush().await
    };
    said.await.map_err(|_| Refusal::ClientClosed)
}

/// Reads one message and takes it away from the front of `bytes`.
async fn next<T>(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_in_the_words_socks_has() {
        let denied = Refusal::PolicyDenied { rule: "default".into(), contact: None };
        let peer = NOWHERE;

        assert_eq!(code(&denied), 2);
        assert_eq!(code(&Refusal::Unresolvable { detail: String::new() }), 4);
        assert_eq!(
            code(&Refusal::ConnectFailed {
                peer,
                source: std::io::ErrorKind::ConnectionRefused.into()
            }),
            5
        );
        assert_eq!(code(&Refusal::CircuitOpen), 1);
    }
}
