//! Agent's client certificate, read anew for every connection to a gateway: it may have been renewed since.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::config::{ConfigError, certificates, read};

/// Files of a certificate and its key, and the last pair that could be used.
#[derive(Debug)]
pub(crate) struct Identity {
    chain: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    last: Mutex<Arc<CertifiedKey>>,
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// Fails if they cannot be read, or hold no certificate and the key that belongs to it.
    pub(crate) fn new(
        chain: PathBuf,
        key: PathBuf,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, ConfigError> {
        let last = Mutex::new(load(&chain, &key, &provider)?);
        Ok(Self { chain, key, provider, last })
    }

    /// Returns the pair of now. While the files are being replaced, or are broken, it is the last one that could be used.
    fn present(&self) -> Arc<CertifiedKey> {
        let read = load(&self.chain, &self.key, &self.provider);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(pair) => *last = pair,
            Err(error) => {
                tracing::error!(%error, "the agent's certificate cannot be read: the one before is used");
            }
        }
        Arc::clone(&last)
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.present()).filter(|pair| pair.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn load(
    chain: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, ConfigError> {
    let fault =
        |path: &Path, fault: String| ConfigError::Certificate { path: path.to_owned(), fault };
    let certificates = certificates(chain)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| fault(key, format!("has no private key: {error}")))?;
    let pair = CertifiedKey::from_der(certificates, private, provider);
    Ok(Arc::new(pair.map_err(|error| fault(chain, error.to_string()))?))
}

#[cfg(test)]
mod tests {
    use durward_testkit::certificates::{Authority, CertSpec};

    use super::*;

    #[test]
    fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("agents");
        let write = |name: &str| {
            authority.issue(&CertSpec::new().dns(name).client()).write(dir.path(), "agent");
        };
        write("old.example");
        let (chain, key) = (dir.path().join("agent.crt"), dir.path().join("agent.key"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let identity = Identity::new(chain.clone(), key, provider).unwrap();
        let shown = || identity.present().cert.clone();
        let old = shown();
        assert_eq!(shown(), old);

        write("new.example");
        let new = shown();
        std::fs::write(&chain, "half").unwrap();
        let while_broken = shown();

        assert_ne!(new, old);
        assert_eq!(while_broken, new);
    }
}
