//! Encoding of messages: length in four bytes, most significant first, then JSON.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a message at most.
const MESSAGE: usize = 4 * 1024 * 1024;

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

/// Decoder of the messages of one direction.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole message.
    ///
    /// # Errors
    /// Fails if the bytes are no message; nothing after it can be read.
    pub fn take<M: DeserializeOwned>(&mut self) -> Result<Option<M>, BadMessage> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MESSAGE {
            return Err(BadMessage::TooLong(length));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let json = self.buffer.split_to(length);
        serde_json::from_slice(&json).map(Some).map_err(BadMessage::Unreadable)
    }
}
