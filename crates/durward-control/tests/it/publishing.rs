//! Publishing: generations, identical `Arc`s, and the memory of earlier compiles.

use std::fs;
use std::sync::Arc;

use durward_control::{FileSource, Publisher};
use durward_model::TenantId;
use durward_model::verdict::Outcome;

use crate::certificates::{self, NOW};

fn tenant(name: &str, last: u8) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{{address: 198.51.100.{last}, certificate: {{file: certs/{name}-many}}, upstream: pay}}]\n  upstreams: {{pay: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.{last}]}}\n"
    )
}

fn id(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

// S1.35
#[test]
fn a_change_of_one_tenant_leaves_the_others_the_same_value() {
    let root = tempfile::tempdir().unwrap();
    certificates::write_into(&root.path().join("certs"));
    let source = FileSource::default();
    let publisher = Publisher::new();
    let paths = [root.path().to_owned()];
    let reload = || publisher.reload(&source.load(&paths), NOW);
    fs::write(root.path().join("a.yaml"), tenant("acme", 2)).unwrap();
    fs::write(root.path().join("b.yaml"), tenant("bank", 3)).unwrap();

    let first = reload();
    let same = reload();
    fs::write(root.path().join("b.yaml"), format!("# moved down\n\n{}", tenant("bank", 3)))
        .unwrap();
    let moved = reload();
    fs::write(root.path().join("b.yaml"), tenant("bank", 4)).unwrap();
    let changed = reload();

    assert!(first.verdicts.all_accepted(), "{:#?}", first.verdicts);
    assert!(Arc::ptr_eq(&first.snapshot, &same.snapshot));
    assert!(Arc::ptr_eq(&first.snapshot, &moved.snapshot), "a comment retired a tenant");
    assert_eq!((first.snapshot.generation, changed.snapshot.generation), (1, 2));
    assert!(Arc::ptr_eq(
        &first.snapshot.tenants[&id("acme")],
        &changed.snapshot.tenants[&id("acme")]
    ));
    assert!(!Arc::ptr_eq(
        &first.snapshot.tenants[&id("bank")],
        &changed.snapshot.tenants[&id("bank")]
    ));
    let bind = "198.51.100.2:443".parse().unwrap();
    assert!(Arc::ptr_eq(&first.snapshot.binds[&bind], &changed.snapshot.binds[&bind]));
}

// S1.21 S1.63
#[test]
fn an_unreadable_file_keeps_what_was_served() {
    let root = tempfile::tempdir().unwrap();
    certificates::write_into(&root.path().join("certs"));
    let source = FileSource::default();
    let publisher = Publisher::new();
    let file = root.path().join("a.yaml");
    fs::write(&file, tenant("acme", 2)).unwrap();
    let good = publisher.reload(&source.load(std::slice::from_ref(&file)), NOW);

    fs::write(&file, [0xff, 0xfe, 0x00]).unwrap();
    let garbage = publisher.reload(&source.load(std::slice::from_ref(&file)), NOW);
    fs::remove_file(&file).unwrap();
    let gone = publisher.reload(&source.load(std::slice::from_ref(&file)), NOW);
    let unmounted = publisher.reload(&source.load(&[root.path().join("nowhere")]), NOW);

    assert!(Arc::ptr_eq(&good.snapshot, &garbage.snapshot));
    assert_eq!(garbage.verdicts.iter().next().unwrap().outcome, Outcome::KeptLastGood);
    // The file was named on the command line: it is missing, not deleted.
    assert!(Arc::ptr_eq(&good.snapshot, &gone.snapshot));
    assert!(unmounted.snapshot.tenants.is_empty(), "another path says nothing of acme");
    assert_eq!(unmounted.verdicts.iter().next().unwrap().outcome, Outcome::Rejected);
}

// S1.21
#[test]
fn a_directory_that_is_gone_keeps_what_was_served_and_an_empty_one_does_not() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("config");
    certificates::write_into(&config.join("certs"));
    let source = FileSource::default();
    let publisher = Publisher::new();
    fs::write(config.join("a.yaml"), tenant("acme", 2)).unwrap();
    let paths = [config.clone()];
    let good = publisher.reload(&source.load(&paths), NOW);

    fs::rename(&config, root.path().join("away")).unwrap();
    let gone = publisher.reload(&source.load(&paths), NOW);
    fs::rename(root.path().join("away"), &config).unwrap();
    fs::remove_file(config.join("a.yaml")).unwrap();
    let emptied = publisher.reload(&source.load(&paths), NOW);

    assert_eq!(good.snapshot.tenants.len(), 1);
    assert!(Arc::ptr_eq(&good.snapshot, &gone.snapshot));
    assert!(emptied.snapshot.tenants.is_empty());
}

// S1.5 S1.61
#[test]
fn a_half_replaced_certificate_keeps_the_old_one_until_both_halves_are_there() {
    let root = tempfile::tempdir().unwrap();
    let certs = root.path().join("certs");
    certificates::write_into(&certs);
    let source = FileSource::default();
    let publisher = Publisher::new();
    let paths = [root.path().to_owned()];
    fs::write(root.path().join("a.yaml"), tenant("acme", 2)).unwrap();
    let fingerprint = |compiled: &durward_control::Compiled| {
        compiled.snapshot.tenants[&id("acme")].listeners[0].tls().unwrap().certificates[0]
            .fingerprint
            .clone()
    };
    let old = publisher.reload(&source.load(&paths), NOW);

    fs::copy(certs.join("acme.crt"), certs.join("acme-many.crt")).unwrap();
    let torn = publisher.reload(&source.load(&paths), NOW);
    fs::copy(certs.join("acme.key"), certs.join("acme-many.key")).unwrap();
    let new = publisher.reload(&source.load(&paths), NOW);

    assert_eq!(torn.verdicts.iter().next().unwrap().outcome, Outcome::KeptLastGood);
    assert_eq!(&*torn.verdicts.iter().next().unwrap().findings[0].reason, "KeyMismatch");
    assert_eq!(fingerprint(&torn), fingerprint(&old));
    assert!(new.verdicts.all_accepted(), "{:#?}", new.verdicts);
    assert_ne!(fingerprint(&new), fingerprint(&old));
}
