//! HTTP/2 on both sides: our own session towards clients; towards upstreams streams of the `h2` crate as sources and sinks of bodies.
//!
//! Deliberately absent: server push and priorities.

pub(crate) mod client;
pub(crate) mod convert;
mod decoder;
mod encoder;
pub(crate) mod head;
pub(crate) mod session;
mod websocket;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};

use crate::http::fields::Fields;
use crate::http::flow::{PollBody, Source, SourceFault};
use crate::http2::StreamAccount;
use crate::http2::inspect::Findings;
use crate::syntax::Fault;

pub(crate) use websocket::{accepts as websocket_accepts, new_key as websocket_key};

/// Inbound body of a stream.
pub(crate) struct Body {
    stream: RecvStream,
    chunk: Bytes,
    trailers: Option<Box<Fields>>,
    ended: bool,
    pub(crate) taken: u64,
    account: Rc<StreamAccount>,
    /// Stream id, and the place where faults of its trailers are noted.
    findings: (u32, Rc<Findings>),
}

impl Body {
    pub(crate) fn new(
        stream: RecvStream,
        account: Rc<StreamAccount>,
        findings: (u32, Rc<Findings>),
    ) -> Self {
        let ended = stream.is_end_stream();
        Self { stream, chunk: Bytes::new(), trailers: None, ended, taken: 0, account, findings }
    }

    fn release(&mut self, count: usize) {
        self.taken += count as u64;
        // Fails only if the stream is gone, and then its window does not matter.
        let _ = self.stream.flow_control().release_capacity(count);
    }

    /// Returns true for RST_STREAM with NO_ERROR after a whole response: the server wants no more of the request (RFC 9113 §8.1).
    fn is_whole(&self, error: &h2::Error) -> bool {
        let clean = error.reason() == Some(Reason::NO_ERROR) && error.is_reset();
        clean && error.is_remote() && self.account.is_whole()
    }
}

impl Source for Body {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>> {
        loop {
            if !self.chunk.is_empty() {
                return Poll::Ready(Ok(PollBody::Data));
            }
            if self.ended {
                return Poll::Ready(Ok(PollBody::End));
            }
            if let Some(chunk) = ready!(self.stream.poll_data(cx)) {
                match chunk {
                    Ok(chunk) => self.chunk = chunk,
                    Err(error) if self.is_whole(&error) => self.ended = true,
                    Err(error) => return Poll::Ready(Err(source_fault(&error))),
                }
                continue;
            }
            if let Some(trailers) =
                ready!(self.stream.poll_trailers(cx)).map_err(|error| source_fault(&error))?
            {
                self.account.heads_taken();
                let (id, findings) = &self.findings;
                if let Some(fault) = findings.take(*id) {
                    let detail = match fault {
                        Fault::Malformed(detail) => detail,
                        _ => "trailers too large",
                    };
                    return Poll::Ready(Err(SourceFault::Malformed(detail)));
                }
                let trailers = convert::trailers(&trailers).map_err(SourceFault::Malformed)?;
                self.trailers = Some(Box::new(trailers));
            }
            self.ended = true;
        }
    }

    fn data(&self) -> &[u8] {
        &self.chunk
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.chunk.len());
        self.chunk.advance(count);
        self.release(count);
    }

    fn take(&mut self, count: usize) -> Bytes {
        let count = count.min(self.chunk.len());
        let taken = self.chunk.split_to(count);
        self.release(count);
        taken
    }

    fn ends_after(&self, count: usize) -> bool {
        count == self.chunk.len() && self.stream.is_end_stream()
    }

    fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_deref().filter(|fields| !fields.is_empty())
    }
}

fn source_fault(error: &h2::Error) -> SourceFault {
    match error.reason() {
        Some(Reason::PROTOCOL_ERROR) if !error.is_remote() => {
            SourceFault::Malformed("body differs from its declared length")
        }
        _ => SourceFault::Closed,
    }
}

pub(crate) fn to_io(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

/// Outbound body of a stream.
#[derive(Default)]
pub(crate) struct Outlet {
    stream: Option<SendStream<Bytes>>,
    account: Option<Rc<StreamAccount>>,
    finished: bool,
    pub(crate) sent: u64,
}

impl Outlet {
    pub(crate) fn open(
        &mut self,
        stream: SendStream<Bytes>,
        account: Rc<StreamAccount>,
        finished: bool,
    ) {
        self.stream = Some(stream);
        self.account = Some(account);
        self.finished = finished;
    }

    fn stream(&mut self) -> io::Result<&mut SendStream<Bytes>> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    pub(crate) fn poll_send<S: Source>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "body too long")));
        }
        let wanted = source.data().len();
        let stream = self.stream()?;
        stream.reserve_capacity(wanted);
        let mut room = stream.capacity();
        while room == 0 {
            room = match ready!(stream.poll_capacity(cx)) {
                Some(room) => room.map_err(to_io)?,
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
        }
        let count = room.min(wanted);
        let last = source.ends_after(count);
        stream.send_data(source.take(count), last).map_err(to_io)?;
        if let Some(account) = &self.account {
            account.queued(count);
        }
        self.finished = last;
        self.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) -> io::Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        let stream = self.stream()?;
        match trailers {
            Some(trailers) => {
                stream.send_trailers(convert::header_map(trailers)).map_err(to_io)?;
                if let Some(account) = &self.account {
                    account.head_queued(trailers.capacity());
                }
                Ok(())
            }
            None => stream.send_data(Bytes::new(), true).map_err(to_io),
        }
    }
}
