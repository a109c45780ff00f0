//! Maps rustls errors of a failed handshake to the closed set of reasons that are counted.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::refusal::{HandshakeFailure, Refusal};
use crate::refusal::{Presented, Refused};

/// Returns the refusal for a handshake that failed with `error`.
pub(crate) fn refusal(error: io::Error) -> Refusal {
    let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None => HandshakeFailure::Closed,
    };
    Refusal::Handshake { reason, source: Some(error) }
}

/// Returns the refusal for a handshake that failed with `error`, with the client certificate that caused it, if one did.
pub(crate) fn refusal_for(error: io::Error, certificate: Option<Presented>) -> Refusal {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let named = match (tls, certificate) {
        (Some(tls), Some(certificate)) => Some((of_tls(tls), Refused::new(certificate, tls))),
        _ => None,
    };
    match named {
        Some((reason, refused)) => {
            Refusal::Handshake { reason, source: Some(io::Error::new(error.kind(), refused)) }
        }
        None => refusal(error),
    }
}

/// Returns the reason for an error of rustls.
pub(crate) fn of_tls(error: &Error) -> HandshakeFailure {
    match error {
        Error::NoCertificatesPresented => HandshakeFailure::ClientCertificateMissing,
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::InvalidCertRevocationList(_) => HandshakeFailure::ClientCertificateUnacceptable,
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::NoApplicationProtocol => HandshakeFailure::NothingInCommon,
        Error::PeerIncompatible(PeerIncompatible::NullCompressionRequired) => {
            HandshakeFailure::Protocol
        }
        Error::PeerIncompatible(_) => HandshakeFailure::NothingInCommon,
        _ => HandshakeFailure::Protocol,
    }
}

fn of_certificate(error: &CertificateError) -> HandshakeFailure {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            HandshakeFailure::ClientCertificateExpired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            HandshakeFailure::ClientCertificateNotYetValid
        }
        CertificateError::Revoked => HandshakeFailure::ClientCertificateRevoked,
        // An authority with the expected name but another key fails the signature, and counts as unknown.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            HandshakeFailure::ClientCertificateUnknownIssuer
        }
        _ => HandshakeFailure::ClientCertificateUnacceptable,
    }
}

fn of_alert(alert: AlertDescription) -> HandshakeFailure {
    match alert {
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => HandshakeFailure::Closed,
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity
        | AlertDescription::NoApplicationProtocol => HandshakeFailure::NothingInCommon,
        AlertDescription::UnexpectedMessage
        | AlertDescription::BadRecordMac
        | AlertDescription::RecordOverflow
        | AlertDescription::DecodeError
        | AlertDescription::DecryptError
        | AlertDescription::IllegalParameter => HandshakeFailure::Protocol,
        _ => HandshakeFailure::RefusedByClient,
    }
}
