//! Index of the objects that documents name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durward_control::change::{Entries, Fact};
use durward_control::reference::Reference;
use serde::Deserialize;

use crate::object::{Head, Metadata, ObjectName};
use crate::pace::Gather;
use crate::request::{self, ApiError};
use crate::resource_type::{ResourceType, SECRETS};
use crate::watch::{Kept, Sink, is_later};

/// The objects of one kind that are named, with what was said of each.
#[derive(Clone)]
pub(super) struct Index(Arc<Shared>);

struct Shared {
    kind: &'static ResourceType,
    /// The only namespace that is read, if there is only one.
    namespace: Option<Arc<str>>,
    wanted: Mutex<BTreeMap<ObjectName, Known>>,
    gather: Arc<Gather>,
}

/// State of an object in the index.
#[derive(Default)]
struct Known {
    /// Fact that was reported; `None` until it is read.
    fact: Option<Fact>,
    /// Version of the object or of its deletion.
    version: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    r#type: Option<Arc<str>>,
    #[serde(default)]
    data: Option<BTreeMap<Arc<str>, String>>,
    #[serde(default, rename = "binaryData")]
    binary_data: Option<BTreeMap<Arc<str>, String>>,
}

impl Index {
    pub(super) fn new(
        kind: &'static ResourceType,
        namespace: Option<Arc<str>>,
        gather: Arc<Gather>,
    ) -> Self {
        Self(Arc::new(Shared { kind, namespace, wanted: Mutex::default(), gather }))
    }

    /// Replaces what is named. Returns what is new.
    pub(super) fn want(&self, names: &BTreeSet<ObjectName>) -> Vec<ObjectName> {
        let mut wanted = self.wanted_objects();
        wanted.retain(|name, _| {
            let stays = names.contains(name);
            if !stays {
                self.0.gather.fact(self.reference(name), None);
            }
            stays
        });
        let mut new = Vec::new();
        for name in names {
            if wanted.contains_key(name) {
                continue;
            }
            wanted.insert(name.clone(), Known::default());
            match &self.0.namespace {
                Some(only) if *only != name.namespace => {
                    let reason = format!(
                        "is in namespace {}, and {}s are read from {only} alone",
                        name.namespace, self.0.kind.kind
                    );
                    self.say(&mut wanted, name, Fact::Unreadable(reason), None);
                }
                _ => new.push(name.clone()),
            }
        }
        new
    }

    pub(super) fn wanted(&self) -> usize {
        self.wanted_objects().len()
    }

    /// Returns how many objects were not read yet.
    pub(super) fn waiting(&self) -> usize {
        self.wanted_objects().values().filter(|known| known.fact.is_none()).count()
    }

    /// Returns whether an object is named and nothing of it could be read yet.
    pub(super) fn is_unread(&self, name: &ObjectName) -> bool {
        let wanted = self.wanted_objects();
        let fact = wanted.get(name).map(|known| &known.fact);
        matches!(fact, Some(None | Some(Fact::Unreadable(_))))
    }

    /// Reads one object by itself. A later state that the watch saw counts more.
    pub(super) async fn read(
        &self,
        client: &kube::Client,
        name: &ObjectName,
        kept: Option<&Kept>,
    ) -> Result<(), ApiError> {
        let path = self.0.kind.object_path("v1", name.namespace(), &name.name);
        let got = request::get(client, &path).await;
        let mut wanted = self.wanted_objects();
        let unreadable = |error: &dyn std::fmt::Display| ApiError::Unreadable(error.to_string());
        match got {
            Ok(bytes) => {
                let json = std::str::from_utf8(&bytes).map_err(|error| unreadable(&error))?;
                let head: Head = serde_json::from_str(json).map_err(|error| unreadable(&error))?;
                let version = head.metadata.resource_version;
                let fact = self.decode(json).map_err(|fault| unreadable(&fault))?;
                if let Some(kept) = kept {
                    kept.lock().entry(name.clone()).or_insert_with(|| Arc::clone(&version));
                }
                if let Some(known) = wanted.get_mut(name).filter(|_| kept.is_none()) {
                    // No watch may have seen a later one, and the versions of a server that was restored start again.
                    known.version = None;
                }
                self.say(&mut wanted, name, fact, Some(&version));
                Ok(())
            }
            Err(ApiError::NotFound(_)) => {
                // No version tells when that was. What a watch has seen counts more.
                let is_unknown = wanted.get(name).is_some_and(|known| known.version.is_none());
                if is_unknown || kept.is_none() {
                    self.say(&mut wanted, name, Fact::Missing, None);
                }
                Ok(())
            }
            Err(error) => {
                self.note_failure(&mut wanted, name, &error);
                Err(error)
            }
        }
    }

