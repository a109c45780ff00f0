//! `routing.json`: an object from ingress address to `{"tenant", "backend", "egressIP"}`, read as it always was.
//!
//! Each entry becomes an HTTPS listener on port 443 with the certificate `<tenant>.crt`/`<tenant>.key`, and, when `<tenant>-ca.crt` is there,
//! required client certificates. In a `ConfigMap` the certificate is the Secret `<tenant>-cert`, and the authorities are another entry of the `ConfigMap`. Deliberately absent: extensions of the format; who needs more writes `Tenant` documents.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use durward_model::Kind;
use durward_model::verdict::{Finding, Severity};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::document::{Broken, Content, Document, Source};
use crate::place::{At, Place};
use crate::spec::budget::{self, Excess};
use crate::spec::egress::EgressSpec;
use crate::spec::ingress::{
    CertificateSpec, ClientCertificatesSpec, DestinationSpec, IngressSpec, ListenSpec,
};
use crate::spec::tenant::{API_VERSION, KIND, Metadata, TenantDocument, TenantSpec};
use crate::spec::upstream::{EndpointSpec, UpstreamSpec};
use crate::suggest;

/// The name of a file that is read so.
pub const ROUTING_JSON: &str = "routing.json";
/// The port of a backend that names none.
pub const DEFAULT_BACKEND_PORT: u16 = 80;
const FIELDS: [&str; 3] = ["tenant", "backend", "egressIP"];

/// Options that `routing.json` leaves to its surroundings.
#[derive(Clone, Debug)]
pub struct RoutingJsonOptions {
    /// Where connections are accepted: `None` binds each address on port 443 itself; `0.0.0.0:8443` serves the layout in which a load
    /// balancer maps 443 to 8443.
    pub bind: Option<SocketAddr>,
    /// Destination mode of that socket.
    pub destination: DestinationSpec,
    /// Networks that may send a PROXY protocol header, where that is how it is known.
    pub trusted_proxies: Vec<String>,
    /// The port of a backend that names none, 80 unless set.
    pub default_backend_port: u16,
    /// Directory that is searched for certificates after the file's own directory and `../certs` beside it.
    pub certs_dir: Option<PathBuf>,
}

impl Default for RoutingJsonOptions {
    fn default() -> Self {
        Self {
            bind: None,
            destination: DestinationSpec::Bound,
            trusted_proxies: Vec::new(),
            default_backend_port: DEFAULT_BACKEND_PORT,
            certs_dir: None,
        }
    }
}

/// A `ConfigMap` with a `routing.json`, in the gateway's own namespace.
#[derive(Clone, Debug)]
pub struct RoutingConfigMap<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Entries.
    pub entries: &'a BTreeMap<Arc<str>, Arc<[u8]>>,
}

/// Returns the name that findings have for the `routing.json` in a `ConfigMap`.
#[must_use]
pub fn file_of_config_map(namespace: &str, name: &str) -> Arc<str> {
    Arc::from(format!("{CONFIG_MAP}{namespace}/{name}/{ROUTING_JSON}"))
}

/// Returns whether this is the name of a `routing.json` in a `ConfigMap`.
#[must_use]
pub fn is_of_config_map(file: &str) -> bool {
    file.starts_with(CONFIG_MAP)
}

/// Begin of such a name.
const CONFIG_MAP: &str = "configMap:";

/// The documents in the `routing.json` of a `ConfigMap`, one per tenant.
#[must_use]
pub fn parse_config_map(
    config_map: &RoutingConfigMap<'_>,
    options: &RoutingJsonOptions,
) -> Vec<Document> {
    let file = file_of_config_map(config_map.namespace, config_map.name);
    let Some(bytes) = config_map.entries.get(ROUTING_JSON) else {
        return vec![Document::unreadable(&file, "is not an entry of the ConfigMap: add it")];
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return vec![Document::unreadable(&file, "is not UTF-8")];
    };
    let source = Source { file, text: Arc::from(text), first_line: 1, ..Source::default() };
    let mut documents = read(source, options, Some(config_map));
    // What the documents say depends on which authorities there are, beside their text.
    let mut hasher = DefaultHasher::new();
    config_map.entries.keys().for_each(|key| key.hash(&mut hasher));
    let generation = hasher.finish();
    documents.iter_mut().for_each(|document| document.revision.generation = generation);
    documents
}

