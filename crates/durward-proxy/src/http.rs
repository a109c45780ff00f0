//! HTTP from clients to upstreams: HTTP/1.1 and HTTP/2 on either side, one exchange for all four.
//!
//! Deliberately absent: a way for bytes of a head to pass unread. Heads are parsed once and written anew.

mod body;
mod buffer;
mod exchange;
mod fields;
mod flow;
mod forward;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod h1;
mod h2;
mod linger;
mod message;
mod names;
mod parse;
mod problem;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use durward_model::limits::Limits;
use durward_model::listener::{Alpn, HttpService};
use durward_model::{ForwardService, Service};

use crate::core::Core;
use crate::forward::socks;
use crate::http::forward::Texts;
use crate::http::parse::{HeadLimits, Parsed, Progress};

pub(crate) use h2::base64;

use crate::admitted::Admitted;
use crate::connection::ConnectionFacts;
use crate::memory::{ConnectionMemory, Kind, Part};
use crate::metrics::Cells;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::upstream::Pins;
use crate::watch::Watch;

/// What all exchanges of one connection share.
pub(crate) struct Http {
    pub(crate) core: Rc<Core>,
    pub(crate) view: TenantView,
    pub(crate) facts: Rc<ConnectionFacts>,
    texts: Texts,
    /// Upstream connections that are this client's alone.
    pins: Rc<Pins>,
    /// What the connection holds: heads, bodies and buffers of all its exchanges.
    pub(crate) memory: Rc<ConnectionMemory>,
}

impl Http {
    /// Charges `held` bytes, which wait here because a side does not take them, to the connection until `waiting` is dropped.
    ///
    /// # Errors
    /// [`Refusal::Memory`] when the tenant has no room for them.
    fn hold_waiting(&self, waiting: &mut Option<Part>, held: usize) -> Result<(), Refusal> {
        match waiting {
            _ if held == 0 => Ok(()),
            Some(part) => part.raise(held),
            None => self.memory.take(held).map(|part| *waiting = Some(part)),
        }
    }

    /// What is served; empty for a listener that is not HTTP, which never gets here.
    fn service(&self) -> Option<&HttpService> {
        match &self.view.listener().service {
            Service::Http(service) => Some(service),
            Service::Forward(_) | Service::PassThrough(_) | Service::Tcp(_) => None,
        }
    }

    /// The forward proxy, on a listener that is one.
    pub(crate) fn outward(&self) -> Option<&ForwardService> {
        match &self.view.listener().service {
            Service::Forward(service) => Some(service),
            Service::Http(_) | Service::PassThrough(_) | Service::Tcp(_) => None,
        }
    }

    /// Whether its clients know that they ask a proxy.
    pub(crate) fn is_asked(&self) -> bool {
        self.outward().is_some_and(|service| service.transparent.is_none())
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.view.tenant().tenant.limits
    }

    pub(crate) fn cells(&self) -> &Cells {
        self.view.tenant().metrics.core(self.core.id)
    }

    fn new(
        core: Rc<Core>,
        view: TenantView,
        facts: Rc<ConnectionFacts>,
        (pins, memory): (Rc<Pins>, Rc<ConnectionMemory>),
    ) -> Self {
        let (trusted, xfcc) = match &view.listener().service {
            Service::Http(service) => (
                service.trusted_proxies.contains(facts.client.0.ip()),
                service.identity_headers.xfcc,
            ),
            _ => (false, false),
        };
        let texts = Texts::new(&facts, view.listener(), trusted, xfcc);
        Self { core, view, facts, texts, pins, memory }
    }

    /// What serves the next request: this, or what has become of it if the configuration has changed since. A connection that the change
    /// does not forbid goes on under the new configuration.
    ///
    /// # Errors
    /// [`Refusal::Draining`] when there is nothing it has become, or when a client that has asked for nothing yet would have to prove
    /// itself anew.
    pub(crate) fn now(self: &Rc<Self>, watch: &Watch, first: bool) -> Result<Rc<Self>, Refusal> {
        if !watch.outdated() {
            return Ok(Rc::clone(self));
        }
        let client = self.facts.client.0.ip();
        let view = self.view.renewed(&self.core.shared.prepared.load(), client);
        let view = view.ok_or(Refusal::Draining)?;
        // Whoever has just come in is let finish; a new revocation list comes daily.
        let lingered = || self.facts.accepted.elapsed() > self.limits().timeouts.handshake;
        if first && lingered() && !view.trusts_like(&self.view) {
            return Err(Refusal::Draining);
        }
        if view.may_take_over(&self.view) {
            watch.retire_with(view.retirement());
        }
        let (core, facts) = (Rc::clone(&self.core), Rc::clone(&self.facts));
        let own = (Rc::clone(&self.pins), Rc::clone(&self.memory));
        Ok(Rc::new(Self::new(core, view, facts, own)))
    }

    /// The same for a connection that has asked for nothing yet: it lives on as if it had come in now.
    pub(crate) fn fresh(self: &Rc<Self>, watch: &Watch) -> Result<Rc<Self>, Refusal> {
        let now = self.now(watch, true)?;
        if now.view.trusts_like(&self.view) {
            watch.retire_with(now.view.retirement());
        }
        Ok(now)
    }
}

/// Serves an admitted connection until it ends.
pub(crate) async fn serve(admitted: Admitted) {
    let Admitted { io, early, view, facts, watch, core, greeted } = admitted;
    let hold = core.shared.memory.hold(&view.tenant().usage, Kind::Clients);
    let http = Rc::new(Http::new(core, view, facts, (Rc::default(), ConnectionMemory::new(hold))));
    if greeted.is_some() {
        return Box::pin(socks::serve(&http, &watch, io, early, greeted)).await;
    }
    if io.alpn() == Some(Alpn::Http2.id()) {
        return Box::pin(h2::server::serve(&http, &watch, io, &early)).await;
    }
    match h1::server::serve(&http, &watch, io, &early).await {
        h1::server::Served::Closed => {}
        h1::server::Served::Socks(io, early) => match http.fresh(&watch) {
            Ok(http) => Box::pin(socks::serve(&http, &watch, io, early, None)).await,
            Err(refusal) => exchange::note_refusal(&http, &refusal),
        },
        h1::server::Served::Http2(io, early) => {
            Box::pin(h2::server::serve(&http, &watch, io, &early)).await;
        }
    }
}

/// The request a connection begins with, read while it comes in; no line is read twice.
pub(crate) struct FirstRequest {
    progress: Progress,
    request: message::PooledRequest,
}

impl FirstRequest {
    /// Nothing has come yet.
    pub(crate) fn new() -> Self {
        Self { progress: Progress::default(), request: message::PooledRequest::new() }
    }

    /// Its `Proxy-Authorization`, empty without one; `None` while its head is incomplete. `bytes` are those of the call before and more.
    ///
    /// # Errors
    /// When it is no request.
    pub(crate) fn authorization(
        &mut self,
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, crate::syntax::Fault> {
        let limits = HeadLimits { outward: true, ..HeadLimits::RESPONSE };
        let request = &mut self.request;
        Ok(match parse::parse_request(bytes, &mut self.progress, limits, request)? {
            Parsed::Incomplete => None,
            Parsed::Head(_) => Some(request.fields.bytes(request.proxy_authorization).to_vec()),
        })
    }
}

/// Gives half of this core's unused buffers and messages back.
pub(crate) fn shrink_pools() {
    buffer::shrink_pools();
    message::shrink_pools();
}

/// A new name for a tunnel that no request asks for.
pub(crate) fn new_request_id(core: &Core) -> String {
    forward::RequestId::new(core).as_str().to_owned()
}
