//! The life of an object that adds to a tenant: it comes new, holds what it was given, keeps its last good version while it is broken, and goes.
//!
//! It is the same for all kinds of such objects. What an object says, its reader tells; what of that it gets, the deciders of its kind.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use durward_model::verdict::{Finding, Outcome, Severity};
use durward_model::{Kind, Origin, SharedMap, TenantId};

use super::names::{Doubtful, created, rank};
use super::precedence::{Precedence, winners};
use super::report::{Field, Report};
use super::roster::{Basis, KnownText, NOWHERE, Roster};
use super::verdict::{Draft, Served};
use super::{Input, assemble, retained, words};
use crate::cluster::{Owner, Ownerless};
use crate::document::{Content, Document, PartHead, Source};
use crate::place::At;
use crate::spec::tenant::Metadata;
use crate::state::PartState;

/// What an object of a kind comes to.
pub(crate) trait Part: Sized {
    /// Returns whether this is what documents of a kind come to.
    fn is_of(kind: Kind) -> bool;

    /// Returns the place where it is written.
    fn origin(&self) -> &Origin;

    /// Returns whether other tenants that also say so may use its addresses.
    fn is_shared(content: &Content) -> bool;
}

/// Identity of an object that adds to a tenant. An object of a cluster has the namespace it lives in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartId {
    pub(crate) tenant: TenantId,
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) name: Arc<str>,
}

impl PartId {
    /// Returns the identity of a document; `None` if its tenant or name cannot be one, or it adds to no tenant.
    pub(crate) fn of(document: &Document) -> Option<Self> {
        let name = words::mapping_name(&document.content.part()?.metadata.name).ok()?;
        let (tenant, kind) = (document.tenant()?, document.source.kind);
        Some(Self { tenant, kind, namespace: document.namespace().cloned(), name })
    }

    /// Returns an identity that sorts before all those of a tenant.
    pub(crate) fn first(tenant: &TenantId) -> Self {
        Self { tenant: tenant.clone(), kind: Kind::Tenant, namespace: None, name: Arc::from("") }
    }

    /// Returns the name that tells it from all others of its tenant and kind: `NAMESPACE/NAME` for an object of a cluster.
    pub(crate) fn qualified(&self) -> Arc<str> {
        match &self.namespace {
            Some(namespace) => Arc::from(format!("{namespace}/{}", self.name)),
            None => Arc::clone(&self.name),
        }
    }

    /// Returns the identity with a kind and a name as [`Self::qualified`] makes them.
    pub(crate) fn of_qualified(tenant: &TenantId, kind: Kind, name: &Arc<str>) -> Self {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(Arc::from(namespace)), Arc::from(name)),
            None => (None, Arc::clone(name)),
        };
        Self { tenant: tenant.clone(), kind, namespace, name }
    }
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::PortMapping => f.write_str("mapping")?,
            kind => write!(f, "{kind}")?,
        }
        write!(f, " {} of tenant {}", self.qualified(), self.tenant)
    }
}

/// State of objects in the previous compile.
pub(crate) type Pasts<V> = SharedMap<PartId, Past<V>>;

/// State of an object in the previous compile.
#[derive(Debug)]
pub(crate) struct Past<V> {
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
    pub(crate) served: Option<Arc<V>>,
}

impl<V> Clone for Past<V> {
    fn clone(&self) -> Self {
        Self {
            file: Arc::clone(&self.file),
            text: self.text.clone(),
            seniority: self.seniority,
            created: self.created.clone(),
            shared: self.shared,
            good: self.good.clone(),
            restored: self.restored,
            outcome: self.outcome,
            served: self.served.clone(),
        }
    }
}

impl<V> Past<V> {
    /// Returns whether its last good document says the same.
    fn says(&self, source: &Source) -> bool {
        self.good.as_ref().is_some_and(|good| good.text == source.text)
    }

    /// Builds what is remembered of an object that an earlier process had.
    pub(super) fn of_earlier(state: &PartState, good: Option<Arc<Source>>) -> Self {
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

    /// Returns what is remembered of the object once it is served as `known` is.
    pub(super) fn served_as(&self, known: &Self) -> Self {
        let (outcome, served) = (known.outcome, known.served.clone());
        Self { outcome, served, restored: false, ..self.clone() }
    }
}

/// An object that asks to be served.
#[derive(Debug)]
pub(crate) struct Applicant<'a, V> {
    pub(crate) id: PartId,
    /// The verdict, among the drafts, it is told in; a file's when its document cannot be found.
    draft: usize,
    of_file: bool,
    pub(crate) report: Report<'a>,
    /// What its document says, when all of it is sound.
    pub(crate) current: Option<Arc<V>>,
    /// What was served before.
    pub(crate) former: Option<Arc<V>>,
    file: Arc<str>,
    text: KnownText,
    /// Its document, when it has one.
    pub(crate) document: Option<&'a Document>,
    good: Option<Arc<Source>>,
    pub(crate) restored: bool,
    pub(crate) seniority: u64,
    pub(crate) created: Option<Arc<str>>,
    /// True if other tenants that also say so may use its addresses.
    pub(crate) shared: bool,
    /// What is served, once decided.
    pub(crate) served: Option<Arc<V>>,
}

