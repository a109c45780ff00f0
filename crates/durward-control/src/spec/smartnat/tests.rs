use durward_model::mapping::SourceMode;
use durward_model::transport::Transport;
use durward_model::{DocumentKey, SourceSet};

use super::*;
use crate::change::{Change, Fact};
use crate::cluster::{Cluster, TENANT_LABEL};
use crate::compile::{Compiled, compile};
use crate::reference::Reference;
use crate::store::Store;

fn good() -> Value {
    json!({
        "addresses": ["203.0.113.10", "203.0.113.11"],
        "allowedSources": ["192.0.2.0/24"],
        "mode": "service",
        "serviceName": "echo",
        "ports": [{"port": 8080}, {"port": 8081, "protocol": "UDP", "servicePort": 53}],
    })
}

fn object(name: &str, spec: &Value) -> MappingObject {
    MappingObject {
        id: ResourceId::namespaced(Kind::Mapping, "desk", name),
        revision: Revision { uid: Some(Arc::from(name)), generation: 1 },
        created: Some(Arc::from("2026-11-01T10:00:00Z")),
        annotations: BTreeMap::new(),
        spec: Arc::from(spec.to_string()),
    }
}

/// A store with the tenant `acme`, whose namespace is `desk`, and what a mapping's Service has.
fn world() -> Store {
    let mut store = Store::default();
    store.read_cluster(Some(Cluster::new("durward")));
    let text = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {}\n";
    let source = document::source(Kind::Tenant, &Arc::from("t"), Arc::from(text), 1, Vec::new());
    let content = document::content(&source);
    let labels = BTreeMap::from([(Arc::from(TENANT_LABEL), Arc::from("acme"))]);
    let service = |port: &str, at: &str| {
        let (namespace, name, port) = (Arc::from("desk"), Arc::from("echo"), Arc::from(port));
        let endpoints = Fact::Endpoints([at.parse().unwrap()].into_iter().collect());
        (Reference::Service { namespace, name, port }, Some(endpoints))
    };
    store.apply(Change {
        upserts: vec![Document::of_object(
            ResourceId::new(Kind::Tenant, "acme"),
            Revision::default(),
            None,
            source,
            content,
        )],
        facts: vec![
            (Reference::Namespace(Arc::from("desk")), Some(Fact::Labels(labels))),
            service("8080/TCP", "10.244.0.5:80"),
            service("53/UDP", "10.244.0.6:5353"),
        ],
        ..Change::default()
    });
    store
}

fn compiled(objects: &[MappingObject]) -> Compiled {
    let mut store = world();
    let documents = objects.iter().map(|one| document(one, SmartNatOptions::default()));
    store.apply(Change { upserts: documents.collect(), ..Change::default() });
    compile(&store, None, 0)
}

fn said(compiled: &Compiled, object: &MappingObject) -> String {
    let verdict = compiled.verdicts.on(&DocumentKey::Object(object.id.clone())).unwrap();
    invalid(&read(&object.spec).unwrap_or_default(), verdict)
}

// S5.34+ S5.37+ S5.39+
#[test]
fn a_mapping_is_a_port_mapping_of_its_namespaces_tenant() {
    let object = object("web", &good());

    let compiled = compiled(std::slice::from_ref(&object));

    assert_eq!(said(&compiled, &object), "no", "{:#?}", compiled.verdicts);
    let mapping = &compiled.snapshot.nat.mappings[0];
    assert_eq!((mapping.tenant.as_str(), &*mapping.name), ("acme", "desk/desk.web"));
    assert_eq!(mapping.mode, SourceMode::Snat);
    let ports: Vec<_> =
        mapping.ports.iter().map(|port| (port.protocol, port.ports.to_string())).collect();
    assert_eq!(ports, [(Transport::Tcp, "8080".to_owned()), (Transport::Udp, "8081".to_owned())]);
    let at = |port: usize| format!("{:?}", mapping.ports[port].endpoints);
    assert!(at(0).contains("10.244.0.5:80") && at(1).contains("10.244.0.6:5353"));
    assert_eq!(mapping.allowed_sources, SourceSet::new(["192.0.2.0/24".parse().unwrap()]));
    assert!(!mapping.egress);
}

