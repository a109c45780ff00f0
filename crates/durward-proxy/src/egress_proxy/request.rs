//! A request to a forward proxy: authentication, policy, and then a plain request onwards or a tunnel.
//!
//! There is no TLS to the destination: a client that wants https asks for a tunnel and keeps its TLS end to end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;

use durward_model::ForwardService;
use durward_model::egress::{Asked, Host};

use crate::decisions::Passage;
use crate::dial::Reached;
use crate::egress_proxy::gate;
use crate::exchange::Http;
use crate::exchange::request as routed;
use crate::exchange::{
    self, Account, Clock, Ended, Stop, Switched, UpstreamAccount, Way, late, tunnel, wait_for,
};
use crate::http::flow::{Downstream, Sink};
use crate::http::framing::Content;
use crate::http::h1::Conn;
use crate::http::message::{PooledResponse, Request, Version};
use crate::http::names::Known;
use crate::identify;
use crate::metrics::Counter;
use crate::peek::client_hello::Assembly;
use crate::peek::sni;
use crate::refusal::Refusal;
use crate::relay::Side;
use crate::watch::Watch;

/// Context of a request to a forward proxy.
struct Visitor<'v> {
    http: &'v Http,
    watch: &'v Watch,
    service: &'v ForwardService,
}

/// Serves one request to a forward proxy.
pub(crate) async fn serve<'a, D: Downstream>(
    http: &'a Http,
    watch: &Watch,
    down: &mut D,
    account: &mut Account<'a>,
    response: &mut PooledResponse,
    service: &ForwardService,
) -> Result<Ended<'a>, Stop> {
    let visitor = Visitor { http, watch, service };
    let tunnel = is_tunnel(&account.request);
    if tunnel && account.request.version != Version::Http2 {
        // Bytes after a CONNECT are no request, so a refused one ends its connection.
        account.request.keep_alive = false;
    }
    let host = visitor.begin(account, tunnel)?;
    if watch.closing() {
        account.request.keep_alive = false;
    }
    let mut passage = account.passage.take().ok_or(Refusal::NoRoute)?;
    if service.policy.sni_must_match && !account.request.upgrade.is_none() {
        passage.rule = sni::RULE.into();
        account.passage = Some(passage);
        let contact = service.policy.contact.clone();
        return Err(Refusal::PolicyDenied { rule: sni::RULE.into(), contact }.into());
    }
    let method = passage.method.clone();
    let method = (!tunnel).then_some(method.as_str());
    let asked = Asked { host: &host, port: passage.port, method };
    watch.arm(None, false);
    let clock = Clock { watch, end: None };
    let (core, view) = (&http.core, &http.view);
    if tunnel {
        let opening = gate::tunnel(core, view, &service.policy, asked, &mut passage);
        let opened = wait_for(pin!(opening), down, &clock).await;
        account.passage = Some(passage);
        return visitor.tunnel(down, account, response, (opened?, host)).await;
    }
    let checking = gate::check(core, view, &service.policy, asked, &mut passage);
    let cleared = wait_for(pin!(checking), down, &clock).await;
    account.passage = Some(passage);
    anonymise(&mut account.request);
    let mut cleared = cleared?;
    if service.transparent.is_some() {
        cleared.keep_to(http.facts.destination.0);
    }
    let way = Way::Outside(&cleared, asked);
    exchange::forward(http, watch, down, account, response, way).await
}

/// Returns true for CONNECT, except extended CONNECT (RFC 8441), which is a plain request by another name.
fn is_tunnel(request: &Request) -> bool {
    request.method() == "CONNECT" && request.upgrade.is_none()
}

