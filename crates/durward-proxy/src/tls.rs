//! TLS towards clients: configurations made ahead, handshakes, and what a client's certificate says.
//!
//! Deliberately absent: certificate files; what arrives here was parsed by the compile step.

pub(crate) mod client_certificate;
mod client_verifier;
pub(crate) mod failure;
pub(crate) mod handshake;
pub(crate) mod presented;
pub(crate) mod server_config;
