//! Routing of a request: normalisation, the route, the rewrite, and the fields that describe the client to an upstream.
//!
//! Runs without waiting for anything.

mod chain;
mod headers;
mod id;
mod redirect;

use std::borrow::Cow;
use std::net::SocketAddr;

use durward_model::ClientAddr;
use durward_model::path::{self, PathFault};
use durward_model::request::{is_directed, normal_host, routed_path};
use durward_model::route::{Action, Forward, PathMatch, RequestView, Route, pick_weighted};
use durward_model::upstream::UpstreamIndex;

pub(crate) use chain::ProxyChain;
pub(crate) use headers::{Texts, rewrite};
pub(crate) use id::RequestId;

use crate::core::Core;
use crate::exchange::context::Http;
use crate::http::fields::Span;
use crate::http::message::{Framing, Request};
use crate::http::problem::Answer;
use crate::refusal::Refusal;

/// Result of routing.
pub(crate) enum Plan<'a> {
    /// Send the rewritten request to this upstream.
    Forward(&'a Forward, UpstreamIndex),
    /// Answer the request here.
    Answer(Answer),
}

/// Routes a request; returns the plan, the position of the route and the path as it was routed, and rewrites the request as the route wants it.
pub(crate) fn plan<'a>(
    http: &'a Http,
    request: &mut Request,
    chain: &ProxyChain,
    id: &RequestId,
) -> Result<(Plan<'a>, usize, Span), Refusal> {
    check_size(http, request)?;
    http.view.tenant().usage.request(http.limits())?;
    normalise_path(request)?;
    normalise_host(http, request);
    check_direction(http, request, chain)?;
    let (mut position, mut route) = find_route(http, request, chain).ok_or(Refusal::NoRoute)?;
    let path = request.path;
    // A redirect to the request's own target would loop for ever: the next route serves.
    while let Action::Redirect(redirect) = &route.action {
        if let Some(answer) = redirect::answer(http, request, chain, redirect) {
            return Ok((Plan::Answer(answer), position, path));
        }
        (position, route) =
            next_route(http, request, chain, position + 1).ok_or(Refusal::NoRoute)?;
    }
    let plan = match &route.action {
        Action::Forward(forward) => {
            let weights = forward.upstreams.iter().map(|choice| choice.weight);
            let choice = pick_weighted(weights, http.core.random())
                .and_then(|index| forward.upstreams.get(index))
                .ok_or(Refusal::NoRoute)?;
            headers::request(http, request, route, (chain, id));
            rewrite_target(request, route, forward);
            Plan::Forward(forward, choice.upstream)
        }
        Action::Redirect(_) => return Err(Refusal::NoRoute),
        Action::Respond { status, body } => Plan::Answer(Answer::text(*status, body)),
    };
    Ok((plan, position, path))
}

/// Returns position of the route and path of a request that was refused before it was routed: the refusal carries the route's headers.
pub(crate) fn locate(
    http: &Http,
    request: &mut Request,
    chain: &ProxyChain,
) -> Option<(usize, Span)> {
    normalise_path(request).ok()?;
    normalise_host(http, request);
    check_direction(http, request, chain).ok()?;
    find_route(http, request, chain).map(|(position, _)| (position, request.path))
}

/// Returns the client of a request: the one a trusted proxy names, or the connection's.
pub(crate) fn client(http: &Http, chain: &ProxyChain) -> ClientAddr {
    match chain.client {
        // X-Forwarded-For has no port; 0 stands for none.
        Some(client) => ClientAddr(SocketAddr::new(client, 0)),
        None => http.facts.client,
    }
}

/// Generates an id for a tunnel that no request asks for.
pub(crate) fn new_request_id(core: &Core) -> String {
    RequestId::new(core).as_str().to_owned()
}

fn check_size(http: &Http, request: &Request) -> Result<(), Refusal> {
    match (request.framing, http.limits().body_bytes) {
        (Framing::Length(length), Some(limit)) if length > limit => Err(Refusal::BodyTooLarge),
        _ => Ok(()),
    }
}

