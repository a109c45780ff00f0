//! State shared by all exchanges of one client connection: its view, its facts, its memory, and its own upstream connections.

use std::rc::Rc;

use durward_model::limits::Limits;
use durward_model::listener::HttpService;
use durward_model::{ForwardService, Service};

use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::exchange::request::Texts;
use crate::memory::{ConnectionMemory, Part};
use crate::metrics::Cells;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::upstream::Pins;
use crate::watch::Watch;

/// State shared by all exchanges of one connection.
pub(crate) struct Http {
    pub(crate) core: Rc<Core>,
    pub(crate) view: TenantView,
    pub(crate) facts: Rc<ConnectionFacts>,
    pub(crate) texts: Texts,
    /// Upstream connections that are this client's alone.
    pub(crate) pins: Rc<Pins>,
    /// Memory charged for heads, bodies and buffers of all its exchanges.
    pub(crate) memory: Rc<ConnectionMemory>,
}

impl Http {
    /// Charges `held` bytes, which wait here for a slow side, to the connection until `waiting` is dropped.
    ///
    /// # Errors
    /// [`Refusal::Memory`] when the tenant has no room for them.
    pub(crate) fn hold_waiting(
        &self,
        waiting: &mut Option<Part>,
        held: usize,
    ) -> Result<(), Refusal> {
        match waiting {
            _ if held == 0 => Ok(()),
            Some(part) => part.raise(held),
            None => self.memory.take(held).map(|part| *waiting = Some(part)),
        }
    }

    /// Returns the HTTP service; `None` for a listener of another kind.
    pub(crate) fn service(&self) -> Option<&HttpService> {
        match &self.view.listener().service {
            Service::Http(service) => Some(service),
            Service::Forward(_)
            | Service::PassThrough(_)
            | Service::Tcp(_)
            | Service::Udp(_)
            | Service::Link(_) => None,
        }
    }

    /// Returns the forward proxy's service, on such a listener and for what leaves a cluster by a link.
    pub(crate) fn outward(&self) -> Option<&ForwardService> {
        match &self.view.listener().service {
            Service::Forward(service) => Some(service),
            // Only connections out of a cluster are served as HTTP there.
            Service::Link(service) => service.out.as_ref(),
            Service::Http(_) | Service::PassThrough(_) | Service::Tcp(_) | Service::Udp(_) => None,
        }
    }

    /// Returns true if clients know that they use a proxy: not on a transparent listener.
    pub(crate) fn is_asked(&self) -> bool {
        self.outward().is_some_and(|service| service.transparent.is_none())
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.view.tenant().tenant.limits
    }

    pub(crate) fn cells(&self) -> &Cells {
        self.view.tenant().metrics.core(self.core.id)
    }

    pub(crate) fn new(
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

    /// Returns the context of the next request: this one, or its successor if the configuration has changed. A connection that the change does not
    /// forbid goes on under the new configuration.
    ///
    /// # Errors
    /// [`Refusal::Draining`] if there is no successor, or if a client that has sent no request yet would have to authenticate again.
    pub(crate) fn now(self: &Rc<Self>, watch: &Watch, first: bool) -> Result<Rc<Self>, Refusal> {
        if !watch.outdated() {
            return Ok(Rc::clone(self));
        }
        let client = self.facts.client.0.ip();
        let view = self.view.renewed(&self.core.shared.prepared.load(), client);
        let view = view.ok_or(Refusal::Draining)?;
        // A connection that has just been accepted is spared; a new revocation list comes daily.
        let lingered = || self.facts.accepted.elapsed() > self.limits().timeouts.handshake;
        if first && lingered() && !view.trusts_like(&self.view) {
            return Err(Refusal::Draining);
        }
        if view.may_take_over(&self.view) {
            watch.retire_with(view.retirement(), client);
        }
        let (core, facts) = (Rc::clone(&self.core), Rc::clone(&self.facts));
        let own = (Rc::clone(&self.pins), Rc::clone(&self.memory));
        Ok(Rc::new(Self::new(core, view, facts, own)))
    }

    /// Returns the successor for a connection that has sent no request yet, which lives on as if it had been accepted now.
    pub(crate) fn fresh(self: &Rc<Self>, watch: &Watch) -> Result<Rc<Self>, Refusal> {
        let now = self.now(watch, true)?;
        if now.view.trusts_like(&self.view) {
            watch.retire_with(now.view.retirement(), self.facts.client.0.ip());
        }
        Ok(now)
    }
}
