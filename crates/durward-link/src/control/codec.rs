//! Encoding of messages: length in four bytes, most significant first, then JSON.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;

/// Bytes of a message at most, on a carrier for control.
pub const LONG: usize = 4 * 1024 * 1024;
/// Bytes of a message at most before the carrier was accepted, and on one for data.
pub const SHORT: usize = 16 * 1024;
/// Capacity kept for the next message.
const KEPT: usize = 64 * 1024;

/// Message that is read from JSON.
pub trait Message: Sized + Send + 'static {
    /// Reads a message by its type, so that nothing is kept of one that is not known.
    ///
    /// # Errors
    /// Fails if the bytes are no JSON object with a type, or its fields do not fit the type.
    fn read(json: &[u8]) -> serde_json::Result<Self>;
}

/// Bytes that are no message.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// A length above the bound.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// No JSON, or fields that do not fit the type.
    #[error("a message cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// Returns the bytes of a message.
pub fn encode(message: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(message).expect("messages have string keys");
    let length = u32::try_from(json.len()).expect("routes are bounded");
    let mut bytes = Vec::with_capacity(4 + json.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&json);
    bytes.into()
}

/// Reads a message.
///
/// # Errors
/// Fails if the bytes are none.
pub fn read<M: Message>(json: &[u8]) -> Result<M, BadMessage> {
    M::read(json).map_err(BadMessage::Unreadable)
}

/// Decoder of the messages of one direction.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    most: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), most: SHORT }
    }
}

impl Decoder {
    /// Allows messages of `most` bytes.
    pub fn allow(&mut self, most: usize) {
        self.most = most;
    }

    /// Makes room for a message of `bytes`.
    pub fn reserve(&mut self, bytes: usize) {
        self.buffer.reserve((4 + bytes).saturating_sub(self.buffer.len()));
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the length of the message that has begun.
    ///
    /// # Errors
    /// Fails if it is longer than is allowed.
    pub fn announced(&self) -> Result<Option<usize>, BadMessage> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.most { Err(BadMessage::TooLong(length)) } else { Ok(Some(length)) }
    }

    /// Takes the JSON of the next whole message.
    ///
    /// # Errors
    /// Fails if the message is longer than is allowed.
    pub fn take_json(&mut self) -> Result<Option<Bytes>, BadMessage> {
        let Some(length) = self.announced()? else { return Ok(None) };
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let json = self.buffer.split_to(length);
        if length > KEPT {
            // The rest is copied, so that the long message's memory is free again once it was read.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Some(json.freeze()))
    }

    /// Takes the next whole message.
    ///
    /// # Errors
    /// Fails if the bytes are no message; nothing after it can be read.
    pub fn take<M: Message>(&mut self) -> Result<Option<M>, BadMessage> {
        self.take_json()?.map(|json| read(&json)).transpose()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
