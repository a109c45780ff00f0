//! SmartNat's objects become documents that are accepted as they are.

use durward_control::{FileSource, compile};
use durward_migrate::smartnat::{Migration, SmartNatOptions, migrate};

use crate::NOW;

const OBJECTS: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: smartnat.aureacentral.com/v1alpha1
  kind: Mapping
  metadata: {name: echo, namespace: shop, creationTimestamp: "2019-03-01T10:00:00Z"}
  spec:
    addresses: [203.0.113.10, 203.0.113.11]
    allowedSources: [192.0.2.0/24]
    mode: service
    serviceName: echo
    ports:
    - {port: 8080, protocol: TCP}
    - {port: 8081, servicePort: 8080}
    - {port: 8081, protocol: UDP, servicePort: 8081}
- apiVersion: v1
  kind: Service
  metadata: {name: echo, namespace: shop}
  spec:
    sessionAffinity: ClientIP
    ports:
    - {name: web, port: 8080, protocol: TCP, targetPort: http}
    - {name: echo, port: 8081, protocol: UDP, targetPort: 7}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: echo-1, namespace: shop, labels: {kubernetes.io/service-name: echo}}
  ports: [{name: web, port: 80, protocol: TCP}, {name: echo, port: 7, protocol: UDP}]
  endpoints:
  - {addresses: [10.244.1.5], conditions: {ready: true}}
  - {addresses: [10.244.1.9], conditions: {ready: false}}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: echo-2, namespace: shop, labels: {kubernetes.io/service-name: echo}}
  ports: [{name: web, port: 80, protocol: TCP}]
  endpoints: [{addresses: [10.244.2.6], conditions: {}}]
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: lonely, namespace: desk}
spec: {addresses: [203.0.113.10], mode: service, serviceName: gone, ports: [{port: 22}]}
"#;

// S5.26+ S5.27+ S5.37 S5.39+ S5.47+
#[test]
fn mappings_become_documents_that_are_accepted() {
    let texts = [("objects.yaml".to_owned(), OBJECTS.to_owned())];

    let migrated = migrate(&texts, SmartNatOptions::default()).unwrap();
    let other = SmartNatOptions { masquerade: false, snat: true };
    let preserved = migrate(&texts, other).unwrap();

    let (documents, preserved) = (joined(&migrated), joined(&preserved));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("migrated.yaml"), &documents).unwrap();
    let resources = FileSource::default().load(&[folder.path().to_owned()]);
    let compiled = compile(&resources, None, NOW);
    assert!(compiled.verdicts.all_accepted(), "{:#?}\n{}", compiled.verdicts, documents);
    assert_eq!(migrated.mappings, 2);
    let names: Vec<&str> = migrated.documents.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["desk", "shop"], "a file per tenant");
    assert_eq!(
        migrated.notes,
        ["desk/lonely: Service gone is not among the objects: write its endpoints"]
    );
    insta::assert_snapshot!(documents, @r#"
    apiVersion: durward.dev/v1alpha1
    kind: Tenant
    metadata: {name: desk}
    spec: {}
    ---
    apiVersion: durward.dev/v1alpha1
    kind: PortMapping
    metadata: {name: desk.lonely}
    spec:
      tenant: desk
      addresses: ["203.0.113.10"]
      shared: true
      source: Gateway
      ports:
        - {port: 22, protocol: TCP, endpoints: []}
    ---
    apiVersion: durward.dev/v1alpha1
    kind: Tenant
    metadata: {name: shop}
    spec: {}
    ---
    apiVersion: durward.dev/v1alpha1
    kind: PortMapping
    metadata: {name: shop.echo, creationTimestamp: "2019-03-01T10:00:00Z"}
    spec:
      tenant: shop
      addresses: ["203.0.113.10", "203.0.113.11"]
      shared: true
      allowedSources: [192.0.2.0/24]
      source: Gateway
      affinity: ClientIP
      ports:
        - {port: 8080, protocol: TCP, endpoints: [10.244.1.5:80, 10.244.2.6:80]}
        - {port: 8081, protocol: TCP, endpoints: [10.244.1.5:80, 10.244.2.6:80]}
        - {port: 8081, protocol: UDP, endpoints: [10.244.1.5:7]}
    "#);
    assert!(preserved.contains("source: Preserve\n  affinity: ClientIP\n  egress: true"));
}

