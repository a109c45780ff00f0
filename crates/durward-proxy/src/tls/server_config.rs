//! Prepared TLS of a listener: one rustls configuration per certificate, one key for session tickets for them all.
//!
//! A ticket resumes a session without a client certificate, so its key lives exactly as long as the TLS policy it was made under: listeners share no
//! key, and a changed policy means a new key. There is no default certificate.

use std::sync::{Arc, OnceLock};

use durward_model::Certificate;
use durward_model::certificate::{KeyEncoding, PrivateKey};
use durward_model::server_tls::{Alpn, ServerTls};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::client_verifier::client_verifier;

/// Returns the cryptography provider of all server-side TLS.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// Builds the configurations of a listener, one per certificate and in their order.
///
/// # Errors
/// Returns what cannot be used, as a message.
pub(crate) fn server_configs(tls: &ServerTls) -> Result<Vec<Arc<ServerConfig>>, String> {
    let tickets =
        Ticketer::new().map_err(|error| format!("no key for session tickets: {error}"))?;
    let verifier = client_verifier(&tls.client_auth)?;
    tls.certificates
        .iter()
        .map(|certificate| server_config(tls, certificate, &verifier, &tickets))
        .collect()
}

fn server_config(
    tls: &ServerTls,
    certificate: &Certificate,
    verifier: &Arc<dyn ClientCertVerifier>,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, String> {
    let key = certified_key(certificate)
        .map_err(|error| format!("certificate {} cannot be used: {error}", certificate.name))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(tls))
        .map_err(|error| format!("no TLS version can be used: {error}"))?
        .with_client_cert_verifier(Arc::clone(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = tls.alpn.iter().copied().map(Alpn::id).map(<[u8]>::to_vec).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(tickets);
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn versions(tls: &ServerTls) -> &'static [&'static SupportedProtocolVersion] {
    const MODERN: &[&SupportedProtocolVersion] = &[&TLS13];
    const COMPATIBLE: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    if tls.tls13_only { MODERN } else { COMPATIBLE }
}

fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, rustls::Error> {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    CertifiedKey::from_der(chain, key_der(&certificate.key), &provider())
}

fn key_der(key: &PrivateKey) -> PrivateKeyDer<'static> {
    let der = key.der.expose().to_vec();
    match key.encoding {
        KeyEncoding::Pkcs8 => PrivateKeyDer::Pkcs8(der.into()),
        KeyEncoding::Pkcs1 => PrivateKeyDer::Pkcs1(der.into()),
        KeyEncoding::Sec1 => PrivateKeyDer::Sec1(der.into()),
    }
}
