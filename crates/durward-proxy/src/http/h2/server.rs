//! The client's side over HTTP/2: many requests at once, all inside the connection's own task.
//!
//! Deliberately absent: a task per stream; dropping the connection drops its streams, and their upstream work with them.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};

use crate::http::Http;
use crate::http::exchange::{self, Ended, note_refusal};
use crate::http::fields::Fields;
use crate::http::flow::{Downstream, Filled, Sink, Source, SourceFault};
use crate::http::h2::wire::Wire;
use crate::http::h2::{Body, Outlet, convert, to_io};
use crate::http::message::{Framing, PooledRequest, Request, Response};
use crate::io::Io;
use crate::refusal::Refusal;
use crate::watch::{Expired, Watch};

/// What a client may send ahead on one stream, and on all streams of a connection.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);
/// What of a response's body may wait for a stream's window.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams reset by the client and not yet looked at.
const PENDING_RESETS: usize = 20;
/// Streams reset by us for the client's mistakes.
const MISTAKES: usize = 256;
/// How long a connection without streams may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

type Streams = FuturesUnordered<Pin<Box<dyn Future<Output = ()>>>>;

/// Serves streams until the connection ends.
pub(crate) async fn serve(http: &Rc<Http>, watch: &Watch, io: Io, early: &[u8]) {
    let wire = Wire::new(io, early);
    watch.arm(Some(http.limits().timeouts.header), false);
    let handshake = builder(http).handshake::<_, Bytes>(wire.clone());
    let Ok(Ok(connection)) = watch.guard(handshake).await else { return };
    let streams = FuturesUnordered::new();
    let (leaving, fresh) = (false, true);
    let http = Rc::clone(http);
    let mut session = Session { http, watch, connection, streams, wire, leaving, fresh };
    session.run().await;
}

fn builder(http: &Http) -> Builder {
    let limits = http.limits();
    let mut builder = Builder::new();
    builder
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(limits.http2_streams)
        // Ours is checked by us, so that it is answered and recorded; this one only bounds what is stored.
        .max_header_list_size(limits.header_bytes.saturating_mul(2))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(PENDING_RESETS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(MISTAKES))
        .enable_connect_protocol();
    builder
}

struct Session<'a> {
    http: Rc<Http>,
    watch: &'a Watch,
    connection: Connection<Wire, Bytes>,
    streams: Streams,
    wire: Wire,
    /// GOAWAY was sent.
    leaving: bool,
    /// No stream has begun yet. Nobody who has just connected is idle.
    fresh: bool,
}

/// Why the connection is looked at again.
enum Event {
    /// A first stream begins, or the last one has ended.
    Turned,
    /// The connection has ended.
    Ended,
    /// A budget is broken.
    Flood(&'static str),
}

impl Session<'_> {
    async fn run(&mut self) {
        loop {
            self.arm();
            let watch = self.watch;
            match watch.guard(poll_fn(|cx| self.poll(cx))).await {
                Ok(Event::Turned) => {}
                Ok(Event::Ended) => return,
                Ok(Event::Flood(detail)) => return self.throw_out(detail).await,
                Err(Expired::Closing) if self.watch.cut() => return,
                // The goodbye took too long.
                Err(Expired::Deadline) if self.leaving => return,
                // Being woken for it, the last poll has taken leave already.
                Err(Expired::Closing) if self.leaving => {}
                Err(Expired::Deadline | Expired::Closing) => self.leave(),
            }
        }
    }

