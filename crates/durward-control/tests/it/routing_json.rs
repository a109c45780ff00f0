//! `routing.json` as the original system mounts it: beside the certificates, in a directory of its own, and behind a load balancer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durward_control::change::{Change, Entries, Fact};
use durward_control::reference::Reference;
use durward_control::spec::routing_json::{RoutingConfigMap, parse_config_map};
use durward_control::{Cluster, Compiled, FileSource, RoutingJsonOptions, Store, compile};
use durward_model::{ClientAuth, DestinationMode};

use crate::certificates::{self, NOW};

/// The original's file, byte for byte.
const ROUTING: &str = include_str!("../cases/routing-json/routing.json");

fn load(source: &FileSource, path: &Path) -> Compiled {
    compile(&source.load(&[path.to_owned()]), None, NOW)
}

fn put(directory: &Path, names: &[&str]) {
    let all = tempfile::tempdir().unwrap();
    certificates::write_into(all.path());
    fs::create_dir_all(directory).unwrap();
    for name in names {
        let from = name.split_once('=').map_or(*name, |(_, from)| from);
        let to = name.split_once('=').map_or(*name, |(to, _)| to);
        fs::copy(all.path().join(from), directory.join(to)).unwrap();
    }
}

const CERTIFICATES: [&str; 4] = ["tenant-A.crt", "tenant-A.key", "tenant-B.crt", "tenant-B.key"];

// S1.19 S1.30 S1.31
#[test]
fn the_original_layouts_are_served() {
    let root = tempfile::tempdir().unwrap();
    let layouts =
        ["config/certs=config", "mounted/config=mounted/certs", "apart/config=apart/elsewhere"];

    for layout in layouts {
        let (config, certs) = layout.split_once('=').unwrap();
        let (config, certs) = (root.path().join(config), root.path().join(certs));
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("routing.json"), ROUTING).unwrap();
        // The first layout is the projected volume: everything in one directory.
        let certs = if layout.starts_with("config/") { config.clone() } else { certs };
        put(&certs, &CERTIFICATES);
        let options =
            RoutingJsonOptions { certs_dir: Some(certs), ..RoutingJsonOptions::default() };

        let compiled = load(&FileSource::new(options), &config.join("routing.json"));

        assert!(compiled.verdicts.all_accepted(), "{layout}: {:#?}", compiled.verdicts);
        let served: Vec<_> =
            compiled.snapshot.tenants.values().flat_map(|tenant| &tenant.listeners).collect();
        let addresses: Vec<_> = served.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["198.51.100.2:443", "198.51.100.3:443"], "{layout}");
    }
}

// S1.19
#[test]
fn a_backend_without_port_has_the_documented_one() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("routing.json"), ROUTING).unwrap();
    put(root.path(), &CERTIFICATES);
    let endpoint = |options: RoutingJsonOptions| {
        let compiled = load(&FileSource::new(options), root.path());
        let tenant = compiled.snapshot.tenants.values().next().unwrap();
        tenant.upstreams[0].endpoints[0].target.to_string()
    };

    assert_eq!(endpoint(RoutingJsonOptions::default()), "10.244.1.5:80");
    let other = RoutingJsonOptions { default_backend_port: 8080, ..RoutingJsonOptions::default() };
    assert_eq!(endpoint(other), "10.244.1.5:8080");
}

#[test]
fn one_socket_behind_a_load_balancer_serves_all() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("routing.json"), ROUTING).unwrap();
    put(root.path(), &CERTIFICATES);
    let bind = "0.0.0.0:8443".parse().unwrap();
    let options = RoutingJsonOptions { bind: Some(bind), ..RoutingJsonOptions::default() };

    let compiled = load(&FileSource::new(options), root.path());

    assert_eq!(compiled.snapshot.binds.keys().collect::<Vec<_>>(), [&bind]);
    assert_eq!(compiled.snapshot.binds[&bind].mode, DestinationMode::Bound);
    assert_eq!(compiled.snapshot.binds[&bind].listeners.len(), 2);
}

