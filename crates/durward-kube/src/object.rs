//! Objects as they come from the API server: the metadata of any kind, and our own kinds as documents.
//!
//! What others keep in an object for themselves (`managedFields`, the annotation of `kubectl apply`) is dropped while decoding; it is often longer than the object.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use durward_control::document::Document;
use durward_control::spec::{document, egress_policy};
use durward_model::{Kind, ResourceId, Revision};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::resource_type::ResourceType;
use crate::smartnat::Mapping;
use crate::status::Condition;
use crate::tls_routes;

/// Annotation that holds the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; empty for kinds that have none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Builds the name of an object in a namespace.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: Arc::from(namespace), name: Arc::from(name) }
    }

    /// Returns the namespace, if there is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        Some(&*self.namespace).filter(|namespace| !namespace.is_empty())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Labels or annotations.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Metadata of an object, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The name.
    pub name: Arc<str>,
    /// The namespace; empty for kinds that have none.
    #[serde(default)]
    pub namespace: Arc<str>,
    /// Identifier that no other object ever had.
    #[serde(default)]
    pub uid: Arc<str>,
    /// Version of the object; another one for each write.
    #[serde(default)]
    pub resource_version: Arc<str>,
    /// Number that grows with each change of `spec`.
    #[serde(default)]
    pub generation: u64,
    /// Time of creation by the server's clock, in RFC 3339.
    #[serde(default)]
    pub creation_timestamp: Option<Arc<str>>,
    /// Time of deletion; there when the object only waits for its finalizers.
    #[serde(default)]
    pub deletion_timestamp: Option<Arc<str>>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Annotations, without the one that repeats the object.
    #[serde(default, deserialize_with = "annotations")]
    pub annotations: Labels,
}

impl Metadata {
    /// Returns namespace and name.
    #[must_use]
    pub fn object_name(&self) -> ObjectName {
        ObjectName { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }
}

fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    struct Annotations;

    impl<'de> Visitor<'de> for Annotations {
        type Value = Labels;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("annotations")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
            let mut kept = Labels::new();
            while let Some(name) = map.next_key::<Arc<str>>()? {
                if *name == *LAST_APPLIED {
                    map.next_value::<IgnoredAny>()?;
                } else {
                    kept.insert(name, map.next_value()?);
                }
            }
            Ok(kept)
        }

        fn visit_unit<E>(self) -> Result<Labels, E> {
            Ok(Labels::new())
        }
    }

    deserializer.deserialize_any(Annotations)
}

/// Metadata alone of an object of any kind.
#[derive(Debug, Deserialize)]
pub(crate) struct Head {
    pub(crate) metadata: Metadata,
}

/// An object of one of our own kinds.
#[derive(Clone, Debug)]
pub struct Object {
    /// Identity.
    pub id: ResourceId,
    /// Version: uid and generation.
    pub revision: Revision,
    /// Metadata.
    pub metadata: Metadata,
    /// Text, as a document of the same form as those in files.
    pub text: Arc<str>,
    /// The conditions in its status; of a `TLSRoute` those of our entries.
    pub conditions: Vec<Condition>,
    /// The addresses in the status of an Ingress.
    pub addresses: Vec<Arc<str>>,
    /// Additional fields of a SmartNat `Mapping`.
    pub mapping: Option<Arc<Mapping>>,
}

#[derive(Deserialize)]
struct Whole<'a> {
    metadata: Metadata,
    #[serde(borrow, default)]
    spec: Option<&'a RawValue>,
    #[serde(default)]
    status: Lenient<ReadStatus>,
}

/// A value, or its default where it is not what it should be.
#[derive(Default)]
pub(crate) struct Lenient<T>(pub(crate) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str(raw.get()).unwrap_or_default()))
    }
}

#[derive(Default, Deserialize)]
struct ReadStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(flatten)]
    of_route: tls_routes::Status,
}

