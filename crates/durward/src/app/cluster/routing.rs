//! The `ConfigMap` with a `routing.json`: its documents, as its entries change.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_control::change::{Change, Fact};
use durward_control::document::Document;
use durward_control::reference::Reference;
use durward_control::spec::routing_json::{
    RoutingConfigMap, RoutingJsonOptions, file_of_config_map, parse_config_map,
};
use durward_model::DocumentKey;

/// A `ConfigMap` of the gateway's own namespace that holds a `routing.json`.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    /// The `ConfigMap`.
    pub(crate) config_map: Reference,
    /// Options that the format leaves to its surroundings.
    pub(crate) options: RoutingJsonOptions,
}

/// Turns what is said of the `ConfigMap` into documents.
pub(super) struct RoutingDocuments {
    routing: Option<Routing>,
    said: BTreeSet<DocumentKey>,
}

impl Routing {
    /// Builds the reading of a `ConfigMap` of this name and namespace.
    pub(crate) fn new(namespace: &Arc<str>, name: &str, options: RoutingJsonOptions) -> Self {
        let (namespace, name) = (Arc::clone(namespace), Arc::from(name));
        Self { config_map: Reference::ConfigMap { namespace, name }, options }
    }

    fn documents(&self, fact: &Fact) -> Vec<Document> {
        let Reference::ConfigMap { namespace, name } = &self.config_map else { return Vec::new() };
        let unreadable =
            |why: &str| vec![Document::unreadable(&file_of_config_map(namespace, name), why)];
        match fact {
            Fact::Bytes(entries) => {
                let map = RoutingConfigMap { namespace, name, entries };
                parse_config_map(&map, &self.options)
            }
            // What it said before is served on, as where a file is gone.
            Fact::Missing => unreadable("does not exist: create the ConfigMap"),
            Fact::Unreadable(why) => unreadable(why),
            _ => Vec::new(),
        }
    }
}

impl RoutingDocuments {
    pub(super) fn new(routing: Option<Routing>) -> Self {
        Self { routing, said: BTreeSet::new() }
    }

    /// Returns the `ConfigMap`, which is always asked for.
    pub(super) fn wanted(&self) -> Option<&Reference> {
        self.routing.as_ref().map(|routing| &routing.config_map)
    }

    /// Adds to the first change that the `ConfigMap` is not in it, if it should be.
    pub(super) fn miss(&mut self, change: &mut Change) {
        let Some(routing) = &self.routing else { return };
        let mut facts = change.facts.iter();
        if facts.any(|(reference, fact)| *reference == routing.config_map && fact.is_some()) {
            return;
        }
        let why = "was not handed over: give durward kube the same --kube-routing".to_owned();
        let documents = routing.documents(&Fact::Unreadable(why));
        self.said = documents.iter().map(|one| one.key.clone()).collect();
        change.upserts.extend(documents);
    }

    /// Adds to a change what its facts change in the documents.
    pub(super) fn follow(&mut self, change: &mut Change) {
        let Some(routing) = &self.routing else { return };
        let mut facts = change.facts.iter();
        let said = facts.find(|(reference, _)| *reference == routing.config_map);
        let Some((_, Some(fact))) = said else { return };
        let documents = routing.documents(fact);
        let keys: BTreeSet<DocumentKey> = documents.iter().map(|one| one.key.clone()).collect();
        change.deletes.extend(self.said.difference(&keys).cloned());
        change.upserts.extend(documents);
        self.said = keys;
    }
}
