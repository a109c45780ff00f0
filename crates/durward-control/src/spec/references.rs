//! The files a document refers to, as written.
//!
//! Deliberately absent: reading them.

use super::egress::ProxySpec;
use super::ingress::{CertificateSpec, IngressSpec};
use super::tenant::TenantSpec;
use super::upstream::UpstreamSpec;
use crate::place::At;

/// The names of all files `spec` refers to.
#[must_use]
pub fn references(spec: &TenantSpec) -> Vec<String> {
    let ingress = spec.ingress.iter().flat_map(|entry| of_ingress(entry));
    let upstreams = spec.upstreams.values().flat_map(|upstream| of_upstream(upstream));
    let proxies = spec.egress.proxy.iter().flat_map(of_proxy);
    let parents = spec.egress.parents.iter();
    let parents = parents.filter_map(|parent| Some(parent.credential_file.as_ref()?.value.clone()));
    let authorities = spec.egress.resolver_ca_file.iter().map(|file| file.value.clone());
    let rules = [&spec.egress.allow, &spec.egress.deny].into_iter().flatten();
    let lists = rules.flat_map(|rules| rules.iter().filter_map(|rule| rule.hosts_file.as_ref()));
    let lists = lists.map(|file| file.value.clone());
    let egress = proxies.chain(parents).chain(authorities).chain(lists);
    ingress.chain(upstreams).chain(egress).collect()
}

fn of_proxy(spec: &At<ProxySpec>) -> Vec<String> {
    let mut names = of_ingress(&spec.as_ingress());
    names.extend(spec.credentials.iter().map(|credentials| credentials.file.value.clone()));
    names
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
