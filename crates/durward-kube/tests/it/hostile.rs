//! Strings that mean no good, in every field of every kind that is read: each arrives as it is, or the object is rejected with the field named, and nothing else changes.
//!
//! The fields are those of the definitions, so that a new one without an example here turns the test red. `DURWARD_HOSTILE=1` tries every string in every field;
//! without it each field gets a few, in turns.

mod crossing;
mod examples;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use durward_control::document::Document;
use durward_kube::crds;
use durward_kube::status::judge;
use durward_model::Kind;
use durward_model::verdict::Finding;
use serde_json::Value;

use examples::{Example, examples};
use world::{Served, World};

/// Fields whose text has no effect by itself, or is rejected in the words of another program, each with the reason.
const WITHOUT_EFFECT: [(Kind, &str); 6] = [
    // SmartNat's sentence says which field it means, in prose.
    (Kind::Mapping, ".serviceName"),
    // Identities of agents, which the registry of links compares and no snapshot has.
    (Kind::Tenant, ".ingress[].links[].certificateNames[]"),
    // Quantities for a tenant cluster, whose API server checks them.
    (Kind::HostedApi, ".apiProxy.resources."),
    // Objects of other controllers, which no gateway reads; their API server checks them.
    (Kind::HostedApi, ".publish."),
    // Anything but `true` is no.
    (Kind::Mapping, "annotations.durward.dev/shared"),
    // Traefik's own entry points.
    (Kind::IngressRouteTcp, ".entryPoints[]"),
];

/// Strings in a field, in a turn of a usual run.
const IN_TURN: usize = 2;

/// Returns whether everything is to be tried.
fn is_whole() -> bool {
    std::env::var_os("DURWARD_HOSTILE").is_some()
}

fn strings() -> Vec<String> {
    let short = [
        "a\nb",
        "a\r\nX-Admin: true",
        "quote\"d",
        "it's",
        "$(reboot)",
        "${HOME}",
        "{",
        "}",
        "{{.x}}",
        "a\\b",
        "nul\0",
        "\u{1b}[31mred",
        "\u{7f}",
        "a\tb",
        "\u{202e}rtl",
        "a\u{2028}b",
        " ",
        "é",
        "%s%n",
        "../../etc/passwd",
        "`id`",
        "a|b;c&d",
        "<b>",
        "# no comment",
        "- a",
        "'",
        "**",
        "\u{feff}",
        "a,b",
        "true",
        "0",
    ];
    let long = ["x".repeat(70_000), "a.".repeat(40_000), "\n".repeat(5_000)];
    short.into_iter().map(str::to_owned).chain(long).collect()
}

/// Step from a value to one in it.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    At(usize),
}

/// Place of a string in an object.
#[derive(Clone, Debug)]
struct Spot {
    /// Path as the definition has it.
    field: String,
    path: Vec<Step>,
    /// True if the last key is the string, and not what it leads to.
    is_key: bool,
}

impl Spot {
    /// Returns the object with another string in this place.
    fn with(&self, whole: &Value, string: &str) -> Value {
        let mut changed = whole.clone();
        let steps = if self.is_key { &self.path[..self.path.len() - 1] } else { &self.path[..] };
        let mut place = &mut changed;
        for step in steps {
            place = match step {
                Step::Key(key) => &mut place[key],
                Step::At(at) => &mut place[at],
            };
        }
        match (self.is_key, self.path.last()) {
            (true, Some(Step::Key(key))) => {
                let map = place.as_object_mut().unwrap();
                let value = map.remove(key).unwrap();
                map.insert(string.to_owned(), value);
            }
            _ => *place = Value::from(string),
        }
        changed
    }

    /// Returns the path as findings have it, up to each step.
    fn prefixes(&self) -> Vec<String> {
        let (mut prefixes, mut text) = (Vec::new(), String::new());
        for step in &self.path {
            match step {
                Step::Key(key) if text.is_empty() => text.clone_from(key),
                Step::Key(key) => text = format!("{text}.{key}"),
                Step::At(at) => text = format!("{text}[{at}]"),
            }
            prefixes.push(text.clone());
        }
        prefixes
    }

