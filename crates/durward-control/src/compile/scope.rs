//! The part of a configuration that a change concerns: the tenants whose documents or files differ, and all whose claims meet theirs.
//!
//! A tenant is concerned with all of its documents at once, mappings included. Deliberately absent: what becomes of them.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use durward_model::{DocumentKey, Kind, TenantId};

use super::claim_table::ClaimTable;
use super::part::Pasts;
use super::roster::Past;
use super::{Compiled, Input, Memory};
use crate::document::{Content, Document, is_part};
use crate::store::Store;

/// Seconds after which everything is compiled again, because certificates expire.
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

/// Some tenants.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) tenants: HashSet<TenantId>,
    /// Documents that came, changed or went since the last compile.
    pub(super) documents: BTreeSet<DocumentKey>,
}

impl Scope {
    /// Returns the tenants whose documents or facts differ from what was compiled last, and those that may come out differently anyway.
    pub(super) fn touched(store: &Store, previous: Option<&Compiled>, now: i64) -> Self {
        let mut scope = Self::changed(store, previous, now);
        if let (Self::Part(part), Some(previous)) = (&mut scope, previous) {
            part.tenants.extend(previous.memory.unsettled.iter().cloned());
        }
        scope
    }

    /// Returns the tenants whose documents or facts differ from what was compiled last.
    pub(super) fn changed(store: &Store, previous: Option<&Compiled>, now: i64) -> Self {
        let Some(Compiled { memory, .. }) = previous else { return Self::Everything };
        let seen = &memory.seen;
        let lately = (0..LONG).contains(&now.saturating_sub(seen.at));
        if !seen.complete || !lately {
            return Self::Everything;
        }
        match store.touched_since(seen.version) {
            Some(touched) if !touched.everything => {
                let mut tenants = touched.tenants.into_iter().collect();
                retained(store, memory, &mut tenants);
                Self::Part(Part { tenants, documents: touched.documents })
            }
            _ => Self::Everything,
        }
    }

    /// Returns the documents of the tenants, those whose tenant cannot be determined, and those that lost their tenant.
    pub(super) fn input<'a>(&self, store: &'a Store) -> Input<'a> {
        let Self::Part(part) = self else {
            return Input { store, documents: store.documents().collect() };
        };
        let keys = part.tenants.iter().flat_map(|tenant| store.of_tenant(tenant));
        let is_nobodys = |key: &&DocumentKey| store.document(key).is_some_and(Document::is_nobodys);
        let nobodys = part.documents.iter().filter(is_nobodys);
        let keys: BTreeSet<&DocumentKey> = keys.chain(store.strays()).chain(nobodys).collect();
        let documents = keys.into_iter().filter_map(|key| store.document(key));
        Input { store, documents: documents.collect() }
    }

    /// Returns the tenants of a part. No tenant is known before everything is compiled.
    pub(super) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        let part = if let Self::Part(part) = self { Some(part) } else { None };
        part.into_iter().flat_map(|part| &part.tenants)
    }

    /// Returns whether others stay as they were.
    pub(super) fn is_part(&self) -> bool {
        matches!(self, Self::Part(_))
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
    pub(super) fn closed(self, memory: &Memory, store: &Store) -> Self {
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
        let many = part.tenants.len() > FEW && part.tenants.len() * 2 > store.len();
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
        Some(Self { tenants: met, documents: self.documents.clone() })
    }
}

/// Adds the tenants that may be served as before because of what cannot be read now.
fn retained(store: &Store, memory: &Memory, tenants: &mut HashSet<TenantId>) {
    let mut files: Vec<&str> = Vec::new();
    let mut parts: HashSet<(Kind, &str, &str)> = HashSet::new();
    for document in store.strays().iter().filter_map(|key| store.document(key)) {
        let file = &*document.source.file;
        let kind = document.source.kind;
        let name = match &document.content {
            Content::Broken(broken) if is_part(kind) => broken.name.as_deref(),
            content => content.part().map(|part| part.metadata.name.value.as_str()),
        };
        match name {
            Some(name) => drop(parts.insert((kind, name, file))),
            None => files.push(file),
        }
    }
    if files.is_empty() && parts.is_empty() {
        return;
    }
    let is_there = |file: &str| files.iter().any(|dir| Path::new(file).starts_with(dir));
    let of_tenants = memory.tenants.iter().filter(|(_, past)| is_there(&past.file));
    tenants.extend(of_tenants.map(|(tenant, _)| tenant.clone()));
    retained_parts(&memory.mappings, (&parts, &is_there), tenants);
    retained_parts(&memory.contributions, (&parts, &is_there), tenants);
}

/// Adds the tenants of objects that are among `parts`, by kind, name and file, or in files that are there.
fn retained_parts<V>(
    pasts: &Pasts<V>,
    (parts, is_there): (&HashSet<(Kind, &str, &str)>, &impl Fn(&str) -> bool),
    tenants: &mut HashSet<TenantId>,
) {
    let kept = pasts.iter().filter(|(id, past)| {
        parts.contains(&(id.kind, &*id.name, &*past.file)) || is_there(&past.file)
    });
    tenants.extend(kept.map(|(id, _)| id.tenant.clone()));
}