/// Returns a value as the text of a document. JSON is YAML but for a few characters that YAML wants escaped.
pub(crate) fn text(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let json = with_explicit_keys(serde_json::to_string_pretty(value)?);
    let is_refused = |letter: char| {
        matches!(
            letter,
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
    };
    if !json.contains(is_refused) {
        return Ok(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for letter in json.chars() {
        if is_refused(letter) {
            // They occur within strings only.
            text.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            text.push(letter);
        }
    }
    Ok(text)
}

/// Longest key in bytes that YAML takes for one without a question mark before it.
const LONGEST_KEY: usize = 1_000;

/// Returns JSON, an entry a line, with a question mark before each key that is too long for YAML otherwise.
fn with_explicit_keys(json: String) -> String {
    if json.lines().all(|line| line.len() <= LONGEST_KEY) {
        return json;
    }
    let mut text = String::with_capacity(json.len() + 16);
    for line in json.lines() {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        text.push_str(indent);
        if key_length(rest).is_some_and(|length| length > LONGEST_KEY) {
            text.push_str("? ");
        }
        text.push_str(rest);
        text.push('\n');
    }
    text
}

/// Returns the length of the key that a line begins with; `None` if it begins with none.
fn key_length(line: &str) -> Option<usize> {
    let mut is_escaped = false;
    let end = line.strip_prefix('"')?.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })?;
    line.get(end + 2..)?.starts_with(": ").then_some(end)
}

/// The form that `text` has. Its metadata is what a document of a file may say of itself.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: WrittenMetadata<'a>,
    spec: serde_json::Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_timestamp: Option<&'a str>,
    name: &'a str,
}

impl Object {
    /// Decodes an object of one of our kinds.
    ///
    /// # Errors
    /// Fails if its metadata is not that of an object. Its `spec` is not checked.
    pub fn decode(kind: Kind, api_version: &str, json: &str) -> Result<Self, serde_json::Error> {
        let Whole { metadata, spec, status } = serde_json::from_str(json)?;
        let spec = match spec {
            // A number that is too long for a value, or too many levels: the text as it is says what is wrong.
            Some(spec) => serde_json::from_str(spec.get())?,
            None => serde_json::Value::Object(serde_json::Map::new()),
        };
        let text = text(&Written {
            api_version,
            kind: kind.as_str(),
            metadata: WrittenMetadata {
                creation_timestamp: metadata.creation_timestamp.as_deref(),
                name: &metadata.name,
            },
            spec,
        })?;
        let id = ResourceId {
            kind,
            namespace: Some(&metadata.namespace).filter(|it| !it.is_empty()).cloned(),
            name: Arc::clone(&metadata.name),
        };
        let revision = Revision {
            uid: Some(&metadata.uid).filter(|uid| !uid.is_empty()).cloned(),
            generation: metadata.generation,
        };
        let text = Arc::from(text);
        let conditions = match kind {
            Kind::TlsRoute => status.0.of_route.conditions(),
            _ => status.0.conditions,
        };
        let addresses = Vec::new();
        Ok(Self { id, revision, text, metadata, conditions, addresses, mapping: None })
    }

    /// Returns whether the object is of one of our own kinds, of which statuses and accepted revisions are written.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.mapping.is_none() && ResourceType::of(self.id.kind).is_some()
    }

    /// Returns whether the object counts as gone: a `Mapping` that waits for its finalizers only.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.mapping.is_some() && self.metadata.deletion_timestamp.is_some()
    }

    /// Builds the object that stands for a Namespace whose labels say how its programs leave.
    #[must_use]
    pub fn of_namespace(metadata: &Metadata) -> Self {
        let created = metadata.creation_timestamp.as_deref();
        Self {
            id: ResourceId::new(Kind::Namespace, &metadata.name),
            revision: Revision {
                uid: Some(&metadata.uid).filter(|uid| !uid.is_empty()).cloned(),
                generation: metadata.generation,
            },
            text: Arc::from(egress_policy::of_namespace(&metadata.name, created)),
            metadata: metadata.clone(),
            conditions: Vec::new(),
            addresses: Vec::new(),
            mapping: None,
        }
    }

    /// Returns the document that the object is.
    #[must_use]
    pub fn document(&self) -> Document {
        if let Some(mapping) = &self.mapping {
            return mapping.document().clone();
        }
        self.in_form(Arc::clone(&self.text), self.revision.clone())
    }

    /// Returns the document that the object was in an earlier revision, of which this is the text.
    #[must_use]
    pub fn former_document(&self, text: Arc<str>, generation: u64) -> Document {
        self.in_form(text, Revision { generation, ..self.revision.clone() })
    }

    fn in_form(&self, text: Arc<str>, revision: Revision) -> Document {
        let place = Arc::from(self.id.to_string());
        // No directories: an object cannot name files of the host.
        let source = document::source(self.id.kind, &place, text, 1, Vec::new());
        let content = document::content(&source);
        let created = self.metadata.creation_timestamp.clone();
        Document::of_object(self.id.clone(), revision, created, source, content)
    }
}

