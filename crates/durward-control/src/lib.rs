//! Where configuration enters: documents become `Resources`, and `compile` makes of them one `Snapshot` and a verdict per resource.
//!
//! Reading files is the business of [`source`]; [`compile()`] performs no I/O and reads no clock. Deliberately absent: sockets, and any
//! way for one bad document to cost another tenant anything.

pub mod certificate;
pub mod compile;
pub mod excerpt;
mod field;
pub mod file_roots;
pub mod foreign;
pub mod isolation;
pub mod issuance;
pub mod named_file;
pub mod place;
pub mod publish;
pub mod quantity;
pub mod resources;
pub mod source;
pub mod spec;
pub mod state;
pub mod suggest;

pub use compile::{Compiled, compile};
pub use file_roots::FileRoots;
pub use issuance::Issuance;
pub use publish::Publisher;
pub use resources::{Document, Resources, Source};
pub use source::file::FileSource;
pub use spec::routing_json::RoutingJsonOptions;
pub use spec::schema;
pub use state::State;
