//! SmartNat's objects become documents that are accepted as they are.

use durward_control::migrate::smartnat::{Migration, SmartNatOptions, migrate};
use durward_control::{FileSource, compile};

use crate::certificates::NOW;

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
      allowedSources: ["192.0.2.0/24"]
      source: Gateway
      affinity: ClientIP
      ports:
        - {port: 8080, protocol: TCP, endpoints: ["10.244.1.5:80", "10.244.2.6:80"]}
        - {port: 8081, protocol: TCP, endpoints: ["10.244.1.5:80", "10.244.2.6:80"]}
        - {port: 8081, protocol: UDP, endpoints: ["10.244.1.5:7"]}
    "#);
    assert!(preserved.contains("source: Preserve\n  affinity: ClientIP\n  egress: true"));
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
