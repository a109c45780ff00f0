//! Certificates by ACME in documents: what is asked for, what has been issued, which tenants a change concerns.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use durward_control::issuance::answers_json;
use durward_control::{Compiled, FileSource, Issuance, compile};
use durward_model::acme::{Answer, Challenge, Name};
use durward_model::verdict::{Finding, Outcome};
use durward_model::{Listener, Secret};
use durward_testkit::certificates::{Authority, CertSpec};

const CA: &str = "https://ca.example/dir";

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

struct Stage {
    documents: tempfile::TempDir,
    state: tempfile::TempDir,
    source: FileSource,
}

impl Stage {
    fn new() -> Self {
        let (documents, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for part in ["certificates", "challenges"] {
            fs::create_dir(state.path().join(part)).unwrap();
        }
        let issuance =
            Issuance { directory: state.path().to_owned(), authorities: vec![CA.to_owned()] };
        let source = FileSource::default().with_issuance(issuance);
        Self { documents, state, source }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.documents.path().join(name), text).unwrap();
    }

    fn compile(&self, previous: Option<&Compiled>) -> Compiled {
        compile(&self.source.load(&[self.documents.path().to_owned()]), previous, now())
    }
}

fn tenant(name: &str, last: u8, acme: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1
kind: Tenant
metadata: {{name: {name}}}
spec:
  ingress:
    - address: 198.51.100.{last}
      certificate: {{acme: {{termsOfServiceAgreed: true, {acme}}}}}
      routes: [{{respond: {{body: x}}}}]
    - {{address: 198.51.100.{last}, protocol: HTTP, redirectToHttps: true}}
  egress: {{addresses: [198.51.100.{last}]}}
"
    )
}

fn listeners(compiled: &Compiled, tenant: &str) -> Vec<Arc<Listener>> {
    let mut tenants = compiled.snapshot.tenants.values();
    tenants
        .find(|one| one.id.as_str() == tenant)
        .map(|one| one.listeners.clone())
        .unwrap_or_default()
}

/// Both listeners of a tenant: that of port 80, and that of port 443.
fn both(compiled: &Compiled, tenant: &str) -> [Arc<Listener>; 2] {
    let found = listeners(compiled, tenant);
    assert_eq!(found.len(), 2, "{:?}", compiled.verdicts);
    [Arc::clone(&found[0]), Arc::clone(&found[1])]
}

fn findings(compiled: &Compiled) -> Vec<Finding> {
    compiled.verdicts.findings().map(|(_, finding)| finding.clone()).collect()
}

// S3.48+
#[test]
fn what_is_issued_enters_like_a_changed_file_and_concerns_its_tenant_alone() {
    let stage = Stage::new();
    stage
        .write("a.yaml", &tenant("shop", 2, "names: [Shop.example], contacts: [ops@shop.example]"));
    stage.write("b.yaml", &tenant("bank", 3, "names: [bank.example]"));
    let pending = stage.compile(None);
    assert!(pending.verdicts.all_accepted(), "{:?}", pending.verdicts);

    let [_, https] = both(&pending, "shop");
    let order = &https.acme.orders[0];
    assert_eq!(order.names, [Name::Dns("shop.example".into())]);
    assert_eq!((&*order.directory, order.challenge), (CA, Challenge::TlsAlpn01));
    assert_eq!(*order.contacts[0], *"mailto:ops@shop.example");
    assert!(!order.issued && order.first && https.lacks_certificate(Some("shop.example")));
    assert!(https.tls().unwrap().certificates.is_empty());
    assert!(order.file.starts_with(stage.state.path().join("certificates")));
    assert_ne!(order.file, both(&pending, "bank")[1].acme.orders[0].file);

    let authority = Authority::new("root");
    let issue = |path: &Path| {
        let identity = authority.issue(&CertSpec::new().dns("shop.example").server());
        fs::write(path, [identity.key_pem, identity.chain_pem].concat()).unwrap();
    };
    issue(&order.file);
    let issued = stage.compile(Some(&pending));

    let [_, https] = both(&issued, "shop");
    let certificate = &https.tls().unwrap().certificates[0];
    assert!(https.acme.orders[0].issued && !https.lacks_certificate(None));
    assert_eq!((&*certificate.name, &certificate.chain_file), ("shop.example", &order.file));
    let unchanged = |at: &Compiled| Arc::as_ptr(&both(at, "bank")[1]);
    assert_eq!(unchanged(&issued), unchanged(&pending), "the other tenant is not compiled again");
    assert_eq!(issued.snapshot.generation, pending.snapshot.generation + 1);

    issue(&order.file);
    let renewed = stage.compile(Some(&issued));
    let shown =
        |at: &Compiled| both(at, "shop")[1].tls().unwrap().certificates[0].fingerprint.clone();
    assert_ne!(shown(&renewed), shown(&issued));

    fs::write(&order.file, "-----BEGIN damage").unwrap();
    let damaged = stage.compile(Some(&renewed));
    assert!(both(&damaged, "shop")[1].lacks_certificate(None));
    assert_eq!(&*findings(&damaged)[0].reason, "CertificateUnreadable");
}

