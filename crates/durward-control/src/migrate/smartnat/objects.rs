//! SmartNat's `Mapping` (`smartnat.aureacentral.com/v1alpha1`) as `PortMapping`.
//!
//! Deliberately absent: judging addresses and sources; `durward validate` does, with file and line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use super::{Migration, list, scalar};

const GROUP: &str = "smartnat.aureacentral.com/";

/// What SmartNat was told in its environment, under its documented defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmartNatOptions {
    /// `SNCTRLR_SETUP_MASQUERADE`: pods see the instance. Default: true.
    pub masquerade: bool,
    /// `SNCTRLR_SETUP_SNAT`: what pods send out leaves by the mapping's address. Default: false.
    pub snat: bool,
}

impl Default for SmartNatOptions {
    fn default() -> Self {
        Self { masquerade: true, snat: false }
    }
}

pub(super) fn migrate(objects: &[Value], options: SmartNatOptions) -> Migration {
    let mut migration = Migration::default();
    let is = |object: &&Value, group: &str, kind: &str| {
        text(object, "apiVersion").starts_with(group) && text(object, "kind") == kind
    };
    let mappings: Vec<&Value> =
        objects.iter().filter(|object| is(object, GROUP, "Mapping")).collect();
    let namespaces: BTreeSet<&str> = mappings.iter().map(|mapping| namespace(mapping)).collect();
    let shared = shared(&mappings);
    for namespace in namespaces {
        let mut documents = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {}}}\nspec: {{}}\n",
            scalar(namespace)
        );
        for mapping in mappings.iter().filter(|mapping| self::namespace(mapping) == namespace) {
            documents.push_str("---\n");
            let surroundings = Surroundings { objects, options, shared: &shared };
            document(mapping, &surroundings, (&mut documents, &mut migration.notes));
            migration.mappings += 1;
        }
        migration.documents.push((namespace.to_owned(), documents));
    }
    if migration.mappings == 0 {
        migration.notes.push(format!("there is no Mapping of {GROUP} among the objects"));
    }
    migration
}

/// What a mapping is translated with.
struct Surroundings<'a> {
    objects: &'a [Value],
    options: SmartNatOptions,
    /// Addresses that mappings of several namespaces have.
    shared: &'a BTreeSet<String>,
}

/// SmartNat lets all namespaces use an address; here an address is one tenant's unless all say that they share it.
fn shared(mappings: &[&Value]) -> BTreeSet<String> {
    let mut users: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for mapping in mappings {
        for address in strings(&mapping["spec"]["addresses"]) {
            users.entry(address).or_default().insert(namespace(mapping));
        }
    }
    users.into_iter().filter(|(_, users)| users.len() > 1).map(|(address, _)| address).collect()
}

fn document(
    mapping: &Value,
    surroundings: &Surroundings<'_>,
    (text, notes): (&mut String, &mut Vec<String>),
) {
    let Surroundings { objects, options, shared } = *surroundings;
    let (namespace, name) = (namespace(mapping), self::text(&mapping["metadata"], "name"));
    let who = format!("{namespace}/{name}");
    let spec = &mapping["spec"];
    let service = self::text(spec, "serviceName");
    let target = Target::find(objects, namespace, service);
    if target.service.is_none() {
        notes.push(format!(
            "{who}: Service {service} is not among the objects: write its endpoints"
        ));
    }
    let created = mapping["metadata"]["creationTimestamp"].as_str();
    let created = created.map(|at| format!(", creationTimestamp: {}", scalar(at)));
    let _ = writeln!(
        text,
        "apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: {}{}}}\nspec:\n  tenant: {}\n  addresses: {}",
        scalar(&format!("{namespace}.{name}")),
        created.unwrap_or_default(),
        scalar(namespace),
        list(strings(&spec["addresses"]))
    );
    if strings(&spec["addresses"]).iter().any(|address| shared.contains(address)) {
        let _ = writeln!(text, "  shared: true");
    }
    let sources = strings(&spec["allowedSources"]);
    if !sources.is_empty() && sources != ["0.0.0.0/0"] {
        let _ = writeln!(text, "  allowedSources: {}", list(sources));
    }
    let _ = writeln!(text, "  source: {}", if options.masquerade { "Gateway" } else { "Preserve" });
    if target.affinity {
        let _ = writeln!(text, "  affinity: ClientIP");
    }
    if options.snat {
        let _ = writeln!(text, "  egress: true");
    }
    let _ = writeln!(text, "  ports:");
    for port in spec["ports"].as_array().into_iter().flatten() {
        let external = port["port"].as_u64().unwrap_or_default();
        let protocol = port["protocol"].as_str().unwrap_or("tcp").to_ascii_uppercase();
        let inner = port["servicePort"].as_u64().filter(|port| *port > 0).unwrap_or(external);
        let endpoints = target.endpoints(inner, &protocol);
        if endpoints.is_empty() && target.service.is_some() {
            notes.push(format!(
                "{who}: Service {service} has no ready endpoint for {protocol} {inner}"
            ));
        }
        let endpoints = list(endpoints);
        let _ = writeln!(
            text,
            "    - {{port: {external}, protocol: {}, endpoints: {endpoints}}}",
            scalar(&protocol)
        );
    }
}

/// A Service with its slices.
struct Target<'a> {
    service: Option<&'a Value>,
    slices: Vec<&'a Value>,
    affinity: bool,
}

impl<'a> Target<'a> {
    fn find(objects: &'a [Value], in_namespace: &str, name: &str) -> Self {
        let here = |object: &&Value| namespace(object) == in_namespace;
        let service = objects.iter().filter(here).find(|object| {
            text(object, "kind") == "Service" && text(&object["metadata"], "name") == name
        });
        let of_service = |object: &&Value| {
            text(object, "kind") == "EndpointSlice"
                && text(&object["metadata"]["labels"], "kubernetes.io/service-name") == name
        };
        let slices = objects.iter().filter(here).filter(of_service).collect();
        let affinity =
            service.is_some_and(|one| text(&one["spec"], "sessionAffinity") == "ClientIP");
        Self { service, slices, affinity }
    }

    /// Ready endpoints of a Service's port, over all slices; a slice names its ports as the Service does.
    fn endpoints(&self, port: u64, protocol: &str) -> Vec<String> {
        let ports = self.service.and_then(|service| service["spec"]["ports"].as_array());
        let wanted = ports.into_iter().flatten().find(|one| {
            one["port"].as_u64() == Some(port)
                && one["protocol"].as_str().unwrap_or("TCP").eq_ignore_ascii_case(protocol)
        });
        let Some(wanted) = wanted else { return Vec::new() };
        let name = wanted["name"].as_str().unwrap_or_default();
        let mut found: BTreeMap<String, ()> = BTreeMap::new();
        for slice in &self.slices {
            let number = slice["ports"].as_array().into_iter().flatten().find(|one| {
                one["name"].as_str().unwrap_or_default() == name
                    && one["protocol"].as_str().unwrap_or("TCP").eq_ignore_ascii_case(protocol)
            });
            let Some(number) = number.and_then(|one| one["port"].as_u64()) else { continue };
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint["conditions"]["ready"].as_bool() == Some(false) {
                    continue;
                }
                found.extend(strings(&endpoint["addresses"]).into_iter().map(|address| {
                    let bare = address.contains(':');
                    let at = if bare {
                        format!("[{address}]:{number}")
                    } else {
                        format!("{address}:{number}")
                    };
                    (at, ())
                }));
            }
        }
        found.into_keys().collect()
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
