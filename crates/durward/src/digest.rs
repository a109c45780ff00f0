//! Digests of a snapshot, by tenant and by mapping, so that a running gateway can be compared with files.
//!
//! A digest leaves out places in files, because the same documents may lie in another directory, and secrets, because the digest of a short secret
//! reveals it. A changed private key shows in its certificate; a changed credential does not show.

mod hash;

use std::collections::BTreeMap;

use durward_model::mapping::{KernelEgress, PortMapping};
use durward_model::{Snapshot, Tenant, TenantId};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use hash::hash;

/// Digests of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Digests {
    /// Digests by tenant: listeners, upstreams, limits, egress.
    tenants: BTreeMap<String, String>,
    /// Digests by `tenant/mapping`.
    mappings: BTreeMap<String, String>,
}

/// Digests that are computed one by one while they are serialised, in the form of [`Digests`].
pub(crate) struct Computed<'a> {
    /// Snapshot.
    pub(crate) snapshot: &'a Snapshot,
    /// The only tenant wanted; `None` for all.
    pub(crate) only: Option<&'a TenantId>,
}

impl<'a> Computed<'a> {
    fn tenants(&self) -> impl Iterator<Item = (&'a TenantId, String)> + use<'a> {
        let Self { snapshot, only } = *self;
        let mut rules: BTreeMap<&str, Vec<&KernelEgress>> = BTreeMap::new();
        for rule in snapshot.nat.egress.iter().filter(|rule| is_wanted(only, &rule.tenant)) {
            rules.entry(rule.tenant.as_str()).or_default().push(rule);
        }
        let digest = move |(id, tenant): (&'a TenantId, &'a Tenant)| {
            (id, hash(&(tenant, rules.get(id.as_str()))))
        };
        tenants(snapshot, only).map(digest)
    }

    fn mappings(&self) -> impl Iterator<Item = (String, String)> + use<'a> {
        let Self { snapshot, only } = *self;
        let mappings = snapshot.nat.mappings.iter().map(|mapping| &**mapping);
        let wanted = mappings.filter(move |mapping| is_wanted(only, &mapping.tenant));
        wanted.map(|mapping: &PortMapping| {
            (format!("{}/{}", mapping.tenant, mapping.name), hash(mapping))
        })
    }
}

impl Serialize for Computed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Digests", 2)?;
        fields.serialize_field("tenants", &Entries(|| self.tenants()))?;
        fields.serialize_field("mappings", &Entries(|| self.mappings()))?;
        fields.end()
    }
}

/// Map whose entries are made while it is serialised.
pub(crate) struct Entries<F>(pub(crate) F);

impl<F, I, K, V> Serialize for Entries<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (K, V)>,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0())
    }
}

/// Returns the tenant `only`, or every tenant.
pub(crate) fn tenants<'a>(
    snapshot: &'a Snapshot,
    only: Option<&TenantId>,
) -> impl Iterator<Item = (&'a TenantId, &'a Tenant)> + use<'a> {
    let one = only.map(|id| snapshot.tenants.get_key_value(id));
    let every = one.is_none().then(|| snapshot.tenants.iter());
    let all = one.flatten().into_iter().chain(every.into_iter().flatten());
    all.map(|(id, tenant)| (id, &**tenant))
}

/// Returns true if `tenant` is the only one wanted, or all are.
pub(crate) fn is_wanted(only: Option<&TenantId>, tenant: &TenantId) -> bool {
    only.is_none_or(|only| only == tenant)
}

/// Difference between a gateway's configuration and files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Name that only the files have.
    OnlyInFiles(String),
    /// Name that only the gateway serves.
    OnlyServed(String),
    /// Name that both have, with different content.
    Differs(String),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnlyInFiles(what) => write!(f, "{what} is in the files and not served"),
            Self::OnlyServed(what) => write!(f, "{what} is served and not in the files"),
            Self::Differs(what) => {
                write!(f, "{what} is served as something else than the files say")
            }
        }
    }
}

impl Digests {
    /// Computes the digests of everything in `snapshot`.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let computed = Computed { snapshot, only: None };
        let tenants = computed.tenants().map(|(id, digest)| (id.to_string(), digest));
        Self { tenants: tenants.collect(), mappings: computed.mappings().collect() }
    }

    /// Returns the differences of the served configuration, `self`, from the files.
    pub(crate) fn differences(&self, files: &Self) -> Vec<Difference> {
        let mut all = compare("tenant", &self.tenants, &files.tenants);
        all.extend(compare("mapping", &self.mappings, &files.mappings));
        all
    }
}

fn compare(
    kind: &str,
    served: &BTreeMap<String, String>,
    files: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let name = |name: &String| format!("{kind} {name}");
    let missing = served.keys().filter(|one| !files.contains_key(*one));
    let missing = missing.map(|one| Difference::OnlyServed(name(one)));
    let others = files.iter().filter_map(|(one, digest)| match served.get(one) {
        None => Some(Difference::OnlyInFiles(name(one))),
        Some(known) if known != digest => Some(Difference::Differs(name(one))),
        Some(_) => None,
    });
    missing.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_what_is_missing_on_either_side() {
        let of = |tenants: &[(&str, &str)]| Digests {
            tenants: tenants.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            mappings: BTreeMap::new(),
        };
        let (served, files) = (of(&[("a", "1"), ("b", "1")]), of(&[("b", "2"), ("c", "1")]));

        let told: Vec<String> =
            served.differences(&files).iter().map(ToString::to_string).collect();

        assert_eq!(
            told,
            [
                "tenant a is served and not in the files",
                "tenant b is served as something else than the files say",
                "tenant c is in the files and not served"
            ]
        );
        assert!(served.differences(&served).is_empty());
    }
}
