//! Where configuration enters: sources say changes, the `Store` holds documents and facts, and `compile` makes of them one `Snapshot` and a verdict
//! per document.
//!
//! Reading files is the business of [`source`]; [`compile()`] performs no I/O and reads no clock. Deliberately absent: sockets, and any
//! way for one bad document to cost another tenant anything.

pub mod certificate;
pub mod change;
pub mod cluster;
pub mod compile;
pub mod document;
pub mod excerpt;
pub mod feed;
mod field;
pub mod file_roots;
pub mod foreign;
pub mod isolation;
pub mod issuance;
pub mod named_file;
pub mod place;
pub mod publish;
pub mod quantity;
pub mod reference;
pub mod registry;
pub mod source;
pub mod spec;
pub mod state;
pub mod store;
pub mod stream;
pub mod suggest;
mod words;

pub use change::{Change, DocumentKey, Fact, Links};
pub use cluster::Cluster;
pub use compile::{Compiled, compile};
pub use document::{Document, Source};
pub use feed::Feed;
pub use file_roots::FileRoots;
pub use issuance::Issuance;
pub use publish::Publisher;
pub use reference::{Grantee, Reference};
pub use source::file::FileSource;
pub use spec::routing_json::RoutingJsonOptions;
pub use spec::schema;
pub use state::State;
pub use store::{Store, Touched};
