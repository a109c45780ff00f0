//! Sending a request to an upstream, and to another one when that is safe.
//!
//! A retry is safe if the request is idempotent or nothing of it was sent, its body is still complete, and no response has begun. Deliberately
//! absent: buffering bodies for retries.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;

use durward_model::egress::Asked;
use durward_model::route::Forward;
use durward_model::upstream::{UpstreamIndex, UpstreamProtocol};

use crate::dial;
use crate::dial::Cleared;
use crate::exchange::account::Account;
use crate::exchange::account::Upstream as UpstreamAccount;
use crate::exchange::bodies::{Exchange, ExchangeEnd, Failure};
use crate::exchange::bound;
use crate::exchange::context::Http;
use crate::exchange::ended::{Clock, Ended, Stop};
use crate::exchange::request::{client, rewrite};
use crate::exchange::switch::Switched;
use crate::http::flow::{Downstream, Sink, Upstream};
use crate::http::h1::Conn;
use crate::http::h2::client::Up;
use crate::http::h2::convert::unfit;
use crate::http::h2::websocket_key;
use crate::http::message::{PooledResponse, Upgrade, Version};
use crate::http::names::Known;
use crate::metrics::Counter;
use crate::refusal::Refusal;
use crate::upstream::{Carrier, Lease, Tried, UpstreamRuntime, acquire, carry};
use crate::watch::{Expired, Watch};

/// Destination of a request.
#[derive(Clone, Copy)]
pub(crate) enum Way<'w> {
    /// Upstream of a route.
    Upstream(&'w Forward, UpstreamIndex),
    /// Destination that the forward proxy's policy allows, and the request for it.
    Outside(&'w Cleared<'w>, Asked<'w>),
}

impl Way<'_> {
    /// Returns true if its connections may serve other requests: not those that go through a parent proxy.
    fn is_pooled(self) -> bool {
        !matches!(self, Self::Outside(Cleared { parent: Some(_), .. }, _))
    }
}

/// Sends the request to one endpoint after another until one answers.
pub(crate) async fn forward<'a, D: Downstream>(
    http: &'a Http,
    watch: &Watch,
    down: &mut D,
    account: &mut Account<'a>,
    response: &mut PooledResponse,
    way: Way<'_>,
) -> Result<Ended<'a>, Stop> {
    let tenant = http.view.tenant();
    let whole = http.limits().timeouts.request;
    let (runtime, limit) = match way {
        Way::Upstream(forward, index) => (&tenant.upstreams[index.0], forward.timeout.or(whole)),
        Way::Outside(..) => (&tenant.outside, whole),
    };
    if runtime.upstream.protocol == UpstreamProtocol::Http2
        && let Some(detail) = unfit(&account.request)
    {
        return Err(Refusal::BadRequest { detail }.into());
    }
    runtime.count_request();
    let clock = Clock { watch, end: limit.map(|limit| account.began() + limit) };
    let mut tries = Tries::new(runtime);
    loop {
        response.clear();
        let failure = match connect(http, down, &clock, account, way, &mut tries.tried).await {
            Ok((Carrier::Http1(io), lease)) => {
                // The forward proxy's record must be written before the request is sent.
                note(account, way, &lease);
                account.recorded().await?;
                let mut attempt =
                    Attempt { http, clock, account, response, pooled: way.is_pooled() };
                match attempt.http1(down, io, lease, &tries).await {
                    Ok(ended) => return Ok(ended),
                    Err(failure) => failure,
                }
            }
            Ok((Carrier::Http2(send), lease)) => {
                note(account, way, &lease);
                account.recorded().await?;
                let mut attempt =
                    Attempt { http, clock, account, response, pooled: way.is_pooled() };
                match attempt.http2(down, send, lease, &tries).await {
                    Ok(ended) => return Ok(ended),
                    Err(failure) => failure,
                }
            }
            Err(refusal) => Failure::before_sending(refusal),
        };
        // Bodies are not buffered: a request whose body was touched cannot be sent again.
        let retry = !failure.begun && !down.consumed() && tries.allow(account, &failure);
        if !retry {
            if let Some(lease) = &failure.refused_by {
                lease.refused();
            }
            return Err(failure.into_stop());
        }
        account.retries += 1;
    }
}

