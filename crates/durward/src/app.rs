//! Where the parts meet: control publishes snapshots, the proxy serves them, the admin interface tells about both.
//!
//! The only place that knows all crates. Deliberately absent: decisions; every one of them belongs to a part.

mod condition;
mod exposition;
mod gateway;
pub(crate) mod health;
pub(crate) mod kernel;
mod log;
mod logs;
mod report;
mod supervise;

pub(crate) use gateway::{Gateway, Settings};
pub(crate) use kernel::sentence;
pub(crate) use logs::Logs;
pub(crate) use supervise::run;
