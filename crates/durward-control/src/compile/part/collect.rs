//! Objects of one sort, from documents and from what was served: each identity once, under the document that has its name, or as it was when that is broken.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use durward_model::verdict::{Finding, Severity};
use durward_model::{Kind, Origin, TenantId};

use super::{Applicant, Belonging, Part, PartId, Past, Pasts, Read, Reader};
use crate::cluster::{Owner, Ownerless};
use crate::compile::names::{Doubtful, created, rank};
use crate::compile::precedence::{Age, winners};
use crate::compile::report::{Field, Report};
use crate::compile::roster::{Basis, KnownText, NOWHERE, Roster};
use crate::compile::verdict::Draft;
use crate::compile::{Input, words};
use crate::document::{Content, Document, PartHead};
use crate::spec::tenant::Metadata;
use crate::store::Store;

/// A document with a usable name.
struct Named<'a> {
    draft: usize,
    document: &'a Document,
    head: PartHead<'a>,
    /// `None` when what it says of its tenant is no tenant's name.
    id: Option<PartId>,
    created: Option<Arc<str>>,
    report: Report<'a>,
}

impl Named<'_> {
    fn origin(&self) -> Origin {
        self.document.source.origin(self.head.metadata.name.place)
    }
}

/// Returns all objects of a sort that ask; the verdicts of documents that have no part in it are written already. What was read before is not read again
/// where `reuses` is true.
pub(crate) fn collect<'a, V: Part>(
    input: &Input<'a>,
    roster: &mut Roster<'_>,
    pasts: Option<&Pasts<V>>,
    (reader, reuses): (&mut dyn Reader<V>, bool),
) -> Vec<Applicant<'a, V>> {
    let live = roster.entrants.iter().filter(|entrant| !matches!(entrant.basis, Basis::Out));
    let tenants = live.map(|entrant| entrant.id.clone()).collect();
    let mut office = Office {
        store: input.store,
        reader,
        reuses,
        pasts,
        tenants,
        applicants: Vec::new(),
        taken: HashSet::new(),
    };
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
    store: &'a Store,
    reader: &'p mut dyn Reader<V>,
    /// True if what was read before is not read again.
    reuses: bool,
    pasts: Option<&'p Pasts<V>>,
    /// Those that are served.
    tenants: BTreeSet<TenantId>,
    applicants: Vec<Applicant<'a, V>>,
    taken: HashSet<PartId>,
}

