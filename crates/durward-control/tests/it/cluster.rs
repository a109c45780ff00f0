//! A cluster in a golden case: the file `cluster.facts`, a fact a line, and objects in files like `PortMapping.acme.web.object`.
//!
//! `gateway NAMESPACE`, `namespace NAME [TENANT]`, `secret NAMESPACE/NAME KEY=FILE …`, `configMap …`, `service NAMESPACE/NAME PORT [ADDRESS …]`,
//! `grant KIND NAMESPACE/NAME KIND NAMESPACE`, `missing secret|namespace …`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use durward_control::Store;
use durward_control::change::{Change, Fact};
use durward_control::cluster::{Cluster, TENANT_LABEL};
use durward_control::document::{Document, Source};
use durward_control::reference::{Grantee, Reference};
use durward_control::spec::document;
use durward_model::{Kind, ResourceId, Revision};

/// Says what is in the cluster of a step; nothing where it has none.
pub(crate) fn say(step: &Path, stage: &Path, store: &mut Store) {
    let Ok(facts) = fs::read_to_string(step.join("cluster.facts")) else { return };
    let mut change = Change::default();
    for line in facts.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            ["gateway", namespace] => {
                store.read_cluster(Some(Cluster::new(namespace)));
            }
            words => change.facts.extend(fact(words, stage).map(|(of, fact)| (of, Some(fact)))),
        }
    }
    let mut files: Vec<_> =
        fs::read_dir(step).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "object")) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        change.upserts.push(object(stem, &fs::read_to_string(path).unwrap()));
    }
    store.apply(change);
}

fn object(stem: &str, text: &str) -> Document {
    let parts: Vec<&str> = stem.split('.').collect();
    let id = match parts[..] {
        [kind, namespace, name] => ResourceId::namespaced(kind.parse().unwrap(), namespace, name),
        [kind, name] => ResourceId::new(kind.parse().unwrap(), name),
        _ => panic!("{stem}"),
    };
    let file = Arc::from(id.to_string());
    let source: Source = document::source(id.kind, &file, Arc::from(text), 1, Vec::new());
    let content = document::content(&source);
    Document::of_object(id, Revision::default(), None, source, content)
}

fn fact(words: &[&str], stage: &Path) -> Option<(Reference, Fact)> {
    let split = |name: &str| {
        let (namespace, name) = name.split_once('/').unwrap();
        (Arc::<str>::from(namespace), Arc::<str>::from(name))
    };
    let named = |kind: &str, name: &str, port: &str| {
        let (namespace, name) =
            if kind == "namespace" { (Arc::from(name), Arc::from("")) } else { split(name) };
        match kind {
            "namespace" => Reference::Namespace(namespace),
            "secret" => Reference::Secret { namespace, name },
            "configMap" => Reference::ConfigMap { namespace, name },
            "service" => Reference::Service { namespace, name, port: Arc::from(port) },
            _ => panic!("{kind}"),
        }
    };
    let entry = |text: &&str| {
        let (key, file) = text.split_once('=').unwrap();
        (Arc::from(key), Arc::from(fs::read(stage.join(file)).unwrap()))
    };
    let found = match words {
        [] => return None,
        ["missing", kind, name, rest @ ..] => {
            (named(kind, name, rest.first().copied().unwrap_or_default()), Fact::Missing)
        }
        ["grant", kind, name, of, from] => {
            let (namespace, name) = split(name);
            let id = ResourceId::namespaced(kind.parse().unwrap(), &namespace, &name);
            let kind: Kind = of.parse().unwrap();
            let grantee = Grantee { kind, namespace: Arc::from(*from) };
            (Reference::Grant(id), Fact::Grants(BTreeSet::from([grantee])))
        }
        ["namespace", name, tenant @ ..] => {
            let label = tenant.first().map(|tenant| (Arc::from(TENANT_LABEL), Arc::from(*tenant)));
            (named("namespace", name, ""), Fact::Labels(label.into_iter().collect()))
        }
        ["service", name, port, endpoints @ ..] => {
            let endpoints = endpoints.iter().map(|one| one.parse().unwrap()).collect();
            (named("service", name, port), Fact::Endpoints(endpoints))
        }
        [kind, name, entries @ ..] => {
            let entries: BTreeMap<_, _> = entries.iter().map(entry).collect();
            (named(kind, name, ""), Fact::Bytes(entries.into()))
        }
        [_] => panic!("{words:?}"),
    };
    Some(found)
}
