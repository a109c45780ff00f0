//! Server-side TLS: prepared configurations, handshakes, and facts of client certificates.

mod challenge;
pub(crate) mod client_certificate;
pub(crate) mod client_verifier;
pub(crate) mod failure;
pub(crate) mod handshake;
pub(crate) mod presented;
pub(crate) mod server_config;