async fn connect<D: Downstream>(
    http: &Http,
    down: &mut D,
    clock: &Clock<'_>,
    account: &Account<'_>,
    way: Way<'_>,
    tried: &mut Tried,
) -> Result<(Carrier, Lease), Refusal> {
    let (core, view) = (&http.core, &http.view);
    let upstreams = &core.upstreams;
    let (index, addresses) = match way {
        Way::Upstream(_, index) => (Some(index), &[][..]),
        Way::Outside(cleared, _) => (None, &cleared.addresses[..]),
    };
    if let Some(own) = http.pins.take(upstreams, || view.access(), index, addresses, tried)? {
        return Ok(own);
    }
    match way {
        Way::Upstream(_, index) => {
            let client = client(http, &account.chain);
            let acquiring = pin!(acquire(upstreams, view.access(), index, client, tried));
            wait_for(acquiring, down, clock).await
        }
        Way::Outside(cleared, asked) if cleared.parent.is_some() => {
            let dialling = dial::connect(core, view, cleared, asked, account.passage.as_ref());
            let reached = wait_for(pin!(dialling), down, clock).await?;
            // A peer that sends before the request is no HTTP server.
            let quiet = reached.side.early.is_empty();
            let fault = Refusal::BadResponse { detail: "response before its request" };
            quiet.then_some((Carrier::Http1(reached.side.io), reached.lease)).ok_or(fault)
        }
        Way::Outside(cleared, _) => {
            let acquiring = pin!(carry(upstreams, view.access(), &cleared.addresses, tried));
            wait_for(acquiring, down, clock).await
        }
    }
}

/// Waits for a connection as long as the client stays connected.
pub(crate) async fn wait_for<D: Downstream, T>(
    mut acquired: Pin<&mut impl Future<Output = Result<T, Refusal>>>,
    down: &mut D,
    clock: &Clock<'_>,
) -> Result<T, Refusal> {
    // Connecting has deadlines of its own; this one is the whole exchange's, and ends with the connection.
    match clock.end {
        Some(_) => clock.arm(std::time::Duration::MAX),
        None => clock.watch.arm(None, false),
    }
    let connected = poll_fn(|cx| match acquired.as_mut().poll(cx) {
        Poll::Pending if down.poll_gone(cx).is_ready() => Poll::Ready(Err(Refusal::ClientClosed)),
        polled => polled,
    });
    match clock.watch.guard(connected).await {
        Ok(acquired) => acquired,
        Err(Expired::Deadline) => Err(Refusal::ResponseTimeout),
        Err(Expired::Closing) => Err(Refusal::Draining),
    }
}

fn note(account: &mut Account<'_>, way: Way<'_>, lease: &Lease) {
    let index = match way {
        Way::Upstream(_, index) => Some(index),
        Way::Outside(..) => None,
    };
    account.note_upstream(UpstreamAccount {
        index,
        peer: lease.peer,
        source: lease.source,
        reused: lease.reused,
        connect: lease.connect,
        first_byte: None,
    });
}

/// Retries left.
struct Tries<'a> {
    runtime: &'a UpstreamRuntime,
    tried: Tried,
    left: u32,
    /// Retry that costs nothing: a pooled connection was closed while idle.
    free: bool,
}

impl<'a> Tries<'a> {
    fn new(runtime: &'a UpstreamRuntime) -> Self {
        let left = runtime.upstream.retry.attempts;
        Self { runtime, tried: Tried::default(), left, free: true }
    }

    fn allow(&mut self, account: &Account<'_>, failure: &Failure) -> bool {
        if !failure.retriable || !(failure.unsent || account.request.is_idempotent()) {
            return false;
        }
        if failure.stale && std::mem::take(&mut self.free) {
            return true;
        }
        if failure.unconnected && self.runtime.may_connect_elsewhere(&self.tried, account.began()) {
            return true;
        }
        if self.left == 0 || !(failure.granted || self.runtime.may_retry()) {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Returns true if a response with this status is discarded for a retry.
    fn discards(&self, account: &Account<'_>, status: u16) -> bool {
        self.left > 0
            && self.runtime.upstream.retry.on_status.contains(&status)
            && account.request.is_idempotent()
            && self.runtime.may_retry()
    }
}

/// One attempt to send the request.
struct Attempt<'t, 'a> {
    http: &'a Http,
    clock: Clock<'t>,
    account: &'t mut Account<'a>,
    response: &'t mut PooledResponse,
    pooled: bool,
}

impl<'a> Attempt<'_, 'a> {
    async fn http1<D: Downstream>(
        &mut self,
        down: &mut D,
        io: crate::io::Io,
        mut lease: Lease,
        tries: &Tries<'_>,
    ) -> Result<Ended<'a>, Failure> {
        if bound::proves(&self.account.request) {
            lease.bind();
        }
        if let Upgrade::Extended(_) = self.account.request.upgrade {
            let key = websocket_key(&self.http.core.random);
            let fields = &mut self.account.request.fields;
            fields.retain(|known| known != Known::SecWebsocketKey);
            fields.append(b"Sec-WebSocket-Key", key.as_bytes());
        }
        let mut up = Conn::new(io);
        let end = self.exchange(down, &mut up, &mut lease, tries).await;
        self.count_traffic(&up);
        match end? {
            ExchangeEnd::Switched => Ok(Ended::Upgraded(Box::new(Switched::new(up, lease)))),
            ExchangeEnd::Complete { read } => {
                // A request that was not read to its end would leave bytes in front of the next one.
                if read && self.pooled && up.may_be_reused(self.response) {
                    self.give_back(up.io, lease);
                }
                Ok(if read { Ended::Complete } else { Ended::Unread })
            }
        }
    }

