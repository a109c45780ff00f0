//! What Durward's tests stand on: certificates, origin servers, raw clients, network namespaces and child processes.
//! It knows no other crate of Durward on purpose: it deals in bytes, sockets and certificates only.

#![allow(
    clippy::panic,
    reason = "the kit runs inside tests: an arrangement that fails must fail the test, in words"
)]

pub mod acme;
pub mod certificates;
pub mod client;
pub mod dns;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod netns;
pub mod origin;
pub mod process;
pub mod secrets;
mod transport;

pub use rustls;
pub use serde_json;
pub use transport::Transport;
