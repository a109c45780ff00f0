//! Services that documents refer to, with their slices. All others are let go as soon as their name is read.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_control::change::Fact;
use durward_control::reference::Reference;

use super::{Service, Slice, fact, service_of};
use crate::load_balancers::LoadBalancer;
use crate::object::{Metadata, ObjectName};
use crate::pace::Gather;
use crate::watch::{Sink, is_later};

/// The Services that are referred to.
#[derive(Clone)]
pub(crate) struct Index(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    gather: Arc<Gather>,
    /// True if Services of type `LoadBalancer` of our class are kept.
    balances: bool,
    /// The only namespace that is read, if there is only one.
    namespace: Option<Arc<str>>,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<ObjectName, Wanted>,
    /// The Service of each slice that is kept.
    owners: BTreeMap<ObjectName, ObjectName>,
    balanced: BTreeMap<ObjectName, Arc<LoadBalancer>>,
    services_listed: bool,
    slices_listed: bool,
    /// True once the watches have begun: what they passed by since then has to be read by itself.
    has_begun: bool,
    /// Readings that were asked for so far.
    readings: u64,
}

/// Service that a document refers to.
#[derive(Default)]
struct Wanted {
    /// The ports that are referred to, and what was last said of each.
    ports: BTreeMap<Arc<str>, Option<Fact>>,
    service: Option<Service>,
    slices: BTreeMap<Arc<str>, Slice>,
    /// It is being read by itself, because the watches may have seen it before anybody asked.
    reading: Option<Reading>,
}

/// Events that the watches delivered for a Service while it is read by itself.
struct Reading {
    /// Number: an answer to an earlier question about the same Service does not count.
    number: u64,
    /// Versions of what they saw, the Service itself under the empty name.
    versions: BTreeMap<Arc<str>, Arc<str>>,
}

/// A Service that has to be read by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) name: ObjectName,
    number: u64,
}

/// Result of reading a Service by itself.
pub(crate) struct ReadService {
    /// The Service and its version; `None` if there is none.
    pub(crate) service: Option<(Service, Arc<str>)>,
    /// Slices by name, with their versions.
    pub(crate) slices: Vec<(Arc<str>, Slice, Arc<str>)>,
}

impl Index {
    /// Builds an index of Services of all namespaces, or of one alone. `balances` says whether Services of type `LoadBalancer` of our class are kept; then the watches begin at once.
    pub(crate) fn new(gather: Arc<Gather>, namespace: Option<Arc<str>>, balances: bool) -> Self {
        let state = State { has_begun: balances, ..State::default() };
        Self(Arc::new(Shared { state: Mutex::new(state), gather, balances, namespace }))
    }

    /// Returns the Services of type `LoadBalancer` of our class.
    pub(crate) fn balanced(&self) -> Vec<Arc<LoadBalancer>> {
        self.state().balanced.values().cloned().collect()
    }

    /// Records a Service if it is of our class, and returns true then.
    fn balance(&self, state: &mut State, metadata: &Metadata, json: &str) -> Result<bool, String> {
        if !self.0.balances {
            return Ok(false);
        }
        let name = metadata.object_name();
        match LoadBalancer::decode(metadata, json)? {
            Some(service) => {
                state.balanced.insert(name, Arc::new(service));
                Ok(true)
            }
            None => {
                state.balanced.remove(&name);
                Ok(false)
            }
        }
    }

    /// Lets Services and ports go that are not referred to any more.
    pub(crate) fn keep_only(&self, wanted: &BTreeMap<ObjectName, BTreeSet<Arc<str>>>) {
        let mut state = self.state();
        let State { wanted: held, owners, .. } = &mut *state;
        held.retain(|name, entry| {
            let ports = wanted.get(name);
            entry.ports.retain(|port, _| {
                let stays = ports.is_some_and(|ports| ports.contains(port));
                if !stays {
                    self.0.gather.fact(reference(name, port), None);
                }
                stays
            });
            if ports.is_none() {
                entry.slices.keys().for_each(|slice| {
                    owners.remove(&ObjectName {
                        namespace: Arc::clone(&name.namespace),
                        name: Arc::clone(slice),
                    });
                });
            }
            ports.is_some()
        });
    }

