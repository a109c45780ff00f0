//! The engine between a real client and a real origin, without listeners, TLS or configuration.
//!
//! Deliberately absent: tests of single parsers; those are beside them.

mod bodies;
mod exchange;
mod forwarding;
mod heads;
mod http2;
mod malformed;
mod requests;
mod retries;
mod support;
