//! The forward proxy: policy, the connection to the destination, and the answer to the client.

mod gate;
mod request;
pub(crate) mod socks;
mod told;
pub(crate) mod transparent;

pub(crate) use request::serve;
