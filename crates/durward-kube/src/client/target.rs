//! The target of a request: kube-client names paths only, and each HTTP version writes the server's name elsewhere.

use http::uri::PathAndQuery;
use http::{Request, Uri, header};
use kube::client::Body;

use super::transport::TransportError;

/// Returns the request with the server's scheme, authority and path prefix.
pub(super) fn addressed(
    origin: &Uri,
    request: Request<Body>,
) -> Result<Request<Body>, TransportError> {
    let malformed = |error: &dyn std::fmt::Display| TransportError::Malformed(error.to_string());
    let (mut parts, body) = request.into_parts();
    let prefix = origin.path().trim_end_matches('/');
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut uri = origin.clone().into_parts();
    let whole = PathAndQuery::try_from(format!("{prefix}{path}"));
    uri.path_and_query = Some(whole.map_err(|error| malformed(&error))?);
    parts.uri = Uri::from_parts(uri).map_err(|error| malformed(&error))?;
    Ok(Request::from_parts(parts, body))
}

/// Returns the request as HTTP/1.1 sends it to an origin: the authority in `Host`, the path alone in the request line.
pub(super) fn to_origin_form(request: Request<Body>) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let host = parts.uri.authority().and_then(|host| host.as_str().parse().ok());
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    if let Some(path) = parts.uri.path_and_query() {
        parts.uri = Uri::from(path.clone());
    }
    Request::from_parts(parts, body)
}