impl<'a, V> Applicant<'a, V> {
    /// Returns what its claims are sorted by, as for tenants.
    pub(crate) fn precedence(&self, held: bool) -> Precedence {
        Precedence::new(held, self.created.as_ref(), self.seniority)
    }

    /// What it asks for first.
    pub(crate) fn wanted(&self) -> Option<&Arc<V>> {
        self.current.as_ref().or(self.former.as_ref())
    }

    /// Rejects an object of a tenant that turned out not to be served.
    pub(crate) fn leave_out_with_tenant(&mut self) {
        self.former = None;
        if self.current.take().is_some() {
            let place = self.head().map(|head| head.place).unwrap_or_default();
            let name = &self.id.tenant;
            let sentence = format!("{:?} is not served, see what is said about it", name.as_str());
            self.report.error("TenantUnknown", place, &Field::SPEC.name("tenant"), &sentence);
        }
    }

    /// Returns what its document says of itself.
    pub(crate) fn head(&self) -> Option<PartHead<'a>> {
        self.document?.content.part()
    }
}

/// A document with a usable name.
pub(crate) struct Named<'a> {
    pub(crate) draft: usize,
    pub(crate) document: &'a Document,
    pub(crate) head: PartHead<'a>,
    /// `None` when what it says of its tenant is no tenant's name.
    pub(crate) id: Option<PartId>,
    pub(crate) created: Option<Arc<str>>,
    pub(crate) report: Report<'a>,
}

impl Named<'_> {
    fn origin(&self) -> Origin {
        self.document.source.origin(self.head.metadata.name.place)
    }
}

/// The tenants that an object may belong to.
pub(crate) struct Belonging<'r, 'a> {
    roster: &'r Roster<'a>,
    /// Those that are served.
    tenants: &'r BTreeSet<TenantId>,
}

impl Belonging<'_, '_> {
    /// Returns the tenant that a document belongs to, or `None` after an error.
    pub(crate) fn tenant(&self, report: &mut Report<'_>, document: &Document) -> Option<TenantId> {
        let head = document.content.part()?;
        let field = Field::SPEC.name("tenant");
        match (&document.owner, head.tenant) {
            (Owner::OfNamespace(owner), Some(written)) if written.value != owner.as_str() => {
                let sentence = format!(
                    "{:?} is not the tenant of this namespace, which is {owner}'s: remove it",
                    written.value
                );
                report.error("TenantMismatch", written.place, &field, &sentence);
                None
            }
            (Owner::OfNamespace(owner), written) => {
                let place = written.map_or(head.metadata.name.place, |written| written.place);
                self.known(report, &At::new(owner.to_string(), place), &field)
            }
            (_, Some(written)) => self.known(report, written, &field),
            (_, None) => {
                let what = if document.source.kind == Kind::PortMapping {
                    "mapping".to_owned()
                } else {
                    document.source.kind.to_string()
                };
                let sentence = format!("is missing: name the tenant that the {what} belongs to");
                report.error("TenantMissing", head.place, &field, &sentence);
                None
            }
        }
    }

    /// Returns the tenant of this name, if it is served.
    fn known(
        &self,
        report: &mut Report<'_>,
        written: &At<String>,
        field: &Field<'_>,
    ) -> Option<TenantId> {
        report.check("TenantUnknown", written, field, |text| {
            if let Some(tenant) = TenantId::new(text).ok().and_then(|id| self.tenants.get(&id)) {
                return Ok(tenant.clone());
            }
            let mut names = self.roster.entrants.iter().map(|entrant| entrant.id.as_str());
            if names.any(|name| name == text) {
                return Err("is not served, see what is said about it".to_owned());
            }
            let served = self.roster.served();
            let hint = crate::suggest::hint(text, served.iter().map(|tenant| tenant.as_str()));
            Err(format!("is no tenant here{hint}: write a Tenant document of this name"))
        })
    }
}

/// Makes of a document, by itself, what an object comes to: `None` after an error, which is in the report.
pub(crate) trait Reader<V> {
    fn read(
        &mut self,
        report: &mut Report<'_>,
        document: &Document,
        belonging: &Belonging<'_, '_>,
    ) -> Option<V>;

    /// Returns whether the document that was read last was denied a thing: what it had of that before is no more its own.
    fn was_denied(&mut self) -> bool {
        false
    }
}

