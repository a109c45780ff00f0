//! The packet filter's language, written to and read from the kernel without any program.
//!
//! [`ruleset`] is what a table holds, [`expression`] what a rule is made of, [`changes`] what leads from one ruleset to
//! another, [`table`] talks to the kernel. Deliberately absent: which rules Durward wants; see `program`.

mod batch;
pub mod changes;
mod decode;
mod encode;
pub mod expression;
pub(crate) mod listing;
pub(crate) mod others;
pub(crate) mod probe;
pub mod ruleset;
pub mod table;
mod uapi;
pub(crate) mod words;

pub use changes::Changes;
pub use expression::{Expression, Verdict};
pub use ruleset::{Chain, Element, Hook, Ruleset, Set, Value};
pub use table::{Table, TableError};
