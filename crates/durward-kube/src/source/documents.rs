//! Readers of our own kinds, and of the labels of namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_control::change::Fact;
use durward_control::cluster::is_isolated;
use durward_control::reference::Reference;
use durward_control::spec::foreign_api;
use durward_model::{Kind, ResourceId};

use crate::object::{Labels, Metadata, Object, ObjectName};
use crate::pace::Gather;
use crate::resource_type::ResourceType;
use crate::smartnat;
use crate::watch::Sink;

/// Reader of one of our own kinds.
pub(super) struct Documents {
    kind: Kind,
    resource: &'static ResourceType,
    gather: Arc<Gather>,
    api_version: String,
}

impl Documents {
    pub(super) fn new(kind: Kind, resource: &'static ResourceType, gather: Arc<Gather>) -> Self {
        Self { kind, resource, gather, api_version: String::new() }
    }
}

impl Sink for Documents {
    fn begin(&mut self, version: &'static str) {
        self.api_version = self.resource.api_version(version);
    }

    fn applied(&mut self, _: &Metadata, json: &str) -> Result<bool, String> {
        let object = Object::decode(self.kind, &self.api_version, json);
        self.gather.upsert(object.map_err(|error| error.to_string())?);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        let namespace = name.namespace().map(Arc::from);
        self.gather.delete(ResourceId { kind: self.kind, namespace, name: Arc::clone(&name.name) });
    }
}

/// Reader of a kind of other controllers that names hosted API servers.
pub(super) struct ForeignApis {
    documents: Documents,
    /// Objects that were handed on.
    known: BTreeSet<ObjectName>,
}

impl ForeignApis {
    pub(super) fn new(kind: Kind, resource: &'static ResourceType, gather: Arc<Gather>) -> Self {
        Self { documents: Documents::new(kind, resource, gather), known: BTreeSet::new() }
    }
}

impl Sink for ForeignApis {
    fn begin(&mut self, version: &'static str) {
        self.documents.begin(version);
    }

    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let object = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let name = metadata.object_name();
        if !foreign_api::is_meant(self.documents.kind, &object) {
            // It may have named an API server before.
            if self.known.remove(&name) {
                self.documents.deleted(&name, None);
            }
            return Ok(true);
        }
        self.known.insert(name);
        self.documents.applied(metadata, json)
    }

    fn deleted(&mut self, name: &ObjectName, version: Option<&str>) {
        if self.known.remove(name) {
            self.documents.deleted(name, version);
        }
    }
}

/// Reader of SmartNat's Mappings.
pub(super) struct Mappings {
    options: Arc<smartnat::Options>,
    gather: Arc<Gather>,
}

impl Mappings {
    pub(super) fn new(options: Arc<smartnat::Options>, gather: Arc<Gather>) -> Self {
        Self { options, gather }
    }
}

impl Sink for Mappings {
    fn applied(&mut self, _: &Metadata, json: &str) -> Result<bool, String> {
        self.gather.upsert(smartnat::decode(json, &self.options)?);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        let id = ResourceId::namespaced(Kind::Mapping, &name.namespace, &name.name);
        self.gather.delete(id);
    }
}

/// Returns the identity of the policy that a namespace stands for.
fn policy_of(namespace: &str) -> ResourceId {
    ResourceId::new(Kind::Namespace, namespace)
}

/// Reader of namespaces. All labels are kept: they are few, and say whose everything in a namespace is.
#[derive(Clone)]
pub(super) struct Namespaces(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    gather: Arc<Gather>,
    /// The only namespace that is read, if there is only one.
    only: Option<Arc<str>>,
}

#[derive(Default)]
struct State {
    labels: BTreeMap<Arc<str>, Labels>,
    /// Identifiers of those that stand for a policy.
    isolated: BTreeMap<Arc<str>, Arc<str>>,
    wanted: BTreeMap<Arc<str>, Option<Fact>>,
    listed: bool,
}

impl Namespaces {
    pub(super) fn new(gather: Arc<Gather>, only: Option<Arc<str>>) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), gather, only }))
    }

    /// Replaces the namespaces whose labels are asked for.
    pub(super) fn want(&self, names: BTreeSet<Arc<str>>) {
        let mut state = self.state();
        state.wanted.retain(|name, _| {
            let stays = names.contains(name);
            if !stays {
                self.0.gather.fact(Reference::Namespace(Arc::clone(name)), None);
            }
            stays
        });
        drop(state);
        self.want_more(names);
    }

    /// Adds to the namespaces whose labels are asked for.
    pub(super) fn want_more(&self, names: BTreeSet<Arc<str>>) {
        let mut state = self.state();
        for name in names {
            state.wanted.entry(Arc::clone(&name)).or_default();
            self.publish(&mut state, &name);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.state().wanted.values().filter(|fact| fact.is_none()).count()
    }

    fn publish(&self, state: &mut State, name: &Arc<str>) {
        let State { labels, wanted, listed, .. } = state;
        let Some(said) = wanted.get_mut(name).filter(|_| *listed) else { return };
        let fact = match (labels.get(name), &self.0.only) {
            (Some(labels), _) => Fact::Labels(labels.clone()),
            (None, Some(only)) if only != name => {
                Fact::Unreadable(format!("is not read: namespace {only} alone is"))
            }
            (None, _) => Fact::Missing,
        };
        if said.as_ref() != Some(&fact) {
            self.0.gather.fact(Reference::Namespace(Arc::clone(name)), Some(fact.clone()));
            *said = Some(fact);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Namespaces {
    fn applied(&mut self, metadata: &Metadata, _: &str) -> Result<bool, String> {
        let mut state = self.state();
        state.labels.insert(Arc::clone(&metadata.name), metadata.labels.clone());
        if is_isolated(&metadata.labels) {
            let former =
                state.isolated.insert(Arc::clone(&metadata.name), Arc::clone(&metadata.uid));
            // One that was deleted and made anew may never have been seen to be gone.
            if former.is_none_or(|former| former != metadata.uid) {
                self.0.gather.upsert(Object::of_namespace(metadata));
            }
        } else if state.isolated.remove(&metadata.name).is_some() {
            self.0.gather.delete(policy_of(&metadata.name));
        }
        self.publish(&mut state, &metadata.name);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        let mut state = self.state();
        state.labels.remove(&name.name);
        if state.isolated.remove(&name.name).is_some() {
            self.0.gather.delete(policy_of(&name.name));
        }
        self.publish(&mut state, &name.name);
    }

    fn listed(&mut self) {
        let mut state = self.state();
        state.listed = true;
        let names: Vec<Arc<str>> = state.wanted.keys().cloned().collect();
        names.iter().for_each(|name| self.publish(&mut state, name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_not_read_is_not_said_to_be_missing() {
        let gather = Arc::new(Gather::default());
        let mut namespaces = Namespaces::new(Arc::clone(&gather), Some(Arc::from("own")));

        namespaces.want(["own", "pay"].map(Arc::from).into());
        namespaces.listed();

        let facts = gather.next().await.facts;
        let reference = |name: &str| Reference::Namespace(Arc::from(name));
        let elsewhere = Fact::Unreadable("is not read: namespace own alone is".to_owned());
        assert_eq!(
            facts,
            [(reference("own"), Some(Fact::Missing)), (reference("pay"), Some(elsewhere))]
        );
    }
}
