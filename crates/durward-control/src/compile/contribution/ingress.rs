//! An Ingress: upstreams of the Services that it names, and certificates of its Secrets. Which listeners its routes are added to is decided in [`super::attach`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use durward_model::{Certificate, Kind, Origin, ResourceId, Upstream};

use super::{Contribution, hosted_api};
use crate::change::ServiceEndpoints;
use crate::compile::certificates::{Files, Purpose};
use crate::compile::report::{Field, Report};
use crate::compile::upstream::{self, Surroundings};
use crate::document::Document;
use crate::foreign::asked::{Asked, Backend, BackendProtocol, BackendTls};
use crate::foreign::{Effect, Finding, IngressDocument, document};
use crate::place::{At, Place};
use crate::spec::upstream::{BalanceSpec, UpstreamProtocolSpec, UpstreamSpec, UpstreamTlsSpec};

/// What an Ingress adds to listeners of its tenant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IngressPart {
    pub(crate) asked: Asked,
    /// Upstreams of its backends; a backend without one cannot be used. They have no sources yet.
    pub(crate) upstreams: BTreeMap<Backend, Arc<Upstream>>,
    /// Certificates of its Secrets in the order of `spec.tls`, each once.
    pub(crate) certificates: Vec<Arc<Certificate>>,
}

/// Returns what an Ingress adds. What is wrong with a part of it costs that part: its requests are answered 503.
pub(super) fn read(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    document: &Document,
    ingress: &IngressDocument,
) -> Contribution {
    let asked = &ingress.asked;
    asked.findings.iter().filter_map(adapted).for_each(|finding| report.foreign(&finding));
    let mut reading = Reading { report, files, asked };
    let part = IngressPart {
        asked: asked.clone(),
        upstreams: reading.upstreams(),
        certificates: reading.certificates(),
    };
    let origin = document.source.origin(ingress.metadata.name.place);
    Contribution { ingress: Some(Arc::new(part)), ..Contribution::new(origin) }
}

/// Returns a finding in the words of a gateway whose listeners and limits are in the Tenant.
fn adapted(finding: &Finding) -> Option<Finding> {
    let said = |effect, sentence: &str| {
        Some(Finding { effect, sentence: sentence.to_owned(), ..finding.clone() })
    };
    match (finding.reason, finding.effect) {
        ("TenantLimit", Effect::Otherwise) => {
            said(Effect::Weaker, "is not applied: limits are in spec.limits of the Tenant")
        }
        // The listener's own certificates are shown.
        ("CertificateMissing", _) => None,
        _ => Some(finding.clone()),
    }
}

struct Reading<'r, 'a, 'f, 's> {
    report: &'r mut Report<'a>,
    files: &'r mut Files<'f>,
    asked: &'s Asked,
}

impl Reading<'_, '_, '_, '_> {
    fn upstreams(&mut self) -> BTreeMap<Backend, Arc<Upstream>> {
        let mut upstreams = BTreeMap::new();
        let asked = self.asked;
        let mut seen = BTreeSet::new();
        for rule in &asked.rules {
            let backend = document::backend(rule).filter(|backend| seen.insert(*backend));
            let Some(backend) = backend else { continue };
            if let Some(upstream) = self.upstream(backend, &rule.field) {
                upstreams.insert(backend.clone(), Arc::new(upstream));
            }
        }
        upstreams
    }

