//! What the next process is given: who holds what, and the last good documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use durward_control::compile::retained::restore;
use durward_control::{Compiled, FileSource, Publisher, State};
use durward_model::TenantId;
use durward_model::verdict::Outcome;

use crate::certificates::{self, NOW};

/// A process: a source and a publisher of its own.
struct Process {
    source: FileSource,
    publisher: Publisher,
}

impl Process {
    fn first() -> Self {
        Self { source: FileSource::default(), publisher: Publisher::new() }
    }

    /// One that begins from what another wrote.
    fn after(compiled: &Compiled) -> Self {
        let state = State::from_json(&compiled.state().to_json()).unwrap();
        let source = FileSource::default();
        let publisher = Publisher::after(restore(&state, &source, NOW));
        Self { source, publisher }
    }

    fn reload(&self, path: &Path) -> Arc<Compiled> {
        self.publisher.reload(&self.source.load(&[path.to_owned()]), NOW)
    }
}

fn id(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// A tenant that has everything that can be asked for, and mapping `web`.
fn tenant(name: &str, certificate: &str, created: &str) -> String {
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}{created}}}\nspec:\n  ingress:\n    - {{address: 198.51.100.2, certificate: {{file: certs/{certificate}}}, ipSan: Warn, upstream: pay}}\n  upstreams: {{pay: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.2], sources: [10.9.0.0/16]}}\n---\napiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: web{created}}}\nspec: {{tenant: {name}, addresses: [198.51.100.4], endpoints: [10.0.0.1], ports: [{{port: 25}}]}}\n"
    )
}

fn stage() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    certificates::write_into(&root.path().join("certs"));
    fs::write(root.path().join("v.yaml"), tenant("v", "acme", "")).unwrap();
    root
}

/// A tenant's listener leans on an upstream of its former document, so it is made again after those of others.
#[test]
fn a_name_stays_its_holders_in_the_next_process_though_its_document_is_broken() {
    let root = tempfile::tempdir().unwrap();
    let named = |name: &str, names: &str, endpoint: &str| {
        // The other one is new to this process at the same time, and first by its file.
        let created =
            if name == "holder" { ", creationTimestamp: \"2026-01-02T03:04:05Z\"" } else { "" };
        let at = "address: 198.51.100.1, protocol: HTTP, upstream: pay, shared: true";
        let last = name.len();
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}{created}}}\nspec:\n  ingress: [{{{at}, names: [{names}]}}]\n  upstreams: {{pay: {{endpoints: [{endpoint}]}}}}\n  egress: {{addresses: [203.0.113.{last}]}}\n"
        );
        fs::write(root.path().join(format!("{name}.yaml")), text).unwrap();
    };
    let names = |compiled: &Compiled, name: &str| {
        let tenant = &compiled.snapshot.tenants[&id(name)];
        let names = tenant.listeners.iter().flat_map(|listener| listener.names.iter().flatten());
        names.map(ToString::to_string).collect::<Vec<_>>()
    };
    let process = Process::first();
    named("holder", "a.example", "10.0.0.1");
    named("asks", "a.example, b.example", "10.0.0.1");
    process.reload(root.path());
    named("holder", "a.example", "10.0.0.300");
    let mut last = process.reload(root.path());

    for _ in 0..3 {
        assert_eq!(names(&last, "holder"), ["a.example"]);
        assert_eq!(names(&last, "asks"), ["b.example"]);
        last = Process::after(&last).reload(root.path());
    }
}

#[test]
fn whoever_holds_a_thing_holds_it_in_the_next_process_too() {
    let root = stage();
    let first = Process::first();
    let before = first.reload(root.path());
    assert!(
        before.verdicts.findings().all(|(_, finding)| &*finding.reason == "IpSanMissing"),
        "{:#?}",
        before.verdicts
    );
    let newcomer = tenant("x", "acme", ", creationTimestamp: \"1999-01-01T00:00:00Z\"");
    fs::write(root.path().join("a.yaml"), newcomer).unwrap();
    let refused = first.reload(root.path());
    assert_eq!(before.snapshot.tenants, refused.snapshot.tenants);

    let mut last = refused;
    for _ in 0..3 {
        let after = Process::after(&last).reload(root.path());

        assert_eq!(after.snapshot.tenants, before.snapshot.tenants, "{:#?}", after.verdicts);
        assert_eq!(after.snapshot.nat, before.snapshot.nat);
        assert_eq!(after.snapshot.generation, 1, "nothing changed");
        assert!(last.served().lost_in(&after.served()).is_empty());
        last = after;
    }
    let anew = Process::first().reload(root.path());
    assert!(
        anew.snapshot.tenants.contains_key(&id("x")),
        "without the state the first document has it"
    );
    assert!(!last.served().lost_in(&anew.served()).is_empty());
}

