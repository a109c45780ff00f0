//! The agent in a private cluster: it dials out to a gateway, and connects the streams that the gateway opens to the cluster's backends.
//!
//! Nothing is listened on, and nothing is connected to that the agent's own configuration, or an Ingress that it may serve, does not name. Deliberately absent: watching an
//! API server; [`ingress`] reads objects that are given.

mod backend;
mod carriers;
pub mod cluster;
pub mod config;
mod datagrams;
mod identity;
pub mod ingress;
mod lookup;
pub mod memory;
pub mod out;
pub mod policy;
pub mod proof;
mod relay;
pub mod status;
pub mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use durward_link::carrier::{Dialler, GatewayUrl};
use durward_link::control::{ClusterState, Token};
use durward_link::{Bounds, Kind, RouteSet, Target};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use memory::Memory;
use policy::Policy;
use status::Status;

/// Settings of a running agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the link within its tenant; empty for the only one that the token or certificate is for.
    pub link: String,
    /// Addresses of the gateway, in the order in which they are tried.
    pub gateways: Vec<GatewayUrl>,
    /// True to keep carriers to all of them, as replicas; false for the first that takes the agent.
    pub every_gateway: bool,
    /// Dials them.
    pub dialler: Dialler,
    /// Token that stands for a client certificate.
    pub token: Option<TokenSource>,
    /// Files of token, certificate and key: an agent that waits dials at once when one of them changes.
    pub credentials: Vec<PathBuf>,
    /// Told when the host's network changes: an agent that waits dials at once.
    pub retry: Arc<Notify>,
    /// Addresses of targets that are not looked up.
    pub addresses: watch::Receiver<Arc<Addresses>>,
    /// Services that the gateway may ask for beside the targets of routes.
    pub services: watch::Receiver<Arc<Services>>,
    /// State of the cluster that the gateway is told; `None` where none is known.
    pub cluster: watch::Receiver<Option<ClusterState>>,
    /// Keys of the proofs that gateways ask for.
    pub proofs: Arc<proof::Proofs>,
    /// Streams for the cluster's own traffic; `None` where it does not leave by the link.
    pub exits: Option<Arc<out::Exits>>,
    /// Targets that may be connected to.
    pub policy: Policy,
    /// Bounds of a carrier.
    pub bounds: Bounds,
    /// Memory of all streams.
    pub memory: Arc<Memory>,
    /// Data carriers at most, whatever the gateway wants.
    pub most_carriers: u32,
    /// Time in which a backend must be connected.
    pub connect_timeout: Duration,
    /// Time that streams have to finish when the agent ends.
    pub grace: Duration,
}

/// Addresses of targets, where their names are not looked up.
pub type Addresses = BTreeMap<Target, SocketAddr>;

/// TCP and UDP services, each with the kind of streams that it takes.
pub type Services = BTreeSet<(Kind, Target)>;

/// Place of a token.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// The token itself, from the environment.
    Given(Token),
    /// A file, which is read for each carrier, so that a token can be replaced.
    File(PathBuf),
}

impl TokenSource {
    /// Reads the token.
    ///
    /// # Errors
    /// Fails with a phrase if the file cannot be read or holds no token.
    pub fn read(&self) -> Result<Token, String> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
                let token = config::token(&text);
                token.ok_or_else(|| format!("{}: holds no token of one line", path.display()))
            }
        }
    }
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
