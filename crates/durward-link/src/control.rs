//! The control protocol: messages, their encoding, and one state machine for each end.
//!
//! Sans-I/O: a message or a time goes in; messages to send and events come out. `session` moves the bytes.

mod agent;
mod codec;
pub mod fit;
mod gateway;
mod message;
mod proof;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use agent::{AgentControl, AgentEvent};
pub use codec::{BadMessage, Decoder, LONG, Message, SHORT, encode, read};
pub use gateway::{Admitted, GatewayControl, GatewayEvent};
pub use message::{
    ClusterState, DIRECT, DRAIN, Drain, Heartbeat, Hello, OUT, Purpose, REJECTED, ROUTES, Refused,
    Rejected, RoutingMode, ToAgent, ToGateway, Token, VERDICTS, Verdicts, Versions, Welcome,
};
pub use proof::{PROOF_PATH, ProofKey};

/// Time in which the first message of the other end must come.
pub const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Interval of heartbeats that a gateway asks for.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Heartbeats that may stay unanswered.
pub const UNANSWERED: u32 = 3;

/// A fault of the other end that ends the carrier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message that the state of the protocol does not allow.
    #[error("{message} came {when}")]
    OutOfOrder {
        /// Type of the message.
        message: &'static str,
        /// State of the protocol.
        when: &'static str,
    },
    /// A version or capability that was not offered.
    #[error("{0} was not offered")]
    NotOffered(String),
    /// The first message, or too many heartbeats, did not come in time.
    #[error("{0} did not come in time")]
    Silent(&'static str),
    /// More routes than a set may have.
    #[error("{0} routes are more than a link may have")]
    TooManyRoutes(usize),
}
