//! What became of each resource: accepted, accepted with warnings, or left out, and why, in sentences a user can act on.
//!
//! Deliberately absent: an error for the whole. A bad resource costs its own tenant only.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::origin::Origin;
use crate::resource::{DocumentKey, ResourceId, Revision};

/// The verdicts of one compile, in the order of the resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// One per resource.
    pub verdicts: Vec<Arc<Verdict>>,
}

/// What became of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The document it is on.
    pub document: DocumentKey,
    /// The resource. The name, and the tenant of a mapping, are as written, fit for a terminal, where they cannot be those of a resource.
    pub resource: ResourceId,
    /// The version of the resource that it is on.
    pub observed: Revision,
    /// What became of it.
    pub outcome: Outcome,
    /// Why; empty when there is nothing to say.
    pub findings: Vec<Finding>,
    /// Where it begins.
    pub origin: Origin,
}

/// What became of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    /// All of it is served.
    Accepted,
    /// Some of it is left out; the rest is served.
    Partial,
    /// It is broken; what was served before still is.
    KeptLastGood,
    /// None of it is served.
    Rejected,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for programs, CamelCase: `IpSanMissing`, `AddressTaken` …
    pub reason: Arc<str>,
    /// The field, `spec.ingress[0].certificate`; empty when the whole resource is meant.
    pub field: Arc<str>,
    /// A lower-case sentence without full stop that names what was written and what to do.
    pub sentence: Arc<str>,
    /// Where the field is.
    pub origin: Origin,
    /// The excerpt with a caret, when the source could make one; printed as it is.
    pub excerpt: Option<Arc<str>>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Served all the same.
    Warning,
    /// Left out.
    Error,
}

impl Verdicts {
    /// Whether every resource is accepted.
    #[must_use]
    pub fn all_accepted(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.outcome == Outcome::Accepted)
    }

    /// The verdicts, in the order of the resources.
    pub fn iter(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().map(|verdict| &**verdict)
    }

    /// All findings with the resource they are about.
    pub fn findings(&self) -> impl Iterator<Item = (&Verdict, &Finding)> {
        self.verdicts
            .iter()
            .flat_map(|verdict| verdict.findings.iter().map(move |finding| (&**verdict, finding)))
    }

    /// Returns the number of findings of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.verdicts.iter().map(|verdict| verdict.count(severity)).sum()
    }
}

impl Verdict {
    /// Returns kind and name, for people: `PortMapping web`.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{} {}", self.resource.kind, self.resource.name)
    }

    /// Returns the number of findings of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.sentence)
        } else {
            write!(f, "{} {}", self.field, self.sentence)
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Partial => "partly accepted",
            Self::KeptLastGood => "rejected, last good kept",
            Self::Rejected => "rejected",
        })
    }
}
