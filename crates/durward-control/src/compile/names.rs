//! Resolves which document defines each tenant name, and reads the tenant-wide fields of that document.
//!
//! Deliberately absent: other tenants' claims.

use std::path::Path;
use std::sync::Arc;

use durward_model::verdict::Finding;
use durward_model::{EgressAddress, Origin, Revision, TenantId};

use ipnet::IpNet;

use super::Input;
use super::bounds;
use super::limits;
use super::precedence::{Age, winners};
use super::report::{Field, Report};
use super::roster::{Body, KnownText, Register};
use super::words;
use crate::document::{Content, Document, Source};
use crate::place::At;
use crate::spec::tenant::{Metadata, TenantDocument, TenantSpec};

/// A document that says whose it is.
pub(crate) struct Named<'a> {
    pub(crate) at: usize,
    pub(crate) document: &'a TenantDocument,
    pub(crate) source: &'a Arc<Source>,
    pub(crate) revision: &'a Revision,
    pub(crate) id: TenantId,
    pub(crate) created: Option<Arc<str>>,
    /// Age of the document, if it is an object.
    pub(crate) age: Option<Arc<Age>>,
    pub(crate) report: Report<'a>,
}

impl Named<'_> {
    fn origin(&self) -> Origin {
        self.source.origin(self.document.metadata.name.place)
    }
}

/// Returns the time when what a document is about was created: the API server's, or else the one it says itself.
pub(crate) fn created(
    report: &mut Report<'_>,
    document: &Document,
    metadata: &Metadata,
) -> Option<Arc<str>> {
    if document.created.is_some() {
        return document.created.clone();
    }
    let written = metadata.creation_timestamp.as_ref()?;
    let moment = words::moment(written);
    if let Err(fault) = &moment {
        let sentence = format!("{:?} {fault}; it is not counted", written.value);
        report.warning("BadTime", written.place, &Field::CREATED, &sentence);
    }
    moment.ok()
}

/// Returns for each document the place of the document that has its name; `None` for those that have it themselves.
pub(crate) fn lost_to(
    register: &Register<'_>,
    named: &[Named<'_>],
    doubtful: &Doubtful<'_>,
) -> Vec<Option<Origin>> {
    let rank = |at: usize| {
        let candidate = &named[at];
        let past =
            register.past(&candidate.id, candidate.revision).map(|past| (&past.text, &past.file));
        rank(past, candidate.source, candidate.created.as_ref(), candidate.at)
    };
    let winners = winners(named.iter().map(|candidate| &candidate.id), rank).into_iter();
    let lost = |(at, winner): (usize, usize)| {
        let past = register.past(&named[at].id, named[at].revision);
        let kept = past.and_then(|past| Some((&past.file, past.served.as_ref()?)));
        let kept = kept.filter(|(file, _)| doubtful.keeps(file, &named[winner].source.file));
        match kept {
            Some((_, tenant)) => Some(tenant.origin.clone()),
            None => (at != winner).then(|| named[winner].origin()),
        }
    };
    winners.enumerate().map(lost).collect()
}

/// Files that cannot be read as a whole: what was in them before may be in them still.
pub(crate) struct Doubtful<'a>(Vec<&'a str>);

impl<'a> Doubtful<'a> {
    pub(crate) fn of(input: &Input<'a>) -> Self {
        let broken = input.documents.iter().filter(|document| match &document.content {
            Content::Broken(_) => true,
            Content::Tenant(tenant) => TenantId::new(&tenant.metadata.name).is_err(),
            Content::Mapping(_)
            | Content::Policy(_)
            | Content::HostedApi(_)
            | Content::Ingress(_)
            | Content::ForeignApi(_) => false,
        });
        Self(broken.map(|document| &*document.source.file).collect())
    }

    /// Returns whether a name stays with the file it was in, though a document in another file has it.
    pub(crate) fn keeps(&self, file: &str, other: &str) -> bool {
        file != other && self.0.iter().any(|doubtful| Path::new(file).starts_with(doubtful))
    }
}

/// Ranks documents of one name: the document that stayed in its file comes first, then the one that stayed in its directory, then the one that
/// is still the same, then the oldest, then the first. `past` is the text and file of the document that has the name.
///
/// The text alone says nothing: whoever copies a document has it, too.
pub(super) fn rank(
    past: Option<(&KnownText, &Arc<str>)>,
    source: &Source,
    created: Option<&Arc<str>>,
    at: usize,
) -> impl Ord + use<> {
    let edited = past.is_some_and(|(text, _)| !text.is(&source.text));
    let moved = past.is_some_and(|(_, file)| *file != source.file);
    let parent = |file: &str| Path::new(file).parent().map(Path::to_owned);
    let away = past.is_some_and(|(_, file)| parent(file) != parent(&source.file));
    (moved, away, edited, created.is_none(), created.cloned(), at)
}

impl<'a> Named<'a> {
    /// Returns the tenant-wide fields of the document, or `None` if they cannot be served.
    pub(crate) fn body(&mut self) -> Option<Body<'a>> {
        let spec = &self.document.spec;
        let before = self.report.errors();
        bounds::check(&mut self.report, spec);
        if self.report.errors() > before {
            return None;
        }
        let egress = egress(self);
        let sources = sources(&mut self.report, spec);
        let limits = limits::limits(&mut self.report, &spec.limits);
        Some(Body { spec, egress: egress?, sources: sources?, limits: limits? })
    }

    /// The findings of a document whose name is taken by the one at `holder`.
    pub(crate) fn turned_away(mut self, holder: &Origin) -> Vec<Finding> {
        let name = &self.document.metadata.name;
        let sentence = format!(
            "{:?} is taken by the tenant at {holder}: give this one another name",
            name.value
        );
        self.report.error("NameTaken", name.place, &Field::NAME, &sentence);
        self.report.into_findings()
    }
}

/// Returns the networks whose traffic leaves from the egress addresses, or `None` if they cannot be served.
fn sources(report: &mut Report<'_>, spec: &TenantSpec) -> Option<Vec<At<IpNet>>> {
    let parent = Field::SPEC.name("egress");
    let field = parent.name("sources");
    let before = report.errors();
    let written = spec.egress.sources.iter().enumerate();
    let sources = written.filter_map(|(at, written)| {
        let network = report.network(written, &field.index(at))?;
        Some(At::new(network, written.place))
    });
    let sources: Vec<_> = sources.collect();
    if let (true, Some(first)) = (spec.egress.addresses.is_empty(), spec.egress.sources.first()) {
        let sentence = "have no address to leave from: name one in egress.addresses";
        report.error("EgressMissing", first.place, &field, sentence);
    }
    (report.errors() == before).then_some(sources)
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
    if let (true, Some(name)) = (spec.egress.addresses.is_empty(), spec.upstreams.keys().next()) {
        let sentence =
            "is empty, but the tenant has upstreams: name the address its connections leave from";
        report.error("EgressMissing", name.place, &field, sentence);
    }
    if let (true, Some(proxy)) = (spec.egress.addresses.is_empty(), spec.egress.proxy.first()) {
        let sentence =
            "is empty, but the tenant has a proxy: name the address its connections leave from";
        report.error("EgressMissing", proxy.place, &field, sentence);
    }
    (report.errors() == before).then_some(addresses)
}
