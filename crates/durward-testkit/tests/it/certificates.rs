//! Issued certificates are what was asked for, judged by rustls and x509-parser.
//! No sockets: handshakes run in memory.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use durward_testkit::certificates::{
    Authority, CertSpec, Identity, KeyEncoding, KeyKind, client_config, provider, roots,
    server_config,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));

#[test]
fn every_kind_of_key_serves_a_verified_handshake() {
    let authority = Authority::new("root");

    for kind in [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Rsa2048, KeyKind::Ed25519] {
        let identity = authority.issue(&CertSpec::new().ip(IP).key(kind));
        let outcome =
            handshake(client_config(&authority, None), server_config(&identity, None), IP.into());
        assert_eq!(outcome, Ok(()), "{kind:?}");
    }
}

#[test]
fn a_chain_through_two_intermediates_verifies_against_the_root() {
    let authority = Authority::new("root");
    let issuing = authority.intermediate("middle").intermediate("issuing");

    let identity = issuing.issue(&CertSpec::new().dns("acme.example"));

    assert_eq!(identity.chain_der.len(), 3);
    let name = ServerName::try_from("acme.example").unwrap();
    assert_eq!(
        handshake(client_config(&authority, None), server_config(&identity, None), name),
        Ok(())
    );
}

#[test]
fn certificates_outside_their_time_or_name_or_authority_are_refused() {
    let authority = Authority::new("root");
    let cases = [
        ("expired", authority.issue(&CertSpec::new().ip(IP).expired())),
        ("not yet valid", authority.issue(&CertSpec::new().ip(IP).not_yet_valid())),
        ("other name", authority.issue(&CertSpec::new().dns("other.example"))),
        ("client only", authority.issue(&CertSpec::new().ip(IP).client())),
        ("other authority", Authority::new("root").issue(&CertSpec::new().ip(IP))),
    ];

    for (case, identity) in cases {
        let outcome =
            handshake(client_config(&authority, None), server_config(&identity, None), IP.into());
        assert!(outcome.is_err(), "{case}");
    }
}

#[test]
fn a_demanded_client_certificate_is_checked() {
    let authority = Authority::new("root");
    let server = authority.issue(&CertSpec::new().ip(IP));
    let partner = authority.issue(&CertSpec::new().common_name("partner").client());
    let without_eku = authority.issue(&CertSpec::new().common_name("partner").no_eku());
    let stranger = Authority::new("other").issue(&CertSpec::new().client());

    let try_with = |client: Option<&Identity>| {
        let server = server_config(&server, Some(&authority));
        handshake(client_config(&authority, client), server, IP.into())
    };

    assert_eq!(try_with(Some(&partner)), Ok(()));
    assert_eq!(try_with(Some(&without_eku)), Ok(()));
    assert!(try_with(None).is_err());
    assert!(try_with(Some(&server)).is_err());
    assert!(try_with(Some(&stranger)).is_err());
}

#[test]
fn names_and_serial_are_in_the_certificate() {
    let spec = CertSpec::new()
        .ip(IP)
        .dns("*.acme.example")
        .uri("spiffe://acme/pay")
        .common_name("acme pay")
        .serial(0x0123_4567);
    let identity = Authority::new("root").issue(&spec);

    let (_, certificate) = X509Certificate::from_der(identity.leaf()).unwrap();

    assert_eq!(certificate.subject().to_string(), "CN=acme pay");
    assert_eq!(certificate.issuer().to_string(), "CN=root");
    assert_eq!(certificate.serial, 0x0123_4567_u32.into());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(
        names,
        &[
            GeneralName::DNSName("*.acme.example"),
            GeneralName::IPAddress(&[198, 51, 100, 2]),
            GeneralName::URI("spiffe://acme/pay"),
        ]
    );
}

#[test]
fn a_version_1_certificate_is_well_signed_and_refused_by_rustls() {
    let authority = Authority::new("root");
    let server = authority.issue(&CertSpec::new().ip(IP));
    let old = authority.issue(&CertSpec::new().common_name("old partner").client().version_1());

    let root = authority.der();
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    let (_, certificate) = X509Certificate::from_der(old.leaf()).unwrap();
    let server = server_config(&server, Some(&authority));
    let outcome = handshake(client_config(&authority, Some(&old)), server, IP.into());

    assert_eq!(certificate.version(), x509_parser::x509::X509Version::V1);
    assert_eq!(certificate.subject().to_string(), "CN=old partner");
    assert!(certificate.extensions().is_empty());
    assert!(certificate.verify_signature(Some(root.public_key())).is_ok());
    let refused = outcome.unwrap_err();
    assert!(refused.starts_with("server: invalid peer certificate"), "{refused}");
}

