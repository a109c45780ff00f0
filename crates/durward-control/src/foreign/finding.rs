//! Findings about a foreign object: a reason, the field it is about, and the effect on it.

use std::collections::BTreeSet;
use std::fmt;

use crate::field::Step;

/// One thing that a user of a foreign object should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Effect on the field.
    pub effect: Effect,
    /// A stable word for programs, CamelCase: `AnnotationUnknown`, `PathTaken` …
    pub reason: &'static str,
    /// The field: `spec.rules[0].host`, `metadata.annotations["…"]`.
    pub field: String,
    /// A lower-case phrase without full stop that follows the field.
    pub sentence: String,
}

/// Difference between what is served and what an object asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Requests are let through that the object would have held back.
    Weaker,
    /// Requests that the object is for are answered 503, or are not known at all.
    Refused,
    /// Requests are served in another way.
    Otherwise,
    /// Nothing differs, or it is configured in another place.
    Noted,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.sentence)
    }
}

/// Returns the field of an annotation. The name is quoted, whatever is in it.
pub(super) fn annotation(name: &str) -> String {
    format!("metadata.annotations[{name:?}]")
}

/// Returns the field of a rule's path.
pub(super) fn path(rule: usize, path: usize) -> String {
    let rule = Step::Index(rule);
    format!("spec.rules{rule}.http.paths{}", Step::Index(path))
}

/// Collects findings; one that applies to several rules is reported once.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    said: Vec<Finding>,
    known: BTreeSet<Finding>,
}

impl Findings {
    pub(super) fn add(
        &mut self,
        effect: Effect,
        reason: &'static str,
        field: impl Into<String>,
        sentence: impl Into<String>,
    ) {
        let finding = Finding { effect, reason, field: field.into(), sentence: sentence.into() };
        if self.known.insert(finding.clone()) {
            self.said.push(finding);
        }
    }

    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.said
    }
}
