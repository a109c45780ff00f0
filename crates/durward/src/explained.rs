//! An explanation with its source, files or a running gateway, and the documents that are not in it.

use durward_model::explain::{self, Ending, Explanation, Question, Step};
use durward_model::verdict::Outcome;
use durward_model::{Snapshot, TenantId, Verdicts};
use durward_proxy::{ClusterReport, LinkReport};
use serde::{Deserialize, Serialize};

use crate::app::health::why;

/// Documents listed at most.
const NAMED: usize = 20;

/// Explanation and its source.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explained {
    #[serde(flatten)]
    pub(crate) explanation: Explanation,
    /// Generation of the running gateway that answered; `None` if the files did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
    /// Documents that are not wholly accepted.
    #[serde(default)]
    pub(crate) not_accepted: Vec<NotAccepted>,
    /// Number of further ones.
    #[serde(default)]
    pub(crate) more_not_accepted: usize,
}

/// Document that is not, or only partly, in an explanation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NotAccepted {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// `rejected`, `partly accepted` or `rejected, last good kept`.
    pub(crate) outcome: String,
    /// First error of the document, with file and line.
    pub(crate) why: String,
}

impl Explained {
    /// Answers `question` from a snapshot and the verdicts beside it.
    pub(crate) fn new(snapshot: &Snapshot, verdicts: &Verdicts, question: &Question) -> Self {
        let verdicts = verdicts.iter();
        let bad: Vec<_> = verdicts.filter(|verdict| verdict.outcome != Outcome::Accepted).collect();
        let named = bad.iter().take(NAMED).map(|verdict| NotAccepted {
            kind: verdict.resource.kind.to_string(),
            name: verdict.resource.name.to_string(),
            outcome: verdict.outcome.to_string(),
            why: why(verdict),
        });
        Self {
            explanation: explain::explain(snapshot, question),
            generation: None,
            not_accepted: named.collect(),
            more_not_accepted: bad.len().saturating_sub(NAMED),
        }
    }

    /// Adds the state of the link that the upstream is behind; without a carrier requests are refused.
    pub(crate) fn with_links(
        mut self,
        snapshot: &Snapshot,
        links: impl FnOnce(&TenantId) -> Vec<LinkReport>,
    ) -> Self {
        let answer = &mut self.explanation;
        let (Ending::Served { upstream } | Ending::ServedIf { upstream, .. }) = &answer.ending
        else {
            return self;
        };
        let tenant = answer.tenant.as_deref().and_then(|name| TenantId::new(name).ok());
        let tenant = tenant.and_then(|id| snapshot.tenants.get(&id));
        let link = tenant.and_then(|tenant| {
            let upstream = tenant.upstreams.iter().find(|one| one.name == *upstream)?;
            Some((&tenant.id, upstream.link.as_ref()?, upstream.direct.as_ref()))
        });
        let Some((tenant, link, direct)) = link else { return self };
        let report = links(tenant).into_iter().find(|report| report.name == *link);
        let carriers = report.as_ref().map_or(0, |report| report.carriers);
        let sentence = if carriers > 0 {
            format!("{link} is up, with {carriers} carriers")
        } else {
            answer.ending = Ending::Refused { reason: "link_absent".into() };
            format!("{link} has no carrier: run `durward agent status` in its cluster")
        };
        answer.steps.push(Step { stage: "link".into(), sentence, origin: None });
        if let Some(direct) = direct.filter(|_| carriers > 0) {
            let sentence = way(&direct.host, report.and_then(|report| report.cluster));
            answer.steps.push(Step { stage: "direct".into(), sentence, origin: None });
        }
        self
    }
}

/// Returns the way of requests for a host that may be reached directly.
fn way(host: &str, cluster: Option<ClusterReport>) -> String {
    let Some(ClusterReport { said, direct_hosts, link_because }) = cluster else {
        return "requests go over the link: its agent says nothing of its cluster".to_owned();
    };
    let Some(endpoint) = said.public_endpoint else {
        return "requests go over the link: its agent offers no public endpoint".to_owned();
    };
    if direct_hosts.iter().any(|known| **known == *host) {
        return format!("requests go directly to {endpoint}, which is proven");
    }
    let why = link_because.unwrap_or_else(|| "it is not proven yet".to_owned());
    format!("requests go over the link, not to {endpoint}: {why}")
}
