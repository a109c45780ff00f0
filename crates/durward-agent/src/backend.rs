//! One stream of the gateway: judged, connected to its backend, and copied to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_link::session::LinkStream;
use durward_link::session::agent::{Declined, Opening};
use durward_link::{RouteSet, Target};
use tokio::net::TcpStream;

use crate::Settings;
use crate::policy::{Denied, Policy};
use crate::status::Status;

/// Bytes copied at once in each direction.
const COPY: usize = 16 * 1024;

/// Serves one stream to its end.
pub(crate) async fn serve(
    opening: Opening,
    settings: Arc<Settings>,
    routes: Arc<RouteSet>,
    status: Arc<Status>,
) {
    let target = opening.target().clone();
    let connected = connect(&settings, &routes, &target).await;
    let backend = match connected {
        Ok(backend) => backend,
        Err(declined) => {
            tracing::info!(%target, reason = %declined, "declined a stream");
            status.declined(&declined);
            return opening.decline(&declined);
        }
    };
    let Ok(stream) = opening.accept() else { return };
    let _counted = status.stream();
    let (sent, received) = copy(stream, backend).await;
    status.bytes(sent, received);
}

async fn connect(
    settings: &Settings,
    routes: &RouteSet,
    target: &Target,
) -> Result<TcpStream, Declined> {
    let forbidden = |denied: Denied| Declined::Forbidden(denied.to_string());
    if !routes.has(target) {
        return Err(forbidden(Denied::NotRegistered(target.clone())));
    }
    settings.policy.judge_name(target).map_err(forbidden)?;
    let known = settings.addresses.borrow().get(target).copied();
    let connecting = reach(&settings.policy, target, known);
    match tokio::time::timeout(settings.connect_timeout, connecting).await {
        Ok(reached) => reached,
        Err(_) => {
            let seconds = settings.connect_timeout.as_secs_f32();
            Err(Declined::Unreachable(format!("{target} does not answer within {seconds} s")))
        }
    }
}

/// Looks the target up unless its address is known, judges each address, and connects to the first that is allowed and answers.
async fn reach(
    policy: &Policy,
    target: &Target,
    known: Option<SocketAddr>,
) -> Result<TcpStream, Declined> {
    let unreachable = |error: io::Error| Declined::Unreachable(format!("{target}: {error}"));
    let addresses: Vec<SocketAddr> = match known {
        Some(known) => vec![known],
        None => {
            let found = tokio::net::lookup_host((target.host(), target.port())).await;
            found.map_err(unreachable)?.collect()
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

/// Copies both ways; returns the bytes to the backend and from it. Each direction ends by itself. Where one breaks, both ends see a reset.
async fn copy(mut stream: LinkStream, mut backend: TcpStream) -> (u64, u64) {
    let copying = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut backend, COPY, COPY);
    match copying.await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::debug!(%error, "a stream broke");
            stream.reset();
            let _ = socket2::SockRef::from(&backend).set_linger(Some(Duration::ZERO));
            (0, 0)
        }
    }
}
