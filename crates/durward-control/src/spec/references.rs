//! The files a document refers to, as written.
//!
//! Deliberately absent: reading them.

use super::ingress::{CertificateSpec, IngressSpec};
use super::tenant::TenantSpec;
use super::upstream::UpstreamSpec;

/// The names of all files `spec` refers to.
#[must_use]
pub fn references(spec: &TenantSpec) -> Vec<String> {
    let ingress = spec.ingress.iter().flat_map(|entry| of_ingress(entry));
    let upstreams = spec.upstreams.values().flat_map(|upstream| of_upstream(upstream));
    ingress.chain(upstreams).collect()
}

fn of_ingress(spec: &IngressSpec) -> Vec<String> {
    let certificates = spec.certificate.iter().chain(&spec.certificates);
    let mut names: Vec<String> =
        certificates.flat_map(|certificate| of_certificate(certificate)).collect();
    if let Some(clients) = &spec.client_certificates {
        let authorities = clients.ca_file.iter().chain(&clients.ca_files);
        let lists = clients.crl_file.iter().chain(&clients.crl_files);
        names.extend(authorities.chain(lists).map(|name| name.value.clone()));
    }
    names.extend(spec.client_authority_if_present.iter().map(|name| name.value.clone()));
    names
}

fn of_upstream(spec: &UpstreamSpec) -> Vec<String> {
    let Some(tls) = &spec.tls else { return Vec::new() };
    let authority = tls.ca_file.iter().map(|name| name.value.clone());
    let certificate =
        tls.client_certificate.iter().flat_map(|certificate| of_certificate(certificate));
    authority.chain(certificate).collect()
}

fn of_certificate(spec: &CertificateSpec) -> Vec<String> {
    spec.files().map_or_else(Vec::new, |(certificate, key)| vec![certificate, key])
}
