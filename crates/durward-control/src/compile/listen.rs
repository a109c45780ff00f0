//! `listen`: the socket a listener is reached through and how that socket knows destinations.
//!
//! Deliberately absent: sockets, and whether two listeners' wishes for one fit together; claims decide that.

use std::net::{IpAddr, SocketAddr};

use durward_model::{DestinationMode, SourceSet};

use super::report::{Field, Report};
use super::{listener, transparent, words};
use crate::place::{At, Place};
use crate::spec::ingress::{DestinationSpec, IngressSpec, ListenSpec, ProtocolSpec};

/// The socket's address and its mode, or `None` after an error.
pub(crate) fn reached(
    report: &mut Report<'_>,
    spec: &IngressSpec,
    (address, port): (IpAddr, u16),
    field: &Field<'_>,
) -> Option<(SocketAddr, DestinationMode)> {
    let Some(listen) = &spec.listen else {
        let bind = SocketAddr::new(address, port);
        return free(report, bind, spec.address.place, field)
            .map(|bind| (bind, DestinationMode::Bound));
    };
    let field = &field.name("listen");
    let local = report.check_optional(
        "BadAddress",
        listen.address.as_ref(),
        &field.name("address"),
        words::local_address,
    );
    let local_port = report.number(listen.port, &field.name("port"), (1, u16::MAX), port);
    let mode = mode(report, listen, field);
    let local = local?.unwrap_or(address);
    let (bind, mode) = (SocketAddr::new(local, local_port?), mode?);
    if listener::protocol(spec) == ProtocolSpec::Udp
        && !suits_datagrams(report, listen, (bind, &mode), field)
    {
        return None;
    }
    if mode == DestinationMode::Bound && !arrives(local, address) {
        let sentence = format!(
            "is accepted on {local}, where connections to {address} never arrive: listen on {address} or on every address, or say \
             how the destination is known (destination: ProxyProtocol, OriginalDestination, Transparent or Port)"
        );
        let place = listen.address.as_ref().map_or(listen.place, |written| written.place);
        report.error("BadListen", place, field, &sentence);
        return None;
    }
    free(report, bind, listen.place, field).map(|bind| (bind, mode))
}

/// Returns true if datagrams can be received and answered by a socket, and says otherwise why not.
fn suits_datagrams(
    report: &mut Report<'_>,
    listen: &At<ListenSpec>,
    (bind, mode): (SocketAddr, &DestinationMode),
    field: &Field<'_>,
) -> bool {
    if *mode != DestinationMode::Bound {
        let sentence =
            "means nothing here: UDP is received where it is sent to, by destination: Bound";
        report.error("FieldUnfitting", listen.place, &field.name("destination"), sentence);
        return false;
    }
    if bind.ip().is_unspecified() {
        // The kernel would choose the source address of answers, which may be another tenant's.
        let sentence =
            format!("{} is every address, and answers must leave from one: name it", bind.ip());
        let place = listen.address.as_ref().map_or(listen.place, |written| written.place);
        report.error("BadListen", place, &field.name("address"), &sentence);
        return false;
    }
    true
}

/// The socket, unless the kernel hands connections of transparent egress to it.
fn free(
    report: &mut Report<'_>,
    bind: SocketAddr,
    place: Place,
    field: &Field<'_>,
) -> Option<SocketAddr> {
    if !transparent::is_socket(bind) {
        return Some(bind);
    }
    let sentence =
        format!("is accepted on {bind}, where egress.transparent comes in: use another port");
    report.error("BadListen", place, field, &sentence);
    None
}

/// Returns true if a socket bound to `local` sees connections made to `address`.
fn arrives(local: IpAddr, address: IpAddr) -> bool {
    local == address || (local.is_unspecified() && (local.is_ipv6() || address.is_ipv4()))
}

fn mode(
    report: &mut Report<'_>,
    listen: &At<ListenSpec>,
    field: &Field<'_>,
) -> Option<DestinationMode> {
    let destination = listen.destination.map(|at| at.value).unwrap_or_default();
    let proxies_field = field.name("trustedProxies");
    if destination != DestinationSpec::ProxyProtocol
        && let Some(proxy) = listen.trusted_proxies.first()
    {
        let sentence =
            "means nothing here: only destination: ProxyProtocol reads a header from proxies";
        report.error("FieldUnfitting", proxy.place, &proxies_field, sentence);
        return None;
    }
    if let Some(inner) = listen.inner_headers.filter(|inner| inner.value)
        && destination != DestinationSpec::ProxyProtocol
    {
        let sentence = "means nothing here: only destination: ProxyProtocol reads headers";
        report.error("FieldUnfitting", inner.place, &field.name("innerHeaders"), sentence);
        return None;
    }
    Some(match destination {
        DestinationSpec::Bound => DestinationMode::Bound,
        DestinationSpec::OriginalDestination => DestinationMode::OriginalDestination,
        DestinationSpec::Transparent => DestinationMode::Transparent,
        DestinationSpec::Port => DestinationMode::Port,
        DestinationSpec::ProxyProtocol => {
            if listen.trusted_proxies.is_empty() {
                let sentence = "is missing: name the networks whose PROXY headers are believed, or anybody could pretend any address";
                report.error("TrustMissing", listen.place, &proxies_field, sentence);
                return None;
            }
            let before = report.errors();
            let blocks = listen.trusted_proxies.iter().enumerate();
            let blocks: Vec<_> = blocks
                .filter_map(|(at, block)| report.network(block, &proxies_field.index(at)))
                .collect();
            if report.errors() > before {
                return None;
            }
            DestinationMode::ProxyProtocol {
                trusted: SourceSet::new(blocks),
                inner: listen.inner_headers.is_some_and(|inner| inner.value),
            }
        }
    })
}