    /// Returns whether a finding is about this place: it names the field, what is in it, or what it is an entry or a field of; or it quotes the string or says the field's path.
    fn is_named_by(&self, finding: &Finding, string: &str) -> bool {
        let prefixes = self.prefixes();
        let whole = prefixes.last().unwrap();
        let near = prefixes.iter().rev().take(3).filter(|prefix| *prefix != "spec");
        let quoted = format!("{string:?}");
        let annotation = whole.strip_prefix("annotations.");
        let annotation = annotation.map(|key| format!("metadata.annotations[{key:?}]"));
        annotation.is_some_and(|field| *finding.field == *field)
            || near.into_iter().any(|prefix| *finding.field == **prefix)
            || finding.field.starts_with(whole)
            || self.is_key && finding.field.starts_with(&prefixes[prefixes.len() - 2])
            || finding.sentence.contains(&quoted)
            || finding.sentence.contains(string)
            || finding.sentence.contains(&format!(" {whole},"))
    }
}

/// Adds the places of all strings in a value. `schema` is the definition's part on it; nothing where there is none.
fn spots(value: &Value, schema: &Value, at: (&str, &[Step]), found: &mut Vec<Spot>) {
    let (field, path) = at;
    let with = |step: Step| [path, &[step]].concat();
    let spot = |path: Vec<Step>, is_key| Spot { field: field.to_owned(), path, is_key };
    let is_text = schema["x-kubernetes-int-or-string"] == true;
    match value {
        Value::String(_) => found.push(spot(path.to_vec(), false)),
        Value::Number(_) if is_text => found.push(spot(path.to_vec(), false)),
        Value::Array(items) => {
            for (position, item) in items.iter().enumerate() {
                let (field, path) = (format!("{field}[]"), with(Step::At(position)));
                spots(item, &schema["items"], (&field, &path), found);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = with(Step::Key(key.clone()));
                let is_map = schema["additionalProperties"].is_object();
                let name = if is_map { "*" } else { key };
                let schema = if is_map {
                    let field = format!("{field}.*key");
                    found.push(Spot { field, path: path.clone(), is_key: true });
                    &schema["additionalProperties"]
                } else {
                    &schema["properties"][key]
                };
                spots(value, schema, (&format!("{field}.{name}"), &path), found);
            }
        }
        _ => {}
    }
}

/// Adds the fields of a definition that hold strings.
fn fields(schema: &Value, field: &str, found: &mut BTreeSet<String>) {
    let is_text = schema["x-kubernetes-int-or-string"] == true;
    match schema["type"].as_str() {
        _ if is_text => drop(found.insert(field.to_owned())),
        Some("string") => drop(found.insert(field.to_owned())),
        Some("array") => fields(&schema["items"], &format!("{field}[]"), found),
        Some("object") => {
            for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
                fields(schema, &format!("{field}.{key}"), found);
            }
            if schema["additionalProperties"].is_object() {
                found.insert(format!("{field}.*key"));
                fields(&schema["additionalProperties"], &format!("{field}.*"), found);
            }
        }
        _ => {}
    }
}

/// Definitions of our kinds: what each says of `spec`.
fn schemas() -> BTreeMap<String, Value> {
    let of = |definition: Value| {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        let version = &definition["spec"]["versions"][0];
        (kind, version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone())
    };
    crds::definitions().map(of).into()
}

/// Returns the places of the strings in an example.
fn spots_of(example: &Example, schemas: &BTreeMap<String, Value>) -> Vec<Spot> {
    let mut found = Vec::new();
    let schema = schemas.get(example.kind.as_str()).unwrap_or(&Value::Null);
    let start = [Step::Key("spec".to_owned())];
    spots(&example.whole["spec"], schema, ("", &start), &mut found);
    let annotations = &example.whole["annotations"];
    let start = [Step::Key("annotations".to_owned())];
    spots(annotations, &Value::Null, ("annotations", &start), &mut found);
    found
}

