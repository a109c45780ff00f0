//! The forms configuration is written in, one file per kind, before anything in them is checked.
//!
//! Scalars a user may get wrong (addresses, names, durations) stay text with their place here: a bad one then costs the listener it is
//! in, not the whole document. Deliberately absent: meaning; that is `compile`.

pub mod api_proxy;
mod budget;
pub mod document;
pub mod egress;
pub mod egress_policy;
mod fields;
pub mod foreign_api;
pub mod hosted_api;
pub mod ingress;
pub mod object_name;
pub mod port_mapping;
pub mod publish;
pub mod references;
pub mod route;
pub mod routing_json;
pub mod service;
pub mod smartnat;
pub mod tenant;
pub mod toml;
pub mod upstream;

/// The JSON schema of the documents, draft 2020-12, for editors and for people: a `Tenant`, a `PortMapping`, an `EgressPolicy` or a `HostedApi`.
#[must_use]
pub fn schema() -> serde_json::Value {
    #[derive(schemars::JsonSchema)]
    #[serde(untagged)]
    #[schemars(title = "Durward document")]
    #[expect(dead_code, clippy::large_enum_variant, reason = "only its schema is of interest")]
    enum Document {
        Tenant(tenant::TenantDocument),
        PortMapping(port_mapping::PortMappingDocument),
        EgressPolicy(egress_policy::EgressPolicyDocument),
        HostedApi(hosted_api::HostedApiDocument),
    }
    schemars::schema_for!(Document).to_value()
}
