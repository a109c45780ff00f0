//! Memory that files named by documents take.

use std::fs;
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
    let outcomes: Vec<_> = compiled.verdicts.verdicts.iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes, [Outcome::Accepted, Outcome::Rejected], "{:?}", compiled.verdicts);
    let held = source.health().named_bytes;
    let files = resources.files_of_rejected(&compiled.verdicts);
    source.release(&files);

    assert_eq!(files, [Arc::<Path>::from(root.path().join(own))], "the other is a tenant's too");
    let length = fs::metadata(root.path().join(own)).unwrap().len();
    assert_eq!(source.health().named_bytes, held - length);
    let without = resources.without_bytes_of(&files);
    assert_eq!(without.released(), files);
    assert!(without.same_as(&resources), "the digest tells whether it changed");

    write("b.yaml", tenant("mended", "192.0.2.9", ["partners.crt", own]));
    let mended = compile(&source.load(&paths), Some(&compiled), NOW);
    assert!(mended.verdicts.all_accepted(), "{:?}", mended.verdicts);
}
