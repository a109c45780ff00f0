//! State of the double: its objects, the kinds that it serves, and its version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::failure::Failure;
use super::kind::{self, GroupResource, Kind, Version};
use super::request::Target;
use super::store::{Key, Store, Stored};

/// Everything that requests read and write, behind one lock.
pub(crate) struct State {
    pub(crate) store: Store,
    kinds: BTreeMap<GroupResource, Arc<Kind>>,
    /// Rests of lists whose next page may be asked for, by number.
    pub(crate) pages: BTreeMap<u64, Vec<Arc<Stored>>>,
    /// Minor version of the server.
    pub(crate) minor: u32,
    /// Deletes what has lost its owner or its namespace, as the controller manager does.
    pub(crate) controllers: bool,
    /// Lead of the server's clock before this host's.
    pub(crate) clock_ahead: SignedDuration,
    last_uid: u64,
    /// Number of this server among those of the process: no two have an object with one UID.
    instance: u64,
}

/// Servers of this process.
static INSTANCES: AtomicU64 = AtomicU64::new(0);

/// Resource type that a request names, in one version.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) kind: Arc<Kind>,
    pub(crate) version: Version,
    pub(crate) target: Target,
}

impl Place {
    pub(crate) fn resource(&self) -> &GroupResource {
        &self.kind.resource
    }

    pub(crate) fn api_version(&self) -> String {
        self.kind.api_version(&self.version.name)
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(&self.target.namespace, &self.target.name)
    }
}

impl State {
    pub(crate) fn new(minor: u32, history: usize) -> Self {
        let kinds = kind::built_in().into_iter();
        let kinds = kinds.map(|kind| (kind.resource.clone(), Arc::new(kind)));
        Self {
            store: Store::new(history),
            kinds: kinds.collect(),
            pages: BTreeMap::new(),
            minor,
            controllers: true,
            clock_ahead: SignedDuration::ZERO,
            last_uid: 0,
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Kinds that this version of the server has.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values().filter(|kind| kind.is_served_by(self.minor))
    }

    pub(crate) fn kind(&self, resource: &GroupResource) -> Option<&Arc<Kind>> {
        self.kinds.get(resource).filter(|kind| kind.is_served_by(self.minor))
    }

    /// Adds or replaces a custom kind.
    pub(crate) fn define(&mut self, kind: Kind) {
        self.kinds.insert(kind.resource.clone(), Arc::new(kind));
    }

    pub(crate) fn undefine(&mut self, resource: &GroupResource) {
        self.kinds.remove(resource);
    }

    /// Finds the resource type of a path.
    ///
    /// # Errors
    /// If there is none in this version, or it is not in a namespace and the path is, or the other way round.
    pub(crate) fn place(&self, target: &Target) -> Result<Place, Failure> {
        let kind = self.kind(&target.resource).ok_or_else(Failure::no_such_path)?;
        let version = kind.version(&target.version).filter(|version| version.served);
        let version = version.ok_or_else(Failure::no_such_path)?;
        let is_one = !target.name.is_empty();
        let fits = match (kind.namespaced, target.namespace.is_empty()) {
            (true, true) => !is_one,
            (false, false) => false,
            _ => true,
        };
        if !fits {
            return Err(Failure::no_such_path());
        }
        Ok(Place { kind: Arc::clone(kind), version: version.clone(), target: target.clone() })
    }

    /// Returns an object with `apiVersion` and `kind` of a version.
    pub(crate) fn object(&self, place: &Place, key: &Key) -> Option<Value> {
        let stored = self.store.get(place.resource(), key)?;
        Some(typed(stored.value(), &place.kind, &place.version.name))
    }

    /// Time of the server.
    pub(crate) fn time(&self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_add(self.clock_ahead).unwrap_or(now)
    }

    /// Time of the server in whole seconds, RFC 3339.
    pub(crate) fn now(&self) -> String {
        seconds(self.time())
    }

    pub(crate) fn next_uid(&mut self) -> String {
        self.last_uid += 1;
        // Spread over the bits, so that UIDs do not sort by age.
        let mixed = (self.last_uid ^ self.instance << 24 ^ u64::from(std::process::id()) << 40)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (high, low) = (mixed >> 32, self.last_uid & 0xffff_ffff_ffff);
        format!("{high:08x}-{:04x}-4000-8000-{low:012x}", mixed & 0xffff)
    }
}

/// Formats a time in whole seconds, RFC 3339.
pub(crate) fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// Adds `apiVersion` and `kind` to a stored object.
pub(crate) fn typed(mut object: Value, kind: &Kind, version: &str) -> Value {
    object["apiVersion"] = kind.api_version(version).into();
    object["kind"] = kind.kind.as_str().into();
    object
}
