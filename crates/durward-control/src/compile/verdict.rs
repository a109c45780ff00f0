//! Verdicts while they are made: one per document, filled in as the compile learns what became of it.
//!
//! Deliberately absent: sentences; those are written where a fault is found.

use std::borrow::Cow;
use std::sync::Arc;

use durward_model::Origin;
use durward_model::verdict::{Finding, Outcome, Severity, Verdict};

/// A verdict in the making; rejected until something of it is served.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) kind: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) origin: Origin,
    pub(crate) findings: Vec<Finding>,
    pub(crate) served: Served,
}

/// How much of a document is served, from least to most.
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
    /// A draft about what calls itself `name`, made fit for a terminal.
    pub(crate) fn new(kind: &Arc<str>, name: &str, origin: Origin) -> Self {
        let printable = !name.chars().any(char::is_control);
        let name = if printable {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(name.escape_debug().to_string())
        };
        Self {
            kind: Arc::clone(kind),
            name: Arc::from(&*name),
            origin,
            findings: Vec::new(),
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
            kind: self.kind,
            name: self.name,
            outcome,
            findings: self.findings,
            origin: self.origin,
        }
    }
}
