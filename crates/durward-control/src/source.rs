//! Sources of configuration: files now; other sources report the same changes.
//!
//! Deliberately absent: writing. Nothing under a configuration is ever changed.

pub mod file;
pub mod inventory;
mod patience;
mod read;
pub mod regular;
mod shares;
pub mod watch;