#[test]
fn serials_differ_without_being_asked() {
    let authority = Authority::new("root");

    let serials: std::collections::BTreeSet<Vec<u8>> =
        (0..50).map(|_| authority.issue(&CertSpec::new()).serial().to_vec()).collect();

    assert_eq!(serials.len(), 50);
}

#[test]
fn keys_read_back_in_every_encoding() {
    let cases = [
        (KeyKind::EcdsaP256, KeyEncoding::Pkcs8),
        (KeyKind::EcdsaP256, KeyEncoding::Sec1),
        (KeyKind::EcdsaP384, KeyEncoding::Sec1),
        (KeyKind::Rsa2048, KeyEncoding::Pkcs8),
        (KeyKind::Rsa2048, KeyEncoding::Pkcs1),
        (KeyKind::Ed25519, KeyEncoding::Pkcs8),
    ];
    let authority = Authority::new("root");

    for (kind, encoding) in cases {
        let identity = authority.issue(&CertSpec::new().key(kind));
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem_as(encoding).as_bytes()).unwrap();

        let shape = match key {
            PrivateKeyDer::Pkcs8(_) => KeyEncoding::Pkcs8,
            PrivateKeyDer::Sec1(_) => KeyEncoding::Sec1,
            PrivateKeyDer::Pkcs1(_) => KeyEncoding::Pkcs1,
            _ => panic!("unknown encoding"),
        };
        assert_eq!(shape, encoding);
        let certified =
            rustls::sign::CertifiedKey::from_der(identity.chain_der.clone(), key, &provider())
                .unwrap();
        assert_eq!(certified.keys_match(), Ok(()), "{kind:?} {encoding:?}");
    }
}

#[test]
#[should_panic(expected = "a Ed25519 key has no Sec1 encoding")]
fn an_encoding_the_key_does_not_have_is_refused() {
    let _ = Authority::new("root")
        .issue(&CertSpec::new().key(KeyKind::Ed25519))
        .key_pem_as(KeyEncoding::Sec1);
}

#[test]
fn a_revoked_identity_is_refused_and_its_neighbour_is_not() {
    let authority = Authority::new("root");
    let [revoked, neighbour] = [(); 2].map(|()| authority.issue(&CertSpec::new().client()));

    let list = authority.revoke(&[&revoked]);

    let crl = CertificateRevocationListDer::from_pem_slice(list.pem.as_bytes()).unwrap();
    assert_eq!(crl.as_ref(), list.der);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&authority), provider())
        .with_crls([crl])
        .build()
        .unwrap();
    assert!(verifier.verify_client_cert(neighbour.leaf(), &[], UnixTime::now()).is_ok());
    assert!(verifier.verify_client_cert(revoked.leaf(), &[], UnixTime::now()).is_err());
}

#[test]
fn written_files_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("root");
    let identity = authority.intermediate("issuing").issue(&CertSpec::new().ip(IP));

    let files = identity.write(dir.path(), "tenant-A");
    let authority_file = authority.write(dir.path(), "ca");

    assert_eq!(files.key, dir.path().join("tenant-A.key"));
    let chain: Vec<_> = CertificateDer::pem_file_iter(files.certificate)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(chain, identity.chain_der);
    assert_eq!(PrivateKeyDer::from_pem_file(files.key).unwrap(), identity.key_der);
    assert_eq!(CertificateDer::from_pem_file(authority_file).unwrap(), authority.der());
}

/// Runs a handshake in memory until both sides are done or one refuses.
fn handshake(
    client: ClientConfig,
    server: ServerConfig,
    name: ServerName<'static>,
) -> Result<(), String> {
    let mut client =
        ClientConnection::new(Arc::new(client), name).map_err(|error| error.to_string())?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(|error| error.to_string())?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok(());
        }
    }
    Err("the handshake did not end".to_owned())
}
