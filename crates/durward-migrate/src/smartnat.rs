//! SmartNat's objects as our documents, as text a person reads before it is used.
//!
//! Objects are given as text, like `kubectl get … -o yaml` writes them. Nothing is dropped without a note with its file and line.

mod document;
mod mapping;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use durward_model::verdict::Severity;

pub use mapping::SmartNatOptions;
use mapping::Surroundings;

use crate::objects::{self, Object};

/// The group of SmartNat's objects.
const GROUP: &str = "smartnat.aureacentral.com/";

/// Result of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    /// The documents of each tenant, as YAML, with the name their file should have.
    pub documents: Vec<(String, String)>,
    /// Number of mappings among them.
    pub mappings: usize,
    /// Notes for the user to review.
    pub notes: Vec<String>,
    /// Parts that could not be translated, with file, line and cure.
    pub left_out: Vec<String>,
}

/// Turns SmartNat's `Mapping` objects into `PortMapping` and `Tenant` documents, one tenant per namespace. `texts` may hold the
/// `Service`, `EndpointSlice` and `Endpoints` objects the mappings refer to; without them endpoints are left for a person to fill in.
///
/// # Errors
/// When a text is neither YAML nor JSON; the sentence says where.
pub fn migrate(texts: &[(String, String)], options: SmartNatOptions) -> Result<Migration, String> {
    let mut migration = Migration::default();
    let objects = objects::read(texts, &mut migration.left_out)?;
    say_unused(&objects, &mut migration);
    let surroundings = Surroundings::new(&objects, options);
    let mut documents: Vec<Translated<'_>> = Vec::new();
    for object in objects.iter().filter(|object| object.is(GROUP, "Mapping")) {
        let text = mapping::translate(object, &surroundings, &mut migration);
        documents.extend(text.map(|text| Translated { object, text }));
    }
    accepted(&mut documents, &mut migration.left_out);
    if documents.is_empty() && migration.left_out.is_empty() {
        migration.notes.push(format!("there is no Mapping of {GROUP} among the objects"));
    }
    migration.mappings = documents.len();
    let namespaces: BTreeSet<&str> = documents.iter().map(|one| one.object.namespace()).collect();
    for namespace in namespaces {
        let mut text = document::tenant(namespace);
        for one in documents.iter().filter(|one| one.object.namespace() == namespace) {
            text.push_str("---\n");
            text.push_str(&one.text);
        }
        migration.documents.push((namespace.to_owned(), text));
    }
    Ok(migration)
}

/// A mapping with its document.
struct Translated<'a> {
    object: &'a Object,
    text: String,
}

/// Keeps the mappings whose documents are accepted: of two that claim one port SmartNat serves one, too.
fn accepted(documents: &mut Vec<Translated<'_>>, left_out: &mut Vec<String>) {
    loop {
        let mut texts: Vec<(String, String)> = Vec::with_capacity(documents.len() * 2);
        let mut seen = BTreeSet::new();
        for (at, one) in documents.iter().enumerate() {
            if seen.insert(one.object.namespace()) {
                texts.push((format!("tenant {at}"), document::tenant(one.object.namespace())));
            }
            texts.push((format!("mapping {at}"), one.text.clone()));
        }
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        for verdict in super::compiled(&texts, &[]).verdicts.iter() {
            let error = verdict.findings.iter().find(|one| one.severity == Severity::Error);
            let at = verdict.origin.file().and_then(|file| file.rsplit_once(' '));
            let at = at.and_then(|(_, at)| at.parse::<usize>().ok());
            if let (Some(error), Some(at)) = (error, at) {
                let why = || format!("{} {}", error.field, error.sentence);
                refused.entry(at).or_insert_with(why);
            }
        }
        if refused.is_empty() {
            return;
        }
        for (at, why) in refused.into_iter().rev() {
            if at < documents.len() {
                let one = documents.remove(at);
                left_out.push(format!("{}: the document is not accepted: {why}", one.object));
            }
        }
    }
}

/// Objects that are neither mappings nor what mappings refer to.
fn say_unused(objects: &[Object], migration: &mut Migration) {
    let used = ["Service", "EndpointSlice", "Endpoints"];
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    for object in objects {
        if object.kind() == "Mapping" && !object.is(GROUP, "Mapping") {
            let text = format!(
                "{object}: its apiVersion is {:?}, not one of {GROUP}",
                object.text("apiVersion")
            );
            migration.left_out.push(text);
        } else if object.kind() != "Mapping" && !used.contains(&object.kind()) {
            *others.entry(object.kind().to_owned()).or_default() += 1;
        }
    }
    for (kind, count) in others {
        let kind = if kind.is_empty() { "no kind" } else { &kind };
        migration.notes.push(format!("objects of kind {kind} are not used ({count})"));
    }
}
