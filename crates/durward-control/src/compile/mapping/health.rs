//! The checks of a mapping's endpoints: TCP connects, paced as those of upstreams are.
//!
//! The kernel leads packets to endpoints and reads none of them, so there is nothing to ask for by HTTP or TLS.

use durward_model::health::{HealthCheck, Probe};
use durward_model::mapping::MappedPort;
use durward_model::transport::Transport;

use crate::compile::report::{Field, Report};
use crate::compile::upstream;
use crate::place::At;
use crate::spec::upstream::HealthCheckSpec;

const WORD: &str = "BadHealthCheck";

/// Reads the check; `ports` are those of the mapping, or nothing while they are not known.
pub(super) fn check(
    report: &mut Report<'_>,
    spec: &At<HealthCheckSpec>,
    ports: &[MappedPort],
) -> Option<HealthCheck> {
    let field = &Field::SPEC.name("healthCheck");
    let before = report.errors();
    if let Some(place) = spec.tcp.filter(|tcp| !tcp.value).map(|tcp| tcp.place) {
        let sentence =
            "is false, and only TCP connects are checked: remove it, or all of healthCheck";
        report.error(WORD, place, &field.name("tcp"), sentence);
    }
    for (name, place) in upstream::probing(spec).filter(|(name, _)| *name != "tcp") {
        let sentence =
            "is for upstreams; a mapping's endpoints are checked by TCP connects: remove it";
        report.error(WORD, place, &field.name(name), sentence);
    }
    if !ports.is_empty() && ports.iter().all(|port| port.protocol != Transport::Tcp) {
        let sentence =
            "checks TCP ports, and all ports are UDP or SCTP: remove it, or map a TCP port";
        report.error(WORD, spec.place, field, sentence);
    }
    let check = upstream::paced(report, spec, field, Some(Probe::Tcp));
    check.filter(|_| report.errors() == before)
}
