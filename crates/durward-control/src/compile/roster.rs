//! Collects the tenants to compile: each once, from the oldest document of its name, or as it was served if its document is broken.
//!
//! Here ends what can be said of a document by itself: after this, tenants meet. Deliberately absent: listeners and upstreams.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use durward_model::egress::Rule;
use durward_model::limits::Limits;
use durward_model::route::HostPattern;
use durward_model::verdict::Outcome;
use durward_model::{EgressAddress, ListenerKey, Origin, Revision, Snapshot, Tenant, TenantId};
use ipnet::IpNet;

use super::addresses::Held;
use super::claim_table::Claim;
use super::contribution;
use super::keys::HeldKey;
use super::names::{self, Doubtful, Named};
use super::part::Applicant;
use super::precedence::{Age, Precedence};
use super::report::{Field, Report};
use super::retained::Restoring;
use super::scope::Scope;
use super::served_documents::ServedDocuments;
use super::transparent::Wish;
use super::verdict::Draft;
use super::{Compiled, Input};
use crate::certificate::sha256;
use crate::document::{Content, Document, Source, is_part};
use crate::place::At;
use crate::spec::tenant::TenantSpec;

/// State of a tenant in the previous compile.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    /// The file its document was in.
    pub(crate) file: Arc<str>,
    /// Text of the document.
    pub(crate) text: KnownText,
    /// Tenant as it is served.
    pub(crate) served: Option<Arc<Tenant>>,
    /// As `served`, without the additions of objects: only this may replace broken parts of its document.
    pub(crate) alone: Option<Arc<Tenant>>,
    /// Outcome of its document.
    pub(crate) outcome: Outcome,
    /// The documents that what is served was made from.
    pub(crate) documents: ServedDocuments,
    /// Listeners that it held in an earlier process.
    pub(crate) listeners: Vec<ListenerKey>,
    /// Names that it held in an earlier process, with the addresses and ports.
    pub(crate) names: Vec<((IpAddr, u16), HostPattern)>,
    /// The part of its documents that is made again, while what an earlier process served is restored.
    pub(crate) restoring: Option<Arc<Restoring>>,
    /// Place in the order of arrival.
    pub(crate) seniority: u64,
    /// Identifier of its object, which no other ever had; `None` for one in a file.
    pub(crate) uid: Option<Arc<str>>,
    /// When it says it was created.
    pub(crate) created: Option<Arc<str>>,
    /// The egress addresses it was granted.
    pub(crate) egress: Vec<EgressAddress>,
    /// All addresses it was granted, in order.
    pub(crate) addresses: Vec<Held>,
    /// The private keys it was granted, in order.
    pub(crate) keys: Vec<HeldKey>,
    /// Networks whose traffic it was granted to send from those addresses.
    pub(crate) sources: Vec<IpNet>,
    /// Those among them that only objects ask for.
    pub(crate) added_sources: Vec<IpNet>,
    /// Transparent egress it had.
    pub(crate) transparent: Wish,
    /// All it asks for, whether or not it has it.
    pub(crate) claims: Arc<[Claim]>,
    /// Hash of the origins of those claims, which the findings of losing claims name.
    pub(crate) cited: u64,
}

/// The text of a document as a later compile must know it: by its hash where an earlier process read it.
#[derive(Clone, Debug)]
pub(crate) enum KnownText {
    Whole(Arc<str>),
    /// SHA-256 in hexadecimal.
    Hash(Arc<str>),
}

impl KnownText {
    /// Returns whether this is the text.
    pub(crate) fn is(&self, text: &str) -> bool {
        match self {
            Self::Whole(known) => **known == *text,
            Self::Hash(known) => **known == *sha256([text.as_bytes()]),
        }
    }

    /// Returns the hash of the text, in hexadecimal.
    pub(crate) fn hash(&self) -> Arc<str> {
        match self {
            Self::Whole(text) => Arc::from(sha256([text.as_bytes()])),
            Self::Hash(hash) => Arc::clone(hash),
        }
    }
}

/// All who take part, and the verdicts in the making.
#[derive(Debug, Default)]
pub(crate) struct Roster<'a> {
    pub(crate) entrants: Vec<Entrant<'a>>,
    /// Additions of objects to tenants, in order of seniority.
    pub(crate) contributions: Vec<contribution::Applicant<'a>>,
    pub(crate) drafts: Vec<Draft>,
    /// Former snapshot and scope: its tenants outside of the scope are served and not compiled.
    others: Option<(&'a Snapshot, &'a Scope)>,
    /// The next place in the order of arrival.
    pub(crate) newcomers: u64,
}