/// Returns all objects of a sort that ask; the verdicts of documents that have no part in it are written already.
pub(crate) fn collect<'a, V: Part>(
    input: &Input<'a>,
    roster: &mut Roster<'_>,
    pasts: Option<&Pasts<V>>,
    reader: &mut dyn Reader<V>,
) -> Vec<Applicant<'a, V>> {
    let live = roster.entrants.iter().filter(|entrant| !matches!(entrant.basis, Basis::Out));
    let tenants = live.map(|entrant| entrant.id.clone()).collect();
    let mut office =
        Office { reader, pasts, tenants, applicants: Vec::new(), taken: HashSet::new() };
    let named = office.named(input, &mut roster.drafts);
    // A tenant that is not served is known all the same: its objects are rejected with it, not taken for a slip in the name.
    let known: HashSet<TenantId> =
        roster.entrants.iter().map(|entrant| entrant.id.clone()).collect();
    let is_known =
        |named: &Named<'_>| named.id.as_ref().is_some_and(|id| known.contains(&id.tenant));
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

struct Office<'a, 'p, V> {
    reader: &'p mut dyn Reader<V>,
    pasts: Option<&'p Pasts<V>>,
    /// Those that are served.
    tenants: BTreeSet<TenantId>,
    applicants: Vec<Applicant<'a, V>>,
    taken: HashSet<PartId>,
}

impl<'a, V: Part> Office<'a, '_, V> {
    fn past(&self, id: &PartId) -> Option<&Past<V>> {
        self.pasts?.get(id)
    }

    /// Returns the documents that have their identity; the others get their verdict here. An object is its tenant's: what another tenant calls by the
    /// same name is another object.
    fn named(&self, input: &Input<'a>, drafts: &mut [Draft]) -> Vec<Named<'a>> {
        let mut named = Vec::new();
        for (draft, &document) in input.documents.iter().enumerate() {
            if !V::is_of(document.source.kind) {
                continue;
            }
            let Some(head) = document.content.part() else { continue };
            if let Owner::Nobody(why) = &document.owner {
                drafts[draft].findings = vec![ownerless(document, head.metadata, why)];
                continue;
            }
            let mut report = Report::of_document(&document.source);
            let written = &head.metadata.name;
            if report.check("BadName", written, &Field::NAME, words::mapping_name).is_none() {
                drafts[draft].findings = report.into_findings();
                continue;
            }
            let created = created(&mut report, document, head.metadata);
            let id = PartId::of(document);
            named.push(Named { draft, document, head, id, created, report });
        }
        self.having(input, named, drafts)
    }

    /// Returns the documents that have their name; the others are told who has it.
    fn having(
        &self,
        input: &Input<'a>,
        named: Vec<Named<'a>>,
        drafts: &mut [Draft],
    ) -> Vec<Named<'a>> {
        let past = |id: &Option<PartId>| id.as_ref().and_then(|id| self.past(id));
        let rank = |at: usize| {
            let candidate: &Named<'_> = &named[at];
            let past = past(&candidate.id).map(|past| (&past.text, &past.file));
            rank(past, &candidate.document.source, candidate.created.as_ref(), candidate.draft)
        };
        // A document without an identity loses to none.
        let keys = named.iter().map(|named| named.id.as_ref().ok_or(named.draft));
        let doubtful = Doubtful::of(input);
        let lost = winners(keys, rank).into_iter().enumerate().map(|(at, winner)| {
            let kept =
                past(&named[at].id).and_then(|past| Some((&past.file, past.served.as_ref()?)));
            let kept =
                kept.filter(|(file, _)| doubtful.keeps(file, &named[winner].document.source.file));
            match kept {
                Some((_, part)) => Some(part.origin().clone()),
                None => (at != winner).then(|| named[winner].origin()),
            }
        });
        let lost: Vec<_> = lost.collect();
        let mut having = Vec::with_capacity(named.len());
        for (mut named, holder) in named.into_iter().zip(lost) {
            let (Some(holder), Some(id)) = (holder, &named.id) else {
                having.push(named);
                continue;
            };
            let what = if id.kind == Kind::PortMapping { "mapping" } else { id.kind.as_str() };
            let sentence = format!(
                "{:?} is taken by the {what} of tenant {} at {holder}: give this one another name",
                id.name, id.tenant
            );
            let place = named.head.metadata.name.place;
            named.report.error("NameTaken", place, &Field::NAME, &sentence);
            drafts[named.draft].findings = named.report.into_findings();
        }
        having
    }

    /// The served objects of this kind and name that were written in this file.
    fn past_in_file(&self, kind: Kind, name: &str, file: &str) -> Vec<PartId> {
        let all = self.pasts.into_iter().flatten();
        let here = all.filter(|(id, past)| {
            (id.kind, &*id.name, &*past.file) == (kind, name, file) && past.served.is_some()
        });
        here.map(|(id, _)| id.clone()).collect()
    }

    fn document(&mut self, roster: &mut Roster<'_>, named: Named<'a>) {
        let Some(id) = named.id else { return };
        self.taken.insert(id.clone());
        let Named { draft, document, created, mut report, .. } = named;
        let belonging = Belonging { roster, tenants: &self.tenants };
        let current = self.reader.read(&mut report, document, &belonging);
        let was_denied = self.reader.was_denied();
        let past = self.past(&id).cloned();
        let seniority = past.as_ref().map(|past| past.seniority);
        let source = &document.source;
        let restored = past.as_ref().is_some_and(|past| past.restored && past.says(source));
        let good = past.as_ref().and_then(|past| past.good.clone());
        let is_live = self.tenants.contains(&id.tenant);
        self.applicants.push(Applicant {
            document: Some(document),
            good,
            restored,
            draft,
            of_file: false,
            report,
            current: current.map(Arc::new),
            former: past.and_then(|past| past.served).filter(|_| is_live && !was_denied),
            file: Arc::clone(&source.file),
            text: KnownText::Whole(Arc::clone(&source.text)),
            seniority: seniority.unwrap_or_else(|| roster.newcomer()),
            created,
            shared: V::is_shared(&document.content),
            served: None,
            id,
        });
    }

    /// Rejects a document that names no tenant of ours. What the same file said of an object of this name stays: a slip in the tenant's name must not
    /// take it away.
    fn stray(&mut self, roster: &mut Roster<'_>, named: Named<'a>) {
        let Named { draft, document, head, mut report, .. } = named;
        let belonging = Belonging { roster, tenants: &self.tenants };
        self.reader.read(&mut report, document, &belonging);
        roster.drafts[draft].findings = report.into_findings();
        let source = &document.source;
        for id in self.past_in_file(source.kind, &head.metadata.name, &source.file) {
            if may_be(document, &id) {
                self.keep(&id, draft, false, source);
            }
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
            let source = &document.source;
            match (&broken.name, V::is_of(source.kind)) {
                (Some(name), true) => {
                    let ids = self.past_in_file(source.kind, name, &source.file).into_iter();
                    for id in ids.filter(|id| may_be(document, id)) {
                        self.keep(&id, draft, false, source);
                    }
                }
                (None, _) => nameless.push((&source.file, draft)),
                (Some(_), false) => {}
            }
        }
        for (file, draft) in nameless {
            let Some(pasts) = self.pasts else { return };
            let of_file = pasts.iter().filter(|(_, past)| Path::new(&*past.file).starts_with(file));
            for id in of_file.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                self.keep(&id, draft, true, &NOWHERE);
            }
        }
    }

    fn keep(&mut self, id: &PartId, draft: usize, of_file: bool, source: &'a Source) {
        let Some(past) = self.past(id).cloned() else { return };
        let is_live = self.tenants.contains(&id.tenant);
        let Some(former) = past.served.filter(|_| is_live) else { return };
        if !self.taken.insert(id.clone()) {
            return;
        }
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
            served: None,
        });
    }
}

