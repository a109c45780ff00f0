//! Real sockets on 127/8: origins on 127.0.0.1, tenants' sources beside it.
//!
//! Deliberately absent: HTTP proper; origins count bytes and look at addresses.

mod pooling;
mod support;
