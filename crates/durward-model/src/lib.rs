//! Data model of the data planes. Nothing here performs I/O, spawns a task or reads a clock.
//!
//! `control` compiles documents into a [`Snapshot`]; `proxy` serves it; [`explain`] answers questions about it with the same
//! functions the proxy calls. Deliberately absent: tokio, Kubernetes types, TLS libraries, sockets.

pub mod acme;
pub mod address;
pub mod blocks;
pub mod certificate;
pub mod client_auth;
pub mod discriminator;
pub mod egress;
pub mod explain;
pub mod health;
pub mod hosted;
pub mod limits;
pub mod link;
pub mod listener;
pub mod mapping;
pub mod names;
pub mod origin;
pub mod owners;
pub mod path;
pub mod request;
pub mod resource;
pub mod route;
pub mod secret;
pub mod server_name;
pub mod server_tls;
pub mod shared_map;
pub mod snapshot;
pub mod sni;
pub mod source_set;
pub mod tenant;
pub mod tenant_id;
pub mod transport;
pub mod upstream;
pub mod verdict;

pub use acme::Acme;
pub use address::{ClientAddr, Destination, EgressAddress, IngressAddress, UpstreamAddr};
pub use certificate::Certificate;
pub use client_auth::{ClientAuth, ClientTrust};
pub use discriminator::Discriminator;
pub use egress::ForwardService;
pub use hosted::HostedApi;
pub use listener::{Bind, DestinationMode, Listener, ListenerKey, Protocol, Service};
pub use mapping::{KernelEgress, NatModel, PortMapping};
pub use names::{NameTable, ServerNames};
pub use origin::Origin;
pub use owners::AddressOwners;
pub use resource::{DocumentKey, Kind, ResourceId, Revision};
pub use route::Route;
pub use secret::Secret;
pub use server_tls::ServerTls;
pub use shared_map::SharedMap;
pub use snapshot::{HostedApiCounts, Snapshot};
pub use source_set::SourceSet;
pub use tenant::Tenant;
pub use tenant_id::TenantId;
pub use upstream::Upstream;
pub use verdict::{Verdict, Verdicts};
