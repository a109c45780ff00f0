//! Who takes part: each tenant once, under the oldest document of its name, or as it was when its document is broken.
//!
//! Here ends what can be said of a document by itself: after this, tenants meet. Deliberately absent: listeners and upstreams.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use durward_model::limits::Limits;
use durward_model::verdict::Severity;
use durward_model::{EgressAddress, Origin, Tenant, TenantId};

use super::report::{Field, Report};
use super::verdict::Draft;
use super::{Compiled, limits, words};
use crate::place::{At, Place};
use crate::resources::{Content, Document, Resources, Source};
use crate::spec::routing_json::ROUTING_JSON;
use crate::spec::tenant::{KIND, TenantDocument, TenantSpec};

/// What is remembered of a served tenant.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    /// The file its document was in.
    pub(crate) file: Arc<str>,
    /// Its place in the order of arrival.
    pub(crate) seniority: u64,
    /// When it says it was created.
    pub(crate) created: Option<Arc<str>>,
    /// Whether it shares its egress addresses.
    pub(crate) shared: bool,
}

/// All who take part, and the verdicts in the making.
#[derive(Debug)]
pub(crate) struct Roster<'a> {
    pub(crate) entrants: Vec<Entrant<'a>>,
    pub(crate) drafts: Vec<Draft>,
}

/// One tenant that takes part.
#[derive(Debug)]
pub(crate) struct Entrant<'a> {
    pub(crate) id: TenantId,
    pub(crate) basis: Basis<'a>,
    /// What of it was served before.
    pub(crate) previous: Option<&'a Arc<Tenant>>,
    pub(crate) past: Past,
    /// Its findings.
    pub(crate) report: Report<'a>,
    /// Its verdict among the drafts, unless it is kept for a file that cannot be read.
    pub(crate) draft: Option<usize>,
    /// Where it is written, for those who lose to it.
    pub(crate) origin: Origin,
    /// The addresses it may leave from, once granted.
    pub(crate) egress: Vec<EgressAddress>,
}

/// What a tenant is compiled from.
#[derive(Clone, Debug)]
pub(crate) enum Basis<'a> {
    /// Its document.
    Document(Body<'a>),
    /// What it was.
    Kept(&'a Arc<Tenant>),
    /// Nothing: it is out.
    Out,
}

/// What a document says of its tenant as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Body<'a> {
    pub(crate) spec: &'a TenantSpec,
    pub(crate) egress: Vec<At<EgressAddress>>,
    pub(crate) limits: Limits,
}

impl Entrant<'_> {
    /// What claims are sorted by, the strongest first. `held` says that it had the thing before.
    pub(crate) fn precedence(&self, held: bool) -> (u8, Option<&Arc<str>>, bool, u64) {
        let tier = match (&self.past.created, held) {
            (None, true) => 0,
            (Some(_), _) => 1,
            (None, false) => 2,
        };
        (tier, self.past.created.as_ref(), !held, self.past.seniority)
    }
}

static NOWHERE: std::sync::LazyLock<Source> = std::sync::LazyLock::new(Source::default);

/// Everybody who takes part.
pub(crate) fn enrol<'a>(resources: &'a Resources, previous: Option<&'a Compiled>) -> Roster<'a> {
    let mut register = Register::new(previous);
    let named = register.read_names(&resources.documents);
    for (named, egress, limits) in winners(&mut register, named) {
        register.enter(named, egress, limits);
    }
    register.keep_broken(resources);
    Roster { entrants: register.entrants, drafts: register.drafts }
}

/// A document that says whose it is.
struct Named<'a> {
    at: usize,
    document: &'a TenantDocument,
    source: &'a Source,
    id: TenantId,
    created: Option<Arc<str>>,
    report: Report<'a>,
}

struct Register<'a> {
    previous: Option<&'a Compiled>,
    entrants: Vec<Entrant<'a>>,
    drafts: Vec<Draft>,
    taken: BTreeSet<TenantId>,
    newcomers: u64,
}

impl<'a> Register<'a> {
    fn new(previous: Option<&'a Compiled>) -> Self {
        let last = previous
            .and_then(|compiled| compiled.memory.tenants.values().map(|past| past.seniority).max());
        let newcomers = last.map_or(0, |last| last + 1);
        Self {
            previous,
            entrants: Vec::new(),
            drafts: Vec::new(),
            taken: BTreeSet::new(),
            newcomers,
        }
    }

