//! Ingresses: what they ask for, and what becomes of it in a tenant that is compiled and asked where requests go.

mod hostile;
mod served;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_control::document::Content;
use durward_control::foreign::asked::{Action, Asked, Backend, Host, SecretRef};
use durward_control::foreign::merge::{Endpoints, Lookup};
use durward_control::foreign::objects::{Ingress, IngressClass, Service};
use durward_control::foreign::{Merged, Place, Surroundings, extract, merge};
use durward_control::place::At;
use durward_control::spec::egress::EgressSpec;
use durward_control::spec::ingress::CertificateSpec;
use durward_control::spec::tenant::{API_VERSION, KIND, Metadata, TenantDocument, TenantSpec};
use durward_control::{Compiled, Document, Source, Store, compile};
use durward_model::Kind;
use durward_model::explain::{Ending, Question, Shown, explain};
use durward_model::transport::Transport;

use crate::certificates::NOW;

const ADDRESS: &str = "198.51.100.2";
const SERVICES: &str = "
- {metadata: {name: app, namespace: shop}, spec: {ports: [{name: web, port: 8080}, {name: dns, port: 53, protocol: UDP}]}}
- {metadata: {name: api, namespace: shop}, spec: {ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}}
";

/// An Ingress `shop/NAME` with this spec and these annotations, in YAML.
fn ingress(name: &str, annotations: &str, spec: &str) -> Ingress {
    let text = format!(
        "metadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\nspec: {spec}\n"
    );
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn asked(ingress: &Ingress) -> Asked {
    let services: Vec<Service> = serde_saphyr::from_str(SERVICES).unwrap();
    let service = |namespace: &str, name: &str| {
        services.iter().find(|one| one.metadata.namespace == namespace && one.metadata.name == name)
    };
    extract(ingress, Surroundings { classes: &[], service: &service, middleware: &|_, _| None })
}

fn of_spec(spec: &str) -> Asked {
    asked(&ingress("web", "", spec))
}

/// Rules in order, each in a line, then the reasons of findings with their fields.
fn written(asked: &Asked) -> Vec<String> {
    let rules = asked.rules.iter().map(|rule| {
        let action = match &rule.action {
            Action::Forward(backend) => backend.to_string(),
            Action::Redirect(to) => format!("{} {:?}", to.status, to.path),
            Action::Refuse => "503".to_owned(),
        };
        format!("{} {} -> {action}", rule.host, rule.path)
    });
    let findings = asked.findings.iter();
    rules.chain(findings.map(|one| format!("{} {}", one.reason, one.field))).collect()
}

/// A rule of `spec.rules` with one path.
fn rule(host: &str, path: &str, port: &str) -> String {
    format!(
        "{{host: '{host}', http: {{paths: [{{path: '{path}', pathType: Prefix, backend: {{service: {{name: app, port: {port}}}}}}}]}}}}"
    )
}

/// A name, a spec, and what is written of it.
type Case = (&'static str, String, &'static [&'static str]);

const APP: &str = "backend: {service: {name: app, port: {number: 8080}}}";

/// A spec with these paths of one host.
fn one(paths: &str) -> String {
    format!("{{rules: [{{host: a.example, http: {{paths: [{paths}]}}}}]}}")
}

/// Hosts and paths, and what stands for them where they are missing.
fn hosts_and_paths() -> Vec<Case> {
    vec![
        (
            "named port",
            format!("{{rules: [{}]}}", rule("a.example", "/", "{name: web}")),
            &["a.example / -> shop/app:8080"],
        ),
        (
            "several hosts, paths and rules, the most specific first",
            format!(
                "{{rules: [{}, {}, {}, {}]}}",
                rule("", "/", "{number: 8080}"),
                rule("*.example", "/", "{number: 8080}"),
                rule("a.example", "/x", "{number: 8080}"),
                rule("a.example", "/x/y/", "{number: 8080}"),
            ),
            &[
                "a.example /x/y -> shop/app:8080",
                "a.example /x -> shop/app:8080",
                "*.example / -> shop/app:8080",
                "every host / -> shop/app:8080",
            ],
        ),
        (
            "exact before prefix",
            one(&format!("{{path: /a, pathType: Prefix, {APP}}}, {{path: /a, pathType: Exact, {APP}}}, {{path: /a/, pathType: Exact, {APP}}}")),
            &[
                "a.example exactly /a/ -> shop/app:8080",
                "a.example exactly /a -> shop/app:8080",
                "a.example /a -> shop/app:8080",
            ],
        ),
        (
            "defaultBackend alone",
            "{defaultBackend: {service: {name: api, port: {number: 80}}}}".to_owned(),
            &["every host / -> shop/api:80"],
        ),
        (
            "a host without http is the default backend's",
            "{rules: [{host: a.example}], defaultBackend: {service: {name: api, port: {number: 80}}}}".to_owned(),
            &["a.example / -> shop/api:80", "every host / -> shop/api:80"],
        ),
        (
            "a host without http and without a default backend",
            "{rules: [{host: a.example}]}".to_owned(),
            &["NothingServed spec.rules[0]", "NothingServed spec"],
        ),
        (
            "missing pathType and path",
            one(&format!("{{{APP}}}")),
            &["a.example / -> shop/app:8080", "PathType spec.rules[0].http.paths[0].pathType"],
        ),
    ]
}

/// Types of paths, and backends that are refused.
fn paths_and_backends() -> Vec<Case> {
    vec![
        (
            "ImplementationSpecific",
            one(&format!("{{path: /x, pathType: ImplementationSpecific, {APP}}}")),
            &["a.example /x -> shop/app:8080", "PathType spec.rules[0].http.paths[0].pathType"],
        ),
        (
            "a regular expression is refused below its fixed part",
            one(&format!("{{path: '/x(/|$)(.*)', pathType: ImplementationSpecific, {APP}}}")),
            &["a.example /x -> 503", "RegularExpression spec.rules[0].http.paths[0].path"],
        ),
        (
            "a Prefix is no regular expression",
            one(&format!("{{path: '/x(y)', pathType: Prefix, {APP}}}")),
            &["a.example /x(y) -> shop/app:8080"],
        ),
        (
            "a resource",
            one(
                "{path: /x, pathType: Prefix, backend: {resource: {apiGroup: k8s.example, kind: Bucket, name: icons}}}",
            ),
            &[
                "a.example /x -> 503",
                "ResourceBackend spec.rules[0].http.paths[0].backend.resource",
            ],
        ),
        (
            "a port that the Service does not have",
            format!("{{rules: [{}]}}", rule("a.example", "/", "{name: admin}")),
            &["a.example / -> 503", "PortUnknown spec.rules[0].http.paths[0].backend.service.port"],
        ),
        (
            "a port of UDP",
            format!("{{rules: [{}]}}", rule("a.example", "/", "{name: dns}")),
            &["a.example / -> 503", "PortUnknown spec.rules[0].http.paths[0].backend.service.port"],
        ),
    ]
}

/// Texts that an API server would not have taken.
fn what_an_api_server_refuses() -> Vec<Case> {
    vec![
        (
            "a name and a number",
            format!("{{rules: [{}]}}", rule("a.example", "/", "{name: web, number: 8080}")),
            &["a.example / -> 503", "BadBackend spec.rules[0].http.paths[0].backend.service.port"],
        ),
        (
            "a Service that is not known, by number and by name",
            one(
                "{path: /x, pathType: Prefix, backend: {service: {name: other, port: {number: 81}}}}, {path: /y, pathType: Prefix, backend: {service: {name: other, port: {name: web}}}}",
            ),
            &["a.example /x -> shop/other:81", "a.example /y -> shop/other:web"],
        ),
        (
            "hosts that are none",
            format!(
                "{{rules: [{}, {}, {}, {}]}}",
                rule("10.0.0.1", "/", "{number: 8080}"),
                rule("A.example", "/", "{number: 8080}"),
                rule("a.*.example", "/", "{number: 8080}"),
                rule("a.example", "/", "{number: 8080}"),
            ),
            &[
                "a.example / -> shop/app:8080",
                "BadHost spec.rules[0].host",
                "BadHost spec.rules[1].host",
                "BadHost spec.rules[2].host",
            ],
        ),
        (
            "paths that an API server refuses",
            one(&format!(
                "{{path: x, pathType: Prefix, {APP}}}, {{path: /a//b, pathType: Exact, {APP}}}, {{path: '/a%2Fb', pathType: Exact, {APP}}}, {{path: /ok, pathType: Exact, {APP}}}"
            )),
            &[
                "a.example exactly /ok -> shop/app:8080",
                "BadPath spec.rules[0].http.paths[0].path",
                "BadPath spec.rules[0].http.paths[1].path",
                "BadPath spec.rules[0].http.paths[2].path",
            ],
        ),
    ]
}

// S3.27
#[test]
fn every_form_of_an_ingress_is_read_as_the_api_says() {
    let cases = [hosts_and_paths(), paths_and_backends(), what_an_api_server_refuses()].concat();

    for (name, spec, expected) in &cases {
        assert_eq!(written(&of_spec(spec)), *expected, "{name}");
    }
    assert_eq!(cases.len(), 17);
}

// S3.25
#[test]
fn the_manifest_of_the_seed_gives_host_path_service_and_port() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: my-app
  namespace: default
spec:
  rules:
  - host: my-app.example.com
    http:
      paths:
      - path: /
        pathType: Prefix
        backend:
          service:
            name: my-app
            port:
              number: 8080
";
    let asked = asked(&serde_saphyr::from_str(text).unwrap());

    assert_eq!(written(&asked), ["my-app.example.com / -> default/my-app:8080"]);
    assert!(!asked.is_tls(&Host::Exact(Arc::from("my-app.example.com"))));
}

// S3.50
#[test]
fn tls_is_of_the_hosts_in_spec_tls_alone() {
    let rules =
        [rule("a.example", "/", "{number: 8080}"), rule("b.x.example", "/", "{number: 8080}")];
    let spec = |tls: &str| of_spec(&format!("{{rules: [{}], tls: [{tls}]}}", rules.join(", ")));
    let host = |name: &str| Host::Exact(Arc::from(name));

    let one = spec("{hosts: [a.example], secretName: a}");
    let wild = spec("{hosts: ['*.x.example', a.example], secretName: a}");
    let all = spec("{secretName: a}");
    let bad = spec("{hosts: ['a example'], secretName: a}");

    assert!(one.is_tls(&host("a.example")) && !one.is_tls(&host("b.x.example")));
    assert_eq!(one.findings[0].field, "spec.rules[1].host");
    assert!(wild.is_tls(&host("b.x.example")) && wild.findings.is_empty());
    assert!(!wild.is_tls(&host("c.b.x.example")), "a wildcard is for one label");
    assert!(all.is_tls(&host("b.x.example")));
    assert!(!bad.is_tls(&host("a.example")), "a host that is none is not every host");
}

#[test]
fn the_class_is_the_annotations_then_the_fields_then_the_default_one() {
    let class = |name: &str, is_default: bool| -> IngressClass {
        let text = format!(
            "metadata: {{name: {name}, annotations: {{ingressclass.kubernetes.io/is-default-class: '{is_default}'}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    };
    let of = |annotations: &str, spec: &str, classes: &[IngressClass]| {
        let around = Surroundings { classes, service: &|_, _| None, middleware: &|_, _| None };
        extract(&ingress("web", annotations, spec), around).class.map(|class| class.to_string())
    };
    let (nginx, traefik) = (class("nginx", true), class("traefik", false));
    let named = "{ingressClassName: traefik}";

    assert_eq!(of("kubernetes.io/ingress.class: haproxy", named, &[]).as_deref(), Some("haproxy"));
    assert_eq!(of("", named, std::slice::from_ref(&nginx)).as_deref(), Some("traefik"));
    assert_eq!(of("", "{}", &[nginx.clone(), traefik]).as_deref(), Some("nginx"));
    assert_eq!(of("", "{}", &[]), None);
    assert_eq!(of("", "{}", &[nginx, class("other", true)]), None, "two defaults are none");
}

/// Endpoints of all Services but one, and no Secrets.
struct Known;

impl Lookup for Known {
    fn endpoints(&self, backend: &Backend) -> Endpoints {
        if &*backend.service == "gone" {
            return Endpoints::Nowhere("is not there".to_owned());
        }
        let port = backend.number.unwrap_or(1);
        Endpoints::Addresses(vec![SocketAddr::from(([10, 0, 0, 1], port))])
    }

    fn certificate(&self, _: &str, _: &SecretRef) -> Result<CertificateSpec, String> {
        Err("is not there".to_owned())
    }

    fn authorities(&self, _: &str, _: &SecretRef) -> Result<String, String> {
        Err("is not there".to_owned())
    }
}

fn merged(ingresses: &[Ingress]) -> Merged {
    let asked: Vec<Asked> = ingresses.iter().map(asked).collect();
    let place = Place { address: ADDRESS.parse().unwrap(), passthrough: None, is_shared: false };
    merge(&asked, &place, &Known)
}

fn at<T>(value: T) -> At<T> {
    At::new(value, Default::default())
}

fn compiled(merged: &Merged) -> Compiled {
    let metadata = Metadata {
        name: at("shop".to_owned()),
        creation_timestamp: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    };
    let egress =
        EgressSpec { addresses: vec![at("203.0.113.2".to_owned())], ..EgressSpec::default() };
    let document = TenantDocument {
        api_version: at(API_VERSION.to_owned()),
        kind: at(KIND.to_owned()),
        metadata,
        spec: TenantSpec {
            namespace: None,
            ingress: merged.ingress.clone(),
            upstreams: merged.upstreams.clone(),
            egress,
            limits: merged.limits.clone(),
        },
    };
    let source = Source { kind: Kind::Tenant, file: Arc::from("shop.yaml"), ..Source::default() };
    let content = Content::Tenant(Arc::new(document));
    let store: Store = [Document::of_file(0, source, content)].into_iter().collect();
    compile(&store, None, NOW)
}

/// What becomes of a request to port 80: an upstream's name or a status.
fn ending(compiled: &Compiled, request: &str, client: &str, headers: &[(&str, &str)]) -> String {
    let (method, rest) = request.split_once(' ').unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let question = Question {
        client: Some(client.parse().unwrap()),
        destination: SocketAddr::new(ADDRESS.parse().unwrap(), 80),
        transport: Transport::Tcp,
        sni: None,
        host: Some(host.to_owned()),
        path: path.to_owned(),
        method: method.to_owned(),
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        client_certificate: Shown::Nothing,
        credential: Shown::Nothing,
        resolved: None,
    };
    match explain(&compiled.snapshot, &question).ending {
        Ending::Served { upstream } | Ending::ServedIf { upstream, .. } => upstream.to_string(),
        Ending::Answered { status } => status.to_string(),
        Ending::Refused { reason } => reason.to_string(),
    }
}

fn get(compiled: &Compiled, request: &str) -> String {
    ending(compiled, &format!("GET {request}"), "192.0.2.9", &[])
}

fn accepted(ingresses: &[Ingress]) -> (Merged, Compiled) {
    let merged = merged(ingresses);
    let compiled = compiled(&merged);
    assert!(compiled.verdicts.all_accepted(), "{:#?}\n{merged:#?}", compiled.verdicts);
    (merged, compiled)
}
