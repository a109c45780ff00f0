//! SmartNat's `Mapping` (`smartnat.aureacentral.com/v1alpha1`), read as the `PortMapping` that it stands for.
//!
//! What is invalid is called so in SmartNat's words: programs of its users compare them.

mod validate;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::verdict::{Finding, Outcome, Severity, Verdict};
use durward_model::{Kind, ResourceId, Revision};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::document::{Broken, Content, Document, Source};
use crate::place::Place;
use crate::spec::document;
use crate::spec::tenant::API_VERSION;

/// API group of SmartNat's objects.
pub const GROUP: &str = "smartnat.aureacentral.com";
/// Annotation of a `Mapping` whose addresses other tenants may use at other ports.
pub const SHARED: &str = "durward.dev/shared";
/// Text of `status.invalid` of a valid `Mapping`.
pub const VALID: &str = "no";
/// Reason word of a finding on a `Mapping` that is invalid by itself.
const INVALID: &str = "InvalidMapping";

/// SmartNat's environment, as far as it says what a `Mapping` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmartNatOptions {
    /// `SNCTRLR_SETUP_MASQUERADE`: pods see the gateway as their peer. Default: true.
    pub masquerade: bool,
    /// `SNCTRLR_SETUP_SNAT`: what the pods send out leaves by the mapping's address. Default: false.
    pub snat: bool,
    /// `SNCTRLR_MAX_PORTS_PER_MAPPING`. Default: 50.
    pub most_ports: usize,
}

impl Default for SmartNatOptions {
    fn default() -> Self {
        Self { masquerade: true, snat: false, most_ports: 50 }
    }
}

/// The `spec` of a `Mapping`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingSpec {
    /// External addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Networks that may connect; all clients if there is none.
    #[serde(default)]
    pub allowed_sources: Vec<String>,
    /// Service of the same namespace.
    #[serde(default)]
    pub service_name: String,
    /// `service`, in any case.
    #[serde(default)]
    pub mode: String,
    /// External ports.
    #[serde(default)]
    pub ports: Vec<MappingPort>,
}

/// An external port of a `Mapping`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingPort {
    /// The external port; 0 if none is written.
    #[serde(default)]
    pub port: i64,
    /// `tcp` or `udp`, in any case. Default: `tcp`.
    #[serde(default)]
    pub protocol: String,
    /// The port of the Service; 0, if none is written, is that of `port`.
    #[serde(default)]
    pub service_port: i64,
}

impl MappingPort {
    /// Returns the protocol in lower case.
    #[must_use]
    pub fn protocol(&self) -> String {
        if self.protocol.is_empty() { "tcp".to_owned() } else { self.protocol.to_lowercase() }
    }

    /// Returns the port of the Service.
    #[must_use]
    pub fn service_port(&self) -> i64 {
        if self.service_port == 0 { self.port } else { self.service_port }
    }
}

/// A `Mapping` of an API server.
#[derive(Clone, Debug)]
pub struct MappingObject {
    /// Identity.
    pub id: ResourceId,
    /// Version.
    pub revision: Revision,
    /// Time of creation by the server's clock, in RFC 3339.
    pub created: Option<Arc<str>>,
    /// Annotations.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// The text of its `spec`, as JSON.
    pub spec: Arc<str>,
}

/// Reads the `spec` of a `Mapping`.
///
/// # Errors
/// Fails, with a phrase for people, if it has another form.
pub fn read(spec: &str) -> Result<MappingSpec, String> {
    serde_json::from_str(spec).map_err(|error| error.to_string())
}

/// Returns what the mapping that a `Mapping` is is called in the snapshot: as all objects of a namespace, `NAMESPACE/` and its name.
#[must_use]
pub fn served_name(id: &ResourceId) -> String {
    format!("{}/{}", id.namespace.as_deref().unwrap_or_default(), mapping_name(id))
}

/// Returns the name of the `PortMapping` that a `Mapping` is: `NAMESPACE.NAME`, which no `PortMapping` of its own namespace has by chance.
fn mapping_name(id: &ResourceId) -> String {
    format!("{}.{}", id.namespace.as_deref().unwrap_or_default(), id.name)
}

/// Builds the document that a `Mapping` is: a `PortMapping` of the tenant of its namespace, or a broken document that says why it is invalid.
#[must_use]
pub fn document(object: &MappingObject, options: SmartNatOptions) -> Document {
    let name = mapping_name(&object.id);
    let file = Arc::from(object.id.to_string());
    let source = |text: String, ports: usize| {
        let source = document::source(Kind::PortMapping, &file, Arc::from(text), 1, Vec::new());
        Source { field_names: field_names(ports), object: Some(object.id.clone()), ..source }
    };
    let read = read(&object.spec)
        .map_err(|error| format!("Invalid Mapping: {error}"))
        .and_then(|spec| validate::validate(&spec, options.most_ports).map(|()| spec));
    let (source, content) = match read {
        Ok(spec) => {
            let shared = object.annotations.get(SHARED).is_some_and(|value| &**value == "true");
            let (ports, spec) = (spec.ports.len(), translated(&spec, options, shared));
            let mut written = json!({
                "apiVersion": API_VERSION,
                "kind": "PortMapping",
                "metadata": {"name": name},
                "spec": spec,
            });
            if let Some(created) = &object.created {
                written["metadata"]["creationTimestamp"] = json!(&**created);
            }
            // All texts in it were checked, or are the server's: JSON is the YAML that is read.
            let source = source(format!("{written:#}"), ports);
            let content = document::content(&source);
            (source, content)
        }
        Err(why) => {
            let source = source(object.spec.to_string(), 0);
            let content = invalid_content(&object.id, &source, &why);
            (source, content)
        }
    };
    let (id, revision, created) =
        (object.id.clone(), object.revision.clone(), object.created.clone());
    Document::of_object(id, revision, created, source, content)
}