/// A mapping whose spec is `spec`, with its Service.
fn mapping(spec: &str) -> Migration {
    let text = format!(
        "apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {{name: dyn, namespace: acme}}\nspec: {{{spec}}}\n"
    );
    migrate(&[("objects.yaml".to_owned(), text)], SmartNatOptions::default()).unwrap()
}

/// Specs, how many mappings are left of each, and what is said of the rest.
fn unserved() -> Vec<(String, usize, &'static str)> {
    let rest = "addresses: [203.0.113.2], mode: service, serviceName: web";
    vec![
        (
            format!("{rest}, ports: [{{port: 8080}}, {{protocol: TCP, servicePort: 80}}]"),
            1,
            "spec.ports[1] has no external port",
        ),
        (format!("{rest}, ports: [{{port: 0}}]"), 0, "spec.ports[0] has no external port"),
        (format!("{rest}, ports: [{{port: 70000}}]"), 0, "spec.ports[0].port 70000 is no port"),
        (format!("{rest}, ports: [{{port: \"8000-8100\"}}]"), 0, "endPort"),
        (
            format!("{rest}, ports: [{{port: 80, servicePort: 0}}]"),
            0,
            "spec.ports[0].servicePort 0",
        ),
        (format!("{rest}, ports: [{{port: 80, protocol: SCTP}}]"), 0, "neither tcp nor udp"),
        (
            format!("{rest}, ports: [{{port: 80}}, {{port: 80, protocol: tcp}}]"),
            1,
            "TCP 80 once more",
        ),
        (
            format!("{rest}, ports: [{{port: 80, endPort: 90}}]"),
            1,
            "spec.ports[0].endPort is not known",
        ),
        (format!("{rest}, ports: []"), 0, "spec.ports has no port"),
        (format!("{rest}, ports: 80"), 0, "spec.ports 80 is no list"),
        (format!("{rest}, ports: [{{port: 80}}], dynamic: true"), 1, "spec.dynamic is not known"),
        (
            format!("{rest}, ports: [{{port: 80}}], allowedSources: [partner]"),
            0,
            "allowedSources names no network",
        ),
        (
            format!("{rest}, ports: [{{port: 80}}], allowedSources: [partner, 192.0.2.0/24]"),
            1,
            "spec.allowedSources[0] \"partner\"",
        ),
        (format!("{rest}, ports: [{{port: 80}}], allowedSources: 192.0.2.0/24"), 0, "is no list"),
        (
            "addresses: [x.example], serviceName: web, ports: [{port: 80}]".to_owned(),
            0,
            "names no address",
        ),
        (
            "addresses: [203.0.113.2, x], serviceName: web, ports: [{port: 80}]".to_owned(),
            1,
            "spec.addresses[1] \"x\"",
        ),
        (
            "addresses: [203.0.113.2], mode: direct, serviceName: web, ports: [{port: 80}]"
                .to_owned(),
            0,
            "spec.mode \"direct\"",
        ),
    ]
}

#[test]
fn what_smartnat_does_not_serve_either_is_left_out_with_its_line_and_never_in_silence() {
    for (spec, mappings, sentence) in unserved() {
        let migrated = mapping(&spec);

        assert_eq!(migrated.mappings, mappings, "{spec}: {:?}", migrated.left_out);
        let said = migrated.left_out.iter().any(|note| note.contains(sentence));
        assert!(said, "{spec}: {:?}", migrated.left_out);
        assert!(
            migrated.left_out.iter().all(|note| note.starts_with("objects.yaml:1: acme/dyn: "))
        );
        all_accepted(&migrated);
    }
}