#[test]
fn an_authority_beside_the_certificate_requires_client_certificates() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("routing.json"), ROUTING).unwrap();
    put(root.path(), &CERTIFICATES);
    put(root.path(), &["tenant-B-ca.crt=partners.crt"]);

    let compiled = load(&FileSource::default(), root.path());

    let modes: Vec<_> = compiled
        .snapshot
        .tenants
        .values()
        .map(|tenant| tenant.listeners[0].tls().unwrap().client_auth.mode())
        .collect();
    assert_eq!(modes, ["off", "required"]);
}

// S1.21
#[test]
fn a_broken_authority_never_opens_the_door() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("routing.json"), ROUTING).unwrap();
    put(root.path(), &CERTIFICATES);
    put(root.path(), &["tenant-B-ca.crt=empty.crt"]);

    let compiled = load(&FileSource::default(), root.path());

    let names: Vec<_> = compiled.snapshot.tenants.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["tenant-A"]);
    let open = |auth: &ClientAuth| matches!(auth, ClientAuth::Off);
    let listeners = compiled.snapshot.tenants.values().flat_map(|tenant| &tenant.listeners);
    assert_eq!(listeners.filter(|listener| open(&listener.tls().unwrap().client_auth)).count(), 1);
}

// S1.22
#[test]
fn one_tenant_may_have_several_addresses() {
    let root = tempfile::tempdir().unwrap();
    let text = r#"{
        "198.51.100.2": {"tenant": "many", "backend": "10.0.0.1", "egressIP": "203.0.113.2"},
        "198.51.100.3": {"tenant": "many", "backend": "pay.internal:8080", "egressIP": "203.0.113.2"},
        "198.51.100.4": {"tenant": "many", "backend": "10.0.0.3", "egressIP": "203.0.113.4"}
    }"#;
    fs::write(root.path().join("routing.json"), text).unwrap();
    put(root.path(), &["many.crt", "many.key"]);

    let compiled = load(&FileSource::default(), root.path());

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
    let tenant = compiled.snapshot.tenants.values().next().unwrap();
    let pairs: Vec<_> = tenant
        .upstreams
        .iter()
        .map(|upstream| (upstream.endpoints[0].target.to_string(), upstream.sources[0].to_string()))
        .collect();
    let expected = [
        ("10.0.0.1:80", "203.0.113.2"),
        ("pay.internal:8080", "203.0.113.2"),
        ("10.0.0.3:80", "203.0.113.4"),
    ];
    assert_eq!(pairs, expected.map(|(target, source)| (target.to_owned(), source.to_owned())));
    assert_eq!(tenant.listeners.len(), 3);
}

// S1.29
#[test]
fn nothing_under_the_configuration_is_written() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("routing.json"), ROUTING).unwrap();
    put(root.path(), &CERTIFICATES);
    let listing = |directory: &Path| {
        let mut entries: Vec<(PathBuf, std::time::SystemTime)> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        entries.sort();
        (entries, fs::metadata(directory).unwrap().modified().unwrap())
    };
    let before = listing(root.path());

    load(&FileSource::default(), root.path());

    assert_eq!(listing(root.path()), before);
}

/// Documents of a `ConfigMap` with these entries beside `routing.json`, and the Secrets that they name.
fn of_config_map(entries: &[(&str, &str)], secrets: &[(&str, &str)]) -> Store {
    let all = [entries, &[("routing.json", ROUTING)]].concat();
    of_entries(&all, secrets)
}

