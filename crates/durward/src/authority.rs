//! A small certificate authority in a directory: `ca.crt`, `ca.key`, and the certificates it issues.
//!
//! Deliberately absent: revocation and intermediates; users who need those have an authority of their own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, RsaKeySize, SanType, SignatureAlgorithm,
};

use crate::cli::KeyKind;
use crate::failure::Failure;
use durward_control::source::regular::{self, FileKind};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const AUTHORITY_DAYS: u32 = 3_650;

/// Authority with its private key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Certificate of the authority, PEM.
    pub(crate) certificate: String,
}

/// Properties of a certificate to issue.
pub(crate) struct Wish {
    /// Common name of the subject.
    pub(crate) name: String,
    /// Subject alternative names of type iPAddress.
    pub(crate) ips: Vec<IpAddr>,
    /// Subject alternative names of type dNSName.
    pub(crate) dns: Vec<String>,
    /// True for a client certificate instead of a server's.
    pub(crate) client: bool,
    /// Days of validity from now on.
    pub(crate) days: u32,
    /// Days of validity that have passed already; 0 but for demonstrations.
    pub(crate) passed: u32,
    /// Type of key.
    pub(crate) key: KeyKind,
}

/// Certificate with its key, PEM.
pub(crate) struct Issued {
    /// Certificate.
    pub(crate) certificate: String,
    /// Private key, PKCS#8.
    pub(crate) key: String,
}

impl Authority {
    /// Creates an authority called `name`, followed by a part of its public key: verifiers find authorities and revocation lists by subject, and
    /// would confuse two with one subject.
    pub(crate) fn create(name: &str) -> Result<(Self, String), Failure> {
        let key = generate(KeyKind::Ecdsa)?;
        let key_pem = key.serialize_pem();
        // The first byte of an uncompressed curve point is constant.
        let own = key.public_key_raw().iter().skip(1).take(4);
        let own: String = own.map(|byte| format!("{byte:02x}")).collect();
        let params = authority_params(&format!("{name} {own}"));
        let certificate = params.self_signed(&key).map_err(signing)?.pem();
        Ok((Self { issuer: Issuer::new(params, key), certificate }, key_pem))
    }

    /// Loads the authority in `dir`, or creates it; the flag is true if it was created.
    pub(crate) fn keep_in(dir: &Path) -> Result<(Self, bool), Failure> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (certificate_path.exists(), key_path.exists()) {
            (true, true) => Ok((Self::open(&certificate_path, &key_path)?, false)),
            (false, false) => {
                fs::create_dir_all(dir).map_err(|error| writing(dir, &error))?;
                let (authority, key) = Self::create("Durward local authority")?;
                write(&key_path, &key, 0o600, false)?;
                write(&certificate_path, &authority.certificate, 0o644, false)?;
                Ok((authority, true))
            }
            (certificate, _) => {
                let missing = if certificate { key_path } else { certificate_path };
                let message = format!(
                    "the authority in {} is not complete: {} is missing; restore it or name another --dir",
                    dir.display(),
                    missing.display()
                );
                Err(Failure::usage(message))
            }
        }
    }

    fn open(certificate_path: &Path, key_path: &Path) -> Result<Self, Failure> {
        let read = |path: &Path| {
            regular::read_text(path, FileKind::Certificate)
                .map_err(|error| Failure::broken(format!("reading {}", path.display()), error))
        };
        let certificate = read(certificate_path)?;
        let key = KeyPair::from_pem(&read(key_path)?)
            .map_err(|error| Failure::broken(format!("reading {}", key_path.display()), error))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(|error| {
            Failure::broken(format!("reading {}", certificate_path.display()), error)
        })?;
        Ok(Self { issuer, certificate })
    }

    /// Issues a certificate.
    pub(crate) fn issue(&self, wish: &Wish) -> Result<Issued, Failure> {
        let key = generate(wish.key)?;
        let certificate = leaf_params(wish)?.signed_by(&key, &self.issuer).map_err(signing)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Issued {
    /// Writes `stem.crt` and `stem.key` (readable by its owner only) into `dir`.
    pub(crate) fn write(
        &self,
        dir: &Path,
        stem: &str,
        force: bool,
    ) -> Result<(PathBuf, PathBuf), Failure> {
        let certificate = dir.join(format!("{stem}.crt"));
        let key = dir.join(format!("{stem}.key"));
        if let Some(taken) = [&certificate, &key].into_iter().find(|path| !force && path.exists()) {
            let message = format!("{} exists; --force overwrites it", taken.display());
            return Err(Failure::usage(message));
        }
        write(&key, &self.key, 0o600, force)?;
        write(&certificate, &self.certificate, 0o644, force)?;
        Ok((certificate, key))
    }
}

/// Writes a new file; with `replace`, atomically replaces an existing one.
pub(crate) fn write(path: &Path, text: &str, mode: u32, replace: bool) -> Result<(), Failure> {
    let target = if replace { path.with_extension("new") } else { path.to_owned() };
    if replace {
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(writing(&target, &error));
            }
            _ => {}
        }
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&target)
        .map_err(|error| writing(&target, &error))?;
    file.write_all(text.as_bytes()).map_err(|error| writing(&target, &error))?;
    if replace {
        fs::rename(&target, path).map_err(|error| writing(path, &error))?;
    }
    Ok(())
}

fn writing(path: &Path, error: &io::Error) -> Failure {
    Failure::broken(format!("writing {}", path.display()), error)
}

fn signing(error: rcgen::Error) -> Failure {
    Failure::broken("making a certificate", error)
}

fn generate(kind: KeyKind) -> Result<KeyPair, Failure> {
    let algorithm: &'static SignatureAlgorithm = match kind {
        KeyKind::Ecdsa => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
        KeyKind::Rsa => {
            return KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)
                .map_err(signing);
        }
    };
    KeyPair::generate_for(algorithm).map_err(signing)
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    validity(&mut params, 0, AUTHORITY_DAYS);
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(wish: &Wish) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::default();
    validity(&mut params, wish.passed, wish.days);
    params.distinguished_name = common_name(&wish.name);
    params.subject_alt_names = names(wish)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if wish.key == KeyKind::Rsa && !wish.client {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.extended_key_usages = vec![if wish.client {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    Ok(params)
}

fn names(wish: &Wish) -> Result<Vec<SanType>, Failure> {
    let ips = wish.ips.iter().map(|ip| Ok(SanType::IpAddress(*ip)));
    let dns = wish.dns.iter().map(|name| {
        let text = name.as_str().try_into();
        text.map(SanType::DnsName)
            .map_err(|_| Failure::usage(format!("--dns {name:?} is not an ASCII name")))
    });
    ips.chain(dns).collect()
}

/// Sets the validity: from an hour ago, because clocks differ. The last second is part of it (RFC 5280 §4.1.2.5).
fn validity(params: &mut CertificateParams, passed: u32, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY * passed - HOUR).into();
    params.not_after = (now + DAY * days - SECOND).into();
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
