//! One request and its response, whatever version of HTTP is spoken on either side.
//!
//! The outcome is recorded exactly once, here.

mod account;
mod attempt;
mod bodies;
mod bound;
mod context;
mod ended;
pub(crate) mod request;
mod switch;
pub(crate) mod tunnel;

pub(crate) use account::{Account, Upstream as UpstreamAccount, note_refusal};
pub(crate) use attempt::{Way, forward, wait_for};
pub(crate) use context::Http;
pub(crate) use ended::{Clock, Ended, Stop};
pub(crate) use request::new_request_id;
pub(crate) use switch::{Switched, late};
