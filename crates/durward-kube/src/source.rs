//! The API server as a source: the watches of all kinds, and what they saw as one stream of changes.
//!
//! The caller says what documents refer to ([`Source::want`]); only that is read of Secrets, ConfigMaps and Services. Nothing is handed out before every kind of document was
//! read once, so that a start does not take tenants for gone that it has not read yet.

mod documents;
mod grants;
mod ingresses;
mod named;
mod references;
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use durward_control::reference::Reference;
use durward_model::Kind;
use tokio::task::JoinSet;

use crate::client::Clients;
use crate::health::{Health, WatchHealth};
use crate::load_balancers::LoadBalancer;
use crate::object::ObjectName;
use crate::pace::Gather;
use crate::resource_type::{
    CONFIG_MAPS, EGRESS_POLICIES, ENDPOINT_SLICES, HOSTED_APIS, INGRESS_CLASSES,
    INGRESS_ROUTE_TCPS, INGRESSES, KAMAJI_CONTROL_PLANES, MAPPINGS, NAMESPACES, PORT_MAPPINGS,
    REFERENCE_GRANTS, ResourceType, SECRETS, SERVICES, STEWARD_CONTROL_PLANES, TENANTS, TLS_ROUTES,
};
use crate::smartnat;
use crate::source::documents::{Documents, ForeignApis, Mappings, Namespaces};
use crate::source::grants::Grants;
use crate::source::ingresses::{Classes, Ingresses};
use crate::source::named::{Asked, Named};
use crate::source::references::Sorted;
use crate::source::services::ServiceWatches;
use crate::watch::{Reflector, Scope};

pub use crate::pace::Observed;
pub use named::NamedReport;

/// Which objects are read, and how.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Namespace that namespaced documents and Services are read from; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// Way in which Secrets are read.
    pub secrets: Reading,
    /// Way in which `ConfigMap`s are read.
    pub config_maps: Reading,
    /// True if Services of type `LoadBalancer` of our class are looked at.
    pub load_balancers: bool,
    /// True if Ingresses of our classes are read.
    pub ingresses: bool,
    /// Settings for SmartNat's Mappings; `None` if they are not read.
    pub smartnat: Option<Arc<smartnat::Options>>,
    /// Whether objects of other controllers are read that name hosted API servers.
    pub foreign_apis: bool,
    /// Longest pause between two looks for a kind that is not installed.
    pub absent_pause: Duration,
}

/// A thing that is referred to.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The reference.
    pub reference: &'a Reference,
    /// The tenant whose document it is in; `None` where that is not known.
    pub tenant: Option<Arc<str>>,
}

impl<'a> From<&'a Reference> for Wanted<'a> {
    fn from(reference: &'a Reference) -> Self {
        Self { reference, tenant: None }
    }
}

/// Way of reading the objects that documents name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Each by its name, which needs no right on any other.
    ByName {
        /// Objects that are watched, if the connections carry as many. Those beyond that number are read from time to time.
        watches: usize,
    },
    /// All in one namespace, by one watch.
    Namespace(Arc<str>),
    /// All of the cluster, by one watch. Whoever holds the process's token can then read every one of them.
    Cluster,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            namespace: None,
            secrets: Reading::ByName { watches: 200 },
            config_maps: Reading::ByName { watches: 50 },
            load_balancers: false,
            ingresses: false,
            smartnat: None,
            foreign_apis: false,
            absent_pause: Duration::from_secs(10),
        }
    }
}

/// The objects of an API server, followed until this is dropped.
pub struct Source {
    gather: Arc<Gather>,
    health: Arc<Health>,
    services: ServiceWatches,
    secrets: Named,
    config_maps: Named,
    /// Secrets and `ConfigMap`s that are referred to.
    named: [Asked; 2],
    namespaces: Namespaces,
    grants: Grants,
    /// True once grants are watched.
    grants_begun: bool,
    client: kube::Client,
    absent_pause: Duration,
    /// Watches of documents and namespaces, which a start waits for.
    first: Vec<Arc<WatchHealth>>,
    /// True once these have read everything.
    has_begun: AtomicBool,
    tasks: JoinSet<()>,
}

