//! Port mappings: each document by itself, first; a mapping is served whole, or as it was, or not at all.
//!
//! Deliberately absent: other claims to its ports; those are decided in `claims`.

mod claimed;
pub(crate) mod egress;
pub(crate) mod foreign;
mod health;
mod ports;
mod reading;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use durward_model::mapping::PortMapping;
use durward_model::verdict::Outcome;
use durward_model::{Kind, Origin, TenantId};

use super::addresses::{Addresses, Role};
use super::assemble;
use super::names;
use super::precedence::Precedence;
use super::report::{Field, Report};
use super::retained;
use super::roster::{Basis, KnownText, NOWHERE, Roster};
use super::verdict::Served;
use super::words;
use super::{Compiled, Input};
use crate::document::{Content, Document, Source};
use crate::place::Place;
use crate::spec::port_mapping::{PortMappingDocument, PortMappingSpec};
use crate::state::MappingState;
use crate::store::Store;
pub(crate) use claimed::{note_claims, unsettled};
use reading::Reading;

/// Identity of a mapping: its tenant and its name among the tenant's mappings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MappingId {
    pub(crate) tenant: TenantId,
    pub(crate) name: Arc<str>,
}

impl MappingId {
    /// Returns the identity of a document; `None` if its tenant or name cannot be one, or it is of another kind.
    pub(crate) fn of(document: &Document) -> Option<Self> {
        let Content::Mapping(mapping) = &document.content else { return None };
        let name = words::mapping_name(&mapping.metadata.name).ok()?;
        Some(Self { tenant: document.tenant()?, name })
    }
}

impl fmt::Display for MappingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mapping {} of tenant {}", self.name, self.tenant)
    }
}

/// State of a mapping in the previous compile.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub(crate) file: Arc<str>,
    /// Text of its document.
    pub(crate) text: KnownText,
    pub(crate) seniority: u64,
    pub(crate) created: Option<Arc<str>>,
    /// True if other tenants that also say so may use its addresses.
    pub(crate) shared: bool,
    /// The last document of it that was served.
    pub(crate) good: Option<Arc<Source>>,
    /// True if an earlier process served it as the document says.
    pub(crate) restored: bool,
    pub(crate) outcome: Outcome,
    served: Option<Arc<PortMapping>>,
}

impl Past {
    /// Returns whether its last good document says the same.
    fn says(&self, source: &Source) -> bool {
        self.good.as_ref().is_some_and(|good| good.text == source.text)
    }

    /// What is served of it.
    pub(super) fn served(&self) -> Option<&Arc<PortMapping>> {
        self.served.as_ref()
    }

    /// Builds what is remembered of a mapping that an earlier process had.
    pub(super) fn of_earlier(state: &MappingState, good: Option<Arc<Source>>) -> Self {
        Self {
            file: Arc::clone(&state.file),
            text: retained::known_text(state.text.as_ref(), good.as_ref()),
            seniority: state.seniority,
            created: state.created.clone(),
            shared: state.shared,
            restored: good.is_some(),
            good,
            outcome: Outcome::Rejected,
            served: None,
        }
    }

    /// Returns what is remembered of the mapping once it is served as `known` is.
    pub(super) fn served_as(&self, known: &Self) -> Self {
        let (outcome, served) = (known.outcome, known.served.clone());
        Self { outcome, served, restored: false, ..self.clone() }
    }
}

/// A mapping that asks to be served.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) id: MappingId,
    /// The verdict, among the drafts, it is told in; a file's when its document cannot be found.
    draft: usize,
    of_file: bool,
    pub(crate) report: Report<'a>,
    /// What its document says, when all of it is sound.
    pub(crate) current: Option<Arc<PortMapping>>,
    /// What was served before.
    pub(crate) former: Option<Arc<PortMapping>>,
    file: Arc<str>,
    text: KnownText,
    /// Its document, when it has one.
    document: Option<Arc<Source>>,
    good: Option<Arc<Source>>,
    restored: bool,
    pub(crate) seniority: u64,
    pub(crate) created: Option<Arc<str>>,
    /// True if other tenants that also say so may use its addresses.
    pub(crate) shared: bool,
    /// Where its addresses and ports are written.
    pub(crate) places: Places,
    /// The `spec` of its document, when it has one.
    spec: Option<&'a PortMappingSpec>,
    /// What is served, once decided.
    pub(crate) served: Option<Arc<PortMapping>>,
}