#[cfg(test)]
mod tests {
    use durward_control::document::Content;
    use serde_json::json;

    use super::*;

    const VERSION: &str = "durward.dev/v1alpha1";

    fn tenant(spec: &serde_json::Value) -> String {
        json!({
            "apiVersion": VERSION, "kind": "Tenant",
            "metadata": {
                "name": "acme", "uid": "u-1", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-11-01T10:00:00Z",
                "labels": {"team": "a"},
                "annotations": { LAST_APPLIED: "{\"whole\": \"object\"}", "note": "kept" },
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready",
                "message": "", "observedGeneration": 3, "lastTransitionTime": "2026-11-01T10:00:00Z"}]},
        })
        .to_string()
    }

    #[test]
    fn what_others_keep_in_an_object_is_dropped() {
        let json = tenant(&json!({"egress": {"addresses": ["203.0.113.1"]}}));

        let object = Object::decode(Kind::Tenant, VERSION, &json).unwrap();

        assert_eq!(object.id, ResourceId::new(Kind::Tenant, "acme"));
        assert_eq!(object.revision, Revision { uid: Some(Arc::from("u-1")), generation: 3 });
        let annotations: Vec<&str> = object.metadata.annotations.keys().map(|key| &**key).collect();
        assert_eq!(annotations, ["note"]);
        assert!(!object.text.contains("whole") && !object.text.contains("manager"));
        assert_eq!(object.conditions.len(), 1);
    }

    #[test]
    fn an_object_is_the_document_that_a_file_would_hold() {
        let json = tenant(&json!({"egress": {"addresses": ["203.0.113.1"]}}));

        let document = Object::decode(Kind::Tenant, VERSION, &json).unwrap().document();

        let Content::Tenant(read) = &document.content else { panic!("{:?}", document.content) };
        assert_eq!(read.spec.egress.addresses[0].value, "203.0.113.1");
        assert_eq!(document.id, Some(ResourceId::new(Kind::Tenant, "acme")));
        assert_eq!(document.created.as_deref(), Some("2026-11-01T10:00:00Z"));
    }

    #[test]
    fn a_spec_of_a_wrong_form_is_a_broken_document_that_says_which_field() {
        let json = tenant(&json!({"egress": {"addresses": "203.0.113.1"}}));

        let document = Object::decode(Kind::Tenant, VERSION, &json).unwrap().document();

        let Content::Broken(broken) = &document.content else { panic!("{:?}", document.content) };
        assert_eq!(&*broken.findings[0].field, "spec.egress.addresses");
        assert_eq!(document.id, Some(ResourceId::new(Kind::Tenant, "acme")));
    }

    #[test]
    fn a_status_of_a_wrong_form_does_not_cost_the_object() {
        let json = tenant(&json!({})).replace(r#""status":"True""#, r#""status":[7]"#);

        let object = Object::decode(Kind::Tenant, VERSION, &json).unwrap();

        assert!(object.conditions.is_empty());
    }

    /// YAML takes a longer text before a colon for no key, and the whole document was broken with a sentence that says nothing of the field.
    #[test]
    fn a_long_key_comes_through_unchanged() {
        for name in ["x".repeat(70_000), "\"\\: ".repeat(400)] {
            let json = tenant(&json!({"upstreams": {(&*name): {"endpoints": [name]}}}));

            let document = Object::decode(Kind::Tenant, VERSION, &json).unwrap().document();

            let Content::Tenant(read) = &document.content else { panic!("{:?}", document.content) };
            assert!(read.spec.upstreams.keys().any(|key| key.value == name));
        }
    }

    #[test]
    fn strings_of_an_object_come_through_unchanged() {
        let odd = "a\nb\"c\\$(id){{x}}\u{0}\t\r\u{7f}\u{85}\u{2028}\u{feff}\u{ffff}é😀: # - ";
        let json = tenant(&json!({"egress": {"contact": odd}}));

        let document = Object::decode(Kind::Tenant, VERSION, &json).unwrap().document();

        let Content::Tenant(read) = &document.content else { panic!("{:?}", document.content) };
        assert_eq!(read.spec.egress.contact.as_ref().map(|text| text.value.as_str()), Some(odd));
    }
}