impl Roster<'_> {
    /// Returns the positions of the tenants, if there are objects to find theirs.
    pub(crate) fn places<V>(&self, applicants: &[Applicant<'_, V>]) -> HashMap<TenantId, usize> {
        let entrants = if applicants.is_empty() { &[][..] } else { &self.entrants[..] };
        entrants.iter().enumerate().map(|(at, entrant)| (entrant.id.clone(), at)).collect()
    }

    /// Returns the tenants that are served, in order, as far as they are known yet.
    pub(crate) fn served(&self) -> BTreeSet<&TenantId> {
        let live = self.entrants.iter().filter(|entrant| !matches!(entrant.basis, Basis::Out));
        let others = self.others.into_iter().flat_map(|(former, scope)| {
            former.tenants.keys().filter(|tenant| !scope.contains(tenant))
        });
        live.map(|entrant| &entrant.id).chain(others).collect()
    }

    /// The next place in the order of arrival.
    pub(crate) fn newcomer(&mut self) -> u64 {
        self.newcomers += 1;
        self.newcomers - 1
    }
}

/// One tenant that takes part.
#[derive(Debug)]
pub(crate) struct Entrant<'a> {
    pub(crate) id: TenantId,
    pub(crate) basis: Basis<'a>,
    /// Tenant as it was served before.
    pub(crate) previous: Option<&'a Arc<Tenant>>,
    /// As `previous`, without the additions of objects.
    pub(crate) former: Option<&'a Arc<Tenant>>,
    /// Positions of what objects add to it, in order of seniority.
    pub(crate) parts: Vec<usize>,
    /// Rules that objects add to its own.
    pub(crate) rules: AddedRules,
    pub(crate) past: Past,
    /// Age of its document, if that is an object.
    pub(crate) age: Option<Arc<Age>>,
    /// Findings.
    pub(crate) report: Report<'a>,
    /// Verdict that carries its findings.
    pub(crate) verdict: Verdict,
    /// Origin that is named in the findings of claims that lose to it.
    pub(crate) origin: Origin,
    /// The addresses it may leave from, once granted.
    pub(crate) egress: Vec<EgressAddress>,
    /// Networks whose traffic it sends from those addresses, once granted.
    pub(crate) sources: Vec<IpNet>,
    /// Those among them that only objects ask for.
    pub(crate) added_sources: Vec<IpNet>,
    /// Transparent egress it has, once read.
    pub(crate) transparent: Wish,
    /// All it asks for, as it is read.
    pub(crate) claims: Vec<Claim>,
    /// Hash of the places where that is written.
    pub(crate) cited: u64,
    /// True if its document lacks an upstream or a policy that is still served from before.
    pub(crate) leans: bool,
}

/// Rules that objects add to a tenant's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddedRules {
    pub(crate) allow: Vec<Rule>,
    pub(crate) deny: Vec<Rule>,
}

impl AddedRules {
    /// Returns whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// Draft verdict that carries the findings of a tenant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// That of its document.
    Own(usize),
    /// That of a file that cannot be read and may hold its document.
    OfFile(usize),
}

/// Source from which a tenant is compiled.
#[derive(Clone, Debug)]
pub(crate) enum Basis<'a> {
    /// Its document.
    Document(Box<Body<'a>>),
    /// The tenant as it was served.
    Kept(&'a Arc<Tenant>),
    /// Nothing: it is out.
    Out,
}

/// Tenant-wide fields of a document.
#[derive(Clone, Debug)]
pub(crate) struct Body<'a> {
    pub(crate) spec: &'a TenantSpec,
    pub(crate) egress: Vec<At<EgressAddress>>,
    /// Networks whose traffic leaves from those addresses.
    pub(crate) sources: Vec<At<IpNet>>,
    pub(crate) limits: Limits,
}

impl Body<'_> {
    /// Returns true if the document has no listener.
    pub(crate) fn is_doorless(&self) -> bool {
        self.spec.ingress.is_empty() && self.spec.egress.proxy.is_empty()
    }
}

impl Entrant<'_> {
    /// Notes the place where a claim is written.
    pub(crate) fn cite(&mut self, origin: &Origin) {
        let mut hasher = DefaultHasher::new();
        self.cited.hash(&mut hasher);
        match origin {
            Origin::BuiltIn => {}
            Origin::File { file, line } => (file, line).hash(&mut hasher),
            Origin::Object { id, field } => (id, field).hash(&mut hasher),
        }
        self.cited = hasher.finish();
    }

    /// Returns what its claims are sorted by; `held` says that it had the thing before.
    pub(crate) fn precedence(&self, held: bool) -> Precedence {
        match &self.age {
            Some(age) => Precedence::Object(Arc::clone(age)),
            None => Precedence::new(held, self.past.created.as_ref(), self.past.seniority),
        }
    }

    /// Returns what a claim is sorted by that an object makes which adds to the tenant: `part` is its age. `None` stands for the tenant's document, and for objects in
    /// files, which the operator writes as well.
    pub(crate) fn precedence_as(&self, part: Option<&Arc<Age>>, held: bool) -> Precedence {
        part.map_or_else(|| self.precedence(held), |age| Precedence::Object(Arc::clone(age)))
    }
}

