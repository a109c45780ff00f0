//! PEM or DER: the sections of a file, whichever of the two it is.
//!
//! Deliberately absent: meaning of the sections.

use rustls_pki_types::pem::{PemObject, SectionKind};
use thiserror::Error;

/// One section.
pub(super) type Section = (SectionKind, Vec<u8>);

/// Reason why a file has no sections.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PemFault {
    /// It has PEM that cannot be decoded.
    #[error("the PEM cannot be decoded: {reason}")]
    Damaged {
        /// Reason.
        reason: String,
    },
    /// It is empty.
    #[error("the file is empty")]
    Empty,
    /// Neither PEM nor DER, which begins with a SEQUENCE.
    #[error("the file is neither PEM (it has no BEGIN line) nor DER")]
    Neither,
}

/// First byte of a certificate, a list or a key in DER.
const SEQUENCE: u8 = 0x30;

/// Returns true if the bytes are PEM.
pub(super) fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(10).any(|window| window == b"-----BEGIN")
}

/// The PEM sections, or the whole file as one section of `kind` when it is not PEM.
pub(super) fn sections(bytes: &[u8], kind: SectionKind) -> Result<Vec<Section>, PemFault> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(PemFault::Empty);
    }
    if !is_pem(bytes) {
        if bytes[0] != SEQUENCE {
            return Err(PemFault::Neither);
        }
        return Ok(vec![(kind, bytes.to_vec())]);
    }
    Section::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PemFault::Damaged { reason: reason(&error) })
}

/// Never the text of the file: it may be a key.
fn reason(error: &rustls_pki_types::pem::Error) -> String {
    use rustls_pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { .. } => "a BEGIN line has no END line",
        Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        Error::Base64Decode(_) => "a section is not base64",
        _ => "a section is malformed",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_something_else_is_called_so() {
        let read = |bytes: &[u8]| sections(bytes, SectionKind::PrivateKey);

        assert_eq!(read(b"garbage\n"), Err(PemFault::Neither));
        assert_eq!(read(b" \n"), Err(PemFault::Empty));
        assert!(read(&[SEQUENCE, 3, 2, 1, 0]).is_ok());
    }
}
