//! HTTP/2 as bytes and frames, on both sides: finds frames, and counts and bounds what the codec holds because of them.
//!
//! Towards upstreams the `h2` crate gives frames their meaning, towards clients `http::h2::session`.

pub(crate) mod first_head;
pub(crate) mod frames;
pub(crate) mod guard;
pub(crate) mod hpack;
pub(crate) mod huffman;
pub(crate) mod inspect;
pub(crate) mod intake;
mod metered;
mod streams;

pub(crate) use metered::{HEADER_LIST, Metered};
pub(crate) use streams::{StreamAccount, StreamHasher, Streams};