#[test]
fn every_field_with_a_string_has_an_example_that_is_served() {
    let (schemas, world) = (schemas(), World::new(["acme", "victim"]));
    let mut lacking = BTreeSet::new();

    for (kind, schema) in &schemas {
        fields(schema, kind, &mut lacking);
    }
    assert!(lacking.len() > 250, "{}", lacking.len());
    for example in examples() {
        for spot in spots_of(&example, &schemas) {
            lacking.remove(&format!("{}{}", example.kind, spot.field));
        }
        let served = world.serve(example.document(&example.whole));
        let errors: Vec<String> = served.errors().map(ToString::to_string).collect();
        // Of an entry that is rejected, what needs it is left out.
        let is_expected = |error: &String| {
            example.expected.is_some_and(|it| error.contains(it) || error.contains("is left out"))
        };
        assert!(errors.iter().all(is_expected), "{}: {errors:#?}", example.name);
    }

    assert!(lacking.is_empty(), "without an example: {lacking:#?}");
}

/// Returns what is wrong with what became of an object with a string in a place; nothing if all is well.
fn fault(before: &Served, now: &Served, (spot, string): (&Spot, &str)) -> Option<String> {
    if now.others != before.others {
        return Some("something of another tenant is served otherwise".to_owned());
    }
    for condition in judge(&now.verdict, &[]) {
        if let Some(odd) = condition.message.chars().find(|one| one.is_control()) {
            return Some(format!("a condition has {odd:?} in it: {:?}", condition.message));
        }
    }
    for finding in &now.verdict.findings {
        if finding.field.chars().any(char::is_control) {
            return Some(format!("the name of a field is {:?}", finding.field));
        }
    }
    let is_known = |finding: &&Finding| before.verdict.findings.contains(finding);
    let new: Vec<&Finding> = now.verdict.findings.iter().filter(|one| !is_known(one)).collect();
    // Some entries are rejected in any case.
    let mut said = new.iter().copied().chain(now.errors());
    if said.any(|finding| spot.is_named_by(finding, string)) || now.own.has(string) {
        return None;
    }
    if WITHOUT_EFFECT.iter().any(|(kind, field)| *kind == now.kind && spot.field.starts_with(field))
    {
        return None;
    }
    let said: Vec<String> =
        new.iter().map(|one| format!("{}: {:.200}", one.field, one.sentence)).collect();
    Some(format!("it neither arrives nor is the field named: {said:#?}"))
}

#[test]
fn a_hostile_string_arrives_as_it_is_or_is_rejected_with_its_field_and_disturbs_nobody() {
    let (schemas, world, strings) = (schemas(), World::new(["acme", "victim"]), strings());
    let (mut faults, mut cases) = (Vec::new(), 0);

    for example in examples() {
        let before = world.serve(example.document(&example.whole));
        for spot in spots_of(&example, &schemas) {
            let turn = if is_whole() { strings.len() } else { IN_TURN };
            for string in strings.iter().cycle().skip(cases % strings.len()).take(turn) {
                cases += 1;
                let whole = spot.with(&example.whole, string);
                let now = world.serve(example.document(&whole));
                if let Some(fault) = fault(&before, &now, (&spot, string)) {
                    faults.push(format!(
                        "{} {} = {string:.40?}: {fault}",
                        example.name,
                        spot.prefixes().last().unwrap()
                    ));
                }
            }
        }
    }

    assert!(cases > 600, "{cases} cases");
    assert!(
        faults.is_empty(),
        "{} of {cases}:\n{}",
        faults.len(),
        faults[..faults.len().min(60)].join("\n")
    );
}

/// A document of a kind that is read.
fn is_ours(kind: Kind) -> bool {
    schemas().contains_key(kind.as_str())
}

impl Example {
    /// Builds the document that an object of this content is.
    fn document(&self, whole: &Value) -> Document {
        self.document_of("acme", whole)
    }

    /// Builds the document that an object of a tenant is.
    fn document_of(&self, tenant: &str, whole: &Value) -> Document {
        let namespace = if self.namespace == "acme" { tenant } else { self.namespace };
        world::document(self.kind, (namespace, tenant), whole, is_ours(self.kind))
    }
}
