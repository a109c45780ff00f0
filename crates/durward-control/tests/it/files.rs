//! Files that documents name: in the document's own directory, or where the operator says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use durward_control::{FileSource, Store, compile};
use durward_model::verdict::Severity;

use crate::certificates::{self, NOW};

fn document(certificate: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: x}}\nspec:\n  ingress: [{{address: 198.51.100.2, certificate: {certificate}, upstream: pay}}]\n  upstreams: {{pay: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.2]}}\n"
    )
}

/// The reasons and sentences of the errors.
fn errors(resources: &Store) -> Vec<(String, String)> {
    let compiled = compile(resources, None, NOW);
    let all = compiled.verdicts.findings().map(|(_, finding)| finding);
    let errors = all.filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| (finding.reason.to_string(), finding.to_string())).collect()
}

/// Directories `x` and `v` of two tenants, `v` with certificates, and x's document.
fn stage(certificate: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    certificates::write_into(&root.path().join("v/certs"));
    fs::create_dir(root.path().join("x")).unwrap();
    fs::write(root.path().join("x/x.yaml"), document(certificate)).unwrap();
    root
}

#[test]
fn a_file_outside_of_the_documents_directory_is_neither_read_nor_used() {
    let absolute = |root: &Path| format!("{{file: {}/v/certs/acme}}", root.display());
    let forms: [&dyn Fn(&Path) -> String; 5] = [
        &|_| "{file: ../v/certs/acme}".to_owned(),
        &|_| "{file: ./deep/../../v/certs/acme.crt}".to_owned(),
        &|_| "{certificateFile: ../v/certs/acme.crt, keyFile: ../v/certs/acme.key}".to_owned(),
        &absolute,
        &|root| format!("{{file: {}/x/../v/certs/acme}}", root.display()),
    ];

    for form in forms {
        let root = stage("{file: none}");
        let text = form(root.path());
        fs::write(root.path().join("x/x.yaml"), document(&text)).unwrap();
        for path in [root.path().join("x"), root.path().join("x/x.yaml")] {
            let resources = FileSource::default().load(&[path]);

            assert!(resources.facts().next().is_none(), "{text}: {resources:?}");
            let errors = errors(&resources);
            assert_eq!(errors[0].0, "FileOutside", "{text}: {errors:?}");
            for part in ["spec.ingress[0].certificate", "v/certs/acme", "--files-root"] {
                assert!(errors[0].1.contains(part), "{text}: {}", errors[0].1);
            }
            let allowed = [root.path().join("v")];
            let source = FileSource::default().with_files_from(&allowed);
            fs::create_dir_all(root.path().join("x/deep")).unwrap();
            assert_eq!(self::errors(&source.load(&[root.path().join("x")])), [], "{text}");
        }
    }
}

#[test]
fn every_field_that_names_a_file_is_held_to_the_directory() {
    let spec = |field: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: x}}\nspec: {field}\n"
        )
    };
    let out = "addresses: [203.0.113.2]";
    let fields = [
        format!("{{egress: {{{out}, proxy: [{{address: 198.51.100.2, credentials: {{file: ../v/users}}}}]}}}}"),
        format!("{{egress: {{{out}, proxy: [{{address: 198.51.100.2, certificate: {{file: ../v/certs/acme}}, allowedSources: []}}]}}}}"),
        format!("{{egress: {{{out}, proxy: [{{address: 198.51.100.2, allowedSources: []}}], parents: [{{address: 'p:1', credentialFile: ../v/users}}]}}}}"),
        format!("{{egress: {{{out}, proxy: [{{address: 198.51.100.2, allowedSources: []}}], resolvers: ['tls://10.0.0.1#a'], resolverCaFile: ../v/certs/partners.crt}}}}"),
        format!("{{egress: {{{out}}}, upstreams: {{pay: {{endpoints: [10.0.0.1], tls: {{caFile: ../v/certs/partners.crt}}}}}}}}"),
        format!("{{egress: {{{out}}}, upstreams: {{pay: {{endpoints: [10.0.0.1], tls: {{verifyName: a.b, clientCertificate: {{file: ../v/certs/acme}}}}}}}}}}"),
        "{ingress: [{address: 198.51.100.2, certificate: {file: acme}, clientCertificates: {caFile: ../v/certs/partners.crt}, redirectToHttps: false}]}".to_owned(),
        "{ingress: [{address: 198.51.100.2, certificate: {file: acme}, clientCertificates: {caFile: mine.crt, crlFile: ../v/certs/partners.crl}}]}".to_owned(),
    ];

    for field in fields {
        let root = stage("{file: none}");
        fs::write(root.path().join("v/users"), "a:b\n").unwrap();
        let own = root.path().join("v/certs");
        for (from, to) in
            [("acme.crt", "acme.crt"), ("acme.key", "acme.key"), ("partners.crt", "mine.crt")]
        {
            fs::copy(own.join(from), root.path().join("x").join(to)).unwrap();
        }
        fs::write(root.path().join("x/x.yaml"), spec(&field)).unwrap();

        let errors = errors(&FileSource::default().load(&[root.path().join("x")]));

        assert!(errors.iter().any(|(reason, _)| reason == "FileOutside"), "{field}: {errors:?}");
    }
}

