//! What a tenant uses of its limits, counted across cores without locks.
//!
//! Deliberately absent: the limits themselves; they are in the model and may change while usage lives on.

/// One tenant's use of its limits.
#[derive(Debug, Default)]
pub(crate) struct Usage {}
