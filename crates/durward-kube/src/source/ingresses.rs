//! Readers of Ingresses and of their classes. An Ingress is a document while its class is one of ours.
//!
//! Those of other classes are kept aside: a class may come after its Ingresses, and change hands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_model::{Kind, ResourceId};

use crate::ingresses::{self, Class};
use crate::object::{Metadata, Object, ObjectName};
use crate::pace::Gather;
use crate::watch::Sink;

/// Reader of Ingresses.
#[derive(Clone)]
pub(super) struct Ingresses(Arc<Shared>);

/// Reader of the classes, which has the Ingresses.
pub(super) struct Classes(pub(super) Ingresses);

struct Shared {
    state: Mutex<State>,
    gather: Arc<Gather>,
}

#[derive(Default)]
struct State {
    /// All Ingresses, with the class that each names.
    objects: BTreeMap<ObjectName, (Option<Arc<str>>, Object)>,
    /// Those that were handed on.
    said: BTreeSet<ObjectName>,
    classes: BTreeMap<Arc<str>, Class>,
}

impl State {
    /// Returns whether an Ingress that names this class, or none, is ours. Without one it is of the default class, if there is just one.
    fn is_ours(&self, class: Option<&Arc<str>>) -> bool {
        if let Some(class) = class {
            return self.classes.get(class).is_some_and(|class| class.is_ours);
        }
        let mut defaults = self.classes.values().filter(|class| class.is_default);
        defaults.next().is_some_and(|class| class.is_ours) && defaults.next().is_none()
    }
}

impl Ingresses {
    pub(super) fn new(gather: Arc<Gather>) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), gather }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an Ingress on, or says that it is gone, by what its class is now.
    fn publish(&self, state: &mut State, name: &ObjectName) {
        let known = state.objects.get(name);
        let object = known.filter(|(class, _)| state.is_ours(class.as_ref()));
        match object {
            Some((_, object)) => {
                self.0.gather.upsert(object.clone());
                state.said.insert(name.clone());
            }
            None if state.said.remove(name) => {
                let id = ResourceId::namespaced(Kind::Ingress, &name.namespace, &name.name);
                self.0.gather.delete(id);
            }
            None => {}
        }
    }

    /// Changes the classes, and hands on what that makes ours.
    fn change_classes(&self, change: impl FnOnce(&mut BTreeMap<Arc<str>, Class>)) {
        let mut state = self.state();
        change(&mut state.classes);
        let changed = state.objects.iter().filter(|(name, (class, _))| {
            state.is_ours(class.as_ref()) != state.said.contains(*name)
        });
        let changed: Vec<ObjectName> = changed.map(|(name, _)| name.clone()).collect();
        changed.iter().for_each(|name| self.publish(&mut state, name));
    }
}

impl Sink for Ingresses {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let read = ingresses::decode(json)?;
        let (mut state, name) = (self.state(), metadata.object_name());
        state.objects.insert(name.clone(), read);
        self.publish(&mut state, &name);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        let mut state = self.state();
        state.objects.remove(name);
        self.publish(&mut state, name);
    }
}

impl Sink for Classes {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let class = Class::decode(metadata, json)?;
        self.0.change_classes(|classes| {
            classes.insert(Arc::clone(&metadata.name), class);
        });
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        self.0.change_classes(|classes| {
            classes.remove(&name.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ingresses::CONTROLLER;

    fn metadata(value: &Value) -> Metadata {
        serde_json::from_value(value["metadata"].clone()).unwrap()
    }

    fn class(controller: &str, is_default: bool) -> Value {
        json!({
            "metadata": {"name": "c", "annotations": {
                "ingressclass.kubernetes.io/is-default-class": is_default.to_string(),
            }},
            "spec": {"controller": controller},
        })
    }

    fn named(mut class: Value, name: &str) -> Value {
        class["metadata"]["name"] = json!(name);
        class
    }

    fn ingress(name: &str, class: Option<&str>, annotation: Option<&str>) -> Value {
        let mut annotations = json!({});
        if let Some(annotation) = annotation {
            annotations["kubernetes.io/ingress.class"] = json!(annotation);
        }
        json!({
            "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
            "spec": {"ingressClassName": class},
        })
    }

    struct Both {
        gather: Arc<Gather>,
        ingresses: Ingresses,
        classes: Classes,
    }

    impl Both {
        fn new() -> Self {
            let gather = Arc::new(Gather::default());
            let ingresses = Ingresses::new(Arc::clone(&gather));
            Self { gather, classes: Classes(ingresses.clone()), ingresses }
        }

        fn put(&mut self, object: &Value) {
            self.ingresses.applied(&metadata(object), &object.to_string()).unwrap();
        }

        fn class(&mut self, class: &Value) {
            self.classes.applied(&metadata(class), &class.to_string()).unwrap();
        }

        /// Names of those that came and went.
        async fn seen(&self) -> (Vec<String>, Vec<String>) {
            self.gather.wake();
            let seen = self.gather.next().await;
            let came = seen.upserts.iter().map(|object| object.id.name.to_string()).collect();
            (came, seen.deletes.iter().map(|id| id.name.to_string()).collect())
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_ingress_is_ours_by_field_annotation_or_default_class_and_as_long_as_the_class_is() {
        let mut both = Both::new();
        for (name, class, annotation) in [
            ("field", Some("gateway"), None),
            ("annotation", None, Some("gateway")),
            ("both", Some("other"), Some("gateway")),
            ("other", Some("other"), None),
            ("missing", Some("missing"), None),
            ("none", None, None),
        ] {
            both.put(&ingress(name, class, annotation));
        }
        assert_eq!(both.seen().await, (vec![], vec![]), "no class is known yet");

        both.class(&named(class(CONTROLLER, false), "gateway"));
        both.class(&named(class("example.com/other", false), "other"));
        assert_eq!(both.seen().await, (names(&["annotation", "both", "field"]), vec![]));

        both.class(&named(class(CONTROLLER, true), "gateway"));
        assert_eq!(both.seen().await, (names(&["none"]), vec![]));

        both.class(&named(class("example.com/other", true), "other"));
        assert_eq!(both.seen().await, (vec![], names(&["none"])), "two classes are the default");

        both.class(&named(class("example.com/other", false), "gateway"));
        assert_eq!(both.seen().await, (vec![], names(&["annotation", "both", "field"])));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ingress_that_goes_to_another_class_is_gone() {
        let mut both = Both::new();
        both.class(&named(class(CONTROLLER, false), "gateway"));
        both.put(&ingress("web", Some("gateway"), None));
        assert_eq!(both.seen().await, (names(&["web"]), vec![]));

        both.put(&ingress("web", Some("other"), None));

        assert_eq!(both.seen().await, (vec![], names(&["web"])));
    }
}
