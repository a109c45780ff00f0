//! The JSON answer of an origin: the request as the origin saw it.
//! A test parses it back with `Echo::parse` instead of reading JSON by hand.

use std::net::SocketAddr;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::record::header;

/// A request as the origin saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// The authority of the request target, when it had one (HTTP/2, absolute form).
    pub authority: Option<String>,
    /// Names in lower case; the order is kept per name, not across names.
    pub headers: Vec<(String, String)>,
    /// The source address and port of the connection.
    pub peer: SocketAddr,
    /// The destination address and port of the connection.
    pub local: SocketAddr,
    /// The TLS version, such as `TLSv1_3`.
    pub tls_version: Option<String>,
    /// The negotiated application protocol.
    pub tls_alpn: Option<String>,
    /// The server name the client sent.
    pub tls_server_name: Option<String>,
    /// The subject of the client's certificate, such as `CN=partner`.
    pub tls_client_subject: Option<String>,
    /// Bytes of the request body.
    pub body_len: u64,
    /// The connection, numbered from 0.
    pub connection_id: u64,
    /// The request on its connection, numbered from 1.
    pub request_number_on_connection: u64,
}

impl Echo {
    /// Reads an answer back.
    ///
    /// # Panics
    /// When the body is not such an answer; the message carries its text.
    #[must_use]
    #[track_caller]
    pub fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body)
            .unwrap_or_else(|error| panic!("no echo ({error}): {}", String::from_utf8_lossy(body)))
    }

    /// The first value of a request header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Every value of a request header, in order.
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        let same = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }
}

/// Header fields as text; bytes outside UTF-8 are replaced.
pub(super) fn header_list(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}
