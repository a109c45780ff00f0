//! A change that moves no claim is compiled alone: what is said now is put in the place of what was said, all else stays as it is.
//!
//! Deliberately absent: whatever could give another document something, or take it away. Then everything is compiled, and the outcome of
//! both ways is the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::mapping::{KernelEgress, NatModel, PortMapping};
use durward_model::verdict::{Finding, Outcome, Verdict};
use durward_model::{Bind, Listener, Origin, Snapshot, Tenant, TenantId};

use super::body::Candidate;
use super::certificates::Files;
use super::mapping::MappingId;
use super::names::{self, Named};
use super::report::Report;
use super::roster::{Basis, Entrant, Past, Verdict as Told};
use super::transparent::Wish;
use super::verdict::{Draft, Served};
use super::{Compiled, Seen, assemble, body, claims, digests, keys, mapping, nat};
use crate::resources::{Content, Document, Resources, Source, holds_all};
use crate::spec::port_mapping::PortMappingDocument;
use crate::spec::tenant::{Metadata, TenantDocument, TenantSpec};

/// More changed documents than these are compiled with all the others.
const FEW: usize = 64;
/// After so many seconds everything is looked at again, for certificates age.
const LONG: i64 = 3600;

/// The outcome, if no claim moves.
pub(super) fn compile(resources: &Resources, previous: &Compiled, now: i64) -> Option<Compiled> {
    let seen = &previous.memory.seen;
    let sound = seen.settled && !seen.unreadable && resources.unreadable.is_empty();
    let lately = (0..LONG).contains(&now.saturating_sub(seen.at));
    let same_links = Arc::ptr_eq(&seen.links, &resources.links) || seen.links == resources.links;
    if !sound || !lately || !same_links || !holds_all(&seen.files, &resources.files) {
        return None;
    }
    let changed = changed(&seen.documents, &resources.documents)?;
    let files = Files::new(resources, Some(&previous.memory.certificates), now);
    let mut patch = Patch { previous, files, changes: Changes::default() };
    for at in changed {
        patch.document(at, &seen.documents[at], &resources.documents[at])?;
    }
    Some(patch.finish(resources))
}

/// The documents that changed, by position; `None` when there are many, or not the same ones in the same files.
fn changed(former: &[Document], current: &[Document]) -> Option<Vec<usize>> {
    if former.len() != current.len() {
        return None;
    }
    let mut changed = Vec::new();
    for (at, (was, is)) in former.iter().zip(current).enumerate() {
        if Arc::ptr_eq(&was.source, &is.source) {
            continue;
        }
        if was.source.file != is.source.file || changed.len() == FEW {
            return None;
        }
        changed.push(at);
    }
    Some(changed)
}

struct Patch<'a> {
    previous: &'a Compiled,
    files: Files<'a>,
    changes: Changes,
}

/// What is different from before.
#[derive(Default)]
struct Changes {
    verdicts: Vec<(usize, Verdict)>,
    tenants: Vec<(TenantId, Past)>,
    mappings: Mappings,
    egress: Rules,
}

type Mappings = Vec<(MappingId, mapping::Past)>;
/// Rules by their position in the model.
type Rules = Vec<(usize, Arc<KernelEgress>)>;

impl<'a> Patch<'a> {
    /// Takes a changed document in; `None` when it may move a claim.
    fn document(&mut self, at: usize, was: &Document, is: &'a Document) -> Option<()> {
        let verdict = self.previous.verdicts.verdicts.get(at)?;
        if verdict.outcome != Outcome::Accepted || self.is_told_of(at, &is.source) {
            return None;
        }
        match (&was.content, &is.content) {
            (Content::Tenant(was), Content::Tenant(is_now)) => {
                (is_same(&was.metadata, &is_now.metadata) && have_same(&was.spec, &is_now.spec))
                    .then_some(())?;
                self.tenant(at, &is.source, is_now)
            }
            (Content::Mapping(was), Content::Mapping(is_now)) => {
                is_same(&was.metadata, &is_now.metadata).then_some(())?;
                self.mapping(at, &is.source, is_now)
            }
            _ => None,
        }
    }

    /// Whether another document lost something to one of this file, and was told the line.
    fn is_told_of(&self, at: usize, source: &Source) -> bool {
        let verdicts = self.previous.verdicts.verdicts.iter().enumerate();
        let mut others = verdicts.filter(|(other, _)| *other != at);
        others.any(|(_, verdict)| {
            verdict.findings.iter().any(|finding| finding.sentence.contains(&*source.file))
        })
    }

