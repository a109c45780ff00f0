//! Idle upstream connections of one core, by [`PoolKey`].
//!
//! Deliberately absent: a way to build a key without the tenant and its source address.

/// The pools of one core.
#[derive(Default)]
pub(crate) struct Pools {}
