//! The forms configuration is written in, one file per kind, before anything in them is checked.
//!
//! Scalars a user may get wrong (addresses, names, durations) stay text with their place here: a bad one then costs the listener it is
//! in, not the whole document. Deliberately absent: meaning; that is `compile`.

pub mod document;
pub mod egress;
pub mod ingress;
pub mod references;
pub mod route;
pub mod routing_json;
pub mod tenant;
pub mod toml;
pub mod upstream;

/// The JSON schema of the `Tenant` document, draft 2020-12, for editors and for people.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(tenant::TenantDocument).to_value()
}
