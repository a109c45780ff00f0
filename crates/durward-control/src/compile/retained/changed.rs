//! Objects that are not what they were when an earlier process read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::{DocumentKey, ResourceId};

use super::KnownText;
use crate::state::{MappingState, State};
use crate::store::Store;

/// Returns the parts, by their names in [`Served`](super::Served), whose objects are gone since an earlier process read them, or say something else by now. `store` holds all objects of the
/// cluster, or of the namespace `only`: what is not in it does not exist.
#[must_use]
pub fn changed_objects(state: &State, store: &Store, only: Option<&str>) -> BTreeSet<String> {
    let is_read = |object: &ResourceId| match (only, object.namespace.as_deref()) {
        (Some(only), Some(namespace)) => only == namespace,
        _ => true,
    };
    let is_changed = |good: Option<usize>, text: Option<&Arc<str>>| {
        let Some(good) = good.and_then(|at| state.texts.get(at)) else { return false };
        let Some(object) = good.object.as_ref().filter(|object| is_read(object)) else {
            return false;
        };
        let known = match text {
            Some(hash) => KnownText::Hash(Arc::clone(hash)),
            None => KnownText::Whole(Arc::clone(&good.text)),
        };
        let document = store.document(&DocumentKey::Object(object.clone()));
        // Its last good text may stand in for it.
        let is_same = |text: &str| known.is(text) || *good.text == *text;
        document.is_none_or(|document| !is_same(&document.source.text))
    };
    let mut changed = BTreeSet::new();
    for tenant in &state.tenants {
        if is_changed(tenant.good, tenant.text.as_ref()) {
            changed.insert(format!("tenant {}", tenant.name));
            changed.insert(format!("egress rule {}/egress", tenant.name));
        }
    }
    for mapping in &state.mappings {
        let MappingState { tenant, name, good, text, .. } = mapping;
        let of_tenant = changed.contains(&format!("tenant {tenant}"));
        if of_tenant || is_changed(*good, text.as_ref()) {
            changed.insert(format!("mapping {name} of tenant {tenant}"));
            changed.insert(format!("egress rule {tenant}/{name}"));
        }
    }
    changed
}