impl<'a, V: Part> Office<'a, '_, V> {
    /// Returns what is remembered of an object, if the document is not of one that was made anew under its name.
    fn past(&self, id: &PartId, document: &Document) -> Option<&Past<V>> {
        self.pasts?.get(id).filter(|past| !document.is_made_anew(past.uid.as_ref()))
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
            if report.check("BadName", written, &Field::NAME, words::object_name).is_none() {
                drafts[draft].findings = report.into_findings();
                continue;
            }
            let created = created(&mut report, document, head.metadata);
            let id = PartId::of(document);
            named.push(Named { draft, document, head, id, created, report });
        }
        self.having(input, named, drafts)
    }

    /// Returns the documents that have their name; the others get a finding that names the holder.
    fn having(
        &self,
        input: &Input<'a>,
        named: Vec<Named<'a>>,
        drafts: &mut [Draft],
    ) -> Vec<Named<'a>> {
        let past = |named: &Named<'a>| self.past(named.id.as_ref()?, named.document);
        let rank = |at: usize| {
            let candidate: &Named<'_> = &named[at];
            let past = past(candidate).map(|past| (&past.text, &past.file));
            rank(past, &candidate.document.source, candidate.created.as_ref(), candidate.draft)
        };
        // A document without an identity loses to none.
        let keys = named.iter().map(|named| named.id.as_ref().ok_or(named.draft));
        let doubtful = Doubtful::of(input);
        let lost = winners(keys, rank).into_iter().enumerate().map(|(at, winner)| {
            let kept = past(&named[at]).and_then(|past| Some((&past.file, past.served.as_ref()?)));
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
        let tenant = belonging.tenant(&mut report, document);
        let past = self.past(&id, document).cloned();
        let known = past.as_ref().and_then(|past| past.read.as_ref());
        let read = self.read(document, known);
        report.take_in(&read.findings, read.errors);
        let current = read.value.clone().filter(|_| tenant.is_some());
        let was_denied = read.was_denied;
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
            current,
            read: Some(read),
            former: past.and_then(|past| past.served).filter(|_| is_live && !was_denied),
            file: Arc::clone(&source.file),
            uid: document.revision.uid.clone(),
            text: KnownText::Whole(Arc::clone(&source.text)),
            seniority: seniority.unwrap_or_else(|| roster.newcomer()),
            created,
            age: Age::of(document),
            shared: V::is_shared(&document.content),
            served: None,
            id,
        });
    }

    /// Returns what a document says, as it was found before where neither it nor anything that it depends on has changed.
    fn read(&mut self, document: &Document, known: Option<&Arc<Read<V>>>) -> Arc<Read<V>> {
        let surroundings = self.store.surroundings(document);
        let is_same = |known: &&Arc<Read<V>>| {
            Arc::ptr_eq(&known.source, &document.source)
                && known.owner == document.owner
                && known.surroundings == surroundings
        };
        if let Some(known) = known.filter(is_same).filter(|_| self.reuses) {
            return Arc::clone(known);
        }
        let mut report = Report::new(&document.source);
        let value = self.reader.read(&mut report, document).map(Arc::new);
        Arc::new(Read {
            source: Arc::clone(&document.source),
            owner: document.owner.clone(),
            surroundings,
            value,
            errors: report.errors(),
            findings: report.into_findings(),
            was_denied: self.reader.was_denied(),
        })
    }

    /// Rejects a document that names no tenant of ours. What the same file said of an object of this name stays: a slip in the tenant's name must not
    /// take it away.
    fn stray(&mut self, roster: &mut Roster<'_>, named: Named<'a>) {
        let Named { draft, document, head, mut report, .. } = named;
        let belonging = Belonging { roster, tenants: &self.tenants };
        belonging.tenant(&mut report, document);
        let read = self.read(document, None);
        report.take_in(&read.findings, read.errors);
        roster.drafts[draft].findings = report.into_findings();
        let source = &document.source;
        for id in self.past_in_file(source.kind, &head.metadata.name, &source.file) {
            if may_be(document, &id) {
                self.keep(&id, (draft, false), Some(document));
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
                        self.keep(&id, (draft, false), Some(document));
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
                self.keep(&id, (draft, true), None);
            }
        }
    }

    /// Keeps an object as it was, if a broken document is not of one that was made anew under its name. `document` is what is there in the place of its own.
    fn keep(
        &mut self,
        id: &PartId,
        (draft, of_file): (usize, bool),
        document: Option<&'a Document>,
    ) {
        let known = self.pasts.and_then(|pasts| pasts.get(id));
        let is_its = |past: &&Past<V>| {
            document.is_none_or(|document| !document.is_made_anew(past.uid.as_ref()))
        };
        let Some(past) = known.filter(is_its).cloned() else { return };
        let is_live = self.tenants.contains(&id.tenant);
        let Some(former) = past.served.filter(|_| is_live) else { return };
        if !self.taken.insert(id.clone()) {
            return;
        }
        self.applicants.push(Applicant {
            id: id.clone(),
            draft,
            of_file,
            report: Report::new(document.map_or(&*NOWHERE, |document| &document.source)),
            current: None,
            former: Some(former),
            file: past.file,
            uid: past.uid,
            text: past.text,
            document: None,
            good: past.good,
            restored: false,
            seniority: past.seniority,
            created: past.created,
            age: document.and_then(Age::of),
            shared: past.shared,
            served: None,
            read: None,
        });
    }
}

/// Returns whether a document may be about an object of this identity: one in a namespace is about its tenant's only.
fn may_be(document: &Document, id: &PartId) -> bool {
    document.namespace() == id.namespace.as_ref()
        && (document.namespace().is_none()
            || document.tenant().is_none_or(|tenant| tenant == id.tenant))
}

/// Reports an object in a namespace that belongs to no tenant.
fn ownerless(document: &Document, metadata: &Metadata, why: &Ownerless) -> Finding {
    let namespace = document.namespace().map(|namespace| &**namespace).unwrap_or_default();
    let (place, sentence) = (metadata.name.place, format!("{namespace:?} {why}"));
    let severity = Severity::Error;
    document.source.finding(severity, why.reason(), place, "metadata.namespace", &sentence)
}
