//! A file's text becomes documents: split at `---`, each parsed by itself, so that a bad one costs no other.
//!
//! JSON is read as the YAML it is. Deliberately absent: files; the text is given.

use std::path::PathBuf;
use std::sync::Arc;

use durward_model::Kind;
use durward_model::verdict::Severity;
use serde::Deserialize;
use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;

use crate::document::{Broken, Content, Source};
use crate::foreign::IngressDocument;
use crate::place::{At, Place};
use crate::spec::budget::Excess;
use crate::spec::egress_policy::{self, EgressPolicyDocument};
use crate::spec::fields::{Path, Sought};
use crate::spec::foreign_api;
use crate::spec::hosted_api::{self, HostedApiDocument};
use crate::spec::port_mapping::{self, PortMappingDocument};
use crate::spec::tenant::{API_VERSION, KIND, TenantDocument};
use crate::suggest;

/// Kinds that come with later parts of Durward.
const LATER: [&str; 2] = ["ClusterLink", "AddressPool"];

/// A part of a file that holds one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Text.
    pub text: &'a str,
    /// The line it begins at, counted from 1.
    pub first_line: u32,
}

/// The parts of a YAML stream that hold something. `---` and `...` at the beginning of a line never lie inside a value (YAML 1.2 §9.1).
#[must_use]
pub fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut first_line, mut at) = (0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if at > start && is_marker(line, "---") {
            parts.push(Part { text: &text[start..at], first_line });
            (start, first_line) = (at, number);
        }
        at += line.len();
    }
    parts.push(Part { text: &text[start..], first_line });
    parts.retain(|part| part.text.lines().any(holds_something));
    parts
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn holds_something(line: &str) -> bool {
    let content = if is_marker(line, "---") { &line[3..] } else { line }.trim();
    !(content.is_empty() || content.starts_with(['#', '%']) || is_marker(line, "..."))
}

/// The kinds that are read.
const KINDS: [&str; 4] = [KIND, port_mapping::KIND, egress_policy::KIND, hosted_api::KIND];

/// The kinds of documents that add to a tenant.
const PARTS: [(Kind, &str); 3] = [
    (Kind::PortMapping, port_mapping::KIND),
    (Kind::EgressPolicy, egress_policy::KIND),
    (Kind::HostedApi, hosted_api::KIND),
];

/// The kind a YAML text says it is of; `Tenant` when it says nothing that is known.
#[must_use]
pub fn kind(text: &str) -> Kind {
    // Most texts need not be parsed to know that.
    if !PARTS.iter().any(|(_, name)| text.contains(name)) {
        return Kind::Tenant;
    }
    let head = serde_saphyr::from_str::<Head>(text).ok();
    if let Some(kind) = head.and_then(|head| head.kind) {
        return known_kind(&kind);
    }
    let mut named = text.lines().filter_map(|line| line.trim_end().strip_prefix("kind: "));
    named.next().map_or(Kind::Tenant, known_kind)
}

/// The kind of this name, or else `Tenant`.
pub(super) fn known_kind(name: &str) -> Kind {
    let part = PARTS.iter().find(|(_, part)| *part == name);
    part.map_or(Kind::Tenant, |(kind, _)| *kind)
}

/// Returns the kind of document that an object of this kind is read as.
#[must_use]
pub fn kind_of_object(kind: Kind) -> Kind {
    if kind == Kind::Mapping { Kind::PortMapping } else { kind }
}

/// The source of a document of a kind at `first_line` of `file`, whose relative names are looked up in `bases`.
#[must_use]
pub fn source(
    kind: Kind,
    file: &Arc<str>,
    text: Arc<str>,
    first_line: u32,
    bases: Vec<PathBuf>,
) -> Source {
    Source { kind, file: Arc::clone(file), text, first_line, bases, ..Source::default() }
}

/// Parses the text of `source`.
#[must_use]
pub fn content(source: &Source) -> Content {
    read(source.kind, &source.text).unwrap_or_else(|fault| fault.of(source))
}

/// Parses a YAML text of this kind.
pub(super) fn read(kind: Kind, text: &str) -> Result<Content, Fault> {
    let read = match kind {
        kind if kind.is_foreign_api() => {
            let read = foreign_api::read(kind, text);
            return read
                .map(|foreign| Content::ForeignApi(Arc::new(foreign)))
                .map_err(|error| foreign_fault(text, &error));
        }
        Kind::PortMapping => serde_saphyr::from_str(text).map(checked_mapping),
        Kind::EgressPolicy | Kind::Namespace => serde_saphyr::from_str(text).map(checked_policy),
        Kind::HostedApi => serde_saphyr::from_str(text).map(checked_hosted_api),
        Kind::Ingress => return ingress(text),
        _ => serde_saphyr::from_str(text).map(checked),
    };
    read.unwrap_or_else(|error| Err(fault(text, &error)))
}