/// Documents of a `ConfigMap` with these entries, and the Secrets that they name.
fn of_entries(entries: &[(&str, &str)], secrets: &[(&str, &str)]) -> Store {
    let bytes = |entries: &[(&str, &str)]| -> BTreeMap<Arc<str>, Arc<[u8]>> {
        let entries = entries.iter();
        entries.map(|(key, value)| (Arc::from(*key), Arc::from(value.as_bytes()))).collect()
    };
    let entries = bytes(entries);
    let map =
        RoutingConfigMap { namespace: "pingora-multitenant", name: "routes", entries: &entries };
    let upserts = parse_config_map(&map, &RoutingJsonOptions::default());
    let of = |name: &str| {
        let (namespace, name) = (Arc::from("pingora-multitenant"), Arc::from(name));
        (namespace, name)
    };
    let mut facts: Vec<_> = secrets
        .iter()
        .map(|(name, stem)| {
            let file = |ending: &str| {
                let all = tempfile::tempdir().unwrap();
                certificates::write_into(all.path());
                fs::read_to_string(all.path().join(format!("{stem}.{ending}"))).unwrap()
            };
            let (certificate, key) = (file("crt"), file("key"));
            let entries = bytes(&[("tls.crt", &certificate), ("tls.key", &key)]);
            let entries = Entries::from(entries).of_type(Some(Arc::from("kubernetes.io/tls")));
            let (namespace, name) = of(name);
            (Reference::Secret { namespace, name }, Some(Fact::Bytes(entries)))
        })
        .collect();
    let (namespace, name) = of("routes");
    facts.push((Reference::ConfigMap { namespace, name }, Some(Fact::Bytes(entries.into()))));
    let mut store = Store::default();
    store.read_cluster(Some(Cluster::new("pingora-multitenant")));
    store.apply(Change { upserts, facts, ..Change::default() });
    store
}

// S1.20+ S1.17+
#[test]
fn a_config_map_of_the_operators_namespace_is_served_with_the_secrets_of_its_tenants() {
    let secrets = [("tenant-a-cert", "tenant-A"), ("tenant-b-cert", "tenant-B")];
    let store = of_config_map(&[], &secrets);

    let compiled = compile(&store, None, NOW);

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
    let served: Vec<_> =
        compiled.snapshot.tenants.values().flat_map(|tenant| &tenant.listeners).collect();
    let addresses: Vec<_> = served.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["198.51.100.2:443", "198.51.100.3:443"]);
    let wanted: Vec<String> = store.wanted().map(|one| format!("{one:?}")).collect();
    assert!(wanted.iter().any(|one| one.contains("tenant-a-cert")), "{wanted:?}");
}

#[test]
fn client_certificates_are_asked_for_where_the_config_map_has_an_authority_and_nowhere_else() {
    let secrets = [("tenant-a-cert", "tenant-A"), ("tenant-b-cert", "tenant-B")];
    let all = tempfile::tempdir().unwrap();
    certificates::write_into(all.path());
    let authority = fs::read_to_string(all.path().join("partners.crt")).unwrap();
    let mut store = of_config_map(&[], &secrets);
    let before = compile(&store, None, NOW);

    let with = of_config_map(&[("tenant-A-ca.crt", &authority)], &secrets);
    let facts = with.facts().map(|(of, fact)| (of.clone(), Some(fact.clone()))).collect();
    let upserts = with.documents().cloned().collect();
    store.apply(Change { upserts, facts, ..Change::default() });
    let after = compile(&store, Some(&before), NOW);

    let asked = |compiled: &Compiled| -> Vec<bool> {
        let tenants = compiled.snapshot.tenants.values();
        let listeners = tenants.flat_map(|tenant| &tenant.listeners);
        let asks = |auth: &ClientAuth| matches!(auth, ClientAuth::Required(_));
        listeners.map(|one| asks(&one.tls().unwrap().client_auth)).collect()
    };
    assert_eq!(asked(&before), [false, false]);
    assert_eq!(asked(&after), [true, false], "{:#?}", after.verdicts);
}

