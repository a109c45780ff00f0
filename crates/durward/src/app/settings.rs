//! Start settings of a gateway.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use durward_control::RoutingJsonOptions;

use super::{acme, cluster};
use crate::app::Logs;
use crate::handover::Handed;

/// Start settings of the gateway.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Documents and directories of documents.
    pub(crate) paths: Vec<PathBuf>,
    /// Options for a `routing.json`, which does not say them itself.
    pub(crate) routing: RoutingJsonOptions,
    /// Directories in which documents may name files, besides their own.
    pub(crate) files_roots: Vec<PathBuf>,
    /// Threads of the proxy; 0 for one per processor.
    pub(crate) workers: usize,
    /// Destinations of log lines.
    pub(crate) logs: Logs,
    /// Bytes of memory this process may have; `None` reads the limit of its cgroup or the host.
    pub(crate) memory: Option<usize>,
    /// Time for connections to finish at a drain.
    pub(crate) drain_grace: Duration,
    /// Time of accepting connections while already not ready.
    pub(crate) drain_delay: Duration,
    /// True to watch files for changes.
    pub(crate) watch: bool,
    /// True to refuse to start if anything is rejected.
    pub(crate) strict: bool,
    /// Directory of the state file for the next process.
    pub(crate) state_dir: Option<PathBuf>,
    /// State that an older process handed over.
    pub(crate) handed: Option<Handed>,
    /// Listening sockets that were passed to this process.
    pub(crate) sockets: Vec<TcpListener>,
    /// True to listen at addresses where another process listens.
    pub(crate) shared: bool,
    /// Guarded networks in which public endpoints of links may lie.
    pub(crate) direct_networks: Vec<ipnet::IpNet>,
    /// Options of the kernel plane.
    pub(crate) nat: durward_nat::Options,
    /// Options of certificates by ACME; `None` without a state directory.
    pub(crate) acme: Option<acme::Options>,
    /// Options of the Kubernetes API as a source; `None` if it is not read.
    pub(crate) cluster: Option<cluster::Options>,
}