#[test]
fn a_document_that_is_broken_when_the_next_process_starts_is_served_as_it_was() {
    for broken in ["spec: [", "", "kind: Tenant\nmetadata: {name: v}\nspec: {nonsense: 1}\n"] {
        let root = stage();
        let first = Process::first();
        first.reload(root.path());
        fs::write(root.path().join("v.yaml"), broken).unwrap();
        let kept = first.reload(root.path());

        let after = Process::after(&kept).reload(root.path());

        assert_eq!(
            after.snapshot.tenants, kept.snapshot.tenants,
            "{broken:?}: {:#?}",
            after.verdicts
        );
        assert_eq!(after.snapshot.nat, kept.snapshot.nat, "{broken:?}");
        let outcomes = after.verdicts.iter().map(|verdict| verdict.outcome);
        assert!(
            outcomes.clone().all(|outcome| outcome == Outcome::KeptLastGood),
            "{broken:?}: {:#?}",
            after.verdicts
        );
        assert!(kept.served().lost_in(&after.served()).is_empty(), "{broken:?}");
        fs::write(root.path().join("v.yaml"), tenant("v", "acme", "")).unwrap();
        let mended = Process::after(&after).reload(root.path());
        assert!(mended.verdicts.iter().all(|verdict| verdict.outcome == Outcome::Accepted));
        fs::remove_file(root.path().join("v.yaml")).unwrap();
        assert!(
            Process::after(&mended).reload(root.path()).snapshot.tenants.is_empty(),
            "what is deleted goes"
        );
    }
}

#[test]
fn a_process_that_serves_less_than_the_one_before_can_say_what() {
    let root = stage();
    let first = Process::first();
    let before = first.reload(root.path());
    fs::remove_file(root.path().join("certs/acme.key")).unwrap();
    let kept = first.reload(root.path());
    assert_eq!(kept.snapshot.tenants, before.snapshot.tenants, "the key is in memory");

    let after = Process::after(&kept).reload(root.path());

    let lost = kept.served().lost_in(&after.served());
    assert!(lost.iter().any(|lost| lost.contains("tenant v")), "{lost:?}");
    assert!(kept.served().lost_in(&kept.served()).is_empty());
    // The claims stay all the same.
    fs::write(root.path().join("a.yaml"), tenant("x", "bank", "")).unwrap();
    assert!(!Process::after(&kept).reload(root.path()).snapshot.tenants.contains_key(&id("x")));
}

#[test]
fn a_routing_json_is_handed_on_by_tenant() {
    let root = tempfile::tempdir().unwrap();
    certificates::write_into(&root.path().join("certs"));
    let config = root.path().join("config");
    fs::create_dir(&config).unwrap();
    let entry = |address: &str, tenant: &str, last: u8| {
        format!(
            "{address:?}: {{\"tenant\": {tenant:?}, \"backend\": \"10.244.1.5\", \"egressIP\": \"203.0.113.{last}\"}}"
        )
    };
    let (a, b) = (entry("198.51.100.2", "tenant-A", 2), entry("198.51.100.3", "tenant-B", 3));
    fs::write(config.join("routing.json"), format!("{{{a}, {b}}}")).unwrap();
    let before = Process::first().reload(&config);
    assert_eq!(before.snapshot.tenants.len(), 2, "{:#?}", before.verdicts);
    fs::write(config.join("routing.json"), format!("{{{a}, {b}")).unwrap();

    let after = Process::after(&before).reload(&config);

    assert_eq!(after.snapshot.tenants, before.snapshot.tenants, "{:#?}", after.verdicts);
}

#[test]
fn what_is_handed_on_holds_no_secret_and_is_refused_in_another_form() {
    let root = stage();
    let text = String::from_utf8(Process::first().reload(root.path()).state().to_json()).unwrap();

    let key = fs::read_to_string(root.path().join("certs/acme.key")).unwrap();
    let lines = key.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>();
    assert!(!lines.is_empty() && lines.iter().all(|line| !text.contains(line)));
    assert!(!text.contains("PRIVATE KEY"));
    for other in [
        "",
        "[]",
        "{}",
        &text.replacen("\"version\":1", "\"version\":2", 1),
        &text[..text.len() - 9],
    ] {
        assert!(State::from_json(other.as_bytes()).is_err());
    }
}

