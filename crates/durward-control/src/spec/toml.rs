//! A `Tenant` or `PortMapping` document in TOML: the same fields, one document per file.
//!
//! Deliberately absent: the place of each value; findings about a TOML document name the field, parse errors the line.

use durward_model::verdict::Severity;

use super::tenant::TenantDocument;
use super::{document, port_mapping};
use crate::place::Place;
use crate::resources::{Broken, Content, Source};

/// What the TOML text of `source` says.
#[must_use]
pub fn content(source: &Source) -> Content {
    let read = if *source.kind == *port_mapping::KIND {
        toml::from_str(&source.text).map(|mapping| document::checked_mapping(source, mapping))
    } else {
        toml::from_str::<TenantDocument>(&source.text)
            .map(|tenant| document::checked(source, tenant))
    };
    match read {
        Ok(content) => content,
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

/// The kind a TOML text says it is of; `Tenant` when it says nothing that is known.
#[must_use]
pub fn kind(text: &str) -> &'static str {
    let table: Option<toml::Table> = toml::from_str(text).ok();
    let named = table.as_ref().and_then(|table| table.get("kind")?.as_str());
    document::known_kind(named.unwrap_or_default())
}

/// The tenant's or mapping's name, as far as the text can be understood.
fn named_in(text: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(text).ok()?;
    Some(table.get("metadata")?.get("name")?.as_str()?.to_owned())
}
