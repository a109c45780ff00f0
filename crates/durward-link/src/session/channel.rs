//! The control stream of a carrier, as messages.

use std::collections::VecDeque;
use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SessionError;
use crate::control::{Decoder, encode};

/// Bytes of messages that may wait: an end that does not read its control stream is ended.
const WAITING: usize = 8 * 1024 * 1024;

/// Our direction of the control stream.
pub(super) struct Outbox {
    send: SendStream<Bytes>,
    waiting: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    pub(super) fn new(send: SendStream<Bytes>) -> Self {
        Self { send, waiting: VecDeque::new(), bytes: 0 }
    }

    /// Queues a message; [`flush`](Self::flush) sends it.
    pub(super) fn queue(&mut self, message: &impl Serialize) -> Result<(), SessionError> {
        let bytes = encode(message);
        self.bytes += bytes.len();
        self.waiting.push_back(bytes);
        if self.bytes > WAITING { Err(SessionError::ControlEnded) } else { Ok(()) }
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
            self.send.send_data(piece, false)?;
        }
        Ok(())
    }

    /// Sends what waits and ends our direction.
    pub(super) async fn finish(&mut self) -> Result<(), SessionError> {
        self.flush().await?;
        Ok(self.send.send_data(Bytes::new(), true)?)
    }
}

/// The other end's direction of the control stream.
pub(super) struct Inbox {
    receive: RecvStream,
    decoder: Decoder,
}

impl Inbox {
    pub(super) fn new(receive: RecvStream) -> Self {
        Self { receive, decoder: Decoder::default() }
    }

    /// Returns the next message. May be cancelled at any await.
    pub(super) async fn next<M: DeserializeOwned>(&mut self) -> Result<M, SessionError> {
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(message);
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