#[test]
fn a_mapping_called_egress_has_a_rule_beside_its_tenants_own() {
    let root = tempfile::tempdir().unwrap();
    let document = |sources: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: v}}\nspec:\n  egress: {{addresses: [203.0.113.2]{sources}}}\n---\napiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: egress}}\nspec: {{tenant: v, addresses: [198.51.100.4], endpoints: [10.0.0.1], ports: [{{port: 25}}], egress: true}}\n"
        )
    };
    fs::write(root.path().join("v.yaml"), document(", sources: [10.9.0.0/16]")).unwrap();
    let both = Process::first().reload(root.path());
    assert!(both.verdicts.all_accepted(), "{:#?}", both.verdicts);
    let rules = &both.snapshot.nat.egress;
    let names: BTreeSet<_> = rules.iter().map(|rule| (&rule.tenant, &*rule.name)).collect();
    assert_eq!((rules.len(), names.len()), (2, 2), "{names:?}");

    fs::write(root.path().join("v.yaml"), document("")).unwrap();
    let one = Process::first().reload(root.path());

    let lost = both.served().lost_in(&one.served());
    let own = ["network 10.9.0.0/16 of egress rule v/egress would not be served"];
    assert_eq!(lost, own);
}

/// What a document with a mistake in it is served with is held, too: the document that stands in for it is an earlier one.
#[test]
fn a_tenant_that_is_partly_accepted_holds_in_the_next_process_what_it_was_served_with() {
    let root = tempfile::tempdir().unwrap();
    let entry = |last: u8| {
        format!("{{address: 198.51.100.{last}, port: 80, protocol: HTTP, redirectToHttps: true}}")
    };
    let document = |name: &str, entries: &[String], egress: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{ingress: [{}], egress: {{{egress}}}}}\n",
            entries.join(", ")
        )
    };
    let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
    let wrong = "{address: 198.51.100.9, port: 80, protocol: HTTP, upstream: nobody}".to_owned();
    let pods = "addresses: [203.0.113.2], sources: [10.9.0.0/16]";
    write("v.yaml", &document("v", &[entry(1)], "addresses: [203.0.113.2]"));
    let first = Process::first();
    first.reload(root.path());
    write("v.yaml", &document("v", &[entry(1), entry(2), wrong], pods));
    let partial = first.reload(root.path());
    assert_eq!(partial.verdicts.iter().next().unwrap().outcome, Outcome::Partial);
    write("a.yaml", &document("a", &[entry(2)], ""));
    write(
        "b.yaml",
        &document("b", &[entry(3)], "addresses: [203.0.113.3], sources: [10.9.1.0/24]"),
    );
    let before = first.reload(root.path());

    let after = Process::after(&before).reload(root.path());

    assert_eq!(after.snapshot.tenants, before.snapshot.tenants, "{:#?}", after.verdicts);
    assert_eq!(after.snapshot.nat.egress, before.snapshot.nat.egress, "{:#?}", after.verdicts);
    assert_eq!(before.snapshot.tenants[&id("v")].listeners.len(), 2);
    assert!(!after.snapshot.tenants.contains_key(&id("a")));
}

/// The good document of a tenant may be too old to be served, its mapping is held all the same.
#[test]
fn a_mapping_is_held_in_the_next_process_though_its_tenants_last_good_document_is_not_served() {
    let root = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
    let document = |name: &str, addresses: &str| {
        format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{egress: {{addresses: [{addresses}]}}}}\n"
        )
    };
    let mapping = |tenant: &str, address: &str| {
        format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: m}}\nspec: {{tenant: {tenant}, addresses: [{address}], endpoints: [10.9.0.5], ports: [{{port: 80}}], egress: true}}\n"
        )
    };
    let first = Process::first();
    write("w.yaml", &document("w", "203.0.113.9"));
    write("v.yaml", &document("v", "203.0.113.2"));
    first.reload(root.path());
    // The address of the good document goes to another tenant.
    write("w.yaml", &document("w", "203.0.113.9, 203.0.113.2"));
    let v = document("v", "203.0.113.3, 203.0.113.9") + &mapping("v", "203.0.113.4");
    write("v.yaml", &v);
    let served = first.reload(root.path());
    assert_eq!(served.snapshot.nat.mappings.len(), 1, "{:#?}", served.verdicts);
    write("a.yaml", &(document("a", "203.0.113.5") + &mapping("a", "203.0.113.6")));
    let before = first.reload(root.path());
    assert_eq!(before.snapshot.nat.mappings, served.snapshot.nat.mappings);

    let after = Process::after(&before).reload(root.path());

    assert_eq!(after.snapshot.nat, before.snapshot.nat, "{:#?}", after.verdicts);
}