pub(crate) static NOWHERE: std::sync::LazyLock<Source> = std::sync::LazyLock::new(Source::default);

/// Returns all tenants that are compiled.
pub(crate) fn enrol<'a>(
    input: &Input<'a>,
    previous: Option<&'a Compiled>,
    scope: &'a Scope,
) -> Roster<'a> {
    let mut register = Register::new(previous);
    let named = register.read_names(&input.documents);
    let lost = names::lost_to(&register, &named, &Doubtful::of(input));
    for (named, lost_to) in named.into_iter().zip(lost) {
        match lost_to {
            None => register.enter(named),
            Some(holder) => {
                let at = named.at;
                register.drafts[at].findings = named.turned_away(&holder);
            }
        }
    }
    register.keep_broken(input);
    let Register { entrants, drafts, newcomers, .. } = register;
    let others = previous.map(|previous| (&*previous.snapshot, scope));
    Roster { entrants, contributions: Vec::new(), drafts, others, newcomers }
}

/// The roster while it is filled.
pub(crate) struct Register<'a> {
    previous: Option<&'a Compiled>,
    entrants: Vec<Entrant<'a>>,
    drafts: Vec<Draft>,
    taken: HashSet<TenantId>,
    newcomers: u64,
}

impl<'a> Register<'a> {
    fn new(previous: Option<&'a Compiled>) -> Self {
        let newcomers = previous.map_or(0, |compiled| compiled.memory.newcomers);
        Self {
            previous,
            entrants: Vec::new(),
            drafts: Vec::new(),
            taken: HashSet::new(),
            newcomers,
        }
    }

