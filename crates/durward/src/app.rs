//! Composition of the parts: control publishes snapshots, the proxy and the kernel plane serve them, the admin listener reports on all.
//!
//! The only module that imports all crates.

pub(crate) mod acme;
pub(crate) mod cluster;
mod condition;
mod exposition;
mod gateway;
pub(crate) mod health;
pub(crate) mod kernel;
mod kube;
mod links;
pub(crate) mod local_socket;
mod log;
mod logs;
pub(crate) mod report;
mod settings;
mod supervise;

pub(crate) use gateway::Gateway;
pub(crate) use kernel::sentence;
pub(crate) use kube::{KubeSettings, run_kube};
pub(crate) use logs::Logs;
pub(crate) use settings::Settings;
pub(crate) use supervise::{raise_descriptor_limit, run};
