//! What is done with a request: its one normal form, the route that takes it, and what an upstream is told about the client.
//!
//! Runs without waiting for anything. Deliberately absent: connections; see [`exchange`](crate::http::exchange).

mod headers;
mod id;
mod redirect;

use std::borrow::Cow;

use durward_model::path::{self, PathFault};
use durward_model::request::{is_directed, normal_host};
use durward_model::route::{Action, Forward, PathMatch, RequestView, Route, pick_weighted, select};
use durward_model::upstream::UpstreamIndex;

pub(super) use headers::{Texts, rewrite};
pub(super) use id::RequestId;

use crate::http::Http;
use crate::http::fields::Span;
use crate::http::message::{Framing, Request};
use crate::http::problem::Answer;
use crate::refusal::Refusal;

/// What is to be done.
pub(super) enum Plan<'a> {
    /// Send the request, now rewritten, to this upstream.
    Forward(&'a Forward, UpstreamIndex),
    /// Answer it here.
    Answer(Answer),
}

/// Finds what is to be done with a request, the position of its route and the path as it was routed; rewrites the request as the
/// route wants it.
pub(super) fn plan<'a>(
    http: &'a Http,
    request: &mut Request,
    id: &RequestId,
) -> Result<(Plan<'a>, usize, Span), Refusal> {
    check_size(http, request)?;
    http.view.tenant().usage.request(http.limits())?;
    normalise_path(request)?;
    normalise_host(http, request);
    check_direction(http, request)?;
    let (position, route) = find_route(http, request).ok_or(Refusal::NoRoute)?;
    let path = request.path;
    let plan = match &route.action {
        Action::Forward(forward) => {
            let weights = forward.upstreams.iter().map(|choice| choice.weight);
            let choice = pick_weighted(weights, http.core.random())
                .and_then(|index| forward.upstreams.get(index))
                .ok_or(Refusal::NoRoute)?;
            headers::request(http, request, route, id);
            rewrite_target(request, route, forward);
            Plan::Forward(forward, choice.upstream)
        }
        Action::Redirect(redirect) => Plan::Answer(redirect::answer(http, request, redirect)),
        Action::Respond { status, body } => Plan::Answer(Answer::text(*status, body)),
    };
    Ok((plan, position, path))
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

/// Lower case, no trailing dot; the destination's address when the client named none.
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

/// Lets a request that names no host be for where its client connected.
pub(crate) fn name_destination(http: &Http, request: &mut Request) {
    request.host = request.fields.store(http.texts.local.as_bytes());
    if request.authority.is_empty() {
        request.authority = request.fields.store(http.texts.authority.as_bytes());
    }
}

/// Over TLS the host must be the one the session was made for, unless one of them is an address or none (RFC 9110 §7.4).
fn check_direction(http: &Http, request: &Request) -> Result<(), Refusal> {
    let scheme = request.fields.bytes(request.scheme);
    if !scheme.is_empty() && !scheme.eq_ignore_ascii_case(http.texts.scheme.as_bytes()) {
        return Err(Refusal::Misdirected);
    }
    let sni = http.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    if is_directed(sni, request.host()) { Ok(()) } else { Err(Refusal::Misdirected) }
}

fn find_route<'a>(http: &'a Http, request: &Request) -> Option<(usize, &'a Route)> {
    let view = RequestView {
        host: request.host(),
        path: request.path(),
        method: request.method(),
        client: http.facts.client.0.ip(),
        headers: &request.fields,
    };
    select(&http.service()?.routes, &view)
}

fn rewrite_target(request: &mut Request, route: &Route, forward: &Forward) {
    if let Some(host) = &forward.host {
        request.authority = request.fields.store(host.as_bytes());
    }
    let Some(replacement) = &forward.replace_prefix else { return };
    let matched = match &route.matches.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.len(),
    };
    let rest = request.path.skip(matched);
    request.path = joined(request, replacement, rest);
}

/// `replacement` and `rest` with exactly one slash between them.
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
