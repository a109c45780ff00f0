//! The ports of a mapping and where each leads.

use std::net::{IpAddr, SocketAddr};

use durward_model::mapping::{Endpoints, MappedPort, PortRange};
use durward_model::transport::Transport;

use crate::cluster::ObjectFault;
use crate::compile::report::{Field, Report};
use crate::compile::{bounds, service_endpoints, upstream, words};
use crate::place::{At, Place};
use crate::spec::port_mapping::{MappedPortSpec, PortMappingSpec};
use crate::spec::service::ServiceSpec;
use crate::store::{Asker, Store};

/// More would make the kernel's tables large without being of use.
const ENDPOINTS: usize = 1024;

/// Services as the mapping may have them, and those that it cannot have any more.
pub(super) struct Services<'s> {
    pub(super) store: &'s Store,
    pub(super) asker: Option<Asker>,
    /// Positions of ports whose Service is gone, and why.
    pub(super) gone: Vec<(usize, ObjectFault)>,
    /// Endpoints that each of its ports may have of a Service.
    share: usize,
    /// True if one of them has `sessionAffinity: ClientIP`.
    pub(super) by_client: bool,
}

impl<'s> Services<'s> {
    pub(super) fn new(store: &'s Store, asker: Option<Asker>, spec: &PortMappingSpec) -> Self {
        let services = spec.ports.iter().filter_map(|port| port.service.as_ref());
        let size = |service| Some(store.endpoints(asker.as_ref()?, service).ok()?.at().len());
        let sizes: Vec<usize> = services.filter_map(|service| size(service)).collect();
        let share = service_endpoints::share(&sizes, bounds::ELEMENTS);
        Self { store, asker, gone: Vec::new(), share, by_client: false }
    }

    /// Returns the endpoints of the Service that a port names. Of one that is gone there are none, which is written down; other faults are reported.
    fn endpoints(
        &mut self,
        report: &mut Report<'_>,
        (position, port): (usize, &MappedPortSpec),
        service: &At<ServiceSpec>,
        field: &Field<'_>,
    ) -> Vec<Written> {
        let mut unfitting = |name: &str, place| {
            let sentence = "means nothing beside service, which has ports of its own: remove it";
            report.error("FieldUnfitting", place, &field.name(name), sentence);
        };
        if let Some(endpoints) = &port.endpoints {
            unfitting("endpoints", endpoints.place);
        }
        if let Some(target) = port.target_port {
            unfitting("targetPort", target.place);
        }
        if let Some(end) = port.end_port.filter(|end| end.value != port.port.value) {
            let sentence = "makes a range, and a port of a Service is one: map each port by itself";
            report.error("FieldUnfitting", end.place, &field.name("endPort"), sentence);
        }
        let Some(asker) = &self.asker else { return Vec::new() };
        match self.store.endpoints(asker, service) {
            Ok(found) => {
                self.by_client |= found.by_client;
                let field = field.name("service");
                let served = service_endpoints::served(report, service, &field, found, self.share);
                served.iter().map(|at| (at.ip(), Some(at.port()), service.place)).collect()
            }
            Err(fault) if fault.leaves_no_endpoints() => {
                self.gone.push((position, fault));
                Vec::new()
            }
            Err(fault) => {
                upstream::no_service(report, service, &field.name("service"), &fault);
                Vec::new()
            }
        }
    }
}

/// All ports that are sound; each fault of the others is reported.
pub(super) fn ports<'s>(
    report: &mut Report<'_>,
    spec: &PortMappingSpec,
    mut services: Services<'s>,
) -> (Vec<MappedPort>, Services<'s>) {
    let field = Field::SPEC.name("ports");
    if spec.ports.is_empty() {
        report.error("PortMissing", spec.place(), &field, "is empty: name an external port");
    }
    let common = Field::SPEC.name("endpoints");
    let common = endpoints(report, &spec.endpoints, &common);
    let mut ports: Vec<MappedPort> = Vec::with_capacity(spec.ports.len());
    for (at, written) in spec.ports.iter().enumerate() {
        let field = field.index(at);
        let before = report.errors();
        let of_service = written
            .service
            .as_ref()
            .map(|service| services.endpoints(report, (at, &written.value), service, &field));
        if report.errors() > before {
            continue;
        }
        let Some(port) = port(report, written, (&common, of_service), &field) else { continue };
        let overlaps = |known: &&MappedPort| {
            known.protocol == port.protocol && known.ports.overlaps(port.ports)
        };
        if let Some(known) = ports.iter().find(overlaps) {
            let sentence = format!(
                "{} {} is in this mapping twice: {} {} is mapped above",
                port.protocol, port.ports, known.protocol, known.ports
            );
            report.error("PortTwice", written.place, &field, &sentence);
        }
        ports.push(port);
    }
    (ports, services)
}