/// Documents of tenant `v`, one after the other in its file.
struct Edits {
    root: tempfile::TempDir,
    process: Process,
}

impl Edits {
    fn begin() -> Self {
        Self { root: tempfile::tempdir().unwrap(), process: Process::first() }
    }

    fn write(&self, spec: &str) -> Arc<Compiled> {
        let head = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: v}\nspec:";
        self.write_text("v.yaml", &format!("{head} {spec}\n"))
    }

    fn write_text(&self, file: &str, text: &str) -> Arc<Compiled> {
        fs::write(self.root.path().join(file), text).unwrap();
        self.process.reload(self.root.path())
    }
}

fn redirect(last: u8) -> String {
    format!("{{address: 198.51.100.{last}, port: 80, protocol: HTTP, redirectToHttps: true}}")
}

/// A document with mistakes narrows what a tenant has, and nothing of that comes back.
#[test]
fn what_a_document_with_a_mistake_gave_up_does_not_come_back_with_a_restart() {
    let edits = Edits::begin();
    let (one, two) = (redirect(1), redirect(2));
    edits.write(&format!("{{ingress: [{one}], egress: {{addresses: [203.0.113.1, 203.0.113.2], sources: [10.9.0.0/16]}}}}"));
    let narrowed = edits.write(&format!(
        "{{ingress: [{two}], upstreams: {{wrong: {{endpoints: [10.0.0.300]}}}}, egress: {{addresses: [203.0.113.1]}}}}"
    ));
    assert_eq!(
        narrowed.verdicts.iter().next().unwrap().outcome,
        Outcome::Partial,
        "{:#?}",
        narrowed.verdicts
    );

    for text in ["", "spec: [", "kind: Tenant\nmetadata: {name: v}\nspec: {nonsense: 1}\n"] {
        let before = edits.write_text("v.yaml", text);
        let after = Process::after(&before).reload(edits.root.path());

        assert_eq!(before.snapshot.tenants, narrowed.snapshot.tenants, "{text:?}");
        assert_eq!(after.snapshot.tenants, before.snapshot.tenants, "{text:?}");
        assert_eq!(after.snapshot.nat, before.snapshot.nat, "{text:?}");
    }
}

/// Two documents with mistakes: of each a part is served.
#[test]
fn parts_of_several_documents_are_served_by_the_next_process_too() {
    let edits = Edits::begin();
    let wrong = |last: u8| redirect(last).replace("redirectToHttps: true", "upstream: nobody");
    let pods = "egress: {addresses: [203.0.113.1]}";
    edits.write(&format!("{{ingress: [{}, {}], {pods}}}", redirect(1), redirect(2)));
    edits.write(&format!("{{ingress: [{}, {}], {pods}}}", wrong(1), redirect(3)));
    let three = [wrong(1), wrong(3), redirect(4)].join(", ");
    let parts = edits.write(&format!("{{ingress: [{three}], {pods}}}"));
    let ports = parts.snapshot.tenants[&id("v")].listeners.iter();
    let ports: Vec<_> = ports.map(|listener| listener.address.0.to_string()).collect();
    assert_eq!(ports, ["198.51.100.1", "198.51.100.3", "198.51.100.4"]);

    let mut last = parts;
    for _ in 0..2 {
        let after = Process::after(&last).reload(edits.root.path());
        assert_eq!(after.snapshot.tenants, last.snapshot.tenants, "{:#?}", after.verdicts);
        last = after;
    }
    let broken = edits.write_text("v.yaml", "spec: [");
    let after = Process::after(&broken).reload(edits.root.path());
    assert_eq!(after.snapshot.tenants, broken.snapshot.tenants, "{:#?}", after.verdicts);
}

/// What the kernel lets out is served: a tenant is not rejected while its traffic leaves.
#[test]
fn a_tenant_without_listeners_whose_traffic_leaves_is_partly_accepted_and_stays_over_a_restart() {
    let edits = Edits::begin();
    let wrong = redirect(1).replace("redirectToHttps: true", "upstream: nobody");
    let spec = format!(
        "{{ingress: [{wrong}], egress: {{addresses: [203.0.113.1], sources: [10.9.0.0/16]}}}}"
    );

    let before = edits.write(&spec);
    let broken = edits.write_text("v.yaml", "spec: [");

    assert_eq!(
        before.verdicts.iter().next().unwrap().outcome,
        Outcome::Partial,
        "{:#?}",
        before.verdicts
    );
    assert!(before.snapshot.tenants.contains_key(&id("v")));
    assert_eq!(before.snapshot.nat.egress.len(), 1);
    assert_eq!(broken.snapshot.nat.egress, before.snapshot.nat.egress);
    let after = Process::after(&broken).reload(edits.root.path());
    assert_eq!(after.snapshot.tenants, broken.snapshot.tenants, "{:#?}", after.verdicts);
    assert_eq!(after.snapshot.nat.egress, broken.snapshot.nat.egress, "{:#?}", after.verdicts);
}

