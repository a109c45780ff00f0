//! Whom to trust: client authorities with their revocations, and the roots of upstreams.
//!
//! Deliberately absent: verification.

use std::sync::Arc;

use durward_model::upstream::TrustRoots;
use durward_model::{ClientAuth, ClientTrust};

use super::certificates::Files;
use super::report::{Field, Report};
use crate::certificate::{Authority, Revocations, Signature, sha256};
use crate::place::{At, Place};
use crate::spec::ingress::{ClientCertificatesSpec, ClientModeSpec, IngressSpec};

/// What is asked of clients, or `None` after an error.
pub(crate) fn client_auth(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &IngressSpec,
    field: &Field<'_>,
) -> Option<ClientAuth> {
    let field = &field.name("clientCertificates");
    if let Some(authority) = &spec.client_authority_if_present {
        if !files.has(report, authority) {
            return Some(ClientAuth::Off);
        }
        let authorities = files.authorities(report, authority, field)?;
        return Some(ClientAuth::Required(Arc::new(trust(&authorities, &[]))));
    }
    match &spec.client_certificates {
        Some(spec) => asked_for(report, files, spec, field),
        None => Some(ClientAuth::Off),
    }
}

/// What a field asks of clients' certificates, or `None` after an error.
pub(crate) fn asked_for(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &At<ClientCertificatesSpec>,
    field: &Field<'_>,
) -> Option<ClientAuth> {
    let mode = spec.mode.map_or(ClientModeSpec::Required, |mode| mode.value);
    if mode == ClientModeSpec::Off {
        return Some(ClientAuth::Off);
    }
    let before = report.errors();
    let authorities = authorities(report, files, spec, field);
    let revocations = revocations(report, files, spec, field, &authorities);
    if report.errors() > before {
        return None;
    }
    let trust = Arc::new(trust(&authorities, &revocations));
    Some(match mode {
        ClientModeSpec::Optional => ClientAuth::Optional(trust),
        _ => ClientAuth::Required(trust),
    })
}

/// Returns the authorities that a field names, as far as they can be read.
pub(crate) fn authorities(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &At<ClientCertificatesSpec>,
    field: &Field<'_>,
) -> Vec<Authority> {
    let many = field.name("caFiles");
    let one = spec.ca_file.iter().map(|file| (file, field.name("caFile")));
    let more = spec.ca_files.iter().enumerate().map(|(at, file)| (file, many.index(at)));
    let named: Vec<_> = one.chain(more).collect();
    if named.is_empty() {
        let sentence = "names no authority: write caFile, the certificate of whoever issues the clients' certificates";
        report.error("AuthorityMissing", spec.place, field, sentence);
    }
    named
        .into_iter()
        .filter_map(|(file, field)| files.authorities(report, file, &field))
        .flatten()
        .collect()
}

fn revocations(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &At<ClientCertificatesSpec>,
    field: &Field<'_>,
    authorities: &[Authority],
) -> Vec<Revocations> {
    let many = field.name("crlFiles");
    let one = spec.crl_file.iter().map(|file| (file, field.name("crlFile")));
    let more = spec.crl_files.iter().enumerate().map(|(at, file)| (file, many.index(at)));
    let mut found = Vec::new();
    for (file, field) in one.chain(more) {
        let Some(lists) = files.revocations(report, file, &field) else { continue };
        for list in &lists {
            match signer(list, authorities) {
                Signer::Authority => {}
                Signer::Unknown => {
                    let sentence = format!(
                        "{:?} is from {:?}, which is none of the authorities here: it counts for clients that show an intermediate authority of that name, and for no other",
                        file.value, list.issuer
                    );
                    report.warning("RevocationsForeign", file.place, &field, &sentence);
                }
                Signer::Unreadable => {
                    let sentence = format!(
                        "{:?} is signed by {:?} with an algorithm that cannot be checked: every client of that authority would be refused; have it signed with SHA-256 by ECDSA, Ed25519 or RSA (RSA-PSS with a salt as long as the hash)",
                        file.value, list.issuer
                    );
                    report.error("RevocationsSignature", file.place, &field, &sentence);
                }
                Signer::AnotherKey => {
                    let sentence = format!(
                        "{:?} says it is from {:?}, and is signed by another key: every client of that authority would be refused; fetch the list again, or add the authority whose key signed it",
                        file.value, list.issuer
                    );
                    report.error("RevocationsSignature", file.place, &field, &sentence);
                }
            }
        }
        found.extend(lists);
    }
    found
}

