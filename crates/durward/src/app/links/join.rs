//! Certificates for agents that join with a token that is good for one, or renew theirs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use durward_control::registry::Answer as Answered;
use durward_model::Certificate;
use durward_model::certificate::KeyEncoding;
use durward_model::link::TokenDigest;
use durward_proxy::registry::Joining;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// File of the tokens that were used, in the directory of claims: the digest of each, and that of the key that it was used for.
const USED: &str = "joined";
/// Validity of a certificate.
const VALIDITY: Duration = Duration::from_secs(90 * 86_400);
/// Time before now at which a certificate becomes valid: clocks differ.
const BEFORE: Duration = Duration::from_secs(3_600);

/// Reason for which no certificate is issued.
#[derive(Debug, thiserror::Error)]
enum NotIssued {
    #[error("the body is no certificate request in PEM whose signature fits its key: {0}")]
    Request(rcgen::Error),
    #[error("no name is left for the certificate: the first of certificateNames must have no *")]
    Name,
    #[error("the authority of the listener cannot sign: {0}")]
    Authority(String),
}

/// Certificate for an agent.
struct Issued {
    pem: String,
    /// End of its validity, in seconds since 1970.
    until: u64,
    /// SHA-256 of the key, hexadecimal.
    key: String,
}

/// Issues a certificate; `directory` has the claims of links.
pub(super) fn join(joining: &Joining, request: &[u8], directory: Option<&Path>) -> Answered {
    let issued = match issue(joining, request, SystemTime::now()) {
        Ok(issued) => issued,
        Err(error @ NotIssued::Request(_)) => return failure(400, "bad_request", &error),
        Err(error) => return failure(503, "no_certificate", &error),
    };
    if let Some(token) = &joining.token {
        let Some(directory) = directory else {
            let message = "the gateway has no state directory, so it cannot remember which tokens were used: run it with --state-dir";
            return Answered::failure(503, "no_state", "", message);
        };
        match use_once(directory, token, &issued.key) {
            Ok(true) => {}
            Ok(false) => {
                let message =
                    "the token was used before, for another key: each is good for one certificate";
                return Answered::failure(403, "token_used", "", message);
            }
            Err(error) => return failure(503, "not_stored", &error),
        }
    }
    let link = &joining.caller.link.name;
    let body = json!({"success": true, "link": link, "certificate": issued.pem, "not_after": issued.until});
    Answered {
        status: 200,
        body,
        retry_after: None,
        changed: durward_control::registry::Changed::default(),
    }
}

fn failure(status: u16, code: &str, error: &dyn std::error::Error) -> Answered {
    Answered::failure(status, code, "", &error.to_string())
}

/// Issues a certificate with the link's name for the key of a request. Nothing else of the request counts.
fn issue(joining: &Joining, request: &[u8], now: SystemTime) -> Result<Issued, NotIssued> {
    let text = String::from_utf8_lossy(request);
    let asked = CertificateSigningRequestParams::from_pem(&text).map_err(NotIssued::Request)?;
    let name = joining.caller.link.certificate_name().ok_or(NotIssued::Name)?;
    let authority = &joining.authority;
    let issuer = issuer(authority)?;
    // A certificate that outlives its authority is refused by some verifiers.
    let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(authority.not_after).unwrap_or(0));
    let end = end.min(now + VALIDITY);
    let params = params(name, now - BEFORE, end)?;
    let request = CertificateSigningRequestParams { params, public_key: asked.public_key };
    let signed = request.signed_by(&issuer);
    let signed = signed.map_err(|error| NotIssued::Authority(error.to_string()))?;
    let key = digest::digest(&digest::SHA256, &request.public_key.subject_public_key_info());
    Ok(Issued {
        pem: signed.pem(),
        until: end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        key: key.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

fn issuer(authority: &Certificate) -> Result<Issuer<'static, KeyPair>, NotIssued> {
    let broken = |error: rcgen::Error| NotIssued::Authority(error.to_string());
    let der = authority.key.der.expose().to_vec();
    let key = match authority.key.encoding {
        KeyEncoding::Pkcs8 => PrivateKeyDer::Pkcs8(der.into()),
        KeyEncoding::Pkcs1 => PrivateKeyDer::Pkcs1(der.into()),
        KeyEncoding::Sec1 => PrivateKeyDer::Sec1(der.into()),
    };
    let key = KeyPair::try_from(&key).map_err(broken)?;
    let own =
        authority.chain.first().ok_or_else(|| NotIssued::Authority("no certificate".to_owned()))?;
    Issuer::from_ca_cert_der(&CertificateDer::from(&**own), key).map_err(broken)
}

fn params(name: &str, from: SystemTime, until: SystemTime) -> Result<CertificateParams, NotIssued> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (from.into(), until.into());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let text = || name.try_into().map_err(|_| NotIssued::Name);
    params.subject_alt_names = match name.contains("://") {
        true => vec![SanType::URI(text()?)],
        false if name.contains('.') && !name.contains(' ') => vec![SanType::DnsName(text()?)],
        false => Vec::new(),
    };
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// Takes note that a token is used for a key, and returns when that is stored. Returns false if it was used for another: an agent that got no answer may
/// ask again for the same key.
fn use_once(directory: &Path, token: &TokenDigest, key: &str) -> io::Result<bool> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join(USED);
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
    // Processes of a hand-over share the file.
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let token = token.to_string();
    // A crash in the middle of a line leaves one without a key: its token counts as used.
    let known = text.lines().find_map(|line| line.strip_prefix(&*token));
    if let Some(of) = known {
        return Ok(of.strip_prefix(' ') == Some(key));
    }
    let begin = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    file.write_all(format!("{begin}{token} {key}\n").as_bytes())?;
    file.sync_all()?;
    File::open(directory)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_one_key_also_after_a_crash() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("links");
        let (one, other) = (TokenDigest::new([1; 32]), TokenDigest::new([2; 32]));

        assert!(use_once(&directory, &one, "aa").unwrap());
        assert!(use_once(&directory, &one, "aa").unwrap(), "the answer may have been lost");
        assert!(!use_once(&directory, &one, "bb").unwrap());

        let path = directory.join(USED);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{other}")).unwrap();
        assert!(!use_once(&directory, &other, "aa").unwrap(), "its key is not known");
        assert!(use_once(&directory, &TokenDigest::new([3; 32]), "cc").unwrap());
        assert!(!use_once(&directory, &TokenDigest::new([3; 32]), "dd").unwrap());
    }
}
