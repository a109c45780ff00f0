//! A document in TOML: the same fields, one document per file.
//!
//! Deliberately absent: the place of each value; findings about a TOML document name the field, those about its form the line as well.

use std::ops::Range;

use durward_model::Kind;
use toml::de::{DeTable, DeValue};

use super::budget;
use super::document::{self, Fault};
use super::fields::Path;
use crate::document::{Content, Source};
use crate::field::Step;
use crate::place::Place;

/// What the TOML text of `source` says.
#[must_use]
pub fn content(source: &Source) -> Content {
    let text = &source.text;
    if let Err((excess, at)) = budget::check(text) {
        let mut fault = Fault::of_form(None, excess.sentence());
        fault.place = Place::within(text, &(at..at + 1));
        fault.name = named(text);
        return fault.of(source);
    }
    let read = match source.kind {
        Kind::PortMapping => toml::from_str(text).map(document::checked_mapping),
        Kind::EgressPolicy => toml::from_str(text).map(document::checked_policy),
        Kind::HostedApi => toml::from_str(text).map(document::checked_hosted_api),
        _ => toml::from_str(text).map(document::checked),
    };
    let (mut fault, at) = match read {
        Ok(Ok(content)) => return content,
        Ok(Err(fault)) => (fault, None),
        Err(error) => (fault(source, &error), error.span()),
    };
    let at = fault.path.as_ref().and_then(|path| span(text, path)).or(at);
    fault.place = at.map(|at| Place::within(text, &at)).unwrap_or_default();
    fault.of(source)
}

/// A text of sound syntax is told of as the same in JSON would be, which is YAML: there can be asked what was expected.
fn fault(source: &Source, error: &toml::de::Error) -> Fault {
    let table = toml::from_str::<toml::Table>(&source.text).ok();
    let same = table.and_then(|table| serde_json::to_string(&table).ok());
    same.and_then(|same| document::read(source.kind, &same).err()).unwrap_or_else(|| {
        let message = error.message().lines().next().unwrap_or("the text cannot be parsed");
        Fault::of_form(None, message.to_owned())
    })
}

/// Returns the position of the field, or of the nearest one that contains it.
fn span(text: &str, path: &Path) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let mut node = &DeValue::Table(root.into_inner());
    let mut found = None;
    for step in path.steps() {
        let next = match (step, node) {
            (Step::Root(name) | Step::Name(name), DeValue::Table(table)) => {
                table.get_key_value(name).map(|(name, value)| (name.span(), value))
            }
            (Step::Index(at), DeValue::Array(list)) => {
                list.get(at).map(|value| (value.span(), value))
            }
            _ => None,
        };
        let Some((span, value)) = next else { break };
        found = Some(span);
        node = value.get_ref();
    }
    found
}

/// The name in a text that is not parsed: that of its first `name = "…"` before the specification.
fn named(text: &str) -> Option<String> {
    let head = text.split("\n[spec").next()?;
    head.lines().find_map(|line| {
        let value = line.trim().strip_prefix("name")?.trim_start().strip_prefix('=')?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    })
}

/// The kind a TOML text says it is of; `Tenant` when it says nothing that is known.
#[must_use]
pub fn kind(text: &str) -> Kind {
    if budget::check(text).is_err() {
        return document::known_kind("");
    }
    let table: Option<toml::Table> = toml::from_str(text).ok();
    let named = table.as_ref().and_then(|table| table.get("kind")?.as_str());
    document::known_kind(named.unwrap_or_default())
}
