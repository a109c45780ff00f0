//! Host names that a document grants to somebody who registers routes.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::HostPattern;

/// List of granted host names. The time of a look does not depend on its length, and a clone costs nothing.
#[derive(Clone, Debug, Default)]
pub struct GrantedHosts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    listed: Vec<HostPattern>,
    exact: HashSet<Arc<str>>,
    /// Names whose subdomains are granted.
    parents: HashSet<Arc<str>>,
}

impl GrantedHosts {
    /// Returns true if one of the patterns is for every name that `host` is for.
    ///
    /// ```
    /// # use durward_model::route::{GrantedHosts, HostPattern::{Exact, Wildcard}};
    /// let granted: GrantedHosts = [Exact("app.example".into()), Wildcard("acme.example".into())].into_iter().collect();
    /// assert!(granted.grants(&Exact("app.example".into())) && granted.grants(&Exact("a.b.acme.example".into())));
    /// assert!(granted.grants(&Wildcard("acme.example".into())) && granted.grants(&Wildcard("b.acme.example".into())));
    /// assert!(!granted.grants(&Exact("acme.example".into())) && !granted.grants(&Wildcard("app.example".into())));
    /// ```
    #[must_use]
    pub fn grants(&self, host: &HostPattern) -> bool {
        let Inner { exact, parents, .. } = &*self.0;
        let below = |name: &str| {
            let dots = name.match_indices('.').filter(|(at, _)| *at > 0);
            dots.map(|(at, _)| &name[at + 1..]).any(|parent| parents.contains(parent))
        };
        match host {
            HostPattern::Exact(name) => exact.contains(name) || below(name),
            HostPattern::Wildcard(parent) => parents.contains(parent) || below(parent),
        }
    }

    /// Returns true if nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.listed.is_empty()
    }
}

impl FromIterator<HostPattern> for GrantedHosts {
    fn from_iter<T: IntoIterator<Item = HostPattern>>(hosts: T) -> Self {
        let listed: Vec<HostPattern> = hosts.into_iter().collect();
        let (mut exact, mut parents) = (HashSet::new(), HashSet::new());
        for host in &listed {
            match host {
                HostPattern::Exact(name) => exact.insert(Arc::clone(name)),
                HostPattern::Wildcard(parent) => parents.insert(Arc::clone(parent)),
            };
        }
        Self(Arc::new(Inner { listed, exact, parents }))
    }
}

impl PartialEq for GrantedHosts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.listed == other.0.listed
    }
}

impl Eq for GrantedHosts {}

impl Serialize for GrantedHosts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.listed.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_finds_what_comparing_each_pattern_finds() {
        let names = ["a", "b.a", "c.b.a", "xb.a", "b.xa", ".a", "a.", "b..a"];
        let exact = names.map(|name| HostPattern::Exact(name.into()));
        let wild = names.map(|name| HostPattern::Wildcard(name.into()));
        let all: Vec<HostPattern> = exact.into_iter().chain(wild).collect();

        for granted in &all {
            let list: GrantedHosts = [granted.clone()].into_iter().collect();
            for asked in &all {
                let expected = match asked {
                    HostPattern::Exact(name) => granted.matches(name),
                    HostPattern::Wildcard(parent) => {
                        let is_wild = matches!(granted, HostPattern::Wildcard(_));
                        granted == asked || (is_wild && granted.matches(parent))
                    }
                };
                assert_eq!(list.grants(asked), expected, "{granted:?} {asked:?}");
            }
        }
    }
}
