//! Facts of a verified client certificate, read once per connection.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::connection::ClientCertificate;
use crate::refusal::HandshakeFailure;

/// Reads the chain that a client sent, leaf first. `None` without one.
///
/// A resumed session was verified when it began, so the leaf's validity is checked against `now` again.
///
/// # Errors
/// Returns why the certificate is not acceptable now.
pub(crate) fn read(
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Option<ClientCertificate>, HandshakeFailure> {
    let Some((leaf, issuers)) = chain.split_first() else { return Ok(None) };
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|_| HandshakeFailure::ClientCertificateUnacceptable)?;
    check_time(&parsed, now)?;
    let (uris, dns) = names(&parsed);
    Ok(Some(ClientCertificate {
        subject: parsed.subject().to_string(),
        common_name: common_name(&parsed),
        spki_sha256: sha256(parsed.public_key().raw),
        fingerprint: sha256(leaf),
        uris,
        dns,
        client_cert: byte_sequence(leaf),
        client_cert_chain: issuers
            .iter()
            .map(|der| byte_sequence(der))
            .collect::<Vec<_>>()
            .join(", "),
    }))
}

fn check_time(leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), HandshakeFailure> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now > leaf.validity().not_after.timestamp() {
        return Err(HandshakeFailure::ClientCertificateExpired);
    }
    if now < leaf.validity().not_before.timestamp() {
        return Err(HandshakeFailure::ClientCertificateNotYetValid);
    }
    Ok(())
}

/// Returns the one common name; with several, none can be relied on.
fn common_name(leaf: &X509Certificate<'_>) -> Option<String> {
    let mut names = leaf.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

/// Returns URI and DNS names of the SAN extension. Names with characters that no field may carry are left out.
fn names(leaf: &X509Certificate<'_>) -> (Vec<String>, Vec<String>) {
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    let names = leaf.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) if is_visible(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) if is_visible(name) => dns.push((*name).to_owned()),
            _ => {}
        }
    }
    (uris, dns)
}

fn is_visible(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Encodes a structured-field byte sequence (RFC 9440 section 2.1): base64 between colons.
fn byte_sequence(bytes: &[u8]) -> String {
    format!(":{}:", BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use durward_testkit::certificates::{Authority, CertSpec};

    use super::*;

    #[test]
    fn byte_sequences_are_base64_between_colons() {
        for (bytes, text) in [
            ("", "::"),
            ("f", ":Zg==:"),
            ("fo", ":Zm8=:"),
            ("foo", ":Zm9v:"),
            ("foob", ":Zm9vYg==:"),
        ] {
            assert_eq!(byte_sequence(bytes.as_bytes()), text);
        }
    }

    // S1.66
    #[test]
    fn a_certificate_is_told_in_words_headers_can_carry() {
        let spec = CertSpec::new()
            .client()
            .common_name("partner-1")
            .uri("spiffe://bank.example/payments")
            .dns("partner.bank.example");
        let identity = Authority::new("root").intermediate("issuing").issue(&spec);

        let read = read(&identity.chain_der, UnixTime::now()).unwrap().unwrap();

        assert_eq!(read.subject, "CN=partner-1");
        assert_eq!(read.common_name.as_deref(), Some("partner-1"));
        assert_eq!(read.uris, ["spiffe://bank.example/payments"]);
        assert_eq!(read.dns, ["partner.bank.example"]);
        assert_eq!((read.spki_sha256.len(), read.fingerprint.len()), (64, 64));
        assert!(read.client_cert.starts_with(":MII") && read.client_cert.ends_with(':'));
        assert!(read.client_cert_chain.starts_with(":MII"));
    }

    #[test]
    fn a_certificate_that_ended_since_the_session_began_is_refused() {
        let identity = Authority::new("root").issue(&CertSpec::new().client());
        let in_a_year = Duration::from_secs(365 * 86_400);
        let later = UnixTime::since_unix_epoch(
            std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap()
                + in_a_year,
        );

        let failure = read(&identity.chain_der, later).err();

        assert_eq!(failure, Some(HandshakeFailure::ClientCertificateExpired));
    }
}
