//! The upstreams of one tenant while its listeners are compiled: found by name, filled up with former ones that are kept.
//!
//! Deliberately absent: other tenants' upstreams; an index from here means nothing elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_model::Upstream;
use durward_model::upstream::{UpstreamIndex, UpstreamProtocol};

use crate::suggest;

/// Upstreams by name, and which of them are used.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamSet<'a> {
    upstreams: Vec<Arc<Upstream>>,
    by_name: BTreeMap<Arc<str>, usize>,
    broken: BTreeSet<&'a str>,
    used: BTreeSet<usize>,
    /// Those that are not the document's own, and why they are there.
    others: BTreeMap<usize, Standing>,
}

/// Reason why an upstream is among a tenant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The tenant's document has it.
    Own,
    /// It came with a listener of before.
    Borrowed,
    /// It came with an object that adds to the tenant.
    Added,
}

impl<'a> UpstreamSet<'a> {
    /// Takes an upstream in, unless one of its name is there, and says where the one of that name is.
    pub(crate) fn add(&mut self, upstream: Arc<Upstream>) -> UpstreamIndex {
        if let Some(&at) = self.by_name.get(&upstream.name) {
            return UpstreamIndex(at);
        }
        let at = self.upstreams.len();
        self.by_name.insert(Arc::clone(&upstream.name), at);
        self.upstreams.push(upstream);
        UpstreamIndex(at)
    }

    /// Takes in an upstream that listeners of before refer to, as [`Self::add`] does.
    pub(crate) fn borrow(&mut self, upstream: Arc<Upstream>) -> UpstreamIndex {
        let (known, index) = (self.upstreams.len(), self.add(upstream));
        if index.0 == known {
            self.others.insert(known, Standing::Borrowed);
        }
        index
    }

    /// Takes in an upstream of an object that adds to the tenant. None of its name is there.
    pub(crate) fn add_of_object(&mut self, upstream: Arc<Upstream>) -> UpstreamIndex {
        let index = self.add(upstream);
        self.others.insert(index.0, Standing::Added);
        index
    }

    /// Notes that the document has an upstream of this name which is left out.
    pub(crate) fn add_broken(&mut self, name: &'a str) {
        self.broken.insert(name);
    }

    /// The upstream called `name`.
    pub(crate) fn find(&mut self, name: &str) -> Result<(UpstreamIndex, UpstreamProtocol), String> {
        if let Some(&at) = self.by_name.get(name) {
            self.used.insert(at);
            return Ok((UpstreamIndex(at), self.upstreams[at].protocol));
        }
        if self.broken.contains(name) {
            return Err(format!("{name:?} is left out, see what is said about it"));
        }
        let hint = suggest::hint(name, self.by_name.keys().map(|name| &**name));
        let known: Vec<&str> = self.by_name.keys().map(|name| &**name).collect();
        let known = match known.as_slice() {
            [] => "it has none".to_owned(),
            known if known.len() > 10 => format!("it has {} others", known.len()),
            known => format!("known are {}", known.join(", ")),
        };
        Err(format!("{name:?} is not an upstream of this tenant{hint}; {known}"))
    }

    /// Returns the index of the upstream called `name`, which is in use from now on; `None` if there is none.
    pub(crate) fn use_of(&mut self, name: &str) -> Option<UpstreamIndex> {
        let at = *self.by_name.get(name)?;
        self.used.insert(at);
        Some(UpstreamIndex(at))
    }

    /// Returns the number of upstreams.
    pub(crate) fn len(&self) -> usize {
        self.upstreams.len()
    }

    /// Returns the upstream called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.by_name.get(name).map(|at| &self.upstreams[*at])
    }

    /// Returns true if anything refers to the upstream called `name`.
    pub(crate) fn is_used(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|at| self.used.contains(at))
    }

    /// Returns whether any upstream is not the document's own.
    pub(crate) fn has_borrowed(&self) -> bool {
        !self.others.is_empty()
    }

    /// Returns the upstreams sorted by name without those that are not needed, and for each former index the new one. `is_needed` is asked with
    /// the former index, and why the upstream is there.
    pub(crate) fn sorted(
        self,
        is_needed: impl Fn(usize, Standing, &Upstream) -> bool,
    ) -> (Vec<Arc<Upstream>>, Vec<UpstreamIndex>) {
        let mut moved = vec![UpstreamIndex(0); self.upstreams.len()];
        let mut sorted = Vec::with_capacity(self.upstreams.len());
        for at in self.by_name.into_values() {
            let upstream = &self.upstreams[at];
            let standing = self.others.get(&at).copied().unwrap_or(Standing::Own);
            if is_needed(at, standing, upstream) {
                moved[at] = UpstreamIndex(sorted.len());
                sorted.push(Arc::clone(upstream));
            }
        }
        (sorted, moved)
    }
}
