//! Reader of ReferenceGrants: which resources of a namespace documents of other namespaces may name.
//!
//! The watch begins with the first reference to another namespace, so that whoever needs none needs no right on grants either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_control::change::{Fact, Grantee, Reference};
use durward_model::{Kind, ResourceId};
use serde::Deserialize;

use crate::object::{Metadata, ObjectName};
use crate::pace::Gather;
use crate::watch::Sink;

/// Group of the kinds that a grant may let in.
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
    grants: BTreeMap<ObjectName, Grant>,
    wanted: BTreeMap<ResourceId, Option<Fact>>,
    listed: bool,
}

/// What a grant allows, as far as it concerns us.
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
    /// Returns who may name a resource of the grant's namespace.
    fn grantees(&self, target: &ResourceId) -> impl Iterator<Item = Grantee> {
        let is_meant = self.to.iter().any(|to| {
            to.group.is_empty()
                && *to.kind == *target.kind.as_str()
                && to.name.as_ref().is_none_or(|name| *name == target.name)
        });
        let from = self.from.iter().filter(move |from| is_meant && *from.group == *OURS);
        from.filter_map(|from| {
            let kind: Kind = from.kind.parse().ok()?;
            Some(Grantee { kind, namespace: Arc::clone(&from.namespace) })
        })
    }
}

impl Grants {
    pub(super) fn new(gather: Arc<Gather>) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), gather }))
    }

    /// Replaces the resources whose grants are asked for.
    pub(super) fn want(&self, targets: &BTreeSet<ResourceId>) {
        let mut state = self.state();
        state.wanted.retain(|target, _| {
            let stays = targets.contains(target);
            if !stays {
                self.0.gather.fact(Reference::Grant(target.clone()), None);
            }
            stays
        });
        for target in targets {
            state.wanted.entry(target.clone()).or_default();
        }
        self.publish(&mut state, None);
    }

    pub(super) fn waiting(&self) -> usize {
        self.state().wanted.values().filter(|fact| fact.is_none()).count()
    }

    /// Says what is not said yet, or no longer so; of the resources of one namespace only, if one is given.
    fn publish(&self, state: &mut State, namespace: Option<&str>) {
        let State { grants, wanted, listed } = state;
        if !*listed {
            return;
        }
        for (target, said) in wanted {
            if namespace.is_some() && target.namespace.as_deref() != namespace {
                continue;
            }
            let here = grants
                .iter()
                .filter(|(name, _)| Some(&*name.namespace) == target.namespace.as_deref());
            let grantees = here.flat_map(|(_, grant)| grant.grantees(target)).collect();
            let fact = Fact::Grants(grantees);
            if said.as_ref() != Some(&fact) {
                self.0.gather.fact(Reference::Grant(target.clone()), Some(fact.clone()));
                *said = Some(fact);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Grants {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let Whole { spec } = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let mut state = self.state();
        state.grants.insert(metadata.object_name(), spec);
        self.publish(&mut state, Some(&metadata.namespace));
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        let mut state = self.state();
        state.grants.remove(name);
        self.publish(&mut state, Some(&name.namespace));
    }

    fn listed(&mut self) {
        let mut state = self.state();
        state.listed = true;
        self.publish(&mut state, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_a_kind_in_a_namespace_and_for_one_name_or_all() {
        let grant = |to: &str| -> Grant {
            serde_json::from_str(&format!(
                r#"{{"from": [{{"group": "durward.dev", "kind": "Tenant", "namespace": "acme"}},
                              {{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "x"}}],
                    "to": [{to}]}}"#
            ))
            .unwrap()
        };
        let target = ResourceId::namespaced(Kind::Secret, "certs", "shop");
        let acme = Grantee { kind: Kind::Tenant, namespace: Arc::from("acme") };
        let granted = |to: &str| grant(to).grantees(&target).collect::<Vec<_>>();

        for to in [
            r#"{"group": "", "kind": "Secret"}"#,
            r#"{"group": "", "kind": "Secret", "name": "shop"}"#,
        ] {
            assert_eq!(granted(to), std::slice::from_ref(&acme), "{to}");
        }
        for other in [
            r#"{"group": "", "kind": "Secret", "name": "other"}"#,
            r#"{"group": "", "kind": "ConfigMap"}"#,
            r#"{"group": "example.com", "kind": "Secret"}"#,
        ] {
            assert!(granted(other).is_empty(), "{other}");
        }
    }
}