/// Where the parts of a claim are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) tenant: Place,
    pub(crate) addresses: Vec<Place>,
    pub(crate) ports: Vec<Place>,
    pub(crate) egress: Place,
}

/// Returns everybody who asks; the verdicts of documents that have no part in it are written already.
pub(crate) fn enrol<'a>(
    input: &Input<'a>,
    roster: &mut Roster<'_>,
    previous: Option<&Compiled>,
) -> Vec<Applicant<'a>> {
    let live = roster.entrants.iter().filter(|entrant| !matches!(entrant.basis, Basis::Out));
    let tenants = live.map(|entrant| entrant.id.clone()).collect();
    let store = input.store;
    let (applicants, taken) = (Vec::new(), BTreeMap::new());
    let mut office = Office { store, previous, tenants, applicants, taken };
    let named = names::mappings(input, previous, &mut roster.drafts);
    // A tenant that is not served is known all the same: its mappings are rejected with it, not taken for a slip in the name.
    let known: HashSet<TenantId> =
        roster.entrants.iter().map(|entrant| entrant.id.clone()).collect();
    let is_known =
        |named: &NamedMapping<'_>| named.id.as_ref().is_some_and(|id| known.contains(&id.tenant));
    let (named, strays): (Vec<_>, Vec<_>) = named.into_iter().partition(is_known);
    for named in named {
        office.document(roster, named);
    }
    for named in strays {
        office.stray(roster, named);
    }
    office.keep_broken(input);
    office.applicants
}

/// A document with a usable name.
pub(crate) struct NamedMapping<'a> {
    pub(crate) draft: usize,
    pub(crate) entry: &'a Document,
    pub(crate) source: &'a Arc<Source>,
    pub(crate) document: &'a PortMappingDocument,
    /// `None` when what it says of its tenant is no tenant's name.
    pub(crate) id: Option<MappingId>,
    pub(crate) created: Option<Arc<str>>,
    pub(crate) report: Report<'a>,
}

impl NamedMapping<'_> {
    pub(crate) fn origin(&self) -> Origin {
        self.source.origin(self.document.metadata.name.place)
    }
}

struct Office<'a, 'p> {
    store: &'a Store,
    previous: Option<&'p Compiled>,
    /// Those that are served.
    tenants: BTreeSet<TenantId>,
    applicants: Vec<Applicant<'a>>,
    taken: BTreeMap<MappingId, Origin>,
}