    fn arm(&self) {
        let idle = self.streams.is_empty();
        let after = match (idle, self.leaving) {
            (true, true) => Some(GOODBYE),
            (true, false) => Some(self.http.limits().timeouts.idle),
            (false, _) => None,
        };
        // Whoever is busy is told to go elsewhere as soon as the idle are.
        self.watch.arm(after, !self.leaving && !self.fresh);
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.connection.graceful_shutdown();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let idle = self.streams.is_empty();
        loop {
            let accepted = self.connection.poll_accept(cx);
            if let Some(detail) = self.wire.broken() {
                return Poll::Ready(Event::Flood(detail));
            }
            let mut moved = false;
            match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.begin(request, respond);
                    moved = true;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(&error)),
                Poll::Ready(None) => return Poll::Ready(Event::Ended),
                Poll::Pending => {}
            }
            while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {
                moved = true;
            }
            if !self.leaving && self.watch.closing() {
                self.leave();
                moved = true;
            }
            if !moved {
                break;
            }
        }
        if let Poll::Ready(Err(_)) = self.wire.poll_send(cx) {
            return Poll::Ready(Event::Ended);
        }
        if self.streams.is_empty() == idle { Poll::Pending } else { Poll::Ready(Event::Turned) }
    }

    /// A stream begins, unless what let the connection in has changed: a client that does not heed GOAWAY would go on by the old rules.
    fn begin(&mut self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if std::mem::take(&mut self.fresh)
            && let Ok(http) = self.http.fresh(self.watch)
        {
            self.http = http;
        }
        if self.watch.outdated()
            && let Ok(http) = self.http.now(self.watch, false)
            && !self.watch.outdated()
        {
            self.http = http;
        }
        if self.watch.outdated() {
            note_refusal(&self.http, &Refusal::Draining);
            // It was not looked at, so that the client may ask elsewhere (RFC 9113 section 8.7).
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        self.streams.push(Box::pin(stream(Rc::clone(&self.http), request, respond)));
    }

    fn failed(&self, error: &h2::Error) -> Event {
        // The crate's own budgets: rapid resets, CONTINUATION, small DATA frames.
        if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && !error.is_remote() {
            note_refusal(&self.http, &Refusal::Flood { detail: "streams" });
        }
        Event::Ended
    }

    async fn throw_out(&mut self, detail: &'static str) {
        note_refusal(&self.http, &Refusal::Flood { detail });
        self.streams.clear();
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        self.watch.arm(Some(GOODBYE), false);
        let (connection, wire) = (&mut self.connection, &self.wire);
        let goodbye = poll_fn(|cx| {
            let closed = connection.poll_closed(cx).is_ready();
            let sent = wire.poll_send(cx);
            if closed { sent.map(|_| ()) } else { Poll::Pending }
        });
        let _ = self.watch.guard(goodbye).await;
    }
}

async fn stream(http: Rc<Http>, request: http::Request<RecvStream>, respond: SendResponse<Bytes>) {
    let watch = http.core.watchdog.watch();
    let (parts, stream) = request.into_parts();
    let limits = http.limits();
    let bounds = (limits.header_bytes as usize, limits.header_fields as usize);
    let mut request = PooledRequest::new();
    let ended = stream.is_end_stream();
    let read = convert::request(&parts, (ended, http.is_asked()), bounds, &mut request);
    let tunnel = request.method() == "CONNECT";
    let body = Body::new(stream, limits.body_bytes.filter(|_| !tunnel));
    drop(parts);
    let mut down = Down { respond, body, outlet: Outlet::default() };
    if let Err(fault) = read {
        let (refusal, status) = fault.of_request();
        exchange::refuse(&http, &watch, &mut down, request, refusal, status).await;
        return;
    }
    match exchange::run(&http, &watch, &mut down, request).await {
        Ended::Complete | Ended::Unread => {}
        Ended::Broken | Ended::Upgraded(_) => down.reset(Reason::INTERNAL_ERROR),
    }
}

/// A stream towards a client.
struct Down {
    respond: SendResponse<Bytes>,
    body: Body,
    outlet: Outlet,
}

impl Down {
    fn reset(&mut self, reason: Reason) {
        match self.outlet.stream {
            Some(_) => self.outlet.reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

fn unsendable() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl Downstream for Down {
    fn interim(&mut self, response: &Response) -> io::Result<()> {
        let head = convert::to_response(response).ok_or_else(unsendable)?;
        self.respond.send_informational(head).map_err(to_io)
    }

    fn head(&mut self, request: &Request, response: &Response) -> io::Result<()> {
        let head = convert::to_response(response).ok_or_else(unsendable)?;
        let bodiless = matches!(response.framing, Framing::None | Framing::Length(0));
        let tunnel = response.status == 101
            || (request.method() == "CONNECT" && matches!(response.status, 200..=299));
        let ended = bodiless && !tunnel;
        let stream = self.respond.send_response(head, ended).map_err(to_io)?;
        self.outlet.open(stream, ended);
        Ok(())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.outlet.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| ())
    }

    fn consumed(&self) -> bool {
        self.body.taken > 0
    }

    fn is_read(&self) -> bool {
        self.body.is_read()
    }
}

impl Source for Down {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, SourceFault>> {
        self.body.poll_fill(cx)
    }

    fn data(&self) -> &[u8] {
        self.body.data()
    }

    fn consume(&mut self, count: usize) {
        self.body.consume(count);
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.body.take(count)
    }

    fn ends_after(&self, count: usize) -> bool {
        self.body.ends_after(count)
    }

    fn trailers(&self) -> Option<&Fields> {
        self.body.trailers()
    }
}

impl Sink for Down {
    fn poll_send<S: Source>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<io::Result<usize>> {
        self.outlet.poll_send(cx, source)
    }

    fn finish(&mut self, trailers: Option<&Fields>) -> io::Result<()> {
        self.outlet.finish(trailers)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn traffic(&self) -> (u64, u64) {
        (self.body.taken, self.outlet.sent)
    }
}
