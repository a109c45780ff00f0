//! Reader of ReferenceGrants: which resources of a namespace documents of other namespaces may name.
//!
//! The watch begins with the first reference to another namespace, so that whoever needs none needs no right on grants either.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_control::change::Fact;
use durward_control::reference::{Grantee, Reference};
use durward_model::{Kind, ResourceId};
use serde::Deserialize;

use crate::object::{Metadata, ObjectName};
use crate::pace::Gather;
use crate::resource_type::{INGRESS_ROUTE_TCPS, INGRESSES, TLS_ROUTES};
use crate::watch::Sink;

/// Group of our own kinds.
const OURS: &str = "durward.dev";

/// Grants that are read, and those that are asked for.
#[derive(Clone)]
pub(super) struct Grants(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    gather: Arc<Gather>,
}

#[derive(Default)]
struct State {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    listed: bool,
}

/// A namespace: its grants, and those of its resources that are asked for, with what was said of each.
#[derive(Default)]
struct Namespace {
    grants: BTreeMap<Arc<str>, Grant>,
    wanted: BTreeMap<ResourceId, Option<Fact>>,
}

/// The resources of a kind: one, or all.
type Meant = (Kind, Option<Arc<str>>);

/// Permissions of a grant, as far as they concern Durward.
#[derive(Debug, Default, Deserialize)]
struct Grant {
    #[serde(default)]
    from: Vec<From>,
    #[serde(default)]
    to: Vec<To>,
}

#[derive(Debug, Deserialize)]
struct From {
    group: Arc<str>,
    kind: Arc<str>,
    namespace: Arc<str>,
}

#[derive(Debug, Deserialize)]
struct To {
    group: Arc<str>,
    kind: Arc<str>,
    /// Every resource of the kind without one.
    #[serde(default)]
    name: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    spec: Grant,
}

impl Grant {
    /// Returns the resources of the grant's namespace that it is for.
    fn meant(&self) -> impl Iterator<Item = Meant> {
        let ours = self.to.iter().filter(|to| to.group.is_empty());
        ours.filter_map(|to| Some((to.kind.parse().ok()?, to.name.clone())))
    }

    /// Returns who may name them.
    fn grantees(&self) -> impl Iterator<Item = Grantee> {
        self.from.iter().filter_map(|from| {
            let kind: Kind = from.kind.parse().ok()?;
            let group = match kind {
                Kind::Ingress => INGRESSES.group,
                Kind::TlsRoute => TLS_ROUTES.group,
                Kind::IngressRouteTcp => INGRESS_ROUTE_TCPS.group,
                _ => OURS,
            };
            if *from.group != *group {
                return None;
            }
            Some(Grantee { kind, namespace: Arc::clone(&from.namespace) })
        })
    }
}

impl Namespace {
    fn is_empty(&self) -> bool {
        self.grants.is_empty() && self.wanted.is_empty()
    }

    /// Says what is not said yet, or no longer so. Takes time in proportion to the grants and to the resources, and not to their product.
    fn publish(&mut self, gather: &Gather) {
        let mut granted: BTreeMap<Meant, BTreeSet<Grantee>> = BTreeMap::new();
        for grant in self.grants.values() {
            for meant in grant.meant() {
                granted.entry(meant).or_default().extend(grant.grantees());
            }
        }
        for (target, said) in &mut self.wanted {
            let of = |name| granted.get(&(target.kind, name)).into_iter().flatten().cloned();
            let grantees = of(None).chain(of(Some(Arc::clone(&target.name)))).collect();
            let fact = Fact::Grants(grantees);
            if said.as_ref() != Some(&fact) {
                gather.fact(Reference::Grant(target.clone()), Some(fact.clone()));
                *said = Some(fact);
            }
        }
    }
}