impl<'a> Office<'a, '_> {
    fn past(&self, id: &MappingId) -> Option<&Past> {
        self.previous?.memory.mappings.get(id)
    }

    /// The served mappings of this name that were written in this file.
    fn past_in_file(&self, name: &str, file: &str) -> Vec<MappingId> {
        let Some(previous) = self.previous else { return Vec::new() };
        let all = previous.memory.mappings.iter();
        let here = all
            .filter(|(id, past)| *id.name == *name && *past.file == *file && past.served.is_some());
        here.map(|(id, _)| id.clone()).collect()
    }

    fn document(&mut self, roster: &mut Roster<'_>, named: NamedMapping<'a>) {
        let Some(id) = named.id.clone() else { return };
        self.taken.insert(id.clone(), named.origin());
        let NamedMapping { draft, entry, source, document, created, mut report, .. } = named;
        let (tenants, store) = (&self.tenants, self.store);
        let mut reading = Reading { report: &mut report, roster, tenants, store, entry };
        let current = reading.mapping(&id.name, document);
        let past = self.past(&id).cloned();
        let seniority = past.as_ref().map(|past| past.seniority);
        let good = past.as_ref().and_then(|past| past.good.clone());
        let restored = past.as_ref().is_some_and(|past| past.restored && past.says(source));
        self.applicants.push(Applicant {
            document: Some(Arc::clone(source)),
            good,
            restored,
            draft,
            of_file: false,
            report,
            current: current.map(Arc::new),
            former: past.and_then(|past| past.served).filter(|past| tenants.contains(&past.tenant)),
            file: Arc::clone(&source.file),
            text: KnownText::Whole(Arc::clone(&source.text)),
            seniority: seniority.unwrap_or_else(|| roster.newcomer()),
            created,
            shared: document.spec.shared,
            places: Places {
                tenant: document.spec.place(),
                addresses: document.spec.addresses.iter().map(|address| address.place).collect(),
                ports: document.spec.ports.iter().map(|port| port.place).collect(),
                egress: document.spec.egress.place,
            },
            spec: Some(&document.spec),
            served: None,
            id,
        });
    }

    /// Rejects a document that names no tenant of ours. What the same file said of a mapping of this name stays: a slip in the tenant's name
    /// must not take it away.
    fn stray(&mut self, roster: &mut Roster<'_>, named: NamedMapping<'a>) {
        let NamedMapping { draft, entry, source, document, mut report, .. } = named;
        let (tenants, store) = (&self.tenants, self.store);
        let name = Arc::from(document.metadata.name.value.as_str());
        Reading { report: &mut report, roster, tenants, store, entry }.mapping(&name, document);
        roster.drafts[draft].findings = report.into_findings();
        for id in self.past_in_file(&name, &source.file) {
            if !may_be(entry, &id) {
                continue;
            }
            self.keep(&id, draft, false, source);
        }
    }

    /// Keeps what broken documents and unreadable files were before.
    fn keep_broken(&mut self, input: &Input<'a>) {
        let mut nameless: Vec<(&str, usize)> = Vec::new();
        for (draft, &document) in input.documents.iter().enumerate() {
            let Content::Broken(broken) = &document.content else { continue };
            if document.is_nobodys() {
                continue;
            }
            match (&broken.name, document.source.kind == Kind::PortMapping) {
                (Some(name), true) => {
                    let ids = self.past_in_file(name, &document.source.file).into_iter();
                    for id in ids.filter(|id| may_be(document, id)) {
                        self.keep(&id, draft, false, &document.source);
                    }
                }
                (None, _) => nameless.push((&document.source.file, draft)),
                (Some(_), false) => {}
            }
        }
        for (file, draft) in nameless {
            let Some(previous) = self.previous else { return };
            let of_file = previous.memory.mappings.iter();
            let of_file = of_file.filter(|(_, past)| Path::new(&*past.file).starts_with(file));
            for id in of_file.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                self.keep(&id, draft, true, &NOWHERE);
            }
        }
    }

    fn keep(&mut self, id: &MappingId, draft: usize, of_file: bool, source: &'a Source) {
        let Some(past) = self.past(id).cloned() else { return };
        let Some(former) = past.served.filter(|past| self.tenants.contains(&past.tenant)) else {
            return;
        };
        if self.taken.contains_key(id) {
            return;
        }
        self.taken.insert(id.clone(), former.origin.clone());
        self.applicants.push(Applicant {
            id: id.clone(),
            draft,
            of_file,
            report: Report::new(source),
            current: None,
            former: Some(former),
            file: past.file,
            text: past.text,
            document: None,
            good: past.good,
            restored: false,
            seniority: past.seniority,
            created: past.created,
            shared: past.shared,
            places: Places::default(),
            spec: None,
            served: None,
        });
    }
}

/// Returns whether a document may be about a mapping of this tenant: one in a namespace is about its tenant's only.
fn may_be(document: &Document, id: &MappingId) -> bool {
    document.namespace().is_none() || document.tenant().is_none_or(|tenant| tenant == id.tenant)
}

