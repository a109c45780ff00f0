//! A request to a forward proxy: who asks, may it go, and then either a plain request onwards or a tunnel.
//!
//! Deliberately absent: TLS towards the outside. A client that wants https asks for a tunnel and keeps its TLS end to end.

use std::future::poll_fn;

use durward_model::ForwardService;
use durward_model::egress::{Asked, Host};

use crate::forward::passage::Passage;
use crate::forward::{gate, identify};
use crate::http::Http;
use crate::http::exchange::account::Upstream as UpstreamAccount;
use crate::http::exchange::attempt::{self, Way, wait_for};
use crate::http::exchange::switch::Switched;
use crate::http::exchange::{Account, Clock, Ended, Stop};
use crate::http::flow::Downstream;
use crate::http::h1::Conn;
use crate::http::message::{Framing, PooledResponse, Request, Version};
use crate::http::names::Known;
use crate::refusal::Refusal;
use crate::upstream::visit;
use crate::watch::Watch;

/// Serves one request to a forward proxy.
pub(super) async fn serve<'a, D: Downstream>(
    http: &'a Http,
    watch: &Watch,
    down: &mut D,
    account: &mut Account<'a>,
    response: &mut PooledResponse,
    service: &ForwardService,
) -> Result<Ended<'a>, Stop> {
    let tunnel = account.request.method() == "CONNECT";
    let host = begin(http, service, account, tunnel)?;
    if watch.closing() {
        account.request.keep_alive = false;
    }
    let method = account.request.method().to_owned();
    let mut passage = account.passage.take().ok_or(Refusal::NoRoute)?;
    let asked =
        Asked { host: &host, port: passage.port, method: (!tunnel).then_some(method.as_str()) };
    watch.arm(None, false);
    let clock = Clock { watch, end: None };
    let checking = gate::check(&http.core, &http.view, &service.policy, asked, &mut passage);
    let checked = wait_for(checking, down, &clock).await;
    account.passage = Some(passage);
    let addresses = checked?;
    if tunnel {
        let opening = visit(&http.core, &http.view, &addresses);
        let (io, lease) = wait_for(opening, down, &clock).await?;
        account.note_upstream(UpstreamAccount {
            index: None,
            peer: lease.peer,
            source: lease.source,
            reused: false,
            connect: lease.connect,
            first_byte: None,
        });
        established(watch, down, account, response).await?;
        return Ok(Ended::Upgraded(Box::new(Switched::new(Conn::new(io), lease))));
    }
    anonymise(&mut account.request);
    attempt::forward(http, watch, down, account, response, Way::Outside(&addresses)).await
}

/// Everything about a request that needs no waiting: its target, who sent it, and whether its tenant may send another.
fn begin(
    http: &Http,
    service: &ForwardService,
    account: &mut Account<'_>,
    tunnel: bool,
) -> Result<Host, Refusal> {
    let mut passage =
        Passage::new(account.id.as_str(), &http.view.tenant().tenant.id, http.facts.client);
    let request = &account.request;
    passage.method = request.method().to_owned();
    passage.host = request.host().to_ascii_lowercase();
    let target = target(request, tunnel);
    passage.port = target.as_ref().map_or(0, |(_, port)| *port);
    if let Ok((host, _)) = &target {
        passage.host = host.to_string();
    }
    let identity = identity(http, service, request);
    passage.identity = identity.as_ref().ok().cloned().flatten();
    account.passage = Some(passage);
    identity?;
    let (host, _) = target?;
    http.view.tenant().usage.request(http.limits())?;
    Ok(host)
}

fn identity(
    http: &Http,
    service: &ForwardService,
    request: &Request,
) -> Result<Option<String>, Refusal> {
    if !service.credentials.is_empty() {
        let shown = request.fields.bytes(request.proxy_authorization);
        return identify::identify(&service.credentials, shown).map(Some);
    }
    let tls = http.facts.tls.as_ref();
    let certificate = tls.and_then(|tls| tls.client_certificate.as_ref());
    Ok(certificate.map(|certificate| format!("certificate:{}", certificate.subject)))
}

/// The host and port asked for.
fn target(request: &Request, tunnel: bool) -> Result<(Host, u16), Refusal> {
    let bad = |detail: &'static str| Refusal::BadRequest { detail };
    let scheme = request.fields.bytes(request.scheme);
    if !tunnel && scheme.is_empty() {
        return Err(bad("target names no host: this is a forward proxy"));
    }
    if !tunnel && !scheme.eq_ignore_ascii_case(b"http") {
        return Err(bad("https asks for a tunnel: use CONNECT"));
    }
    let authority = request.fields.text(request.authority);
    let port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse().unwrap_or(0),
        _ => 80,
    };
    if port == 0 {
        return Err(bad("target without a port"));
    }
    let host =
        Host::parse(request.host()).map_err(|_| bad("target is no host in its usual form"))?;
    Ok((host, port))
}

/// What a client's own network adds about it goes no further.
fn anonymise(request: &mut Request) {
    request.fields.retain(|known| {
        !(known == Known::Via || (known.forwarding() && known != Known::XRequestId))
    });
}

/// Tells the client that its tunnel stands.
async fn established<D: Downstream>(
    watch: &Watch,
    down: &mut D,
    account: &mut Account<'_>,
    response: &mut PooledResponse,
) -> Result<(), Stop> {
    response.clear();
    response.status = 200;
    response.version = Version::Http11;
    response.framing = Framing::None;
    response.reason = response.fields.store(b"Connection established");
    account.status = 200;
    account.request.keep_alive = true;
    account.request.version = Version::Http11;
    let gone = || Stop::Break(Refusal::ClientClosed);
    down.head(&account.request, response).map_err(|_| gone())?;
    match watch.guard(poll_fn(|cx| down.poll_flush(cx))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(gone()),
    }
}