    /// Adds to what is referred to: Services with ports. Returns those that have to be read by themselves. Unless they have begun, the watches begin after the first call that names any.
    pub(crate) fn want_more(
        &self,
        wanted: &BTreeMap<ObjectName, BTreeSet<Arc<str>>>,
    ) -> Vec<Unread> {
        let mut state = self.state();
        let State { wanted: held, has_begun, readings, .. } = &mut *state;
        let (mut unread, mut news) = (Vec::new(), Vec::new());
        for (name, ports) in wanted {
            let entry = held.entry(name.clone()).or_insert_with(|| {
                let is_read = *has_begun && self.elsewhere(name).is_none();
                let reading = is_read.then(|| {
                    *readings += 1;
                    unread.push(Unread { name: name.clone(), number: *readings });
                    Reading { number: *readings, versions: BTreeMap::new() }
                });
                Wanted { reading, ..Wanted::default() }
            });
            let before = entry.ports.len();
            for port in ports {
                entry.ports.entry(Arc::clone(port)).or_default();
            }
            if entry.ports.len() > before {
                news.push(name);
            }
        }
        *has_begun |= !wanted.is_empty();
        // Facts of the others are said already.
        news.into_iter().for_each(|name| self.publish(&mut state, name));
        unread
    }

    /// Returns whether what is being read of a Service by itself is waited for.
    pub(crate) fn awaits(&self, unread: &Unread) -> bool {
        self.state().wanted.get(&unread.name).is_some_and(|entry| entry.awaits(unread))
    }

    /// Takes what was read of a Service by itself. What the watches saw meanwhile counts where it is later.
    pub(crate) fn read(&self, unread: &Unread, read: ReadService) {
        let name = &unread.name;
        let mut state = self.state();
        let State { wanted, owners, .. } = &mut *state;
        let Some(entry) = wanted.get_mut(name).filter(|entry| entry.awaits(unread)) else { return };
        let Some(reading) = entry.reading.take() else { return };
        let is_news = |object: &str, version: &str| {
            reading.versions.get(object).is_none_or(|seen| is_later(version, seen))
        };
        if let Some((service, version)) = read.service
            && is_news("", &version)
        {
            entry.service = Some(service);
        }
        for (slice_name, slice, version) in read.slices {
            if is_news(&slice_name, &version) {
                let namespace = Arc::clone(&name.namespace);
                owners
                    .insert(ObjectName { namespace, name: Arc::clone(&slice_name) }, name.clone());
                entry.slices.insert(slice_name, slice);
            }
        }
        self.publish(&mut state, name);
    }

    /// Returns how many references wait for their first fact.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.state();
        let facts = state.wanted.values().flat_map(|entry| entry.ports.values());
        facts.filter(|fact| fact.is_none()).count()
    }

    /// Returns the address of a Service in the cluster.
    pub(crate) fn cluster_ip(&self, name: &ObjectName) -> Option<Arc<str>> {
        self.state().wanted.get(name)?.service.as_ref()?.cluster_ip.clone()
    }

    /// Returns what is true of a Service in a namespace that is not read: its endpoints could not be followed.
    fn elsewhere(&self, name: &ObjectName) -> Option<Fact> {
        let only = self.0.namespace.as_ref().filter(|only| **only != name.namespace)?;
        let reason =
            format!("is in namespace {}, and Services are read from {only} alone", name.namespace);
        Some(Fact::WithoutEndpoints(reason))
    }

    fn publish(&self, state: &mut State, name: &ObjectName) {
        let elsewhere = self.elsewhere(name);
        if elsewhere.is_none() && !(state.services_listed && state.slices_listed) {
            return;
        }
        let Some(entry) = state.wanted.get_mut(name) else { return };
        if entry.reading.is_some() {
            return;
        }
        for (port, said) in &mut entry.ports {
            let now = elsewhere
                .clone()
                .unwrap_or_else(|| fact(entry.service.as_ref(), port, &entry.slices.values()));
            if said.as_ref() != Some(&now) {
                self.0.gather.fact(reference(name, port), Some(now.clone()));
                *said = Some(now);
            }
        }
    }

    fn publish_all(&self, state: &mut State) {
        let names: Vec<ObjectName> = state.wanted.keys().cloned().collect();
        names.iter().for_each(|name| self.publish(state, name));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference(name: &ObjectName, port: &Arc<str>) -> Reference {
    Reference::Service {
        namespace: Arc::clone(&name.namespace),
        name: Arc::clone(&name.name),
        port: Arc::clone(port),
    }
}

impl Wanted {
    fn awaits(&self, unread: &Unread) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.number == unread.number)
    }

    fn note(&mut self, object: &str, version: Option<&str>) {
        if let (Some(reading), Some(version)) = (&mut self.reading, version) {
            reading.versions.insert(Arc::from(object), Arc::from(version));
        }
    }
}