impl Source {
    /// Starts to follow. Called within a runtime.
    #[must_use]
    pub fn start(clients: &Clients, sources: &Sources) -> Self {
        let client = &clients.watch;
        if sources.secrets == Reading::Cluster {
            tracing::warn!(
                "all Secrets of the cluster are read: whoever takes over this process can read them, too; name them or give them a namespace of their own"
            );
        }
        let gather = Arc::new(Gather::default());
        let health = Arc::new(Health::default());
        let namespaces = Namespaces::new(Arc::clone(&gather), sources.namespace.clone());
        let (mut tasks, mut first) = (JoinSet::new(), Vec::new());
        for (kind, resource) in DOCUMENTS {
            let scope = Scope { namespace: sources.namespace.clone(), ..Scope::all(resource) };
            let sink = Documents::new(*kind, resource, Arc::clone(&gather));
            let watch = health.of_start(resource);
            first.push(Arc::clone(&watch));
            let reflector =
                Reflector::new(client.clone(), scope, sink, watch, sources.absent_pause);
            tasks.spawn(reflector.run());
        }
        if let Some(options) = &sources.smartnat {
            let scope = Scope { namespace: sources.namespace.clone(), ..Scope::all(&MAPPINGS) };
            let sink = Mappings::new(Arc::clone(options), Arc::clone(&gather));
            let watch = health.of_start(&MAPPINGS);
            first.push(Arc::clone(&watch));
            let reflector =
                Reflector::new(client.clone(), scope, sink, watch, sources.absent_pause);
            tasks.spawn(reflector.run());
        }
        if sources.ingresses {
            begin_ingresses(client, sources, (&gather, &health), &mut tasks);
        }
        for reflector in foreign_apis(client, sources, &gather, &health) {
            tasks.spawn(reflector.run());
        }
        // Where one namespace is served, no right on any other is needed.
        let scope = Scope { name: sources.namespace.clone(), ..Scope::all(&NAMESPACES) };
        let watch = health.of_start(&NAMESPACES);
        first.push(Arc::clone(&watch));
        let reflector =
            Reflector::new(client.clone(), scope, namespaces.clone(), watch, sources.absent_pause);
        tasks.spawn(reflector.run());
        let grants = Grants::new(Arc::clone(&gather));
        let named = |kind, reading: &Reading| {
            Named::new(clients, kind, reading.clone(), Arc::clone(&gather), &health)
        };
        Self {
            services: ServiceWatches::new(client.clone(), sources, &gather, &health),
            secrets: named(&SECRETS, &sources.secrets),
            config_maps: named(&CONFIG_MAPS, &sources.config_maps),
            named: [Asked::new(), Asked::new()],
            namespaces,
            grants,
            grants_begun: false,
            client: client.clone(),
            absent_pause: sources.absent_pause,
            gather,
            health,
            first,
            has_begun: AtomicBool::new(false),
            tasks,
        }
    }

    /// Replaces what documents refer to. References that no API server can answer are left to others. Where a reference comes with the tenant whose document it is in, no tenant
    /// takes all the watches of single objects.
    pub fn want<'a>(&mut self, references: impl IntoIterator<Item = impl Into<Wanted<'a>>>) {
        self.named = [Asked::new(), Asked::new()];
        let sorted = Sorted::of(references.into_iter().map(Into::into), &mut self.named);
        self.services.want(&sorted.services);
        self.secrets.want(&self.named[0]);
        self.config_maps.want(&self.named[1]);
        self.namespaces.want(sorted.namespaces);
        if !sorted.granted.is_empty() {
            self.begin_grants();
        }
        self.grants.want(&sorted.granted);
    }

    /// Adds to what documents refer to. Unlike [`Self::want`] it costs what is added, and not what there is; only of Secrets and `ConfigMap`s all are shared out anew if any is added.
    pub fn want_more<'a>(&mut self, references: impl IntoIterator<Item = impl Into<Wanted<'a>>>) {
        let before = self.named.each_ref().map(BTreeMap::len);
        let sorted = Sorted::of(references.into_iter().map(Into::into), &mut self.named);
        self.services.want_more(&sorted.services);
        if self.named[0].len() > before[0] {
            self.secrets.want(&self.named[0]);
        }
        if self.named[1].len() > before[1] {
            self.config_maps.want(&self.named[1]);
        }
        self.namespaces.want_more(sorted.namespaces);
        if !sorted.granted.is_empty() {
            self.begin_grants();
            self.grants.want_more(&sorted.granted);
        }
    }

    fn begin_grants(&mut self) {
        if std::mem::replace(&mut self.grants_begun, true) {
            return;
        }
        // A grant is in the namespace of what it grants, which may be any.
        let (scope, grants) = (Scope::all(&REFERENCE_GRANTS), self.grants.clone());
        let watch = self.health.of(&REFERENCE_GRANTS);
        let reflector =
            Reflector::new(self.client.clone(), scope, grants, watch, self.absent_pause);
        self.tasks.spawn(reflector.run());
    }

    /// Waits for the next change; the first one may be empty. Cancelling the wait loses nothing.
    pub async fn next(&self) -> Observed {
        // A kind that is not ours and cannot be read keeps nobody's tenants out: it is waited for briefly, as is_synced does.
        let foreign = || {
            let apis = FOREIGN_APIS.iter().map(|(_, kind)| *kind);
            apis.chain([&INGRESSES, &INGRESS_CLASSES])
        };
        let is_read = || {
            self.first.iter().all(|watch| watch.is_synced())
                && foreign().all(|kind| self.health.is_ready(kind))
        };
        while !is_read() {
            // A start, and nothing else, waits here; a watch that goes down later stays synced.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A start hears that everything was read, also where there is nothing.
        if !self.has_begun.swap(true, Relaxed) {
            self.gather.wake();
        }
        self.gather.next().await
    }

    /// Returns how many references have no fact yet. A start that has rejected nothing for want of facts waits until there is none.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.services.waiting()
            + self.secrets.waiting()
            + self.config_maps.waiting()
            + self.namespaces.waiting()
            + self.grants.waiting()
    }

    /// Returns whether a kind that documents refer to is being read for the first time. One that cannot be read, or not in time, is not waited for.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        let kinds = [&SERVICES, &ENDPOINT_SLICES, &REFERENCE_GRANTS, &SECRETS, &CONFIG_MAPS];
        kinds.into_iter().any(|kind| !self.health.is_ready(kind))
    }

    /// Returns the Services of type `LoadBalancer` of our class, as they are now.
    #[must_use]
    pub fn load_balancers(&self) -> Vec<Arc<LoadBalancer>> {
        self.services.load_balancers()
    }

    /// Returns the address that a Service has in the cluster, if a document refers to it and it was read: `None` in the API's words for a headless one.
    #[must_use]
    pub fn cluster_ip(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        self.services.cluster_ip(&ObjectName::new(namespace, name))
    }

    /// Returns the state of the watches.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Returns the state of the reading of Secrets, and of `ConfigMap`s.
    #[must_use]
    pub fn named(&self) -> [NamedReport; 2] {
        [self.secrets.report(), self.config_maps.report()]
    }
}

