//! Client side over HTTP/1: one request after the other on one connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::exchange::Ended;
use crate::exchange::Http;
use crate::http::buffer::SIZE;
use crate::http::flow::Downstream;
use crate::http::framing::{Kind, outgoing};
use crate::http::h1::{Conn, write};
use crate::http::message::{Framing, PooledRequest, Request, Response};
use crate::http::parse::{HeadLimits, Parsed, Progress, parse_request};
use crate::io::Io;
use crate::memory::Part;
use crate::refusal::Refusal;
use crate::server::linger::discard;
use crate::server::requests;
use crate::socks;
use crate::syntax::Fault;
use crate::watch::{Expired, Watch};

/// Bytes of an incomplete head that the connection's fixed charge covers.
const LITTLE: usize = 4 * 1024;
/// Longest request line in bytes.
const LINE: usize = 16 * 1024;
/// First line of the HTTP/2 connection preface, for HTTP/2 without TLS (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// Time for the client to read the end of its connection.
const GOODBYE: Duration = Duration::from_secs(2);

/// Time for which an idle connection waits for one more request when its core drains.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// End of a connection's HTTP/1 part.
pub(crate) enum Served {
    /// The connection is closed.
    Closed,
    /// The connection turned out to be HTTP/2; these bytes were read.
    Http2(Io, Vec<u8>),
    /// The connection turned out to be SOCKS; these bytes were read.
    Socks(Io, Vec<u8>),
}

/// Next event on a connection.
enum Next {
    Request,
    Nothing,
    Http2,
    Socks,
    Refused(Refusal, Option<u16>),
}

/// Serves requests until the connection ends.
pub(crate) async fn serve(http: &Rc<Http>, watch: &Watch, io: Io, early: &[u8]) -> Served {
    let mut conn = Conn::new(io);
    conn.input.buffer.preload(early);
    let mut first = true;
    let mut current = Rc::clone(http);
    loop {
        let mut request = PooledRequest::new();
        match next_request(&current, watch, &mut conn, &mut request, first).await {
            Next::Request => {}
            Next::Nothing => break,
            Next::Socks => return Served::Socks(conn.io, conn.input.buffer.take()),
            Next::Http2 => return Served::Http2(conn.io, conn.input.buffer.take()),
            Next::Refused(refusal, status) => {
                let turned = turn_away(&current, watch, conn, (request, refusal, status));
                return Box::pin(turned).await;
            }
        }
        let http = match current.now(watch, first) {
            Ok(now) => now,
            Err(refusal) => {
                let turned = turn_away(&current, watch, conn, (request, refusal, None));
                return Box::pin(turned).await;
            }
        };
        current = Rc::clone(&http);
        first = false;
        conn.begin(&http, &request);
        // Boxed, because the exchange's future is large and an idle connection should be small.
        match Box::pin(requests::run(&http, watch, &mut conn, request)).await {
            // Pipelined requests are several turns, not one.
            Ended::Complete if !conn.close && !conn.input.buffer.filled().is_empty() => {
                tokio::task::yield_now().await;
            }
            Ended::Complete if !conn.close => {}
            Ended::Complete => break,
            Ended::Unread => {
                Box::pin(linger(&http, watch, &mut conn)).await;
                return Served::Closed;
            }
            Ended::Broken => {
                if conn.output.is_finished() {
                    // The response is complete; the fault came after it.
                    Box::pin(linger(&http, watch, &mut conn)).await;
                } else if conn.output.is_raw() {
                    cut(&conn.io);
                }
                return Served::Closed;
            }
            Ended::Upgraded(switched) => {
                let early = conn.input.buffer.take();
                Box::pin(switched.relay(&http, watch, conn.io, early)).await;
                return Served::Closed;
            }
        }
    }
    close(watch, &mut conn).await;
    Served::Closed
}

/// Answers that the request is malformed or too late.
async fn turn_away(
    http: &Http,
    watch: &Watch,
    mut conn: Conn,
    (request, refusal, status): (PooledRequest, Refusal, Option<u16>),
) -> Served {
    requests::refuse(http, watch, &mut conn, request, refusal, status).await;
    linger(http, watch, &mut conn).await;
    Served::Closed
}

