//! Redirects.
//!
//! Locations are absolute. The host is checked and the path begins with one slash, so a location cannot lead to another host (open redirect).

use std::fmt::Write;

use durward_model::route::Redirect;

use crate::exchange::context::Http;
use crate::exchange::request::chain::{ProxyChain, own_port};
use crate::http::message::Request;
use crate::http::problem::Answer;

/// Builds the redirect; `None` if it would lead to the request's own target.
///
/// Parts that `redirect` does not set are those of the request: scheme, host, port, path and query. A port is not kept for another scheme, where it
/// would be the wrong one.
pub(crate) fn answer(
    http: &Http,
    request: &Request,
    chain: &ProxyChain,
    redirect: &Redirect,
) -> Option<Answer> {
    let here = chain.target(http, request);
    let query = request.fields.text(request.query);
    let asked = if request.path() == "*" { "/" } else { request.path() };
    let scheme = redirect.scheme.as_deref().unwrap_or(here.scheme);
    let port = match redirect.port {
        Some(port) => port,
        None if scheme == here.scheme => here.port,
        None => own_port(scheme),
    };
    let host = redirect.host.as_deref().unwrap_or(&here.host);
    let path = redirect.path.as_deref().unwrap_or(asked);
    let query = if path.contains('?') { "" } else { query };
    let same_place = (scheme, host, port) == (here.scheme, &*here.host, here.port);
    if same_place && [path, query].concat() == [asked, request.fields.text(request.query)].concat()
    {
        return None;
    }
    let mut location = String::with_capacity(128);
    // Writing to a String cannot fail.
    let _ = match host.contains(':') {
        true => write!(location, "{scheme}://[{host}]"),
        false => write!(location, "{scheme}://{host}"),
    };
    if port != own_port(scheme) {
        let _ = write!(location, ":{port}");
    }
    location.push_str(path);
    location.push_str(query);
    Some(Answer::redirect(redirect.status, location))
}
