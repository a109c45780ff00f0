//! Frames: a length of four bytes, the most significant first, and that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Largest frame in bytes. A Secret has at most 1 MiB and an object about 3 MiB, and escaping makes them longer.
pub const LARGEST_FRAME: usize = 32 << 20;

/// Bytes before each frame that say its length.
const HEAD: usize = 4;

/// Reason why bytes are no message.
#[derive(Debug, Error)]
pub enum FrameFault {
    /// The frame is larger than any may be.
    #[error("a message of {0} bytes is larger than {LARGEST_FRAME}")]
    TooLarge(usize),
    /// The frame holds no message of this version.
    #[error("a message cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// Returns a message with its length before it.
///
/// # Errors
/// Fails if it is too large.
pub fn frame(message: &impl Serialize) -> Result<Vec<u8>, FrameFault> {
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, message).map_err(FrameFault::Unreadable)?;
    let length = bytes.len() - HEAD;
    let head = u32::try_from(length).ok().filter(|_| length <= LARGEST_FRAME);
    let head = head.ok_or(FrameFault::TooLarge(length))?;
    bytes[..HEAD].copy_from_slice(&head.to_be_bytes());
    Ok(bytes)
}

/// Bytes that arrive, of which messages are taken.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Bytes at the beginning that were taken.
    taken: usize,
}

impl Frames {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 && self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next message and its JSON; `None` until it is whole.
    ///
    /// # Errors
    /// Fails if it is too large or cannot be read. Nothing after it can be read then.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<(T, &[u8])>, FrameFault> {
        let rest = &self.bytes[self.taken..];
        let Some((head, body)) = rest.split_first_chunk::<HEAD>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > LARGEST_FRAME {
            return Err(FrameFault::TooLarge(length));
        }
        if body.len() < length {
            return Ok(None);
        }
        let begin = self.taken + HEAD;
        self.taken = begin + length;
        let body = &self.bytes[begin..self.taken];
        let message = serde_json::from_slice(body).map_err(FrameFault::Unreadable)?;
        Ok(Some((message, body)))
    }
}

/// Returns the JSON of a frame.
pub(super) fn body(frame: &[u8]) -> &[u8] {
    frame.get(HEAD..).unwrap_or_default()
}
