//! Documents that refer to objects of a cluster, whatever source says the facts: certificates from Secrets, endpoints of Services, and whose a namespace is.

mod across;
mod anew;
mod foreign;
mod hosted;
mod ingresses;
mod live;
mod policies;
mod published;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use durward_control::change::{Change, DocumentKey, Entries, Fact};
use durward_control::cluster::{Cluster, TENANT_LABEL};
use durward_control::document::{Document, Source};
use durward_control::reference::{Grantee, Reference};
use durward_control::spec::document;
use durward_control::{Compiled, Store, compile};
use durward_model::verdict::{Outcome, Verdict};
use durward_model::{Kind, ResourceId, Revision, Tenant, TenantId};

use crate::certificates::NOW;

/// Certificate and key, both PEM.
type Pair = (String, String);

fn pair(address: &str) -> Pair {
    let made = rcgen::generate_simple_self_signed([address.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

static PAIRS: LazyLock<[Pair; 3]> = LazyLock::new(|| ["198.51.100.1"; 3].map(pair));

/// Names of a namespace and of an object in it.
type Name<'a> = (&'a str, &'a str);

/// A store as sources fill it, and what was compiled of it last.
struct World {
    store: Store,
    compiled: Compiled,
}

impl World {
    /// A world in which the API of a cluster is read; the gateway's own namespace is `durward`.
    fn new() -> Self {
        let mut world = Self { store: Store::default(), compiled: Compiled::default() };
        world.store.read_cluster(Some(Cluster::new("durward")));
        world
    }

    fn say(&mut self, reference: Reference, fact: Fact) {
        let facts = vec![(reference, Some(fact))];
        self.store.apply(Change { facts, ..Change::default() });
    }

    fn label(&mut self, namespace: &str, tenant: Option<&str>) {
        let label = tenant.map(|tenant| (Arc::from(TENANT_LABEL), Arc::from(tenant)));
        self.say(
            Reference::Namespace(Arc::from(namespace)),
            Fact::Labels(label.into_iter().collect()),
        );
    }

    fn secret(&mut self, name: Name<'_>, entries: &[(&str, &str)]) {
        self.say(secret(name), Fact::Bytes(bytes(entries).into()));
    }

    fn tls(&mut self, name: Name<'_>, (certificate, key): &Pair) {
        self.secret(name, &[("tls.crt", certificate), ("tls.key", key)]);
    }

    fn config_map(&mut self, (namespace, name): Name<'_>, entries: &[(&str, &str)]) {
        let (namespace, name) = (Arc::from(namespace), Arc::from(name));
        self.say(Reference::ConfigMap { namespace, name }, Fact::Bytes(bytes(entries).into()));
    }

    fn service(&mut self, name: Name<'_>, endpoints: &[&str]) {
        let endpoints = endpoints.iter().map(|one| one.parse().unwrap()).collect();
        self.say(service(name), Fact::Endpoints(endpoints));
    }

    /// Says the endpoints of a port of a Service by the port's name or number.
    fn service_port(&mut self, (namespace, name): Name<'_>, port: &str, endpoints: &[&str]) {
        let (namespace, name) = (Arc::from(namespace), Arc::from(name));
        let reference = Reference::Service { namespace, name, port: Arc::from(port) };
        let endpoints = endpoints.iter().map(|one| one.parse().unwrap()).collect();
        self.say(reference, Fact::Endpoints(endpoints));
    }

    fn grant(&mut self, kind: Kind, (namespace, name): Name<'_>, to: (Kind, &str)) {
        let grantee = Grantee { kind: to.0, namespace: Arc::from(to.1) };
        let id = ResourceId::namespaced(kind, namespace, name);
        self.say(Reference::Grant(id), Fact::Grants(BTreeSet::from([grantee])));
    }

    fn put(&mut self, document: Document) {
        self.store.apply(Change { upserts: vec![document], ..Change::default() });
    }

    fn delete(&mut self, key: DocumentKey) {
        self.store.apply(Change { deletes: vec![key], ..Change::default() });
    }

    fn compile(&mut self) -> &Compiled {
        self.compiled = compile(&self.store, Some(&self.compiled), NOW);
        &self.compiled
    }

    fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.compiled.snapshot.tenants.get(&TenantId::new(name).unwrap())
    }

    fn verdict(&self, name: &str) -> &Verdict {
        self.compiled.verdicts.iter().find(|verdict| *verdict.resource.name == *name).unwrap()
    }

    /// Reason, field and sentence of the findings about a resource.
    fn findings(&self, name: &str) -> Vec<(String, String, String)> {
        let findings = self.verdict(name).findings.iter();
        let shown = findings
            .map(|one| (one.reason.to_string(), one.field.to_string(), one.sentence.to_string()));
        shown.collect()
    }

    fn reasons(&self, name: &str) -> Vec<String> {
        self.findings(name).into_iter().map(|(reason, ..)| reason).collect()
    }

    fn endpoints(&self, tenant: &str) -> Vec<String> {
        let upstream = &self.tenant(tenant).unwrap().upstreams[0];
        upstream.endpoints.iter().map(|endpoint| endpoint.target.to_string()).collect()
    }
}

fn bytes(entries: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<[u8]>> {
    entries.iter().map(|(key, value)| (Arc::from(*key), Arc::from(value.as_bytes()))).collect()
}

fn secret((namespace, name): Name<'_>) -> Reference {
    Reference::Secret { namespace: Arc::from(namespace), name: Arc::from(name) }
}

fn service((namespace, name): Name<'_>) -> Reference {
    let (namespace, name) = (Arc::from(namespace), Arc::from(name));
    Reference::Service { namespace, name, port: Arc::from("http") }
}

fn text(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn in_file(file: &str, text: &str) -> Document {
    let (kind, file) = (document::kind(text), Arc::from(file));
    let source = document::source(kind, &file, Arc::from(text), 1, vec![PathBuf::from("d")]);
    let content = document::content(&source);
    Document::of_file(0, source, content)
}

fn object(id: ResourceId, text: &str) -> Document {
    let file = Arc::from(id.to_string());
    let source = document::source(id.kind, &file, Arc::from(text), 1, Vec::new());
    let content = document::content(&source);
    Document::of_object(id, Revision::default(), None, Source::clone(&source), content)
}

fn tenant_object(name: &str, spec: &str) -> Document {
    object(ResourceId::new(Kind::Tenant, name), &text("Tenant", name, spec))
}

fn mapping_object((namespace, name): Name<'_>, spec: &str) -> Document {
    let id = ResourceId::namespaced(Kind::PortMapping, namespace, name);
    object(id, &text("PortMapping", name, spec))
}

/// A tenant with one listener, whose certificate is named so.
fn with_certificate(more: &str, certificate: &str) -> String {
    format!(
        "{{{more}ingress: [{{address: 198.51.100.1, certificate: {certificate}, ipSan: Warn, upstream: u}}], upstreams: {{u: {{endpoints: [10.0.0.1]}}}}, egress: {{addresses: [203.0.113.1]}}}}"
    )
}

/// A tenant whose upstream is a port of a Service.
fn with_service(address: u8, service: &str) -> String {
    format!(
        "{{ingress: [{{address: 198.51.100.{address}, protocol: HTTP, upstream: u}}], upstreams: {{u: {{service: {service}}}}}, egress: {{addresses: [203.0.113.{address}]}}}}"
    )
}

#[test]
fn a_secret_holds_a_certificate_and_entries_stand_for_files_in_every_field() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.tls(("acme", "shop"), &PAIRS[0]);
    world.secret(("acme", "split"), &[("chain", &PAIRS[1].0), ("private", &PAIRS[1].1)]);
    world.tls(("acme", "client"), &PAIRS[2]);
    let authority = {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    world.config_map(("acme", "trust"), &[("ca.crt", &authority), ("names", "a.example\n")]);
    let hash = "ab".repeat(32);
    world.secret(("acme", "users"), &[("list", &format!("ci:{hash}\n")), ("parent", "me:secret")]);
    world.put(tenant_object(
        "acme",
        "
  ingress:
    - {address: 198.51.100.1, certificate: {secretName: shop}, ipSan: Warn, upstream: u,
       clientCertificates: {caFile: 'configMap:trust/ca.crt'}}
    - {address: 198.51.100.2, ipSan: Warn, upstream: u,
       certificate: {certificateFile: 'secret:split/chain', keyFile: 'secret:split/private'}}
    - {address: 198.51.100.3, ipSan: Warn, upstream: u, certificate: {file: 'secret:shop/tls'}}
  upstreams:
    u: {endpoints: [10.0.0.1], tls: {caFile: 'configMap:trust/ca.crt', clientCertificate: {secretName: client}}}
  egress:
    addresses: [203.0.113.1]
    proxy: [{address: 198.51.100.4, credentials: {file: 'secret:users/list'}}]
    allow: [{hostsFile: 'configMap:trust/names'}]
    resolvers: ['tls://10.0.0.53#dns.example']
    resolverCaFile: 'configMap:trust/ca.crt'
    parents: [{address: 'proxy.example:3128', credentialFile: 'secret:users/parent'}]",
    ));

    world.compile();

    let verdict = world.verdict("acme");
    assert_eq!(verdict.outcome, Outcome::Accepted, "{verdict:#?}");
    let tenant = world.tenant("acme").unwrap();
    let shown = tenant.listeners.iter().filter_map(|one| Some(one.tls()?.certificates[0].clone()));
    let shown: Vec<_> =
        shown.map(|one| (one.name.to_string(), one.chain_file.display().to_string())).collect();
    assert_eq!(
        shown,
        [
            ("secret:shop".to_owned(), "secret:acme/shop/tls.crt".to_owned()),
            ("secret:split/chain".to_owned(), "secret:acme/split/chain".to_owned()),
            ("secret:shop".to_owned(), "secret:acme/shop/tls.crt".to_owned()),
        ]
    );
}

#[test]
fn what_an_object_or_a_file_refers_to_is_asked_for_once_it_may_be_had() {
    let mut world = World::new();
    world.put(in_file("f", &text("Tenant", "acme", &with_certificate("", "{secretName: shop}"))));
    let wanted = |world: &World| world.store.wanted().cloned().collect::<Vec<_>>();

    let namespace = Reference::Namespace(Arc::from("acme"));
    assert_eq!(wanted(&world), std::slice::from_ref(&namespace), "whose it is comes first");
    world.label("acme", Some("acme"));
    assert_eq!(wanted(&world), [secret(("acme", "shop")), namespace.clone()]);
    world.label("acme", Some("globex"));
    assert_eq!(wanted(&world), [namespace]);
}

#[test]
fn where_no_api_is_read_a_sentence_says_so() {
    let mut world = World::new();
    world.store.read_cluster(None);
    world.put(in_file("f", &text("Tenant", "acme", &with_certificate("", "{secretName: shop}"))));
    world.put(in_file("g", &text("Tenant", "globex", &with_service(2, "{name: pay, port: http}"))));

    world.compile();

    for (name, field, written) in [
        ("acme", "spec.ingress[0].certificate", "secret:shop/tls.crt"),
        ("globex", "spec.upstreams.u.service.name", "pay"),
    ] {
        let findings = world.findings(name);
        let said = findings.iter().find(|(reason, ..)| reason == "KubernetesNotRead").unwrap();
        let (_, at, sentence) = said;
        assert_eq!(at, field);
        assert!(sentence.contains(written) && sentence.contains("--kubernetes"), "{sentence}");
    }
}

#[test]
fn what_was_not_read_yet_is_said_and_not_waited_for_in_silence() {
    let mut world = World::new();
    world.put(tenant_object("acme", &with_certificate("", "{secretName: shop}")));

    world.compile();
    assert_eq!(world.findings("acme")[0].0, "ObjectUnread");
    assert!(world.findings("acme")[0].2.contains("namespace acme was not read"));
    world.label("acme", Some("acme"));
    world.compile();
    assert!(world.findings("acme")[0].2.contains("Secret \"shop\" of namespace acme was not read"));
}

/// Certificates that cannot be had, the reason, and a part of the sentence.
const FAULTS: [(&str, &str, &str); 11] = [
    (
        "{secretName: gone}",
        "SecretMissing",
        "the Secret \"gone\" of namespace acme, which does not exist: create it",
    ),
    (
        "{file: 'secret:shop/other'}",
        "SecretKeyMissing",
        "no entry of the Secret \"shop\" of namespace acme, which has tls.crt, tls.key",
    ),
    (
        "{secretName: locked}",
        "SecretUnreadable",
        "the Secret \"locked\" of namespace acme, which cannot be read: forbidden",
    ),
    (
        "{secretName: globex/shop}",
        "NamespaceForeign",
        "label the Namespace durward.dev/tenant: acme",
    ),
    (
        "{secretName: opaque}",
        "SecretTypeMismatch",
        "the Secret \"opaque\" of namespace acme, which is of type Opaque, not kubernetes.io/tls",
    ),
    ("{secretName: nowhere/shop}", "NamespaceMissing", "namespace nowhere, which does not exist"),
    (
        "{secretName: second/shop}",
        "GrantMissing",
        "create a ReferenceGrant in namespace second from Tenant of namespace acme to Secret \"shop\"",
    ),
    (
        "{certificateFile: 'secret:shop', keyFile: 'secret:shop/tls.key'}",
        "BadReference",
        "write secret:NAME/KEY",
    ),
    ("{file: certs/acme}", "FileOutside", "write secret:NAME/KEY"),
    ("{file: /etc/durward/certs/acme}", "FileOutside", "an object names none"),
    ("{secretName: shop, file: x}", "BadCertificate", "secretName"),
];

#[test]
fn a_fault_names_the_field_the_object_and_the_cure() {
    for (certificate, reason, sentence) in FAULTS {
        let mut world = World::new();
        world.label("acme", Some("acme"));
        world.label("second", Some("acme"));
        world.label("globex", Some("globex"));
        world.say(Reference::Namespace(Arc::from("nowhere")), Fact::Missing);
        world.tls(("acme", "shop"), &PAIRS[0]);
        world.tls(("second", "shop"), &PAIRS[1]);
        world.say(secret(("acme", "gone")), Fact::Missing);
        world.say(
            secret(("acme", "locked")),
            Fact::Unreadable("cannot be read: forbidden".to_owned()),
        );
        let opaque = bytes(&[("tls.crt", &PAIRS[0].0), ("tls.key", &PAIRS[0].1)]);
        let opaque = Entries::from(opaque).of_type(Some(Arc::from("Opaque")));
        world.say(secret(("acme", "opaque")), Fact::Bytes(opaque));
        let grant = ResourceId::namespaced(Kind::Secret, "second", "shop");
        world.say(Reference::Grant(grant), Fact::Missing);
        world.put(tenant_object("acme", &with_certificate("", certificate)));

        world.compile();

        let (said, field, words) = world.findings("acme")[0].clone();
        assert_eq!((&*said, &*field), (reason, "spec.ingress[0].certificate"), "{words}");
        assert!(words.contains(sentence), "{words}");
        let is_pair = certificate.starts_with("{secretName");
        assert!(!is_pair || world.findings("acme").len() == 1, "an object is named once");
        assert!(world.tenant("acme").is_none_or(|tenant| tenant.listeners.is_empty()));
    }
}

#[test]
fn a_secret_for_certificates_is_served_and_one_of_another_type_by_its_entries() {
    for (r#type, certificate) in [
        ("kubernetes.io/tls", "{secretName: shop}"),
        ("Opaque", "{certificateFile: 'secret:shop/tls.crt', keyFile: 'secret:shop/tls.key'}"),
    ] {
        let mut world = World::new();
        world.label("acme", Some("acme"));
        let entries = bytes(&[("tls.crt", &PAIRS[0].0), ("tls.key", &PAIRS[0].1)]);
        let entries = Entries::from(entries).of_type(Some(Arc::from(r#type)));
        world.say(secret(("acme", "shop")), Fact::Bytes(entries));
        world.put(tenant_object("acme", &with_certificate("", certificate)));

        world.compile();

        assert_eq!(
            world.verdict("acme").outcome,
            Outcome::Accepted,
            "{:?}",
            world.findings("acme")
        );
    }
}

#[test]
fn another_namespace_of_the_tenant_or_the_gateways_is_had_by_a_grant() {
    for (namespace, label) in [("second", Some("acme")), ("durward", None)] {
        let mut world = World::new();
        world.label("acme", Some("acme"));
        world.label(namespace, label);
        world.tls((namespace, "shop"), &PAIRS[0]);
        let name = format!("{{secretName: {namespace}/shop}}");
        world.put(tenant_object("acme", &with_certificate("", &name)));
        let shop = (namespace, "shop");

        for (to, expected) in [
            ((Kind::Tenant, "acme"), Outcome::Accepted),
            ((Kind::Tenant, "globex"), Outcome::Rejected),
            ((Kind::PortMapping, "acme"), Outcome::Rejected),
        ] {
            world.grant(Kind::Secret, shop, to);
            let compiled = compile(&world.store, None, NOW);
            assert_eq!(compiled.verdicts.iter().next().unwrap().outcome, expected, "{to:?}");
        }
    }
}

#[test]
fn a_tenant_may_look_names_up_in_another_namespace_that_is_its_own() {
    for (namespace, label, outcome) in [
        ("shops", Some("acme"), Outcome::Accepted),
        ("durward", None, Outcome::Accepted),
        ("shops", Some("globex"), Outcome::Rejected),
        ("shops", None, Outcome::Rejected),
    ] {
        let mut world = World::new();
        world.label(namespace, label);
        world.tls((namespace, "shop"), &PAIRS[0]);
        let more = format!("namespace: {namespace}, ");
        world.put(tenant_object("acme", &with_certificate(&more, "{secretName: shop}")));

        world.compile();

        assert_eq!(world.verdict("acme").outcome, outcome, "{namespace} {label:?}");
    }
    let mut world = World::new();
    world.put(tenant_object("Acme_1", &with_certificate("", "{secretName: shop}")));
    world.compile();
    assert_eq!(world.reasons("Acme_1")[0], "BadNamespace");
}

#[test]
fn a_namespace_that_cannot_be_one_is_an_error_also_where_nothing_is_looked_up_in_it() {
    for written in ["Shop", "a b", "a\nb", "", "$(id)", "../kube-system", "a.b", "-a"] {
        let mut world = World::new();
        let spec =
            "ingress: [{address: 198.51.100.1, protocol: HTTP, routes: [{respond: {body: fine}}]}]";
        let namespace = serde_json::to_string(written).unwrap();
        world.put(tenant_object("acme", &format!("{{namespace: {namespace}, {spec}}}")));

        world.compile();

        let verdict = world.verdict("acme");
        assert_eq!(verdict.outcome, Outcome::Partial, "{written:?}");
        assert_eq!(&*verdict.findings[0].field, "spec.namespace");
        assert_eq!(world.reasons("acme"), ["BadNamespace"], "{written:?}");
        assert_eq!(world.compiled.snapshot.tenants.len(), 1, "what needs no namespace is served");
    }
}

#[test]
fn what_is_handed_on_holds_no_byte_of_a_secret_and_is_served_again() {
    use durward_control::compile::retained;
    use durward_control::{FileSource, State};

    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.tls(("acme", "shop"), &PAIRS[0]);
    world.service(("acme", "pay"), &["10.0.0.9:8080"]);
    world.put(tenant_object("acme", &with_certificate("", "{secretName: shop}")));
    let ports =
        "{addresses: [198.51.100.9], ports: [{port: 80, service: {name: pay, port: http}}]}";
    world.put(mapping_object(("acme", "web"), ports));
    world.compile();
    assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);

    let json = world.compiled.state().to_json();

    let written = String::from_utf8(json.clone()).unwrap();
    for line in PAIRS[0].0.lines().chain(PAIRS[0].1.lines()) {
        assert!(!written.contains(line), "{line}");
    }
    let state = State::from_json(&json).unwrap();
    let source = FileSource::default();
    let asked: Store = retained::documents(&state, &source).into_iter().collect();
    assert!(asked.wanted().any(|one| *one == Reference::Namespace(Arc::from("acme"))));
    let again = retained::restore_beside(&state, &source, &world.store, NOW);
    assert_eq!(again.snapshot.tenants.len(), 1);
    assert_eq!(again.snapshot.nat.mappings.len(), 1, "{:#?}", again.verdicts);
    let next = compile(&world.store, Some(&again), NOW);
    assert_eq!(next.snapshot.tenants, world.compiled.snapshot.tenants);
    assert_eq!(next.snapshot.nat, world.compiled.snapshot.nat);
    let without = retained::restore(&state, &source, NOW);
    assert!(without.snapshot.nat.mappings.is_empty(), "nobody says whose the namespace is");
}
