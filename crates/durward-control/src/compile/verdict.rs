//! Verdicts while they are made: one per document, filled in as the compile learns what became of it.
//!
//! Deliberately absent: sentences; those are written where a fault is found.

use std::sync::Arc;

use durward_model::verdict::{Finding, Outcome, Severity, Verdict};
use durward_model::{DocumentKey, Kind, Origin, ResourceId, Revision};

use crate::document::{Content, Document};
use crate::place::Place;

/// A verdict in the making; rejected until something of it is served.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The document it is on.
    pub(crate) document: DocumentKey,
    pub(crate) resource: ResourceId,
    pub(crate) observed: Revision,
    pub(crate) origin: Origin,
    pub(crate) findings: Vec<Finding>,
    pub(crate) served: Served,
}

/// Degree to which a document is served, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Nothing.
    Nothing,
    /// Only what was served before.
    Former,
    /// Something of what it says now.
    Current,
}

impl Draft {
    /// Builds a draft about a document; a name that is none is made fit for a terminal.
    pub(crate) fn new(document: &Document) -> Self {
        let source = &document.source;
        let start = source.origin(Place { line: 1, ..Place::default() });
        let named = |name: &str| ResourceId { kind: source.kind, ..printable(name) };
        let (named, origin, findings) = match &document.content {
            Content::Tenant(tenant) => {
                let name = &tenant.metadata.name;
                (named(name), source.origin(name.place), Vec::new())
            }
            Content::Mapping(_)
            | Content::Policy(_)
            | Content::HostedApi(_)
            | Content::Ingress(_)
            | Content::ForeignApi(_) => {
                let name = document.content.part().map(|part| &part.metadata.name);
                let origin = name.map_or_else(|| start.clone(), |name| source.origin(name.place));
                (named(name.map_or("", |name| name)), origin, Vec::new())
            }
            Content::Broken(broken) => {
                let named = match &broken.name {
                    Some(name) => named(name),
                    None if source.kind == Kind::RoutingJson => named(&source.file),
                    None => printable(&source.file),
                };
                let first = broken.findings.first();
                let first = first.filter(|_| source.kind == Kind::RoutingJson);
                let origin = first.map_or(start, |first| first.origin.clone());
                (named, origin, broken.findings.clone())
            }
        };
        Self {
            document: document.key.clone(),
            resource: document.id.clone().unwrap_or(named),
            observed: document.revision.clone(),
            origin,
            findings,
            served: Served::Nothing,
        }
    }

    /// Says that a tenant or mapping the text may be about is served as it was.
    pub(crate) fn note_kept(&mut self, id: &str) {
        self.served = Served::Former;
        self.findings.push(Finding {
            severity: Severity::Warning,
            reason: Arc::from("KeptLastGood"),
            field: Arc::from(""),
            sentence: Arc::from(format!(
                "{id} is served as it was before, for it may be what cannot be read"
            )),
            origin: self.origin.clone(),
            excerpt: None,
        });
    }

    /// The verdict, its findings in the order of the text: two compiles of one document then say the same.
    pub(crate) fn into_verdict(mut self) -> Verdict {
        self.findings.sort_by(|a, b| (a.origin.line(), &a.field).cmp(&(b.origin.line(), &b.field)));
        let faulty = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        let outcome = match (self.served, faulty) {
            (Served::Nothing, _) => Outcome::Rejected,
            (Served::Former, _) => Outcome::KeptLastGood,
            (Served::Current, true) => Outcome::Partial,
            (Served::Current, false) => Outcome::Accepted,
        };
        Verdict {
            document: self.document,
            resource: self.resource,
            observed: self.observed,
            outcome,
            findings: self.findings,
            origin: self.origin,
        }
    }
}

/// Returns a file's identity with this name, without characters that would control a terminal.
fn printable(name: &str) -> ResourceId {
    if name.chars().any(char::is_control) {
        ResourceId::new(Kind::File, &name.escape_debug().to_string())
    } else {
        ResourceId::new(Kind::File, name)
    }
}
