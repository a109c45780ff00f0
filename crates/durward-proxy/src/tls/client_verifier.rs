//! Verification of client certificates against a listener's authorities and revocation lists.
//!
//! rustls finds the revocation list of an authority by subject. While an authority changes its key there are two of one subject, each with a list of
//! its own, and the wrong list would refuse every client. So authorities of one subject and different keys get separate verifiers, each with the
//! lists that its keys have signed; a client is admitted if one of them admits it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use durward_model::ClientAuth;
use durward_model::client_auth::ClientTrust;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};

use crate::tls::presented::Noting;
use crate::tls::server_config::provider;
use crate::watch::{Judge, ShownChain, Trusted};

/// Builds the verifier.
///
/// # Errors
/// Returns what cannot be used, as a message.
pub(crate) fn client_verifier(auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let Some(trust) = auth.trust() else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let anchors = anchors(trust)?;
    let verifiers = groups(&anchors).into_iter().map(|group| one(auth, trust, &anchors, &group));
    let mut verifiers = verifiers.collect::<Result<Vec<_>, _>>()?;
    if verifiers.len() == 1 {
        return Ok(Arc::new(Noting(verifiers.remove(0))));
    }
    let hints = verifiers.iter().flat_map(|one| one.root_hint_subjects().to_vec()).collect();
    Ok(Arc::new(Noting(Arc::new(AnyOf { verifiers, hints }))))
}

/// Returns the verification of certificates that were verified by other authorities or lists before. What cannot be used admits nobody.
pub(crate) fn trusted(auth: &ClientAuth) -> Trusted {
    let Some(trust) = auth.trust() else { return Trusted::nobody() };
    let judge = client_verifier(auth).ok().map(|verifier| {
        Arc::new(Remembering { verifier, known: Mutex::default() }) as Arc<dyn Judge>
    });
    let size = trust.roots.iter().chain(&trust.revocations).map(|der| der.len()).sum();
    Trusted { generation: Arc::clone(&trust.generation), size, judge }
}

/// Verifier that verifies a chain once: many connections show the same one.
#[derive(Debug)]
struct Remembering {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Results, by the digest of the chain.
    known: Mutex<HashMap<[u8; 32], bool>>,
}

impl Judge for Remembering {
    fn admits(&self, shown: &ShownChain) -> bool {
        let Some((leaf, intermediates)) = shown.chain.split_first() else { return false };
        let mut context = digest::Context::new(&digest::SHA256);
        shown.chain.iter().for_each(|der| context.update(der));
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(admits) = known().get(&key) {
            return *admits;
        }
        let verified = self.verifier.verify_client_cert(leaf, intermediates, shown.at);
        known().insert(key, verified.is_ok());
        verified.is_ok()
    }
}

/// Converts the authorities to trust anchors.
fn anchors(trust: &ClientTrust) -> Result<Vec<TrustAnchor<'static>>, String> {
    let mut store = RootCertStore::empty();
    for (at, root) in trust.roots.iter().enumerate() {
        store.add(CertificateDer::from(root.to_vec())).map_err(|error| {
            let subject = trust.subjects.get(at).map_or("?", |subject| &**subject);
            format!("client authority {subject} cannot be used: {error}")
        })?;
    }
    Ok(store.roots)
}

/// Groups the positions of authorities, so that no group has two of one subject and different keys.
fn groups(anchors: &[TrustAnchor<'_>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
    for (at, anchor) in anchors.iter().enumerate() {
        let conflicts = |other: &usize| {
            let other = &anchors[*other];
            other.subject == anchor.subject
                && other.subject_public_key_info != anchor.subject_public_key_info
        };
        match groups.iter_mut().find(|group| !group.iter().any(conflicts)) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

/// Builds the verifier of one group, with the lists of its authorities and of intermediate ones.
fn one(
    auth: &ClientAuth,
    trust: &ClientTrust,
    anchors: &[TrustAnchor<'static>],
    group: &[usize],
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = RootCertStore { roots: group.iter().map(|at| anchors[*at].clone()).collect() };
    let belongs = |at: usize| {
        let signers = trust.signers.get(at).map_or(&[][..], |signers| &signers[..]);
        signers.is_empty() || signers.iter().any(|signer| group.contains(signer))
    };
    let lists = trust.revocations.iter().enumerate().filter(|(at, _)| belongs(*at));
    let lists = lists.map(|(_, der)| CertificateRevocationListDer::from(der.to_vec()));
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(lists)
        // An authority without a list revokes nothing; one with a list must list or clear each certificate.
        .allow_unknown_revocation_status();
    let builder = match auth {
        ClientAuth::Optional(_) => builder.allow_unauthenticated(),
        ClientAuth::Required(_) | ClientAuth::Off => builder,
    };
    let verifier = builder
        .build()
        .map_err(|error| format!("client certificates cannot be verified: {error}"))?;
    Ok(verifier)
}

/// Verifier that admits a client if one of several verifiers does. There are at least two.
#[derive(Debug)]
struct AnyOf {
    verifiers: Vec<Arc<dyn ClientCertVerifier>>,
    hints: Vec<DistinguishedName>,
}

/// Ranks an error: of several, the one of the authority that issued the certificate is reported.
fn weight(error: &Error) -> u8 {
    match error {
        Error::InvalidCertificate(CertificateError::Revoked) => 2,
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => 0,
        _ => 1,
    }
}

impl ClientCertVerifier for AnyOf {
    fn client_auth_mandatory(&self) -> bool {
        self.verifiers.iter().all(|one| one.client_auth_mandatory())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut worst = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for one in &self.verifiers {
            match one.verify_client_cert(end_entity, intermediates, now) {
                Ok(verified) => return Ok(verified),
                Err(error) if weight(&error) >= weight(&worst) => worst = error,
                Err(_) => {}
            }
        }
        Err(worst)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifiers[0].verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifiers[0].verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifiers[0].supported_verify_schemes()
    }
}