/// Reader of Services.
pub(crate) struct Services(pub(crate) Index);

impl Sink for Services {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let name = metadata.object_name();
        let mut state = self.0.state();
        let is_balanced = self.0.balance(&mut state, metadata, json)?;
        let Some(entry) = state.wanted.get_mut(&name) else { return Ok(is_balanced) };
        entry.service = Some(Service::decode(json)?);
        entry.note("", Some(&metadata.resource_version));
        self.0.publish(&mut state, &name);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, version: Option<&str>) {
        let mut state = self.0.state();
        state.balanced.remove(name);
        let Some(entry) = state.wanted.get_mut(name) else { return };
        entry.service = None;
        entry.note("", version);
        self.0.publish(&mut state, name);
    }

    fn listed(&mut self) {
        let mut state = self.0.state();
        state.services_listed = true;
        self.0.publish_all(&mut state);
    }
}

/// Reader of `EndpointSlice`s.
pub(crate) struct Slices(pub(crate) Index);

impl Sink for Slices {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let slice_name = metadata.object_name();
        let owner = service_of(metadata).map(|name| ObjectName {
            namespace: Arc::clone(&metadata.namespace),
            name: Arc::clone(name),
        });
        let mut state = self.0.state();
        // A slice may be given to another Service by its label.
        let former = state.owners.get(&slice_name).cloned();
        if let Some(former) = former.filter(|former| Some(former) != owner.as_ref()) {
            self.0.forget(&mut state, &slice_name, &former, Some(&metadata.resource_version));
        }
        let Some(owner) = owner else { return Ok(false) };
        let State { wanted, owners, .. } = &mut *state;
        let Some(entry) = wanted.get_mut(&owner) else { return Ok(false) };
        let slice = match Slice::decode(json) {
            Ok(slice) => slice,
            Err(fault) => {
                // Its former addresses may belong to another Service now.
                self.0.forget(&mut state, &slice_name, &owner, Some(&metadata.resource_version));
                return Err(fault);
            }
        };
        entry.slices.insert(Arc::clone(&slice_name.name), slice);
        entry.note(&slice_name.name, Some(&metadata.resource_version));
        owners.insert(slice_name, owner.clone());
        self.0.publish(&mut state, &owner);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, version: Option<&str>) {
        let mut state = self.0.state();
        if let Some(owner) = state.owners.get(name).cloned() {
            self.0.forget(&mut state, name, &owner, version);
        } else if let Some(version) = version {
            // Whoever reads a Service by itself just now may have found the slice before it was deleted.
            for entry in
                state.wanted.iter_mut().filter(|(service, _)| service.namespace == name.namespace)
            {
                entry.1.note(&name.name, Some(version));
            }
        }
    }

    fn listed(&mut self) {
        let mut state = self.0.state();
        state.slices_listed = true;
        self.0.publish_all(&mut state);
    }
}

impl Index {
    fn forget(
        &self,
        state: &mut State,
        slice: &ObjectName,
        owner: &ObjectName,
        version: Option<&str>,
    ) {
        state.owners.remove(slice);
        if let Some(entry) = state.wanted.get_mut(owner) {
            entry.slices.remove(&slice.name);
            entry.note(&slice.name, version);
        }
        self.publish(state, owner);
    }
}
