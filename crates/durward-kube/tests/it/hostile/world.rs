//! A cluster with a tenant whose objects are tried, and others that must not notice.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_control::change::{Change, Entries, Fact};
use durward_control::cluster::TENANT_LABEL;
use durward_control::document::Document;
use durward_control::reference::{Grantee, Reference};
use durward_control::spec::document;
use durward_control::spec::smartnat::{self, MappingObject, SmartNatOptions};
use durward_control::{Cluster, Compiled, Store, compile};
use durward_kube::object::Object;
use durward_model::verdict::{Finding, Severity, Verdict};
use durward_model::{DocumentKey, Kind, ResourceId, Revision, TenantId};
use durward_testkit::certificates::{Authority, CertSpec};
use serde_json::{Value, json};

/// Name of the tried objects, and of the Secret and the `ConfigMap` that have what they need.
const TRIED: &str = "tried";
const ALL: &str = "all";

/// Everything but the tried object.
pub(super) struct World {
    /// Tenants: the one whose objects are tried, and another one. The namespace of each has its name.
    pub(super) tenants: [&'static str; 2],
    /// Contents of the Secret and the `ConfigMap` of each.
    entries: [Entries; 2],
    /// Fingerprints of the certificate of each.
    pub(super) fingerprints: [String; 2],
    /// True if the other tenant grants all that it has.
    pub(super) grants: bool,
    now: i64,
    /// Everything but the tried object, where that is no `Tenant`, and where it is one.
    bases: [OnceCell<(Store, Compiled)>; 2],
}

/// What is served with the tried object in place.
pub(super) struct Served {
    /// Verdict on the object.
    pub(super) verdict: Verdict,
    /// Its kind.
    pub(super) kind: Kind,
    /// What its tenant is served with.
    pub(super) own: Shown,
    /// What all others are served with.
    pub(super) others: String,
    /// Everything that was asked for on the way.
    pub(super) asked: BTreeSet<Reference>,
}

/// Something served, as text in two forms of escapes.
#[derive(Default)]
pub(super) struct Shown {
    json: String,
    debug: String,
}

impl Shown {
    fn add(&mut self, json: &str, debug: &str) {
        self.json.push_str(json);
        self.debug.push_str(debug);
    }

    /// Returns whether a string is in it as it is.
    pub(super) fn has(&self, string: &str) -> bool {
        let inner = |quoted: &str| quoted[1..quoted.len() - 1].to_owned();
        self.json.contains(&inner(&json!(string).to_string()))
            || self.debug.contains(&inner(&format!("{string:?}")))
    }
}

impl Served {
    /// Returns the errors in the verdict.
    pub(super) fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.verdict.findings.iter().filter(|one| one.severity == Severity::Error)
    }
}

/// Builds the document that an object of a kind is.
pub(super) fn document(
    kind: Kind,
    (namespace, tenant): (&str, &str),
    whole: &Value,
    is_ours: bool,
) -> Document {
    let is_tenant = kind == Kind::Tenant;
    let (name, generation) = (if is_tenant { tenant } else { TRIED }, 1);
    let namespace = if is_tenant { "" } else { namespace };
    let created = "2026-11-03T10:00:00Z";
    let mut metadata = json!({
        "name": name, "namespace": namespace, "generation": generation, "creationTimestamp": created,
    });
    if !whole["annotations"].is_null() {
        metadata["annotations"] = whole["annotations"].clone();
    }
    let spec = &whole["spec"];
    if kind == Kind::Mapping {
        let annotations = whole["annotations"].as_object().into_iter().flatten();
        let text = |value: &Value| Arc::<str>::from(value.as_str().unwrap_or_default());
        let object = MappingObject {
            id: ResourceId::namespaced(kind, namespace, name),
            revision: Revision { uid: None, generation },
            created: Some(Arc::from(created)),
            annotations: annotations
                .map(|(key, value)| (Arc::from(key.as_str()), text(value)))
                .collect(),
            spec: Arc::from(spec.to_string()),
        };
        return smartnat::document(&object, SmartNatOptions::default());
    }
    if kind == Kind::Ingress {
        let id = ResourceId::namespaced(kind, namespace, name);
        let text = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec});
        let source = document::source(
            kind,
            &Arc::from(id.to_string()),
            Arc::from(text.to_string()),
            1,
            Vec::new(),
        );
        let content = document::content(&source);
        let revision = Revision { uid: None, generation };
        return Document::of_object(id, revision, Some(Arc::from(created)), source, content);
    }
    let version = if is_ours { "durward.dev/v1alpha1" } else { "example/v1" };
    let object =
        json!({"apiVersion": version, "kind": kind.as_str(), "metadata": metadata, "spec": spec});
    Object::decode(kind, version, &object.to_string()).unwrap().document()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// Builds an object of one of our kinds.
