//! The forward proxy: whether a client may go where it asks to, the way there, and how it is told.
//!
//! Deliberately absent: reading requests; `server` does that.

mod gate;
mod request;
pub(crate) mod socks;
mod told;
pub(crate) mod transparent;

pub(crate) use request::serve;
