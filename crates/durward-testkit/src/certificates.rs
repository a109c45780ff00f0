//! Certificate authorities and the identities they issue, made fresh for each test.
//! Nothing here is fit for production: keys lie in memory in the clear and validity is whatever a test asks for.

mod configs;
mod der;
mod identity;
mod keys;
mod spec;
mod version_1;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

pub use configs::{
    client_config, client_config_expecting, client_config_insecure, provider, roots, server_config,
    server_config_optional_client,
};
pub use identity::{Identity, IdentityFiles, KeyEncoding};
pub use keys::KeyKind;
pub use spec::CertSpec;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A certificate authority: a self-signed root, or an intermediate under another authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What an issued chain carries after its leaf: this certificate and its parents, without the root.
    below_root: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

impl Authority {
    /// A self-signed root with an ECDSA P-256 key, valid for ten years.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::with_key(name, KeyKind::EcdsaP256)
    }

    /// A self-signed root with a key of the given kind.
    #[must_use]
    pub fn with_key(name: &str, key: KeyKind) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority_params(name), key.generate())
            .expect("a root signs itself");
        let root = issuer.der().clone();
        Self { issuer, below_root: Vec::new(), root }
    }

    /// An authority signed by this one; chains it issues carry its certificate after the leaf.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyKind::EcdsaP256.generate();
        let issuer = CertifiedIssuer::signed_by(authority_params(name), key, &self.issuer)
            .expect("an intermediate is signed");
        let mut below_root = vec![issuer.der().clone()];
        below_root.extend(self.below_root.iter().cloned());
        Self { issuer, below_root, root: self.root.clone() }
    }

    /// This authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", self.issuer.der())
    }

    /// This authority's own certificate.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// The certificate a verifier trusts: the root above this authority, or its own.
    #[must_use]
    pub fn root_der(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    /// Issues a certificate and its private key.
    #[must_use]
    pub fn issue(&self, spec: &CertSpec) -> Identity {
        let key = spec.key.generate();
        let serial = spec.serial.unwrap_or_else(next_serial).to_be_bytes().to_vec();
        let leaf =
            leaf_params(spec, &serial).signed_by(&key, &self.issuer).expect("a leaf is signed");

        let leaf = leaf.der().clone();
        let leaf = if spec.version_1 {
            version_1::downgrade(&leaf, self.issuer.key())
                .expect("a certificate comes apart into its elements")
        } else {
            leaf
        };

        let mut chain_der = vec![leaf];
        chain_der.extend(self.below_root.iter().cloned());
        Identity::new(chain_der, &key, spec.key, serial)
    }

    /// Issues what a signing request (DER) asks for, as a chain in PEM.
    ///
    /// # Errors
    /// If the request cannot be read.
    pub(crate) fn sign_request(
        &self,
        request: &[u8],
        (from, to): (SystemTime, SystemTime),
    ) -> Result<String, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_der(&request.into())?;
        request.params.not_before = from.into();
        request.params.not_after = to.into();
        request.params.serial_number = Some(SerialNumber::from(next_serial()));
        request.params.use_authority_key_identifier_extension = true;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = request.signed_by(&self.issuer)?;
        let below_root = self.below_root.iter().map(|der| pem("CERTIFICATE", der));
        Ok(std::iter::once(pem("CERTIFICATE", leaf.der())).chain(below_root).collect())
    }

    /// A revocation list naming these identities, valid from an hour ago until tomorrow.
    #[must_use]
    pub fn revoke(&self, identities: &[&Identity]) -> RevocationList {
        self.revoke_until(identities, SystemTime::now() + DAY)
    }

    /// A revocation list naming these identities whose successor was due a minute ago.
    #[must_use]
    pub fn revoke_outdated(&self, identities: &[&Identity]) -> RevocationList {
        self.revoke_until(identities, SystemTime::now() - HOUR / 60)
    }

    fn revoke_until(&self, identities: &[&Identity], next_update: SystemTime) -> RevocationList {
        let now = SystemTime::now();
        let revoked = |identity: &&Identity| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&identity.serial),
            revocation_time: (now - HOUR).into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(next_serial()),
            issuing_distribution_point: None,
            revoked_certs: identities.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a revocation list is signed");
        let der = list.der().to_vec();
        RevocationList { pem: pem("X509 CRL", &der), der }
    }

    /// Writes `stem.crt` with this authority's certificate and returns its path.
    pub fn write(&self, dir: impl AsRef<Path>, stem: &str) -> PathBuf {
        let path = dir.as_ref().join(format!("{stem}.crt"));
        std::fs::write(&path, self.pem()).expect("the directory of a test is writable");
        path
    }
}

/// A certificate revocation list in both encodings.
#[derive(Clone, Debug)]
pub struct RevocationList {
    /// `X509 CRL` block.
    pub pem: String,
    /// The signed list.
    pub der: Vec<u8>,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + 3650 * DAY).into();
    params.serial_number = Some(SerialNumber::from(next_serial()));
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn leaf_params(spec: &CertSpec, serial: &[u8]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = spec.not_before.into();
    params.not_after = spec.not_after.into();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = match &spec.common_name {
        Some(name) => common_name(name),
        None => DistinguishedName::new(),
    };
    if let Some(organization) = &spec.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.subject_alt_names = subject_alt_names(spec);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = spec.extended_key_usages();
    params
}

fn subject_alt_names(spec: &CertSpec) -> Vec<SanType> {
    let text = |name: &String| name.as_str().try_into().expect("a subject name is ASCII");
    let dns = spec.dns.iter().map(|name| SanType::DnsName(text(name)));
    let ips = spec.ips.iter().map(|ip| SanType::IpAddress(*ip));
    let uris = spec.uris.iter().map(|uri| SanType::URI(text(uri)));
    dns.chain(ips).chain(uris).collect()
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

impl CertSpec {
    fn extended_key_usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        if self.without_eku {
            return Vec::new();
        }
        match (self.server, self.client) {
            (_, false) => vec![ExtendedKeyUsagePurpose::ServerAuth],
            (false, true) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            (true, true) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
        }
    }
}

/// Serials differ within a process, and almost surely between two.
fn next_serial() -> u64 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanos =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mixed = nanos.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id()) << 40;
    // A positive INTEGER of at most 63 bits, different for each call.
    (mixed.wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed)) >> 1) | 1 << 56
}

/// Encodes DER as one PEM block.
fn pem(label: &str, der: &[u8]) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(label, der), config)
}