fn normalise_path(request: &mut Request) -> Result<(), Refusal> {
    if request.path() == "*" {
        return Ok(());
    }
    let normal = match path::normalise(request.path()) {
        Ok(Cow::Borrowed(_)) => return Ok(()),
        Ok(Cow::Owned(normal)) => normal,
        Err(fault) => return Err(Refusal::BadRequest { detail: path_detail(fault) }),
    };
    request.path = request.fields.store(normal.as_bytes());
    Ok(())
}

fn path_detail(fault: PathFault) -> &'static str {
    match fault {
        PathFault::NotAbsolute => "path does not begin with a slash",
        PathFault::BadEscape => "invalid percent-encoding in path",
        PathFault::DotSegment => "dot segment in path",
        PathFault::BadCharacter => "character in path that is not allowed",
    }
}

/// Normalises the host: lower case, no trailing dot; the destination's address if the client named none.
fn normalise_host(http: &Http, request: &mut Request) {
    if request.host.is_empty() {
        return name_destination(http, request);
    }
    let (length, stored) = match normal_host(request.host()) {
        Cow::Borrowed(normal) => (normal.len(), None),
        Cow::Owned(normal) => (normal.len(), Some(normal)),
    };
    request.host = match stored {
        None => request.host.first(length),
        Some(normal) => request.fields.store(normal.as_bytes()),
    };
}

/// Sets the host of a request that names none to the address its client connected to.
pub(crate) fn name_destination(http: &Http, request: &mut Request) {
    request.host = request.fields.store(http.texts.local.as_bytes());
    if request.authority.is_empty() {
        request.authority = request.fields.store(http.texts.authority.as_bytes());
    }
}

/// Checks the scheme, which must be the listener's or what a trusted proxy says. Over TLS the host must be one that the certificate shown for the SNI
/// is for, unless one of them is an address or none (RFC 9110 section 7.4, RFC 9113 section 9.1.1). Where tenants share the address by names, the host
/// must be a name of this tenant.
fn check_direction(http: &Http, request: &Request, chain: &ProxyChain) -> Result<(), Refusal> {
    let scheme = request.fields.bytes(request.scheme);
    if !scheme.is_empty() && !chain.allows_scheme(http, scheme) {
        return Err(Refusal::Misdirected);
    }
    let sni = http.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    let listener = http.view.listener();
    let directed = is_directed(listener.tls(), sni, request.host());
    // Names change hands while connections are open, so the configuration of now decides.
    let named = || http.core.shared.prepared.load().snapshot.is_named(listener, request.host());
    let directed = directed && (listener.names.is_none() || named());
    if directed { Ok(()) } else { Err(Refusal::Misdirected) }
}

fn find_route<'a>(
    http: &'a Http,
    request: &Request,
    chain: &ProxyChain,
) -> Option<(usize, &'a Route)> {
    http.service()?.routes.select(&view(http, request, chain))
}

/// Returns the first route from position `from` on that matches the request.
fn next_route<'a>(
    http: &'a Http,
    request: &Request,
    chain: &ProxyChain,
    from: usize,
) -> Option<(usize, &'a Route)> {
    let view = view(http, request, chain);
    http.service()?.routes.select_from(&view, from)
}

fn view<'r>(http: &Http, request: &'r Request, chain: &ProxyChain) -> RequestView<'r> {
    RequestView {
        host: request.host(),
        path: routed_path(request.path()),
        method: request.method(),
        client: client(http, chain).0.ip(),
        headers: &request.fields,
    }
}

fn rewrite_target(request: &mut Request, route: &Route, forward: &Forward) {
    if let Some(host) = &forward.host {
        request.authority = request.fields.store(host.as_bytes());
    }
    let Some(replacement) = &forward.replace_prefix else { return };
    if request.path() == "*" {
        return;
    }
    let matched = match &route.matches.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.len(),
    };
    let rest = request.path.skip(matched);
    request.path = joined(request, replacement, rest);
}

/// Joins `replacement` and `rest` with exactly one slash between them.
fn joined(request: &mut Request, replacement: &str, rest: Span) -> Span {
    let rest = request.fields.text(rest).to_owned();
    let head = replacement.strip_suffix('/').unwrap_or(replacement);
    let tail = if rest.is_empty() && replacement.ends_with('/') { "/" } else { &rest };
    request.fields.store_with(|out| {
        let begins = if head.is_empty() { tail } else { head };
        if !begins.starts_with('/') {
            out.push(b'/');
        }
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(tail.as_bytes());
    })
}
