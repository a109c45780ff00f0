//! Certificates of X.509 version 1, which old partners still send and rustls refuses.
//! They are made from a version 3 certificate by leaving out what version 1 does not have, and signing again.

use rcgen::SigningKey;
use rustls_pki_types::CertificateDer;

use super::der::{element, elements, encode};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
/// `[0]` version and `[3]` extensions of a `TBSCertificate` (RFC 5280, section 4.1).
const NOT_IN_VERSION_1: [u8; 2] = [0xa0, 0xa3];

/// The same names, validity and key in version 1; nothing when the bytes are no certificate.
pub(super) fn downgrade(
    version_3: &[u8],
    issuer: &impl SigningKey,
) -> Option<CertificateDer<'static>> {
    let (certificate, _) = element(version_3)?;
    let [signed, algorithm, _signature] = elements(certificate.content)?.try_into().ok()?;
    let kept =
        elements(signed.content)?.into_iter().filter(|part| !NOT_IN_VERSION_1.contains(&part.tag));
    let signed = encode(SEQUENCE, &kept.flat_map(|part| part.whole).copied().collect::<Vec<u8>>());

    let mut signature = vec![0];
    signature.extend(issuer.sign(&signed).ok()?);
    let whole = [signed.as_slice(), algorithm.whole, &encode(BIT_STRING, &signature)].concat();
    Some(encode(SEQUENCE, &whole).into())
}
