//! `durward run`: serves a configuration until a termination signal.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use durward_acme::schedule::Pace;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::app::cluster::{self, ApiOptions, Reader, SocketOptions};
use crate::app::local_socket::Peers;
use crate::app::{self, Logs, Settings, acme};
use crate::cli::{AccessLog, Admin, LogFormat, Run, Seed};
use crate::failure::{Exit, Failure};
use crate::{config, handover, telemetry};

/// Default address of the admin listener.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9440);

/// Time for which a start waits for the Kubernetes API.
const API_PATIENCE: Duration = Duration::from_secs(15);

/// Serves the configuration.
pub(crate) fn run(arguments: &Run, log: LogFormat) -> Result<Exit, Failure> {
    let seed = Seed::environment();
    // `rustls=error`, because rustls logs a warning per odd handshake, and clients can send any number of those.
    telemetry::start(log, if seed.debug() { "debug,rustls=error" } else { "info,rustls=error" });
    let admin = match arguments.admin {
        Some(admin) => admin,
        None => Admin::At(seed.monitor()?.unwrap_or(DEFAULT_ADMIN)),
    };
    let cluster = cluster(arguments, &seed)?;
    let paths = match cluster {
        Some(_) => config::paths_if_any(&arguments.config)?,
        None => config::paths(&arguments.config)?,
    };
    let inherited = handover::inherit()
        .map_err(|error| Failure::broken("taking over from the older process", error))?;
    let settings = Settings {
        paths,
        routing: config::routing(&arguments.config),
        files_roots: arguments.config.files_root.clone(),
        workers: arguments.workers,
        logs: Logs {
            access: arguments.access_log.clone(),
            decisions: arguments.decision_log.clone(),
            audit: arguments.audit_log.clone(),
            audit_sync: arguments.audit_sync,
        },
        memory: arguments.memory,
        drain_grace: arguments.drain_grace,
        drain_delay: arguments.drain_delay,
        watch: !arguments.no_watch,
        strict: arguments.strict,
        state_dir: config::state_dir(&arguments.config),
        handed: inherited.handed,
        sockets: inherited.sockets,
        shared: arguments.share_addresses,
        direct_networks: arguments.direct_networks.clone(),
        nat: arguments.nat.options()?,
        acme: acme(arguments)?,
        cluster,
    };
    if arguments.access_log == AccessLog::Stdout && std::io::stdout().is_terminal() {
        tracing::info!(
            "access log lines go to standard output; --access-log off or PATH moves them"
        );
    }
    app::run(settings, admin, inherited.older)
}

/// Returns the options of Kubernetes as a source; `None` if it is none.
fn cluster(run: &Run, seed: &Seed) -> Result<Option<cluster::Options>, Failure> {
    let arguments = &run.kubernetes;
    let is_one_process = arguments.kubernetes;
    if let Some(option) = arguments.api.given().filter(|_| !is_one_process) {
        return Err(Failure::usage(format!("{option} is for --kubernetes and `durward kube`")));
    }
    if arguments.routing.kube_routing.is_some()
        && !is_one_process
        && arguments.kube_socket.is_none()
    {
        let message = "--kube-routing is for --kubernetes and --kube-socket".to_owned();
        return Err(Failure::usage(message));
    }
    let reader = match &arguments.kube_socket {
        Some(path) => {
            let (path, peers) = (path.clone(), Peers { other: arguments.kube_peer });
            let namespace = arguments.api.cluster().namespace;
            Reader::Socket(SocketOptions { path, peers, routing: routing(run, &namespace) })
        }
        None if is_one_process => Reader::Api(Box::new(api(run, seed)?)),
        None => return Ok(None),
    };
    let (cluster, patience) = (arguments.api.cluster(), API_PATIENCE);
    Ok(Some(cluster::Options { cluster, reader, patience }))
}

/// Returns how a gateway reads the API server itself.
fn api(run: &Run, seed: &Seed) -> Result<ApiOptions, Failure> {
    let arguments = &run.kubernetes;
    let api = super::kube::api(&arguments.api, seed)?;
    let routing = routing(run, &api.cluster.namespace);
    Ok(ApiOptions { routing, ..api })
}

/// Returns the `ConfigMap` with a `routing.json`, if there is one.
fn routing(run: &Run, namespace: &Arc<str>) -> Option<cluster::Routing> {
    let name = run.kubernetes.routing.kube_routing.as_ref()?;
    Some(cluster::Routing::new(namespace, name, config::routing(&run.config)))
}

/// Returns the options of certificates by ACME; `None` without a state directory.
fn acme(arguments: &Run) -> Result<Option<acme::Options>, Failure> {
    let Some(issuance) = config::issuance(&arguments.config) else { return Ok(None) };
    let roots = match &arguments.acme.ca {
        Some(file) => authorities(file)?,
        // Faults of single files show where the authority cannot be verified.
        None => rustls_native_certs::load_native_certs().certs,
    };
    let orders_per_hour = arguments.acme.orders_per_hour;
    let (roots, pace) = (Arc::new(roots), Pace::default());
    Ok(Some(acme::Options { issuance, roots, orders_per_hour, pace }))
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable = |why: &dyn std::fmt::Display| {
        let message = format!("cannot use --acme-ca {}: {why}", file.display());
        Failure::InvalidConfig { message }
    };
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unusable(&error))?;
    let certificates =
        certificates.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(&error))?;
    if certificates.is_empty() {
        return Err(unusable(&"it holds no certificate"));
    }
    Ok(certificates)
}
