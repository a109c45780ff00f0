//! `routes`: what a request looks like, and what is done with it.
//!
//! A bad route leaves out its whole listener: without it, requests meant for it would fall through to a broader one. Deliberately
//! absent: the order; the listener sorts its routes once all are read.

use std::sync::Arc;

use durward_model::route::{
    Action, Forward, HeaderMatch, HostPattern, PathMatch, Redirect, RouteMatch, WeightedUpstream,
};
use durward_model::upstream::{UpstreamIndex, UpstreamProtocol};
use durward_model::{Route, SourceSet};

use super::header;
use super::report::{Field, Report};
use super::upstream_set::UpstreamSet;
use super::{times, words};
use crate::place::{At, Place};
use crate::spec::route::{RedirectSpec, RespondSpec, RouteSpec, WeightedUpstreamSpec};

/// Kind of traffic that a listener forwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrying {
    /// HTTP.
    Requests,
    /// Bytes.
    Bytes,
    /// UDP.
    Datagrams,
}

/// The route, or `None` after an error.
pub(crate) fn route(
    report: &mut Report<'_>,
    upstreams: &mut UpstreamSet<'_>,
    spec: &At<RouteSpec>,
    (field, position): (&Field<'_>, usize),
) -> Option<Route> {
    let before = report.errors();
    let matches = matches(report, spec, field);
    let action = action(report, upstreams, spec, field);
    let request_headers = header::rules(
        report,
        &spec.request_headers,
        &field.name("requestHeaders"),
        header::Direction::Request,
    );
    let response_headers = header::rules(
        report,
        &spec.response_headers,
        &field.name("responseHeaders"),
        header::Direction::Response,
    );
    let name = spec.name.as_ref().map_or_else(
        || Some(Arc::from(format!("routes[{position}]"))),
        |name| report.check("BadName", name, &field.name("name"), route_name),
    );
    if report.errors() > before {
        return None;
    }
    Some(Route {
        name: name?,
        matches: matches?,
        action: action?,
        request_headers,
        response_headers,
        origin: report.source().origin(spec.place),
    })
}

/// A name goes into logs.
fn route_name(text: &str) -> Result<Arc<str>, String> {
    let printable = text.chars().all(|character| !character.is_control());
    if printable && (1..=128).contains(&text.len()) {
        Ok(Arc::from(text))
    } else {
        Err("is not a name: use 1 to 128 characters, none of them a control character".to_owned())
    }
}

fn matches(report: &mut Report<'_>, spec: &RouteSpec, field: &Field<'_>) -> Option<RouteMatch> {
    let before = report.errors();
    let hosts = hosts(report, spec, field);
    let path = path(report, spec, field);
    let methods_field = field.name("methods");
    let methods = spec.methods.iter().enumerate();
    let methods = methods
        .filter_map(|(at, method)| {
            report.check("BadMethod", method, &methods_field.index(at), words::method)
        })
        .collect();
    let headers = header_matches(report, spec, field);
    let sources = networks(report, spec.sources.as_ref(), &field.name("sources"));
    if report.errors() > before {
        return None;
    }
    Some(RouteMatch { hosts, path: path?, methods, headers, sources })
}

/// The hosts of `host` and `hosts`.
pub(crate) fn hosts(
    report: &mut Report<'_>,
    spec: &RouteSpec,
    field: &Field<'_>,
) -> Vec<HostPattern> {
    let many = field.name("hosts");
    let one = spec.host.iter().map(|host| (host, field.name("host")));
    let more = spec.hosts.iter().enumerate().map(|(at, host)| (host, many.index(at)));
    let mut hosts = Vec::new();
    for (host, field) in one.chain(more) {
        let pattern = report.check("BadHost", host, &field, words::host_pattern);
        hosts.extend(pattern.filter(|pattern| !hosts.contains(pattern)));
    }
    hosts
}

fn path(report: &mut Report<'_>, spec: &RouteSpec, field: &Field<'_>) -> Option<PathMatch> {
    match (&spec.path, &spec.path_prefix) {
        (None, None) => Some(PathMatch::default()),
        (Some(path), None) => report
            .check("BadPath", path, &field.name("path"), words::exact_path)
            .map(PathMatch::Exact),
        (None, Some(prefix)) => report
            .check("BadPath", prefix, &field.name("pathPrefix"), words::path_prefix)
            .map(PathMatch::Prefix),
        (Some(path), Some(_)) => {
            report.error("BadPath", path.place, field, "has both path and pathPrefix: keep one");
            None
        }
    }
}

fn header_matches(
    report: &mut Report<'_>,
    spec: &RouteSpec,
    field: &Field<'_>,
) -> Vec<HeaderMatch> {
    let list = field.name("headers");
    let mut matches = Vec::new();
    for (at, header) in spec.headers.iter().enumerate() {
        let field = list.index(at);
        let name = report.check("BadHeader", &header.name, &field.name("name"), words::header_name);
        let value = report.check_optional(
            "BadHeader",
            header.value.as_ref(),
            &field.name("value"),
            words::header_value,
        );
        if let (Some(name), Some(value)) = (name, value) {
            matches.push(HeaderMatch { name, value });
        }
    }
    matches
}

/// A set of networks; a list that is written but empty admits no client and gets a warning.
pub(crate) fn networks(
    report: &mut Report<'_>,
    written: Option<&At<Vec<At<String>>>>,
    field: &Field<'_>,
) -> Option<SourceSet> {
    let written = written?;
    if written.is_empty() {
        report.warning(
            "NobodyAllowed",
            written.place,
            field,
            "is empty, so nobody is admitted: name networks, or remove it",
        );
    }
    let blocks = written.iter().enumerate();
    let blocks: Vec<_> =
        blocks.filter_map(|(at, block)| report.network(block, &field.index(at))).collect();
    Some(SourceSet::new(blocks))
}

fn action(
    report: &mut Report<'_>,
    upstreams: &mut UpstreamSet<'_>,
    spec: &At<RouteSpec>,
    field: &Field<'_>,
) -> Option<Action> {
    let forwards = spec.upstream.is_some() || !spec.upstreams.is_empty();
    let chosen = [forwards, spec.redirect.is_some(), spec.respond.is_some()];
    if chosen.iter().filter(|chosen| **chosen).count() != 1 {
        let sentence = "needs exactly one of upstream, upstreams, redirect and respond";
        report.error("BadRoute", spec.place, field, sentence);
        return None;
    }
    if !forwards && let Some(rewrite) = &spec.rewrite {
        report.error(
            "BadRoute",
            rewrite.place,
            &field.name("rewrite"),
            "needs an upstream beside it",
        );
        return None;
    }
    if let Some(redirect) = &spec.redirect {
        return self::redirect(report, redirect, &field.name("redirect")).map(Action::Redirect);
    }
    if let Some(respond) = &spec.respond {
        return self::respond(report, respond, &field.name("respond"));
    }
    let targets = Targets { one: spec.upstream.as_ref(), many: &spec.upstreams, place: spec.place };
    let upstreams = weighted(report, upstreams, targets, field, Carrying::Requests);
    let timeout = report.check_optional(
        "BadDuration",
        spec.timeout.as_ref(),
        &field.name("timeout"),
        |text| times::REQUEST.read(text),
    );
    let (prefix, host) = spec.rewrite.as_ref().map_or((Some(None), Some(None)), |rewrite| {
        let field = field.name("rewrite");
        let prefix = rewrite.path_prefix.as_ref();
        (
            report.check_optional("BadPath", prefix, &field.name("pathPrefix"), words::path_prefix),
            report.check_optional(
                "BadHost",
                rewrite.host.as_ref(),
                &field.name("host"),
                words::authority,
            ),
        )
    });
    Some(Action::Forward(Forward {
        upstreams: upstreams?,
        replace_prefix: prefix?,
        host: host?,
        timeout: timeout?,
    }))
}

/// The ways a document names where something goes.
#[derive(Clone, Copy)]
pub(crate) struct Targets<'a> {
    pub(crate) one: Option<&'a At<String>>,
    pub(crate) many: &'a [At<WeightedUpstreamSpec>],
    pub(crate) place: Place,
}