    fn upstream(&mut self, backend: &Backend, field: &str) -> Option<Upstream> {
        let asked = self.asked;
        let settings = &asked.settings;
        let protocol = settings.protocol.or_else(|| self.said(backend, field)).unwrap_or_default();
        let is_secured = protocol.is_tls() && !settings.passthrough;
        let spec = UpstreamSpec {
            service: Some(at(document::service(backend))),
            protocol: match protocol {
                _ if settings.passthrough => Some(at(UpstreamProtocolSpec::Tcp)),
                BackendProtocol::Http | BackendProtocol::Https => None,
                BackendProtocol::H2c | BackendProtocol::H2 => Some(at(UpstreamProtocolSpec::Http2)),
            },
            tls: is_secured.then(|| at(self.tls(backend))),
            balance: settings.by_client.then_some(BalanceSpec::ClientHash),
            ..UpstreamSpec::default()
        };
        let (egress, implied) = ([], BTreeMap::default());
        let share = ServiceEndpoints::MOST;
        let around = Surroundings { egress: &egress, wanted: &egress, implied: &implied, share };
        let (written, spec) = (at("backend".to_owned()), at(spec));
        let field = &Field::root(field);
        let made = upstream::at_field(self.report, self.files, (&written, &spec), around, field)?;
        let (name, origin) = self.identity(backend);
        // Behind names that are passed through are API servers and their konnectivity servers, whose streams are silent for an hour.
        let stream_idle = settings.passthrough.then_some(hosted_api::IDLE);
        Some(Upstream { name, origin, stream_idle, ..made })
    }

    /// Returns what the Service says is spoken.
    fn said(&mut self, backend: &Backend, field: &str) -> Option<BackendProtocol> {
        let endpoints = self.files.endpoints(&document::service(backend)).ok()?;
        let said = BackendProtocol::of_service(endpoints.app_protocol.as_deref()?)?;
        if said.is_tls() && self.asked.settings.backend_tls.authorities.is_none() {
            let sentence = "is spoken to by TLS, as the Service's appProtocol says, and verified with the host's own authorities: name another with proxy-ssl-secret or server-ca";
            let field = Field::root(field);
            self.report.warning("AlwaysVerified", Place::default(), &field, sentence);
        }
        Some(said)
    }

    /// Returns the name and origin of an upstream. Ingresses that speak to a Service as every other does have the same one.
    fn identity(&self, backend: &Backend) -> (Arc<str>, Origin) {
        let (settings, id) = (&self.asked.settings, &self.asked.id);
        let port = format!("{}:{}", backend.service, backend.port());
        let is_plain = settings.protocol.is_none()
            && settings.backend_tls == BackendTls::default()
            && !(settings.by_client || settings.passthrough);
        // No upstream that a Tenant names has a slash.
        let (name, kind, of) = if is_plain {
            (format!("service/{}/{port}", id.namespace), Kind::Service, &backend.service)
        } else {
            (format!("ingress/{id}/{port}"), Kind::Ingress, &id.name)
        };
        let id = ResourceId::namespaced(kind, &id.namespace, of);
        (Arc::from(name), Origin::Object { id, field: Arc::from("") })
    }

    /// Endpoints are addresses, which no certificate names: without a name it is that of the Service.
    fn tls(&self, backend: &Backend) -> UpstreamTlsSpec {
        let tls = &self.asked.settings.backend_tls;
        let of_service = || format!("{}.{}.svc", backend.service, backend.namespace);
        let name = tls.name.as_deref().map_or_else(of_service, str::to_owned);
        let authorities = tls.authorities.as_ref();
        let certificate = tls.client_certificate.as_ref();
        UpstreamTlsSpec {
            ca_file: authorities.map(|secret| at(document::authorities(self.asked, secret))),
            verify_name: Some(at(name)),
            client_certificate: certificate
                .map(|secret| at(document::certificate(self.asked, secret))),
            min_tls_version: None,
        }
    }

    /// Reads the certificates. A host whose certificate is missing is shown another, which clients refuse.
    fn certificates(&mut self) -> Vec<Arc<Certificate>> {
        let asked = self.asked;
        let (mut seen, mut certificates) = (BTreeSet::new(), Vec::new());
        for tls in &asked.tls {
            let Some(secret) = tls.secret.as_ref().filter(|secret| seen.insert(*secret)) else {
                continue;
            };
            let spec = at(document::certificate(asked, secret));
            let entry = Field::root(&tls.field);
            let field = entry.name("secretName");
            let purpose = Purpose::Server { shared: false };
            certificates.extend(self.files.certificate(self.report, &spec, &field, purpose));
        }
        certificates
    }
}

/// A value that stands nowhere in a text.
fn at<T>(value: T) -> At<T> {
    At::new(value, Place::default())
}
