use std::fs;

use durward_testkit::certificates::{Authority, CertSpec};

use super::*;
use crate::source::file::FileSource;

const NOW: i64 = 1_906_502_400;

fn tenant(name: &str, last: u8, files: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1
kind: Tenant
metadata: {{name: {name}}}
spec:
  ingress: [{{address: 198.51.100.{last}, certificate: {{file: {files}}}, ipSan: Warn, clientCertificates: {{mode: Required, caFile: {files}-ca.crt}}, upstream: u}}]
  upstreams: {{u: {{endpoints: [10.0.0.1]}}}}
  egress: {{addresses: [203.0.113.{last}], allow: [{{hostsFile: {files}-names}}], proxy: [{{address: 198.51.101.{last}, allowedSources: [10.0.0.0/8]}}]}}
"
    )
}

/// Counts the files that are kept of each kind: certificates with keys, authorities, names.
fn kept(of: &Certificates) -> [usize; 3] {
    [of.identities.0.len(), of.authorities.0.len(), of.names.0.len()]
}

#[test]
fn what_only_rejected_documents_name_is_not_kept_parsed() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
    for files in ["good", "bad"] {
        let authority = Authority::new(files);
        authority.issue(&CertSpec::new().dns("a.example").server()).write(root.path(), files);
        write(&format!("{files}-ca.crt"), &authority.pem());
        write(&format!("{files}-names"), "a.example\n");
    }
    let (source, paths) = (FileSource::default(), [root.path().to_owned()]);
    let compile = |previous: Option<&crate::Compiled>| {
        let compiled = crate::compile(&source.load(&paths), previous, NOW);
        let kept = kept(&compiled.memory.certificates);
        (compiled, kept)
    };
    write("a.yaml", &tenant("good", 2, "good"));
    write("b.yaml", &tenant("bad", 3, "bad"));
    let (both, of_both) = compile(None);
    assert_eq!(both.snapshot.tenants.len(), 2, "{:#?}", both.verdicts);
    assert_eq!(of_both, [2, 2, 2]);

    // Entries that cannot be served, of which all files are read.
    let broken = tenant("bad", 3, "bad").replace("upstream: u}", "upstream: nowhere}");
    let broken = broken.replace("10.0.0.0/8", "nowhere");
    write("b.yaml", &broken);
    let (rejected, of_one) = compile(None);
    let outcomes: Vec<_> = rejected.verdicts.iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes[1], durward_model::verdict::Outcome::Rejected, "{:#?}", rejected.verdicts);
    assert_eq!(of_one, [1, 1, 1], "{:?}", rejected.memory.certificates);
    let (kept_as_it_was, of_one) = compile(Some(&both));
    assert_eq!(kept_as_it_was.snapshot.tenants.len(), 2);
    assert_eq!(of_one, [1, 1, 1], "{:?}", kept_as_it_was.memory.certificates);

    write("b.yaml", &tenant("bad", 3, "bad"));
    let (mended, again) = compile(Some(&kept_as_it_was));
    assert_eq!((mended.snapshot.tenants.len(), again), (2, of_both));
}