    fn served(&self, id: &TenantId) -> Option<(&'a Arc<Tenant>, &'a Past)> {
        let compiled = self.previous?;
        Some((compiled.snapshot.tenants.get(id)?, compiled.memory.tenants.get(id)?))
    }

    /// The documents with a usable name; the others get their verdict here.
    fn read_names(&mut self, documents: &'a [Document]) -> Vec<Named<'a>> {
        let mut named = Vec::with_capacity(documents.len());
        for (at, document) in documents.iter().enumerate() {
            let source = &*document.source;
            let start = source.origin(Place { line: 1, ..Place::default() });
            match &document.content {
                Content::Tenant(tenant) => {
                    let mut report = Report::new(source);
                    let name = &tenant.metadata.name;
                    let origin = source.origin(name.place);
                    let mut draft =
                        Draft::new(&source.kind, &name.escape_debug().to_string(), origin);
                    let id = report.check("BadName", name, &Field::NAME, |text| {
                        TenantId::new(text).map_err(|_| {
                            "is not a tenant name: use 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter \
                             or digit".to_owned()
                        })
                    });
                    match id {
                        Some(id) => {
                            let created = created(&mut report, tenant);
                            named.push(Named { at, document: tenant, source, id, created, report });
                        }
                        None => draft.findings = report.into_findings(),
                    }
                    self.drafts.push(draft);
                }
                Content::Broken(broken) => {
                    let mut draft = match &broken.name {
                        Some(name) => {
                            Draft::new(&source.kind, &name.escape_debug().to_string(), start)
                        }
                        None if &*source.kind == KIND => {
                            Draft::new(&Arc::from("File"), &source.file, start)
                        }
                        None => Draft::new(&source.kind, &source.file, start),
                    };
                    if let (true, Some(first)) =
                        (&*source.kind == ROUTING_JSON, broken.findings.first())
                    {
                        draft.origin = first.origin.clone();
                    }
                    draft.findings.clone_from(&broken.findings);
                    self.drafts.push(draft);
                }
            }
        }
        named
    }

    /// Takes a tenant in under its document, or as it was when the document is no good as a whole.
    fn enter(
        &mut self,
        named: Named<'a>,
        egress: Option<Vec<At<EgressAddress>>>,
        limits: Option<Limits>,
    ) {
        let served = self.served(&named.id);
        let spec = &named.document.spec;
        let basis = match (egress, limits, served) {
            (Some(egress), Some(limits), _) => Basis::Document(Body { spec, egress, limits }),
            (_, _, Some((tenant, _))) => Basis::Kept(tenant),
            _ => Basis::Out,
        };
        let seniority = served.map_or_else(|| self.newcomer(), |(_, past)| past.seniority);
        let shared = match (&basis, served) {
            (Basis::Kept(_), Some((_, past))) => past.shared,
            _ => spec.egress.shared,
        };
        let past = Past {
            file: Arc::clone(&named.source.file),
            seniority,
            created: named.created,
            shared,
        };
        self.taken.insert(named.id.clone());
        self.entrants.push(Entrant {
            id: named.id,
            basis,
            previous: served.map(|(tenant, _)| tenant),
            past,
            report: named.report,
            draft: Some(named.at),
            origin: named.source.origin(named.document.metadata.name.place),
            egress: Vec::new(),
        });
    }

    fn newcomer(&mut self) -> u64 {
        self.newcomers += 1;
        self.newcomers - 1
    }

    /// Keeps what broken documents and unreadable files were before.
    fn keep_broken(&mut self, resources: &'a Resources) {
        let mut nameless: Vec<(&Arc<str>, usize)> = Vec::new();
        for (at, document) in resources.documents.iter().enumerate() {
            match &document.content {
                Content::Broken(broken) => {
                    match broken.name.as_deref().and_then(|name| TenantId::new(name).ok()) {
                        Some(id) => self.keep(&id, &document.source, Some(at)),
                        None => nameless.push((&document.source.file, at)),
                    }
                }
                Content::Tenant(tenant) if TenantId::new(&tenant.metadata.name).is_err() => {
                    nameless.push((&document.source.file, at));
                }
                Content::Tenant(_) => {}
            }
        }
        for unreadable in &resources.unreadable {
            let origin = Origin { file: Some(Arc::clone(&unreadable.file)), line: 0 };
            let mut draft = Draft::new(&Arc::from("File"), &unreadable.file, origin.clone());
            draft.findings.push(durward_model::verdict::Finding {
                severity: Severity::Error,
                reason: Arc::from("FileUnreadable"),
                field: Arc::from(""),
                sentence: Arc::from(format!("{} {}", unreadable.file, unreadable.reason)),
                origin,
                excerpt: None,
            });
            nameless.push((&unreadable.file, self.drafts.len()));
            self.drafts.push(draft);
        }
        for (file, at) in nameless {
            self.keep_all_of(file, at);
        }
    }

    /// Whatever was in the file and is nowhere now may be what cannot be read.
    fn keep_all_of(&mut self, file: &Arc<str>, draft: usize) {
        let Some(previous) = self.previous else { return };
        let past = previous.memory.tenants.iter();
        let of_file: Vec<_> = past
            .filter(|(_, past)| Path::new(&*past.file).starts_with(&**file))
            .map(|(id, _)| id)
            .collect();
        for id in of_file {
            if !self.taken.contains(id) {
                self.keep(id, &NOWHERE, None);
                let kept =
                    format!("{id} is served as it was before, for it may be what cannot be read");
                self.drafts[draft].served = super::verdict::Served::Former;
                let origin = self.drafts[draft].origin.clone();
                self.drafts[draft].findings.push(durward_model::verdict::Finding {
                    severity: Severity::Warning,
                    reason: Arc::from("KeptLastGood"),
                    field: Arc::from(""),
                    sentence: Arc::from(kept),
                    origin,
                    excerpt: None,
                });
            }
        }
    }

    fn keep(&mut self, id: &TenantId, source: &'a Source, draft: Option<usize>) {
        let Some((tenant, past)) = self.served(id) else { return };
        if !self.taken.insert(id.clone()) {
            return;
        }
        self.entrants.push(Entrant {
            id: id.clone(),
            basis: Basis::Kept(tenant),
            previous: Some(tenant),
            past: past.clone(),
            report: Report::new(source),
            draft,
            origin: tenant.origin.clone(),
            egress: Vec::new(),
        });
    }
}

fn created(report: &mut Report<'_>, tenant: &TenantDocument) -> Option<Arc<str>> {
    let written = tenant.metadata.creation_timestamp.as_ref()?;
    let moment = words::moment(written);
    if let Err(fault) = &moment {
        let sentence = format!("{:?} {fault}; it is not counted", written.value);
        report.warning("BadTime", written.place, &Field::CREATED, &sentence);
    }
    moment.ok()
}

/// For each name the one document that has it, with what it says of the tenant as a whole.
fn winners<'a>(
    register: &mut Register<'a>,
    mut named: Vec<Named<'a>>,
) -> Vec<(Named<'a>, Option<Vec<At<EgressAddress>>>, Option<Limits>)> {
    let mut first: BTreeMap<TenantId, (usize, (bool, bool, Option<Arc<str>>, usize))> =
        BTreeMap::new();
    for (index, candidate) in named.iter().enumerate() {
        let moved = register
            .served(&candidate.id)
            .is_some_and(|(_, past)| past.file != candidate.source.file);
        let rank = (moved, candidate.created.is_none(), candidate.created.clone(), candidate.at);
        let best = first.entry(candidate.id.clone()).or_insert_with(|| (index, rank.clone()));
        if rank < best.1 {
            *best = (index, rank);
        }
    }
    let holders: BTreeMap<TenantId, Origin> = first
        .iter()
        .map(|(id, (index, _))| {
            (id.clone(), named[*index].source.origin(named[*index].document.metadata.name.place))
        })
        .collect();
    let mut entering = Vec::with_capacity(first.len());
    for (index, mut candidate) in named.drain(..).enumerate() {
        if first.get(&candidate.id).is_some_and(|(winner, _)| *winner == index) {
            let egress = egress(&mut candidate);
            let limits = limits::limits(&mut candidate.report, &candidate.document.spec.limits);
            entering.push((candidate, egress, limits));
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