#[test]
fn the_environment_says_what_pods_see_and_by_which_address_they_leave() {
    let text = |options| {
        let document = document(&object("web", &good()), options);
        serde_json::from_str::<Value>(&document.source.text).unwrap()["spec"].clone()
    };
    let other = SmartNatOptions { masquerade: false, snat: true, most_ports: 2 };

    let (usual, other) = (text(SmartNatOptions::default()), text(other));

    assert_eq!((&usual["source"], &usual["egress"]), (&json!("Gateway"), &Value::Null));
    assert_eq!((&other["source"], &other["egress"]), (&json!("Preserve"), &json!(true)));
}

// S5.37
#[test]
fn sources_default_to_everybody_and_their_host_bits_are_dropped() {
    let sources = |written: Value| {
        let mut spec = good();
        spec["allowedSources"] = written;
        let document = document(&object("web", &spec), SmartNatOptions::default());
        let text: Value = serde_json::from_str(&document.source.text).unwrap();
        text["spec"]["allowedSources"].clone()
    };

    assert_eq!(sources(json!([])), Value::Null);
    assert_eq!(sources(json!(["10.0.0.0/8", "0.0.0.0/0"])), Value::Null);
    assert_eq!(
        sources(json!(["10.0.0.7/8", "192.0.2.1", "2001:db8::1/32"])),
        json!(["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"])
    );
}

#[test]
fn addresses_are_shared_with_other_tenants_only_where_the_object_says_so() {
    let shared = |value: Option<&str>| {
        let mut object = object("web", &good());
        object.annotations.extend(value.map(|value| (Arc::from(SHARED), Arc::from(value))));
        let document = document(&object, SmartNatOptions::default());
        let Content::Mapping(mapping) = &document.content else { panic!("{:?}", document.content) };
        mapping.spec.shared
    };

    assert!(!shared(None) && !shared(Some("yes")) && shared(Some("true")));
}

// S5.31 S5.36
#[test]
fn what_is_invalid_is_said_in_smartnats_words() {
    let ports = |ports: Value| ("ports", ports);
    let port = |port: Value| ("ports", json!([port]));
    let many: Vec<Value> = (1..=51).map(|port| json!({"port": port})).collect();
    let cases = [
        (("addresses", json!([])), "No address in SmartNat.Spec.Addresses."),
        (
            ("addresses", json!(["203.0.113.10", "gateway"])),
            "Invalid address in SmartNat.Spec.Addresses: gateway",
        ),
        (
            ("allowedSources", json!(["10.0.0.0/33"])),
            "Invalid CIDR in SmartNat.Spec.AllowedSources: 10.0.0.0/33",
        ),
        (("mode", json!("direct")), "Invalid mode 'direct' specified. Valid is 'service'."),
        (ports(json!([])), "No port in SmartNat.Spec.Ports."),
        (
            port(json!({"servicePort": 80})),
            "Wrong port value in SmartNat.Spec.Ports. Can't be <=0 or >65535.",
        ),
        (
            port(json!({"port": 80, "servicePort": 65_536})),
            "Wrong servicePort value in SmartNat.Spec.Ports. Can't be <=0 or >65535.",
        ),
        (
            port(json!({"port": 80, "protocol": "icmp"})),
            "Wrong protocol value in SmartNat.Spec.Ports. Only 'Tcp' and 'Udp' are supported. Found: icmp",
        ),
        (
            ports(json!([{"port": 8080}, {"port": 8080, "protocol": "TCP", "servicePort": 1}])),
            "Wrong value in SmartNat.Spec.Ports. Port 'tcp-8080' is used multiple times",
        ),
        (ports(json!(many)), "Too many ports configured. Max is 50, found 51"),
        (
            ("serviceName", json!("myService")),
            "Invalid service name format in SmartNat.Spec. a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
        ),
        (
            ("serviceName", json!("a".repeat(63))),
            "Invalid service name format in SmartNat.Spec. must be no more than 62 characters",
        ),
    ];
    for ((field, value), text) in cases {
        let mut spec = good();
        spec[field] = value;
        let object = object("web", &spec);

        let compiled = compiled(std::slice::from_ref(&object));

        assert_eq!(said(&compiled, &object), text);
        assert!(compiled.snapshot.nat.mappings.is_empty(), "{field}");
    }
}

