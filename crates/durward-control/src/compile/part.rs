//! The life of an object that adds to a tenant: it comes new, holds what it was given, keeps its last good version while it is broken, and goes.
//!
//! It is the same for all kinds of such objects. What an object says, its reader tells; what of that it gets, the deciders of its kind.

mod collect;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use durward_model::verdict::{Finding, Outcome};
use durward_model::{Kind, Origin, SharedMap, TenantId};

use super::precedence::{Age, Precedence};
use super::report::{Field, Report};
use super::roster::{KnownText, Roster};
use super::verdict::{Draft, Served};
use super::{assemble, retained, words};
use crate::cluster::Owner;
use crate::document::{Content, Document, PartHead, Source};
use crate::place::At;
use crate::state::PartState;
use crate::store::Surroundings;
pub(crate) use collect::collect;

/// Compiled form of an object of one kind.
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
        let name = words::object_name(&document.content.part()?.metadata.name).ok()?;
        let (tenant, kind) = (document.tenant()?, document.source.kind);
        Some(Self { tenant, kind, namespace: document.namespace().cloned(), name })
    }

    /// Returns an identity that sorts before all those of a tenant.
    pub(crate) fn first(tenant: &TenantId) -> Self {
        Self { tenant: tenant.clone(), kind: Kind::Tenant, namespace: None, name: Arc::from("") }
    }

    /// Returns the name that is unique for its tenant and kind: `NAMESPACE/NAME` for an object of a cluster.
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

/// Result of reading a document.
pub(crate) struct Read<V> {
    source: Arc<Source>,
    owner: Owner,
    surroundings: Surroundings,
    value: Option<Arc<V>>,
    findings: Vec<Finding>,
    errors: usize,
    was_denied: bool,
}

impl<V> fmt::Debug for Read<V> {
    /// Shows nothing: what was found is shown where it is served.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Read")
    }
}

/// State of objects in the previous compile.
pub(crate) type Pasts<V> = SharedMap<PartId, Past<V>>;

/// State of an object in the previous compile.
#[derive(Debug)]
pub(crate) struct Past<V> {
    pub(crate) file: Arc<str>,
    /// Identifier of its object, which no other ever had; `None` for one in a file.
    pub(crate) uid: Option<Arc<str>>,
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
    /// Result of reading its document.
    pub(crate) read: Option<Arc<Read<V>>>,
}

impl<V> Clone for Past<V> {
    fn clone(&self) -> Self {
        Self {
            file: Arc::clone(&self.file),
            uid: self.uid.clone(),
            text: self.text.clone(),
            seniority: self.seniority,
            created: self.created.clone(),
            shared: self.shared,
            good: self.good.clone(),
            restored: self.restored,
            outcome: self.outcome,
            served: self.served.clone(),
            read: self.read.clone(),
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
            uid: state.uid.clone(),
            text: retained::known_text(state.text.as_ref(), good.as_ref()),
            seniority: state.seniority,
            created: state.created.clone(),
            shared: state.shared,
            restored: good.is_some(),
            good,
            outcome: Outcome::Rejected,
            served: None,
            read: None,
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
    /// Index of the draft verdict that carries its findings; a file's if its document cannot be found.
    draft: usize,
    of_file: bool,
    pub(crate) report: Report<'a>,
    /// Value of its document, if all of it is valid.
    pub(crate) current: Option<Arc<V>>,
    /// Value that was served before.
    pub(crate) former: Option<Arc<V>>,
    file: Arc<str>,
    uid: Option<Arc<str>>,
    text: KnownText,
    /// Document, if it has one.
    pub(crate) document: Option<&'a Document>,
    good: Option<Arc<Source>>,
    pub(crate) restored: bool,
    pub(crate) seniority: u64,
    pub(crate) created: Option<Arc<str>>,
    /// Age of the object; `None` in a file.
    pub(crate) age: Option<Arc<Age>>,
    /// True if other tenants that also say so may use its addresses.
    pub(crate) shared: bool,
    /// Value that is served, once decided.
    pub(crate) served: Option<Arc<V>>,
    read: Option<Arc<Read<V>>>,
}

impl<'a, V> Applicant<'a, V> {
    /// Returns what its claims are sorted by, as for tenants.
    pub(crate) fn precedence(&self, held: bool) -> Precedence {
        match &self.age {
            Some(age) => Precedence::Object(Arc::clone(age)),
            None => Precedence::new(held, self.created.as_ref(), self.seniority),
        }
    }

    /// Returns the value it claims first: the document's, or else the one served before.
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

/// Makes of a document and its facts, by themselves, what an object comes to.
pub(crate) trait Reader<V> {
    /// Returns what the object comes to, or `None` after an error, which is in the report. The existence of its tenant is checked elsewhere.
    fn read(&mut self, report: &mut Report<'_>, document: &Document) -> Option<V>;

    /// Returns whether the document that was read last was denied a thing: what it had of that before is no more its own.
    fn was_denied(&mut self) -> bool {
        false
    }
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
            uid: applicant.uid,
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
            read: applicant.read,
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