impl Grants {
    pub(super) fn new(gather: Arc<Gather>) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), gather }))
    }

    /// Replaces the resources whose grants are asked for.
    pub(super) fn want(&self, targets: &BTreeSet<ResourceId>) {
        let gather = &self.0.gather;
        self.state().namespaces.retain(|_, namespace| {
            namespace.wanted.retain(|target, _| {
                let stays = targets.contains(target);
                if !stays {
                    gather.fact(Reference::Grant(target.clone()), None);
                }
                stays
            });
            !namespace.is_empty()
        });
        self.want_more(targets);
    }

    /// Adds to the resources whose grants are asked for.
    pub(super) fn want_more(&self, targets: &BTreeSet<ResourceId>) {
        let gather = &self.0.gather;
        let mut state = self.state();
        let State { namespaces, listed } = &mut *state;
        let mut changed = BTreeSet::new();
        for target in targets {
            let name = target.namespace.clone().unwrap_or_default();
            let namespace = namespaces.entry(Arc::clone(&name)).or_default();
            if let Entry::Vacant(new) = namespace.wanted.entry(target.clone()) {
                new.insert(None);
                changed.insert(name);
            }
        }
        if *listed {
            for name in changed {
                namespaces.entry(name).or_default().publish(gather);
            }
        }
    }

    pub(super) fn waiting(&self) -> usize {
        let state = self.state();
        let wanted = state.namespaces.values().flat_map(|namespace| namespace.wanted.values());
        wanted.filter(|fact| fact.is_none()).count()
    }

    /// Changes the grants of a namespace, and says what that changes.
    fn change(&self, name: &Arc<str>, change: impl FnOnce(&mut BTreeMap<Arc<str>, Grant>)) {
        let mut state = self.state();
        let State { namespaces, listed } = &mut *state;
        let namespace = namespaces.entry(Arc::clone(name)).or_default();
        change(&mut namespace.grants);
        if *listed {
            namespace.publish(&self.0.gather);
        }
        if namespace.is_empty() {
            namespaces.remove(name);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Grants {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let Whole { spec } = serde_json::from_str(json).map_err(|error| error.to_string())?;
        self.change(&metadata.namespace, |grants| {
            grants.insert(Arc::clone(&metadata.name), spec);
        });
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        self.change(&name.namespace, |grants| {
            grants.remove(&name.name);
        });
    }

    fn listed(&mut self) {
        let mut state = self.state();
        state.listed = true;
        state.namespaces.values_mut().for_each(|namespace| namespace.publish(&self.0.gather));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    struct Bench(Grants, Arc<Gather>);

    impl Bench {
        fn new() -> Self {
            let gather = Arc::new(Gather::default());
            Self(Grants::new(Arc::clone(&gather)), gather)
        }

        fn apply(&mut self, (namespace, name): (&str, &str), to: &str) {
            let metadata = format!(r#"{{"name": "{name}", "namespace": "{namespace}"}}"#);
            let json = format!(
                r#"{{"spec": {{
                    "from": [{{"group": "durward.dev", "kind": "Tenant", "namespace": "acme"}},
                             {{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "x"}}],
                    "to": [{to}]}}}}"#
            );
            let metadata: Metadata = serde_json::from_str(&metadata).unwrap();
            self.0.applied(&metadata, &json).unwrap();
        }

        async fn facts(&self) -> BTreeMap<Reference, Option<Fact>> {
            let observed = timeout(Duration::from_mins(5), self.1.next()).await;
            observed.expect("a fact is said").facts.into_iter().collect()
        }
    }

    fn target(namespace: &str) -> ResourceId {
        ResourceId::namespaced(Kind::Secret, namespace, "shop")
    }

    fn granted(namespaces: &[&str]) -> Option<Fact> {
        let grantee = |name: &&str| Grantee { kind: Kind::Tenant, namespace: Arc::from(*name) };
        Some(Fact::Grants(namespaces.iter().map(grantee).collect()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_is_for_a_kind_in_a_namespace_and_for_one_name_or_all() {
        for (to, namespaces) in [
            (r#"{"group": "", "kind": "Secret"}"#, &["acme"][..]),
            (r#"{"group": "", "kind": "Secret", "name": "shop"}"#, &["acme"]),
            (r#"{"group": "", "kind": "Secret", "name": "other"}"#, &[]),
            (r#"{"group": "", "kind": "ConfigMap"}"#, &[]),
            (r#"{"group": "example.com", "kind": "Secret"}"#, &[]),
        ] {
            let mut bench = Bench::new();
            bench.0.want(&BTreeSet::from([target("certs")]));
            bench.apply(("certs", "one"), to);
            bench.0.listed();

            let facts = bench.facts().await;

            assert_eq!(facts, [(Reference::Grant(target("certs")), granted(namespaces))].into());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_comes_or_goes_concerns_its_namespace_and_no_other() {
        const SECRETS: &str = r#"{"group": "", "kind": "Secret"}"#;
        let mut bench = Bench::new();
        bench.0.want(&BTreeSet::from([target("a"), target("b")]));
        bench.0.listed();
        let first = bench.facts().await;

        bench.apply(("a", "one"), SECRETS);
        let come = bench.facts().await;
        bench.0.deleted(&ObjectName::new("a", "one"), None);
        let gone = bench.facts().await;
        bench.0.want(&BTreeSet::from([target("b")]));
        let unwanted = bench.facts().await;

        let of = |name: &str| Reference::Grant(target(name));
        assert_eq!(first, [(of("a"), granted(&[])), (of("b"), granted(&[]))].into());
        assert_eq!(come, [(of("a"), granted(&["acme"]))].into());
        assert_eq!(gone, [(of("a"), granted(&[]))].into());
        assert_eq!(unwanted, [(of("a"), None)].into());
        assert_eq!(bench.0.state().namespaces.len(), 1);
    }
}