#[test]
fn a_spec_of_another_form_is_invalid_and_no_panic() {
    for spec in
        [json!(7), json!([]), json!({"ports": "all"}), json!({"addresses": [1]}), Value::Null]
    {
        let object = object("web", &spec);

        let compiled = compiled(std::slice::from_ref(&object));

        assert!(said(&compiled, &object).starts_with("Invalid"), "{spec}");
    }
}

// S5.42+
#[test]
fn a_port_that_an_older_mapping_has_makes_the_younger_one_invalid_and_leaves_the_older_one_alone() {
    let (older, mut younger) = (object("a", &good()), object("b", &good()));
    younger.created = Some(Arc::from("2026-11-01T10:00:01Z"));

    let both = compiled(&[younger.clone(), older.clone()]);
    let alone = compiled(std::slice::from_ref(&younger));

    assert_eq!(said(&both, &older), "no");
    let text = said(&both, &younger);
    let begin = "Found conflicting external endpoint: IP(s): 203.0.113.10,203.0.113.11; protocol: tcp; port: 8080 (";
    assert!(text.starts_with(begin), "{text}");
    assert_eq!(said(&alone, &younger), "no");
}

#[test]
fn an_invalid_edit_leaves_what_was_served() {
    let mut store = world();
    let served = object("web", &good());
    let mut broken = object("web", &json!({"addresses": ["203.0.113.10"]}));
    broken.revision.generation = 2;
    let say = |store: &mut Store, object: &MappingObject| {
        let upserts = vec![document(object, SmartNatOptions::default())];
        store.apply(Change { upserts, ..Change::default() });
    };

    say(&mut store, &served);
    let before = compile(&store, None, 0);
    say(&mut store, &broken);
    let after = compile(&store, Some(&before), 0);

    assert_eq!(after.snapshot.nat.mappings.len(), 1);
    let verdict = after.verdicts.on(&DocumentKey::Object(broken.id.clone())).unwrap();
    assert_eq!(verdict.outcome, Outcome::KeptLastGood);
    assert!(said(&after, &broken).starts_with("Invalid service name"), "{:?}", verdict.findings);
}

#[test]
fn a_mapping_in_nobodys_namespace_is_invalid() {
    let mut stray = object("web", &good());
    stray.id.namespace = Some(Arc::from("kube-public"));

    let compiled = compiled(std::slice::from_ref(&stray));

    let text = said(&compiled, &stray);
    assert!(text.starts_with("metadata.namespace \"kube-public\""), "{text}");
}

#[test]
fn what_is_wrong_with_the_service_is_said_of_the_fields_that_the_object_has() {
    let object = object("web", &good());
    let mut store = world();
    let port = |port: &str| {
        let (namespace, name) = (Arc::from("desk"), Arc::from("echo"));
        Reference::Service { namespace, name, port: Arc::from(port) }
    };
    let unknown = Fact::PortUnknown("has no port \"53/UDP\", and no other".to_owned());
    store.apply(Change {
        upserts: vec![document(&object, SmartNatOptions::default())],
        facts: vec![(port("8080/TCP"), Some(Fact::Missing)), (port("53/UDP"), Some(unknown))],
        ..Change::default()
    });

    let compiled = compile(&store, None, 0);

    let verdict = compiled.verdicts.on(&DocumentKey::Object(object.id.clone())).unwrap();
    let said: Vec<_> = verdict.findings.iter().map(|one| (&*one.reason, &*one.field)).collect();
    assert!(said.contains(&("ServiceMissing", "spec.serviceName")), "{said:?}");
    assert!(said.contains(&("PortUnknown", "spec.ports[1].servicePort")), "{said:?}");
    assert_eq!(self::said(&compiled, &object), "no", "the rest is served");
}
