//! Tests of `durward-kube` over its public surface.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect")]

mod addons;
mod admission;
mod cluster;
mod crds;
mod facts;
mod foreign;
mod hostile;
mod http2;
mod mappings;
mod slices;
mod sources;
mod statuses;
