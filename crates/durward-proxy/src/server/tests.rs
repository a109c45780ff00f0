//! The engine between a real client and a real origin, without listeners, TLS or configuration.

mod bodies;
mod exchange;
mod failing;
mod fields;
mod forwarding;
mod framing;
mod heads;
mod http2;
mod lingering;
mod malformed;
mod odd;
mod programs;
mod requests;
mod retries;
mod sessions;
mod support;
