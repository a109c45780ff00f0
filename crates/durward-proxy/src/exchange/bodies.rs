//! Both bodies of one attempt at once: the request's to the upstream, the response's to the client, in one task.
//!
//! Either may finish first: an upstream may answer before it has read the request.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::exchange::context::Http;
use crate::exchange::ended::{Clock, Stop};
use crate::http::fields::list;
use crate::http::flow::{
    BodyCopy, CopyFault, Downstream, HeadFault, PollBody, SourceFault, Upstream,
};
use crate::http::framing::{Kind, is_empty};
use crate::http::h2::websocket_accepts;
use crate::http::message::{Request, Response, Upgrade, Version};
use crate::http::names::Known;
use crate::memory::Part;
use crate::refusal::Refusal;
use crate::upstream::Lease;
use crate::watch::Expired;

/// Interim responses (1xx) passed on per request at most.
const INTERIMS: u32 = 32;

/// Result of an attempt after the response's head.
pub(crate) enum ExchangeEnd {
    /// The response is complete; `read` is true if the request is too.
    Complete { read: bool },
    /// 101: bytes go both ways from here on.
    Switched,
}

/// Failed attempt: the refusal, and what a retry may assume.
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    /// The client has got a head, or has gone.
    pub(crate) begun: bool,
    /// Another upstream may do better.
    pub(crate) retriable: bool,
    /// Nothing of the request was sent.
    pub(crate) unsent: bool,
    /// There was no connection to send it on.
    pub(crate) unconnected: bool,
    /// A pooled connection turned out to be closed.
    pub(crate) stale: bool,
    /// The budget has paid for another try.
    pub(crate) granted: bool,
    /// Endpoint guard of an upstream that refused the request unprocessed (REFUSED_STREAM, GOAWAY); counted as its failure if no other endpoint is
    /// tried.
    pub(crate) refused_by: Option<Lease>,
}

impl Failure {
    /// Builds the failure for a missing connection.
    pub(crate) fn before_sending(refusal: Refusal) -> Self {
        let retriable = matches!(
            refusal,
            Refusal::ConnectFailed { .. }
                | Refusal::LinkFailed { .. }
                | Refusal::ConnectTimeout { .. }
                | Refusal::UpstreamTls { .. }
                | Refusal::UpstreamClosed { .. }
        );
        let begun = matches!(refusal, Refusal::ClientClosed);
        let unconnected = retriable && !matches!(refusal, Refusal::UpstreamClosed { .. });
        Self { begun, retriable, unsent: true, unconnected, ..Self::after_head(refusal) }
    }

    /// Builds the failure for a response that the upstream's retry rules discard.
    pub(crate) fn discarded() -> Self {
        let refusal = Refusal::BadResponse { detail: "status to be retried" };
        Self { begun: false, retriable: true, granted: true, ..Self::after_head(refusal) }
    }

    /// Builds the failure for a response that cannot be passed on, and of which nothing was.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self { begun: false, ..Self::after_head(refusal) }
    }

    /// Builds the failure for a response that broke off.
    pub(crate) fn after_head(refusal: Refusal) -> Self {
        let (retriable, unsent, unconnected, stale, granted) = (false, false, false, false, false);
        Self {
            refusal,
            begun: true,
            retriable,
            unsent,
            unconnected,
            stale,
            granted,
            refused_by: None,
        }
    }

    pub(crate) fn upstream_is_to_blame(&self) -> bool {
        matches!(
            self.refusal,
            Refusal::UpstreamClosed { .. } | Refusal::BadResponse { .. } | Refusal::ResponseTimeout
        )
    }

    pub(crate) fn into_stop(self) -> Stop {
        if self.begun { Stop::Break(self.refusal) } else { Stop::Refuse(self.refusal) }
    }
}

/// Attempt in progress.
pub(crate) struct Exchange<'t, D, U> {
    http: &'t Http,
    clock: Clock<'t>,
    down: &'t mut D,
    up: &'t mut U,
    upload: BodyCopy,
    download: BodyCopy,
    /// True if the upstream takes no more of the request.
    refused: bool,
    /// True while bytes after the request's head wait for the upgrade to be granted.
    held: bool,
    interim: bool,
    /// True if the response ends with its head: nothing may follow.
    bare: bool,
    /// True if the response's Content-Length is not that of its own content (HEAD, 304).
    foreign_length: bool,
    /// Interim responses so far.
    interims: u32,
    /// Memory for bytes that wait because a side does not take them.
    waiting: Option<Part>,
}

