//! The control stream of a carrier, as messages.

use std::collections::VecDeque;
use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use super::SessionError;
use super::outgoing::Frame;
use crate::control::{BadMessage, Decoder, Message, SHORT, encode, read};

/// Bytes of long messages that are read in a second: reading one takes a core that others use.
const PER_SECOND: u64 = 16 * 1024 * 1024;

/// Our direction of the control stream.
pub(super) struct Outbox {
    send: SendStream<Frame>,
    waiting: VecDeque<Bytes>,
    bytes: usize,
    most: usize,
}

impl Outbox {
    /// Wraps our direction; an end that lets more than `most` bytes of messages wait is ended.
    pub(super) fn new(send: SendStream<Frame>, most: usize) -> Self {
        Self { send, waiting: VecDeque::new(), bytes: 0, most }
    }

    /// Queues a message; [`flush`](Self::flush) sends it.
    pub(super) fn queue(&mut self, message: &impl Serialize) -> Result<(), SessionError> {
        let bytes = encode(message);
        self.bytes += bytes.len();
        self.waiting.push_back(bytes);
        if self.bytes > self.most { Err(SessionError::ControlEnded) } else { Ok(()) }
    }

    /// Returns true if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands waiting messages to the carrier as its window allows. May be cancelled at any await.
    pub(super) async fn flush(&mut self) -> Result<(), SessionError> {
        while let Some(next) = self.waiting.front_mut() {
            self.send.reserve_capacity(next.len());
            while self.send.capacity() == 0 {
                match poll_fn(|cx| self.send.poll_capacity(cx)).await {
                    Some(capacity) => drop(capacity?),
                    None => return Err(SessionError::ControlEnded),
                }
            }
            let piece = next.split_to(self.send.capacity().min(next.len()));
            self.bytes -= piece.len();
            if next.is_empty() {
                self.waiting.pop_front();
            }
            self.send.send_data(piece.into(), false)?;
        }
        Ok(())
    }

    /// Sends what waits and ends our direction.
    pub(super) async fn finish(&mut self) -> Result<(), SessionError> {
        self.flush().await?;
        Ok(self.send.send_data(Bytes::new().into(), true)?)
    }
}

/// The other end's direction of the control stream.
pub(super) struct Inbox<M> {
    receive: RecvStream,
    decoder: Decoder,
    /// Long message that is being read beside this core: that takes longer than a core may be held up.
    reading: Option<JoinHandle<Result<M, BadMessage>>>,
    /// Bytes of the long message that may come.
    expected: usize,
    /// Time before which nothing more is read.
    rest: Option<Instant>,
}

/// Step of a control stream.
pub(super) enum Received<M> {
    /// A message.
    Message(M),
    /// A long message of so many bytes has begun. It is read after [`Inbox::expect`].
    Long(usize),
}

impl<M: Message> Inbox<M> {
    pub(super) fn new(receive: RecvStream) -> Self {
        Self { receive, decoder: Decoder::default(), reading: None, expected: 0, rest: None }
    }

    /// Allows messages of `most` bytes.
    pub(super) fn allow(&mut self, most: usize) {
        self.decoder.allow(most);
    }

    /// Reads the long message that has begun.
    pub(super) fn expect(&mut self, bytes: usize) {
        self.expected = bytes;
        self.decoder.reserve(bytes);
    }

    /// Reads nothing before this time.
    pub(super) fn rest_until(&mut self, time: Instant) {
        self.rest = self.rest.max(Some(time));
    }

    /// Returns true if no long message is under way or held.
    pub(super) fn is_idle(&self) -> bool {
        self.expected == 0
    }

    /// Returns the next message. May be cancelled at any await.
    pub(super) async fn next(&mut self) -> Result<Received<M>, SessionError> {
        if let Some(reading) = &mut self.reading {
            let read = reading.await;
            self.reading = None;
            // A panic was reported by its hook.
            let message = read.map_err(|_| SessionError::ControlEnded)??;
            self.expected = 0;
            return Ok(Received::Message(message));
        }
        if let Some(rest) = self.rest {
            tokio::time::sleep_until(rest).await;
            self.rest = None;
        }
        loop {
            let announced = self.decoder.announced()?.filter(|length| *length > SHORT);
            if let Some(length) = announced.filter(|length| *length > self.expected) {
                return Ok(Received::Long(length));
            }
            if let Some(json) = self.decoder.take_json()? {
                let Some(length) = announced else {
                    return Ok(Received::Message(read(&json)?));
                };
                let pause = length as u64 * 1_000 / PER_SECOND;
                self.rest = Some(Instant::now() + Duration::from_millis(pause));
                self.reading = Some(tokio::task::spawn_blocking(move || read(&json)));
                return Box::pin(self.next()).await;
            }
            match poll_fn(|cx| self.receive.poll_data(cx)).await {
                Some(bytes) => {
                    let bytes = bytes?;
                    self.decoder.push(&bytes);
                    // Fails only for a stream that has ended, which needs no credit.
                    let _ = self.receive.flow_control().release_capacity(bytes.len());
                }
                None => return Err(SessionError::ControlEnded),
            }
        }
    }
}