/// Of two documents of one name the one that stayed as it was has the name, whatever date the other says; a restart does not forget which.
#[test]
fn the_document_that_has_a_name_has_it_in_the_next_process_while_it_is_rejected() {
    let edits = Edits::begin();
    let document = |last: u8, created: &str| {
        format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: v{created}}}\nspec: {{ingress: [{}], egress: {{addresses: [203.0.113.{last}]}}}}\n",
            redirect(last)
        )
    };
    let wrong = document(1, "").replace("203.0.113.1", "203.0.113.x");
    edits.write_text("v.yaml", &wrong);
    let newcomer = document(2, ", creationTimestamp: \"1999-01-01T00:00:00Z\"");
    let before = edits.write_text("v.yaml", &(newcomer + &wrong));
    assert!(before.snapshot.tenants.is_empty(), "{:#?}", before.verdicts);

    let after = Process::after(&before).reload(edits.root.path());

    assert!(after.snapshot.tenants.is_empty(), "{:#?}", after.verdicts);
    let outcomes = |compiled: &Compiled| -> Vec<_> {
        compiled.verdicts.iter().map(|verdict| verdict.outcome).collect()
    };
    assert_eq!(outcomes(&after), outcomes(&before));
}

/// The tenant is served only for what a hosted API adds; then that is removed while the tenant's own file cannot be read.
#[test]
fn a_tenant_whose_document_makes_no_listener_holds_its_address_in_the_next_process_too() {
    let root = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
    let tenant = |name: &str, last: u8, upstream: &str| {
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{{address: 198.51.100.{last}, protocol: HTTP, upstream: {upstream}}}]\n  upstreams: {{pay: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.1]}}\n"
        );
        write(&format!("{name}.yaml"), &text);
    };
    let process = Process::first();
    tenant("held", 1, "absent");
    write(
        "api.yaml",
        "apiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {name: api}\nspec: {tenant: held, names: [held.api.example], address: 198.51.100.2, upstream: {endpoints: [10.0.0.11]}}\n",
    );
    let first = process.reload(root.path());
    assert_eq!(first.snapshot.tenants[&id("held")].listeners.len(), 1, "that of the hosted API");
    write("held.yaml", "kind: Tenant\nspec: {nonsense");
    fs::remove_file(root.path().join("api.yaml")).unwrap();
    tenant("asks", 3, "pay");
    let mut last = process.reload(root.path());

    for _ in 0..3 {
        assert!(!last.snapshot.tenants.contains_key(&id("asks")), "the address is another's");
        assert!(last.snapshot.tenants[&id("held")].listeners.is_empty());
        last = Process::after(&last).reload(root.path());
    }
}

/// An upstream of before leaves as it did, though its tenant has got another address since.
#[test]
fn an_upstream_of_before_leaves_from_the_same_addresses_in_the_next_process() {
    let root = tempfile::tempdir().unwrap();
    let tenant = |name: &str, last: u8, endpoint: &str, egress: &str| {
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{{address: 198.51.100.{last}, protocol: HTTP, upstream: pay}}]\n  upstreams: {{pay: {{endpoints: [{endpoint}]}}}}\n  egress: {{addresses: [{egress}]}}\n"
        );
        fs::write(root.path().join(format!("{name}.yaml")), text).unwrap();
    };
    let process = Process::first();
    tenant("first", 1, "10.0.0.1", "203.0.113.1");
    tenant("second", 2, "10.0.0.2", "203.0.113.2, 203.0.113.1");
    process.reload(root.path());
    tenant("second", 2, "10.0.0.300", "203.0.113.2, 203.0.113.1");
    process.reload(root.path());
    fs::remove_file(root.path().join("first.yaml")).unwrap();
    let mut last = process.reload(root.path());

    for _ in 0..3 {
        let tenant = &last.snapshot.tenants[&id("second")];
        let sources = tenant.upstreams[0].sources.iter().map(|source| source.0.to_string());
        assert_eq!(sources.collect::<Vec<_>>(), ["203.0.113.2"]);
        assert_eq!(tenant.egress.len(), 2);
        last = Process::after(&last).reload(root.path());
    }
}
