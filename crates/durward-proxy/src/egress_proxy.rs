//! The forward proxy: policy, the connection to the destination, and the answer to the client.

mod gate;
mod request;
pub(crate) mod socks;
pub(crate) mod transparent;
mod tunnel_log;

pub(crate) use gate::check;
pub(crate) use request::serve;
