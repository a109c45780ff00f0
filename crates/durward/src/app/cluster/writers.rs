//! The writers of statuses: of our own kinds, of SmartNat's Mappings, of Ingresses, of TLSRoutes and of Services.

use durward_kube::Clients;
use durward_kube::ingresses::IngressWriter;
use durward_kube::lease::Lease;
use durward_kube::load_balancers::LoadBalancerWriter;
use durward_kube::object::Object;
use durward_kube::smartnat::MappingWriter;
use durward_kube::status::{Writer, WriterReport};
use durward_kube::tls_routes::TlsRouteWriter;
use durward_model::{Kind, ResourceId};

use super::ApiOptions;

/// Everything that writes into objects.
pub(super) struct Writers {
    pub(super) own: Writer,
    /// There if Mappings are read.
    pub(super) mappings: Option<MappingWriter>,
    /// Present if Ingresses are read.
    pub(super) ingresses: Option<IngressWriter>,
    /// Present if objects of other controllers that name hosted API servers are read.
    pub(super) tls_routes: Option<TlsRouteWriter>,
    /// Present if Services of type `LoadBalancer` are watched.
    pub(super) load_balancers: Option<LoadBalancerWriter>,
}

impl Writers {
    /// Starts to write; `None` if nothing is to be written. Called within a runtime.
    pub(super) fn start(clients: &Clients, options: &ApiOptions) -> Option<Self> {
        let writing = options.statuses.as_ref()?;
        let client = || clients.write.clone();
        let mappings = options.sources.smartnat.as_ref();
        let own = Writer::start(client(), writing.clone());
        let may_write = own.may_write();
        Some(Self {
            tls_routes: options
                .sources
                .foreign_apis
                .then(|| TlsRouteWriter::start(client(), writing, may_write.clone())),
            own,
            ingresses: options
                .sources
                .ingresses
                .then(|| IngressWriter::start(client(), writing, may_write)),
            load_balancers: options
                .sources
                .load_balancers
                .then(|| LoadBalancerWriter::start(client(), writing)),
            mappings: mappings.map(|options| MappingWriter::start(client(), writing, options)),
        })
    }

    /// Returns the claim to the Lease whose holder writes the statuses of our own kinds. Of the others each gateway says its share.
    pub(super) fn lease(&self) -> Option<Lease> {
        self.own.lease()
    }

    /// Records an object as it is in the API server.
    pub(super) fn observe(&self, object: &Object) {
        match (object.id.kind, &self.mappings, &self.ingresses, &self.tls_routes) {
            (Kind::Mapping, Some(mappings), ..) => mappings.observe(object),
            (Kind::Ingress, _, Some(ingresses), _) => ingresses.observe(object),
            (Kind::TlsRoute, .., Some(routes)) => routes.observe(object),
            _ => self.own.observe(object),
        }
    }

    /// Forgets an object that is gone.
    pub(super) fn forget(&self, id: &ResourceId) {
        match (id.kind, &self.mappings, &self.ingresses, &self.tls_routes) {
            (Kind::Mapping, Some(mappings), ..) => mappings.forget(id),
            (Kind::Ingress, _, Some(ingresses), _) => ingresses.forget(id),
            (Kind::TlsRoute, .., Some(routes)) => routes.forget(id),
            _ => self.own.forget(id),
        }
    }

    /// Returns what all of them did and have to do.
    pub(super) fn report(&self) -> WriterReport {
        let mut report = self.own.report();
        if let Some(mappings) = &self.mappings {
            report.add(&mappings.report());
        }
        report
    }
}
