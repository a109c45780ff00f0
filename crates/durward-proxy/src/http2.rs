//! HTTP/2 as bytes and frames, on both sides: frames are found, and what the codec holds because of them is counted and bounded.
//!
//! What a frame means is the business of the `h2` crate.

pub(crate) mod frames;
pub(crate) mod guard;
mod hpack;
mod huffman;
pub(crate) mod inspect;
pub(crate) mod intake;
mod metered;
mod streams;

pub(crate) use metered::{HEADER_LIST, Metered};
pub(crate) use streams::{StreamAccount, Streams};
