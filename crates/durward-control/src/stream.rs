//! Changes of a source as messages between two processes: one reads an API server, the other serves what it says and has no right there.
//!
//! Messages are bounded, and the first one of each side names the version. Whatever was cut off is said again: the receiver names what it holds by digest, and gets the rest.
//! Sockets are the application's business.

mod foreign;
mod frame;
mod item;
mod received;
mod report;
mod said;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use durward_model::ResourceId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::named_file::digest_of;
use crate::reference::Reference;
pub use foreign::{Answered, Asked, Standing};
pub use frame::{FrameFault, Frames, LARGEST_FRAME, frame};
pub use item::{Item, Untransferable};
pub use received::{Received, ReceivedFault};
pub use report::{ObjectReport, PlaneReport};
pub use said::{Outbox, Said};

/// Version of the messages. Two processes talk only if they have the same.
pub const VERSION: u32 = 2;

/// Name of a thing that a source says: the document of an object, or a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ItemKey {
    /// The document of an object.
    Document(ResourceId),
    /// A fact.
    Fact(Reference),
}

/// First half of the SHA-256 of an item's message: equal for equal items.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ItemDigest([u8; 16]);

/// Message of the process that reads the API server.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToGateway {
    /// The first message.
    Welcome {
        /// [`VERSION`] of the sender.
        version: u32,
        /// The gateway's own namespace, as the sender has it.
        namespace: Arc<str>,
    },
    /// A thing that is new or changed.
    Item(Box<Item>),
    /// A thing that is gone.
    Gone(ItemKey),
    /// The items since the last of these are one change.
    Commit,
    /// State of the reading.
    State(SourceState),
    /// What is to be answered from now on, whenever it changes.
    Ask(Asked),
}

/// Message of the process that serves.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromGateway {
    /// The first message.
    Hello {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// Things that the sender holds.
    Have(Vec<(ItemKey, ItemDigest)>),
    /// The sender has named all that it holds: what differs is to follow.
    Follow,
    /// Result for an object.
    Report(Box<ObjectReport>),
    /// What is true of all that was asked.
    Answer(Answered),
}

/// State of the process that reads the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Time in seconds for which changes may have been missed.
    pub lag: u64,
    /// Reasons why watches are down, each with the kind.
    pub faults: Vec<(String, String)>,
    /// Objects that are read.
    pub objects: usize,
    /// Error of the last status write that failed.
    pub unwritten: Option<String>,
    /// When the cache was written that is said in place of what the API server says, in seconds since the Unix epoch.
    #[serde(default)]
    pub cached: Option<i64>,
}

impl ItemDigest {
    /// Returns the digest of an item's message.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        let (mut half, whole) = ([0; 16], digest_of(message));
        half.copy_from_slice(&whole[..16]);
        Self(half)
    }
}

impl fmt::Debug for ItemDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl Serialize for ItemDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for ItemDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(&*text).map_err(serde::de::Error::custom)?;
        let bytes = bytes.try_into();
        bytes.map(Self).map_err(|_| serde::de::Error::custom("a digest has 16 bytes"))
    }
}

#[cfg(test)]
mod tests;
