//! Definitions of our own kinds (`CustomResourceDefinition`s), made from the very types that documents of files are read with.
//!
//! Only what Kubernetes 1.25 knows is used. Rules that need a later API server belong in a ValidatingAdmissionPolicy.

mod bounds;
mod structural;

use durward_control::spec::egress_policy::EgressPolicySpec;
use durward_control::spec::hosted_api::HostedApiSpec;
use durward_control::spec::port_mapping::PortMappingSpec;
use durward_control::spec::tenant::TenantSpec;
use schemars::{JsonSchema, schema_for};
use serde_json::{Value, json};

use crate::resource_type::{EGRESS_POLICIES, HOSTED_APIS, PORT_MAPPINGS, ResourceType, TENANTS};

/// A column of `kubectl get`.
struct Column {
    name: &'static str,
    r#type: &'static str,
    path: &'static str,
    /// True if the column is shown only with `-o wide`.
    wide: bool,
}

const fn column(name: &'static str, r#type: &'static str, path: &'static str) -> Column {
    Column { name, r#type, path, wide: false }
}

const fn wide(name: &'static str, r#type: &'static str, path: &'static str) -> Column {
    Column { name, r#type, path, wide: true }
}

const READY: Column = column("Ready", "string", ".status.conditions[?(@.type=='Ready')].status");
const REASON: Column = wide("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason");
const AGE: Column = column("Age", "date", ".metadata.creationTimestamp");

/// Returns the definitions of Tenant, `PortMapping`, `EgressPolicy` and `HostedApi`, in this order.
#[must_use]
pub fn definitions() -> [Value; 4] {
    [tenant(), port_mapping(), egress_policy(), hosted_api()]
}

/// Returns the definitions as YAML documents, for `kubectl apply --server-side -f -`.
///
/// # Errors
/// Fails only if a definition has no form in YAML, which a test excludes.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    for definition in definitions() {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&definition)?);
    }
    Ok(text)
}

fn tenant() -> Value {
    let columns = [
        READY,
        column("Ingress", "string", ".spec.ingress[0].address"),
        column("Egress", "string", ".spec.egress.addresses[0]"),
        REASON,
        AGE,
    ];
    let mut schema = object::<TenantSpec>(
        "A tenant: its addresses, its certificates, where its requests go, and what it may use.",
    );
    // The name is a label's value and a part of file names.
    schema["x-kubernetes-validations"] = json!([{
        "rule": "size(self.metadata.name) <= 63",
        "message": "metadata.name must have at most 63 characters",
    }]);
    definition(&TENANTS, "tenant", &["ten"], &columns, &schema)
}

fn port_mapping() -> Value {
    let columns = [
        READY,
        column("Tenant", "string", ".spec.tenant"),
        column("Address", "string", ".spec.addresses[0]"),
        column("Port", "integer", ".spec.ports[0].port"),
        REASON,
        AGE,
    ];
    let schema = object::<PortMappingSpec>(
        "External addresses and ports of a tenant that the kernel leads to endpoints.",
    );
    definition(&PORT_MAPPINGS, "portmapping", &["pm"], &columns, &schema)
}

fn egress_policy() -> Value {
    let columns = [READY, column("Tenant", "string", ".spec.tenant"), REASON, AGE];
    let schema =
        object::<EgressPolicySpec>("Rules and networks that are added to the egress of a tenant.");
    definition(&EGRESS_POLICIES, "egresspolicy", &["egpol"], &columns, &schema)
}

fn hosted_api() -> Value {
    let columns = [
        READY,
        column("Name", "string", ".spec.names[0]"),
        column("Address", "string", ".spec.address"),
        wide("Mode", "string", ".spec.mode"),
        REASON,
        AGE,
    ];
    let schema = object::<HostedApiSpec>(
        "A hosted Kubernetes API server: its names, its endpoints, and how its tenant cluster's pods reach it.",
    );
    definition(&HOSTED_APIS, "hostedapi", &["hapi"], &columns, &schema)
}

fn object<Spec: JsonSchema>(description: &str) -> Value {
    let mut spec = structural::schema(&schema_for!(Spec).to_value());
    bounds::bound(&mut spec);
    json!({
        "description": description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": spec,
            "status": status(),
        },
    })
}

/// The status that `durward` writes; conditions are those of `metav1`.
fn status() -> Value {
    let reason = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
    json!({
        "description": "What became of it; written by Durward.",
        "type": "object",
        "properties": {
            "observedGeneration": {
                "description": "The generation that the status is about.",
                "type": "integer", "format": "int64", "minimum": 0,
            },
            "conditions": {
                "description": "Accepted: it can be served. Programmed: every gateway serves this generation. Ready: both.",
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                    "properties": {
                        "type": { "type": "string", "maxLength": 316 },
                        "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                        "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": reason },
                        "message": { "type": "string", "maxLength": 32768 },
                        "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                        "lastTransitionTime": { "type": "string", "format": "date-time" },
                    },
                },
            },
        },
    })
}

fn definition(
    kind: &ResourceType,
    singular: &str,
    short_names: &[&str],
    columns: &[Column],
    schema: &Value,
) -> Value {
    let columns: Vec<Value> = columns
        .iter()
        .map(|column| {
            let Column { name, r#type, path, wide } = column;
            let priority = i32::from(*wide);
            json!({ "name": name, "type": r#type, "jsonPath": path, "priority": priority })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", kind.plural, kind.group),
            "labels": { "app.kubernetes.io/part-of": "durward" },
        },
        "spec": {
            "group": kind.group,
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "names": {
                "kind": kind.kind, "listKind": format!("{}List", kind.kind),
                "plural": kind.plural, "singular": singular,
                "shortNames": short_names, "categories": ["durward"],
            },
            "versions": [{
                "name": kind.newest(), "served": true, "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": schema },
            }],
        },
    })
}
