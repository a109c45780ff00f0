//! Certificates and keys: what is read of them, and that only what belongs together is taken.

use std::fs;
use std::path::Path;

use durward_control::certificate::identity;
use durward_model::certificate::KeyEncoding;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

// S1.17
#[test]
fn every_key_container_and_type_is_read() {
    let cases = [
        ("sec1", KeyEncoding::Sec1, "ECDSA-P256"),
        ("pkcs1", KeyEncoding::Pkcs1, "RSA-2048"),
        ("rsa-pkcs8", KeyEncoding::Pkcs8, "RSA-2048"),
        ("ed25519", KeyEncoding::Pkcs8, "Ed25519"),
        ("p384", KeyEncoding::Pkcs8, "ECDSA-P384"),
        ("p521", KeyEncoding::Pkcs8, "ECDSA-P521"),
        ("der", KeyEncoding::Sec1, "ECDSA-P256"),
    ];

    for (name, encoding, kind) in cases {
        let identity =
            identity::read(&fixture(&format!("{name}.crt")), &fixture(&format!("{name}.key")));
        let identity = identity.unwrap_or_else(|fault| panic!("{name}: {fault}"));

        assert_eq!(identity.key.encoding, encoding, "{name}");
        assert_eq!(identity.leaf.key_kind.name(), kind, "{name}");
        assert_eq!(
            identity.leaf.ip_names,
            ["198.51.100.2".parse::<std::net::IpAddr>().unwrap()],
            "{name}"
        );
        assert_eq!(identity.leaf.fingerprint.len(), 64, "{name}");
    }
}

// S1.17 S1.61
#[test]
fn no_key_is_taken_for_another_certificate() {
    let names = ["sec1", "pkcs1", "rsa-pkcs8", "ed25519", "p384", "p521"];

    for certificate in names {
        for key in names.iter().filter(|key| **key != certificate) {
            let read = identity::read(
                &fixture(&format!("{certificate}.crt")),
                &fixture(&format!("{key}.key")),
            );

            assert_eq!(
                read.map_err(|fault| fault.reason()).err(),
                Some("KeyMismatch"),
                "{certificate} with {key}"
            );
        }
    }
}

#[test]
fn a_key_never_prints_itself() {
    let identity = identity::read(&fixture("sec1.crt"), &fixture("sec1.key")).unwrap();

    let printed = format!("{identity:?}");

    assert!(printed.contains("redacted"));
}