/// The tenant, if the document is of our kind and version.
pub(super) fn checked(document: TenantDocument) -> Result<Content, Fault> {
    match misdirected(&document.api_version, &document.kind) {
        None => Ok(Content::Tenant(Arc::new(document))),
        Some(fault) => Err(fault),
    }
}

/// The mapping, if the document is of our version.
pub(super) fn checked_mapping(document: PortMappingDocument) -> Result<Content, Fault> {
    match misdirected(&document.api_version, &document.kind) {
        None => Ok(Content::Mapping(Arc::new(document))),
        Some(fault) => Err(fault),
    }
}

/// The policy, if the document is of our version.
pub(super) fn checked_policy(document: EgressPolicyDocument) -> Result<Content, Fault> {
    match misdirected(&document.api_version, &document.kind) {
        None => Ok(Content::Policy(Arc::new(document))),
        Some(fault) => Err(fault),
    }
}

/// The hosted API server, if the document is of our version.
pub(super) fn checked_hosted_api(document: HostedApiDocument) -> Result<Content, Fault> {
    match misdirected(&document.api_version, &document.kind) {
        None => Ok(Content::HostedApi(Arc::new(document))),
        Some(fault) => Err(fault),
    }
}

/// Reads an Ingress. Its text is what was made of an object of a cluster, in JSON.
fn ingress(text: &str) -> Result<Content, Fault> {
    let read = IngressDocument::read(text);
    read.map(|ingress| Content::Ingress(Arc::new(ingress)))
        .map_err(|why| Fault { name: named_in(text), ..Fault::of_form(None, why) })
}

/// Reason why a text is not a document.
#[derive(Debug)]
pub(super) struct Fault {
    reason: &'static str,
    /// Message about the field, or about the whole document.
    pub(super) sentence: String,
    /// Path of the field, if it is known.
    pub(super) path: Option<Path>,
    pub(super) place: Place,
    /// Name of the document, if it can be read.
    pub(super) name: Option<String>,
}

impl Fault {
    /// A text whose form is wrong.
    pub(super) fn of_form(path: Option<Path>, sentence: String) -> Self {
        Self { reason: "Unreadable", sentence, path, place: Place::default(), name: None }
    }

    /// The broken document.
    pub(super) fn of(self, source: &Source) -> Content {
        let field = self.path.map(|path| path.to_string()).unwrap_or_default();
        let finding =
            source.finding(Severity::Error, self.reason, self.place, &field, &self.sentence);
        Content::Broken(Arc::new(Broken { name: self.name, findings: vec![finding] }))
    }
}

/// What every document says about itself, whatever else is in it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<At<String>>,
    kind: Option<At<String>>,
    metadata: Option<HeadMetadata>,
}

#[derive(Deserialize)]
struct HeadMetadata {
    name: Option<String>,
}

/// What is wrong with an object of another controller, whose kind and version are not ours.
fn foreign_fault(text: &str, error: &Error) -> Fault {
    let head = serde_saphyr::from_str::<Head>(text).ok();
    let name = head.and_then(|head| head.metadata).and_then(|metadata| metadata.name);
    let place = error.location().map(Place::from).unwrap_or_default();
    Fault { place, name, ..of_form(error, text, place) }
}

fn fault(text: &str, error: &Error) -> Fault {
    let head = serde_saphyr::from_str::<Head>(text).ok();
    let (version, kind) =
        head.as_ref().map_or((None, None), |head| (head.api_version.as_ref(), head.kind.as_ref()));
    if let (Some(version), Some(kind)) = (version, kind)
        && let Some(fault) = misdirected(version, kind)
    {
        return fault;
    }
    let name = head.and_then(|head| head.metadata).and_then(|metadata| metadata.name);
    let place = error.location().map(Place::from).unwrap_or_default();
    Fault { place, name: name.or_else(|| named_in(text)), ..of_form(error, text, place) }
}

/// A document of another kind or version.
fn misdirected(version: &At<String>, kind: &At<String>) -> Option<Fault> {
    let kinds = || KINDS.join(", ");
    let (field, at, sentence) = if !version.starts_with("durward.dev/") {
        let sentence = format!("{:?} is not ours: Durward reads {API_VERSION}", version.value);
        ("apiVersion", version, sentence)
    } else if version.value != API_VERSION {
        let sentence =
            format!("{:?} is not known: this version reads {API_VERSION}", version.value);
        ("apiVersion", version, sentence)
    } else if LATER.contains(&kind.as_str()) {
        let sentence =
            format!("{:?} is not served yet: this version reads {}", kind.value, kinds());
        ("kind", kind, sentence)
    } else if !KINDS.contains(&kind.as_str()) {
        let hint = suggest::hint(kind, KINDS);
        let sentence =
            format!("{:?} is not known{hint}: this version reads {}", kind.value, kinds());
        ("kind", kind, sentence)
    } else {
        return None;
    };
    let path = Some(Path::default().with(field));
    Some(Fault { reason: "UnknownKind", sentence, path, place: at.place, name: None })
}