/// Reason a poll cannot go on.
pub(crate) enum ExchangeError {
    Client(SourceFault),
    Gone,
    ClientWrite,
    UpstreamClosed,
    UpstreamRefused,
    /// The upstream reset the request's stream with an error code.
    UpstreamReset(&'static str),
    Upstream(SourceFault),
    Malformed(Refusal),
    Memory,
    /// The request cannot be sent to this upstream, which is not the upstream's fault.
    Unfit(Refusal),
}

impl<'t, D: Downstream, U: Upstream> Exchange<'t, D, U> {
    pub(crate) fn new(http: &'t Http, clock: Clock<'t>, down: &'t mut D, up: &'t mut U) -> Self {
        let (upload, download) = (BodyCopy::default(), BodyCopy::default());
        let (refused, held, interim, interims) = (false, false, false, 0);
        let (bare, foreign_length) = (false, false);
        Self {
            http,
            clock,
            down,
            up,
            upload,
            download,
            refused,
            held,
            interim,
            bare,
            foreign_length,
            interims,
            waiting: None,
        }
    }

    pub(crate) fn has_consumed(&self) -> bool {
        self.down.consumed()
    }

    /// Sends the request until there is a final head, which is not passed on yet.
    pub(crate) async fn until_answered(
        &mut self,
        request: &Request,
        response: &mut Response,
    ) -> Result<(), HeadError> {
        if let Err(refusal) = self.up.request(request) {
            return Err(HeadError::Failed(ExchangeError::Unfit(refusal)));
        }
        self.held = self.up.holds_upgrades() && matches!(request.upgrade, Upgrade::Extended(_));
        let timeouts = &self.http.limits().timeouts;
        let watch = self.clock.watch;
        self.clock.arm(if request.has_body() { timeouts.stream_idle } else { timeouts.response });
        let answered = watch.guard(poll_fn(|cx| self.poll_answer(cx, request, response))).await;
        match answered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(HeadError::Failed(error)),
            Err(expired) => Err(HeadError::Expired(expired)),
        }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request,
        response: &mut Response,
    ) -> Poll<Result<(), ExchangeError>> {
        let before = self.upload.moved;
        self.poll_upload(cx)?;
        loop {
            match self.up.poll_head(cx, request, response) {
                Poll::Ready(Ok(())) => {
                    if !response.is_interim() {
                        return Poll::Ready(self.check_switch(request, response));
                    }
                    self.interims += 1;
                    if self.interims > INTERIMS {
                        let detail = "too many interim responses";
                        return Poll::Ready(Err(ExchangeError::Malformed(Refusal::BadResponse {
                            detail,
                        })));
                    }
                    // A 1xx must not be sent to an HTTP/1.0 client (RFC 9110 section 15.2).
                    if request.version != Version::Http10 {
                        self.down.interim(response).map_err(|_| ExchangeError::ClientWrite)?;
                        self.interim = true;
                    }
                    response.clear();
                }
                Poll::Ready(Err(HeadFault::Closed)) => {
                    return Poll::Ready(Err(ExchangeError::UpstreamClosed));
                }
                Poll::Ready(Err(HeadFault::Refused)) => {
                    return Poll::Ready(Err(ExchangeError::UpstreamRefused));
                }
                Poll::Ready(Err(HeadFault::Reset(detail))) => {
                    return Poll::Ready(Err(ExchangeError::UpstreamReset(detail)));
                }
                Poll::Ready(Err(HeadFault::Unfit(refusal))) => {
                    return Poll::Ready(Err(ExchangeError::Unfit(refusal)));
                }
                Poll::Ready(Err(HeadFault::Malformed(refusal))) => {
                    return Poll::Ready(Err(ExchangeError::Malformed(refusal)));
                }
                Poll::Pending => break,
            }
        }
        if self.interim {
            self.interim =
                self.down.poll_flush(cx).map_err(|_| ExchangeError::ClientWrite)?.is_pending();
        }
        if self.down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ExchangeError::Gone));
        }
        // A slow upload is progress: it extends the deadline.
        if self.upload.moved != before && !self.upload.is_done() {
            self.clock.extend(self.http.limits().timeouts.stream_idle);
        }
        self.hold_waiting().map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending)
    }

    /// Charges bytes that wait here for a slow side to the client's connection.
    fn hold_waiting(&mut self) -> Result<(), ExchangeError> {
        let held = self.down.held() + self.up.held();
        self.http.hold_waiting(&mut self.waiting, held).map_err(|_| ExchangeError::Memory)
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        if self.held {
            self.refused |= matches!(self.up.poll_flush(cx), Poll::Ready(Err(_)));
            return Ok(());
        }
        if self.upload.is_done() || self.refused {
            return Ok(());
        }
        let (usage, limits) = (&self.http.view.tenant().usage, self.http.limits());
        let meter = |bytes| usage.bandwidth_in(limits, bytes);
        match self.upload.poll(cx, self.down, self.up, &meter) {
            Poll::Ready(Ok(())) if self.upload.moved > 0 => {
                self.clock.extend(limits.timeouts.response);
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(CopyFault::Source(fault))) => return Err(ExchangeError::Client(fault)),
            // The upstream may have answered before it closed.
            Poll::Ready(Err(CopyFault::Sink)) => self.refused = true,
        }
        Ok(())
    }

    fn check_switch(&self, request: &Request, response: &Response) -> Result<(), ExchangeError> {
        if request.upgrade.is_extended() && self.up.holds_upgrades() && response.status < 300 {
            // A client takes a 2xx as an open tunnel.
            let detail = "2xx to a protocol that was not granted";
            if response.status != 101 {
                return Err(ExchangeError::Malformed(Refusal::BadResponse { detail }));
            }
        }
        let Some(answered) = response.upgrade else { return Ok(()) };
        let (Upgrade::Token(asked) | Upgrade::Extended(asked)) = request.upgrade else {
            return Ok(());
        };
        let (asked, answered) = (request.fields.bytes(asked), response.fields.bytes(answered));
        let malformed = |detail| Err(ExchangeError::Malformed(Refusal::BadResponse { detail }));
        let offered = |name: &[u8]| list(asked).any(|asked| asked.eq_ignore_ascii_case(name));
        if list(answered).next().is_none() || !list(answered).all(offered) {
            return malformed("101 to a protocol that was not asked for");
        }
        if let Upgrade::Extended(_) = request.upgrade {
            let key = request.fields.get(Known::SecWebsocketKey).unwrap_or_default();
            let accept = response.fields.get(Known::SecWebsocketAccept).unwrap_or_default();
            if !websocket_accepts(key, accept) {
                return malformed("101 with a wrong Sec-WebSocket-Accept");
            }
        }
        Ok(())
    }

    /// Passes the final head on.
    pub(crate) fn begin_response(
        &mut self,
        request: &Request,
        response: &Response,
    ) -> Result<(), Refusal> {
        self.bare = response.status != 101
            && !request.upgrade.is_extended()
            && is_empty(Kind::of(request), response.status);
        self.foreign_length = self.bare && request.method() != "HEAD";
        self.down.head(request, response).map_err(|_| Refusal::ClientClosed)
    }

    /// Passes the body on, after its head; neither head is needed any more.
    pub(crate) async fn pass_on(
        &mut self,
        asked: Upgrade,
        status: u16,
    ) -> Result<ExchangeEnd, Refusal> {
        let watch = self.clock.watch;
        if status == 101 {
            if let Upgrade::Token(_) = asked {
                return self.switch().await;
            }
            self.up.tunnel();
            self.held = false;
            self.clock.end = None;
            (self.upload, self.download) = (BodyCopy::default(), BodyCopy::default());
        }
        self.clock.extend(self.http.limits().timeouts.stream_idle);
        let passed = watch.guard(poll_fn(|cx| self.poll_rest(cx))).await;
        match passed {
            Ok(Ok(())) => Ok(ExchangeEnd::Complete { read: self.upload.is_done() }),
            Ok(Err(error)) => Err(self.reason(error, None)),
            Err(expired) => Err(self.expired(expired)),
        }
    }

    /// Ends the request before a tunnel begins: an upstream may grant the protocol while content is still on its way.
    async fn switch(&mut self) -> Result<ExchangeEnd, Refusal> {
        let switched = self.clock.watch.guard(poll_fn(|cx| {
            if let Err(error) = self.poll_upload(cx) {
                return Poll::Ready(Err(error));
            }
            let flushed = self.down.poll_flush(cx).map_err(|_| ExchangeError::ClientWrite)?;
            match (self.refused, self.upload.is_done()) {
                (true, _) => Poll::Ready(Err(ExchangeError::UpstreamClosed)),
                (false, true) => flushed.map(Ok),
                (false, false) => Poll::Pending,
            }
        }));
        match switched.await {
            Ok(Ok(())) => Ok(ExchangeEnd::Switched),
            Ok(Err(error)) => Err(self.reason(error, None)),
            Err(_) => Err(Refusal::ClientClosed),
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        let before = self.upload.moved + self.download.moved;
        let (usage, limits) = (&self.http.view.tenant().usage, self.http.limits());
        let meter = |bytes| usage.bandwidth_out(limits, bytes);
        let downloaded = match self.bare {
            true => self.poll_bare_end(cx),
            false => self.download.poll(cx, self.up, self.down, &meter),
        };
        match downloaded {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(CopyFault::Source(fault))) => {
                // The client gets the bytes before the abort, as far as it takes them at once.
                let _ = self.down.poll_flush(cx);
                return Poll::Ready(Err(ExchangeError::Upstream(fault)));
            }
            Poll::Ready(Err(CopyFault::Sink)) => {
                return Poll::Ready(Err(ExchangeError::ClientWrite));
            }
            Poll::Pending => {}
        }
        self.poll_upload(cx)?;
        if self.down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ExchangeError::Gone));
        }
        // Bytes of framing are no progress: an upstream could send chunk extensions or empty frames for ever.
        if self.upload.moved + self.download.moved != before {
            self.clock.extend(limits.timeouts.stream_idle);
        }
        self.hold_waiting().map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending)
    }

    /// Waits for the end of a response without content. HTTP/2 may send that end in a frame of its own, after the head.
    fn poll_bare_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CopyFault>> {
        match self.up.poll_fill(cx) {
            Poll::Ready(Ok(PollBody::End)) => self.finish_bare(cx),
            // The Content-Length of a 304 is not that of its own content, but `h2` takes it for that.
            Poll::Ready(Err(SourceFault::Malformed(_))) if self.foreign_length => {
                self.finish_bare(cx)
            }
            Poll::Ready(Ok(PollBody::Data)) => {
                let fault = SourceFault::Malformed("content in a response that has none");
                Poll::Ready(Err(CopyFault::Source(fault)))
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Err(CopyFault::Source(fault))),
            Poll::Pending => {
                let _ = self.down.poll_flush(cx).map_err(|_| CopyFault::Sink)?;
                Poll::Pending
            }
        }
    }

    fn finish_bare(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CopyFault>> {
        self.down.finish(None).map_err(|_| CopyFault::Sink)?;
        self.down.poll_flush(cx).map_err(|_| CopyFault::Sink)
    }

    /// Converts a failed wait for the head into a failure.
    pub(crate) fn failure(&self, fault: HeadError, lease: &Lease) -> Failure {
        let error = match fault {
            HeadError::Failed(error) => error,
            HeadError::Expired(expired) => {
                return Failure { begun: false, ..Failure::after_head(self.expired(expired)) };
            }
        };
        let begun = matches!(
            error,
            ExchangeError::Gone
                | ExchangeError::ClientWrite
                | ExchangeError::Client(SourceFault::Closed)
        );
        let unsent = matches!(error, ExchangeError::UpstreamRefused);
        let silent = self.interims == 0 && self.up.is_silent();
        let ended =
            matches!(error, ExchangeError::UpstreamClosed | ExchangeError::UpstreamReset(_));
        let retriable = unsent || (ended && silent);
        // A reset with an error code shows that the upstream was there: its connection was not stale.
        let stale = retriable && lease.reused && !matches!(error, ExchangeError::UpstreamReset(_));
        let refusal = self.reason(error, Some(lease));
        Failure { begun, retriable, unsent, stale, ..Failure::after_head(refusal) }
    }

    fn reason(&self, error: ExchangeError, lease: Option<&Lease>) -> Refusal {
        match error {
            ExchangeError::Client(SourceFault::Malformed(detail)) => Refusal::BadRequest { detail },
            ExchangeError::Client(SourceFault::TooLarge) => Refusal::BodyTooLarge,
            ExchangeError::Client(SourceFault::Late) => Refusal::ClientTimeout { phase: "body" },
            ExchangeError::Upstream(SourceFault::Late) => Refusal::ResponseTimeout,
            ExchangeError::Client(SourceFault::Closed)
            | ExchangeError::Gone
            | ExchangeError::ClientWrite => Refusal::ClientClosed,
            ExchangeError::Malformed(refusal) | ExchangeError::Unfit(refusal) => refusal,
            ExchangeError::UpstreamReset(detail) => Refusal::BadResponse { detail },
            ExchangeError::Memory => Refusal::Memory,
            ExchangeError::Upstream(SourceFault::Malformed(detail)) => {
                Refusal::BadResponse { detail }
            }
            ExchangeError::UpstreamClosed
            | ExchangeError::UpstreamRefused
            | ExchangeError::Upstream(_) => match lease {
                Some(lease) => Refusal::UpstreamClosed { peer: lease.peer.0 },
                None => Refusal::BadResponse { detail: "response broke off" },
            },
        }
    }

    fn expired(&self, expired: Expired) -> Refusal {
        match expired {
            Expired::Closing => Refusal::Draining,
            // Bytes that wait here cannot be sent, so the upstream is not the slow side.
            Expired::Deadline if !self.up.data().is_empty() => {
                Refusal::ClientTimeout { phase: "body" }
            }
            Expired::Deadline
                if !self.upload.is_done() && self.up.is_silent() && self.down.data().is_empty() =>
            {
                Refusal::ClientTimeout { phase: "body" }
            }
            Expired::Deadline => Refusal::ResponseTimeout,
        }
    }
}

/// Reason there is no head.
pub(crate) enum HeadError {
    Failed(ExchangeError),
    Expired(Expired),
}