    /// Returns the state of a tenant in the previous compile, served or not, unless the document's revision is of an object that was made anew under its name.
    pub(crate) fn past(&self, id: &TenantId, revision: &Revision) -> Option<&'a Past> {
        let past = self.previous?.memory.tenants.get(id).map(Arc::as_ref);
        past.filter(|past| !revision.is_made_anew(past.uid.as_ref()))
    }

    /// The documents with a usable name; the others get their verdict here.
    fn read_names(&mut self, documents: &[&'a Document]) -> Vec<Named<'a>> {
        let mut named = Vec::with_capacity(documents.len());
        self.drafts.reserve(documents.len());
        self.entrants.reserve(documents.len());
        self.taken.reserve(documents.len());
        for (at, &document) in documents.iter().enumerate() {
            let source = &document.source;
            let mut draft = Draft::new(document);
            if let Content::Tenant(tenant) = &document.content {
                let mut report = Report::of_document(source);
                let name = &tenant.metadata.name;
                let id = report.check("BadName", name, &Field::NAME, |text| {
                        TenantId::new(text).map_err(|_| {
                            "is not a tenant name: use 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter \
                             or digit".to_owned()
                        })
                    });
                match id {
                    Some(id) => {
                        let created = names::created(&mut report, document, &tenant.metadata);
                        let revision = &document.revision;
                        let age = Age::of(document);
                        named.push(Named {
                            at,
                            document: tenant,
                            source,
                            revision,
                            id,
                            created,
                            age,
                            report,
                        });
                    }
                    None => draft.findings = report.into_findings(),
                }
            }
            self.drafts.push(draft);
        }
        named
    }

    /// Takes a tenant in under its document, or as it was when the document is no good as a whole.
    fn enter(&mut self, mut named: Named<'a>) {
        let past = self.past(&named.id, named.revision);
        let mut body = named.body();
        if let (Some(body), Some(past)) = (&mut body, past)
            && past.restoring.is_some()
        {
            body.egress.retain(|address| past.egress.contains(&address.value));
            body.sources.retain(|source| past.sources.contains(&source.value));
        }
        let served = past.and_then(|past| past.served.as_ref());
        let former = past.and_then(|past| past.alone.as_ref());
        let basis = match (body, former) {
            (Some(body), _) => Basis::Document(Box::new(body)),
            (None, Some(tenant)) => Basis::Kept(tenant),
            (None, None) => Basis::Out,
        };
        let seniority = past.map_or_else(|| self.newcomer(), |past| past.seniority);
        let past = Past {
            file: Arc::clone(&named.source.file),
            text: KnownText::Whole(Arc::clone(&named.source.text)),
            served: None,
            alone: None,
            added_sources: past.map(|past| past.added_sources.clone()).unwrap_or_default(),
            outcome: Outcome::Rejected,
            documents: past.map(|past| past.documents.clone()).unwrap_or_default(),
            restoring: past.and_then(|past| past.restoring.clone()),
            listeners: past.map(|past| past.listeners.clone()).unwrap_or_default(),
            names: past.map(|past| past.names.clone()).unwrap_or_default(),
            egress: past.map(|past| past.egress.clone()).unwrap_or_default(),
            sources: past.map(|past| past.sources.clone()).unwrap_or_default(),
            transparent: past.map(|past| past.transparent.clone()).unwrap_or_default(),
            seniority,
            uid: named.revision.uid.clone(),
            created: named.created,
            addresses: past.map(|past| past.addresses.clone()).unwrap_or_default(),
            keys: past.map(|past| past.keys.clone()).unwrap_or_default(),
            claims: Arc::default(),
            cited: 0,
        };
        self.taken.insert(named.id.clone());
        self.entrants.push(Entrant {
            id: named.id,
            basis,
            previous: served,
            former,
            parts: Vec::new(),
            rules: AddedRules::default(),
            past,
            age: named.age,
            report: named.report,
            verdict: Verdict::Own(named.at),
            origin: named.source.origin(named.document.metadata.name.place),
            egress: Vec::new(),
            sources: Vec::new(),
            added_sources: Vec::new(),
            transparent: Wish::None,
            claims: Vec::new(),
            cited: 0,
            leans: false,
        });
    }

    fn newcomer(&mut self) -> u64 {
        self.newcomers += 1;
        self.newcomers - 1
    }

    /// Keeps what broken documents and unreadable files were before.
    fn keep_broken(&mut self, input: &Input<'a>) {
        let mut nameless: Vec<(&Arc<str>, usize)> = Vec::new();
        for (at, &document) in input.documents.iter().enumerate() {
            match &document.content {
                Content::Mapping(_)
                | Content::Policy(_)
                | Content::HostedApi(_)
                | Content::Ingress(_)
                | Content::ForeignApi(_) => {}
                Content::Broken(_) if is_part(document.source.kind) => {}
                Content::Broken(broken) => {
                    match broken.name.as_deref().and_then(|name| TenantId::new(name).ok()) {
                        Some(id) => {
                            let of = (&*document.source, &document.revision);
                            self.keep(&id, of, Age::of(document), Verdict::Own(at));
                        }
                        None => nameless.push((&document.source.file, at)),
                    }
                }
                Content::Tenant(tenant) if TenantId::new(&tenant.metadata.name).is_err() => {
                    nameless.push((&document.source.file, at));
                }
                Content::Tenant(_) => {}
            }
        }
        for (file, at) in nameless {
            self.keep_all_of(file, at);
        }
    }

    /// Whatever was in the file and is nowhere now may be what cannot be read.
    fn keep_all_of(&mut self, file: &Arc<str>, draft: usize) {
        let Some(previous) = self.previous else { return };
        let past = previous.memory.tenants.iter();
        let mut of_file: Vec<_> = past
            .filter(|(_, past)| Path::new(&*past.file).starts_with(&**file))
            .map(|(id, _)| id)
            .collect();
        of_file.sort();
        for id in of_file {
            if !self.taken.contains(id) {
                self.keep(id, (&NOWHERE, &Revision::default()), None, Verdict::OfFile(draft));
            }
        }
    }

    fn keep(
        &mut self,
        id: &TenantId,
        (source, revision): (&'a Source, &Revision),
        age: Option<Arc<Age>>,
        verdict: Verdict,
    ) {
        let Some(past) = self.past(id, revision) else { return };
        let (Some(served), Some(tenant)) = (&past.served, &past.alone) else { return };
        if !self.taken.insert(id.clone()) {
            return;
        }
        self.entrants.push(Entrant {
            id: id.clone(),
            basis: Basis::Kept(tenant),
            previous: Some(served),
            former: Some(tenant),
            parts: Vec::new(),
            rules: AddedRules::default(),
            past: past.clone(),
            age,
            report: Report::new(source),
            verdict,
            origin: tenant.origin.clone(),
            egress: Vec::new(),
            sources: Vec::new(),
            added_sources: Vec::new(),
            transparent: Wish::None,
            claims: Vec::new(),
            cited: 0,
            leans: false,
        });
    }
}
