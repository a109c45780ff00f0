//! `durward api-addons`: installs, upgrades and removes API proxies in the clusters of hosted API servers, until a termination signal.

mod admin;
mod objects;

use std::net::TcpListener;
use std::sync::Arc;

use durward_kube::addon::{AddonOptions, Addons, Material};
use durward_kube::{Clients, Limits, Location, Reach};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::sentence;
use crate::cli::{Admin, ApiAddons, LogFormat};
use crate::failure::{Exit, Failure};
use crate::telemetry;

/// Looks at Secrets after which everything is applied again, though nothing changed.
const RECHECK: u32 = 6;

/// Looks after tenant clusters until a signal arrives. What is installed stays.
pub(crate) fn api_addons(arguments: &ApiAddons, log: LogFormat) -> Result<Exit, Failure> {
    telemetry::start(log, "info,rustls=error");
    let objects = objects::Objects::new(&arguments.image)?;
    let admin = match arguments.admin {
        Admin::Off => None,
        Admin::At(address) => Some(TcpListener::bind(address).map_err(|error| {
            Failure::broken(format!("opening the admin listener at {address}"), error)
        })?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let ended = runtime.block_on(serve(arguments, objects, admin));
    // A look-up of a name may hang in a thread of the runtime.
    runtime.shutdown_background();
    ended
}

async fn serve(
    arguments: &ApiAddons,
    objects: objects::Objects,
    admin: Option<TcpListener>,
) -> Result<Exit, Failure> {
    let fault = |error| Failure::broken("listening for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    let location = Location::infer(arguments.kubeconfig.clone(), arguments.kube_context.clone());
    let clients = Clients::new(location, Limits::default()).await.map_err(|error| {
        let message = format!("cannot use the Kubernetes API: {}", sentence(&error));
        Failure::InvalidConfig { message }
    })?;
    let known = objects.known();
    let options = AddonOptions {
        namespace: arguments.kube_namespace.as_deref().map(Arc::from),
        render: Arc::new(move |material: &Material<'_>| objects.render(material)),
        known,
        resync: arguments.resync,
        longest_wait: arguments.longest_wait,
        at_once: arguments.at_once.into(),
        patience: arguments.patience,
        recheck: arguments.resync * RECHECK,
        reach: Arc::new(Reach::new(arguments.cluster_network.clone())),
    };
    let addons = Arc::new(Addons::start(&clients, options));
    let stopped = CancellationToken::new();
    if let Some(listener) = admin {
        admin::serve(listener, addons, stopped.clone())?;
    }
    tracing::info!(image = arguments.image, "looking after API proxies of tenant clusters");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stopped.cancel();
    tracing::info!("stopping: what is installed stays");
    Ok(Exit::Ok)
}
