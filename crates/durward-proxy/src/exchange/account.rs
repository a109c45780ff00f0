//! Log line and counters of one request, written when the account is dropped: once, however the exchange ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use durward_model::UpstreamAddr;
use durward_model::route::HeaderRules;
use durward_model::upstream::UpstreamIndex;

use crate::access_log::{Record, RequestRecord, UpstreamRecord};
use crate::decisions::Passage;
use crate::exchange::context::Http;
use crate::exchange::request::{ProxyChain, RequestId};
use crate::http::fields::Span;
use crate::http::message::{PooledRequest, Response};
use crate::http::names::Known;
use crate::memory::Part;
use crate::metrics::Counter;
use crate::outcome::Outcome;
use crate::refusal::Refusal;

/// Status that counts a client that left before its response (nginx's 499).
const CLIENT_CLOSED: u16 = 499;

/// Upstream part of the record.
pub(crate) struct Upstream {
    /// Upstream; `None` for a destination of the forward proxy.
    pub(crate) index: Option<UpstreamIndex>,
    pub(crate) peer: UpstreamAddr,
    pub(crate) source: SocketAddr,
    pub(crate) reused: bool,
    pub(crate) connect: Duration,
    pub(crate) first_byte: Option<Duration>,
}

/// Record of one request in the making.
pub(crate) struct Account<'a> {
    http: &'a Http,
    pub(crate) request: PooledRequest,
    pub(crate) id: RequestId,
    /// Values of `X-Forwarded-For` and the like that trusted proxies have set.
    pub(crate) chain: ProxyChain,
    began: Instant,
    wall: SystemTime,
    pub(crate) route: Option<usize>,
    /// 0 until a final head is sent.
    pub(crate) status: u16,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) retries: u32,
    pub(crate) refusal: Option<Refusal>,
    traffic: (u64, u64),
    /// Bytes carried after an upgrade; the relay has counted them already.
    relayed: (u64, u64),
    /// Decision of the forward proxy.
    pub(crate) passage: Option<Passage>,
    /// Path as the client sent it, normalised, before a prefix is replaced.
    path: Span,
    /// Memory charged for the heads.
    heads: Option<Part>,
}

/// Copies of a request's head in memory at a time: as it was read, and as it is sent.
const COPIES: usize = 2;

impl<'a> Account<'a> {
    pub(crate) fn open(http: &'a Http, request: PooledRequest) -> Self {
        let kept = request.fields.get(Known::XRequestId).filter(|_| http.texts.trusted);
        let id = kept.and_then(RequestId::kept).unwrap_or_else(|| RequestId::new(&http.core));
        let path = request.path;
        let service = http.service().filter(|_| http.texts.trusted);
        let chain =
            service.map(|service| ProxyChain::read(&request.fields, &service.trusted_proxies));
        Self {
            http,
            request,
            id,
            chain: chain.unwrap_or_default(),
            began: Instant::now(),
            wall: SystemTime::now(),
            route: None,
            status: 0,
            upstream: None,
            retries: 0,
            refusal: None,
            traffic: (0, 0),
            relayed: (0, 0),
            passage: None,
            path,
            heads: None,
        }
    }

