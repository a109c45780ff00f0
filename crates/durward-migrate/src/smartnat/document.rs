//! The documents a migration writes, short enough to be read before they are used: names and lists stand on one line.

use durward_control::spec::{port_mapping, tenant};
use serde::Serialize;
use serde_saphyr::{FlowMap, FlowSeq, SerializerOptions, ser_options};

/// A document of any kind.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<Spec> {
    api_version: &'static str,
    kind: &'static str,
    metadata: FlowMap<Metadata>,
    spec: Spec,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_timestamp: Option<String>,
}

#[derive(Serialize)]
struct TenantSpec {}

/// The spec of a `PortMapping`, with the fields SmartNat has an equal of.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortMappingSpec {
    pub(super) tenant: String,
    pub(super) addresses: FlowSeq<Vec<String>>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) shared: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allowed_sources: Option<FlowSeq<Vec<String>>>,
    pub(super) source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) affinity: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) egress: bool,
    pub(super) ports: Vec<FlowMap<PortSpec>>,
}

/// An external port of a `PortMapping`.
#[derive(Serialize)]
pub(super) struct PortSpec {
    pub(super) port: u16,
    pub(super) protocol: &'static str,
    pub(super) endpoints: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Writes a `Tenant` without a door.
pub(super) fn tenant(name: &str) -> String {
    let metadata = Metadata { name: name.to_owned(), creation_timestamp: None };
    text(tenant::KIND, metadata, TenantSpec {})
}

/// Writes a `PortMapping`.
pub(super) fn port_mapping(name: String, created: Option<&str>, spec: PortMappingSpec) -> String {
    let metadata = Metadata { name, creation_timestamp: created.map(str::to_owned) };
    text(port_mapping::KIND, metadata, spec)
}

fn text(kind: &'static str, metadata: Metadata, spec: impl Serialize) -> String {
    let api_version = tenant::API_VERSION;
    let document = Document { api_version, kind, metadata: FlowMap(metadata), spec };
    serde_saphyr::to_string_with_options(&document, options())
        .expect("texts, numbers and lists have a YAML form")
}

/// Long texts are not folded: a reader of the file looks for what was written.
fn options() -> SerializerOptions {
    ser_options! { prefer_block_scalars: false, compact_list_indent: false }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn names_of_any_kind_are_read_back_as_they_were() {
        for name in [
            "acme-desk",
            "No",
            "1e3",
            "0x1",
            "a: {b}\n\"c\"",
            "# x",
            "- y",
            "",
            "~",
            "é\\u{7f}",
            &"x ".repeat(99),
        ] {
            let read: Value = serde_saphyr::from_str(&tenant(name)).unwrap();

            assert_eq!(read["metadata"]["name"], name);
        }
    }
}