/// Leaves out what asks for another tenant's address or belongs to a tenant that is not served; what was served before stands in where it may.
pub(crate) fn yield_addresses(
    applicants: &mut [Applicant<'_>],
    roster: &Roster<'_>,
    addresses: &mut Addresses,
) {
    let places = roster.places(applicants);
    for applicant in applicants {
        let Some(&at) = places.get(&applicant.id.tenant) else { continue };
        if matches!(roster.entrants[at].basis, Basis::Out) {
            applicant.leave_out_with_tenant();
            continue;
        }
        let objection = |mapping: &PortMapping| {
            let mut all = mapping.addresses.iter().enumerate();
            all.find_map(|(position, address)| {
                Some((position, addresses.objection(roster, at, address.0, Role::Mapped)?))
            })
        };
        let refused = applicant.current.as_deref().and_then(objection);
        if let Some((position, objection)) = &refused {
            applicant.current = None;
            let place = applicant.places.addresses.get(*position).copied().unwrap_or_default();
            let field = Field::SPEC.name("addresses");
            let sentence = objection.with_cure("shared: true");
            applicant.report.error("AddressTaken", place, &field.index(*position), &sentence);
        }
        if applicant.former.as_deref().and_then(objection).is_some() {
            applicant.former = None;
        }
        for address in applicant.former.iter().flat_map(|former| &former.addresses) {
            addresses.take(roster, at, address.0, Role::Mapped);
        }
    }
}

impl Applicant<'_> {
    /// Returns what its claims are sorted by, as for tenants.
    pub(crate) fn precedence(&self, held: bool) -> Precedence {
        Precedence::new(held, self.created.as_ref(), self.seniority)
    }

    /// Whether all it asks for now it had before.
    pub(crate) fn held(&self) -> bool {
        match (&self.current, &self.former) {
            (Some(_), None) => self.restored,
            (None, Some(_)) => true,
            (Some(current), Some(former)) => {
                current.addresses.iter().all(|address| former.addresses.contains(address))
                    && current.ports.iter().all(|port| {
                        let same = |known: &durward_model::mapping::MappedPort| {
                            (known.protocol, known.ports) == (port.protocol, port.ports)
                        };
                        former.ports.iter().any(same)
                    })
            }
            _ => false,
        }
    }

    /// Rejects the mapping of a tenant that turned out not to be served.
    fn leave_out_with_tenant(&mut self) {
        self.former = None;
        if self.current.take().is_some() {
            let (place, name) = (self.places.tenant, &self.id.tenant);
            let sentence = format!("{:?} is not served, see what is said about it", name.as_str());
            self.report.error("TenantUnknown", place, &Field::SPEC.name("tenant"), &sentence);
        }
    }

    /// Returns the endpoints whose traffic is to leave from the mapping's addresses, each with whether it did before.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        let of = |mapping: Option<&Arc<PortMapping>>| -> BTreeSet<IpAddr> {
            let ports = mapping.filter(|mapping| mapping.egress).into_iter();
            let ports = ports.flat_map(|mapping| &mapping.ports);
            let both = ports.flat_map(|port| [port.endpoints(true), port.endpoints(false)]);
            both.flatten().map(|(address, _)| address).collect()
        };
        let (wanted, former) = (of(self.wanted()), of(self.former.as_ref()));
        let restored = self.restored;
        wanted.into_iter().map(move |pod| (pod, restored || former.contains(&pod)))
    }

    /// What it asks for first.
    pub(crate) fn wanted(&self) -> Option<&Arc<PortMapping>> {
        self.current.as_ref().or(self.former.as_ref())
    }
}

/// The verdicts of all applicants, and what to remember of them.
pub(crate) fn conclude(
    applicants: Vec<Applicant<'_>>,
    drafts: &mut [super::verdict::Draft],
) -> BTreeMap<MappingId, Past> {
    let mut pasts = BTreeMap::new();
    for mut applicant in applicants {
        let draft = &mut drafts[applicant.draft];
        let served = match (&applicant.served, &applicant.current) {
            (Some(served), Some(current)) if Arc::ptr_eq(served, current) => Served::Current,
            (Some(_), _) => Served::Former,
            (None, _) => Served::Nothing,
        };
        let outcome = assemble::outcome(served, applicant.report.errors());
        if applicant.of_file {
            if served != Served::Nothing {
                draft.note_kept(&applicant.id.to_string());
            }
        } else {
            draft.served = served;
            draft.findings.append(&mut applicant.report.take());
        }
        let past = Past {
            file: applicant.file,
            text: applicant.text,
            seniority: applicant.seniority,
            created: applicant.created,
            shared: applicant.shared,
            good: match served {
                Served::Current => applicant.document,
                Served::Former => applicant.good,
                // What is not served must not come back.
                Served::Nothing => None,
            },
            restored: false,
            outcome,
            served: applicant.served,
        };
        pasts.insert(applicant.id, past);
    }
    pasts
}