/// The documents in the text of a `routing.json`, one per tenant. File names in them are looked up in the source's bases.
#[must_use]
pub fn parse(source: Source, options: &RoutingJsonOptions) -> Vec<Document> {
    read(source, options, None)
}

fn read(
    source: Source,
    options: &RoutingJsonOptions,
    config_map: Option<&RoutingConfigMap<'_>>,
) -> Vec<Document> {
    let lines = source.text.match_indices('\n').map(|(at, _)| at).collect();
    let source = Source { kind: Kind::RoutingJson, ..source };
    let reader = Reader { source, options, config_map, lines };
    if let Err((excess, at)) = budget::check(&reader.source.text) {
        return vec![reader.excessive(excess, at)];
    }
    let mut documents = match serde_json::from_str::<Members<'_>>(&reader.source.text) {
        Ok(members) => reader.documents(&members),
        Err(error) => vec![reader.unreadable(&error)],
    };
    documents
        .iter_mut()
        .enumerate()
        .for_each(|(position, document)| document.set_position(position));
    documents
}

/// An object's members in the order written, repeated keys included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            members.push((key, map.next_value()?));
        }
        Ok(Members(members))
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// One entry, its fields read.
struct Entry {
    address: At<String>,
    tenant: At<String>,
    backend: At<String>,
    egress: At<String>,
}

struct Reader<'o> {
    source: Source,
    options: &'o RoutingJsonOptions,
    /// The object that the text is of; `None` for a file.
    config_map: Option<&'o RoutingConfigMap<'o>>,
    /// The positions of line feeds: counting them again for each value would take quadratic time.
    lines: Vec<usize>,
}

