//! Answers to challenges, as data: a path with a text for HTTP-01, a certificate for TLS-ALPN-01.
//!
//! Deliberately absent: servers; whoever has the names serves these.

use std::fmt;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, SanType};

use crate::fault::Fault;
use crate::order::Name;

/// Answer to one challenge.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// Text at `/.well-known/acme-challenge/TOKEN` (RFC 8555 §8.3).
    Http {
        /// Last segment of the path.
        token: String,
        /// The text.
        text: String,
    },
    /// Certificate for clients that offer `acme-tls/1` alone and ask for this name (RFC 8737).
    TlsAlpn {
        /// Server name of the ClientHello: of an IP address its name for reverse look-ups (RFC 8738 §6).
        server_name: String,
        /// Certificate in DER.
        certificate: Vec<u8>,
        /// Private key in PKCS#8.
        key: Vec<u8>,
    },
}

impl fmt::Debug for Answer {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { token, .. } => f.debug_struct("Http").field("token", token).finish(),
            Self::TlsAlpn { server_name, .. } => {
                f.debug_struct("TlsAlpn").field("server_name", server_name).finish()
            }
        }
    }
}

impl Answer {
    /// Builds the certificate for a TLS-ALPN-01 challenge from the SHA-256 of its key authorization.
    pub(crate) fn tls_alpn(name: &Name, digest: &[u8]) -> Result<Self, Fault> {
        let broken = |error: rcgen::Error| {
            Fault::Unsupported(format!("no certificate can be made for the challenge: {error}"))
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![name.alternative().map_err(broken)?];
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate().map_err(broken)?;
        let certificate = params.self_signed(&key).map_err(broken)?;
        Ok(Self::TlsAlpn {
            server_name: name.server_name(),
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        })
    }
}

impl Name {
    /// Returns the subject alternative name.
    pub(crate) fn alternative(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    #[test]
    fn the_certificate_of_a_challenge_names_what_is_validated_and_holds_the_digest() {
        let digest = [7; 32];

        let answer = Answer::tls_alpn(&Name::Ip("192.0.2.7".parse().unwrap()), &digest).unwrap();

        let Answer::TlsAlpn { server_name, certificate, .. } = &answer else {
            panic!("{answer:?}")
        };
        assert_eq!(server_name, "7.2.0.192.in-addr.arpa");
        let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        let held = certificate
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .unwrap();
        assert!(held.critical && held.value.ends_with(&digest));
        assert!(!format!("{answer:?}").contains("key"));
    }
}
