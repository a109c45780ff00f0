//! Follows the Ingresses and Services of a cluster, for an agent that serves them by its link.
//!
//! Nothing is written, and no Secret is read. Nothing is said before both kinds were read as a whole: of a part one would conclude that the rest is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use durward_control::foreign::objects::{Ingress, Service};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Clients;
use crate::health::Health;
use crate::object::{Metadata, ObjectName};
use crate::resource_type::{INGRESSES, ResourceType, SERVICES};
use crate::watch::{Reflector, Scope, Sink};

/// Longest pause between two attempts to watch.
const WATCH_PAUSE: Duration = Duration::from_secs(5);
const ABSENT: Duration = Duration::from_secs(30);

/// Ingresses and Services of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Ingresses.
    pub ingresses: BTreeMap<ObjectName, Arc<Ingress>>,
    /// Services.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// Addresses and host names at which Services of type `LoadBalancer` are reached.
    pub balanced: BTreeMap<ObjectName, Vec<String>>,
    listed: [bool; 2],
    /// Highest version of an object of each kind, where versions are numbers.
    observed: [u64; 2],
}

impl Objects {
    /// Returns the version of the cluster that this is of at least; 0 where versions are no numbers.
    #[must_use]
    pub fn observed(&self) -> u64 {
        self.observed.into_iter().max().unwrap_or(0)
    }
}

/// Watches at work in the current runtime; they stop when it is dropped.
pub struct IngressWatch {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    health: Arc<Health>,
    _tasks: JoinSet<()>,
}

struct Shared {
    objects: Mutex<Objects>,
    changes: watch::Sender<u64>,
}

impl IngressWatch {
    /// Starts to watch.
    #[must_use]
    pub fn start(clients: &Clients) -> Self {
        let (sender, changes) = watch::channel(0);
        let shared = Arc::new(Shared { objects: Mutex::default(), changes: sender });
        let health = Arc::<Health>::default();
        let mut tasks = JoinSet::new();
        for kind in Of::ALL {
            let sink = ObjectSink { shared: Arc::clone(&shared), of: kind };
            let scope = Scope::all(kind.resource());
            let watch = health.of(kind.resource());
            let reflector = Reflector::new(clients.watch.clone(), scope, sink, watch, ABSENT);
            tasks.spawn(reflector.retrying_within(WATCH_PAUSE).run());
        }
        Self { shared, changes, health, _tasks: tasks }
    }

    /// Waits for a change, the first time until everything was read.
    pub async fn changed(&mut self) {
        loop {
            // The sender lives as long as we do.
            drop(self.changes.changed().await);
            if self.shared.lock().listed == [true; 2] {
                return;
            }
        }
    }

    /// Returns a copy of what is known.
    #[must_use]
    pub fn objects(&self) -> Objects {
        self.shared.lock().clone()
    }

    /// Returns the state of the watches.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Objects) -> bool) {
        if change(&mut self.lock()) {
            self.changes.send_modify(|number| *number += 1);
        }
    }
}

#[derive(Clone, Copy)]
enum Of {
    Ingresses,
    Services,
}

impl Of {
    const ALL: [Self; 2] = [Self::Ingresses, Self::Services];

    fn resource(self) -> &'static ResourceType {
        match self {
            Self::Ingresses => &INGRESSES,
            Self::Services => &SERVICES,
        }
    }
}

struct ObjectSink {
    shared: Arc<Shared>,
    of: Of,
}

impl ObjectSink {
    fn observe(&self, version: &str) {
        if let Ok(version) = version.parse::<u64>() {
            let observed = &mut self.shared.lock().observed[self.of as usize];
            *observed = version.max(*observed);
        }
    }
}

impl Sink for ObjectSink {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let name = metadata.object_name();
        self.observe(&metadata.resource_version);
        match self.of {
            Of::Ingresses => {
                let ingress: Ingress = decode(json)?;
                self.shared.change(|objects| put(&mut objects.ingresses, name, ingress));
            }
            Of::Services => {
                let service: Service = decode(json)?;
                let status: WithStatus = decode(json)?;
                let balanced = status.addresses();
                self.shared.change(|objects| {
                    let before = objects.balanced.get(&name).cloned().unwrap_or_default();
                    let is_other = before != balanced;
                    objects.balanced.insert(name.clone(), balanced);
                    objects.balanced.retain(|_, addresses| !addresses.is_empty());
                    put(&mut objects.services, name, service) || is_other
                });
            }
        }
        Ok(true)
    }

    fn listing(&mut self) {
        // A server that was restored counts anew.
        self.shared.lock().observed[self.of as usize] = 0;
    }

    fn deleted(&mut self, name: &ObjectName, version: Option<&str>) {
        self.observe(version.unwrap_or_default());
        self.shared.change(|objects| match self.of {
            Of::Ingresses => objects.ingresses.remove(name).is_some(),
            Of::Services => {
                objects.balanced.remove(name);
                objects.services.remove(name).is_some()
            }
        });
    }

    fn listed(&mut self) {
        self.shared.change(|objects| {
            objects.listed[self.of as usize] = true;
            true
        });
    }
}

/// Puts an object in; returns whether it is another than before. Services are written often for reasons that do not matter here.
fn put<T: PartialEq>(
    objects: &mut BTreeMap<ObjectName, Arc<T>>,
    name: ObjectName,
    object: T,
) -> bool {
    if objects.get(&name).is_some_and(|known| **known == object) {
        return false;
    }
    objects.insert(name, Arc::new(object));
    true
}

fn decode<'j, T: Deserialize<'j>>(json: &'j str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct WithStatus {
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    load_balancer: Option<Balanced>,
}

#[derive(Deserialize)]
struct Balanced {
    #[serde(default)]
    ingress: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
}

impl WithStatus {
    fn addresses(self) -> Vec<String> {
        let balanced = self.status.and_then(|status| status.load_balancer);
        let addresses = balanced.and_then(|balanced| balanced.ingress).unwrap_or_default();
        let named = |at: Address| at.ip.or(at.hostname).filter(|text| !text.is_empty());
        addresses.into_iter().filter_map(named).collect()
    }
}
