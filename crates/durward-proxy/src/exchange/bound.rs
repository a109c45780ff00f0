//! Authentication that belongs to a connection, not to its requests: NTLM and Negotiate (RFC 4559).
//!
//! Whoever sends on such a connection is taken for whom it was proved for. Deliberately absent: the proofs.

use crate::http::fields::{Fields, list};
use crate::http::message::{Request, Response};
use crate::http::names::Known;

/// Schemes that prove who a connection is, `Kerberos` and `Nego2` under names they once had.
const SCHEMES: [&[u8]; 4] = [b"NTLM", b"Negotiate", b"Kerberos", b"Nego2"];
/// What a proxy says that keeps such connections apart.
const SESSION_BASED: &[u8] = b"Session-Based-Authentication";

/// Whether the request proves, or begins to, whose the connection is that it goes by.
pub(crate) fn proves(request: &Request) -> bool {
    any(&request.fields, Known::Authorization, is_bound)
}

/// Whether the response wants that.
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

/// Whether a credential or challenge is of such a scheme.
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
