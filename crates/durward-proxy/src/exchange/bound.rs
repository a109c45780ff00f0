//! Connection-based authentication: NTLM and Negotiate (RFC 4559).
//!
//! The server takes every request on such a connection for the authenticated client's, so the connection must never serve another one.

use crate::http::fields::{Fields, list};
use crate::http::message::{Request, Response};
use crate::http::names::Known;

/// Authentication schemes bound to a connection, `Kerberos` and `Nego2` under names they once had.
const SCHEMES: [&[u8]; 4] = [b"NTLM", b"Negotiate", b"Kerberos", b"Nego2"];
/// `Proxy-Support` value of a proxy that keeps such connections apart (RFC 4559).
const SESSION_BASED: &[u8] = b"Session-Based-Authentication";

/// Returns true if the request authenticates its connection, or begins to.
pub(crate) fn proves(request: &Request) -> bool {
    any(&request.fields, Known::Authorization, is_bound)
}

/// Returns true if the response asks for that authentication.
pub(crate) fn wants(response: &Response) -> bool {
    any(&response.fields, Known::WwwAuthenticate, is_bound)
        || any(&response.fields, Known::ProxySupport, |value| {
            value.eq_ignore_ascii_case(SESSION_BASED)
        })
}

fn any(fields: &Fields, known: Known, test: impl Fn(&[u8]) -> bool) -> bool {
    let mut named = fields.iter().filter(|field| field.known == known);
    named.any(|field| list(field.value).any(&test))
}

/// Returns true for a credential or challenge of such a scheme.
fn is_bound(value: &[u8]) -> bool {
    let scheme = value.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    SCHEMES.iter().any(|bound| bound.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.47
    #[test]
    fn schemes_that_prove_a_connection_are_told_from_those_that_prove_a_request() {
        let mut request = Request::default();
        for (value, bound) in [
            ("NTLM TlRMTVNTUAAD", true),
            ("negotiate YII", true),
            ("Negotiate", true),
            ("Basic TlRMTQ==", false),
            ("Bearer NTLM", false),
            ("NTLMv3 x", false),
        ] {
            request.clear();
            request.fields.append(b"Authorization", value.as_bytes());
            assert_eq!(proves(&request), bound, "{value}");
        }
        let mut response = Response::default();
        for (name, value, bound) in [
            ("WWW-Authenticate", "Basic realm=\"a\", NTLM", true),
            ("www-authenticate", "Negotiate", true),
            ("WWW-Authenticate", "Digest realm=\"NTLM\"", false),
            ("Proxy-Support", "session-based-authentication", true),
            ("Proxy-Support", "else", false),
        ] {
            response.clear();
            response.fields.append(name.as_bytes(), value.as_bytes());
            assert_eq!(wants(&response), bound, "{value}");
        }
    }
}
