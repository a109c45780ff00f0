//! Memory that files named by documents take.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use durward_control::{FileSource, compile};
use durward_model::verdict::Outcome;

const NOW: i64 = 1_906_502_400;

fn tenant(name: &str, address: &str, authorities: [&str; 2]) -> String {
    let [one, other] = authorities;
    format!(
        "apiVersion: durward.dev/v1alpha1
kind: Tenant
metadata: {{name: {name}}}
spec:
  ingress: [{{address: {address}, port: 8080, protocol: HTTP, routes: [{{respond: {{body: x}}}}]}}]
  egress: {{addresses: [{address}]}}
  upstreams:
    one: {{endpoints: [192.0.2.1], tls: {{caFile: {one}}}}}
    other: {{endpoints: [192.0.2.2], tls: {{caFile: {other}}}}}
"
    )
}

#[test]
fn bytes_of_files_that_only_rejected_documents_name_are_not_kept() {
    let root = tempfile::tempdir().unwrap();
    crate::certificates::write_into(root.path());
    let write = |name: &str, text: String| fs::write(root.path().join(name), text).unwrap();
    let own = "partners-next.crt";
    write("a.yaml", tenant("good", "192.0.2.8", ["partners.crt", "partners.crt"]));
    write("b.yaml", tenant("not a name", "192.0.2.9", ["partners.crt", own]));
    let (source, paths) = (FileSource::default(), [root.path().to_owned()]);

    let resources = source.load(&paths);
    let compiled = compile(&resources, None, NOW);
    let outcomes: Vec<_> = compiled.verdicts.iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes, [Outcome::Accepted, Outcome::Rejected], "{:?}", compiled.verdicts);
    let held = source.health().named_bytes;
    let files = resources.files_of_rejected(&compiled.verdicts);
    source.release(&files);

    assert_eq!(files, [Arc::<Path>::from(root.path().join(own))], "the other is a tenant's too");
    let length = fs::metadata(root.path().join(own)).unwrap().len();
    assert_eq!(source.health().named_bytes, held - length);
    let mut without = resources.clone();
    without.release(&files);
    assert_eq!(without.released(), files);
    assert!(without.facts().eq(resources.facts()), "the digest tells whether it changed");

    write("b.yaml", tenant("mended", "192.0.2.9", ["partners.crt", own]));
    let mended = compile(&source.load(&paths), Some(&compiled), NOW);
    assert!(mended.verdicts.all_accepted(), "{:?}", mended.verdicts);
}

#[test]
fn what_every_user_of_the_host_may_change_is_a_finding_until_it_is_mended() {
    let root = tempfile::tempdir().unwrap();
    crate::certificates::write_into(root.path());
    let document = root.path().join("a.yaml");
    fs::write(&document, tenant("good", "192.0.2.8", ["partners.crt", "partners.crt"])).unwrap();
    let (source, paths) = (FileSource::default(), [root.path().to_owned()]);
    let change = |name: &str, mode| {
        fs::set_permissions(root.path().join(name), Permissions::from_mode(mode)).unwrap();
    };
    let mut last = None;
    let mut found = || {
        let compiled = compile(&source.load(&paths), last.as_ref(), NOW);
        assert!(compiled.verdicts.all_accepted(), "{:?}", compiled.verdicts);
        let findings = compiled.verdicts.findings();
        let findings = findings.filter(|(_, finding)| &*finding.reason == "WritableByAll");
        let fields: Vec<_> = findings.map(|(_, finding)| finding.field.to_string()).collect();
        last = Some(compiled);
        fields
    };

    for name in ["", "a.yaml"] {
        let was = fs::metadata(root.path().join(name)).unwrap().permissions().mode();
        change(name, was & !0o002);
        assert!(found().is_empty(), "{name}");
        change(name, was | 0o002);
        assert_eq!(found(), [""], "{name}: the document as a whole");
        change(name, was & !0o002);
    }
    assert!(found().is_empty());
    change("partners.crt", 0o666);
    let fields = ["spec.upstreams.one.tls.caFile", "spec.upstreams.other.tls.caFile"];
    assert_eq!(found(), fields);
    change("partners.crt", 0o644);
    assert!(found().is_empty());
}