/// Returns the content of the document that an invalid `Mapping` is. `why` is the text of its status, which nothing in the document says.
pub(crate) fn invalid_content(id: &ResourceId, source: &Source, why: &str) -> Content {
    let finding = Finding {
        severity: Severity::Error,
        reason: Arc::from(INVALID),
        field: Arc::from("spec"),
        sentence: Arc::from(why),
        origin: source.origin(Place::default()),
        excerpt: None,
    };
    let broken = Broken { name: Some(mapping_name(id)), findings: vec![finding] };
    Content::Broken(Arc::new(broken))
}

/// Returns why a document is that of an invalid `Mapping`; `None` if it is another one.
pub(crate) fn invalid_because(document: &Document) -> Option<&Arc<str>> {
    let id = document.key.object().filter(|id| id.kind == Kind::Mapping)?;
    let Content::Broken(broken) = &document.content else { return None };
    let mut findings = broken.findings.iter().filter(|_| broken.name == Some(mapping_name(id)));
    findings.find(|finding| *finding.reason == *INVALID).map(|finding| &finding.sentence)
}

/// Returns the names that fields of the `PortMapping` have in a `Mapping` with this many ports.
fn field_names(ports: usize) -> Vec<(String, String)> {
    let own = |ours: &str, theirs: &str| (ours.to_owned(), theirs.to_owned());
    let mut names = vec![
        own("spec.source", "SNCTRLR_SETUP_MASQUERADE"),
        own("spec.egress", "SNCTRLR_SETUP_SNAT"),
    ];
    for at in 0..ports {
        names.push((format!("spec.ports[{at}].service"), "spec.serviceName".to_owned()));
        let port = format!("spec.ports[{at}].service.port");
        names.push((port, format!("spec.ports[{at}].servicePort")));
    }
    names
}

/// Returns the `spec` of the `PortMapping` that a valid `Mapping` stands for.
fn translated(spec: &MappingSpec, options: SmartNatOptions, shared: bool) -> Value {
    let ports = spec.ports.iter().map(|port| {
        let protocol = port.protocol().to_uppercase();
        json!({
            "port": port.port,
            "protocol": protocol,
            "service": {
                "name": spec.service_name, "port": format!("{}/{protocol}", port.service_port()),
            },
        })
    });
    let mut written = json!({
        "addresses": spec.addresses,
        "ports": ports.collect::<Vec<Value>>(),
        "source": if options.masquerade { "Gateway" } else { "Preserve" },
    });
    let sources: Vec<String> = spec
        .allowed_sources
        .iter()
        .filter_map(|source| network(source))
        .map(|it| it.to_string())
        .collect();
    // SmartNat's default is written into objects, and stands for all clients, IPv6 too.
    if !sources.is_empty() && !sources.iter().any(|source| source == "0.0.0.0/0") {
        written["allowedSources"] = json!(sources);
    }
    if options.snat {
        written["egress"] = json!(true);
    }
    if shared {
        written["shared"] = json!(true);
    }
    written
}

/// Returns a network as SmartNat reads it, its host bits dropped. A single address is a network of its own.
fn network(text: &str) -> Option<IpNet> {
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().map(|network| network.trunc()).or_else(single)
}

/// Returns the text of `status.invalid`: [`VALID`] if what the `Mapping` says is served, and else why it is not.
#[must_use]
pub fn invalid(spec: &MappingSpec, verdict: &Verdict) -> String {
    if matches!(verdict.outcome, Outcome::Accepted | Outcome::Partial) {
        return VALID.to_owned();
    }
    let errors = verdict.findings.iter().filter(|one| one.severity == Severity::Error);
    let Some(error) = errors.chain(&verdict.findings).next() else {
        return "nothing of it is served".to_owned();
    };
    match &*error.reason {
        INVALID => error.sentence.to_string(),
        "PortTaken" | "AddressTaken" => conflict(spec, error),
        _ => format!("{} {}", error.field, error.sentence).trim().to_owned(),
    }
}

/// Returns SmartNat's words for a port or address that another has, and after them who that is.
fn conflict(spec: &MappingSpec, finding: &Finding) -> String {
    let at = |list: &str| -> Option<usize> {
        finding.field.strip_prefix(list)?.strip_prefix('[')?.split(']').next()?.parse().ok()
    };
    let addresses = match at("spec.addresses") {
        Some(address) => spec.addresses.get(address).cloned().unwrap_or_default(),
        None => spec.addresses.join(","),
    };
    let mut text = format!("Found conflicting external endpoint: IP(s): {addresses}");
    if let Some(port) = at("spec.ports").and_then(|at| spec.ports.get(at)) {
        // Writing to a string cannot fail.
        let _ = write!(text, "; protocol: {}; port: {}", port.protocol(), port.port);
    }
    format!("{text} ({})", finding.sentence)
}

#[cfg(test)]
mod tests;