    /// Returns the route's changes to the response's fields.
    pub(crate) fn response_rules(&self) -> Option<&'a HeaderRules> {
        let route = self.http.service()?.routes.get(self.route?)?;
        Some(&route.response_headers)
    }

    /// Charges the request's head to the connection.
    ///
    /// # Errors
    /// [`Refusal::Memory`] when the tenant has no room for it.
    pub(crate) fn hold_request(&mut self) -> Result<(), Refusal> {
        let held = self.http.memory.take(self.request.fields.capacity() * COPIES);
        if held.is_err() {
            self.forget_request();
        }
        self.heads = Some(held?);
        Ok(())
    }

    /// Charges the response's head to the connection.
    ///
    /// # Errors
    /// [`Refusal::Memory`] when the tenant has no room for it.
    pub(crate) fn hold_response(&mut self, response: &Response) -> Result<(), Refusal> {
        let both = self.request.fields.capacity() * COPIES + response.fields.capacity() * COPIES;
        self.heads.as_mut().map_or(Ok(()), |heads| heads.raise(both))
    }

    /// Drops both heads after they were passed on, except what the log needs. The response's head may still wait to be sent, so one copy stays
    /// charged.
    pub(crate) fn release_heads(&mut self, response: &mut Response) {
        let waiting = response.fields.capacity();
        response.release_fields();
        self.forget_request();
        if let Some(heads) = &mut self.heads {
            heads.lower(self.request.fields.capacity() + waiting);
        }
    }

    /// Drops the request's head, except what the log needs.
    pub(crate) fn forget_request(&mut self) {
        self.path = self.request.release_fields(self.path);
    }

    /// Records the upstream connection.
    pub(crate) fn note_upstream(&mut self, upstream: Upstream) {
        if let Some(passage) = &mut self.passage {
            passage.opened(&self.http.core.decisions, upstream.peer, upstream.source);
        }
        self.upstream = Some(upstream);
    }

    /// Waits until the forward proxy's record is written; returns at once for everything else.
    pub(crate) async fn recorded(&self) -> Result<(), Refusal> {
        match self.passage {
            Some(_) => self.http.core.decisions.committed().await.map_err(Refusal::NotRecorded),
            None => Ok(()),
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Records the route, and the path as it was routed.
    pub(crate) fn note_route(&mut self, route: usize, path: Span) {
        self.route = Some(route);
        self.path = path;
    }

    /// Ends the record with the bytes from and to the client.
    pub(crate) fn close(mut self, traffic: (u64, u64)) {
        self.traffic = traffic;
    }

    /// Turns the record into a tunnel's; the bytes are those before the upgrade.
    pub(crate) fn upgrade(mut self, traffic: (u64, u64)) -> Self {
        self.traffic = traffic;
        self
    }

    /// Ends the record of a tunnel.
    pub(crate) fn close_tunnel(mut self, relayed: (u64, u64), ended: Option<Refusal>) {
        self.relayed = relayed;
        self.refusal = ended;
    }

    fn count(&self, duration: Duration) {
        let cells = self.http.cells();
        cells.add(Counter::of_status(self.status), 1);
        cells.add(Counter::ClientBytesIn, self.traffic.0);
        cells.add(Counter::ClientBytesOut, self.traffic.1);
        if self.status != 101 && self.request.method() != "CONNECT" {
            cells.request_duration.observe(duration);
        }
        if self.retries > 0 {
            cells.add(Counter::Retries, u64::from(self.retries));
        }
        if let Some(refusal) = &self.refusal {
            cells.refused(refusal);
        }
    }

    fn record(&self, duration: Duration) {
        let tenant = &self.http.view.tenant().tenant;
        let routes = self.http.service().map(|service| &service.routes[..]).unwrap_or_default();
        let route = self.route.and_then(|at| routes.get(at)).map(|route| &*route.name);
        let request = &self.request;
        self.http.core.log.write(&Record {
            began: self.wall,
            kind: "http",
            tenant: Some(tenant.id.as_str()),
            facts: &self.http.facts,
            request: Some(RequestRecord {
                id: self.id.as_str(),
                client: self.chain.client,
                version: request.version.name(),
                method: request.method(),
                host: request.host(),
                path: request.fields.text(self.path),
                status: self.status,
                route,
            }),
            upstream: self.upstream.as_ref().map(|upstream| UpstreamRecord {
                name: upstream.index.map_or("outside", |index| &tenant.upstream(index).name),
                link: upstream.index.and_then(|index| tenant.upstream(index).link.as_deref()),
                peer: upstream.peer,
                source: upstream.source,
                reused: upstream.reused,
                connect: upstream.connect,
                first_byte: upstream.first_byte,
                retries: self.retries,
            }),
            bytes_in: self.traffic.0 + self.relayed.0,
            bytes_out: self.traffic.1 + self.relayed.1,
            duration,
            refusal: self.refusal.as_ref(),
        });
    }
}

/// Records a refusal that ends the connection as a whole.
pub(crate) fn note_refusal(http: &Http, refusal: &Refusal) {
    let outcome = Outcome::refused("http", refusal);
    outcome.record(&http.core, Some(http.view.tenant()), &http.facts);
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        if self.status == 0 {
            self.refusal.get_or_insert(Refusal::ClientClosed);
            self.status = CLIENT_CLOSED;
        }
        self.count(duration);
        self.record(duration);
        if let Some(passage) = &self.passage {
            let bytes = (self.traffic.0 + self.relayed.0, self.traffic.1 + self.relayed.1);
            passage.ended(&self.http.core.decisions, self.refusal.as_ref(), bytes);
        }
    }
}