// S1.21+
#[test]
fn a_config_map_without_the_entry_or_with_another_text_keeps_what_was_served() {
    let secrets = [("tenant-a-cert", "tenant-A"), ("tenant-b-cert", "tenant-B")];
    let mut store = of_config_map(&[], &secrets);
    let before = compile(&store, None, NOW);
    assert_eq!(before.snapshot.tenants.len(), 2);
    let broken = [("routing.json", "{")];
    for entries in [&broken[..], &[]] {
        let entries: BTreeMap<Arc<str>, Arc<[u8]>> = entries
            .iter()
            .map(|(key, value)| (Arc::from(*key), Arc::from(value.as_bytes())))
            .collect();
        let map = RoutingConfigMap {
            namespace: "pingora-multitenant",
            name: "routes",
            entries: &entries,
        };
        let upserts = parse_config_map(&map, &RoutingJsonOptions::default());
        let keys: Vec<_> = upserts.iter().map(|one| one.key.clone()).collect();
        let deletes = store.documents().map(|one| one.key.clone());
        let deletes = deletes.filter(|key| !keys.contains(key)).collect();

        store.apply(Change { upserts, deletes, ..Change::default() });
        let after = compile(&store, Some(&before), NOW);

        assert!(!after.verdicts.all_accepted());
        assert_eq!(after.snapshot.tenants.len(), 2, "{:#?}", after.verdicts);
    }
}

/// Strings that some format, shell or terminal gives a meaning.
const HOSTILE: [&str; 22] = [
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
    "",
    " ",
    "../../etc/passwd",
    "# no comment",
    "tenant-B",
    "secret:kube-system/root/tls.key",
];

// S1.20+ S1.21+
#[test]
fn a_hostile_string_in_a_config_map_arrives_as_it_is_or_its_entry_is_rejected_and_named() {
    let secrets = [("tenant-a-cert", "tenant-A"), ("tenant-b-cert", "tenant-B")];
    let other = serde_json::json!({"tenant": "tenant-B", "backend": "10.244.2.8", "egressIP": "203.0.113.3"});
    let own = serde_json::json!({"tenant": "tenant-A", "backend": "10.244.1.5", "egressIP": "203.0.113.2"});
    let served = |key: &str, entry: &serde_json::Value| {
        let routing = serde_json::json!({"198.51.100.3": other, key: entry}).to_string();
        compile(&of_entries(&[("routing.json", &routing)], &secrets), None, NOW)
    };
    let of_b = |compiled: &Compiled| {
        let tenant = compiled.snapshot.tenants.values().find(|one| one.id.as_str() == "tenant-B");
        serde_json::to_string(tenant.unwrap()).unwrap()
    };
    let before = of_b(&served("198.51.100.2", &own));
    let mut cases = 0;

    for hostile in HOSTILE {
        for field in ["", "tenant", "backend", "egressIP", "unknown"] {
            let (mut key, mut entry) = ("198.51.100.2", own.clone());
            match field {
                "" => key = hostile,
                "unknown" => entry[hostile] = serde_json::json!("x"),
                field => entry[field] = serde_json::json!(hostile),
            }
            cases += 1;

            let compiled = served(key, &entry);

            let case = format!("{field} {hostile:?}");
            if (field, hostile) == ("tenant", "tenant-B") {
                // One tenant with two addresses; its certificate is of the other one.
                assert_eq!(compiled.snapshot.tenants.len(), 1, "{case}");
                assert!(of_b(&compiled).contains("198.51.100.3"), "{case}");
                continue;
            }
            assert_eq!(of_b(&compiled), before, "{case}");
            let findings: Vec<_> =
                compiled.verdicts.iter().flat_map(|one| one.findings.clone()).collect();
            let is_named = findings.iter().any(|one| {
                let at = format!("{key:?}");
                let quoted = format!("{hostile:?}");
                one.field.starts_with(&at)
                    || &*one.field == "tenant"
                    || one.sentence.contains(&quoted)
            });
            let text = serde_json::to_string(&compiled.snapshot).unwrap();
            assert!(
                is_named || text.contains(&serde_json::to_string(hostile).unwrap()),
                "{case}: {findings:#?}"
            );
            for finding in findings {
                assert!(!finding.to_string().contains(char::is_control), "{case}: {finding:?}");
            }
        }
    }

    assert_eq!(cases, HOSTILE.len() * 5);
}
