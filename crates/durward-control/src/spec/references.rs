//! The things a document refers to, as written: files, entries of Secrets and `ConfigMap`s in their place, and Services.
//!
//! Deliberately absent: reading them.

use super::egress::{ProxySpec, RuleSpec};
use super::hosted_api::HostedApiSpec;
use super::ingress::{AcmeSpec, CertificateSpec, IngressSpec};
use super::port_mapping::PortMappingSpec;
use super::service::ServiceSpec;
use super::tenant::TenantSpec;
use super::upstream::UpstreamSpec;
use crate::place::At;
use crate::source::regular::FileKind;

/// A name in the place of a file's, and the purpose the file is read for.
pub type Reference = (FileKind, String);

/// Returns the Services that `spec` refers to.
pub fn services(spec: &TenantSpec) -> impl Iterator<Item = &ServiceSpec> {
    spec.upstreams.values().filter_map(|upstream| Some(&upstream.service.as_ref()?.value))
}

/// Returns the Services that the ports of a mapping refer to.
pub fn services_of_mapping(spec: &PortMappingSpec) -> impl Iterator<Item = &ServiceSpec> {
    spec.ports.iter().filter_map(|port| Some(&port.service.as_ref()?.value))
}

/// Returns all names in `spec` that are in the place of a file's.
#[must_use]
pub fn references(spec: &TenantSpec) -> Vec<Reference> {
    let ingress = spec.ingress.iter().flat_map(|entry| of_ingress(entry));
    let upstreams = spec.upstreams.values().flat_map(|upstream| of_upstream(upstream));
    let proxies = spec.egress.proxy.iter().flat_map(of_proxy);
    let parents = spec.egress.parents.iter();
    let parents = parents.filter_map(|parent| parent.credential_file.as_ref());
    let parents = parents.map(|name| named(FileKind::Key, name));
    let authorities = spec.egress.resolver_ca_file.iter().map(authorities);
    let lists = of_rules([&spec.egress.allow, &spec.egress.deny].into_iter().flatten());
    let egress = proxies.chain(parents).chain(authorities).chain(lists);
    ingress.chain(upstreams).chain(egress).collect()
}

/// Returns the names of files in a hosted API server's document.
#[must_use]
pub fn of_hosted_api(spec: &HostedApiSpec) -> Vec<Reference> {
    let mut names: Vec<Reference> = spec.upstream.ca_file.iter().map(authorities).collect();
    let Some(relay) = &spec.relay else { return names };
    names.extend(of_certificate(&relay.certificate));
    let clients = &relay.client_authorities;
    names.extend(clients.ca_file.iter().chain(&clients.ca_files).map(authorities));
    let lists = clients.crl_file.iter().chain(&clients.crl_files);
    names.extend(lists.map(|name| named(FileKind::RevocationLists, name)));
    names
}

/// Returns the Services that a hosted API server's document refers to.
pub fn services_of_hosted_api(spec: &HostedApiSpec) -> impl Iterator<Item = &ServiceSpec> {
    let konnectivity = spec.konnectivity.iter().filter_map(|one| one.service.as_ref());
    spec.upstream.service.iter().chain(konnectivity).map(|service| &service.value)
}

/// Returns the names in lists of rules.
pub fn of_rules<'a>(
    lists: impl Iterator<Item = &'a At<Vec<At<RuleSpec>>>>,
) -> impl Iterator<Item = Reference> {
    let files = lists.flat_map(|rules| rules.iter().filter_map(|rule| rule.hosts_file.as_ref()));
    files.map(|file| named(FileKind::Names, file))
}

fn of_proxy(spec: &At<ProxySpec>) -> Vec<Reference> {
    let mut names = of_ingress(&spec.as_ingress());
    let credentials = spec.credentials.iter();
    names.extend(credentials.map(|credentials| named(FileKind::Credentials, &credentials.file)));
    names
}

fn of_ingress(spec: &IngressSpec) -> Vec<Reference> {
    let certificates = spec.certificate.iter().chain(&spec.certificates);
    let certificates = certificates.chain(&spec.agent_authority);
    let mut names: Vec<Reference> =
        certificates.flat_map(|certificate| of_certificate(certificate)).collect();
    if let Some(clients) = &spec.client_certificates {
        names.extend(clients.ca_file.iter().chain(&clients.ca_files).map(authorities));
        let lists = clients.crl_file.iter().chain(&clients.crl_files);
        names.extend(lists.map(|name| named(FileKind::RevocationLists, name)));
    }
    names.extend(spec.client_authority_if_present.iter().map(authorities));
    let backends = spec.backend_tls.as_ref();
    names.extend(backends.and_then(|tls| tls.ca_file.as_ref()).map(authorities));
    let direct = spec.direct_routes.as_ref();
    names.extend(direct.and_then(|direct| direct.ca_file.as_ref()).map(authorities));
    names
}

fn of_upstream(spec: &UpstreamSpec) -> Vec<Reference> {
    let Some(tls) = &spec.tls else { return Vec::new() };
    let authority = tls.ca_file.iter().map(authorities);
    let certificate =
        tls.client_certificate.iter().flat_map(|certificate| of_certificate(certificate));
    authority.chain(certificate).collect()
}

fn of_certificate(spec: &CertificateSpec) -> Vec<Reference> {
    let files = spec.files().map_or_else(Vec::new, |(certificate, key)| {
        vec![(FileKind::Certificate, certificate), (FileKind::Key, key)]
    });
    let account = spec.acme.as_ref().and_then(|acme| acme.account_key_file.as_ref());
    let account = account.map(|name| named(FileKind::Key, name));
    files.into_iter().chain(account).collect()
}

/// Returns the address of each entry that wants a certificate by ACME, and what it wants.
pub(crate) fn by_acme(spec: &TenantSpec) -> Vec<(&str, &AcmeSpec)> {
    let ingress = spec
        .ingress
        .iter()
        .map(|entry| (&*entry.address.value, entry.certificate.iter().chain(&entry.certificates)));
    let proxies =
        spec.egress.proxy.iter().map(|entry| {
            (&*entry.address.value, entry.certificate.iter().chain(&entry.certificates))
        });
    let wanted = ingress.chain(proxies).flat_map(|(address, certificates)| {
        certificates.filter_map(move |one| Some((address, &one.value.acme.as_ref()?.value)))
    });
    wanted.collect()
}

fn authorities(name: &At<String>) -> Reference {
    named(FileKind::Authorities, name)
}

fn named(kind: FileKind, name: &At<String>) -> Reference {
    (kind, name.value.clone())
}