    async fn http2<D: Downstream>(
        &mut self,
        down: &mut D,
        send: h2::client::SendRequest<bytes::Bytes>,
        mut lease: Lease,
        tries: &Tries<'_>,
    ) -> Result<Ended<'a>, Failure> {
        // An HTTP/1.1 upgrade has no counterpart in HTTP/2; without it the upstream gives an ordinary answer.
        if let Upgrade::Token(_) = self.account.request.upgrade {
            self.account.request.upgrade = Upgrade::None;
        }
        if bound::proves(&self.account.request) {
            lease.bind();
        }
        let Some(stream) = lease.stream() else { return Ok(Ended::Broken) };
        let tls = lease.upstream().upstream.tls.is_some();
        let (streams, findings) = (stream.accounts(), stream.findings());
        let mut up = Up::new(send, streams, findings, stream.window(), tls);
        let end = self.exchange(down, &mut up, &mut lease, tries).await;
        self.count_traffic(&up);
        match end {
            Ok(ExchangeEnd::Complete { read: true }) => Ok(Ended::Complete),
            Ok(ExchangeEnd::Complete { read: false }) => Ok(Ended::Unread),
            Ok(ExchangeEnd::Switched) => Ok(Ended::Broken),
            Err(mut failure) => {
                failure.refused_by = failure.unsent.then_some(lease);
                Err(failure)
            }
        }
    }

    /// Returns the connection to the pool, or keeps it for this client if the client has authenticated on it. HTTP/2 streams have no connection to
    /// authenticate.
    fn give_back(&self, io: crate::io::Io, lease: Lease) {
        if !lease.is_bound() {
            lease.release(io);
        } else if self.account.request.version != Version::Http2 {
            self.http.pins.keep(io, lease);
        }
    }

    /// Sends the request and passes the response on.
    async fn exchange<D: Downstream, U: Upstream>(
        &mut self,
        down: &mut D,
        up: &mut U,
        lease: &mut Lease,
        tries: &Tries<'_>,
    ) -> Result<ExchangeEnd, Failure> {
        let sent = Instant::now();
        let mut exchange = Exchange::new(self.http, self.clock, down, up);
        let answered = exchange.until_answered(&self.account.request, self.response).await;
        if let Err(refusal) = answered {
            let failure = exchange.failure(refusal, lease);
            if failure.upstream_is_to_blame() {
                lease.failed(&failure.refusal);
            }
            return Err(failure);
        }
        if let Some(upstream) = &mut self.account.upstream {
            upstream.first_byte = Some(sent.elapsed());
        }
        let status = self.response.status;
        lease.answered(status);
        if bound::wants(self.response) {
            lease.bind_connection();
        }
        if !exchange.has_consumed() && tries.discards(self.account, self.response.status) {
            return Err(Failure::discarded());
        }
        self.apply_rules();
        self.account.hold_response(self.response).map_err(Failure::refused)?;
        self.account.status = self.response.status;
        if self.clock.watch.closing() {
            self.account.request.keep_alive = false;
        }
        let begun = exchange.begin_response(&self.account.request, self.response);
        let switches = self.account.request.upgrade;
        // A long body should not keep both heads in memory.
        self.account.release_heads(self.response);
        let passed = match begun {
            Ok(()) => exchange.pass_on(switches, self.response.status).await,
            Err(refusal) => Err(refusal),
        };
        match passed {
            Ok(end) => {
                lease.served(status);
                Ok(end)
            }
            Err(refusal) => {
                let failure = Failure::after_head(refusal);
                if failure.upstream_is_to_blame() {
                    lease.failed(&failure.refusal);
                } else {
                    lease.served(status);
                }
                Err(failure)
            }
        }
    }

    fn apply_rules(&mut self) {
        if self.response.status == 101 && !self.account.request.upgrade.is_none() {
            return;
        }
        if self.account.passage.is_some() {
            // `Proxy-*` fields are between a client and its proxy, which is us.
            self.response.fields.retain(|known| known != Known::ProxyOther);
        }
        if let Some(rules) = self.account.response_rules() {
            rewrite(&mut self.response.fields, rules);
        }
    }

    fn count_traffic<K: Sink>(&self, up: &K) {
        let (received, sent) = up.traffic();
        let cells = self.http.cells();
        cells.add(Counter::UpstreamBytesIn, received);
        cells.add(Counter::UpstreamBytesOut, sent);
    }
}
