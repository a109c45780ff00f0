//! Verdicts on resources: accepted, accepted with warnings, or left out, and why, in sentences a user can act on.
//!
//! Deliberately absent: an error for the whole. A bad resource costs its own tenant only.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::origin::Origin;
use crate::resource::{DocumentKey, Kind, ResourceId, Revision};
use crate::shared_map::SharedMap;

/// The verdicts of one compile, one for each document, in the order of documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(SharedMap<DocumentKey, Arc<Verdict>>);

/// Verdict on one document. In JSON the kind and the name of the resource stand beside the other fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "Written")]
pub struct Verdict {
    /// The document it is on.
    pub document: DocumentKey,
    /// The resource. The name, and the tenant of a mapping, are as written, fit for a terminal, where they cannot be those of a resource.
    pub resource: ResourceId,
    /// The version of the resource that it is on.
    pub observed: Revision,
    /// Outcome.
    pub outcome: Outcome,
    /// Findings that explain the outcome; empty if there is nothing to report.
    pub findings: Vec<Finding>,
    /// Origin: the beginning of the document.
    pub origin: Origin,
}

/// Outcome of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// All of it is served.
    Accepted,
    /// Some of it is left out; the rest is served.
    Partial,
    /// Broken; what was served before still is.
    KeptLastGood,
    /// None of it is served.
    Rejected,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Severity.
    pub severity: Severity,
    /// A stable word for programs, CamelCase: `IpSanMissing`, `AddressTaken` …
    pub reason: Arc<str>,
    /// The field, `spec.ingress[0].certificate`; empty when the whole resource is meant.
    pub field: Arc<str>,
    /// A lower-case sentence without full stop that names what was written and what to do.
    pub sentence: Arc<str>,
    /// Origin of the field.
    pub origin: Origin,
    /// The excerpt with a caret, when the source could make one; printed as it is.
    pub excerpt: Option<Arc<str>>,
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Served all the same.
    Warning,
    /// Left out.
    Error,
}

impl Verdicts {
    /// Returns whether every document is accepted.
    #[must_use]
    pub fn all_accepted(&self) -> bool {
        self.iter().all(|verdict| verdict.outcome == Outcome::Accepted)
    }

    /// Returns the documents on which only one of both has a verdict, or another one. Costs little where one is a copy of the other with few changes.
    #[must_use]
    pub fn differences<'v>(&'v self, other: &'v Self) -> Vec<&'v DocumentKey> {
        let same =
            |one: &Arc<Verdict>, other: &Arc<Verdict>| Arc::ptr_eq(one, other) || one == other;
        self.0.differences(&other.0, same)
    }

    /// Returns the verdicts in the order of the documents.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Verdict> + Clone {
        self.0.values().map(|verdict| &**verdict)
    }

    /// Returns the number of verdicts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the verdict on a document.
    #[must_use]
    pub fn on(&self, document: &DocumentKey) -> Option<&Arc<Verdict>> {
        self.0.get(document)
    }

    /// Puts a verdict in the place of the one on the same document.
    pub fn put(&mut self, verdict: Arc<Verdict>) {
        self.0.insert(verdict.document.clone(), verdict);
    }

    /// Takes out the verdict on a document that is gone.
    pub fn take_out(&mut self, document: &DocumentKey) {
        self.0.remove(document);
    }

    /// Returns all findings with the verdicts they are part of.
    pub fn findings(&self) -> impl Iterator<Item = (&Verdict, &Finding)> {
        self.iter()
            .flat_map(|verdict| verdict.findings.iter().map(move |finding| (verdict, finding)))
    }

    /// Returns the number of findings of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.iter().map(|verdict| verdict.count(severity)).sum()
    }
}

impl FromIterator<Arc<Verdict>> for Verdicts {
    fn from_iter<T: IntoIterator<Item = Arc<Verdict>>>(verdicts: T) -> Self {
        let entries = verdicts.into_iter().map(|verdict| (verdict.document.clone(), verdict));
        Self(entries.collect())
    }
}

impl Serialize for Verdicts {
    /// Writes a list, in the order of the documents.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// Form of a verdict in JSON.
#[derive(Serialize)]
struct Written {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<Arc<str>>,
    name: Arc<str>,
    outcome: Outcome,
    findings: Vec<Finding>,
    origin: Origin,
}

impl From<Verdict> for Written {
    fn from(verdict: Verdict) -> Self {
        let Verdict { resource: ResourceId { kind, namespace, name }, .. } = verdict;
        let Verdict { outcome, findings, origin, .. } = verdict;
        Self { kind, namespace, name, outcome, findings, origin }
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