/// The name in a text too broken to parse: that of the first `metadata`.
fn named_in(text: &str) -> Option<String> {
    let after = &text[text.find("metadata:")?..];
    let mut names = after.lines().take(12).filter_map(|line| {
        let (_, value) = line.split_once("name:")?;
        let name = value.trim().split([',', '}', '#', ' ']).next()?.trim_matches(['"', '\'']);
        (!name.is_empty()).then(|| name.to_owned())
    });
    names.next()
}

/// What is wrong at `place` of a YAML text, in our words where the error says what was expected.
fn of_form(error: &Error, text: &str, place: Place) -> Fault {
    let to = |sought| Path::to(text, place, sought);
    let of_name = |name: &str, sentence: String| match to(Sought::Name) {
        Some(path) => Fault::of_form(Some(path), sentence),
        None => Fault::of_form(None, format!("field {name:?} {sentence}")),
    };
    let of_value = |sentence: String| Fault::of_form(to(Sought::Value), sentence);
    let must_be = |what: &str| match to(Sought::Value) {
        Some(path) if path.is_whole() => {
            Fault::of_form(None, format!("the document must be {what}"))
        }
        Some(path) => Fault::of_form(Some(path), format!("must be {what}")),
        None => Fault::of_form(None, format!("what is written here must be {what}")),
    };
    match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => {
            let hint = suggest::hint(field, expected.iter().copied());
            of_name(field, format!("is not known here{hint}; known are {}", expected.join(", ")))
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            of_name(key, "is written twice: keep one of them".to_owned())
        }
        Error::SerdeMissingField { field, .. } => match to(Sought::Mapping) {
            Some(path) => Fault::of_form(Some(path.with(field)), "is missing".to_owned()),
            None => Fault::of_form(None, format!("field {field:?} is missing here")),
        },
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            let hint = suggest::hint(variant, expected.iter().copied());
            let allowed = expected.join(", ");
            of_value(format!("{variant:?} is not allowed here{hint}; allowed are {allowed}"))
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            must_be(&format!("{expected}, but {unexpected} is written"))
        }
        Error::InvalidScalar { ty, .. } => match place.of(text) {
            Some(written) => {
                let bare = written.trim_matches(['"', '\'']);
                of_value(format!("{bare:?} is not {}", expected(ty)))
            }
            None => must_be(expected(ty)),
        },
        Error::Unexpected { expected: wanted, .. } => must_be(expected(wanted)),
        Error::Budget {
            breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, ..
        } => Fault::of_form(None, Excess::Values.sentence()),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            Fault::of_form(None, Excess::Levels.sentence())
        }
        other => Fault::of_form(None, plain(&other.to_string())),
    }
}

/// Returns what the parser expected, in the words of documents.
fn expected(what: &str) -> &str {
    match what {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "bool" | "boolean" => "true or false",
        "mapping start" => "a mapping: names with values, like `name: value` on lines of their own",
        "sequence start" => "a list: each entry on a line after `- `, or all in [ ] with commas",
        "string scalar" | "scalar" | "scalar value" => "a text",
        other => other,
    }
}

/// The first line of a message, without the position we print ourselves.
fn plain(message: &str) -> String {
    let line = message.lines().next().unwrap_or("the text cannot be parsed");
    let end = line.find(" at line ").unwrap_or(line.len());
    let line = line[..end].trim().trim_end_matches(['.', ',', ':']);
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_split_where_its_documents_begin() {
        let text = "# head\n---\na: 1\n---\n# nothing\n--- {b: 2}\n...\n---\nc: |\n  ---\n  text\n";

        let parts: Vec<(u32, &str)> =
            split(text).iter().map(|part| (part.first_line, part.text)).collect();

        assert_eq!(
            parts,
            [(2, "---\na: 1\n"), (6, "--- {b: 2}\n...\n"), (8, "---\nc: |\n  ---\n  text\n")]
        );
    }

    #[test]
    fn the_name_in_a_broken_text_is_found() {
        assert_eq!(named_in("metadata: {name: acme}\nspec: ["), Some("acme".to_owned()));
        assert_eq!(named_in("metadata:\n  name: \"bank\" # us\nspec: ["), Some("bank".to_owned()));
        assert_eq!(named_in("spec: ["), None);
    }
}
