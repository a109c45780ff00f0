//! Names to addresses, kept as long as their TTL says.
//!
//! Deliberately absent: a second cache; the resolver's own is the only one.

/// Looks names up.
#[derive(Default)]
pub(crate) struct Resolver {}
