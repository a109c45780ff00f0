//! Kubernetes objects as a source of configuration: watches become changes, and what became of each object is written into its status.
//!
//! The only crate that knows kube-rs. [`client`] speaks to the API server, [`source`] watches, [`status`], [`revisions`] and [`smartnat`] write, [`crds`] prints the definitions of
//! our own kinds. No packet and no connection of a tenant ever waits for anything here.

pub mod addon;
mod addresses;
pub mod admission;
mod backoff;
pub mod client;
pub mod crds;
mod endpoints;
pub mod events;
pub mod health;
pub mod ingress_watch;
pub mod ingresses;
pub mod lease;
pub mod load_balancers;
pub mod metrics;
pub mod object;
mod pace;
pub mod request;
pub mod resource_type;
pub mod revisions;
pub mod slice;
pub mod smartnat;
pub mod source;
pub mod status;
pub mod tls_routes;
mod watch;

pub use client::{Clients, Limits, Location, Reach};
pub use source::{Source, Sources};
