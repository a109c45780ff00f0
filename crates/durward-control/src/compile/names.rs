//! Whose document is whose: for each name the one document that has it, and what that says of the tenant as a whole.
//!
//! Deliberately absent: other tenants' claims.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::{EgressAddress, Origin, TenantId};

use super::limits;
use super::report::{Field, Report};
use super::roster::{Body, Register};
use super::words;
use crate::place::At;
use crate::resources::Source;
use crate::spec::tenant::TenantDocument;

/// A document that says whose it is.
pub(crate) struct Named<'a> {
    pub(crate) at: usize,
    pub(crate) document: &'a TenantDocument,
    pub(crate) source: &'a Source,
    pub(crate) id: TenantId,
    pub(crate) created: Option<Arc<str>>,
    pub(crate) report: Report<'a>,
}

impl Named<'_> {
    fn origin(&self) -> Origin {
        self.source.origin(self.document.metadata.name.place)
    }
}

/// When the document says its tenant was created.
pub(crate) fn created(report: &mut Report<'_>, tenant: &TenantDocument) -> Option<Arc<str>> {
    let written = tenant.metadata.creation_timestamp.as_ref()?;
    let moment = words::moment(written);
    if let Err(fault) = &moment {
        let sentence = format!("{:?} {fault}; it is not counted", written.value);
        report.warning("BadTime", written.place, &Field::CREATED, &sentence);
    }
    moment.ok()
}

/// The document that is still the same, then the one that stayed in its file, then the oldest, then the first.
type Rank = (bool, bool, bool, Option<Arc<str>>, usize);

/// For each name the one document that has it, with what it says of the tenant as a whole; `None` when that cannot be served.
pub(crate) fn winners<'a>(
    register: &mut Register<'a>,
    named: Vec<Named<'a>>,
) -> Vec<(Named<'a>, Option<Body<'a>>)> {
    let mut first: BTreeMap<TenantId, (usize, Rank)> = BTreeMap::new();
    for (index, candidate) in named.iter().enumerate() {
        let past = register.past(&candidate.id);
        let edited = past.is_some_and(|past| past.text != candidate.source.text);
        let moved = past.is_some_and(|past| past.file != candidate.source.file);
        let created = candidate.created.clone();
        let rank = (edited, moved, created.is_none(), created, candidate.at);
        let best = first.entry(candidate.id.clone()).or_insert_with(|| (index, rank.clone()));
        if rank < best.1 {
            *best = (index, rank);
        }
    }
    let holders: BTreeMap<TenantId, Origin> =
        first.iter().map(|(id, (index, _))| (id.clone(), named[*index].origin())).collect();
    let mut entering = Vec::with_capacity(first.len());
    for (index, mut candidate) in named.into_iter().enumerate() {
        if first.get(&candidate.id).is_some_and(|(winner, _)| *winner == index) {
            let spec = &candidate.document.spec;
            let egress = egress(&mut candidate);
            let limits = limits::limits(&mut candidate.report, &spec.limits);
            let body = egress.zip(limits).map(|(egress, limits)| Body { spec, egress, limits });
            entering.push((candidate, body));
            continue;
        }
        let holder = holders.get(&candidate.id).map(ToString::to_string).unwrap_or_default();
        let name = &candidate.document.metadata.name;
        let sentence = format!(
            "{:?} is taken by the tenant at {holder}: give this one another name",
            name.value
        );
        candidate.report.error("NameTaken", name.place, &Field::NAME, &sentence);
        register.drafts[candidate.at].findings = candidate.report.into_findings();
    }
    entering
}

/// The egress addresses a document asks for, or `None` when they cannot be served.
fn egress(named: &mut Named<'_>) -> Option<Vec<At<EgressAddress>>> {
    let spec = &named.document.spec;
    let report = &mut named.report;
    let parent = Field::SPEC.name("egress");
    let field = parent.name("addresses");
    let before = report.errors();
    let mut addresses: Vec<At<EgressAddress>> = Vec::with_capacity(spec.egress.addresses.len());
    for (at, written) in spec.egress.addresses.iter().enumerate() {
        let Some(address) = report.check("BadAddress", written, &field.index(at), words::address)
        else {
            continue;
        };
        let address = At::new(EgressAddress(address), written.place);
        if addresses.contains(&address) {
            let sentence = format!("{:?} is written twice", written.value);
            report.warning("AddressTwice", written.place, &field.index(at), &sentence);
        }
        addresses.push(address);
    }
    if let Some(allow) = &spec.egress.allow {
        let sentence = "is not served yet: the forward proxy comes with a later version, and nothing is allowed until then";
        report.warning("NotServedYet", allow.place, &parent.name("allow"), sentence);
    }
    if let (true, Some(name)) = (spec.egress.addresses.is_empty(), spec.upstreams.keys().next()) {
        let sentence =
            "is empty, but the tenant has upstreams: name the address its connections leave from";
        report.error("EgressMissing", name.place, &field, sentence);
    }
    (report.errors() == before).then_some(addresses)
}