/// Returns whether a document may be about an object of this identity: one in a namespace is about its tenant's only.
fn may_be(document: &Document, id: &PartId) -> bool {
    document.namespace() == id.namespace.as_ref()
        && (document.namespace().is_none()
            || document.tenant().is_none_or(|tenant| tenant == id.tenant))
}

/// Says of an object that it is in nobody's namespace.
fn ownerless(document: &Document, metadata: &Metadata, why: &Ownerless) -> Finding {
    let namespace = document.namespace().map(|namespace| &**namespace).unwrap_or_default();
    let (place, sentence) = (metadata.name.place, format!("{namespace:?} {why}"));
    let severity = Severity::Error;
    document.source.finding(
        severity,
        "NamespaceWithoutTenant",
        place,
        "metadata.namespace",
        &sentence,
    )
}

/// The verdicts of all applicants, and what to remember of them.
pub(crate) fn conclude<V>(
    applicants: Vec<Applicant<'_, V>>,
    drafts: &mut [Draft],
) -> BTreeMap<PartId, Past<V>> {
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
                Served::Current => applicant.document.map(|document| Arc::clone(&document.source)),
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

/// Returns the objects of a tenant.
pub(crate) fn of_tenant<'p, V>(
    pasts: &'p Pasts<V>,
    tenant: &TenantId,
) -> impl Iterator<Item = (&'p PartId, &'p Past<V>)> + use<'p, V> {
    let first = PartId::first(tenant);
    let tenant = first.tenant.clone();
    pasts.range(first..).take_while(move |(id, _)| id.tenant == tenant)
}