/// The upstreams with their weights, or `None` after an error.
pub(crate) fn weighted(
    report: &mut Report<'_>,
    upstreams: &mut UpstreamSet<'_>,
    targets: Targets<'_>,
    field: &Field<'_>,
    carrying: Carrying,
) -> Option<Vec<WeightedUpstream>> {
    let list = field.name("upstreams");
    if let (Some(one), false) = (targets.one, targets.many.is_empty()) {
        report.error("BadRoute", one.place, field, "has both upstream and upstreams: keep one");
        return None;
    }
    if let Some(name) = targets.one {
        let upstream = resolve(report, upstreams, name, &field.name("upstream"), carrying)?;
        return Some(vec![WeightedUpstream { upstream, weight: 1 }]);
    }
    let before = report.errors();
    let mut weighted = Vec::new();
    for (at, spec) in targets.many.iter().enumerate() {
        let field = list.index(at);
        if let Some(upstream) =
            resolve(report, upstreams, &spec.name, &field.name("name"), carrying)
        {
            weighted.push(WeightedUpstream { upstream, weight: spec.weight.unwrap_or(1) });
        }
    }
    if report.errors() > before {
        return None;
    }
    if weighted.iter().all(|choice| choice.weight == 0) {
        report.error(
            "BadWeights",
            targets.place,
            &list,
            "have weight 0, all of them: give one a weight",
        );
        return None;
    }
    weighted.retain(|choice| choice.weight > 0);
    Some(weighted)
}

