//! The way out: who asks a forward proxy, what the tenant may reach through it, and the record of it.
//!
//! Deliberately absent: HTTP; the engine in `http` reads requests and carries them.

pub(crate) mod gate;
pub(crate) mod identify;
pub(crate) mod passage;
pub(crate) mod record;
