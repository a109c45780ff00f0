//! Items: documents of objects and facts, in the form in which they travel. Secrets are among them, so no item is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durward_model::{Kind, ResourceId, Revision};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::ItemKey;
use crate::change::{Entries, Fact, ServiceEndpoints};
use crate::document::{Document, Source};
use crate::reference::{Grantee, Reference};
use crate::spec::{document, smartnat};

/// A document of an object, or a fact.
#[derive(Clone)]
pub enum Item {
    /// A document.
    Document(Document),
    /// A fact.
    Fact(Reference, Fact),
}

/// A thing of a host: it means nothing to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("files and registered routes stay in the process that reads them")]
pub struct Untransferable;

impl Item {
    /// Returns its name.
    ///
    /// # Errors
    /// Fails if it is a thing of files or agents.
    pub fn key(&self) -> Result<ItemKey, Untransferable> {
        match self {
            Self::Document(document) => {
                document.key.object().cloned().map(ItemKey::Document).ok_or(Untransferable)
            }
            Self::Fact(Reference::File(_) | Reference::LinkRoutes { .. }, _)
            | Self::Fact(_, Fact::File(_) | Fact::LinkRoutes(_)) => Err(Untransferable),
            Self::Fact(reference, _) => Ok(ItemKey::Fact(reference.clone())),
        }
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document(document) => f.debug_tuple("Document").field(&document.key).finish(),
            Self::Fact(reference, fact) => {
                f.debug_tuple("Fact").field(reference).field(fact).finish()
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Written {
    Document(WrittenDocument),
    Fact(Reference, WrittenFact),
}

#[derive(Serialize, Deserialize)]
struct WrittenDocument {
    id: ResourceId,
    revision: Revision,
    created: Option<Arc<str>>,
    kind: Kind,
    file: Arc<str>,
    first_line: u32,
    text: Arc<str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    field_names: Vec<(String, String)>,
    /// Of an invalid `Mapping`, why it is: its text does not say that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invalid: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
enum WrittenFact {
    Bytes {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        r#type: Option<Arc<str>>,
        entries: BTreeMap<Arc<str>, Bytes>,
    },
    Endpoints {
        at: Vec<SocketAddr>,
        has_more: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_client: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        app_protocol: Option<Arc<str>>,
    },
    PortUnknown(String),
    WithoutEndpoints(String),
    Labels(BTreeMap<Arc<str>, Arc<str>>),
    Grants(Vec<(Kind, Arc<str>)>),
    Missing,
    Unreadable(String),
}

/// Bytes in base64.
struct Bytes(Arc<[u8]>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(&*text).map_err(serde::de::Error::custom)?;
        Ok(Self(Arc::from(bytes)))
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            Self::Document(document) => written_document(document).map(Written::Document),
            Self::Fact(Reference::File(_) | Reference::LinkRoutes { .. }, _) => Err(Untransferable),
            Self::Fact(reference, fact) => {
                written_fact(fact).map(|fact| Written::Fact(reference.clone(), fact))
            }
        };
        written.map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Document(document) => Ok(Self::Document(read_document(document))),
            Written::Fact(Reference::File(_) | Reference::LinkRoutes { .. }, _) => {
                Err(serde::de::Error::custom(Untransferable))
            }
            Written::Fact(reference, fact) => Ok(Self::Fact(reference, read_fact(fact))),
        }
    }
}

fn written_document(document: &Document) -> Result<WrittenDocument, Untransferable> {
    let id = document.key.object().ok_or(Untransferable)?.clone();
    let source = &*document.source;
    Ok(WrittenDocument {
        id,
        revision: document.revision.clone(),
        created: document.created.clone(),
        kind: source.kind,
        file: Arc::clone(&source.file),
        first_line: source.first_line,
        text: Arc::clone(&source.text),
        field_names: source.field_names.clone(),
        invalid: smartnat::invalid_because(document).cloned(),
    })
}

/// Reads the document from its text, as the process did that has it from the API server.
fn read_document(written: WrittenDocument) -> Document {
    let WrittenDocument { id, revision, created, kind, file, first_line, .. } = written;
    let WrittenDocument { text, field_names, invalid, .. } = written;
    // No directories: an object names no files of the host.
    let source = document::source(kind, &file, text, first_line, Vec::new());
    let source = Source { field_names, object: Some(id.clone()), ..source };
    let content = match invalid {
        Some(why) => smartnat::invalid_content(&id, &source, &why),
        None => document::content(&source),
    };
    Document::of_object(id, revision, created, source, content)
}

fn written_fact(fact: &Fact) -> Result<WrittenFact, Untransferable> {
    Ok(match fact {
        Fact::File(_) | Fact::LinkRoutes(_) => return Err(Untransferable),
        Fact::Bytes(entries) => {
            let r#type = entries.r#type.clone();
            let entries = entries.iter().map(|(key, bytes)| (key.clone(), Bytes(bytes.clone())));
            WrittenFact::Bytes { r#type, entries: entries.collect() }
        }
        Fact::Endpoints(endpoints) => {
            let (at, has_more) = (endpoints.at().to_vec(), endpoints.has_more());
            let (by_client, app_protocol) = (endpoints.by_client, endpoints.app_protocol.clone());
            WrittenFact::Endpoints { at, has_more, by_client, app_protocol }
        }
        Fact::PortUnknown(why) => WrittenFact::PortUnknown(why.clone()),
        Fact::WithoutEndpoints(why) => WrittenFact::WithoutEndpoints(why.clone()),
        Fact::Labels(labels) => WrittenFact::Labels(labels.clone()),
        Fact::Grants(grantees) => {
            let grantees = grantees.iter().map(|one| (one.kind, Arc::clone(&one.namespace)));
            WrittenFact::Grants(grantees.collect())
        }
        Fact::Missing => WrittenFact::Missing,
        Fact::Unreadable(why) => WrittenFact::Unreadable(why.clone()),
    })
}

fn read_fact(written: WrittenFact) -> Fact {
    match written {
        WrittenFact::Bytes { r#type, entries } => {
            let entries = entries.into_iter().map(|(key, Bytes(bytes))| (key, bytes));
            let entries = Entries::from(entries.collect::<BTreeMap<_, _>>());
            Fact::Bytes(entries.of_type(r#type))
        }
        WrittenFact::Endpoints { at, has_more, by_client, app_protocol } => {
            let endpoints: ServiceEndpoints = at.into_iter().collect();
            let mut endpoints = endpoints.beside(has_more);
            (endpoints.by_client, endpoints.app_protocol) = (by_client, app_protocol);
            Fact::Endpoints(endpoints)
        }
        WrittenFact::PortUnknown(why) => Fact::PortUnknown(why),
        WrittenFact::WithoutEndpoints(why) => Fact::WithoutEndpoints(why),
        WrittenFact::Labels(labels) => Fact::Labels(labels),
        WrittenFact::Grants(grantees) => {
            let grantees = grantees.into_iter();
            let grantees = grantees.map(|(kind, namespace)| Grantee { kind, namespace });
            Fact::Grants(grantees.collect::<BTreeSet<_>>())
        }
        WrittenFact::Missing => Fact::Missing,
        WrittenFact::Unreadable(why) => Fact::Unreadable(why),
    }
}
