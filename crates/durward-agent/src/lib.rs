//! The agent in a private cluster: it dials out to a gateway, and connects the streams that the gateway opens to the cluster's backends.
//!
//! Nothing is listened on, and nothing is connected to that the agent's own configuration does not name. Deliberately absent: Kubernetes; routes come from
//! a file.

mod backend;
mod carriers;
pub mod config;
mod identity;
mod lookup;
pub mod policy;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use durward_link::carrier::{Dialler, GatewayUrl};
use durward_link::{Bounds, RouteSet};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use policy::Policy;
use status::Status;

/// Settings of a running agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the link within its tenant.
    pub link: String,
    /// Addresses of the gateway, in the order in which they are tried.
    pub gateways: Vec<GatewayUrl>,
    /// Dials them.
    pub dialler: Dialler,
    /// Targets that may be connected to.
    pub policy: Policy,
    /// Bounds of a carrier.
    pub bounds: Bounds,
    /// Data carriers at most, whatever the gateway wants.
    pub most_carriers: u32,
    /// Time in which a backend must be connected.
    pub connect_timeout: Duration,
    /// Time that streams have to finish when the agent ends.
    pub grace: Duration,
}

/// Runs an agent until `stopped`, and then until its last stream has ended or the grace is over.
///
/// Routes may change while it runs. A gateway that is away is dialled again and again.
pub async fn run(
    settings: Settings,
    routes: watch::Receiver<Arc<RouteSet>>,
    status: Arc<Status>,
    stopped: CancellationToken,
) {
    carriers::keep(Arc::new(settings), routes, status, stopped).await;
}
