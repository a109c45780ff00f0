//! TLS towards the API server: authorities and client certificate of the moment, ALPN `h2` before `http/1.1`.

use std::sync::Arc;

use kube::Config;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::access::{AccessError, ClientIdentity, identity};

/// Builds the client's side of TLS for the server that `config` names.
pub(super) fn client_config(config: &Config) -> Result<Arc<ClientConfig>, AccessError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("tls", &error))?
        .with_root_certificates(authorities(config)?);
    let mut tls = match identity(config)? {
        None => builder.with_no_client_auth(),
        Some(ClientIdentity { certificate, key }) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate)
                .collect::<Result<_, _>>()
                .map_err(|error| unusable("client-certificate", &error))?;
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|error| unusable("client-key", &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable("client-certificate", &error))?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Returns the name that the server's certificate must carry.
pub(super) fn server_name(config: &Config) -> Result<ServerName<'static>, AccessError> {
    let host = config.tls_server_name.as_deref().or_else(|| config.cluster_url.host());
    let host = host.unwrap_or_default().trim_matches(['[', ']']);
    ServerName::try_from(host.to_owned()).map_err(|error| unusable("server", &error))
}

fn authorities(config: &Config) -> Result<RootCertStore, AccessError> {
    let mut store = RootCertStore::empty();
    let Some(given) = &config.root_cert else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    for authority in given {
        store
            .add(CertificateDer::from(authority.clone()))
            .map_err(|error| unusable("certificate-authority", &error))?;
    }
    Ok(store)
}

fn unusable(field: &'static str, error: &dyn std::fmt::Display) -> AccessError {
    AccessError::Unusable { field, fault: error.to_string() }
}
