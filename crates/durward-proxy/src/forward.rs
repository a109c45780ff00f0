//! The way out: what a tenant may reach through its forward proxy, and the record of it.
//!
//! Deliberately absent: HTTP; the engine in `http` reads requests and carries them.

pub(crate) mod ledger;
pub(crate) mod record;