    fn tenant(
        &mut self,
        at: usize,
        source: &'a Arc<Source>,
        document: &'a TenantDocument,
    ) -> Option<()> {
        let id = TenantId::new(&document.metadata.name).ok()?;
        let past = self.previous.memory.tenants.get(&id)?;
        let former = past.served.as_ref()?;
        let mut report = Report::of_document(source);
        let created = names::created(&mut report, &document.metadata);
        let mut named = Named { at, document, source, id, created, report };
        let body = named.body()?;
        let mut entrant = Entrant {
            origin: source.origin(document.metadata.name.place),
            basis: Basis::Out,
            previous: Some(former),
            past: Past {
                file: Arc::clone(&source.file),
                text: Arc::clone(&source.text),
                served: None,
                good: Some(Arc::clone(source)),
                outcome: Outcome::Accepted,
                ..past.as_ref().clone()
            },
            report: named.report,
            verdict: Told::Own(at),
            egress: past.egress.clone(),
            sources: past.sources.clone(),
            transparent: Wish::None,
            id: named.id,
        };
        let mut listeners = Vec::new();
        let (files, previous) = (&mut self.files, Some(self.previous));
        let upstreams = body::document(0, &mut entrant, &body, files, previous, &mut listeners);
        entrant.basis = Basis::Document(Box::new(body));
        // Another key may be another tenant's.
        let sound = entrant.report.errors() == 0
            && keys::held(&self.files.keys_used()) == entrant.past.keys
            && assemble::served(&entrant, &listeners) == Served::Current
            && self.have_same_doors(former, &mut listeners);
        if !sound {
            return None;
        }
        let tenant = assemble::tenant(&entrant, listeners, upstreams);
        let binds = |of: &Tenant| of.transparent.iter().map(|door| door.bind).collect::<Vec<_>>();
        if binds(&tenant) != binds(former) {
            return None;
        }
        self.egress(&entrant)?;
        let findings = entrant.report.take();
        let name = &document.metadata.name;
        self.tell(at, source, (name, source.origin(name.place)), findings);
        let Entrant { egress, sources, transparent, .. } = entrant;
        let past = Past { egress, sources, transparent, served: Some(tenant), ..entrant.past };
        self.changes.tenants.push((entrant.id, past));
        Some(())
    }

    /// Whether clients find the tenant's listeners where they were, through the same sockets.
    fn have_same_doors(&self, former: &Tenant, listeners: &mut [Candidate]) -> bool {
        listeners.sort_by_key(|candidate| candidate.listener.key());
        let same = |(candidate, former): (&Candidate, &Arc<Listener>)| {
            let bind = self.previous.snapshot.binds.get(&former.bind);
            candidate.listener.key() == former.key()
                && candidate.listener.bind == former.bind
                && bind.is_some_and(|bind| bind.mode == candidate.mode)
                // Who shares a door may stand in the way of another by who its clients are.
                && !claims::shares(&candidate.listener)
                && !claims::shares(former)
        };
        listeners.len() == former.listeners.len()
            && listeners.iter().zip(&former.listeners).all(same)
    }

    fn egress(&mut self, entrant: &Entrant<'_>) -> Option<()> {
        let Some(rule) = nat::tenant_egress(entrant) else { return Some(()) };
        let known = &self.previous.snapshot.nat.egress;
        let at = known
            .iter()
            .position(|known| known.tenant == rule.tenant && known.name == rule.name)?;
        if *known[at] != rule {
            self.changes.egress.push((at, Arc::new(rule)));
        }
        Some(())
    }

    fn mapping(
        &mut self,
        at: usize,
        source: &'a Arc<Source>,
        document: &'a PortMappingDocument,
    ) -> Option<()> {
        let id = MappingId::written(document)?;
        let past = self.previous.memory.mappings.get(&id)?;
        let former = past.served();
        let (past, findings) = mapping::again(source, document, past)?;
        let networks = &self.previous.memory.tenants;
        if mapping::foreign::leads_to_another(past.served()?, former, networks) {
            return None;
        }
        let written = &document.metadata.name;
        self.tell(at, source, (written, source.origin(written.place)), findings);
        self.changes.mappings.push((id, past));
        Some(())
    }

    fn tell(
        &mut self,
        at: usize,
        source: &Source,
        (name, origin): (&str, Origin),
        findings: Vec<Finding>,
    ) {
        let mut draft = Draft::new(&source.kind, name, origin);
        draft.findings = findings;
        draft.served = Served::Current;
        self.changes.verdicts.push((at, draft.into_verdict()));
    }

