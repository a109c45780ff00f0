//! The part of a configuration that a change concerns: the tenants whose documents or files differ, and all whose claims meet theirs.
//!
//! A tenant is concerned with all of its documents at once, mappings included. Deliberately absent: what becomes of them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use durward_model::{Kind, TenantId};

use super::claim_table::ClaimTable;
use super::mapping::MappingId;
use super::roster::Past;
use super::{Compiled, Memory, Seen};
use crate::resources::{Content, Document, Resources, Source, holds_all};

/// After so many seconds everything is looked at again, for certificates age.
pub(super) const LONG: i64 = 3600;
/// Fewer tenants than these are never taken for everything.
const FEW: usize = 64;

/// The tenants that are compiled.
#[derive(Debug)]
pub(super) enum Scope {
    /// All of them, as if nothing were known but what each had.
    Everything,
    /// These. All others stay as they were.
    Part(Part),
}

/// Some tenants, and where their documents are.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) tenants: HashSet<TenantId>,
    pub(super) former: Places,
    /// The tenant of each document.
    pub(super) units: Arc<[Option<TenantId>]>,
}

impl Scope {
    /// Returns the tenants whose documents or files differ from what was compiled last, and those that may come out differently anyway.
    pub(super) fn touched(resources: &Resources, previous: Option<&Compiled>, now: i64) -> Self {
        let mut scope = Self::changed(resources, previous, now);
        if let (Self::Part(part), Some(previous)) = (&mut scope, previous) {
            part.tenants.extend(previous.memory.unsettled.iter().cloned());
        }
        scope
    }

    /// Returns the tenants whose documents or files differ from what was compiled last.
    pub(super) fn changed(resources: &Resources, previous: Option<&Compiled>, now: i64) -> Self {
        let Some(Compiled { memory, .. }) = previous else { return Self::Everything };
        let seen = &memory.seen;
        let lately = (0..LONG).contains(&now.saturating_sub(seen.at));
        let same_links =
            Arc::ptr_eq(&seen.links, &resources.links) || seen.links == resources.links;
        if !seen.complete || !lately || !same_links {
            return Self::Everything;
        }
        let former = places(&seen.sources, &resources.documents);
        let mut tenants = HashSet::new();
        let units = former.units(seen, resources, &mut tenants);
        if !holds_all(&seen.files, &resources.files) || seen.files.len() != resources.files.len() {
            let documents = resources.documents.iter().zip(&*units);
            let concerned =
                documents.filter(|(document, _)| names_changed(document, seen, resources));
            tenants.extend(concerned.filter_map(|(_, unit)| unit.clone()));
        }
        retained(resources, &units, memory, &mut tenants);
        Self::Part(Part { tenants, former, units })
    }

    /// Returns the tenants of a part. Nobody is known before everything is compiled.
    pub(super) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        let part = if let Self::Part(part) = self { Some(part) } else { None };
        part.into_iter().flat_map(|part| &part.tenants)
    }

    /// Returns whether the tenant is compiled.
    pub(super) fn contains(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Everything => true,
            Self::Part(part) => part.tenants.contains(tenant),
        }
    }
}

impl Scope {
    /// Takes in whoever has a claim that meets one of these tenants', until none does. What is then not much less than everything becomes that.
    pub(super) fn closed(self, memory: &Memory, resources: &Resources) -> Self {
        let Self::Part(mut part) = self else { return self };
        let mut open: Vec<TenantId> = part.tenants.iter().cloned().collect();
        while let Some(tenant) = open.pop() {
            let claims = memory.tenants.get(&tenant).map(|past| &*past.claims).unwrap_or_default();
            for claim in claims {
                memory.claims.meeting(claim, &mut |other| {
                    if !part.tenants.contains(other) {
                        part.tenants.insert(other.clone());
                        open.push(other.clone());
                    }
                });
            }
        }
        let many = part.tenants.len() > FEW && part.tenants.len() * 2 > resources.documents.len();
        if many { Self::Everything } else { Self::Part(part) }
    }
}

impl Part {
    /// Returns the part with whoever has a claim that meets what these tenants were found to ask for; `None` if there is nobody.
    pub(super) fn grown(
        &self,
        table: &ClaimTable,
        compiled: &[(TenantId, Arc<Past>)],
    ) -> Option<Self> {
        let mut met = HashSet::new();
        for claim in compiled.iter().flat_map(|(_, past)| &*past.claims) {
            table.meeting(claim, &mut |other| {
                if !self.tenants.contains(other) && !met.contains(other) {
                    met.insert(other.clone());
                }
            });
        }
        if met.is_empty() {
            return None;
        }
        met.extend(self.tenants.iter().cloned());
        Some(Self { tenants: met, former: self.former.clone(), units: Arc::clone(&self.units) })
    }

    /// Returns the documents of these tenants, and those whose tenant cannot be told, with their positions.
    pub(super) fn resources(&self, resources: &Resources) -> (Resources, Vec<usize>) {
        let units = self.units.iter().enumerate();
        let is_meant =
            |unit: &Option<TenantId>| unit.as_ref().is_none_or(|unit| self.tenants.contains(unit));
        let positions: Vec<usize> =
            units.filter(|(_, unit)| is_meant(unit)).map(|(at, _)| at).collect();
        let documents = positions.iter().map(|at| resources.documents[*at].clone()).collect();
        (resources.with_documents(documents), positions)
    }
}