// S3.48+
#[test]
fn answers_to_challenges_are_given_to_the_listeners_of_their_tenant_that_can_answer() {
    let stage = Stage::new();
    stage.write("a.yaml", &tenant("shop", 2, "names: [shop.example]"));
    stage.write("b.yaml", &tenant("bank", 3, "names: [bank.example]"));
    let before = stage.compile(None);
    let text = Answer::Http { token: "t".into(), text: "t.k".into() };
    let proof = Answer::Tls {
        server_name: "shop.example".into(),
        certificate: Arc::from([1].as_slice()),
        key: Secret::new(vec![2]),
    };
    let file = &both(&before, "shop")[1].acme.orders[0].answers_file;

    fs::write(file, answers_json(&[text.clone(), proof.clone()])).unwrap();
    let during = stage.compile(Some(&before));
    let [http, https] = both(&during, "shop");
    assert_eq!((&http.acme.answers, &https.acme.answers), (&vec![text], &vec![proof]));
    assert!(both(&during, "bank").iter().all(|listener| listener.acme.answers.is_empty()));

    fs::remove_file(file).unwrap();
    let after = stage.compile(Some(&during));
    assert!(both(&after, "shop").iter().all(|listener| listener.acme.answers.is_empty()));
}

#[test]
fn without_a_state_directory_the_flag_is_named() {
    let stage = Stage::new();
    stage.write("a.yaml", &tenant("shop", 2, "names: [shop.example]"));
    let source = FileSource::default();

    let compiled = compile(&source.load(&[stage.documents.path().to_owned()]), None, now());

    let found = findings(&compiled);
    assert_eq!(
        (&*found[0].reason, &*found[0].field),
        ("AcmeWithoutState", "spec.ingress[0].certificate.acme")
    );
    assert!(found[0].sentence.contains("--state-dir DIR"), "{}", found[0]);
    assert_eq!(compiled.verdicts.iter().next().unwrap().outcome, Outcome::Partial);
}

#[test]
fn what_an_authority_would_refuse_is_refused_here() {
    let cases = [
        ("names: ['*.shop.example']", "BadAcme", "names[0]", "wildcard"),
        ("names: [10.0.0.300]", "BadAcme", "names[0]", "neither an IP address nor a host name"),
        ("contacts: [nobody]", "BadAcme", "contacts[0]", "is not a mail address"),
        ("profile: 'a b'", "BadAcme", "profile", "not the name of a profile"),
        ("directory: 'https://10.0.0.1/'", "AcmeDirectory", "directory", "--acme-directory URL"),
        ("names: [203.0.113.9]", "AcmeUnreachable", "challenge", "no entry at 203.0.113.9"),
        ("names: [203.0.113.9], challenge: HTTP-01", "AcmeUnreachable", "challenge", "port 80"),
        ("accountKeyFile: absent.pem", "FileMissing", "accountKeyFile", "absent.pem"),
    ];

    for (acme, reason, field, part) in cases {
        let stage = Stage::new();
        stage.write("a.yaml", &tenant("shop", 2, acme));
        let compiled = stage.compile(None);
        let found = findings(&compiled);
        let field = format!("spec.ingress[0].certificate.acme.{field}");
        assert_eq!((&*found[0].reason, &*found[0].field), (reason, field.as_str()), "{}", found[0]);
        assert!(found[0].sentence.contains(part), "{}", found[0]);
        assert_eq!(listeners(&compiled, "shop").len(), 1, "the other entry is served: {acme}");
    }

    let stage = Stage::new();
    let text = tenant("shop", 2, "names: [a.example]").replace("termsOfServiceAgreed: true, ", "");
    stage.write("a.yaml", &text);
    assert_eq!(&*findings(&stage.compile(None))[0].reason, "AcmeTerms");
}

#[test]
fn sources_that_keep_authorities_out_are_warned_of() {
    let stage = Stage::new();
    let text = tenant("shop", 2, "names: [a.example]")
        .replace("      routes", "      allowedSources: [192.0.2.0/24]\n      routes");
    stage.write("a.yaml", &text);
    let closed = stage.compile(None);
    assert_eq!(&*findings(&closed)[0].reason, "AcmeSources");
    assert!(closed.verdicts.all_accepted());

    stage.write("a.yaml", &text.replace("a.example]", "a.example], challenge: HTTP-01"));
    assert_eq!(findings(&stage.compile(None)), []);
}

#[test]
fn an_account_key_is_one_tenants_and_of_the_kind_that_accounts_have() {
    let stage = Stage::new();
    let key = |kind| {
        let spec = CertSpec::new().key(kind).server();
        Authority::new("root").issue(&spec).key_pem
    };
    let write =
        |name: &str, text: &str| fs::write(stage.documents.path().join(name), text).unwrap();
    write("ec.pem", &key(durward_testkit::certificates::KeyKind::EcdsaP256));
    write("rsa.pem", &key(durward_testkit::certificates::KeyKind::Rsa2048));
    stage.write("a.yaml", &tenant("shop", 2, "names: [a.example], accountKeyFile: ec.pem"));
    let first = stage.compile(None);
    assert!(first.verdicts.all_accepted(), "{:?}", first.verdicts);
    assert!(both(&first, "shop")[1].acme.orders[0].account_key.is_some());

    stage.write("b.yaml", &tenant("bank", 3, "names: [b.example], accountKeyFile: ec.pem"));
    let second = stage.compile(Some(&first));
    assert_eq!(&*findings(&second)[0].reason, "KeyTaken");
    assert_eq!(both(&second, "shop")[1].acme.orders.len(), 1);

    stage.write("b.yaml", &tenant("bank", 3, "names: [b.example], accountKeyFile: rsa.pem"));
    assert_eq!(&*findings(&stage.compile(Some(&second)))[0].reason, "KeyUnsupported");
}
