//! Client side over HTTP/2: many requests at once, all inside the connection's own task.
//!
//! There is no task per stream: dropping the connection drops its streams, and their upstream work with them.

mod gather;
mod waking;

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

use crate::exchange::Http;
use crate::exchange::{Ended, note_refusal};
use crate::http::fields::Fields;
use crate::http::flow::{Downstream, PollBody, Sink, Source, SourceFault};
use crate::http::framing::{Kind, outgoing};
use crate::http::h2::wire::Wire;
use crate::http::h2::{Body, Outlet, convert, to_io};
use crate::http::message::{Framing, PooledRequest, Request, Response, Version};
use crate::http2::inspect::{Accepted, Findings};
use crate::http2::{StreamAccount, Streams};
use crate::io::Io;
use crate::memory::HTTP2_CONNECTION;
use crate::refusal::Refusal;
use crate::server::linger::discard;
use crate::server::requests;
use crate::syntax::Fault;
use crate::turns;
use crate::watch::{Expired, Watch};
use gather::Gather;
use waking::Waking;

/// Stream windows that make up the connection's window.
const WINDOWS: u32 = 4;
/// Bytes charged for a stream besides its head, its data and its task.
const STREAM: usize = 4 * 1024;
/// Bytes of a response's body that may wait for a stream's window.
const SEND_BUFFER: usize = 128 * 1024;
/// Memory of the codec's form of a head, as a multiple of ours.
const COPIES: usize = 2;
/// Streams started in a row before other connections of the core run.
const BURST: u32 = 16;
/// Streams that the client has reset and that are not handled yet, at most (rapid reset).
const PENDING_RESETS: usize = 20;
/// Streams that we may reset for the client's errors before the connection ends.
const MISTAKES: usize = 256;
/// Time for the GOAWAY exchange of a connection without streams.
const GOODBYE: Duration = Duration::from_secs(2);

type Serving = FuturesUnordered<Pin<Box<dyn Future<Output = ()>>>>;

/// Serves streams until the connection ends.
pub(crate) async fn serve(http: &Rc<Http>, watch: &Watch, io: Io, early: &[u8]) {
    let Ok(_codec) = http.memory.take(HTTP2_CONNECTION) else {
        return note_refusal(http, &Refusal::Memory);
    };
    let list = header_list(http) as usize;
    let accounts = Streams::of_client(Rc::clone(&http.memory), list);
    let wire = Wire::new(io, early, accounts.clone(), list);
    watch.arm(Some(http.limits().timeouts.header), false);
    let handshake = builder(http).handshake::<_, Bytes>(wire.clone());
    let connection = match watch.guard(handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) if !error.is_io() => {
            let detail = "HTTP/2 connection preface";
            return note_refusal(http, &Refusal::BadRequest { detail });
        }
        Ok(Err(_)) | Err(_) => return,
    };
    let streams = FuturesUnordered::new();
    let (leaving, fresh) = (false, true);
    let http = Rc::clone(http);
    let findings = wire.findings();
    let mut session = Session {
        http,
        watch,
        connection,
        streams,
        accounts,
        wire,
        findings,
        waking: Waking::default(),
        gather: Gather::default(),
        leaving,
        incomplete: None,
        fresh,
    };
    session.run().await;
    session.drop_streams().await;
}

fn builder(http: &Http) -> Builder {
    let window = http.core.shared.memory.stream_window();
    let mut builder = Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(window * WINDOWS)
        .max_concurrent_streams(http.limits().http2_streams)
        .max_header_list_size(header_list(http))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(PENDING_RESETS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(MISTAKES))
        .enable_connect_protocol();
    builder
}

/// Returns the `h2` limit of a head's field list. Our own limit is half of it and checked by us, so that a head above it is answered and recorded;
/// this one only bounds what is stored.
fn header_list(http: &Http) -> u32 {
    http.limits().header_bytes.saturating_mul(2)
}

struct Session<'a> {
    http: Rc<Http>,
    watch: &'a Watch,
    connection: Connection<Wire, Bytes>,
    streams: Serving,
    accounts: Streams,
    wire: Wire,
    findings: Rc<Findings>,
    waking: Waking,
    gather: Gather,
    /// True once GOAWAY was sent.
    leaving: bool,
    /// True until the first stream begins; a connection that was just made does not count as idle.
    fresh: bool,
    /// Header block that is incomplete: its rest has the deadline of a head.
    incomplete: Option<u64>,
}

/// Reason to look at the connection again.
enum Event {
    /// The connection has ended.
    Ended,
    /// A budget is exceeded, or there is no memory for what the connection holds.
    ThrowOut(Refusal),
}

