//! One HTTP/1 connection to a client or an upstream: its input, its output, and the parser state of both.
//!
//! A connection holds a buffer only while there are bytes in it, see [`buffer`](crate::http::buffer).

pub(crate) mod client;
mod output;
pub(crate) mod write;

use std::io;
use std::task::{Context, Poll, ready};

use crate::http::body::{Decoder, Step};
use crate::http::buffer::Buffer;
use crate::http::fields::Fields;
use crate::http::flow::{PollBody, Sink, Source, SourceFault};
use crate::http::h1::output::Output;
use crate::http::message::Framing;
use crate::http::parse::Progress;
use crate::io::Io;

/// HTTP/1 connection with the state of both directions.
pub(crate) struct Conn {
    pub(crate) io: Io,
    pub(crate) input: Input,
    pub(crate) output: Output,
    /// Parser position in a response's head.
    progress: Progress,
    /// True if the connection ends with this exchange.
    pub(crate) close: bool,
}

/// Inbound direction.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) buffer: Buffer,
    pub(crate) decoder: Decoder,
    /// Number of buffered bytes that are content.
    available: usize,
    trailers: Option<Box<Fields>>,
    /// Bytes of content consumed in this exchange.
    pub(crate) taken: u64,
    /// Largest content accepted, in bytes.
    limit: Option<u64>,
    /// Bytes received in this exchange.
    pub(crate) received: u64,
    /// True if the peer has closed its direction.
    pub(crate) eof: bool,
}

impl Conn {
    /// Creates a connection on which nothing was read or written.
    pub(crate) fn new(io: Io) -> Self {
        Self {
            io,
            input: Input::default(),
            output: Output::default(),
            progress: Progress::default(),
            close: false,
        }
    }

    /// Prepares for a body of this framing, of at most `limit` bytes.
    pub(crate) fn expect_body(&mut self, framing: Framing, limit: Option<u64>) {
        self.input.decoder = Decoder::new(framing);
        self.input.limit = limit;
        self.input.available = 0;
        self.input.taken = 0;
        self.input.trailers = None;
    }

    /// Reads more bytes; 0 at the end.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.eof {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.input.buffer.poll_read(cx, &mut self.io))?;
        self.input.eof = count == 0;
        self.input.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Returns true if the peer's message was read to its end and nothing follows it.
    pub(crate) fn is_drained(&self) -> bool {
        self.input.decoder.is_done() && self.input.buffer.is_empty() && !self.input.eof
    }
}

impl Source for Conn {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>> {
        loop {
            let input = &mut self.input;
            let step = input
                .decoder
                .step(input.buffer.filled(), &mut input.trailers)
                .map_err(SourceFault::Malformed)?;
            match step {
                Step::End => return Poll::Ready(Ok(PollBody::End)),
                Step::Skip(count) => input.buffer.consume(count),
                Step::Data(count) => {
                    if input.limit.is_some_and(|limit| input.taken + count as u64 > limit) {
                        return Poll::Ready(Err(SourceFault::TooLarge));
                    }
                    input.available = count;
                    return Poll::Ready(Ok(PollBody::Data));
                }
                Step::More => {
                    let count = ready!(self.poll_receive(cx)).map_err(|_| SourceFault::Closed)?;
                    if count == 0 {
                        return Poll::Ready(self.input.end_of_stream());
                    }
                }
            }
        }
    }

    fn data(&self) -> &[u8] {
        self.input.buffer.filled().get(..self.input.available).unwrap_or_default()
    }

    fn held(&self) -> usize {
        self.input.buffer.size() + self.output.size()
    }

    fn consume(&mut self, count: usize) {
        self.input.decoder.taken(count);
        self.input.available -= count.min(self.input.available);
        self.input.taken += count as u64;
        self.input.buffer.consume(count);
    }

    fn ends_after(&self, count: usize) -> bool {
        self.input.decoder.ends_after(count)
    }

    fn trailers(&self) -> Option<&Fields> {
        self.input.trailers.as_deref().filter(|fields| !fields.is_empty())
    }
}

impl Input {
    fn end_of_stream(&mut self) -> Result<PollBody, SourceFault> {
        if matches!(self.decoder, Decoder::UntilClose) {
            self.decoder = Decoder::Done;
            return Ok(PollBody::End);
        }
        Err(SourceFault::Closed)
    }
}

impl Sink for Conn {
    fn poll_send<S: Source>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<io::Result<usize>> {
        self.output.poll_send(cx, &mut self.io, source)
    }

    fn finish(&mut self, trailers: Option<&Fields>) -> io::Result<()> {
        self.output.finish(trailers)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_flush(cx, &mut self.io)
    }

    fn traffic(&self) -> (u64, u64) {
        let unused = self.input.buffer.filled().len() as u64;
        (self.input.received.saturating_sub(unused), self.output.sent)
    }
}
