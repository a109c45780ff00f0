//! Carriers: connections that an agent dials, over which a link runs.
//!
//! Two kinds: TLS with the application protocol [`ALPN`], and a WebSocket over TLS, which passes programs that look into HTTPS. Both go through an HTTP
//! proxy where one is configured.

mod dial;
mod head;
mod http_proxy;
pub mod websocket;

pub use dial::{BadUrl, DialError, Dialled, Dialler, GatewayUrl, Scheme};
pub use http_proxy::{BadProxy, HttpProxy};

/// Application protocol of a link over TLS.
pub const ALPN: &[u8] = b"durward-link/1";
/// Path of a link over WebSocket.
pub const PATH: &str = "/durward-link";
/// WebSocket subprotocol of a link.
pub const SUBPROTOCOL: &str = "durward-link.v1";
