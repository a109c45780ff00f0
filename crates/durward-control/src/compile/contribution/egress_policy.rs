//! An `EgressPolicy`: rules and networks for the egress of its tenant.

use std::sync::Arc;

use durward_model::egress::Rule;

use super::{AddedEgress, Contribution};
use crate::cluster::Owner;
use crate::compile::bounds;
use crate::compile::certificates::Files;
use crate::compile::outward;
use crate::compile::part::PartId;
use crate::compile::report::{Field, Report};
use crate::document::Document;
use crate::place::At;
use crate::spec::egress_policy::EgressPolicyDocument;

/// Returns what a policy adds, or `None` after an error.
pub(super) fn read(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    document: &Document,
    policy: &EgressPolicyDocument,
) -> Option<Contribution> {
    let (spec, before) = (&policy.spec, report.errors());
    bounds::check_policy(report, spec);
    if report.errors() > before {
        return None;
    }
    let field = Field::SPEC.name("sources");
    if let (Some(first), Owner::OfNamespace(_)) = (spec.sources.first(), &document.owner) {
        let sentence = "are given by the operator alone: remove them, and let the operator write them in the Tenant, or in an EgressPolicy of the gateway's own namespace";
        report.error("SourcesForeign", first.place, &field, sentence);
    }
    let written = spec.sources.iter().enumerate();
    let sources = written.filter_map(|(at, written)| {
        let network = report.network(written, &field.index(at))?;
        Some(At::new(network, written.place))
    });
    let sources = sources.collect();
    let deny = outward::rules(report, files, spec.deny.as_ref(), &Field::SPEC, "deny");
    let allow = outward::rules(report, files, spec.allow.as_ref(), &Field::SPEC, "allow");
    if spec.sources.is_empty() && spec.allow.is_none() && spec.deny.is_none() {
        let sentence = "adds nothing: write allow, deny or sources";
        report.warning("PolicyEmpty", policy.metadata.name.place, &Field::NAME, sentence);
    }
    if report.errors() > before {
        return None;
    }
    let prefix = PartId::of(document)?.qualified();
    // Whoever writes in the namespace of a tenant must not open what the operator has closed.
    let opens_guarded = !matches!(document.owner, Owner::OfNamespace(_));
    let named = |rules: Vec<Rule>| {
        let named = |rule: Rule| {
            let name = Arc::from(format!("{prefix}/{}", rule.name));
            Rule { name, opens_guarded, ..rule }
        };
        rules.into_iter().map(named).collect()
    };
    let egress = AddedEgress { sources, allow: named(allow), deny: named(deny) };
    let origin = report.source().origin(policy.metadata.name.place);
    Some(Contribution { egress, ..Contribution::new(origin) })
}
