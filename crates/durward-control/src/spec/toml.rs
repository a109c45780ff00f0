//! A `Tenant` document in TOML: the same fields, one document per file.
//!
//! Deliberately absent: the place of each value; findings about a TOML document name the field, parse errors the line.

use durward_model::verdict::Severity;

use super::document;
use super::tenant::TenantDocument;
use crate::place::Place;
use crate::resources::{Broken, Content, Source};

/// What the TOML text of `source` says.
#[must_use]
pub fn content(source: &Source) -> Content {
    match toml::from_str::<TenantDocument>(&source.text) {
        Ok(tenant) => document::checked(source, tenant),
        Err(error) => {
            let place =
                error.span().map(|range| Place::within(&source.text, &range)).unwrap_or_default();
            let message =
                error.message().lines().next().unwrap_or("the text cannot be parsed").to_owned();
            let finding = source.finding(Severity::Error, "Unreadable", place, "", &message);
            let name = named_in(&source.text);
            Content::Broken(std::sync::Arc::new(Broken { name, findings: vec![finding] }))
        }
    }
}

/// The tenant's name, as far as the text can be understood.
fn named_in(text: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(text).ok()?;
    Some(table.get("metadata")?.get("name")?.as_str()?.to_owned())
}
