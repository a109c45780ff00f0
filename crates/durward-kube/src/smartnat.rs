//! SmartNat's `Mapping` objects: what they say, and what each gateway writes into them.
//!
//! Several gateways may have addresses of one `Mapping`. Each writes under a field manager of its own, so that none overwrites another: it holds the finalizer together with the
//! others, and has its addresses in the status. The API server drops the finalizer when the last one lets go of it.

mod seen;
mod step;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use durward_control::document::Document;
use durward_control::spec::smartnat::{self, MappingObject, MappingSpec, SmartNatOptions};
use durward_model::{Kind, ResourceId, Revision};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::object::{Metadata, Object};
use seen::Seen;

pub use step::{Said, Wish};
pub use writer::MappingWriter;

/// Finalizer of a `Mapping` that some gateway carries.
pub const FINALIZER: &str = "mapping.finalizers.aureacentral.com";
/// Longest name of a field manager.
const LONGEST_MANAGER: usize = 128;

/// Settings for SmartNat Mappings: reading them, and removing their finalizers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Meaning of what they say.
    pub contents: SmartNatOptions,
    /// Name of this gateway, another one than that of every other gateway of the cluster.
    pub instance: Arc<str>,
    /// Time after which a `Mapping` that is being deleted no longer waits for gateways that are gone (`SNCTRLR_MAX_FINALIZE_WAIT_MINUTES`).
    pub longest_wait: Duration,
}

impl Options {
    /// Builds the options of a gateway of this name.
    #[must_use]
    pub fn new(instance: &str) -> Self {
        let contents = SmartNatOptions::default();
        Self { contents, instance: Arc::from(instance), longest_wait: Duration::from_mins(60) }
    }

    /// Returns the name that this gateway's fields are owned by.
    pub(crate) fn manager(&self) -> String {
        let mut name = format!("durward-mapping-{}", self.instance);
        while name.len() > LONGEST_MANAGER {
            name.pop();
        }
        name
    }
}

/// Fields of a `Mapping` beside its metadata.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Spec; empty if it cannot be read.
    pub spec: MappingSpec,
    /// The document that it is.
    document: Document,
    /// Finalizers and status, as read from the API server.
    pub(crate) seen: Seen,
}

impl Mapping {
    /// Returns the document that it is.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Returns the addresses that its status says are configured, as they are written there.
    pub fn configured(&self) -> impl Iterator<Item = &Arc<str>> {
        self.seen.status.configured_addresses.keys()
    }
}

#[derive(Deserialize)]
struct Whole<'a> {
    metadata: Metadata,
    #[serde(borrow, default)]
    spec: Option<&'a RawValue>,
}

/// Decodes a `Mapping`.
///
/// # Errors
/// Fails, with a phrase for people, if its metadata is not that of an object.
pub(crate) fn decode(json: &str, options: &Options) -> Result<Object, String> {
    let unreadable = |error: serde_json::Error| error.to_string();
    let Whole { metadata, spec } = serde_json::from_str(json).map_err(unreadable)?;
    let seen = Seen::decode(json, &options.manager()).map_err(unreadable)?;
    let id = ResourceId::namespaced(Kind::Mapping, &metadata.namespace, &metadata.name);
    let uid = Some(&metadata.uid).filter(|uid| !uid.is_empty()).cloned();
    let revision = Revision { uid, generation: metadata.generation };
    let text: Arc<str> = Arc::from(spec.map_or("{}", RawValue::get));
    let object = MappingObject {
        id: id.clone(),
        revision: revision.clone(),
        created: metadata.creation_timestamp.clone(),
        annotations: metadata.annotations.clone(),
        spec: Arc::clone(&text),
    };
    let mapping = Mapping {
        spec: smartnat::read(&text).unwrap_or_default(),
        document: smartnat::document(&object, options.contents),
        seen,
    };
    let conditions = mapping.seen.status.conditions.clone();
    let (addresses, mapping) = (Vec::new(), Some(Arc::new(mapping)));
    Ok(Object { id, revision, metadata, text, conditions, addresses, mapping })
}