/// Signer of a revocation list, as judged by the authorities named beside it.
enum Signer {
    /// One of the authorities named beside it.
    Authority,
    /// Somebody else, by name.
    Unknown,
    /// The issuer has the name of an authority and not its key.
    AnotherKey,
    /// The issuer has the name of an authority, and nobody can tell whether its key, too.
    Unreadable,
}

fn signer(list: &Revocations, authorities: &[Authority]) -> Signer {
    let issuers = authorities.iter().filter(|one| one.raw_subject == list.raw_issuer);
    let signatures: Vec<_> = issuers.map(|one| list.signature_of(one)).collect();
    match signatures.first() {
        None => Signer::Unknown,
        Some(_) if signatures.contains(&Signature::Fits) => Signer::Authority,
        Some(Signature::Unsupported) => Signer::Unreadable,
        Some(_) => Signer::AnotherKey,
    }
}

/// The positions of the authorities whose key has signed the list.
fn signers(list: &Revocations, authorities: &[Authority]) -> Vec<usize> {
    let signed = |one: &Authority| {
        one.raw_subject == list.raw_issuer && list.signature_of(one) == Signature::Fits
    };
    authorities.iter().enumerate().filter(|(_, one)| signed(one)).map(|(at, _)| at).collect()
}

fn trust(authorities: &[Authority], revocations: &[Revocations]) -> ClientTrust {
    let roots: Vec<_> = authorities.iter().map(|authority| Arc::clone(&authority.der)).collect();
    let lists: Vec<_> = revocations.iter().map(|list| Arc::clone(&list.der)).collect();
    // The length keeps a root from ever being counted as a list.
    let count = roots.len().to_be_bytes();
    let parts = std::iter::once(&count[..]).chain(roots.iter().chain(&lists).map(|der| &**der));
    let generation = Arc::from(sha256(parts));
    let subjects = authorities.iter().map(|authority| Arc::clone(&authority.subject)).collect();
    let signers = revocations.iter().map(|list| signers(list, authorities)).collect();
    ClientTrust { roots, revocations: lists, signers, subjects, generation }
}

/// The roots an upstream is verified with, or `None` after an error.
pub(crate) fn roots(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    written: Option<&At<String>>,
    field: &Field<'_>,
) -> Option<TrustRoots> {
    let Some(written) = written else { return Some(TrustRoots::System) };
    let authorities = files.authorities(report, written, field)?;
    let roots: Vec<_> = authorities.iter().map(|authority| Arc::clone(&authority.der)).collect();
    let generation = Arc::from(sha256(roots.iter().map(|der| &**der)));
    Some(TrustRoots::Private { roots, generation })
}

/// Whether the certificate names the address, in a sentence when not.
pub(crate) fn names_address(
    certificate: &durward_model::Certificate,
    address: std::net::IpAddr,
) -> Result<(), String> {
    if certificate.covers_ip(address) {
        return Ok(());
    }
    let has = if certificate.ip_names.is_empty() {
        "names no IP address".to_owned()
    } else {
        let names: Vec<_> = certificate.ip_names.iter().map(ToString::to_string).collect();
        format!("names {}", names.join(", "))
    };
    Err(format!(
        "{:?} {has}, not {address}, so clients that connect to {address} refuse it: issue it with the subject alternative \
         name IP:{address}, or set ipSan: Warn",
        certificate.name
    ))
}

/// The place of the field that names a certificate.
pub(crate) fn place_of(spec: &At<crate::spec::ingress::CertificateSpec>) -> Place {
    spec.named().map_or(spec.place, |named| named.place)
}
