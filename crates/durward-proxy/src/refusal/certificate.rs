//! Client certificate of a refused handshake: its subject, issuer and validity.

use std::fmt;

use jiff::Timestamp;
use rustls::{CertificateError, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Characters of a name or number that are kept; a client may send names of any length.
const LONGEST: usize = 256;

/// Certificate as a log shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presented {
    /// Distinguished name of the subject.
    pub(crate) subject: String,
    /// Distinguished name of the issuer.
    pub(crate) issuer: String,
    /// Serial number, as OpenSSL prints it: `0a:1b`.
    pub(crate) serial: String,
    /// First moment of validity, RFC 3339.
    pub(crate) not_before: String,
    /// Last moment of validity, RFC 3339.
    pub(crate) not_after: String,
}

impl Presented {
    /// Parses a certificate; `None` if it is malformed.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: shown(&certificate.subject().to_string()),
            issuer: shown(&certificate.issuer().to_string()),
            serial: shown(&certificate.raw_serial_as_string()),
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        })
    }
}

/// Returns a peer's text, bounded, and without characters that a terminal or a log would interpret.
fn shown(text: &str) -> String {
    let harmless = |character: char| {
        let turns = matches!(character, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns { '?' } else { character }
    };
    let mut shown: String = text.chars().take(LONGEST).map(harmless).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// Formats seconds since the Unix epoch as RFC 3339.
fn moment(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .map_or_else(|_| format!("{seconds} s since 1970"), |time| time.to_string())
}

/// Error of a failed handshake together with the client's certificate.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) certificate: Presented,
    reason: String,
}

impl Refused {
    /// Pairs a certificate with its error.
    pub(crate) fn new(certificate: Presented, error: &Error) -> Self {
        let reason = match error {
            Error::InvalidCertificate(fault) => of_certificate(fault, &certificate),
            error => error.to_string(),
        };
        Self { certificate, reason }
    }

    /// Builds the error for a resumed session whose certificate has expired or is not valid yet.
    pub(crate) fn out_of_time(certificate: Presented) -> Self {
        let Presented { not_before, not_after, .. } = &certificate;
        let reason = format!("valid from {not_before} to {not_after} only");
        Self { certificate, reason }
    }
}

fn of_certificate(fault: &CertificateError, certificate: &Presented) -> String {
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("expired at {}", certificate.not_after)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("not valid before {}", certificate.not_before)
        }
        CertificateError::UnknownIssuer => "no trusted authority issued it".to_owned(),
        CertificateError::BadSignature => {
            "its signature is not that of the authority of this name".to_owned()
        }
        CertificateError::Revoked => "revoked".to_owned(),
        other => other.to_string(),
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Presented { subject, issuer, serial, .. } = &self.certificate;
        let reason = &self.reason;
        write!(f, "client certificate {subject}, issued by {issuer}, serial {serial}: {reason}")
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use durward_testkit::certificates::{Authority, CertSpec};

    use super::*;

    #[test]
    fn a_hostile_certificate_is_shown_short_and_harmless() {
        let name = format!("evil\n\u{1b}[2J\u{202e}{}", "x".repeat(10_000));
        let spec = CertSpec::new().client().common_name(&name);
        let identity = Authority::new("root").issue(&spec);

        let shown = Presented::read(&identity.chain_der[0]).unwrap();

        assert!(shown.subject.starts_with("CN=evil"), "{shown:?}");
        assert!(shown.subject.chars().count() <= LONGEST + 1, "{shown:?}");
        let obeyed = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!shown.subject.contains(obeyed), "{shown:?}");
        assert!(shown.not_after.ends_with('Z') && shown.serial.contains(':'), "{shown:?}");
        assert_eq!(Presented::read(b"junk"), None);
    }
}
