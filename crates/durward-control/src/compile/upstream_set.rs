//! The upstreams of one tenant while its listeners are compiled: found by name, filled up with former ones that are kept.
//!
//! Deliberately absent: other tenants' upstreams; an index from here means nothing elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_model::Upstream;
use durward_model::upstream::{UpstreamIndex, UpstreamProtocol};

use crate::suggest;

/// Upstreams by name, and which of them are used.
#[derive(Debug, Default)]
pub(crate) struct UpstreamSet<'a> {
    upstreams: Vec<Arc<Upstream>>,
    by_name: BTreeMap<Arc<str>, usize>,
    broken: BTreeSet<&'a str>,
    used: BTreeSet<usize>,
    /// Those of before that came with listeners of before.
    borrowed: BTreeSet<usize>,
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
            self.borrowed.insert(known);
        }
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

    /// Whether anything refers to the upstream called `name`.
    pub(crate) fn is_used(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|at| self.used.contains(at))
    }

    /// Returns whether any upstream is there only for the sake of listeners of before.
    pub(crate) fn has_borrowed(&self) -> bool {
        !self.borrowed.is_empty()
    }

    /// Returns the upstreams sorted by name without those that are not needed, and for each former index the new one. `is_needed` is asked with
    /// the former index, and whether the upstream was borrowed.
    pub(crate) fn sorted(
        self,
        is_needed: impl Fn(usize, bool, &Upstream) -> bool,
    ) -> (Vec<Arc<Upstream>>, Vec<UpstreamIndex>) {
        let mut moved = vec![UpstreamIndex(0); self.upstreams.len()];
        let mut sorted = Vec::with_capacity(self.upstreams.len());
        for at in self.by_name.into_values() {
            let upstream = &self.upstreams[at];
            if is_needed(at, self.borrowed.contains(&at), upstream) {
                moved[at] = UpstreamIndex(sorted.len());
                sorted.push(Arc::clone(upstream));
            }
        }
        (sorted, moved)
    }
}