async fn next_request(
    http: &Http,
    watch: &Watch,
    conn: &mut Conn,
    request: &mut Request,
    first: bool,
) -> Next {
    let timeouts = &http.limits().timeouts;
    let limits = head_limits(http);
    let mut progress = Progress::default();
    let mut begun = false;
    let mut held: Option<Part> = None;
    conn.input.received = conn.input.buffer.filled().len() as u64;
    // A connection that was just accepted does not count as idle: its first request is on its way.
    watch.arm(Some(timeouts.idle), !first);
    loop {
        let input = conn.input.buffer.filled();
        if !input.is_empty() {
            if first && http.facts.tls.is_none() && input.starts_with(PREFACE) {
                return Next::Http2;
            }
            if first && input[0] == socks::VERSION && http.is_asked() {
                return Next::Socks;
            }
            match parse_request(input, &mut progress, limits, request) {
                Ok(Parsed::Head(length)) => {
                    conn.input.buffer.consume(length);
                    return Next::Request;
                }
                Ok(Parsed::Incomplete) if !begun => {
                    begun = true;
                    watch.arm(Some(timeouts.header), false);
                }
                Ok(Parsed::Incomplete) => {}
                Err(fault) => return refused(fault),
            }
        }
        if conn.input.buffer.filled().len() > LITTLE
            && let Err(refusal) = http.hold_waiting(&mut held, conn.input.buffer.size().max(SIZE))
        {
            return Next::Refused(refusal, None);
        }
        match watch.guard(poll_fn(|cx| conn.poll_receive(cx))).await {
            Ok(Ok(0)) => return Next::Nothing,
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::StorageFull => {
                if !conn.input.buffer.grow(limits.bytes) {
                    return refused(Fault::TooLarge);
                }
            }
            // A client that has not noticed the drain may have sent a request already: it is answered, with `Connection: close`.
            Err(Expired::Closing) if !begun && watch.drains() => {
                watch.arm(Some(LAST_REQUEST), false);
            }
            Err(Expired::Deadline) if begun => {
                return Next::Refused(Refusal::ClientTimeout { phase: "head" }, None);
            }
            Ok(Err(_)) | Err(_) => return Next::Nothing,
        }
    }
}

fn head_limits(http: &Http) -> HeadLimits {
    let limits = http.limits();
    let bytes = usize::try_from(limits.header_bytes).unwrap_or(SIZE);
    let fields = usize::try_from(limits.header_fields).unwrap_or(usize::MAX);
    HeadLimits { bytes, line: LINE.min(bytes), fields, outward: http.is_asked() }
}

fn refused(fault: Fault) -> Next {
    let (refusal, status) = fault.of_request();
    Next::Refused(refusal, status)
}

/// Closes after everything was sent and nothing more is expected.
async fn close(watch: &Watch, conn: &mut Conn) {
    watch.arm(Some(GOODBYE), false);
    let _ = watch.guard(poll_fn(|cx| Pin::new(&mut conn.io).poll_shutdown(cx))).await;
}

/// Shuts the write side down and reads on for a while: closing with unread bytes would cause a reset, which discards the answer.
async fn linger(http: &Http, watch: &Watch, conn: &mut Conn) {
    close(watch, conn).await;
    let received = |cx: &mut Context<'_>| {
        let held = conn.input.buffer.filled().len();
        conn.input.buffer.consume(held);
        conn.poll_receive(cx).map(|received| match received {
            Ok(0) | Err(_) => None,
            Ok(count) => Some(count as u64),
        })
    };
    discard(http, watch, received).await;
}

/// Ends a connection with a reset, so that a message delimited by its end cannot be taken for complete.
fn cut(io: &Io) {
    io.reset_on_close();
}

impl Conn {
    /// Prepares for a request's body.
    fn begin(&mut self, http: &Http, request: &Request) {
        self.expect_body(request.framing, http.limits().body_bytes);
        self.output.sent = 0;
        self.close = !request.keep_alive;
    }
}

impl Downstream for Conn {
    fn interim(&mut self, response: &Response) -> io::Result<()> {
        self.output.begin(Framing::None, |out| write::interim(out, response));
        Ok(())
    }

    fn head(&mut self, request: &Request, response: &Response) -> io::Result<()> {
        let sent = outgoing(Kind::of(request), response.status, request.version, response.content);
        let unread = !self.is_read() && (request.expects_continue || response.status >= 300);
        self.close |= unread || !request.keep_alive || sent.framing == Framing::UntilClose;
        let close = self.close;
        let write = |out: &mut Vec<u8>| write::response(out, request, response, sent, close);
        self.output.begin(sent.framing, write);
        Ok(())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_read() {
            return Poll::Pending;
        }
        if !self.input.eof && self.input.buffer.is_empty() {
            match self.poll_receive(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        // Over TCP a half-closed client may still wait for its response; over TLS it has sent `close_notify`.
        match self.io {
            Io::Tls(_) if self.input.eof => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    fn consumed(&self) -> bool {
        self.input.taken > 0
    }

    fn is_read(&self) -> bool {
        self.input.decoder.is_done()
    }
}
