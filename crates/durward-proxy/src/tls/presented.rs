//! Records the client certificate that a handshake is refused for.
//!
//! rustls passes a certificate to the verifier and drops it on an error. So the verifier records what it refuses, in a place that belongs to the one
//! handshake being polled.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::refusal::Presented;

tokio::task_local! {
    static REFUSED: RefCell<Option<Presented>>;
}

/// Runs a handshake; returns its result, and the certificate that the verifier refused in it, if any.
pub(crate) async fn observe<T>(handshake: impl Future<Output = T>) -> (T, Option<Presented>) {
    REFUSED
        .scope(RefCell::new(None), async {
            let outcome = handshake.await;
            (outcome, REFUSED.with(RefCell::take))
        })
        .await
}

/// Verifier that records the certificates it refuses.
#[derive(Debug)]
pub(crate) struct Noting(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Noting {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now).inspect_err(|_| {
            // Outside of `observe` the certificate is not recorded.
            let _ = REFUSED.try_with(|refused| *refused.borrow_mut() = Presented::read(end_entity));
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}
