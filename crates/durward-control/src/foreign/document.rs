//! An Ingress as a document: what it asks for, and the names of the Services and Secrets that this needs.

use std::collections::BTreeSet;

use super::asked::{Action, Asked, Backend, Rule, SecretRef};
use super::extract::{Surroundings, extract};
use super::objects::Ingress;
use crate::place::{At, Place};
use crate::source::regular::FileKind;
use crate::spec::ingress::CertificateSpec;
use crate::spec::service::{ServicePortSpec, ServiceSpec};
use crate::spec::tenant::Metadata;

/// An Ingress of a tenant's namespace.
#[derive(Clone, Debug)]
pub struct IngressDocument {
    /// Its name and time of creation.
    pub metadata: Metadata,
    /// What it asks for.
    pub asked: Asked,
    services: Vec<ServiceSpec>,
    names: Vec<(FileKind, String)>,
}

impl IngressDocument {
    /// Reads the JSON of an Ingress.
    ///
    /// # Errors
    /// Fails, with a phrase for people, if it has another form.
    pub fn read(text: &str) -> Result<Self, String> {
        let ingress: Ingress = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let around = Surroundings { classes: &[], service: &|_, _| None, middleware: &|_, _| None };
        let asked = extract(&ingress, around);
        let written = |text: &String| At::new(text.clone(), Place::default());
        let metadata = Metadata {
            name: written(&ingress.metadata.name),
            creation_timestamp: ingress.metadata.creation_timestamp.as_ref().map(written),
            labels: ingress.metadata.labels.clone(),
            annotations: ingress.metadata.annotations.clone(),
        };
        let backends: BTreeSet<&Backend> = asked.rules.iter().filter_map(backend).collect();
        let services = backends.into_iter().map(service).collect();
        let names = names(&asked);
        Ok(Self { metadata, asked, services, names })
    }

    /// Returns the Services that requests go to, each port once.
    pub fn services(&self) -> impl Iterator<Item = &ServiceSpec> {
        self.services.iter()
    }

    /// Returns the entries of Secrets that are needed.
    #[must_use]
    pub fn names(&self) -> &[(FileKind, String)] {
        &self.names
    }
}

/// Returns the backend of a rule, if its requests go to one.
#[must_use]
pub fn backend(rule: &Rule) -> Option<&Backend> {
    match &rule.action {
        Action::Forward(backend) => Some(backend),
        Action::Redirect(_) | Action::Refuse => None,
    }
}

/// Returns the port of a Service that a backend is. It is in the namespace of the Ingress.
#[must_use]
pub fn service(backend: &Backend) -> ServiceSpec {
    ServiceSpec {
        name: At::new(backend.service.to_string(), Place::default()),
        port: At::new(ServicePortSpec(backend.port()), Place::default()),
        namespace: None,
    }
}

/// Returns the certificate in a Secret that an Ingress names.
#[must_use]
pub fn certificate(asked: &Asked, secret: &SecretRef) -> CertificateSpec {
    let secret_name = Some(At::new(named(asked, secret), Place::default()));
    CertificateSpec { secret_name, ..CertificateSpec::default() }
}

/// Returns the entry with the authorities in a Secret that an Ingress names.
#[must_use]
pub fn authorities(asked: &Asked, secret: &SecretRef) -> String {
    format!("secret:{}/ca.crt", named(asked, secret))
}

/// Names a Secret as documents do: with its namespace if that is another one.
fn named(asked: &Asked, secret: &SecretRef) -> String {
    if secret.namespace == asked.id.namespace {
        secret.name.to_string()
    } else {
        secret.to_string()
    }
}

fn names(asked: &Asked) -> Vec<(FileKind, String)> {
    let of_certificate = |secret: &SecretRef| {
        let files = certificate(asked, secret).files();
        files.map(|(chain, key)| [(FileKind::Certificate, chain), (FileKind::Key, key)])
    };
    let shown = asked.tls.iter().filter_map(|tls| tls.secret.as_ref());
    let mut names: Vec<_> = shown.filter_map(of_certificate).flatten().collect();
    // A Service may say that TLS is spoken.
    let tls = &asked.settings.backend_tls;
    let roots = tls.authorities.iter();
    names.extend(roots.map(|secret| (FileKind::Authorities, authorities(asked, secret))));
    names.extend(tls.client_certificate.iter().filter_map(of_certificate).flatten());
    names
}