fn object(kind: Kind, (namespace, name): (&str, &str), spec: &str) -> Document {
    let object = json!({
        "metadata": {"name": name, "namespace": namespace, "generation": 1, "creationTimestamp": "2026-11-01T10:00:00Z"},
        "spec": yaml(spec),
    });
    Object::decode(kind, "durward.dev/v1alpha1", &object.to_string()).unwrap().document()
}

/// Documents of the other tenant, and of the tenant whose objects are tried.
fn documents([own, other]: [&str; 2], of_tried: Kind) -> Vec<Document> {
    let theirs = format!(
        "{{ingress: [{{address: 198.51.100.200, protocol: HTTP, routes: [{{host: {other}.example, upstream: u}}]}},
           {{address: 198.51.100.10, protocol: TLS, shared: true, names: [{other}.api.example], upstream: u}}],
          upstreams: {{u: {{service: {{name: pay, port: http}}}}}}, egress: {{addresses: [203.0.113.200], sources: [10.8.0.0/24]}}}}"
    );
    let mapping =
        "{addresses: [198.51.100.201], ports: [{port: 80, service: {name: pay, port: 80/TCP}}]}";
    let mut documents = vec![
        object(Kind::Tenant, ("", other), &theirs),
        object(Kind::PortMapping, (other, "theirs"), mapping),
        object(Kind::EgressPolicy, (other, "theirs"), "{allow: [{name: one, host: one.example}]}"),
    ];
    if of_tried != Kind::Tenant {
        let ours = format!(
            "{{ingress: [{{address: 198.51.100.10, protocol: TLS, shared: true, names: ['*.k8s.{own}.example'], acceptHostedApis: true}},
               {{address: 198.51.100.5, protocol: HTTP, allowedRoutes: {{kinds: [Ingress]}}}}],
              egress: {{addresses: [203.0.113.2], proxy: [{{address: 198.51.100.6, port: 3128}}]}}}}"
        );
        documents.push(object(Kind::Tenant, ("", own), &ours));
    }
    documents
}

/// Returns entries with everything that a document may name.
fn entries(tenant: &str) -> Entries {
    let authority = Authority::new(tenant);
    let shop = format!("shop.{tenant}.example");
    let identity = authority.issue(&CertSpec::new().ip([198, 51, 100, 2]).dns(&shop));
    let entries = [
        ("tls.crt", identity.chain_pem.clone()),
        ("tls.key", identity.key_pem.clone()),
        ("ca.crt", authority.pem()),
        ("ca.crl", authority.revoke(&[&identity]).pem),
        ("users", format!("ci:{}\n", "ab".repeat(32))),
        ("credential", "me:secret".to_owned()),
        ("account.key", authority.issue(&CertSpec::new().dns("account")).key_pem),
        ("names", format!("of-{tenant}.example\n")),
    ];
    let entries: BTreeMap<Arc<str>, Arc<[u8]>> = entries
        .into_iter()
        .map(|(key, text)| (Arc::from(key), Arc::from(text.as_bytes())))
        .collect();
    Entries::from(entries).of_type(Some(Arc::from("kubernetes.io/tls")))
}

impl World {
    pub(super) fn new(tenants: [&'static str; 2]) -> Self {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let (entries, fingerprints) = (tenants.map(entries), [String::new(), String::new()]);
        let mut world = Self {
            tenants,
            entries,
            fingerprints,
            grants: false,
            now: i64::try_from(now).unwrap(),
            bases: Default::default(),
        };
        world.fingerprints = tenants.map(|tenant| world.fingerprint(tenant));
        world
    }

    /// Returns the fingerprint of the certificate that a tenant is served with.
    fn fingerprint(&self, tenant: &str) -> String {
        let spec =
            "{ingress: [{address: 198.51.100.2, certificate: {secretName: all}, upstream: u}],
                     upstreams: {u: {endpoints: [10.0.0.1]}}, egress: {addresses: [203.0.113.2]}}";
        let store = self.store(vec![object(Kind::Tenant, ("", tenant), spec)]);
        let compiled = compile(&store, None, self.now);
        let served = compiled.snapshot.tenants.values().next().unwrap();
        served.listeners[0].tls().unwrap().certificates[0].fingerprint.to_string()
    }

