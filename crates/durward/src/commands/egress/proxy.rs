//! URL of a forward proxy as clients get it, with a credential if needed.
//!
//! Deliberately absent: SOCKS, which has other URL schemes.

use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::Uri;

use crate::percent;

/// Address of a forward proxy, and the credential for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyUrl {
    /// Name or address of the proxy.
    pub(crate) host: String,
    /// Port of the proxy.
    pub(crate) port: u16,
    /// True if the proxy speaks TLS.
    pub(crate) tls: bool,
    /// Value of `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

impl FromStr for ProxyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = text.parse().map_err(|error| format!("is not a URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => {
                return Err(
                    "is not the URL of a proxy: write http://HOST:PORT or https://HOST:PORT"
                        .to_owned(),
                );
            }
        };
        let authority = uri.authority().ok_or("names no host")?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 3128 });
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| {
            percent::decoded(user).ok_or("has a % that two hexadecimal digits do not follow")
        });
        let authorization =
            user.transpose()?.map(|user| format!("Basic {}", BASE64_STANDARD.encode(user)));
        Ok(Self { host, port, tls, authorization })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_proxies_are_read() {
        let read = |text: &str| text.parse::<ProxyUrl>();
        let bare = read("172.16.28.8:3128").unwrap();
        assert_eq!((bare.host.as_str(), bare.port, bare.tls), ("172.16.28.8", 3128, false));
        let whole = read("https://ci:a%3Ab@[2001:db8::1]:8443/").unwrap();
        assert_eq!((whole.host.as_str(), whole.port, whole.tls), ("2001:db8::1", 8443, true));
        assert_eq!(whole.authorization.as_deref(), Some("Basic Y2k6YTpi"));
        for odd in
            ["socks5://h:1", "http://", "http://a%2@h:1", "http://a%zz@h:1", "http://a%+1@h:1", ""]
        {
            assert!(read(odd).is_err(), "{odd}");
        }
    }
}
