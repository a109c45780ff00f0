//! The objects of the texts by kind. One that cannot be read is a note, and costs no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_control::foreign::objects::{EndpointSlice, Ingress, IngressClass, Metadata, Service};
use serde::de::DeserializeOwned;

use crate::objects::{self, Object};
use crate::{Effect, Note};

/// An object and its place in the texts.
pub(super) struct Found<T> {
    pub(super) object: T,
    pub(super) file: Arc<str>,
    pub(super) line: u32,
}

/// Objects by kind.
#[derive(Default)]
pub(super) struct Kinds {
    pub(super) ingresses: Vec<Found<Ingress>>,
    pub(super) classes: Vec<IngressClass>,
    pub(super) slices: Vec<EndpointSlice>,
    services: BTreeMap<(String, String), Service>,
    /// Names only: what is in a Secret stays there.
    secrets: BTreeSet<(String, String)>,
    middlewares: BTreeMap<(String, String), Vec<String>>,
}

impl Kinds {
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn has_secret(&self, namespace: &str, name: &str) -> bool {
        self.secrets.contains(&(namespace.to_owned(), name.to_owned()))
    }

    /// Returns the fields of a Traefik middleware's spec.
    pub(super) fn middleware(&self, namespace: &str, name: &str) -> Option<Vec<String>> {
        self.middlewares.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

/// Reads all objects.
///
/// # Errors
/// When a text is neither YAML nor JSON; the sentence says where.
pub(super) fn kinds(texts: &[(String, String)], notes: &mut Vec<Note>) -> Result<Kinds, String> {
    let mut left_out = Vec::new();
    let objects = objects::read(texts, &mut left_out)?;
    let file = || Arc::from(texts.first().map_or("", |(name, _)| name));
    let left_out = left_out.into_iter();
    notes.extend(left_out.map(|text| Note {
        file: file(),
        line: 1,
        effect: Effect::Narrower,
        text,
    }));
    let mut kinds = Kinds::default();
    for object in objects {
        kinds.add(object, notes);
    }
    Ok(kinds)
}

impl Kinds {
    fn add(&mut self, object: Object, notes: &mut Vec<Note>) {
        let key = (object.namespace().to_owned(), object.name().to_owned());
        match (object.text("apiVersion"), object.kind()) {
            ("networking.k8s.io/v1", "Ingress") => {
                let (file, line) = (Arc::clone(&object.file), object.line);
                if let Some(mut ingress) = typed::<Ingress>(object, notes) {
                    in_namespace(&mut ingress.metadata);
                    self.ingresses.push(Found { object: ingress, file, line });
                }
            }
            (version, "Ingress") => {
                let text = format!(
                    "{}/{}: apiVersion {version:?} is not read: get it from the cluster as networking.k8s.io/v1",
                    key.0, key.1
                );
                notes.push(note(&object, &text));
            }
            ("networking.k8s.io/v1", "IngressClass") => self.classes.extend(typed(object, notes)),
            ("v1", "Service") => {
                if let Some(service) = typed::<Service>(object, notes) {
                    self.services.insert(key, service);
                }
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                if let Some(mut slice) = typed::<EndpointSlice>(object, notes) {
                    in_namespace(&mut slice.metadata);
                    self.slices.push(slice);
                }
            }
            ("v1", "Secret") => drop(self.secrets.insert(key)),
            (_, "Middleware") => {
                let fields = object.value["spec"].as_object();
                let fields = fields.map(|spec| spec.keys().cloned().collect());
                self.middlewares.insert(key, fields.unwrap_or_default());
            }
            _ => {}
        }
    }
}

/// Objects without a namespace are taken as of `default`, as `kubectl apply` does.
fn in_namespace(metadata: &mut Metadata) {
    if metadata.namespace.is_empty() {
        metadata.namespace.push_str("default");
    }
}

fn typed<T: DeserializeOwned>(object: Object, notes: &mut Vec<Note>) -> Option<T> {
    let (kind, name) = (object.kind().to_owned(), object.name().to_owned());
    let place = Object { value: serde_json::Value::Null, ..object.clone() };
    match serde_json::from_value(object.value) {
        Ok(read) => Some(read),
        Err(error) => {
            let text = format!("{kind} {name} cannot be read and is left out: {error}");
            notes.push(note(&place, &text));
            None
        }
    }
}

fn note(object: &Object, text: &str) -> Note {
    let Object { file, line, .. } = object;
    let text = super::printable(text);
    Note { file: Arc::clone(file), line: *line as usize, effect: Effect::Narrower, text }
}