    /// Returns the address behind the Service of a tenant.
    pub(super) fn endpoint(&self, tenant: &str) -> &'static str {
        if tenant == self.tenants[0] { "10.0.0.9:8080" } else { "10.0.0.8:8080" }
    }

    /// Returns what is true of a thing.
    fn fact(&self, reference: &Reference) -> Option<Fact> {
        let known = |namespace: &str| self.tenants.iter().position(|one| *one == namespace);
        let fact = match reference {
            Reference::Namespace(name) if known(name).is_some() => {
                Fact::Labels([(Arc::from(TENANT_LABEL), Arc::clone(name))].into())
            }
            Reference::Namespace(name) if **name == *"durward" => Fact::Labels(BTreeMap::new()),
            Reference::Secret { namespace, name } | Reference::ConfigMap { namespace, name } => {
                let owner = known(namespace).or_else(|| (**namespace == *"durward").then_some(0));
                match owner.filter(|_| **name == *ALL) {
                    Some(at) => Fact::Bytes(self.entries[at].clone()),
                    None => Fact::Missing,
                }
            }
            Reference::Service { namespace, name, port }
                if known(namespace).is_some() && (**name == *"pay" || **name == *TRIED) =>
            {
                match &**port {
                    "http" | "80" | "80/TCP" | "6443" | "8132" => Fact::Endpoints(
                        [self.endpoint(namespace).parse().unwrap()].into_iter().collect(),
                    ),
                    _ => Fact::PortUnknown("has other ports".to_owned()),
                }
            }
            Reference::Grant(_) if self.grants => Fact::Grants(self.grantees()),
            Reference::Grant(_) => Fact::Grants(BTreeSet::new()),
            Reference::LinkRoutes { .. } => return None,
            Reference::File(path) => panic!("an object asks for the file {}", path.display()),
            Reference::Namespace(_) | Reference::Service { .. } => Fact::Missing,
        };
        Some(fact)
    }

    /// Everybody in the namespace of the tenant whose objects are tried.
    fn grantees(&self) -> BTreeSet<Grantee> {
        let kinds = [
            Kind::Tenant,
            Kind::PortMapping,
            Kind::EgressPolicy,
            Kind::HostedApi,
            Kind::Mapping,
            Kind::Ingress,
            Kind::KamajiControlPlane,
            Kind::StewardControlPlane,
            Kind::IngressRouteTcp,
            Kind::TlsRoute,
        ];
        let namespaces = [self.tenants[0], "durward"];
        let of =
            |kind| namespaces.map(|namespace| Grantee { kind, namespace: Arc::from(namespace) });
        kinds.into_iter().flat_map(of).collect()
    }

    /// Serves everything with an object in place.
    pub(super) fn serve(&self, tried: Document) -> Served {
        let kind = tried.source.kind;
        let (store, before) = self.bases[usize::from(kind == Kind::Tenant)].get_or_init(|| {
            let store = self.store(documents(self.tenants, kind));
            let compiled = compile(&store, None, self.now);
            (store, compiled)
        });
        let (mut store, key) = (store.clone(), tried.key.clone());
        store.apply(Change { upserts: vec![tried], ..Change::default() });
        let asked = self.learn(&mut store);
        Served::of(&compile(&store, Some(before), self.now), &key, self.tenants[0], asked)
    }

    /// Builds the store of documents, with all that they ask for.
    fn store(&self, documents: Vec<Document>) -> Store {
        let mut store = Store::default();
        store.read_cluster(Some(Cluster::new("durward")));
        store.apply(Change { upserts: documents, ..Change::default() });
        self.learn(&mut store);
        store
    }

    /// Says everything that is asked for, and returns what that was.
    fn learn(&self, store: &mut Store) -> BTreeSet<Reference> {
        let mut asked = BTreeSet::new();
        loop {
            // What may be had is known by what was said before.
            let wanted = store.wanted().filter(|one| !asked.contains(*one)).cloned();
            let wanted: Vec<Reference> = wanted.collect();
            if wanted.is_empty() {
                return asked;
            }
            let facts = wanted.iter().filter_map(|one| Some((one.clone(), Some(self.fact(one)?))));
            let facts = facts.collect();
            asked.extend(wanted);
            store.apply(Change { facts, ..Change::default() });
        }
    }
}

impl Served {
    fn of(compiled: &Compiled, key: &DocumentKey, own: &str, asked: BTreeSet<Reference>) -> Self {
        let tenant = TenantId::new(own).unwrap();
        let snapshot = &compiled.snapshot;
        let (mut own, mut others) = (Shown::default(), String::new());
        for (id, served) in &snapshot.tenants {
            let json = serde_json::to_string(served).unwrap();
            if *id == tenant {
                own.add(&json, &format!("{served:?}"))
            } else {
                others.push_str(&json)
            }
        }
        for mapping in &snapshot.nat.mappings {
            let json = serde_json::to_string(mapping).unwrap();
            if mapping.tenant == tenant {
                own.add(&json, &format!("{mapping:?}"))
            } else {
                others.push_str(&json)
            }
        }
        let of_others = compiled
            .verdicts
            .iter()
            .filter(|one| one.document != *key && *one.resource.name != *tenant.as_str());
        of_others.for_each(|one| others.push_str(&format!("{} {:?}", one.resource, one.outcome)));
        let verdict = Verdict::clone(compiled.verdicts.on(key).unwrap());
        let kind = verdict.resource.kind;
        Self { verdict, kind, own, others, asked }
    }
}
