//! The link between an agent in a private cluster and a gateway: the agent dials, the gateway opens streams to backends over what was dialled.
//!
//! [`control`] is the protocol of the two programs as pure state machines, [`session`] carries streams over one connection, [`datagram`] UDP over a
//! stream, [`carrier`] opens connections. Deliberately absent: tenants and targets' judgement; the gateway and the agent have them.

pub mod backoff;
pub mod bounds;
pub mod carrier;
pub mod control;
pub mod datagram;
pub mod route;
pub mod session;
pub mod target;

pub use bounds::Bounds;
pub use datagram::Datagrams;
pub use route::{Route, RouteSet};
pub use target::{Kind, Target};
