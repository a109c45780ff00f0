//! The way out: who asks a forward proxy, what the tenant may reach through it, and the record of it.
//!
//! Deliberately absent: HTTP; the engine in `http` reads requests and carries them.

pub(crate) mod door;
pub(crate) mod gate;
pub(crate) mod host;
pub(crate) mod identify;
pub(crate) mod ledger;
pub(crate) mod parent;
pub(crate) mod passage;
pub(crate) mod reach;
pub(crate) mod record;
pub(crate) mod sni;
pub(crate) mod socks;
