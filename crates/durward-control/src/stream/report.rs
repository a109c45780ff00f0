//! Result for an object, as reported by the process that serves it.

use std::net::IpAddr;
use std::sync::Arc;

use durward_model::verdict::{Finding, Outcome, Verdict};
use durward_model::{DocumentKey, Origin, ResourceId, Revision};
use serde::{Deserialize, Serialize};

/// Findings of one object that are reported. A status shows fewer.
const MOST_FINDINGS: usize = 100;
/// Planes that report on one object.
const MOST_PLANES: usize = 16;
/// Addresses at which one object is served.
const MOST_ADDRESSES: usize = 1_000;
/// Addresses of one Mapping and the pods behind each, together.
const MOST_PODS: usize = 200_000;
/// Longest sentence of a finding that is reported, in bytes.
const LONGEST_SENTENCE: usize = 4096;

/// Report of one plane on an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneReport {
    /// The plane: `proxy` or `nat`, with the gateway's name where there are several.
    pub plane: Arc<str>,
    /// The revision that it serves; `None` if it serves none.
    pub confirmed: Option<Revision>,
    /// Problem that keeps it from serving the object: a reason and a sentence.
    pub problem: Option<(Arc<str>, Arc<str>)>,
}

/// Result for one revision of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// The object.
    pub id: ResourceId,
    /// The revision that the report is on.
    pub observed: Revision,
    /// Outcome.
    pub outcome: Outcome,
    /// Findings, without excerpts.
    pub findings: Vec<Finding>,
    /// Reports of the planes.
    pub planes: Vec<PlaneReport>,
    /// Of an Ingress, the addresses of the listeners that have routes of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Of a Mapping, the addresses that this host's kernel carries, with the pods that connections go to; `None` while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<Vec<(IpAddr, Vec<IpAddr>)>>,
}

impl ObjectReport {
    /// Builds the report on an object; `None` if the verdict is on a document of a file.
    #[must_use]
    pub fn new(verdict: &Verdict, planes: Vec<PlaneReport>) -> Option<Self> {
        let id = verdict.document.object()?.clone();
        let findings = verdict.findings.iter().take(MOST_FINDINGS).map(|finding| Finding {
            excerpt: None,
            sentence: bounded(&finding.sentence),
            field: bounded(&finding.field),
            ..finding.clone()
        });
        let planes = planes.into_iter().map(|plane| PlaneReport {
            problem: plane.problem.map(|(reason, text)| (bounded(&reason), bounded(&text))),
            ..plane
        });
        let (observed, outcome) = (verdict.observed.clone(), verdict.outcome);
        let (findings, planes) = (findings.collect(), planes.collect());
        let (addresses, configured) = (Vec::new(), None);
        Some(Self { id, observed, outcome, findings, planes, addresses, configured })
    }

    /// Returns whether it is no larger than [`Self::new`] makes one. A larger one may come from a gateway that was taken over.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let is_short = |text: &Arc<str>| text.len() <= LONGEST_SENTENCE;
        let of_findings = self.findings.iter().all(|finding| {
            let texts = [&finding.reason, &finding.field, &finding.sentence];
            texts.into_iter().all(is_short) && finding.excerpt.is_none()
        });
        let of_planes = self.planes.iter().all(|plane| {
            let problem = plane.problem.iter().flat_map(|(reason, text)| [reason, text]);
            is_short(&plane.plane) && problem.into_iter().all(is_short)
        });
        let few = self.findings.len() <= MOST_FINDINGS
            && self.planes.len() <= MOST_PLANES
            && self.addresses.len() <= MOST_ADDRESSES
            && self.configured.iter().flatten().map(|(_, pods)| 1 + pods.len()).sum::<usize>()
                <= MOST_PODS;
        few && of_findings && of_planes
    }

    /// Returns the verdict that it reports.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict {
            document: DocumentKey::Object(self.id.clone()),
            resource: self.id.clone(),
            observed: self.observed.clone(),
            outcome: self.outcome,
            findings: self.findings.clone(),
            origin: Origin::Object { id: self.id.clone(), field: Arc::from("") },
        }
    }

    /// Returns whether something of the revision is served.
    #[must_use]
    pub fn is_served(&self) -> bool {
        matches!(self.outcome, Outcome::Accepted | Outcome::Partial)
    }
}

/// Returns a text, cut where it is too long.
fn bounded(text: &Arc<str>) -> Arc<str> {
    if text.len() <= LONGEST_SENTENCE {
        return Arc::clone(text);
    }
    Arc::from(&text[..text.floor_char_boundary(LONGEST_SENTENCE)])
}