/// An endpoint's address, its port if it has one, and where it is written.
type Written = (IpAddr, Option<u16>, Place);

fn endpoints(report: &mut Report<'_>, written: &[At<String>], field: &Field<'_>) -> Vec<Written> {
    if written.len() > ENDPOINTS {
        let sentence = format!("has {} endpoints; at most {ENDPOINTS} are served", written.len());
        report.error("TooManyEndpoints", written[0].place, field, &sentence);
    }
    let endpoints = written.iter().enumerate().filter_map(|(at, written)| {
        let found =
            report.check("BadEndpoint", written, &field.index(at), words::endpoint_address)?;
        Some((found.0, found.1, written.place))
    });
    endpoints.collect()
}

fn port(
    report: &mut Report<'_>,
    written: &At<MappedPortSpec>,
    (common, of_service): (&[Written], Option<Vec<Written>>),
    field: &Field<'_>,
) -> Option<MappedPort> {
    let before = report.errors();
    let protocol = protocol(report, written.protocol.as_ref(), &field.name("protocol"));
    let ports = range(report, written, field);
    let target = written.target_port.and_then(|target| {
        report.number(Some(target), &field.name("targetPort"), (1, u16::MAX), target.value)
    });
    let own_field = field.name("endpoints");
    let own = written.endpoints.as_ref().map(|own| endpoints(report, own, &own_field));
    let own = of_service.or(own);
    let found = own.as_deref().unwrap_or(common);
    if found.is_empty() && report.errors() == before {
        report.warning(
            "EndpointsMissing",
            written.place,
            &own_field,
            "is empty: connections are refused until there is an endpoint",
        );
    }
    let ports = ports?;
    let single = ports.first() == ports.last();
    let number = |own: Option<u16>| own.or(target).or_else(|| single.then_some(ports.first()));
    let with_port = found.iter().filter(|(_, own, _)| number(*own).is_some()).count();
    let endpoints = if with_port == found.len() {
        let at = found.iter().filter_map(|(ip, own, _)| Some(SocketAddr::new(*ip, number(*own)?)));
        Endpoints::At(at.collect())
    } else if with_port == 0 {
        Endpoints::SamePort(found.iter().map(|(ip, ..)| *ip).collect())
    } else {
        let without = found.iter().find(|(_, own, _)| own.is_none());
        let place = without.map_or(written.place, |(.., place)| *place);
        let sentence = "names no port, but others of the range do: write all with a port, or none";
        report.error("EndpointPorts", place, &own_field, sentence);
        return None;
    };
    (report.errors() == before).then_some(MappedPort { protocol: protocol?, ports, endpoints })
}

fn protocol(
    report: &mut Report<'_>,
    written: Option<&At<String>>,
    field: &Field<'_>,
) -> Option<Transport> {
    let found = report.check_optional("BadProtocol", written, field, |text| {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Transport::Tcp),
            "udp" => Ok(Transport::Udp),
            "sctp" => Ok(Transport::Sctp),
            _ => Err("is not a protocol with ports: use TCP, UDP or SCTP".to_owned()),
        }
    });
    found.map(|found| found.unwrap_or(Transport::Tcp))
}

fn range(
    report: &mut Report<'_>,
    written: &MappedPortSpec,
    field: &Field<'_>,
) -> Option<PortRange> {
    let number = |report: &mut Report<'_>, port: At<u16>, name, least| {
        report.number(Some(port), &field.name(name), (least, u16::MAX), port.value)
    };
    let first = number(report, written.port, "port", 1)?;
    let last = match written.end_port {
        Some(last) => number(report, last, "endPort", first)?,
        None => first,
    };
    PortRange::new(first, last)
}
