//! nftables rulesets, written to and read from the kernel over netlink.
//!
//! [`ruleset`] is the contents of a table, [`expression`] the steps of a rule, [`changes`] the difference of two rulesets; [`table`] talks to the
//! kernel.

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