    fn finish(self, resources: &Resources) -> Compiled {
        let Self { previous, files, changes } = self;
        let mut compiled = previous.clone();
        for (at, verdict) in changes.verdicts {
            compiled.verdicts.verdicts[at] = verdict;
        }
        compiled.snapshot =
            snapshot(&previous.snapshot, &changes.tenants, (&changes.mappings, changes.egress));
        let memory = &mut compiled.memory;
        if !changes.tenants.is_empty() {
            let changed = changes.tenants.into_iter().map(|(id, past)| (id, Arc::new(past)));
            Arc::make_mut(&mut memory.tenants).extend(changed);
        }
        if !changes.mappings.is_empty() {
            Arc::make_mut(&mut memory.mappings).extend(changes.mappings);
        }
        let certificates = files.into_certificates();
        if !memory.certificates.hold(&certificates) {
            Arc::make_mut(&mut memory.certificates).take_in(certificates);
        }
        let Seen { documents, files, .. } = &mut memory.seen;
        documents.clone_from(&resources.documents);
        if files.len() != resources.files.len() {
            *files = Arc::new(digests(&resources.files));
        }
        compiled
    }
}

/// Whether both are the same document, of the same age.
fn is_same(was: &Metadata, is: &Metadata) -> bool {
    was.name == is.name && was.creation_timestamp == is.creation_timestamp
}

/// Returns whether both ask for the same addresses and networks, as far as listeners do not tell.
fn have_same(was: &TenantSpec, is: &TenantSpec) -> bool {
    let doors = was.ingress.iter().zip(&is.ingress);
    let same_doors = was.ingress.len() == is.ingress.len()
        && doors
            .into_iter()
            .all(|(was, is)| (&*was.address, was.shared) == (&*is.address, is.shared));
    let (was, is) = (&was.egress, &is.egress);
    same_doors
        && was.addresses == is.addresses
        && was.sources == is.sources
        && was.shared == is.shared
}

/// The snapshot with what changed in its place; the same where nothing did.
fn snapshot(
    former: &Arc<Snapshot>,
    tenants: &[(TenantId, Past)],
    (mappings, egress): (&Mappings, Rules),
) -> Arc<Snapshot> {
    let served = tenants.iter().filter_map(|(id, past)| Some((id, past.served.as_ref()?)));
    let differ = |(id, tenant): &(&TenantId, &Arc<Tenant>)| {
        former.tenants.get(*id).is_none_or(|known| !Arc::ptr_eq(known, tenant))
    };
    let tenants: Vec<_> = served.filter(differ).collect();
    let nat = nat_model(&former.nat, mappings, egress);
    if tenants.is_empty() && nat.is_none() {
        return Arc::clone(former);
    }
    let mut snapshot = Snapshot::clone(former);
    snapshot.generation += 1;
    if let Some(nat) = nat {
        snapshot.nat = Arc::new(nat);
    }
    for (id, tenant) in tenants {
        snapshot.tenants.insert(id.clone(), Arc::clone(tenant));
        put_doors(&mut snapshot.binds, tenant);
    }
    Arc::new(snapshot)
}

/// The tenant's listeners in the places of its former ones.
fn put_doors(binds: &mut BTreeMap<SocketAddr, Arc<Bind>>, tenant: &Tenant) {
    for listener in tenant.listeners.iter().chain(&tenant.transparent) {
        let Some(bind) = binds.get_mut(&listener.bind) else { continue };
        let place = |known: &Arc<Listener>| {
            known.key().cmp(&listener.key()).then_with(|| known.tenant.cmp(&listener.tenant))
        };
        if let Ok(at) = bind.listeners.binary_search_by(place) {
            Arc::make_mut(bind).listeners[at] = Arc::clone(listener);
        }
    }
}

/// The model with what changed in its place, if anything did.
fn nat_model(former: &NatModel, mappings: &Mappings, egress: Rules) -> Option<NatModel> {
    let place = |mapping: &Arc<PortMapping>| {
        let id = (&mapping.tenant, &mapping.name);
        former.mappings.iter().position(|known| (&known.tenant, &known.name) == id)
    };
    let served = mappings.iter().filter_map(|(_, past)| past.served());
    let placed = served.filter_map(|mapping| Some((place(mapping)?, mapping)));
    let placed: Vec<_> = placed.filter(|(at, mapping)| former.mappings[*at] != **mapping).collect();
    if placed.is_empty() && egress.is_empty() {
        return None;
    }
    let mut model = former.clone();
    for (at, mapping) in placed {
        model.mappings[at] = Arc::clone(mapping);
    }
    for (at, rule) in egress {
        model.egress[at] = rule;
    }
    Some(model)
}

#[cfg(test)]
mod tests;
