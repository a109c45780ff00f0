//! Upstream's side of an exchange over HTTP/2: one stream of a shared connection.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};

use crate::http::fields::Fields;
use crate::http::flow::{HeadFault, PollBody, Sink, Source, SourceFault, Upstream};
use crate::http::h2::{Body, Outlet, convert, to_io};
use crate::http::message::{Request, Response};
use crate::http2::inspect::Findings;
use crate::http2::{StreamAccount, Streams};
use crate::refusal::Refusal;

/// Stream to an upstream.
pub(crate) struct Up {
    send: SendRequest<Bytes>,
    streams: Streams,
    account: Option<Rc<StreamAccount>>,
    /// Stream id once the stream is open, and the place where faults of its heads and trailers are noted.
    findings: (u32, Rc<Findings>),
    /// Bytes that the upstream may send ahead (flow-control window).
    window: usize,
    scheme: &'static str,
    /// Request that waits for a free stream on the connection; `true` if it has no body.
    waiting: Option<(http::Request<()>, bool)>,
    /// True if the request is an extended CONNECT, which the upstream's settings have to allow (RFC 8441 section 3).
    extended: bool,
    response: Option<ResponseFuture>,
    outlet: Outlet,
    body: Option<Body>,
}

impl Up {
    pub(crate) fn new(
        send: SendRequest<Bytes>,
        streams: Streams,
        findings: Rc<Findings>,
        window: usize,
        tls: bool,
    ) -> Self {
        Self {
            send,
            streams,
            account: None,
            findings: (0, findings),
            window,
            scheme: if tls { "https" } else { "http" },
            waiting: None,
            extended: false,
            response: None,
            outlet: Outlet::default(),
            body: None,
        }
    }

    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.waiting.is_none() {
            return Poll::Ready(Ok(()));
        }
        if self.extended {
            // On a new connection the upstream's settings are under way. If they do not allow it, `poll_head` says so.
            ready!(self.streams.poll_agreed(cx));
            if !self.send.is_extended_connect_protocol_enabled() {
                return Poll::Pending;
            }
        }
        ready!(self.send.poll_ready(cx))?;
        if let Some((request, ended)) = self.waiting.take() {
            let (response, stream) = self.send.send_request(request, ended)?;
            self.findings.0 = stream.stream_id().into();
            let account = Rc::new(self.streams.serve(self.findings.0));
            self.response = Some(response);
            self.account = Some(Rc::clone(&account));
            self.outlet.open(stream, account, ended);
        }
        Poll::Ready(Ok(()))
    }

    /// Returns true if the request is an extended CONNECT, and the upstream's settings have come and do not allow it.
    fn is_unsupported(&self, cx: &mut Context<'_>) -> bool {
        self.extended
            && self.waiting.is_some()
            && self.streams.poll_agreed(cx).is_ready()
            && !self.send.is_extended_connect_protocol_enabled()
    }

    fn poll_interim(
        &mut self,
        cx: &mut Context<'_>,
        response: &mut Response,
    ) -> Poll<Result<(), HeadFault>> {
        let Some(future) = &mut self.response else { return Poll::Pending };
        match future.poll_informational(cx) {
            Poll::Ready(Some(Ok(interim))) => {
                let (parts, ()) = interim.into_parts();
                self.head_taken();
                Poll::Ready(self.sound().and_then(|()| read_head(&parts, false, response)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(self.fault(&error))),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn head_taken(&self) {
        if let Some(account) = &self.account {
            account.heads_taken();
        }
    }

    /// Rejects a response whose head or trailers broke a rule that the codec silently repairs.
    fn sound(&self) -> Result<(), HeadFault> {
        let (stream, findings) = &self.findings;
        let fault = findings.take(*stream);
        fault.map_or(Ok(()), |fault| Err(HeadFault::Malformed(fault.of_response())))
    }

    /// Returns the reason there is no head: the connection may have ended because the upstream broke a bound.
    fn fault(&self, error: &h2::Error) -> HeadFault {
        if let Some(refusal) = self.streams.broken() {
            return HeadFault::Malformed(refusal);
        }
        match head_fault(error) {
            // The codec does not report which rule was broken.
            HeadFault::Malformed(refusal) => {
                self.sound().err().unwrap_or(HeadFault::Malformed(refusal))
            }
            fault => fault,
        }
    }
}

fn read_head(
    parts: &http::response::Parts,
    ended: bool,
    response: &mut Response,
) -> Result<(), HeadFault> {
    convert::response(parts, ended, response)
        .map_err(|fault| HeadFault::Malformed(fault.of_response()))
}

fn head_fault(error: &h2::Error) -> HeadFault {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => HeadFault::Refused,
        // A GOAWAY with NO_ERROR ends only the streams that the upstream did not process.
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => HeadFault::Refused,
        Some(reason) if error.is_remote() => HeadFault::Reset(ended_by(reason)),
        // Error raised by the codec: the upstream broke a rule of the protocol or a bound on heads.
        Some(_) if error.is_library() => {
            HeadFault::Malformed(Refusal::BadResponse { detail: "HTTP/2 protocol error" })
        }
        _ if error.is_io() => HeadFault::Closed,
        // The codec itself refuses to send the request.
        None => HeadFault::Unfit(unfit("request that HTTP/2 cannot carry")),
        Some(_) => HeadFault::Closed,
    }
}

/// Names the error code of RST_STREAM or GOAWAY with which an upstream ended a request.
fn ended_by(reason: Reason) -> &'static str {
    match reason {
        Reason::NO_ERROR => "stream reset before the response: NO_ERROR",
        Reason::PROTOCOL_ERROR => "stream reset before the response: PROTOCOL_ERROR",
        Reason::INTERNAL_ERROR => "stream reset before the response: INTERNAL_ERROR",
        Reason::FLOW_CONTROL_ERROR => "stream reset before the response: FLOW_CONTROL_ERROR",
        Reason::STREAM_CLOSED => "stream reset before the response: STREAM_CLOSED",
        Reason::FRAME_SIZE_ERROR => "stream reset before the response: FRAME_SIZE_ERROR",
        Reason::CANCEL => "stream reset before the response: CANCEL",
        Reason::COMPRESSION_ERROR => "stream reset before the response: COMPRESSION_ERROR",
        Reason::CONNECT_ERROR => "stream reset before the response: CONNECT_ERROR",
        Reason::ENHANCE_YOUR_CALM => "stream reset before the response: ENHANCE_YOUR_CALM",
        Reason::INADEQUATE_SECURITY => "stream reset before the response: INADEQUATE_SECURITY",
        Reason::HTTP_1_1_REQUIRED => "stream reset before the response: HTTP_1_1_REQUIRED",
        _ => "stream reset before the response",
    }
}

fn unfit(detail: &'static str) -> Refusal {
    Refusal::BadRequest { detail }
}

impl Upstream for Up {
    fn request(&mut self, request: &Request) -> Result<(), Refusal> {
        self.extended = !request.upgrade.is_none();
        let head = convert::to_request(request, self.scheme)
            .ok_or_else(|| unfit("request that HTTP/2 cannot carry"))?;
        self.waiting = Some((head, !self.extended && !request.has_body()));
        Ok(())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        _: &Request,
        response: &mut Response,
    ) -> Poll<Result<(), HeadFault>> {
        if self.is_unsupported(cx) {
            let detail = "extended CONNECT by the upstream";
            return Poll::Ready(Err(HeadFault::Unfit(Refusal::NotSupported { detail })));
        }
        if let Err(error) = ready!(self.poll_start(cx)) {
            // The request still waits for a free stream: nothing was sent.
            let fault = self.fault(&error);
            let unsent = self.waiting.is_some() && !matches!(fault, HeadFault::Unfit(_));
            return Poll::Ready(Err(if unsent { HeadFault::Refused } else { fault }));
        }
        if let Poll::Ready(interim) = self.poll_interim(cx, response) {
            return Poll::Ready(interim);
        }
        let Some(future) = &mut self.response else { return Poll::Pending };
        let answered = ready!(Pin::new(future).poll(cx)).map_err(|error| self.fault(&error))?;
        let (parts, stream) = answered.into_parts();
        self.response = None;
        self.head_taken();
        let ended = stream.is_end_stream();
        let read = self.sound().and_then(|()| read_head(&parts, ended, response));
        let (id, findings) = (self.findings.0, &self.findings.1);
        self.body = self
            .account
            .clone()
            .map(|account| Body::new(stream, account, (id, Rc::clone(findings))));
        Poll::Ready(read)
    }

    fn is_silent(&self) -> bool {
        self.body.is_none()
    }

    fn tunnel(&mut self) {}

    fn holds_upgrades(&self) -> bool {
        false
    }
}

impl Source for Up {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>> {
        match &mut self.body {
            Some(body) => body.poll_fill(cx).map_err(|fault| match self.streams.broken() {
                Some(Refusal::ResponseTimeout) => SourceFault::Late,
                _ => fault,
            }),
            None => Poll::Ready(Ok(PollBody::End)),
        }
    }

    fn data(&self) -> &[u8] {
        self.body.as_ref().map(Source::data).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        if let Some(body) = &mut self.body {
            body.consume(count);
        }
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.body.as_mut().map(|body| body.take(count)).unwrap_or_default()
    }

    fn held(&self) -> usize {
        // Unread data blocks the stream, and the upstream may fill its window meanwhile.
        if self.data().is_empty() { 0 } else { self.window }
    }

    fn ends_after(&self, count: usize) -> bool {
        self.body.as_ref().is_some_and(|body| body.ends_after(count))
    }

    fn trailers(&self) -> Option<&Fields> {
        self.body.as_ref().and_then(Source::trailers)
    }
}

impl Sink for Up {
    fn poll_send<S: Source>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_start(cx)).map_err(to_io)?;
        self.outlet.poll_send(cx, source)
    }

    fn finish(&mut self, trailers: Option<&Fields>) -> io::Result<()> {
        // A request without a body ends with its head, which may still wait for a free stream.
        if self.waiting.as_ref().is_some_and(|(_, ended)| *ended) {
            return Ok(());
        }
        self.outlet.finish(trailers)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_start(cx).map_err(to_io)
    }

    fn traffic(&self) -> (u64, u64) {
        (self.body.as_ref().map_or(0, |body| body.taken), self.outlet.sent)
    }
}