    /// Says that an object cannot be read, unless it was read before: then that is served on.
    fn note_failure(
        &self,
        wanted: &mut BTreeMap<ObjectName, Known>,
        name: &ObjectName,
        error: &ApiError,
    ) {
        let is_known = wanted
            .get(name)
            .is_none_or(|known| !matches!(known.fact, None | Some(Fact::Unreadable(_))));
        if is_known || error.is_passing() {
            return;
        }
        let reason = match error {
            ApiError::Forbidden(_) => {
                format!("may not be read: grant get, list and watch on {} {name}", self.0.kind.kind)
            }
            error => error.to_string(),
        };
        self.say(wanted, name, Fact::Unreadable(reason), None);
    }

    fn say(
        &self,
        wanted: &mut BTreeMap<ObjectName, Known>,
        name: &ObjectName,
        fact: Fact,
        version: Option<&str>,
    ) {
        let Some(known) = wanted.get_mut(name) else { return };
        if let (Some(version), Some(seen)) = (version, &known.version)
            && is_later(seen, version)
        {
            return;
        }
        if let Some(version) = version {
            known.version = Some(Arc::from(version));
        }
        if known.fact.as_ref() != Some(&fact) {
            self.0.gather.fact(self.reference(name), Some(fact.clone()));
            known.fact = Some(fact);
        }
    }

    fn decode(&self, json: &str) -> Result<Fact, String> {
        let entries: Written = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let is_secret = *self.0.kind == SECRETS;
        let mut bytes: BTreeMap<Arc<str>, Arc<[u8]>> = BTreeMap::new();
        for (key, text) in entries.data.unwrap_or_default() {
            let value =
                if is_secret { decoded(&key, &text)? } else { Arc::from(text.into_bytes()) };
            bytes.insert(key, value);
        }
        for (key, text) in entries.binary_data.unwrap_or_default() {
            let value = decoded(&key, &text)?;
            bytes.insert(key, value);
        }
        let r#type = entries.r#type.filter(|_| is_secret);
        Ok(Fact::Bytes(Entries::from(bytes).of_type(r#type)))
    }

    fn reference(&self, name: &ObjectName) -> Reference {
        let ObjectName { namespace, name } = name.clone();
        if *self.0.kind == SECRETS {
            Reference::Secret { namespace, name }
        } else {
            Reference::ConfigMap { namespace, name }
        }
    }

    fn wanted_objects(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Known>> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decoded(key: &str, text: &str) -> Result<Arc<[u8]>, String> {
    // The value is not repeated: it may be a key.
    STANDARD.decode(text).map(Arc::from).map_err(|_| format!("entry {key} is not base64"))
}

/// Reader of one object, or of all that are named.
pub(super) struct NamedSink {
    index: Index,
    one: Option<ObjectName>,
}

impl NamedSink {
    pub(super) fn of_one(index: Index, name: ObjectName) -> Self {
        Self { index, one: Some(name) }
    }

    pub(super) fn of_all(index: Index) -> Self {
        Self { index, one: None }
    }
}

impl Sink for NamedSink {
    fn listing(&mut self) {
        let mut wanted = self.index.wanted_objects();
        let is_meant = |name: &ObjectName| self.one.as_ref().is_none_or(|one| one == name);
        let meant = wanted.iter_mut().filter(|(name, _)| is_meant(name));
        meant.for_each(|(_, known)| known.version = None);
    }

    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let name = metadata.object_name();
        let mut wanted = self.index.wanted_objects();
        if !wanted.contains_key(&name) {
            return Ok(false);
        }
        let fact = self.index.decode(json)?;
        self.index.say(&mut wanted, &name, fact, Some(&metadata.resource_version));
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, version: Option<&str>) {
        let mut wanted = self.index.wanted_objects();
        self.index.say(&mut wanted, name, Fact::Missing, version);
    }

    fn listed(&mut self) {
        let mut wanted = self.index.wanted_objects();
        let unread: Vec<ObjectName> = wanted
            .iter()
            .filter(|(name, known)| {
                known.fact.is_none() && self.one.as_ref().is_none_or(|one| one == *name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in unread {
            self.index.say(&mut wanted, &name, Fact::Missing, None);
        }
    }

    fn failed(&mut self, error: &ApiError) {
        let mut wanted = self.index.wanted_objects();
        let names: Vec<ObjectName> = match &self.one {
            Some(one) => vec![one.clone()],
            None => wanted.keys().cloned().collect(),
        };
        for name in names {
            self.index.note_failure(&mut wanted, &name, error);
        }
    }
}
