//! The forward proxy: policy, the connection to the destination, and the answer to the client.
//!
//! Deliberately absent: parsing requests; `server` does that.

mod gate;
mod request;
pub(crate) mod socks;
mod told;
pub(crate) mod transparent;

pub(crate) use request::serve;