/// Starts to follow Ingresses and their classes, and returns the watches that a start waits for.
fn begin_ingresses(
    client: &kube::Client,
    sources: &Sources,
    (gather, health): (&Arc<Gather>, &Arc<Health>),
    tasks: &mut JoinSet<()>,
) {
    let sink = Ingresses::new(Arc::clone(gather));
    let scope = Scope { namespace: sources.namespace.clone(), ..Scope::all(&INGRESSES) };
    let (objects, classes) = (health.of(&INGRESSES), health.of(&INGRESS_CLASSES));
    let pause = sources.absent_pause;
    let reflector = Reflector::new(client.clone(), scope, sink.clone(), objects, pause);
    tasks.spawn(reflector.run());
    let (scope, sink) = (Scope::all(&INGRESS_CLASSES), Classes(sink));
    let reflector = Reflector::new(client.clone(), scope, sink, classes, pause);
    tasks.spawn(reflector.run());
}

/// Returns the watches of kinds of other controllers that name hosted API servers, if these are read.
fn foreign_apis(
    client: &kube::Client,
    sources: &Sources,
    gather: &Arc<Gather>,
    health: &Health,
) -> impl Iterator<Item = Reflector<ForeignApis>> {
    let read = FOREIGN_APIS.iter().filter(move |_| sources.foreign_apis);
    read.map(move |(kind, resource)| {
        let scope = Scope { namespace: sources.namespace.clone(), ..Scope::all(resource) };
        let sink = ForeignApis::new(*kind, resource, Arc::clone(gather));
        let (watch, pause) = (health.of(resource), sources.absent_pause);
        Reflector::new(client.clone(), scope, sink, watch, pause)
    })
}

/// The kinds that are documents.
const DOCUMENTS: &[(Kind, &ResourceType)] = &[
    (Kind::Tenant, &TENANTS),
    (Kind::PortMapping, &PORT_MAPPINGS),
    (Kind::HostedApi, &HOSTED_APIS),
    (Kind::EgressPolicy, &EGRESS_POLICIES),
];

/// The kinds of other controllers that name hosted API servers.
const FOREIGN_APIS: &[(Kind, &ResourceType)] = &[
    (Kind::KamajiControlPlane, &KAMAJI_CONTROL_PLANES),
    (Kind::StewardControlPlane, &STEWARD_CONTROL_PLANES),
    (Kind::IngressRouteTcp, &INGRESS_ROUTE_TCPS),
    (Kind::TlsRoute, &TLS_ROUTES),
];
