//! rustls configurations over test identities, for both sides of a connection.
//! ALPN is left empty and everything may be changed: the functions return values, not `Arc`s.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Authority, Identity};

/// The cryptography provider of every configuration here.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A store that trusts this authority's root.
#[must_use]
pub fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(authority.root_der()).expect("an authority's certificate is a trust anchor");
    Arc::new(store)
}

/// A server that shows this identity, and demands a client certificate when an authority is given.
#[must_use]
pub fn server_config(identity: &Identity, client_authority: Option<&Authority>) -> ServerConfig {
    server(identity, client_authority, false)
}

/// A server that asks for a client certificate and accepts a client without one.
#[must_use]
pub fn server_config_optional_client(
    identity: &Identity,
    client_authority: &Authority,
) -> ServerConfig {
    server(identity, Some(client_authority), true)
}

/// A client that trusts this authority only, and shows the identity when one is given.
#[must_use]
pub fn client_config(authority: &Authority, identity: Option<&Identity>) -> ClientConfig {
    let builder = client_builder().with_root_certificates(roots(authority));
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(unchecked(identity)),
    }
}

/// A client that accepts any certificate, to look at what a server shows.
#[must_use]
pub fn client_config_insecure(identity: Option<&Identity>) -> ClientConfig {
    let builder = client_builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny(provider())));
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(unchecked(identity)),
    }
}

/// A client that checks the certificate against `expected`, whatever server name it sends.
#[must_use]
pub fn client_config_expecting(
    authority: &Authority,
    identity: Option<&Identity>,
    expected: &str,
) -> ClientConfig {
    let mut config = client_config(authority, identity);
    let inner = WebPkiServerVerifier::builder_with_provider(roots(authority), provider())
        .build()
        .expect("a store with a root makes a verifier");
    let expected = ServerName::try_from(expected.to_owned())
        .expect("the expected name is a DNS name or IP address");
    config.dangerous().set_certificate_verifier(Arc::new(Expecting { inner, expected }));
    config
}

fn server(
    identity: &Identity,
    client_authority: Option<&Authority>,
    optional: bool,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions");
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots(authority), provider());
            let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(
                verifier.build().expect("a store with a root makes a verifier"),
            )
        }
    };
    builder.with_cert_resolver(unchecked(identity))
}

/// Shows the identity whatever is in it: rustls itself would refuse to show a version 1 certificate.
fn unchecked(identity: &Identity) -> Arc<SingleCertAndKey> {
    let key = provider()
        .key_provider
        .load_private_key(identity.key_der.clone_key())
        .expect("an issued key loads");
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(identity.chain_der.clone(), key)))
}

fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions")
}

#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Expecting {
    inner: Arc<WebPkiServerVerifier>,
    expected: ServerName<'static>,
}

impl ServerCertVerifier for Expecting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sent: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.expected, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
