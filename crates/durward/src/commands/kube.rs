//! `durward kube`: reads the Kubernetes API for gateways that have no right there.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use durward_control::RoutingJsonOptions;
use durward_control::cluster::Cluster;
use durward_kube::lease::LeaseOptions;
use durward_kube::status::WriterOptions;
use durward_kube::{Location, Sources};

use crate::app::cluster::{ApiOptions, CacheOptions, Routing};
use crate::app::local_socket::Peers;
use crate::app::{KubeSettings, run_kube};
use crate::cli::{Admin, ApiArgs, Kube, LogFormat, Seed};
use crate::failure::{Exit, Failure};
use crate::telemetry;

/// Reads and hands over until a termination signal.
pub(crate) fn kube(arguments: &Kube, log: LogFormat) -> Result<Exit, Failure> {
    telemetry::start(log, "info,rustls=error");
    let mut api = api(&arguments.api, &Seed::environment())?;
    // What the documents ask for beyond Secrets is the gateway's to say.
    let routing = arguments.routing.kube_routing.as_ref();
    api.routing = routing
        .map(|name| Routing::new(&api.cluster.namespace, name, RoutingJsonOptions::default()));
    let admin = match arguments.admin {
        Admin::Off => None,
        Admin::At(address) => Some(TcpListener::bind(address).map_err(|error| {
            let doing =
                format!("opening the admin interface at {address} (--admin ADDRESS:PORT or off)");
            Failure::broken(doing, error)
        })?),
    };
    run_kube(KubeSettings {
        api,
        socket: arguments.socket.clone(),
        peers: Peers { other: arguments.peer },
        admin,
    })
}

/// Returns the name of this process. In a pod the host has the pod's name.
pub(super) fn instance() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns how the API server is read.
///
/// # Errors
/// Fails if a variable of SmartNat is not a number; the message names it.
pub(crate) fn api(arguments: &ApiArgs, seed: &Seed) -> Result<ApiOptions, Failure> {
    let (defaults, instance) = (Sources::default(), instance());
    let smartnat = arguments.smartnat_mappings.then(|| seed.mappings(&instance));
    let secrets = defaults.secrets.clone();
    let sources = Sources {
        namespace: arguments.kube_namespace.as_deref().map(Arc::from),
        secrets: arguments
            .kube_secrets
            .as_ref()
            .map_or_else(|| secrets.clone(), |how| how.reading(secrets.clone())),
        ingresses: arguments.kube_ingresses,
        load_balancers: arguments.kube_load_balancers,
        smartnat: smartnat.transpose()?.map(Arc::new),
        foreign_apis: arguments.foreign_hosted_apis,
        ..defaults
    };
    let cluster = arguments.cluster();
    let rate = arguments.status_rate.unwrap_or_else(|| WriterOptions::default().rate);
    let statuses = (rate > 0).then(|| WriterOptions {
        rate,
        lease: Some(lease(&instance, &cluster)),
        instance: Arc::from(instance),
        namespace: Arc::clone(&cluster.namespace),
        ..WriterOptions::default()
    });
    let (file, context) = (arguments.kubeconfig.clone(), arguments.kube_context.clone());
    let cache = match (&arguments.kube_cache, &arguments.kube_cache_key) {
        (Some(path), Some(key)) => Some(CacheOptions { path: path.clone(), key: key.clone() }),
        _ => None,
    };
    let (location, routing) = (Location::infer(file, context), None);
    Ok(ApiOptions { location, cluster, sources, routing, statuses, cache })
}

/// Time after which another process writes statuses in place of one that has ended without a word.
const LEASE: Duration = Duration::from_secs(10);

/// Returns the Lease whose holder writes statuses. A process that is started again is another one: the one before may be alive still.
fn lease(instance: &str, cluster: &Cluster) -> LeaseOptions {
    let mut random = [0; 4];
    // Without random bytes the process id has to do.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        random = std::process::id().to_ne_bytes();
    }
    let identity = format!("{instance}_{:08x}", u32::from_ne_bytes(random));
    LeaseOptions {
        name: Arc::from("durward-statuses"),
        namespace: Arc::clone(&cluster.namespace),
        identity: Arc::from(identity),
        duration: LEASE,
    }
}