impl Visitor<'_> {
    /// Checks everything about a request that needs no waiting: its target, its credential, and its tenant's limits.
    fn begin(&self, account: &mut Account<'_>, tunnel: bool) -> Result<Host, Refusal> {
        let http = self.http;
        let tenant = &http.view.tenant().tenant.id;
        let mut passage = Passage::new(account.id.as_str(), tenant, http.facts.client);
        let handed_over = self.service.transparent.is_some().then_some(http.facts.destination.0);
        passage.transparent = handed_over;
        if handed_over.is_some() && account.request.host().is_empty() {
            routed::name_destination(http, &mut account.request);
        }
        let request = &account.request;
        let extended = request.upgrade.is_extended();
        passage.method = if extended { "GET" } else { request.method() }.to_owned();
        passage.host = request.host().to_ascii_lowercase();
        let target = match handed_over {
            Some(destination) => meant(request, destination),
            None => target(request, tunnel),
        };
        passage.port = target.as_ref().map_or(0, |(_, port)| *port);
        if let Ok((host, _)) = &target {
            passage.host = host.to_string();
        }
        let identity = self.identity(request);
        passage.identity = identity.as_ref().ok().cloned().flatten();
        // Stored before any refusal, so that refused requests are recorded too.
        account.passage = Some(passage);
        identity?;
        let (host, _) = target?;
        http.view.tenant().usage.request(http.limits())?;
        Ok(host)
    }

    fn identity(&self, request: &Request) -> Result<Option<String>, Refusal> {
        if let Some(link) = &self.http.facts.link {
            return Ok(Some(format!("link:{link}")));
        }
        let tls = self.http.facts.tls.as_ref();
        if !identify::holds(self.service, tls) {
            return Err(Refusal::ProxyAuthentication);
        }
        if !self.service.credentials.is_empty() {
            let shown = request.fields.bytes(request.proxy_authorization);
            return identify::identify(&self.service.credentials, shown).map(Some);
        }
        Ok(identify::holder(tls))
    }

    /// Answers that the tunnel is open, and carries it if it is inside an HTTP/2 stream.
    async fn tunnel<'a, D: Downstream>(
        &self,
        down: &mut D,
        account: &mut Account<'a>,
        response: &mut PooledResponse,
        (reached, host): (Reached, Host),
    ) -> Result<Ended<'a>, Stop> {
        let Reached { side: Side { io, early }, lease } = reached;
        account.note_upstream(UpstreamAccount {
            index: None,
            peer: lease.peer,
            source: lease.source,
            reused: false,
            connect: lease.connect,
            first_byte: None,
        });
        // The record must be written before the client may send anything.
        account.recorded().await?;
        self.established(down, account, response).await?;
        let mut up = Conn::new(io);
        up.input.buffer.preload(&early);
        if account.request.version != Version::Http2 {
            let mut switched = Switched::new(up, lease);
            let policy = &self.service.policy;
            switched.must_name = policy.sni_must_match.then(|| (host, policy.contact.clone()));
            return Ok(Ended::Upgraded(Box::new(switched)));
        }
        let carried = self.stream(down, account, &mut up, &host).await;
        let (received, sent) = up.traffic();
        let cells = self.http.cells();
        cells.add(Counter::UpstreamBytesIn, received);
        cells.add(Counter::UpstreamBytesOut, sent);
        carried.map(|()| Ended::Complete).map_err(Stop::Break)
    }

    async fn stream<D: Downstream>(
        &self,
        down: &mut D,
        account: &mut Account<'_>,
        up: &mut Conn,
        host: &Host,
    ) -> Result<(), Refusal> {
        let policy = &self.service.policy;
        if policy.sni_must_match {
            let (mut assembly, mut seen, mut fits) = (Assembly::default(), None, false);
            self.watch.arm(Some(self.http.limits().timeouts.handshake), false);
            let first = tunnel::take_first(down, |bytes| {
                let look = sni::look(&mut assembly, bytes, host, &mut seen);
                look.inspect(|fit| fits = *fit).is_some()
            });
            let first = self.watch.guard(first).await.map_err(late)??;
            if let Some(passage) = &mut account.passage {
                passage.sni = seen;
            }
            if !fits {
                let (rule, contact) = (sni::RULE.into(), policy.contact.clone());
                return Err(Refusal::PolicyDenied { rule, contact });
            }
            up.send_first(&first);
        }
        tunnel::carry(self.http, self.watch, down, up).await
    }

    async fn established<D: Downstream>(
        &self,
        down: &mut D,
        account: &mut Account<'_>,
        response: &mut PooledResponse,
    ) -> Result<(), Stop> {
        response.clear();
        response.status = 200;
        response.version = Version::Http11;
        response.content = Content::Empty;
        response.reason = response.fields.store(b"Connection established");
        account.status = 200;
        account.request.keep_alive = true;
        let gone = || Stop::Break(Refusal::ClientClosed);
        down.head(&account.request, response).map_err(|_| gone())?;
        account.release_heads(response);
        match self.watch.guard(poll_fn(|cx| down.poll_flush(cx))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }
}

/// Parses the requested host and port.
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
        Some((_, "")) => 80,
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

/// Returns the host of a transparent request, and the port its client connected to.
fn meant(request: &Request, destination: SocketAddr) -> Result<(Host, u16), Refusal> {
    let bad = |detail: &'static str| Refusal::BadRequest { detail };
    let scheme = request.fields.bytes(request.scheme);
    if !scheme.is_empty() && !scheme.eq_ignore_ascii_case(b"http") {
        return Err(bad("https at a port of http"));
    }
    let host = Host::parse(request.host()).map_err(|_| bad("Host is no host in its usual form"))?;
    Ok((host, destination.port()))
}

/// Removes the fields with which the client's own network identifies it.
fn anonymise(request: &mut Request) {
    request.fields.retain(|known| {
        let own = matches!(known, Known::Via | Known::ProxyOther);
        !(own || (known.forwarding() && known != Known::XRequestId))
    });
}
