//! Identifier of a certificate for renewal information and `replaces` (RFC 9773 §4.1).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::CertificateIdentifier;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Returns the identifier of a certificate in DER; `None` if it names no authority key.
pub(crate) fn of(der: &[u8]) -> Option<CertificateIdentifier<'static>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let key = certificate.extensions().iter().find_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref(),
            _ => None,
        }
    })?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes).into();
    Some(CertificateIdentifier {
        authority_key_identifier: encode(key.0),
        serial: encode(certificate.tbs_certificate.raw_serial()),
    })
}
