//! SOCKS 5 on a forward proxy's port (RFC 1928): the first byte tells it from HTTP.
//!
//! Policy, addresses and record are those of CONNECT. Deliberately absent: BIND and UDP ASSOCIATE, which would need sockets of the client's own.

use std::rc::Rc;

use durward_model::ForwardService;
use durward_model::egress::{Asked, Host};
use tokio::io::AsyncWriteExt;

use crate::decisions::Passage;
use crate::dial::Reached;
use crate::egress_proxy::{gate, tunnel_log};
use crate::exchange::{Http, new_request_id};
use crate::identify;
use crate::io::Io;
use crate::peek::sni;
use crate::refusal::Refusal;
use crate::relay::{Relayed, Side, relay};
use crate::socks::wire::{self, Name};
use crate::socks::{Greeted, NOWHERE, greet, next, say};
use crate::watch::{Expired, Watch};

/// Serves a SOCKS client to its end. `bytes` were read already.
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
    // The request is judged by the configuration at its arrival, not by that at the greeting.
    let mut now = Rc::clone(http);
    let opened = open(&mut now, watch, (&mut io, &mut bytes), &mut passage, greeted).await;
    let (relayed, lease) = match opened {
        Ok(Reached { side, lease }) => {
            let client = Side { io, early: bytes };
            let relayed = relay(&now.core, &now.view, watch, client, side, &lease).await;
            (relayed, Some(lease))
        }
        Err(refusal) => {
            let _ = watch.guard(io.shutdown()).await;
            (Relayed { from_client: 0, from_upstream: 0, ended: Some(refusal) }, None)
        }
    };
    let traffic = (relayed.from_client, relayed.from_upstream);
    passage.ended(&now.core.decisions, relayed.ended.as_ref(), traffic);
    tunnel_log::record(&now.core, &now.view, &now.facts, "socks5", (&relayed, lease.as_ref()));
}

/// Authenticates the client, reads its request, and connects it to the destination.
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

/// Returns the current configuration of the listener, if it changed during the handshake. The credential or certificate shown must still be valid
/// there.
fn as_of_now(http: &Rc<Http>, watch: &Watch, greeted: &Greeted) -> Result<Rc<Http>, Refusal> {
    let now = http.now(watch, true)?;
    let service = now.outward().ok_or(Refusal::Draining)?;
    if !greeted.counts_at(service) || !identify::holds(service, now.facts.tls.as_ref()) {
        return Err(Refusal::ProxyAuthentication);
    }
    Ok(now)
}

/// Context of a client.
struct Client<'a> {
    http: &'a Http,
    watch: &'a Watch,
    service: &'a ForwardService,
}

impl Client<'_> {
    /// Connects to the requested destination.
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
        let opening = gate::tunnel(core, view, &self.service.policy, asked, passage);
        let mut opened = self.watch.guard(opening).await.unwrap_or(Err(Refusal::Draining));
        if let Ok(Reached { lease, .. }) = &opened {
            passage.opened(&core.decisions, lease.peer, lease.source);
            // The record must be written before the client may send anything.
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

/// Reads the client's credential, unless that is known, and its request.
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
    let of_link = http.facts.link.as_ref().map(|link| format!("link:{link}"));
    passage.identity =
        of_link.or_else(|| greeted.identity.clone()).or_else(|| identify::holder(tls));
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

fn late(expired: Expired) -> Refusal {
    match expired {
        Expired::Deadline => Refusal::ClientTimeout { phase: "head" },
        Expired::Closing => Refusal::Draining,
    }
}

/// Returns the reply code of a refusal (RFC 1928 section 6).
fn code(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::PolicyDenied { .. } | Refusal::ProxyAuthentication => 2,
        Refusal::Unresolvable { .. } | Refusal::ConnectTimeout { .. } => 4,
        Refusal::ConnectFailed { .. } | Refusal::LinkFailed { .. } => 5,
        _ => 1,
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