impl Session<'_> {
    async fn run(&mut self) {
        loop {
            self.arm();
            let watch = self.watch;
            match watch.guard(poll_fn(|cx| self.poll(cx))).await {
                Ok(Event::Ended) => return,
                Ok(Event::ThrowOut(refusal)) => return self.throw_out(&refusal).await,
                Err(Expired::Closing) if self.watch.cut() => return,
                Err(Expired::Deadline) if self.incomplete.is_some() => {
                    return self.throw_out(&Refusal::ClientTimeout { phase: "head" }).await;
                }
                // The GOAWAY exchange took too long.
                Err(Expired::Deadline) if self.leaving => return,
                // The last poll has sent GOAWAY already.
                Err(Expired::Closing) if self.leaving => {}
                Err(Expired::Deadline | Expired::Closing) => self.leave(),
            }
        }
    }

    fn arm(&self) {
        let idle = self.streams.is_empty();
        let after = match (idle, self.leaving) {
            (true, true) => Some(GOODBYE),
            _ if self.incomplete.is_some() => Some(self.http.limits().timeouts.header),
            (true, false) => Some(self.http.limits().timeouts.idle),
            (false, _) => None,
        };
        // Busy connections get GOAWAY as soon as idle ones do.
        self.watch.arm(after, !self.leaving && !self.fresh);
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.connection.graceful_shutdown();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let waker = self.waking.enter(cx.waker());
        let polled = self.poll_all(&mut Context::from_waker(&waker));
        self.waking.leave();
        polled
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let idle = self.streams.is_empty();
        let mut begun = 0;
        // True if the last pass was made only to send what streams had written.
        let mut once_more = false;
        loop {
            if begun == BURST || (begun > 0 && turns::is_over()) {
                cx.waker().wake_by_ref();
                break;
            }
            self.waking.take();
            let accepted = self.connection.poll_accept(cx);
            self.note_rejected();
            if let Some(detail) = self.wire.broken() {
                return Poll::Ready(Event::ThrowOut(Refusal::Flood { detail }));
            }
            let held_back = self.wire.was_held_back();
            let mut moved = held_back;
            match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.begin(request, respond);
                    begun += 1;
                    moved = true;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(&error)),
                Poll::Ready(None) => return Poll::Ready(Event::Ended),
                // No stream will take the waiting heads: they are trailers of bodies that are not read.
                Poll::Pending if held_back && self.accounts.is_full() => {
                    return Poll::Ready(Event::ThrowOut(Refusal::Flood { detail: "heads" }));
                }
                Poll::Pending => {}
            }
            let woken = self.waking.take();
            while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {
                moved = true;
            }
            if !self.leaving && self.watch.closing() {
                self.leave();
                moved = true;
            }
            let written = self.waking.woken();
            if !moved && (once_more || !written || turns::is_over()) {
                if woken {
                    cx.waker().wake_by_ref();
                }
                break;
            }
            once_more = !moved;
        }
        if !self.gather.keeps(self.wire.unsent(), self.streams.len(), cx)
            && let Poll::Ready(Err(_)) = self.wire.poll_send(cx)
        {
            return Poll::Ready(Event::Ended);
        }
        if let Err(refusal) = self.accounts.settle() {
            return Poll::Ready(Event::ThrowOut(refusal));
        }
        let incomplete = self.wire.incomplete();
        let is_other = std::mem::replace(&mut self.incomplete, incomplete) != incomplete;
        if self.streams.is_empty() != idle || is_other {
            self.arm();
        }
        Poll::Pending
    }

    /// Starts a stream, unless the configuration that admitted the connection has changed: a client that ignores GOAWAY would go on by the old rules.
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
        let id = u32::from(respond.stream_id());
        let fault = match self.findings.accepted(id) {
            Accepted::Sound => None,
            Accepted::Faulty(fault) => Some(fault),
            Accepted::Reset => return,
        };
        if self.watch.outdated() {
            note_refusal(&self.http, &Refusal::Draining);
            // The request was not processed, so the client may retry elsewhere (RFC 9113 section 8.7).
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let account = Rc::new(self.accounts.serve(id));
        let Ok(mut held) = self.http.memory.take(STREAM) else {
            note_refusal(&self.http, &Refusal::Memory);
            // The request was not processed, so the client may retry.
            return respond.send_reset(Reason::REFUSED_STREAM);
        };
        let findings = Rc::clone(&self.findings);
        let begun = Begun { request, respond, account: Rc::clone(&account), id, fault, findings };
        let exchange = Box::pin(turns::sliced(stream(Rc::clone(&self.http), begun)));
        // If this exceeds the budget, the head, which comes next, is refused with a response.
        let _ = held.raise(STREAM + size_of_val(&*exchange));
        account.keep(held);
        self.streams.push(exchange);
    }

    /// Records requests that `h2` rejected by itself as refusals.
    fn note_rejected(&self) {
        while let Some(fault) = self.findings.rejected() {
            note_refusal(&self.http, &fault.of_request().0);
        }
    }

    fn failed(&self, error: &h2::Error) -> Event {
        // Budgets of `h2` itself: rapid resets, CONTINUATION, small DATA frames.
        let refusal = match error.reason() {
            Some(Reason::ENHANCE_YOUR_CALM) => Refusal::Flood { detail: "streams" },
            Some(Reason::NO_ERROR) | None => return Event::Ended,
            Some(_) => {
                let fault = self.findings.any();
                fault.unwrap_or(Fault::Malformed("HTTP/2 connection error")).of_request().0
            }
        };
        if error.is_library() {
            note_refusal(&self.http, &refusal);
        }
        Event::Ended
    }

    /// Ends the exchanges that are left, each of which may have a connection to an upstream.
    async fn drop_streams(&mut self) {
        turns::drop_all(std::mem::take(&mut self.streams)).await;
    }

    async fn throw_out(&mut self, refusal: &Refusal) {
        note_refusal(&self.http, refusal);
        self.drop_streams().await;
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

/// Request as `h2` hands it over, with its faults.
struct Begun {
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    account: Rc<StreamAccount>,
    id: u32,
    /// Rule that the head breaks.
    fault: Option<Fault>,
    findings: Rc<Findings>,
}

async fn stream(http: Rc<Http>, begun: Begun) {
    let Begun { request, respond, account, id, fault, findings } = begun;
    let watch = http.core.watchdog.watch();
    let (parts, stream) = request.into_parts();
    let limits = http.limits();
    let bounds = (limits.header_bytes as usize, limits.header_fields as usize);
    let mut request = PooledRequest::new();
    let ended = stream.is_end_stream();
    let read = convert::request(&parts, (ended, http.is_asked()), bounds, &mut request);
    let read = fault.map_or(read, Err);
    let tunnel = request.method() == "CONNECT";
    let limit = limits.body_bytes.filter(|_| !tunnel);
    let mut body = Body::new(stream, limit, Rc::clone(&account));
    body.findings = Some((id, findings));
    drop(parts);
    let mut down = Down { respond, body, account, outlet: Outlet::default() };
    if let Err(fault) = read {
        let (refusal, status) = fault.of_request();
        requests::refuse(&http, &watch, &mut down, request, refusal, status).await;
        return down.linger(&http, &watch).await;
    }
    match requests::run(&http, &watch, &mut down, request).await {
        Ended::Complete => {}
        Ended::Unread => down.linger(&http, &watch).await,
        Ended::Broken | Ended::Upgraded(_) => down.reset(Reason::INTERNAL_ERROR),
    }
}

/// Stream to a client.
struct Down {
    respond: SendResponse<Bytes>,
    body: Body,
    account: Rc<StreamAccount>,
    outlet: Outlet,
}

impl Down {
    /// Reads the rest of a request whose response is sent. Dropping the stream before the client has sent all resets it, and some clients then
    /// discard the response (curl before 7.89).
    async fn linger(&mut self, http: &Http, watch: &Watch) {
        self.body.limit = None;
        discard(http, watch, |cx| {
            if self.body.is_read() || self.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            self.body.poll_fill(cx).map(|filled| match filled {
                Ok(PollBody::Data) => {
                    let count = self.body.data().len();
                    self.body.consume(count);
                    Some(count as u64)
                }
                Ok(PollBody::End) | Err(_) => None,
            })
        })
        .await;
    }

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
        let head = convert::to_response(response, None).ok_or_else(unsendable)?;
        self.respond.send_informational(head).map_err(to_io)?;
        self.account.head_queued(response.fields.capacity() * COPIES);
        Ok(())
    }

    fn head(&mut self, request: &Request, response: &Response) -> io::Result<()> {
        let sent = outgoing(Kind::of(request), response.status, Version::Http2, response.content);
        let head = convert::to_response(response, sent.length).ok_or_else(unsendable)?;
        let bodiless = matches!(sent.framing, Framing::None | Framing::Length(0));
        let tunnel = response.status == 101
            || (request.method() == "CONNECT" && matches!(response.status, 200..=299));
        let ended = bodiless && !tunnel;
        let stream = self.respond.send_response(head, ended).map_err(to_io)?;
        self.account.head_queued(response.fields.capacity() * COPIES);
        self.outlet.open(stream, Rc::clone(&self.account), ended);
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
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>> {
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