#[test]
fn a_link_out_of_the_directory_does_not_lead_to_another_tenants_key() {
    let root = stage("{file: certs/acme}");
    symlink("../v/certs", root.path().join("x/certs")).unwrap();
    let in_x = root.path().join("x");

    let errors = errors(&FileSource::default().load(std::slice::from_ref(&in_x)));

    assert_eq!(errors[0].0, "FileOutside", "{errors:?}");
    assert!(errors[0].1.contains("v/certs/acme.crt"), "{}", errors[0].1);
    let allowed = FileSource::default().with_files_from(&[root.path().join("v")]);
    assert_eq!(self::errors(&allowed.load(std::slice::from_ref(&in_x))), []);
    // A link to one file, and one that `..` after a link leads out by.
    fs::remove_file(in_x.join("certs")).unwrap();
    fs::create_dir(in_x.join("certs")).unwrap();
    for end in ["crt", "key"] {
        let own = in_x.join(format!("certs/acme.{end}"));
        symlink(root.path().join(format!("v/certs/acme.{end}")), own).unwrap();
    }
    assert_eq!(
        self::errors(&FileSource::default().load(std::slice::from_ref(&in_x)))[0].0,
        "FileOutside"
    );
    symlink("../v/certs", in_x.join("far")).unwrap();
    fs::write(in_x.join("x.yaml"), document("{file: far/../certs/acme}")).unwrap();
    let found = self::errors(&FileSource::default().load(std::slice::from_ref(&in_x)));
    assert_eq!(found[0].0, "FileOutside", "{found:?}");
}

#[test]
fn a_link_that_is_turned_to_another_tenants_file_is_seen_at_the_next_change() {
    let root = stage("{file: acme}");
    let in_x = root.path().join("x");
    for end in ["crt", "key"] {
        fs::copy(root.path().join(format!("v/certs/acme.{end}")), in_x.join(format!("own.{end}")))
            .unwrap();
        symlink(format!("own.{end}"), in_x.join(format!("acme.{end}"))).unwrap();
    }
    let source = FileSource::default();
    let load = || source.load(std::slice::from_ref(&in_x));
    let good = load();
    assert_eq!(errors(&good), []);
    let served = compile(&good, None, NOW);

    for end in ["crt", "key"] {
        fs::remove_file(in_x.join(format!("acme.{end}"))).unwrap();
        symlink(format!("../v/certs/acme.{end}"), in_x.join(format!("acme.{end}"))).unwrap();
    }
    let turned = load();

    assert!(good.links() != turned.links(), "the bytes are the same, the file is not");
    let after = compile(&turned, Some(&served), NOW);
    let reasons: Vec<_> = after.verdicts.findings().map(|(_, finding)| &*finding.reason).collect();
    assert!(reasons.contains(&"FileOutside"), "{reasons:?}");
}

/// As Kubernetes mounts a ConfigMap and a Secret: links by `..data` to a directory with a date.
#[test]
fn the_links_of_a_mounted_volume_lead_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let mount = root.path().join("mount");
    certificates::write_into(&mount.join("..2026_01_01/"));
    fs::write(mount.join("..2026_01_01/x.yaml"), document("{file: acme}")).unwrap();
    symlink("..2026_01_01", mount.join("..data")).unwrap();
    for name in ["x.yaml", "acme.crt", "acme.key"] {
        symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
    symlink("mount", root.path().join("config")).unwrap();

    for path in ["mount", "mount/x.yaml", "config", "config/x.yaml"] {
        let resources = FileSource::default().load(&[root.path().join(path)]);
        assert_eq!(errors(&resources), [], "{path}");
    }
}

/// Both may be written with or without the directory the process is in.
#[test]
fn relative_and_absolute_paths_are_compared_as_the_same() {
    let root = stage("{file: acme}");
    let in_x = root.path().join("x");
    for end in ["crt", "key"] {
        fs::copy(root.path().join(format!("v/certs/acme.{end}")), in_x.join(format!("acme.{end}")))
            .unwrap();
    }
    fs::write(in_x.join("x.yaml"), document(&format!("{{file: {}/acme}}", in_x.display())))
        .unwrap();
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(in_x.strip_prefix("/").unwrap());

    assert_eq!(errors(&FileSource::default().load(&[relative])), []);
}
