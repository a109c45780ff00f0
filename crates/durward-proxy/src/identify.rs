//! Identification of a forward proxy's client: by the credential in `Proxy-Authorization`, or by client certificate.
//!
//! Secrets are long random tokens whose SHA-256 is in the documents, so neither the hashes nor timing help an attacker. A wrong name and a wrong
//! secret get the same answer.

use aws_lc_rs::digest::{SHA256, digest};
use durward_model::ForwardService;
use durward_model::egress::Credential;

use crate::connection::TlsFacts;
use crate::refusal::Refusal;

/// Returns true if the client's certificate names a holder of the proxy. Without holders every client is accepted.
pub(crate) fn holds(service: &ForwardService, tls: Option<&TlsFacts>) -> bool {
    if service.holders.is_empty() {
        return true;
    }
    let Some(shown) = tls.and_then(|tls| tls.client_certificate.as_ref()) else { return false };
    let named = |name: &str| service.holders.iter().any(|holder| holder.matches(name));
    shown.names().any(named)
}

/// Returns the identity in the client's certificate, for the record.
pub(crate) fn holder(tls: Option<&TlsFacts>) -> Option<String> {
    let shown = tls.and_then(|tls| tls.client_certificate.as_ref())?;
    Some(format!("certificate:{}", shown.subject))
}

/// Returns the position of the set that contains the credential in `value`.
pub(crate) fn whose(sets: &[&[Credential]], value: &[u8]) -> Option<usize> {
    let shown = Shown::read(value)?;
    sets.iter().position(|set| shown.owner(set).is_some())
}

/// Returns the set and the credential for a name and secret as SOCKS sends them (RFC 1929).
pub(crate) fn whose_pair<'c>(
    sets: &[&'c [Credential]],
    user: Vec<u8>,
    secret: Vec<u8>,
) -> Option<(usize, &'c Credential)> {
    let shown = Shown { user: Some(user), secret };
    sets.iter().enumerate().find_map(|(at, set)| Some((at, shown.credential(set)?)))
}

/// Returns the owner of the credential in `value`; all are compared, each in constant time.
///
/// # Errors
/// [`Refusal::ProxyAuthentication`] if it is in no credential.
pub(crate) fn identify(credentials: &[Credential], value: &[u8]) -> Result<String, Refusal> {
    let shown = Shown::read(value).ok_or(Refusal::ProxyAuthentication)?;
    shown.owner(credentials).ok_or(Refusal::ProxyAuthentication)
}

struct Shown {
    user: Option<Vec<u8>>,
    secret: Vec<u8>,
}

impl Shown {
    fn read(value: &[u8]) -> Option<Self> {
        let space = value.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return Some(Self { user: None, secret: rest.to_vec() });
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let pair = decode(rest)?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        Some(Self { user: Some(pair[..colon].to_vec()), secret: pair[colon + 1..].to_vec() })
    }

    fn owner(&self, credentials: &[Credential]) -> Option<String> {
        let kind = if self.user.is_some() { "user" } else { "token" };
        self.credential(credentials).map(|credential| format!("{kind}:{}", credential.name))
    }

    fn credential<'c>(&self, credentials: &'c [Credential]) -> Option<&'c Credential> {
        let hash = digest(&SHA256, &self.secret);
        let mut found = None;
        for credential in credentials {
            let differing = hash.as_ref().iter().zip(&credential.sha256);
            let same = differing.fold(0, |all, (a, b)| all | (a ^ b)) == 0;
            let named = self.user.as_ref().is_none_or(|user| **user == *credential.name.as_bytes());
            if same && named {
                found = Some(credential);
            }
        }
        found
    }
}

/// Decodes base64 with padding (RFC 4648 section 4).
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn credentials() -> Vec<Credential> {
        ["ci", "app"]
            .map(|name| {
                let hash = digest(&SHA256, format!("secret of {name}").as_bytes());
                let sha256 = hash.as_ref().try_into().unwrap();
                Credential { name: Arc::from(name), sha256 }
            })
            .to_vec()
    }

    // S2.15
    #[test]
    fn basic_and_bearer_name_their_owner_and_nothing_else_does() {
        let known = credentials();
        for (value, owner) in [
            ("Basic Y2k6c2VjcmV0IG9mIGNp", Some("user:ci")),
            ("basic   Y2k6c2VjcmV0IG9mIGNp", Some("user:ci")),
            ("Bearer secret of app", Some("token:app")),
            ("Basic Y2k6c2VjcmV0IG9mIGFwcA==", None),
            ("Basic Y2k=", None),
            ("Basic !!", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("Digest Y2k6c2VjcmV0IG9mIGNp", None),
            ("", None),
        ] {
            assert_eq!(identify(&known, value.as_bytes()).ok().as_deref(), owner, "{value}");
        }
    }
}
