//! A client's stream as the downstream side of an exchange.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::exchange::Http;
use crate::http::fields::Fields;
use crate::http::flow::{Downstream, PollBody, Sink, Source, SourceFault};
use crate::http::framing::{Kind, outgoing};
use crate::http::h2::session::{Session, Taken};
use crate::http::message::{Framing, Request, Response, Version};
use crate::server::linger::discard;
use crate::watch::Watch;

/// Stream of a client. The session wakes the exchange whose slot it has.
pub(super) struct Down {
    session: Rc<RefCell<Session>>,
    /// Slot of the stream.
    at: usize,
    /// Data received, and the part of it that was consumed.
    chunk: Vec<u8>,
    start: usize,
    trailers: Option<Box<Fields>>,
    ended: bool,
    /// Bytes consumed, and bytes sent.
    taken: u64,
    sent: u64,
    /// Bytes that the body may have.
    limit: Option<u64>,
    /// True if the end of the response was sent.
    finished: bool,
}

impl Down {
    pub(super) fn new(session: Rc<RefCell<Session>>, at: usize, limit: Option<u64>) -> Self {
        Self {
            session,
            at,
            chunk: Vec::new(),
            start: 0,
            trailers: None,
            ended: false,
            taken: 0,
            sent: 0,
            limit,
            finished: false,
        }
    }

    /// Reads the rest of a request whose response is sent. Ending the stream before the client has sent all resets it, and some clients then discard the
    /// response (curl before 7.89).
    pub(super) async fn linger(&mut self, http: &Http, watch: &Watch) {
        self.limit = None;
        discard(http, watch, |cx| {
            if self.is_read() || self.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            self.poll_fill(cx).map(|filled| match filled {
                Ok(PollBody::Data) => {
                    let count = self.data().len();
                    self.consume(count);
                    Some(count as u64)
                }
                Ok(PollBody::End) | Err(_) => None,
            })
        })
        .await;
    }

    /// Returns true if the client has reset the stream.
    pub(super) fn is_gone(&self) -> bool {
        self.session.borrow().is_gone(self.at)
    }

    /// Resets the stream, unless its end was sent.
    pub(super) fn reset(&self, code: u32) {
        self.session.borrow_mut().reset(self.at, code);
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        self.session.borrow_mut().close(self.at, self.chunk.len() - self.start);
    }
}

impl Downstream for Down {
    fn interim(&mut self, response: &Response) -> io::Result<()> {
        self.session.borrow_mut().head(self.at, response, None, false)
    }

    fn head(&mut self, request: &Request, response: &Response) -> io::Result<()> {
        let sent = outgoing(Kind::of(request), response.status, Version::Http2, response.content);
        let bodiless = matches!(sent.framing, Framing::None | Framing::Length(0));
        let tunnel = response.status == 101
            || (request.method() == "CONNECT" && matches!(response.status, 200..=299));
        self.finished = bodiless && !tunnel;
        self.session.borrow_mut().head(self.at, response, sent.length, self.finished)
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.is_gone() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn consumed(&self) -> bool {
        self.taken > 0
    }

    fn is_read(&self) -> bool {
        self.data().is_empty() && (self.ended || self.session.borrow().is_drained(self.at))
    }
}

impl Source for Down {
    fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>> {
        loop {
            let waiting = self.data().len() as u64;
            if waiting > 0 {
                let over = self.limit.is_some_and(|limit| self.taken + waiting > limit);
                return Poll::Ready(if over {
                    Err(SourceFault::TooLarge)
                } else {
                    Ok(PollBody::Data)
                });
            }
            if self.ended {
                return Poll::Ready(Ok(PollBody::End));
            }
            self.start = 0;
            self.chunk.clear();
            match self.session.borrow_mut().take(self.at, &mut self.chunk) {
                Taken::Data => {}
                Taken::End(trailers) => (self.ended, self.trailers) = (true, trailers),
                Taken::Nothing => return Poll::Pending,
                Taken::Malformed(detail) => {
                    return Poll::Ready(Err(SourceFault::Malformed(detail)));
                }
                Taken::Gone => return Poll::Ready(Err(SourceFault::Closed)),
            }
        }
    }

    fn data(&self) -> &[u8] {
        &self.chunk[self.start..]
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.data().len());
        self.start += count;
        self.taken += count as u64;
        self.session.borrow_mut().release_on(self.at, count);
    }

    fn take(&mut self, count: usize) -> Bytes {
        if self.start > 0 || count < self.chunk.len() {
            let taken = Bytes::copy_from_slice(&self.data()[..count]);
            self.consume(count);
            return taken;
        }
        self.consume(count);
        self.start = 0;
        let chunk = std::mem::take(&mut self.chunk);
        self.session.borrow_mut().give_away(self.at, chunk.capacity());
        chunk.into()
    }

    fn ends_after(&self, count: usize) -> bool {
        count == self.data().len() && (self.ended || self.session.borrow().is_drained(self.at))
    }

    fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_deref().filter(|fields| !fields.is_empty())
    }
}

impl Sink for Down {
    fn poll_send<S: Source>(
        &mut self,
        _: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "body too long")));
        }
        let mut session = self.session.borrow_mut();
        let count = session.room(self.at, source.data().len())?;
        if count == 0 {
            return Poll::Pending;
        }
        let last = source.ends_after(count);
        session.data(self.at, &source.data()[..count], last)?;
        drop(session);
        source.consume(count);
        self.finished = last;
        self.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    fn finish(&mut self, trailers: Option<&Fields>) -> io::Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.session.borrow_mut().finish(self.at, trailers)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn traffic(&self) -> (u64, u64) {
        (self.taken, self.sent)
    }
}
