//! Ingresses: which are ours, what they say as a document, and what is written into their status.

use std::net::IpAddr;
use std::sync::Arc;

use durward_control::foreign::objects::DEFAULT_CLASS;
use durward_control::stream::ObjectReport;
use durward_model::{Kind, ResourceId, Revision};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::addresses::{AddressWriter, Addressed, Form, Saying, Status};
use crate::lease::MayWrite;
use crate::object::{self, Labels, Lenient, Metadata, Object};
use crate::resource_type::INGRESSES;
use crate::status::WriterOptions;

/// Controller of the classes whose Ingresses are read (`spec.controller` of an `IngressClass`).
pub const CONTROLLER: &str = "durward.dev/ingress";
/// Annotation that names a class; it comes before the field.
const CLASS: &str = "kubernetes.io/ingress.class";
/// Field manager of the statuses.
const MANAGER: &str = "durward-ingress";
/// Findings that become Events.
const WARNINGS: usize = 20;

/// An `IngressClass`, as far as it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Class {
    /// True if Ingresses of the class are ours.
    pub(crate) is_ours: bool,
    /// True if Ingresses that name no class belong to it.
    pub(crate) is_default: bool,
}

impl Class {
    /// Decodes a class.
    ///
    /// # Errors
    /// Fails, with a phrase for people, if it has another form.
    pub(crate) fn decode(metadata: &Metadata, json: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Whole {
            #[serde(default)]
            spec: Spec,
        }
        #[derive(Default, Deserialize)]
        struct Spec {
            #[serde(default)]
            controller: String,
        }
        let Whole { spec } = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let is_default = metadata.annotations.get(DEFAULT_CLASS).is_some_and(|it| &**it == "true");
        Ok(Self { is_ours: spec.controller == CONTROLLER, is_default })
    }
}

#[derive(Deserialize)]
struct Whole<'a> {
    metadata: Metadata,
    #[serde(borrow, default)]
    spec: Option<&'a RawValue>,
    #[serde(default)]
    status: Lenient<Status>,
}

/// The form of an Ingress as a document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: WrittenMetadata<'a>,
    spec: serde_json::Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata<'a> {
    annotations: &'a Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_timestamp: Option<&'a str>,
    name: &'a str,
    namespace: &'a str,
}

/// Decodes an Ingress, with the class that it names.
///
/// # Errors
/// Fails, with a phrase for people, if its metadata is not that of an object.
pub(crate) fn decode(json: &str) -> Result<(Option<Arc<str>>, Object), String> {
    let unreadable = |error: serde_json::Error| error.to_string();
    let Whole { metadata, spec, status } = serde_json::from_str(json).map_err(unreadable)?;
    let spec = spec.map_or("{}", RawValue::get);
    let spec: serde_json::Value = serde_json::from_str(spec).map_err(unreadable)?;
    let annotation = metadata.annotations.get(CLASS).cloned();
    let field = spec.get("ingressClassName").and_then(serde_json::Value::as_str);
    let class = annotation.or_else(|| field.map(Arc::from)).filter(|class| !class.is_empty());
    let text = object::text(&Written {
        api_version: "networking.k8s.io/v1",
        kind: "Ingress",
        metadata: WrittenMetadata {
            annotations: &metadata.annotations,
            creation_timestamp: metadata.creation_timestamp.as_deref(),
            name: &metadata.name,
            namespace: &metadata.namespace,
        },
        spec,
    });
    let text = Arc::from(text.map_err(unreadable)?);
    let id = ResourceId::namespaced(Kind::Ingress, &metadata.namespace, &metadata.name);
    let uid = Some(&metadata.uid).filter(|uid| !uid.is_empty()).cloned();
    let revision = Revision { uid, generation: metadata.generation };
    let (conditions, addresses, mapping) = (Vec::new(), status.0.addresses(), None);
    Ok((class, Object { id, revision, metadata, text, conditions, addresses, mapping }))
}

/// Writes the statuses of Ingresses until it is dropped.
pub struct IngressWriter(AddressWriter);

impl IngressWriter {
    /// Starts to write, while this process has the right to. Called within a runtime.
    #[must_use]
    pub fn start(client: kube::Client, options: &WriterOptions, may_write: MayWrite) -> Self {
        let (resource, beside) = (&INGRESSES, json!({}));
        let form = Form { resource, manager: MANAGER, beside, may_write: Some(may_write) };
        Self(AddressWriter::start(client, options, form))
    }

    /// Notes an Ingress as it is in the API server.
    pub fn observe(&self, object: &Object) {
        self.0.observe(addressed(object));
    }

    /// Forgets an Ingress that is gone.
    pub fn forget(&self, id: &ResourceId) {
        self.0.forget(id);
    }

    /// Says what became of an Ingress: the addresses at which it is served once the planes serve it, and an Event for each finding.
    pub fn note(&self, object: &Object, report: &ObjectReport) {
        let serves = |plane: &durward_control::stream::PlaneReport| {
            plane.confirmed.as_ref() == Some(&report.observed) && plane.problem.is_none()
        };
        let is_settled = !report.planes.is_empty() && report.planes.iter().all(serves);
        let addresses: Vec<IpAddr> =
            if report.is_served() { report.addresses.clone() } else { Vec::new() };
        let findings = report.findings.iter().take(WARNINGS);
        let warnings = findings.map(|finding| {
            (
                Arc::clone(&finding.reason),
                Arc::from(format!("{} {}", finding.field, finding.sentence)),
            )
        });
        let saying =
            Saying { addresses: is_settled.then_some(addresses), warnings: warnings.collect() };
        self.0.say(addressed(object), saying);
    }
}

fn addressed(object: &Object) -> Addressed {
    let uid = Arc::clone(&object.metadata.uid);
    Addressed { id: object.id.clone(), uid, has: object.addresses.clone() }
}