impl Reader<'_> {
    fn documents(&self, members: &Members<'_>) -> Vec<Document> {
        let mut documents = Vec::new();
        let mut tenants: Vec<Vec<Entry>> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut seen = BTreeMap::new();
        for (key, value) in &members.0 {
            let place = self.key_place(key, value);
            if let Some(first) = seen.insert(key.clone(), place) {
                documents.push(self.duplicate(key, place, first, value));
                seen.insert(key.clone(), first);
                continue;
            }
            match self.entry(&At::new(key.to_string(), place), value) {
                Ok(entry) => {
                    let at = *known.entry(entry.tenant.value.clone()).or_insert_with(|| {
                        tenants.push(Vec::new());
                        tenants.len() - 1
                    });
                    tenants[at].push(entry);
                }
                Err(broken) => documents.push(self.broken(broken)),
            }
        }
        let good = tenants.into_iter().map(|entries| self.document(entries));
        good.chain(documents).collect()
    }

    /// A whole file that is not JSON, or not an object.
    fn unreadable(&self, error: &serde_json::Error) -> Document {
        let place = self.error_place(error);
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        let sentence = format!("the file is not valid JSON: {message}");
        let finding = self.source.finding(Severity::Error, "Unreadable", place, "", &sentence);
        self.broken(Broken { name: None, findings: vec![finding] })
    }

    /// A whole file with more than is parsed.
    fn excessive(&self, excess: Excess, at: usize) -> Document {
        let place = self.place(&(at..at + 1));
        let finding =
            self.source.finding(Severity::Error, "Unreadable", place, "", &excess.sentence());
        self.broken(Broken { name: None, findings: vec![finding] })
    }

    fn place(&self, range: &Range<usize>) -> Place {
        let line = self.lines.partition_point(|feed| *feed < range.start) + 1;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Place { line: small(line), start: small(range.start), len: small(range.len()) }
    }

    fn error_place(&self, error: &serde_json::Error) -> Place {
        let text = &self.source.text;
        let line = text.split_inclusive('\n').take(error.line().saturating_sub(1));
        let start = line.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
        let start = (0..=start.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        let start = start.unwrap_or(0);
        self.place(&(start..start))
    }

    fn duplicate(&self, key: &str, place: Place, first: Place, value: &RawValue) -> Document {
        let name =
            self.entry(&At::new(key.to_owned(), place), value).ok().map(|entry| entry.tenant.value);
        let sentence = format!(
            "is written twice: the entry at {} counts, this one is left out; remove one of them",
            self.source.origin(first)
        );
        let field = format!("{key:?}");
        let finding =
            self.source.finding(Severity::Error, "DuplicateKey", place, &field, &sentence);
        // A second entry says nothing about the tenant of the first, so it must not keep that tenant's former version alive.
        let name = Some(name.unwrap_or_else(|| key.to_owned()));
        self.broken(Broken { name, findings: vec![finding] })
    }

    fn broken(&self, broken: Broken) -> Document {
        Document::of_file(0, self.source.clone(), Content::Broken(Arc::new(broken)))
    }

    fn entry(&self, address: &At<String>, value: &RawValue) -> Result<Entry, Broken> {
        let mut faults = Vec::new();
        let mut found: BTreeMap<&str, At<String>> = BTreeMap::new();
        let Ok(members) = serde_json::from_str::<Members<'_>>(value.get()) else {
            let sentence = "is not an object like {\"tenant\": …, \"backend\": …, \"egressIP\": …}";
            faults.push(self.fault(address, self.value_place(value), "", sentence));
            return Err(Broken { name: None, findings: faults });
        };
        for (field, value) in &members.0 {
            let place = self.value_place(value);
            let known = FIELDS.into_iter().find(|known| known == field);
            let text = serde_json::from_str::<String>(value.get());
            match (known, text) {
                (Some(known), Ok(text)) => {
                    if found.insert(known, At::new(text, place)).is_some() {
                        faults.push(self.fault(
                            address,
                            place,
                            field,
                            "is written twice; keep one of them",
                        ));
                    }
                }
                (Some(_), Err(_)) => {
                    faults.push(self.fault(address, place, field, "is not a text in quotes"))
                }
                (None, _) => {
                    let hint = suggest::hint(field, FIELDS);
                    let sentence =
                        format!("is not known here{hint}; known are {}", FIELDS.join(", "));
                    faults.push(self.fault(
                        address,
                        self.key_place(field, value),
                        field,
                        &sentence,
                    ));
                }
            }
        }
        for missing in FIELDS.into_iter().filter(|field| !found.contains_key(field)) {
            faults.push(self.fault(address, address.place, missing, "is missing"));
        }
        let name = found.get("tenant").map(|tenant| tenant.value.clone());
        match (
            faults.is_empty(),
            found.remove("tenant"),
            found.remove("backend"),
            found.remove("egressIP"),
        ) {
            (true, Some(tenant), Some(backend), Some(egress)) => {
                Ok(Entry { address: address.clone(), tenant, backend, egress })
            }
            _ => Err(Broken { name, findings: faults }),
        }
    }

    fn fault(&self, address: &At<String>, place: Place, field: &str, sentence: &str) -> Finding {
        let dot = if field.is_empty() { "" } else { "." };
        // A field that is not known has any name, and findings are lines of text.
        let is_plain = field.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        let field = if is_plain { field.to_owned() } else { format!("{field:?}") };
        let field = format!("{:?}{dot}{field}", address.value);
        self.source.finding(Severity::Error, "BadEntry", place, &field, sentence)
    }

    /// The document of one tenant: one listener and one upstream per entry.
    fn document(&self, entries: Vec<Entry>) -> Document {
        let mut source = self.source.clone();
        let mut spec = TenantSpec::default();
        let mut name = At::default();
        for (at, entry) in entries.into_iter().enumerate() {
            let known = spec.egress.addresses.iter().position(|known| *known == entry.egress);
            let egress_at = known.unwrap_or(spec.egress.addresses.len());
            source.field_names.extend(field_names(at, egress_at, &entry));
            if at == 0 {
                name = entry.tenant.clone();
            }
            self.add(&mut spec, at, entry);
        }
        // What the entries name is in the operator's namespace, as the entries are.
        spec.namespace = self.config_map.map(|map| At::new(map.namespace.to_owned(), name.place));
        source.field_names.push(("metadata.name".to_owned(), "tenant".to_owned()));
        let document = TenantDocument {
            api_version: At { value: API_VERSION.to_owned(), ..At::default() },
            kind: At { value: KIND.to_owned(), ..At::default() },
            metadata: Metadata {
                name,
                creation_timestamp: None,
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
            },
            spec,
        };
        Document::of_file(0, source, Content::Tenant(Arc::new(document)))
    }

    fn add(&self, spec: &mut TenantSpec, at: usize, entry: Entry) {
        let upstream = upstream_name(at);
        let ingress = IngressSpec {
            listen: self.listen(entry.address.place),
            upstream: Some(At::new(upstream.clone(), entry.backend.place)),
            address: entry.address.clone(),
            ..self.identity(&entry.tenant)
        };
        let endpoint = EndpointSpec { address: entry.backend.clone(), weight: None };
        let target = UpstreamSpec {
            endpoints: vec![At::new(endpoint, entry.backend.place)],
            port: Some(At::new(self.options.default_backend_port, entry.backend.place)),
            source_addresses: vec![entry.egress.clone()],
            ..UpstreamSpec::default()
        };
        spec.ingress.push(At::new(ingress, entry.address.place));
        spec.upstreams
            .insert(At::new(upstream, entry.backend.place), At::new(target, entry.backend.place));
        let EgressSpec { addresses, .. } = &mut spec.egress;
        if !addresses.contains(&entry.egress) {
            addresses.push(entry.egress);
        }
    }

    /// A listener with a tenant's certificate and the authorities of its clients, and nothing else.
    fn identity(&self, tenant: &At<String>) -> IngressSpec {
        let named = |value: String| At::new(value, tenant.place);
        let (file, secret_name) = match self.config_map {
            None => (Some(named(format!("{}.crt", tenant.value))), None),
            // Names of Secrets have no upper case.
            Some(_) => (None, Some(named(format!("{}-cert", tenant.value.to_lowercase())))),
        };
        let certificate = CertificateSpec { file, secret_name, ..CertificateSpec::default() };
        let authority = format!("{}-ca.crt", tenant.value);
        let has_authority = |map: &&RoutingConfigMap<'_>| map.entries.contains_key(&*authority);
        let client_certificates = self.config_map.filter(has_authority).map(|map| {
            let ca_file = Some(named(format!("{CONFIG_MAP}{}/{authority}", map.name)));
            At::new(
                ClientCertificatesSpec { ca_file, ..ClientCertificatesSpec::default() },
                tenant.place,
            )
        });
        IngressSpec {
            certificate: Some(At::new(certificate, tenant.place)),
            client_authority_if_present: self.config_map.is_none().then(|| named(authority)),
            client_certificates,
            ..IngressSpec::default()
        }
    }

    /// Returns the socket that accepts connections, if that is not the address itself.
    fn listen(&self, place: Place) -> Option<At<ListenSpec>> {
        let RoutingJsonOptions { bind, destination, trusted_proxies, .. } = self.options;
        if bind.is_none() && *destination == DestinationSpec::Bound && trusted_proxies.is_empty() {
            return None;
        }
        let proxies = trusted_proxies.iter().map(|network| At::new(network.clone(), place));
        let listen = ListenSpec {
            address: bind.map(|bind| At::new(bind.ip().to_string(), place)),
            port: bind.map(|bind| At::new(bind.port(), place)),
            destination: Some(At::new(*destination, place)),
            trusted_proxies: proxies.collect(),
            ..ListenSpec::default()
        };
        Some(At::new(listen, place))
    }

    fn value_place(&self, value: &RawValue) -> Place {
        self.place(&self.range(value.get()))
    }

    /// The place of the key before `value`; of the value when the key is spelled with escapes.
    fn key_place(&self, key: &str, value: &RawValue) -> Place {
        let value = self.range(value.get());
        let quoted = format!("\"{key}\"");
        let before = self.source.text.get(..value.start).unwrap_or_default();
        let range = before.rfind(&quoted).map_or(value, |at| at..at + quoted.len());
        self.place(&range)
    }

    /// Returns the range of `part`, a slice of the text.
    fn range(&self, part: &str) -> Range<usize> {
        let start = (part.as_ptr() as usize).wrapping_sub(self.source.text.as_ptr() as usize);
        if start <= self.source.text.len() { start..start + part.len() } else { 0..0 }
    }
}

fn upstream_name(at: usize) -> String {
    if at == 0 { "backend".to_owned() } else { format!("backend-{}", at + 1) }
}

/// Returns the names that fields of the synthesised document have in `routing.json`.
fn field_names(at: usize, egress_at: usize, entry: &Entry) -> Vec<(String, String)> {
    let key = format!("{:?}", entry.address.value);
    let upstream = upstream_name(at);
    vec![
        (format!("spec.ingress[{at}]"), key.clone()),
        // What is wrong with the key quotes the key.
        (format!("spec.ingress[{at}].address"), String::new()),
        (format!("spec.ingress[{at}].certificate"), format!("{key}.tenant")),
        (format!("spec.ingress[{at}].clientCertificates"), format!("{key}.tenant")),
        (format!("spec.upstreams.{upstream}"), format!("{key}.backend")),
        (format!("spec.upstreams.{upstream}.sourceAddresses"), format!("{key}.egressIP")),
        (format!("spec.egress.addresses[{egress_at}]"), format!("{key}.egressIP")),
    ]
}
