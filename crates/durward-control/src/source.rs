//! Where configuration comes from: files now; other sources end in the same `Resources`.
//!
//! Deliberately absent: writing. Nothing under a configuration is ever changed.

pub mod file;
mod patience;
mod read;
pub mod regular;
mod shares;
pub mod watch;
