//! Objects of a cluster, read once, for commands that look at a configuration and serve none.

use std::sync::Arc;
use std::time::Duration;

use durward_control::cluster::Cluster;
use durward_control::{Store, compile};
use durward_kube::{Location, Sources};
use tokio::time::timeout;

use crate::app::cluster::{ApiOptions, Follower, Shared};
use crate::cli::{ConfigArgs, LiveArgs};
use crate::config::{self, Loaded};
use crate::failure::Failure;
use crate::inspect::now;

/// Time in which everything is read.
const PATIENCE: Duration = Duration::from_secs(15);
/// Name by which kubectl starts a plugin: `kubectl durward` runs `kubectl-durward`.
const PLUGIN: &str = "kubectl-durward";

/// Returns whether kubectl has started this process as its plugin.
pub(crate) fn is_plugin() -> bool {
    let program = std::env::args_os().next();
    let name = program.as_deref().map(std::path::Path::new).and_then(std::path::Path::file_name);
    name.is_some_and(|name| name == PLUGIN)
}

/// Loads and compiles objects of a cluster if the user asks for those, else documents of files. A plugin of kubectl reads objects unless files are named.
pub(crate) fn load(config: &ConfigArgs, live: &LiveArgs) -> Result<Loaded, Failure> {
    if !(live.kubernetes || is_plugin() && config.config.is_empty()) {
        if let Some(option) = live.given() {
            return Err(Failure::usage(format!("{option} is for --kubernetes")));
        }
        return config::load(config);
    }
    let store = read(live)?;
    let compiled = compile(&store, None, now());
    Ok(Loaded { snapshot: compiled.snapshot, verdicts: compiled.verdicts })
}

/// Reads the documents of a cluster, and what they name and the user may read.
fn read(live: &LiveArgs) -> Result<Store, Failure> {
    let cluster = Cluster::new(&live.gateway_namespace);
    let namespace = live.kube_namespace.as_deref().map(Arc::from);
    let location = Location::infer(live.kubeconfig.clone(), live.kube_context.clone());
    let ingresses = live.kube_ingresses;
    let sources = Sources { namespace, ingresses, ..Sources::default() };
    let (routing, statuses, cache) = (None, None, None);
    let api = ApiOptions { location, cluster, sources, routing, statuses, cache };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let shared = Arc::<Shared>::default();
    let read = runtime.block_on(async {
        let follower = Follower::start(api, Arc::clone(&shared)).await;
        let mut follower = follower.map_err(|fault| Failure::InvalidConfig {
            message: format!("cannot use the Kubernetes API: {fault}"),
        })?;
        if timeout(PATIENCE, follower.begin()).await.is_ok() {
            return Ok(follower.store().clone());
        }
        let faults = shared.status().faults;
        let why = faults.first().map(|(kind, fault)| format!(": {kind}: {fault}"));
        let why = why.unwrap_or_default();
        let message = format!("the Kubernetes API was not read within {PATIENCE:?}{why}");
        Err(Failure::Unreachable { message })
    });
    // A look-up of a name may hang in a thread of the runtime.
    runtime.shutdown_background();
    read
}