#[test]
fn of_two_mappings_that_claim_one_port_the_first_stays_and_the_other_is_named() {
    let mapping = |name: &str| {
        format!(
            "- apiVersion: smartnat.aureacentral.com/v1alpha1\n  kind: Mapping\n  metadata: {{name: {name}, namespace: acme}}\n  spec: {{addresses: [203.0.113.2], serviceName: web, ports: [{{port: 80}}]}}\n"
        )
    };
    let text = format!("{}{}", mapping("one"), mapping("two"));

    let migrated =
        migrate(&[("objects.yaml".to_owned(), text)], SmartNatOptions::default()).unwrap();

    assert_eq!((migrated.mappings, migrated.left_out.len()), (1, 1), "{:?}", migrated.left_out);
    assert!(
        migrated.left_out[0].starts_with("objects.yaml:1: acme/two: the document is not accepted")
    );
    all_accepted(&migrated);
}

#[test]
fn items_of_lists_of_every_form_are_read() {
    let item = |name: &str, port: u16| {
        format!(
            "{{metadata: {{name: {name}, namespace: acme}}, spec: {{addresses: [203.0.113.2], serviceName: web, ports: [{{port: {port}}}]}}}}"
        )
    };
    let bare = format!(
        "apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: MappingList\nitems: [{}, {}]\n---\nkind: Deployment\n---\nkind: Mapping\napiVersion: other/v1\nmetadata: {{name: x}}\n---\njust text\n",
        item("a", 80),
        item("b", 81)
    );

    let migrated =
        migrate(&[("objects.yaml".to_owned(), bare)], SmartNatOptions::default()).unwrap();

    assert_eq!(migrated.mappings, 2, "{migrated:?}");
    assert!(migrated.notes.iter().any(|note| note.contains("kind Deployment are not used (1)")));
    assert_eq!(migrated.left_out.len(), 2, "{:?}", migrated.left_out);
    assert!(migrated.left_out[0].starts_with("objects.yaml:10: neither an object"));
    assert!(
        migrated.left_out[1].starts_with("objects.yaml:6: default/x: its apiVersion"),
        "{:?}",
        migrated.left_out
    );
}

#[test]
fn endpoints_of_older_clusters_are_read() {
    let objects = "apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: m, namespace: acme}\nspec: {addresses: [203.0.113.2], serviceName: web, ports: [{port: 80}]}\n---\n\
        kind: Service\nmetadata: {name: web, namespace: acme}\nspec: {ports: [{name: http, port: 80}]}\n---\n\
        kind: Endpoints\nmetadata: {name: web, namespace: acme}\nsubsets: [{addresses: [{ip: 10.1.0.5}], notReadyAddresses: [{ip: 10.1.0.6}], ports: [{name: http, port: 8080}]}, {addresses: [{ip: 10.1.0.7}], ports: [{name: http, port: 8081}]}]\n";

    let migrated =
        migrate(&[("o.yaml".to_owned(), objects.to_owned())], SmartNatOptions::default()).unwrap();

    assert!(
        migrated.documents[0].1.contains("endpoints: [10.1.0.5:8080, 10.1.0.7:8081]"),
        "{migrated:?}"
    );
}

fn all_accepted(migrated: &Migration) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &migrated.documents {
        std::fs::write(folder.path().join(format!("{name}.yaml")), text).unwrap();
    }
    let compiled = compile(&FileSource::default().load(&[folder.path().to_owned()]), None, NOW);
    assert!(compiled.verdicts.all_accepted(), "{:#?}\n{migrated:?}", compiled.verdicts);
}

fn joined(migrated: &Migration) -> String {
    let texts: Vec<&str> = migrated.documents.iter().map(|(_, text)| text.as_str()).collect();
    texts.join("---\n")
}

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    let texts = [("objects.yaml".to_owned(), "a: 1\n---\nb: [".to_owned())];

    let fault = migrate(&texts, SmartNatOptions::default()).unwrap_err();

    assert!(fault.starts_with("objects.yaml:2: "), "{fault}");
}