/// Returns the tenant of each document, where that can be told.
pub(super) fn units(documents: &[Document]) -> Arc<[Option<TenantId>]> {
    documents.iter().map(unit).collect()
}

pub(super) fn unit(document: &Document) -> Option<TenantId> {
    match &document.content {
        Content::Tenant(tenant) => TenantId::new(&tenant.metadata.name).ok(),
        Content::Mapping(mapping) => TenantId::new(&mapping.spec.tenant).ok(),
        Content::Broken(_) if document.source.kind == Kind::PortMapping => None,
        Content::Broken(broken) => TenantId::new(broken.name.as_deref()?).ok(),
    }
}

/// For each document its position among those that were compiled last; `None` for new ones.
#[derive(Clone, Debug)]
pub(super) struct Places(Vec<Option<usize>>);

/// Returns the places of the current documents. One that another was moved past is taken for a new one.
fn places(former: &[Arc<Source>], current: &[Document]) -> Places {
    let mut known: Option<HashMap<*const Source, usize>> = None;
    let mut next = 0;
    let place = |document: &Document| {
        if former.get(next).is_some_and(|former| Arc::ptr_eq(former, &document.source)) {
            next += 1;
            return Some(next - 1);
        }
        let known = known.get_or_insert_with(|| {
            let former = former.iter().enumerate();
            former.map(|(at, source)| (Arc::as_ptr(source), at)).collect()
        });
        let at = known.get(&Arc::as_ptr(&document.source)).filter(|at| **at >= next)?;
        next = at + 1;
        Some(*at)
    };
    Places(current.iter().map(place).collect())
}

impl Places {
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<usize>> {
        self.0.iter().copied()
    }

    /// Returns whether every document is what and where it was.
    pub(super) fn are_same(&self, seen: &Seen) -> bool {
        self.0.len() == seen.sources.len()
            && self.0.iter().enumerate().all(|(at, place)| *place == Some(at))
    }

    /// Returns the tenant of each document, and adds those of documents that came, went or were moved to `touched`.
    fn units(
        &self,
        seen: &Seen,
        resources: &Resources,
        touched: &mut HashSet<TenantId>,
    ) -> Arc<[Option<TenantId>]> {
        if self.are_same(seen) {
            return Arc::clone(&seen.units);
        }
        let mut gone = vec![true; seen.sources.len()];
        self.iter().flatten().for_each(|at| gone[at] = false);
        let removed = gone.iter().zip(&*seen.units).filter(|(gone, _)| **gone);
        touched.extend(removed.filter_map(|(_, unit)| unit.clone()));
        let documents = self.iter().zip(&resources.documents);
        let units = documents.map(|(place, document)| match place {
            Some(at) => seen.units[at].clone(),
            None => {
                let unit = unit(document);
                touched.extend(unit.clone());
                unit
            }
        });
        units.collect()
    }
}

/// Returns whether the document refers to a file that is not what it was.
fn names_changed(document: &Document, seen: &Seen, resources: &Resources) -> bool {
    let changed = |path: &Path| seen.files.get(path) != resources.files.get(path);
    document.references().iter().any(|(_, path)| changed(path))
}

/// Adds the tenants that may be served as before because of what cannot be read now.
fn retained(
    resources: &Resources,
    units: &[Option<TenantId>],
    memory: &Memory,
    tenants: &mut HashSet<TenantId>,
) {
    let strays = units.iter().zip(&resources.documents).filter(|(unit, _)| unit.is_none());
    let mut files: Vec<&str> =
        resources.unreadable.iter().map(|unreadable| &*unreadable.file).collect();
    let mut mappings: HashSet<(&str, &str)> = HashSet::new();
    for (_, document) in strays {
        let file = &*document.source.file;
        match &document.content {
            Content::Mapping(mapping) => {
                mappings.insert((&mapping.metadata.name, file));
            }
            Content::Broken(broken) if document.source.kind == Kind::PortMapping => {
                match &broken.name {
                    Some(name) => drop(mappings.insert((name, file))),
                    None => files.push(file),
                }
            }
            Content::Tenant(_) | Content::Broken(_) => files.push(file),
        }
    }
    if files.is_empty() && mappings.is_empty() {
        return;
    }
    let is_there = |file: &str| files.iter().any(|dir| Path::new(file).starts_with(dir));
    let of_tenants = memory.tenants.iter().filter(|(_, past)| is_there(&past.file));
    tenants.extend(of_tenants.map(|(tenant, _)| tenant.clone()));
    let is_kept = |(id, past): &(&MappingId, &super::mapping::Past)| {
        mappings.contains(&(&*id.name, &*past.file)) || is_there(&past.file)
    };
    tenants.extend(memory.mappings.iter().filter(is_kept).map(|(id, _)| id.tenant.clone()));
}
