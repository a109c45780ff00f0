//! One stream of the gateway: judged, connected to its backend, and copied to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_link::session::agent::{Declined, Opening};
use durward_link::{RouteSet, Target};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::Settings;
use crate::lookup::Lookups;
use crate::policy::{Denied, Policy};
use crate::relay;
use crate::status::Status;

/// Serves one stream until it ends, or its target is no route any more.
pub(crate) async fn serve(
    mut opening: Opening,
    settings: Arc<Settings>,
    mut routes: watch::Receiver<Arc<RouteSet>>,
    (lookups, status): (Arc<Lookups>, Arc<Status>),
) {
    let target = opening.target().clone();
    let present = Arc::clone(&routes.borrow_and_update());
    let connected = tokio::select! {
        connected = connect(&settings, &present, &lookups, &target) => connected,
        // The gateway waits no longer. A backend that does not answer must not pile up attempts.
        () = opening.given_up() => return,
    };
    drop(present);
    let mut backend = match connected {
        Ok(backend) => backend,
        Err(declined) => {
            tracing::info!(%target, reason = %declined, "declined a stream");
            status.declined(&declined);
            return opening.decline(&declined);
        }
    };
    let Ok(mut stream) = opening.accept() else { return };
    let _counted = status.stream();
    let (sent, received) = tokio::select! {
        copied = relay::copy(&mut stream, &mut backend) => copied,
        () = removed(&mut routes, &lookups, &target) => {
            tracing::info!(%target, "a stream is reset: its target is no route any more");
            relay::reset(&mut stream, &backend);
            (0, 0)
        }
    };
    status.bytes(sent, received);
}

/// Completes when no route has the target any more.
async fn removed(routes: &mut watch::Receiver<Arc<RouteSet>>, lookups: &Lookups, target: &Target) {
    while lookups.is_target(&routes.borrow_and_update(), target) {
        if routes.changed().await.is_err() {
            // The agent ends: its streams may finish.
            return std::future::pending().await;
        }
    }
}

async fn connect(
    settings: &Settings,
    routes: &Arc<RouteSet>,
    lookups: &Lookups,
    target: &Target,
) -> Result<TcpStream, Declined> {
    let forbidden = |denied: Denied| Declined::Forbidden(denied.to_string());
    if !lookups.is_target(routes, target) {
        return Err(forbidden(Denied::NotRegistered(target.clone())));
    }
    settings.policy.judge_name(target).map_err(forbidden)?;
    let known = settings.addresses.borrow().get(target).copied();
    let connecting = reach(&settings.policy, lookups, target, known);
    match tokio::time::timeout(settings.connect_timeout, connecting).await {
        Ok(reached) => reached,
        Err(_) => {
            let seconds = settings.connect_timeout.as_secs_f32();
            Err(Declined::Unreachable(format!("{target} does not answer within {seconds} s")))
        }
    }
}

/// Connects to a target as for a stream, and returns the address that answered.
pub(crate) async fn probe(
    settings: &Settings,
    routes: &RouteSet,
    lookups: &Lookups,
    target: &Target,
) -> Result<SocketAddr, Declined> {
    let connected = connect(settings, &Arc::new(routes.clone()), lookups, target).await?;
    let peer = connected.peer_addr();
    peer.map_err(|error| Declined::Unreachable(format!("{target}: {error}")))
}

/// Looks the target up unless its address is known, judges each address, and connects to the first that is allowed and answers.
async fn reach(
    policy: &Policy,
    lookups: &Lookups,
    target: &Target,
    known: Option<SocketAddr>,
) -> Result<TcpStream, Declined> {
    let unreachable = |error: io::Error| Declined::Unreachable(format!("{target}: {error}"));
    let addresses: Vec<SocketAddr> = match known {
        Some(known) => vec![known],
        None => {
            let found = lookups.find(target.host()).await.map_err(unreachable)?;
            found.iter().map(|ip| SocketAddr::new(*ip, target.port())).collect()
        }
    };
    let (mut denied, mut failed) = (None, None);
    for address in addresses {
        if let Err(why) = policy.judge(address) {
            denied = Some(why);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failed = Some(error),
        }
    }
    match (failed, denied) {
        (Some(error), _) => Err(unreachable(error)),
        (None, Some(denied)) => Err(Declined::Forbidden(denied.to_string())),
        (None, None) => Err(Declined::Unreachable(format!("{target} has no address"))),
    }
}