fn resolve(
    report: &mut Report<'_>,
    upstreams: &mut UpstreamSet<'_>,
    name: &At<String>,
    field: &Field<'_>,
    carrying: Carrying,
) -> Option<UpstreamIndex> {
    match upstreams.find(name) {
        Ok((index, protocol)) => {
            let unfitting = match (carrying, protocol) {
                (Carrying::Requests, UpstreamProtocol::Tcp) => {
                    Some("has protocol TCP, and this listener carries HTTP: give it HTTP1 or HTTP2")
                }
                (Carrying::Requests, UpstreamProtocol::Udp) => {
                    Some("has protocol UDP, and this listener carries HTTP: give it HTTP1 or HTTP2")
                }
                (Carrying::Bytes, UpstreamProtocol::Udp) => {
                    Some("has protocol UDP, and this listener carries TCP: give it TCP")
                }
                (Carrying::Datagrams, protocol) if protocol != UpstreamProtocol::Udp => Some(
                    "has another protocol, and this listener carries UDP: give it UDP, and use it for UDP listeners alone",
                ),
                _ => None,
            };
            if let Some(unfitting) = unfitting {
                let sentence = format!("{:?} {unfitting}", name.value);
                report.error("UpstreamProtocol", name.place, field, &sentence);
                return None;
            }
            Some(index)
        }
        Err(sentence) => {
            report.error("UpstreamUnknown", name.place, field, &sentence);
            None
        }
    }
}

fn redirect(report: &mut Report<'_>, spec: &RedirectSpec, field: &Field<'_>) -> Option<Redirect> {
    const DEFAULT: At<u16> = At::new(308, Place { line: 0, start: 0, len: 0 });
    let status = spec.status.unwrap_or(DEFAULT);
    let known = [301, 302, 303, 307, 308].contains(&status.value);
    if !known {
        let sentence = format!("{} is not a redirect: use 301, 302, 303, 307 or 308", status.value);
        report.error("OutOfRange", status.place, &field.name("status"), &sentence);
    }
    let scheme =
        report.check_optional("BadScheme", spec.scheme.as_ref(), &field.name("scheme"), |text| {
            match text {
                "http" | "https" => Ok(Arc::from(text)),
                _ => Err("is not a scheme: write http or https".to_owned()),
            }
        });
    let host =
        report.check_optional("BadHost", spec.host.as_ref(), &field.name("host"), words::host);
    let path = report.check_optional(
        "BadPath",
        spec.path.as_ref(),
        &field.name("path"),
        words::origin_form,
    );
    let port = report.number(spec.port, &field.name("port"), (1, u16::MAX), 0);
    let port = port.map(|port| Some(port).filter(|port| *port > 0));
    known.then_some(Redirect {
        status: status.value,
        scheme: scheme?,
        host: host?,
        port: port?,
        path: path?,
    })
}

fn respond(report: &mut Report<'_>, spec: &RespondSpec, field: &Field<'_>) -> Option<Action> {
    let status = report.number(spec.status, &field.name("status"), (200, 599), 200)?;
    let body = spec.body.as_ref().map_or("", |body| &body.value);
    if let Some(written) = &spec.body {
        let fault = if body.len() > 64 * 1024 {
            Some("is longer than 64 KiB")
        } else if matches!(status, 204 | 205 | 304) && !body.is_empty() {
            Some("is not allowed with status 204, 205 or 304")
        } else {
            None
        };
        if let Some(fault) = fault {
            report.error("BadBody", written.place, &field.name("body"), fault);
            return None;
        }
    }
    Some(Action::Respond { status, body: Arc::from(body) })
}
