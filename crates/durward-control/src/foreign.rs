//! Objects of Kubernetes that are not ours: read as far as they say what a tenant serves, and turned into parts of its document.
//!
//! An Ingress is read once, by [`extract`], into values that know nothing of Durward's documents. [`merge()`] makes listeners, routes and
//! upstreams of the values of one tenant. Both are pure, so that a cluster, an agent and a migration agree.

mod annotations;
pub mod asked;
pub mod document;
pub mod extract;
pub mod finding;
pub mod merge;
pub mod objects;
mod text;

pub use asked::Asked;
pub use document::IngressDocument;
pub use extract::{Surroundings, extract};
pub use finding::{Effect, Finding};
pub use merge::{Attached, Attachment, Backends, Merged, Place, Protocol, Taker, attach, merge};
