//! Sessions: streams to backends over one carrier, by HTTP/2 whose client is the gateway.
//!
//! Both ends are futures that their caller drives; they need tokio's timers and no particular runtime. Everything that a stream's holder has may be
//! used from other threads than the carrier's own.

pub mod agent;
mod channel;
pub mod gateway;
mod inbound;
pub mod liveness;
mod outgoing;
pub mod pace;
mod stream;
mod windows;
pub mod wire;

pub use inbound::Account;
pub use stream::LinkStream;

/// Authority and path of the control stream.
pub(crate) const CONTROL: &str = "https://durward-link/control";
/// Header of a stream's kind.
pub(crate) const KIND: &str = "durward-kind";
/// Header of the reason for a refusal.
pub(crate) const REASON: &str = "durward-reason";

/// Overhead of DATA frames that wait unread in HTTP/2 itself, which ends the carrier. Frames of streams are taken out at once, so only a peer that sends to
/// streams that nobody serves yet comes near.
pub(crate) const DATA_FRAMES: usize = 2 * 1024 * 1024;
/// Streams that were reset and are remembered for a second, so that frames under way are not taken for faults. The same for streams that the peer resets
/// before they were looked at. Clients that give up are no fault of the carrier.
pub(crate) const RESETS: usize = 2_048;

/// End of a carrier.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// HTTP/2 ended in an error, or the connection did.
    #[error("the carrier ended")]
    Http2(#[from] h2::Error),
    /// The other end broke the control protocol.
    #[error("protocol violation by the peer of the link")]
    Protocol(#[from] crate::control::Violation),
    /// The other end sent bytes that are no message.
    #[error("protocol violation by the peer of the link")]
    Message(#[from] crate::control::BadMessage),
    /// The tenant's memory has no room for a message that the other end announced.
    #[error("no memory is left for a message of the control stream")]
    NoMemory,
    /// The control stream ended before its carrier.
    #[error("the control stream ended")]
    ControlEnded,
    /// PINGs were not answered.
    #[error("the carrier is dead: it does not answer to PING")]
    Dead,
    /// The gateway refused the carrier.
    #[error("the gateway refused the link: {}", .0.reason)]
    Refused(crate::control::Refused),
}

#[cfg(test)]
mod tests;
