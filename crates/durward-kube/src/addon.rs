//! Objects in tenant clusters: whoever hosts API servers applies and removes them through the kubeconfig of each, and says in the `HostedApi` what came of it.
//!
//! Each `HostedApi` has a task of its own, an attempt has a deadline, and the `HostedApi`s of one namespace have few places at once: a cluster that answers slowly delays those of
//! other namespaces by a bounded time. A cluster is connected to when something has to be applied there or was not looked at for long, and the connection is closed afterwards.

mod cluster;
mod failure;
mod follow;
mod kubeconfig;
mod management;
mod places;
mod routes;
mod target;
mod work;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use durward_control::spec::api_proxy::ApiProxyPlan;
use serde_json::Value;

pub use follow::{Addons, AddonsReport};
pub use kubeconfig::{KubeconfigFault, of_tenant};

use crate::client::Reach;

/// Field manager of everything that is written, in both clusters.
pub const MANAGER: &str = "durward-api-addons";
/// Finalizer of a `HostedApi` whose tenant cluster has objects of ours.
pub const FINALIZER: &str = "durward.dev/api-proxy";
/// Label of every object in a tenant cluster, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", MANAGER);
/// Annotation of every object in a tenant cluster: the uid of the `HostedApi` that it was installed for. Several may name one cluster.
pub const OWNER: &str = "durward.dev/hosted-api-uid";
/// Type of the condition that says what became of the installation.
pub const CONDITION: &str = "ProxyInstalled";
/// Type of the condition that says what became of the routes for other controllers.
pub const ROUTES_CONDITION: &str = "RoutesPublished";
/// Type of the condition that names clusters in which objects were left.
pub const ABANDONED_CONDITION: &str = "ClusterAbandoned";

/// Entries of a Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretEntries(pub BTreeMap<String, Vec<u8>>);

impl fmt::Debug for SecretEntries {
    /// Shows the keys only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What objects of a tenant cluster are made of.
#[derive(Debug)]
pub struct Material<'a> {
    /// What the `HostedApi` asks for.
    pub plan: &'a ApiProxyPlan,
    /// The Secret with the authority and client certificate of the proxies.
    pub certificate: SecretEntries,
    /// The Secret with the API server's certificate, if the plan has one.
    pub serving: Option<SecretEntries>,
}

/// Makes the objects of a tenant cluster, in the order in which they are applied.
///
/// # Errors
/// Fails, with a sentence for people, if a Secret lacks what is needed.
pub type Render = Arc<dyn Fn(&Material<'_>) -> Result<Vec<Value>, String> + Send + Sync>;

/// Settings of an installer.
#[derive(Clone)]
pub struct AddonOptions {
    /// Namespace whose `HostedApi`s are looked at; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// Makes the objects.
    pub render: Render,
    /// Every object that [`Self::render`] may make, in whatever mode: those that it does not make are removed if they are ours.
    pub known: Vec<Value>,
    /// Time between two looks at the Secrets of a `HostedApi`, and between two attempts once they have become rare.
    pub resync: Duration,
    /// Time after which a `HostedApi` that is being deleted no longer waits for a tenant cluster that does not answer.
    pub longest_wait: Duration,
    /// Tenant clusters that are worked on at once.
    pub at_once: usize,
    /// Time for one request to a tenant cluster. An attempt has six times as much.
    pub patience: Duration,
    /// Time after which everything is applied again where nothing changed, so that what was deleted there comes back.
    pub recheck: Duration,
    /// Addresses that the API servers of tenant clusters may have.
    pub reach: Arc<Reach>,
}
